"""Discovery on real links: mDNS on the loopback, GRASP and mDNS between hosts in network namespaces."""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv6Address
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from brski_common import grasp
from brski_pledge import Pledge, PledgeSettings
from brski_pledge.discovery import Offer, Source
from brski_pledge.dull import offers_in
from brski_pledge.mdns import Browser
from tests.support.registrar_fake import FakeRegistrar, serve
from tests.support.world import Manufacturer

LOOPBACK = ("127.0.0.1",)
TYPE = "_brski-proxy._tcp.local."
MAKER = Manufacturer()


def service(port: int, name: str = "") -> ServiceInfo:
    name = name or f"proxy-{secrets.token_hex(4)}"
    return ServiceInfo(TYPE, f"{name}.{TYPE}", port, parsed_addresses=["127.0.0.1"], server=f"{name}.local.")


async def until(offers: "asyncio.Queue[Offer]", port: int) -> Offer:
    async with asyncio.timeout(10):
        while True:
            offer = await offers.get()
            if offer.port == port:  # others on this machine may announce as well
                return offer


@pytest.mark.req("DS-11")
async def test_a_query_finds_a_proxy_that_is_there() -> None:
    offers: asyncio.Queue[Offer] = asyncio.Queue()
    proxy = AsyncZeroconf(interfaces=list(LOOPBACK))
    await proxy.async_register_service(service(4711))
    browser = Browser(offers.put_nowait, LOOPBACK)
    browser.query()
    offer = await until(offers, 4711)
    assert (offer.host, offer.source) == ("127.0.0.1", Source.MDNS)
    await browser.close()
    await proxy.async_close()


@pytest.mark.req("DS-14")
async def test_an_announcement_is_enough_without_any_query() -> None:
    offers: asyncio.Queue[Offer] = asyncio.Queue()
    browser = Browser(offers.put_nowait, LOOPBACK)
    await browser.ready()
    proxy = AsyncZeroconf(interfaces=list(LOOPBACK))
    await proxy.async_register_service(service(4712))
    assert (await until(offers, 4712)).host == "127.0.0.1"
    await browser.close()
    await proxy.async_close()


@pytest.mark.req("DS-11", "ST-01")
async def test_a_pledge_finds_its_registrar_by_mdns(tmp_path: Path) -> None:
    server = await serve(FakeRegistrar(maker=MAKER))
    proxy = AsyncZeroconf(interfaces=list(LOOPBACK))
    await proxy.async_register_service(service(server.port))
    settings = PledgeSettings(mdns_interfaces=LOOPBACK)
    pledge = Pledge(settings, MAKER.idevid("SN-1"), MAKER.voucher_anchors, state=tmp_path)
    async with asyncio.timeout(30):
        outcome = await pledge.onboard()
    assert outcome.is_operational
    await proxy.async_close()
    await server.close(0.1)


# GRASP


def flood(address: str, port: int = 4443, protocol: int = grasp.IPPROTO_TCP, name: str = grasp.AN_PROXY) -> bytes:
    locator = grasp.Locator(IPv6Address(address), protocol, port)
    objective = grasp.Objective(name, 1, "", locator)
    return grasp.write_flood(grasp.Flood(1, IPv6Address(address), (objective,)))


@pytest.mark.req("DS-02", "D-13")
def test_a_flood_from_the_link_is_an_offer() -> None:
    assert offers_in(flood("fe80::1"), "fe80::1", "eth0") == (Offer("fe80::1%eth0", 4443),)


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (flood("fe80::1"), "2001:db8::1"),
        (flood("2001:db8::1"), "fe80::1"),
        (flood("fe80::1", protocol=grasp.IPPROTO_UDP), "fe80::1"),
        (flood("fe80::1", name=grasp.AN_JOIN_REGISTRAR), "fe80::1"),
        (b"junk", "fe80::1"),
        (cbor2.dumps([9, 1, bytes(16), 0, [["AN_Proxy", 4, 1, ""], []]]), "fe80::1"),
    ],
    ids=["from afar", "to afar", "UDP", "a registrar", "junk", "no locator"],
)
def test_other_floods_are_not(data: bytes, source: str) -> None:
    assert offers_in(data, source, "eth0") == ()


@given(st.binary(max_size=200))
def test_any_datagram_is_taken(data: bytes) -> None:
    assert len(offers_in(data, "fe80::1%3", "eth0")) <= grasp.MAX_OBJECTIVES


# Two hosts


def _in(namespace: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, *command]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two namespaces joined by a cable: `a` is fe80::a on `left`, `b` is fe80::b on `right`."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip`: install the Debian package iproute2")
    tag = secrets.token_hex(3)
    first, second = f"brski-a-{tag}", f"brski-b-{tag}"
    made = subprocess.run(["ip", "netns", "add", first], check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"network namespaces are not allowed here (run as root): {made.stderr.strip()}")
    try:
        _ip("netns", "add", second)
        _ip("link", "add", "left", "netns", first, "type", "veth", "peer", "name", "right", "netns", second)
        for host, link, address in ((first, "left", "fe80::a/64"), (second, "right", "fe80::b/64")):
            _ip("-n", host, "link", "set", link, "addrgenmode", "none")
            _ip("-n", host, "addr", "add", address, "dev", link, "nodad")
            _ip("-n", host, "link", "set", link, "up")
            _ip("-n", host, "link", "set", "lo", "up")
        yield first, second
    finally:
        for host in (first, second):
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)


@pytest.mark.req("DS-01", "DS-02", "TL-15", "DS-11")
@pytest.mark.parametrize("how", ["grasp", "mdns"])
def test_two_hosts_meet_on_link_local_addresses(how: str, hosts: tuple[str, str], tmp_path: Path) -> None:
    first, second = hosts
    environment = os.environ | {"BRSKI_PLEDGE_GRASP_LINKS": "right"}
    options = ["--grasp", "--no-mdns"] if how == "grasp" else ["--mdns", "--mdns-interface", "right"]
    server = subprocess.Popen(
        _in(first, sys.executable, "-m", "tests.support.link_host", "left", "fe80::a", str(tmp_path), how),
        stdout=subprocess.PIPE,
        text=True,
    )
    with closing(server.stdout or pytest.fail("no output")) as lines:
        try:
            assert lines.readline().startswith("listening")
            onboard = [sys.executable, "-m", "brski_pledge", "onboard", "--config", str(tmp_path / "pledge.toml")]
            shown = subprocess.run(
                _in(second, *onboard, "--json", "--timeout", "40", *options),
                capture_output=True,
                text=True,
                env=environment,
                check=False,
                timeout=60,
            )
        finally:
            server.terminate()
            server.wait(10)
    result = json.loads(shown.stdout)
    assert result["state"] == "operational", shown.stderr
    assert result["registrar"].startswith("fe80::a%right:")
