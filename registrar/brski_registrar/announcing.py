"""What a registrar tells a network about itself, as its settings have it (RFC 8995, 4.3 and Appendix B).

It offers TCP only, so nothing else is announced, and a proxy has nothing else to offer (RFC 8995, 4.1.1 and 4.3).
"""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from brski_common import logs
from brski_common.errors import Misconfigured
from brski_registrar.discovery import PROXY_SERVICE, REGISTRAR_SERVICE, Announcement, addresses_of, announced
from brski_registrar.flooding import flooded, registrar_messages
from brski_registrar.settings import Discovery

log = logs.logger("registrar.discovery")


@asynccontextmanager
async def announce(settings: Discovery, port: int) -> AsyncIterator[None]:
    """Announce the registrar that listens at `port` until the block ends; raises Misconfigured."""
    if settings.proxy and not (settings.mdns or settings.grasp):
        raise Misconfigured("settings-invalid", "discovery.proxy needs discovery.mdns or discovery.grasp")
    if settings.is_on and not settings.interfaces:
        raise Misconfigured("interfaces-missing", 'discovery.interfaces names where to announce, such as ["eth0"]')
    async with AsyncExitStack() as stack:
        if settings.mdns:
            await stack.enter_async_context(announced(announcements(settings, port), settings.interfaces))
            _tell("mDNS", settings)
        if settings.grasp:
            messages = registrar_messages(settings.interfaces, port, proxy=settings.proxy)
            await stack.enter_async_context(flooded(messages, settings.flood_seconds))
            _tell("GRASP", settings)
        yield


def _tell(how: str, settings: Discovery) -> None:
    what = ("registrar", "proxy") if settings.proxy else ("registrar",)
    log.info("announcing", by=how, what=what, interfaces=settings.interfaces)


def announcements(settings: Discovery, port: int) -> tuple[Announcement, ...]:
    """The services to announce: the registrar for join proxies, and for devices on the same link (RFC 8995, 4)."""
    addresses = addresses_of(settings.interfaces)
    name = settings.name or f"BRSKI registrar on {socket.gethostname()}"
    registrar = Announcement(REGISTRAR_SERVICE, name, port, addresses)
    return (registrar, Announcement(PROXY_SERVICE, name, port, addresses)) if settings.proxy else (registrar,)
