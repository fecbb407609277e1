"""Hearing of join proxies by mDNS: `_brski-proxy._tcp.local` (RFC 8995, Appendix B; RFC 6762, RFC 6763).

Listening never stops, so an announcement is enough without any query. Queries are sent when the
machine says so (doubling intervals), hold the answers already known (RFC 6762, 7.1), and the first
waits a random 20 to 120 ms (RFC 6762, 5.2). This module imports zeroconf, so nothing imports it
before an onboarding begins.
"""

import asyncio
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

from zeroconf import (  # type: ignore[attr-defined] # some public names are missing in zeroconf's __all__
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    InterfaceChoice,
    RecordUpdate,
    RecordUpdateListener,
    Zeroconf,
)
from zeroconf import current_time_millis as milliseconds
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf
from zeroconf.const import _CLASS_IN, _FLAGS_QR_QUERY, _TYPE_PTR

from brski_pledge.discovery import Offer, Source

SERVICE = "_brski-proxy._tcp.local."
RESOLVE_MILLISECONDS = 3000
MAX_RESOLVING = 16  # services looked up at once
MAX_ADDRESSES = 4  # taken from one service


class Browser(RecordUpdateListener):
    """Listens on `interfaces` (names or addresses; none: all), calls `found` for each address of each proxy."""

    def __init__(self, found: Callable[[Offer], None], interfaces: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._found = found
        self._zeroconf = AsyncZeroconf(interfaces=[_interface(each) for each in interfaces] or InterfaceChoice.All)
        self._zeroconf.zeroconf.async_add_listener(self, None)
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._queries: set[asyncio.Task[None]] = set()
        self._has_asked = False

    async def ready(self) -> None:
        """Wait until it listens."""
        await self._zeroconf.zeroconf.async_wait_for_start()

    def query(self) -> None:
        """Send one query for proxies."""
        task = asyncio.ensure_future(self._query(first=not self._has_asked))
        self._has_asked = True
        self._queries.add(task)
        task.add_done_callback(self._queries.discard)

    async def close(self) -> None:
        """Stop listening."""
        tasks = [*self._queries, *self._resolving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._zeroconf.async_close()

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """What zeroconf calls for every record it hears."""
        for record in records:
            new = record.new
            if isinstance(new, DNSPointer) and new.name.lower() == SERVICE and not new.is_expired(now):
                self._resolve(zc, new.alias)

    async def _query(self, *, first: bool) -> None:
        zeroconf = self._zeroconf.zeroconf
        await self.ready()
        if first:
            await asyncio.sleep((20 + secrets.randbelow(101)) / 1000)
        now = milliseconds()
        query = DNSOutgoing(_FLAGS_QR_QUERY)
        query.add_question(DNSQuestion(SERVICE, _TYPE_PTR, _CLASS_IN))
        for known in zeroconf.cache.get_all_by_details(SERVICE, _TYPE_PTR, _CLASS_IN):
            query.add_answer_at_time(known, now)
        zeroconf.async_send(query)

    def _resolve(self, zeroconf: Zeroconf, name: str) -> None:
        if name in self._resolving or len(self._resolving) >= MAX_RESOLVING or not name.lower().endswith(SERVICE):
            return
        task = asyncio.ensure_future(self._look_up(zeroconf, name))
        self._resolving[name] = task
        task.add_done_callback(lambda _: self._resolving.pop(name, None))

    async def _look_up(self, zeroconf: Zeroconf, name: str) -> None:
        service = AsyncServiceInfo(SERVICE, name)
        if await service.async_request(zeroconf, RESOLVE_MILLISECONDS) and service.port:
            # Link-local IPv6 first: that is where a join proxy listens (RFC 8995, 4.1).
            addresses = sorted(service.parsed_scoped_addresses(), key=lambda text: not text.startswith("fe80"))
            for address in addresses[:MAX_ADDRESSES]:
                self._found(Offer(_with_named_zone(address), service.port, Source.MDNS))


def _interface(text: str) -> str | int:
    """zeroconf takes addresses, or for IPv6 the number of an interface; people know its name. Raises OSError."""
    try:
        return socket.if_nametoindex(text)
    except OSError:
        # An address that is not ours (yet) is found out here: zeroconf would leave its sockets open.
        with socket.socket(socket.AF_INET6 if ":" in text else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((text, 0))
    return text


def _with_named_zone(address: str) -> str:
    """zeroconf numbers the link of an address; by its name it is the same offer as one heard of by GRASP."""
    host, percent, zone = address.partition("%")
    if zone.isdecimal():
        with suppress(OSError):
            zone = socket.if_indextoname(int(zone))
    return host + percent + zone
