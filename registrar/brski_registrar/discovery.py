"""Being found, and finding: DNS-SD over mDNS for registrars and join proxies (RFC 8995, Appendix B; RFC 6762).

The laws of this file:

1. Nothing is sent on an interface that the operator has not named.
2. A name found on a network is nobody's word: it leads to a TCP connection, whose ends then prove who they are.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import ifaddr
from zeroconf import IPVersion, NonUniqueNameException, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from brski_common.errors import Misconfigured, PeerFailed

REGISTRAR_SERVICE: Final = "_brski-registrar._tcp.local."
PROXY_SERVICE: Final = "_brski-proxy._tcp.local."
RESOLVE_MILLISECONDS: Final = 3000
FIND_SECONDS: Final = 10.0
MAX_INSTANCE_BYTES: Final = 63  # of one DNS label
MAX_ADDRESSES: Final = 8


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where something listens: an address, with its zone if it is link-local, or a name; and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Announcement:
    """A service that listens on `addresses` (texts, zones allowed) at `port`."""

    service: str
    name: str
    port: int
    addresses: tuple[str, ...]


def parse_endpoint(text: str, *, port_needed: bool = True) -> Endpoint:
    """Read `host:port` or `[address%zone]:port`; raises Misconfigured `endpoint-invalid`."""
    host, colon, number = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    lowest = 1 if port_needed else 0
    if not colon or not (number.isascii() and number.isdecimal() and lowest <= int(number) <= 65535):
        raise Misconfigured("endpoint-invalid", f"{text[:80]!a}: host:port is wanted, an IPv6 address in brackets")
    if not host or (":" in host and not bracketed):
        raise Misconfigured("endpoint-invalid", f"{text[:80]!a}: an IPv6 address stands in brackets, [::1]:8443")
    return Endpoint(host.strip("[]"), int(number))


@asynccontextmanager
async def announced(announcements: Sequence[Announcement], interfaces: Sequence[str]) -> AsyncIterator[None]:
    """Announce services on `interfaces` (names or addresses) until the block ends; raises Misconfigured."""
    responder = AsyncZeroconf(interfaces=_choices(interfaces), ip_version=_ip_version(interfaces))
    sending: list[Awaitable[object]] = []
    try:
        sending = [await _register(responder, announcement) for announcement in announcements]
        yield
    finally:
        await asyncio.gather(*sending, return_exceptions=True)
        await responder.async_unregister_all_services()
        await responder.async_close()


async def _register(responder: AsyncZeroconf, announcement: Announcement) -> Awaitable[object]:
    """Claim the name; what comes back ends when it has been announced as often as it should (RFC 6762, 8.3)."""
    label = _label(announcement.name)
    host = label.encode("ascii", errors="ignore").decode().replace(" ", "-") or "brski"
    info = AsyncServiceInfo(
        announcement.service,
        f"{label}.{announcement.service}",
        port=announcement.port,
        addresses=[_packed(address) for address in announcement.addresses],
        server=f"{host}.local.",
    )
    try:
        return await responder.async_register_service(info, allow_name_change=True)
    except NonUniqueNameException as error:
        raise Misconfigured("service-name-taken", f"{label}: set another `name`") from error


async def find(
    interfaces: Sequence[str],
    seconds: float = FIND_SECONDS,
    service: str = REGISTRAR_SERVICE,
    *,
    instance: str | None = None,
) -> tuple[Endpoint, ...]:
    """The addresses of the first instance that answers; raises PeerFailed `registrar-not-found` after `seconds`.

    With `instance` only the one of that name counts: several registrars may share a link.
    """
    wanted = None if instance is None else f"{_label(instance)}.{service}".lower()
    browser = AsyncZeroconf(interfaces=_choices(interfaces), ip_version=_ip_version(interfaces))
    names: asyncio.Queue[str] = asyncio.Queue(maxsize=MAX_ADDRESSES)

    def heard(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        del zeroconf, service_type
        is_wanted = wanted is None or name.lower() == wanted
        if is_wanted and state_change is not ServiceStateChange.Removed and not names.full():
            names.put_nowait(name)

    browsing = AsyncServiceBrowser(browser.zeroconf, service, handlers=[heard])
    try:
        async with asyncio.timeout(seconds):
            while True:
                found = await _resolve(browser.zeroconf, service, await names.get())
                if found:
                    return found
    except TimeoutError as error:
        detail = f"nobody answered as {service} within {seconds:g} s on {', '.join(interfaces)}"
        raise PeerFailed("registrar-not-found", detail) from error
    finally:
        await browsing.async_cancel()
        await browser.async_close()


async def _resolve(zeroconf: Zeroconf, service: str, name: str) -> tuple[Endpoint, ...]:
    info = AsyncServiceInfo(service, name)
    if not await info.async_request(zeroconf, RESOLVE_MILLISECONDS) or not info.port:
        return ()
    return tuple(Endpoint(address, info.port) for address in info.parsed_scoped_addresses()[:MAX_ADDRESSES])


def addresses_of(interfaces: Iterable[str]) -> tuple[str, ...]:
    """The addresses of the interfaces (names or addresses), link-local ones with their zone; raises Misconfigured."""
    found: list[str] = []
    for interface in interfaces:
        found += [interface] if _is_address(interface) else _addresses_of_name(interface)
    return tuple(dict.fromkeys(found))


def _addresses_of_name(name: str) -> list[str]:
    adapter = _adapter(name)
    found = [address.ip for address in adapter.ips if isinstance(address.ip, str)]
    for address in adapter.ips:
        if isinstance(address.ip, tuple):
            text = address.ip[0]
            found.append(f"{text}%{name}" if ipaddress.ip_address(text).is_link_local else text)
    return found


def _adapter(name: str) -> ifaddr.Adapter:
    adapters = ifaddr.get_adapters()
    for adapter in adapters:
        if adapter.name == name:
            return adapter
    known = ", ".join(str(adapter.name) for adapter in adapters)
    raise Misconfigured("interface-unknown", f"{name!a}: there are {known}; an address is taken too")


def _choices(interfaces: Sequence[str]) -> list[str | int | tuple[tuple[str, int, int], int]]:
    """What zeroconf calls an interface: an IPv4 address, or the index of one that speaks IPv6."""
    if not interfaces:
        raise Misconfigured("interfaces-missing", "name the interfaces on which to announce and browse")
    choices: list[str | int | tuple[tuple[str, int, int], int]] = []
    for interface in interfaces:
        for address in addresses_of([interface]):
            text, _, zone = address.partition("%")
            if ipaddress.ip_address(text).version == 4:
                choices.append(text)
            elif zone:
                choices.append(socket.if_nametoindex(zone))
    if not choices:
        raise Misconfigured("interface-unusable", f"{', '.join(interfaces)}: neither IPv4 nor a link-local address")
    return list(dict.fromkeys(choices))


def _ip_version(interfaces: Sequence[str]) -> IPVersion:
    choices = _choices(interfaces)
    kinds = {isinstance(choice, str) for choice in choices}
    if kinds == {True}:
        return IPVersion.V4Only
    return IPVersion.V6Only if kinds == {False} else IPVersion.All


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _label(name: str) -> str:
    """An instance name as one DNS label."""
    return name.replace(".", "-").encode()[:MAX_INSTANCE_BYTES].decode(errors="ignore")


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address.partition("%")[0]).packed
