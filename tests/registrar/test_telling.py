"""What an operator is told: in the log, among those who knock, and when something is missing."""

import json
import logging
from collections.abc import Iterator

import pytest

from brski_common import logs
from brski_common.errors import PeerFailed, Refused
from brski_registrar.knocking import turned_away
from tests.support.plant import Plant, reason_of
from tests.support.world import fresh


@pytest.fixture(autouse=True)
def warnings_as_json() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    logs.configure(json=True, level="warning")
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """The warnings so far, and what is worse."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


async def test_a_masa_that_cannot_be_reached_is_one_warning_with_the_facts_as_fields(
    plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant.masa.fails.append(PeerFailed("peer-unreachable", "nobody answered "))
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 502
        (told,) = lines(capsys)
        assert (told["event"], told["level"], told["status"]) == ("refused", "warning", 502)
        assert (told["reason"], told["detail"]) == ("peer-unreachable", "nobody answered")
        assert (told["serial_number"], told["manufacturer"]) == (line.serial, plant.maker.name)
        assert (told["path"], told["peer"]) == ("/.well-known/brski/requestvoucher", "127.0.0.1")
        assert reason_of(await line.get("/.well-known/est/csrattrs")) == "voucher-missing"
        assert (await line.request_voucher()).status == 200


async def test_a_refusal_by_a_masa_is_no_warning(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant.masa.fails.append(Refused("masa-refused", "not sold to you"))
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 403
    assert lines(capsys) == []


async def test_a_known_device_from_a_place_that_is_not_allowed_is_seen_knocking(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 200
        await plant.change_domain(sources=("192.0.2.0/24",))
        plant.clock.advance(1)
        assert reason_of(await line.request_voucher()) == "source-not-allowed"
        await plant.service.knocking.write(at_once=True)
        (knock,) = await turned_away(plant.store.database)
        assert (knock.serial_number, knock.reason, knock.address) == (line.serial, "source-not-allowed", "127.0.0.1")
        await plant.change_domain()
        plant.clock.advance(1)
        assert (await line.request_voucher(line.pvr())).status == 200
        assert await turned_away(plant.store.database) == ()


async def test_what_became_the_state_of_a_device_is_not_told_twice(plant: Plant) -> None:
    plant.masa.fails.append(Refused("masa-refused", "not sold to you"))
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 403
    await plant.service.knocking.write(at_once=True)
    assert await turned_away(plant.store.database) == ()


async def test_a_voucher_is_fetched_beforehand_for_a_device_that_was_here_by_its_own_certificate(plant: Plant) -> None:
    device = await plant.admitted(serial := fresh())
    with pytest.raises(Refused, match=r"masa-url-missing: no IDevID is known; --idevid FILE .*--masa-url URL"):
        await plant.service.prefetch(plant.maker.name, serial)
    async with plant.connect(device) as line:
        assert (await line.request_voucher()).status == 200
    await plant.service.prefetch(plant.maker.name, serial)
    admission = await plant.policies.admission(plant.maker.name, serial)
    assert admission is not None
    assert admission.voucher is not None
