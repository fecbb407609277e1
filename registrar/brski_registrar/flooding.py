"""GRASP floods: `AN_join_registrar` of a registrar and `AN_Proxy` of a join proxy (RFC 8995, 4.1.1 and 4.3; RFC 8990).

The laws of this file:

1. A flood goes out at once and then every `seconds`, at least 60: its traffic shall be negligible (RFC 8995, 4.3).
2. Each interface hears of the address that is reachable there: the link-local one of that very link.
3. A message leaves with hop limit 255, so that nobody beyond the link can have sent it (RFC 8990, 2.5.2).
"""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from brski_common import grasp, logs
from brski_common.errors import Misconfigured
from brski_common.grasp import Flood
from brski_registrar.discovery import Endpoint, addresses_of
from brski_registrar.settings import MIN_FLOOD_SECONDS, is_link_local

MULTICAST_HOPS: Final = 255

log = logs.logger("grasp")


@dataclass(frozen=True, slots=True)
class Message:
    """What to send on an interface; `make` is given a fresh session id each time (RFC 8990, 2.7)."""

    interface: str
    make: Callable[[int], Flood]


Send = Callable[[str, bytes], None]
Wait = Callable[[float], Awaitable[None]]


def registrar_messages(interfaces: Sequence[str], port: int, *, proxy: bool = False) -> tuple[Message, ...]:
    """`AN_join_registrar` on every interface, with `proxy` also `AN_Proxy` (RFC 8995, 4: a registrar on the link)."""
    found = [message for interface in interfaces for message in _on(interface, port, grasp.registrar_flood)]
    if proxy:
        found += [message for interface in interfaces for message in _on(interface, port, grasp.proxy_flood)]
    return tuple(found)


def proxy_messages(endpoints: Sequence[Endpoint]) -> tuple[Message, ...]:
    """`AN_Proxy` for each link-local address that a join proxy listens on."""
    found = []
    for endpoint in endpoints:
        address, _, interface = endpoint.host.partition("%")
        if interface and is_link_local(address):
            found.append(_message(interface, address, endpoint.port, grasp.proxy_flood))
    return tuple(found)


def _on(interface: str, port: int, make: Callable[[int, IPv6Address, int], Flood]) -> list[Message]:
    found = [address.partition("%") for address in addresses_of([interface])]
    local = [(address, zone) for address, _, zone in found if zone and is_link_local(address)]
    if not local:
        raise Misconfigured("interface-unusable", f"{interface}: GRASP needs an IPv6 link-local address, named with %")
    return [_message(zone, address, port, make) for address, zone in local]


def _message(interface: str, address: str, port: int, make: Callable[[int, IPv6Address, int], Flood]) -> Message:
    return Message(interface, lambda session_id: make(session_id, IPv6Address(address), port))


async def flood(messages: Sequence[Message], seconds: float, send: Send, wait: Wait = asyncio.sleep) -> None:
    """Send all messages, then again every `seconds`, until cancelled."""
    while True:
        for message in messages:
            try:
                send(message.interface, grasp.write_flood(message.make(secrets.randbits(32))))
            except OSError as error:  # a link may be down for a while
                log.warning("cannot flood", interface=message.interface, error=error)
        await wait(max(seconds, MIN_FLOOD_SECONDS))


@asynccontextmanager
async def flooded(messages: Sequence[Message], seconds: float) -> AsyncIterator[None]:
    """Flood until the block ends."""
    if not messages:
        yield
        return
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, MULTICAST_HOPS)
        task = asyncio.create_task(flood(messages, seconds, lambda where, data: _send(sender, where, data)))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _send(sender: socket.socket, interface: str, data: bytes) -> None:
    sender.sendto(data, (str(grasp.GROUP), grasp.PORT, 0, socket.if_nametoindex(interface)))
