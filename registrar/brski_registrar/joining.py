"""A join proxy from its options to its end: where its registrar is, and what it tells the link about itself.

It offers devices what the registrar offers it, TCP, and only while it knows a registrar (RFC 8995, 4.1.1): a proxy that
leads nowhere would only cost devices their time.
"""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final

from brski_common import logs
from brski_common.errors import BrskiError, Misconfigured
from brski_registrar import discovery
from brski_registrar.discovery import PROXY_SERVICE, Announcement, Endpoint
from brski_registrar.flooding import flooded, proxy_messages
from brski_registrar.limits import Limits
from brski_registrar.proxy import JoinProxy, listen
from brski_registrar.settings import MIN_FLOOD_SECONDS

FOUND_AGAIN_SECONDS: Final = 60.0  # how long an answer of discovery is used
CHECK_SECONDS: Final = 60.0  # between two looks whether the registrar is still there
RETRY_SECONDS: Final = 5.0  # while it is not
GRACE_SECONDS: Final = 5.0  # for relayed connections when the proxy stops

DEFAULT_LIMITS: Final = Limits()

Find = Callable[[], Awaitable[Sequence[Endpoint]]]

log = logs.logger("join-proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run a join proxy. Without `registrar` it is looked for in `domain`, or on `registrar_interfaces`."""

    listen: tuple[Endpoint, ...]
    registrar: Endpoint | None = None
    registrar_interfaces: tuple[str, ...] = ()
    registrar_name: str | None = None  # the instance to look for, any if None
    domain: str | None = None
    announce_interfaces: tuple[str, ...] = ()
    name: str = ""
    grasp: bool = False
    flood_seconds: float = MIN_FLOOD_SECONDS
    any_address: bool = False
    limits: Limits = DEFAULT_LIMITS


class Located:
    """A registrar found by discovery, remembered for FOUND_AGAIN_SECONDS; asked once at a time."""

    def __init__(self, find: Find, clock: Callable[[], float] = time.monotonic) -> None:
        self._find, self._clock = find, clock
        self._found: Sequence[Endpoint] = ()
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def __call__(self) -> Sequence[Endpoint]:
        """Where the registrar is; raises PeerFailed if nobody answers."""
        async with self._lock:
            if not self._found or self._clock() >= self._until:
                self._found = ()
                self._found = await self._find()
                self._until = self._clock() + FOUND_AGAIN_SECONDS
                log.info("registrar found", at=[str(each) for each in self._found])
            return self._found


def upstream(options: Options) -> Find:
    """The way to the registrar; raises Misconfigured if the options name none."""
    registrar, domain = options.registrar, options.domain
    if registrar is not None:

        async def configured() -> Sequence[Endpoint]:
            return (registrar,)

        return configured
    if domain is not None:
        from brski_registrar.dnssd import find as find_in_domain  # noqa: PLC0415 -- few proxies need it

        return Located(lambda: find_in_domain(domain))
    if not options.registrar_interfaces:
        raise Misconfigured("registrar-missing", "name --registrar HOST:PORT, or --registrar mdns with its interface")
    return Located(lambda: discovery.find(options.registrar_interfaces, instance=options.registrar_name))


async def run(options: Options, listening: Callable[[Sequence[Endpoint]], None]) -> None:
    """Relay until SIGTERM or SIGINT; `listening` is called with where devices can connect."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    find = upstream(options)
    async with AsyncExitStack() as stack:
        proxies = []
        for endpoint in options.listen:
            proxy = JoinProxy(await listen(endpoint, any_address=options.any_address), find, limits=options.limits)
            stack.push_async_callback(proxy.close, GRACE_SECONDS)
            proxies.append(proxy)
        listening([proxy.endpoint for proxy in proxies])
        await _announce_until(stop, options, find, [proxy.endpoint for proxy in proxies])
    for proxy in proxies:
        log.info("stopped", at=str(proxy.endpoint), **asdict(proxy.counters))


async def _announce_until(stop: asyncio.Event, options: Options, find: Find, endpoints: Sequence[Endpoint]) -> None:
    """Announce the proxy while its registrar is there, until `stop`."""
    if not options.announce_interfaces and not options.grasp:
        await stop.wait()
        return
    while not stop.is_set():
        if not await _is_there(find):
            await _wait(stop, RETRY_SECONDS)
            continue
        async with _announced(options, endpoints):
            log.info("announcing", interfaces=options.announce_interfaces, grasp=options.grasp)
            while await _is_there(find) and not stop.is_set():
                await _wait(stop, CHECK_SECONDS)


@asynccontextmanager
async def _announced(options: Options, endpoints: Sequence[Endpoint]) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if options.announce_interfaces:
            said = announcements(options, endpoints)
            await stack.enter_async_context(discovery.announced(said, options.announce_interfaces))
        if options.grasp:
            await stack.enter_async_context(flooded(proxy_messages(endpoints), options.flood_seconds))
        yield


def announcements(options: Options, endpoints: Sequence[Endpoint]) -> tuple[Announcement, ...]:
    """The proxy as devices find it (RFC 8995, Appendix B): TCP, as the registrar's own announcement says."""
    name = options.name or f"BRSKI join proxy on {socket.gethostname()}"
    ports = dict.fromkeys(endpoint.port for endpoint in endpoints)
    return tuple(
        Announcement(PROXY_SERVICE, name, port, tuple(each.host for each in endpoints if each.port == port))
        for port in ports
    )


async def _is_there(find: Find) -> bool:
    try:
        return bool(await find())
    except BrskiError as error:
        log.warning("no registrar", error=error)
        return False


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
