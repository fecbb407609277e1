"""mDNS on the loopback interface only: a test must not speak on a real network."""

import asyncio
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from zeroconf import (  # type: ignore[attr-defined] # some public names are missing in zeroconf's __all__
    DNSIncoming,
    DNSOutgoing,
    DNSPointer,
    DNSService,
)
from zeroconf.const import _CLASS_IN, _FLAGS_QR_RESPONSE, _TYPE_PTR, _TYPE_SRV

from brski_common.errors import Misconfigured, PeerFailed
from brski_registrar import dnssd
from brski_registrar.announcing import announce, announcements
from brski_registrar.discovery import (
    PROXY_SERVICE,
    REGISTRAR_SERVICE,
    Announcement,
    Endpoint,
    addresses_of,
    announced,
    find,
)
from brski_registrar.joining import Located, Options, upstream
from brski_registrar.joining import announcements as proxy_announcements
from brski_registrar.settings import Discovery

LOOPBACK = ("127.0.0.1",)
mdns = pytest.mark.xdist_group("mdns")


@mdns
@pytest.mark.req("DS-12", "DS-23")
async def test_a_registrar_is_found_by_proxies_and_by_devices_on_its_link() -> None:
    settings = Discovery(mdns=True, proxy=True, interfaces=LOOPBACK, name="Registrar of a test")
    async with announce(settings, 8443):
        for service in (REGISTRAR_SERVICE, PROXY_SERVICE):
            assert await find(LOOPBACK, service=service, instance=settings.name) == (Endpoint("127.0.0.1", 8443),)
    with pytest.raises(PeerFailed, match="registrar-not-found"):
        await find(LOOPBACK, seconds=0.3, instance=settings.name)


@mdns
async def test_two_of_one_name_are_told_apart() -> None:
    one = Announcement(REGISTRAR_SERVICE, "Twin", 8443, LOOPBACK)
    other = Announcement(REGISTRAR_SERVICE, "Twin", 8444, LOOPBACK)
    async with announced([one], LOOPBACK), announced([other], LOOPBACK):
        assert await find(LOOPBACK, instance="Twin") == (Endpoint("127.0.0.1", 8443),)
        assert await find(LOOPBACK, instance="Twin-2") == (Endpoint("127.0.0.1", 8444),)


async def test_nothing_is_announced_unless_the_settings_say_so() -> None:
    async with announce(Discovery(), 8443):  # would fail for want of an interface
        pass


@pytest.mark.req("DS-21", "DS-22")
def test_what_is_announced_is_tcp_and_nothing_else() -> None:
    settings = Discovery(mdns=True, proxy=True, interfaces=LOOPBACK)
    services = {each.service for each in announcements(settings, 8443)}
    options = Options(listen=())
    services |= {each.service for each in proxy_announcements(options, [Endpoint("fe80::1%eth0", 4711)])}
    assert services == {REGISTRAR_SERVICE, PROXY_SERVICE}
    assert all("._tcp." in service for service in services)


@pytest.mark.req("PX-03")
def test_a_proxy_announces_the_port_it_got() -> None:
    endpoints = [Endpoint("fe80::1%eth0", 4711), Endpoint("fe80::2%eth1", 4712), Endpoint("fe80::3%eth0", 4711)]
    found = proxy_announcements(Options(listen=(), name="P"), endpoints)
    assert [(each.port, each.addresses) for each in found] == [
        (4711, ("fe80::1%eth0", "fe80::3%eth0")),
        (4712, ("fe80::2%eth1",)),
    ]


@pytest.mark.parametrize(("interfaces", "reason"), [((), "interfaces-missing"), (("nope0",), "interface-unknown")])
async def test_interfaces_have_to_be_named_and_be_there(interfaces: tuple[str, ...], reason: str) -> None:
    with pytest.raises(Misconfigured, match=reason):
        await find(interfaces, seconds=0.1)
    with pytest.raises(Misconfigured, match=reason):
        async with announce(Discovery(mdns=True, interfaces=interfaces), 8443):
            pass


async def test_a_direct_proxy_announcement_needs_mdns() -> None:
    with pytest.raises(Misconfigured, match=r"discovery\.proxy"):
        async with announce(Discovery(proxy=True, interfaces=LOOPBACK), 8443):
            pass


def test_an_interface_is_named_or_given_by_address() -> None:
    assert addresses_of(["127.0.0.1", "lo"])[0] == "127.0.0.1"
    assert all(ipaddress.ip_address(each.partition("%")[0]) for each in addresses_of(["lo"]))


# Where a proxy's registrar is


