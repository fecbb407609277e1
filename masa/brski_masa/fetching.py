"""Downloads for `revocation`, from addresses that strangers chose.

Who asks for a voucher chooses these addresses, so a download is an attack surface (server-side request forgery):
plain http on port 80, to public addresses, the address that was checked is the one that is connected to, no
redirects, bounded in time and size. Private servers must be listed by name (settings, `revocation.hosts`).
HTTP/1.0 by hand, because that is all CRL and OCSP servers need: the answer ends when the connection does.
"""

import asyncio
import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from brski_common.errors import PeerFailed

MAX_DOWNLOAD_BYTES: Final = 4 * 1024 * 1024
MAX_URL: Final = 1024  # characters
MAX_HEADERS: Final = 64

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052, 2.1: what a translator turns into IPv4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetcher:
    """Fetches what may be fetched. `hosts` may be private; with `only_hosts` no others."""

    hosts: frozenset[str]
    only_hosts: bool
    seconds: float

    async def fetch(self, url: str, body: bytes | None) -> bytes:
        """GET, or POST of an OCSP request; raises PeerFailed."""
        host, port, target = self.target(url)
        try:
            async with asyncio.timeout(self.seconds):
                address = await self._resolve(host, port)
                return await _exchange(address, port, host, target, body)
        except (OSError, TimeoutError, ValueError) as error:
            raise PeerFailed("revocation-unreachable", f"{url}: {str(error) or type(error).__name__}") from error

    def target(self, url: str) -> tuple[str, int, str]:
        """Host, port and request target of an address that may be asked; raises PeerFailed."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or 80
        except ValueError as error:
            raise PeerFailed("revocation-url-refused", url[:80]) from error
        listed = self._is_listed(host, port)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        plain = parts.scheme.lower() == "http" and bool(host) and parts.username is None and len(url) <= MAX_URL
        if not plain or not f"{host}{target}".isascii() or not f"{host}{target}".isprintable() or " " in target:
            raise PeerFailed("revocation-url-refused", url[:80])
        if not listed and (self.only_hosts or port != 80):
            raise PeerFailed("revocation-url-refused", f"{host}:{port} is not in revocation.hosts")
        return host, port, target

    def _is_listed(self, host: str, port: int) -> bool:
        return f"{host}:{port}" in self.hosts or (port == 80 and host in self.hosts)

    async def _resolve(self, host: str, port: int) -> str:
        """The first address of a host, if it may be asked; raises OSError, PeerFailed."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
        address = str(found[0][4][0])
        if not self._is_listed(host, port) and not is_public(address):
            raise PeerFailed("revocation-url-refused", f"{host} is at {address}, which is not public")
        return address


def is_public(address: str) -> bool:
    """Whether an address is one of the open Internet, and not ours or our neighbours'."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
        if parsed not in _GLOBAL_UNICAST:  # the `ipaddress` module takes much for global that never was assigned
            return False
    return parsed.is_global and not parsed.is_multicast


async def _exchange(address: str, port: int, host: str, target: str, body: bytes | None) -> bytes:
    """One request on one connection; raises OSError, ValueError."""
    reader, writer = await asyncio.open_connection(address, port, limit=64 * 1024)
    try:
        writer.write(_request(host, port, target, body))
        await writer.drain()
        status = (await reader.readline()).split(b" ", 2)
        if len(status) < 2 or not status[0].startswith(b"HTTP/1.") or status[1] != b"200":
            raise ValueError("not a 200")
        for _ in range(MAX_HEADERS):
            line = await reader.readline()
            if line in (b"\r\n", b"\n"):
                break
            if not line or line.lower().startswith((b"transfer-encoding:", b"content-encoding:")):
                raise ValueError("an answer that cannot be read")
        else:
            raise ValueError("too many header fields")
        return await _read_to_end(reader)
    finally:
        writer.close()


def _request(host: str, port: int, target: str, body: bytes | None) -> bytes:
    name = f"[{host}]" if ":" in host else host
    head = f"{'GET' if body is None else 'POST'} {target} HTTP/1.0\r\nHost: {name}:{port}\r\nAccept: */*\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    return f"{head}Content-Type: application/ocsp-request\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    chunks, size = list[bytes](), 0
    while chunk := await reader.read(64 * 1024):
        size += len(chunk)
        if size > MAX_DOWNLOAD_BYTES:
            raise ValueError("too large")
        chunks.append(chunk)
    return b"".join(chunks)
