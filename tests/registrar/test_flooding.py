import asyncio
from ipaddress import IPv6Address

import pytest

from brski_common import grasp
from brski_common.errors import Misconfigured
from brski_registrar import discovery, flooding
from brski_registrar.announcing import announce
from brski_registrar.discovery import Endpoint
from brski_registrar.flooding import Message, flood, proxy_messages, registrar_messages
from brski_registrar.settings import Discovery
from tests.registrar.conftest import Logged
from tests.support import vectors

MESSAGES = proxy_messages([Endpoint("fe80::1%eth7", 4443)])


class EnoughError(Exception):
    """The test has seen enough rounds."""


async def rounds(
    count: int, seconds: float, messages: tuple[Message, ...] = MESSAGES
) -> tuple[list[bytes], list[float]]:
    """What goes out in so many rounds, and the waits between them."""
    sent: list[bytes] = []
    waited: list[float] = []

    async def wait(wanted: float) -> None:
        waited.append(wanted)
        if len(waited) == count:
            raise EnoughError

    with pytest.raises(EnoughError):
        await flood(messages, seconds, lambda _, data: sent.append(data), wait)
    return sent, waited


@pytest.mark.req("DS-20")
@pytest.mark.parametrize(("seconds", "between"), [(60, 60), (300, 300), (1, 60)])
async def test_floods_repeat_at_their_interval_and_not_more_often_than_once_a_minute(
    seconds: float, between: float
) -> None:
    sent, waited = await rounds(4, seconds)
    assert len(sent) == 4
    assert waited == [between] * 4
    assert all(len(each) < 128 for each in sent)


@pytest.mark.req("DS-18")
async def test_a_proxy_floods_its_link_local_address() -> None:
    first, second = [grasp.read_flood(each) for each in (await rounds(2, 60))[0]]
    assert first.session_id != second.session_id
    assert first.ttl == 180_000
    assert first.initiator == IPv6Address("fe80::1")
    (objective,) = first.objectives
    assert (objective.name, objective.flags, objective.loop_count, objective.value) == ("AN_Proxy", 4, 1, "")
    assert objective.locator == grasp.Locator(IPv6Address("fe80::1"), 6, 4443)


@pytest.mark.req("DS-18", "DS-19")
def test_floods_are_byte_equal_to_the_worked_encodings() -> None:
    manifest = vectors.vector("MANIFEST.md").decode()
    proxy = grasp.proxy_flood(12340815, IPv6Address("fe80::1"), 4443)
    registrar = grasp.registrar_flood(51804321, IPv6Address("fda3:79a6:f6ee:0:200:0:6400:1"), 8443)
    assert f"AN_Proxy: `{grasp.write_flood(proxy).hex()}`" in manifest
    assert f"AN_join_registrar: `{grasp.write_flood(registrar).hex()}`" in manifest


async def test_a_link_that_is_down_does_not_end_the_floods() -> None:
    tries = 0

    def send(interface: str, data: bytes) -> None:
        nonlocal tries
        tries += 1
        raise OSError("Network is down")

    async def wait(_: float) -> None:
        if tries == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        await flood(MESSAGES, 60, send, wait)


@pytest.mark.req("DS-22")
def test_only_link_local_endpoints_are_flooded() -> None:
    assert proxy_messages([Endpoint("127.0.0.1", 1), Endpoint("2001:db8::1", 2)]) == ()


def test_grasp_needs_a_link_local_address() -> None:
    with pytest.raises(Misconfigured, match="interface-unusable"):
        registrar_messages(["127.0.0.1"], 8443)


async def test_grasp_is_off_unless_switched_on() -> None:
    async with announce(Discovery(interfaces=("lo",)), 8443):
        assert len(asyncio.all_tasks()) == 1


@pytest.mark.req("DS-19")
async def test_a_registrar_floods_as_its_settings_say_and_tells_so(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(discovery, "_addresses_of_name", lambda name: ["192.0.2.1", f"fe80::1%{name}"])
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
    monkeypatch.setattr(flooding, "_send", lambda _, interface, data: heard.put_nowait((interface, data)))
    async with announce(Discovery(grasp=True, proxy=True, interfaces=("eth7",)), 8443):
        sent = [await heard.get(), await heard.get()]
    assert {interface for interface, _ in sent} == {"eth7"}
    names = [grasp.read_flood(data).objectives[0].name for _, data in sent]
    assert names == ["AN_join_registrar", "AN_Proxy"]
    (told,) = logged()
    assert (told["event"], told["by"], told["what"]) == ("announcing", "GRASP", ["registrar", "proxy"])
    assert told["interfaces"] == ["eth7"]


@pytest.mark.parametrize("settings", [Discovery(grasp=True), Discovery(mdns=True), Discovery(grasp=True, proxy=True)])
async def test_announcing_nowhere_is_refused(settings: Discovery) -> None:
    with pytest.raises(Misconfigured, match="interfaces-missing"):
        async with announce(settings, 8443):
            pass