def test_a_proxy_needs_a_way_to_its_registrar() -> None:
    with pytest.raises(Misconfigured, match="registrar-missing"):
        upstream(Options(listen=()))


async def test_a_configured_registrar_is_not_looked_for() -> None:
    where = Endpoint("registrar.example", 8443)
    assert await upstream(Options(listen=(), registrar=where))() == (where,)


async def test_what_was_found_is_remembered_for_a_while() -> None:
    now, asked = 0.0, 0

    async def look() -> Sequence[Endpoint]:
        nonlocal asked
        asked += 1
        return (Endpoint("192.0.2.1", asked),)

    located = Located(look, lambda: now)
    assert [await located(), await located()] == [(Endpoint("192.0.2.1", 1),)] * 2
    now += 60
    assert await located() == (Endpoint("192.0.2.1", 2),)


async def test_many_connections_ask_once() -> None:
    asked = 0

    async def look() -> Sequence[Endpoint]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return (Endpoint("192.0.2.1", 1),)

    located = Located(look, lambda: 0.0)
    await asyncio.gather(*(located() for _ in range(8)))
    assert asked == 1


# Unicast DNS-SD


class NameServer(asyncio.DatagramProtocol):
    """Answers from a table; of the rest it says nothing exists."""

    def __init__(self, records: dict[tuple[str, int], list[DNSPointer | DNSService]], forge: bool = False) -> None:
        self._records, self._forge = records, forge
        self.asked: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        query = DNSIncoming(data)
        question = query.questions[0]
        self.asked.append(question.name)
        if self._forge:  # an answer to another question first: it must not be taken
            self._answer(addr, query.id ^ 1, [DNSPointer(question.name, _TYPE_PTR, _CLASS_IN, 60, "evil.example.")])
        self._answer(addr, query.id, self._records.get((question.name.lower(), question.type), []))

    def _answer(self, addr: tuple[str | int, ...], number: int, records: Sequence[DNSPointer | DNSService]) -> None:
        answer = DNSOutgoing(_FLAGS_QR_RESPONSE, multicast=False, id_=number)
        for record in records:
            answer.add_answer_at_time(record, 0)
        self._transport.sendto(answer.packets()[0], addr)


SERVICE = "_brski-registrar._tcp.plant.example."
INSTANCE = f"main.{SERVICE}"
TABLE: dict[tuple[str, int], list[DNSPointer | DNSService]] = {
    (SERVICE, _TYPE_PTR): [DNSPointer(SERVICE, _TYPE_PTR, _CLASS_IN, 60, INSTANCE)],
    (INSTANCE, _TYPE_SRV): [
        DNSService(INSTANCE, _TYPE_SRV, _CLASS_IN, 60, 20, 0, 8444, "spare.plant.example."),
        DNSService(INSTANCE, _TYPE_SRV, _CLASS_IN, 60, 10, 0, 8443, "registrar.plant.example."),
    ],
}


async def ask(
    table: dict[tuple[str, int], list[DNSPointer | DNSService]], *, forge: bool = False
) -> Sequence[Endpoint]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: NameServer(table, forge), local_addr=("127.0.0.1", 0))
    try:
        host, port = transport.get_extra_info("sockname")
        return await dnssd.find("plant.example", [Endpoint(host, port)])
    finally:
        transport.close()


@pytest.mark.req("DS-12")
@pytest.mark.parametrize("forge", [False, True])
async def test_a_domain_says_where_its_registrars_are_best_first(forge: bool) -> None:
    assert await ask(TABLE, forge=forge) == (
        Endpoint("registrar.plant.example", 8443),
        Endpoint("spare.plant.example", 8444),
    )


async def test_a_domain_without_registrar_is_told() -> None:
    with pytest.raises(PeerFailed, match="registrar-not-found"):
        await ask({})


async def test_a_service_that_says_it_is_not_there_is_not_there() -> None:
    gone: list[DNSPointer | DNSService] = [DNSService(INSTANCE, _TYPE_SRV, _CLASS_IN, 60, 0, 0, 0, ".")]
    with pytest.raises(PeerFailed, match="registrar-not-found"):
        await ask({**TABLE, (INSTANCE, _TYPE_SRV): gone})


def test_name_servers_are_those_of_the_system(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# by DHCP\nsearch plant.example\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\noptions edns0\n")
    assert dnssd.name_servers(file) == (Endpoint("192.0.2.53", 53), Endpoint("fe80::1%eth0", 53))
    file.write_text("search plant.example\n")
    with pytest.raises(Misconfigured, match="name-servers-missing"):
        dnssd.name_servers(file)
    with pytest.raises(Misconfigured, match="name-servers-missing"):
        dnssd.name_servers(tmp_path / "missing")
