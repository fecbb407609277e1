"""Finding the registrar in a domain's DNS: `_brski-registrar._tcp.<domain>` (RFC 8995, Appendix B; RFC 6763).

A stub resolver of three questions (PTR, SRV, then addresses by the system's own resolver), since no more is needed.
It asks the name servers that the system is configured with, which DHCP usually set.
"""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from zeroconf import (  # type: ignore[attr-defined] # some public names are missing in zeroconf's __all__
    DNSIncoming,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSRecord,
    DNSService,
)
from zeroconf.const import _CLASS_IN, _TYPE_PTR, _TYPE_SRV

from brski_common.errors import Misconfigured, PeerFailed
from brski_registrar.discovery import MAX_ADDRESSES, Endpoint

SERVICE: Final = "_brski-registrar._tcp"
DNS_PORT: Final = 53
RESOLV_CONF: Final = Path("/etc/resolv.conf")
QUERY_SECONDS: Final = 2.0  # for one name server to answer
MAX_INSTANCES: Final = 4
_RECURSION_DESIRED: Final = 0x0100  # RFC 1035, 4.1.1
_RESPONSE: Final = 0x8000


async def find(domain: str, servers: Sequence[Endpoint] | None = None) -> tuple[Endpoint, ...]:
    """Where the domain says its registrars are, best first; raises PeerFailed `registrar-not-found`."""
    servers = name_servers() if servers is None else servers
    service = f"{SERVICE}.{domain.rstrip('.')}."
    instances = [record.alias for record in await _ask(servers, service, _TYPE_PTR) if isinstance(record, DNSPointer)][
        :MAX_INSTANCES
    ]
    targets: list[DNSService] = []
    for instance in instances:
        found = await _ask(servers, instance, _TYPE_SRV)
        targets += [record for record in found if isinstance(record, DNSService) and record.server != "."]
    targets.sort(key=lambda record: (record.priority, -record.weight))
    if not targets:
        raise PeerFailed("registrar-not-found", f"the DNS has no {service}")
    return tuple(Endpoint(record.server.rstrip("."), record.port) for record in targets[:MAX_ADDRESSES])


def name_servers(resolv_conf: Path = RESOLV_CONF) -> tuple[Endpoint, ...]:
    """The system's name servers; raises Misconfigured if it has none."""
    try:
        lines = resolv_conf.read_text(errors="replace").splitlines()
    except OSError as error:
        raise Misconfigured("name-servers-missing", f"{resolv_conf}: {error.strerror}") from error
    words = [line.split() for line in lines]
    found = tuple(Endpoint(each[1], DNS_PORT) for each in words if len(each) > 1 and each[0] == "nameserver")
    if not found:
        raise Misconfigured("name-servers-missing", f"{resolv_conf} names no server")
    return found


async def _ask(servers: Sequence[Endpoint], name: str, kind: int) -> list[DNSRecord]:
    """The answers of the first server that gives an answer at all."""
    for server in servers:
        try:
            async with asyncio.timeout(QUERY_SECONDS):
                return await _exchange(server, name, kind)
        except OSError:  # includes TimeoutError
            continue
    raise PeerFailed("name-servers-unreachable", ", ".join(map(str, servers)))


async def _exchange(server: Endpoint, name: str, kind: int) -> list[DNSRecord]:
    number = 1 + secrets.randbelow(0xFFFF)
    query = DNSOutgoing(_RECURSION_DESIRED, multicast=False, id_=number)
    query.add_question(DNSQuestion(name, kind, _CLASS_IN))
    answers: asyncio.Queue[bytes] = asyncio.Queue(maxsize=16)
    loop = asyncio.get_running_loop()
    # A connected socket: only what comes from this server is heard.
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Receiver(answers), remote_addr=(server.host, server.port)
    )
    try:
        transport.sendto(query.packets()[0])
        while True:
            message = DNSIncoming(await answers.get())
            if message.valid and message.id == number and message.flags & _RESPONSE:
                wanted = name.lower()
                return [each for each in message.answers() if each.type == kind and each.name.lower() == wanted]
    finally:
        transport.close()


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, answers: asyncio.Queue[bytes]) -> None:
        self._answers = answers

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        """Keep a datagram; more than the queue holds are dropped."""
        del addr
        if not self._answers.full():
            self._answers.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        """Nothing: the time-out moves on to the next server."""
