"""Hearing of join proxies by GRASP: AN_Proxy floods on each link, received only (RFC 8995, 4.1.1; RFC 8990, 2.5.2).

DULL means that nothing on the link is trusted: a flood is accepted from a link-local source only, its
locator has to be a link-local address, and TCP is the one transport read here. Off by default (D-13).
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Any

from brski_common import grasp
from brski_common.errors import Malformed, Misconfigured
from brski_pledge.discovery import Offer, Source


def offers_in(data: bytes, source: str, zone: str) -> tuple[Offer, ...]:
    """The join proxies a datagram announces; none where it is not for us. `zone` is the link it came by."""
    if not IPv6Address(source.partition("%")[0]).is_link_local:
        return ()
    try:
        flood = grasp.read_flood(data)
    except Malformed:
        return ()
    return tuple(
        Offer(f"{locator.address}%{zone}", locator.port, Source.GRASP)
        for objective in flood.objectives
        if objective.name == grasp.AN_PROXY
        and (locator := objective.locator) is not None
        and locator.protocol == grasp.IPPROTO_TCP
        and locator.address.is_link_local
    )


class Listener(asyncio.DatagramProtocol):
    """Calls `found` for each proxy announced on one of the `links` (names of interfaces; none: all)."""

    def __init__(self, found: Callable[[Offer], None], links: Iterable[str] = ()) -> None:
        self._found, self._links = found, frozenset(links)
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self) -> None:
        """Begin to listen, or listen anew because links came or went. Raises Misconfigured."""
        self.close()
        loop = asyncio.get_running_loop()
        try:
            ours = _socket(index for index, name in socket.if_nameindex() if name in self._links or not self._links)
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=ours)
        except OSError as error:
            raise Misconfigured("grasp-unavailable", f"UDP port {grasp.PORT}: {error.strerror}") from error

    def close(self) -> None:
        """Stop listening."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """A datagram came; `addr` ends with the number of the link."""
        host, _, _, scope = addr
        zone = str(scope)
        with suppress(OSError):
            zone = socket.if_indextoname(scope)
        for offer in offers_in(data, host, zone):
            self._found(offer)


def _socket(links: Iterable[int]) -> socket.socket:
    ours = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        # A join proxy on the same machine hears floods too.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        ours.bind(("::", grasp.PORT))
        for index in links:
            with suppress(OSError):  # a link without IPv6
                group = grasp.GROUP.packed + struct.pack("@I", index)
                ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        ours.setblocking(False)
    except OSError:
        ours.close()
        raise
    return ours
