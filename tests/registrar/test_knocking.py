"""Who was turned away, on SQLite and PostgreSQL alike; and that he can fill nothing."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from brski_common.certificates import Peer
from brski_common.database import Database
from brski_common.errors import Refused, Unknown
from brski_registrar import knocking
from brski_registrar.identity import Maker, Trust
from brski_registrar.knocking import KNOCK_WRITE_SECONDS, MAX_KNOCKS, Knocking, of_pledge, of_stranger, turned_away
from brski_registrar.lifecycle import Event
from brski_registrar.policy import Admission
from brski_registrar.policy_store import PolicyStore
from brski_registrar.records import Asked, Change, Knock
from brski_registrar.store import MIGRATIONS, Store
from tests.support.plant import Plant, record_of
from tests.support.world import NOW, Manufacturer, fresh, self_signed_registrar

MAKER = Manufacturer()
TRUST = Trust([Maker.of(record_of(MAKER))])
PLEDGE = TRUST.pledge(Peer((idevid := MAKER.idevid("SN-1")).certificate, idevid.chain), NOW)
NOT_ALLOWED = Refused("device-not-allowed", "Example Maker allows only what is listed")
KNOCK = of_pledge(PLEDGE, NOT_ALLOWED, "192.0.2.1", NOW)


class Seconds:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url, migrations=MIGRATIONS) as opened:
        yield opened


def others(count: int, *, is_known: bool = False, start: int = 0) -> list[Knock]:
    return [
        replace(
            KNOCK,
            fingerprint=f"{number:064x}",
            is_known=is_known,
            manufacturer="Nobody",
            last_at=NOW + timedelta(seconds=number),
        )
        for number in range(start, start + count)
    ]


async def test_a_knock_is_durable_at_once_and_counted_when_it_comes_again(database: Database) -> None:
    seconds = Seconds()
    door = Knocking(database, seconds)
    await door.heard(KNOCK)
    assert await turned_away(database) == (KNOCK,)
    later = replace(
        KNOCK, reason="proximity-mismatch", last_at=NOW + timedelta(days=1), first_at=NOW + timedelta(days=1)
    )
    for _ in range(3):
        await door.heard(later)
    assert (await turned_away(database))[0].count == 1
    seconds.now += KNOCK_WRITE_SECONDS
    await door.write()
    assert await turned_away(database) == (replace(later, first_at=NOW, count=4),)


@pytest.mark.req("AT-15")
async def test_strangers_cannot_fill_the_database_nor_write_all_the_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, writes = Seconds(), 0
    write = knocking._written

    async def counted(*arguments: object) -> None:
        nonlocal writes
        writes += 1
        await write(*arguments)  # type: ignore[arg-type] # handed on

    monkeypatch.setattr(knocking, "_written", counted)
    door = Knocking(database, seconds)
    await door.heard(KNOCK)
    for burst in range(3):
        for knock in others(2 * MAX_KNOCKS, start=burst * 1000):
            await door.heard(knock)
        seconds.now += KNOCK_WRITE_SECONDS
    await door.write(at_once=True)
    assert writes == 4
    found = await turned_away(database)
    assert len(found) == MAX_KNOCKS + 1
    assert KNOCK in found, "a device of a known maker is not driven out by certificates that anybody can make"
    assert [knock.fingerprint for knock in found[:-1]] == [
        knock.fingerprint for knock in reversed(others(MAX_KNOCKS, start=2000))
    ]


async def test_who_is_admitted_knocks_no_more_and_who_is_turned_away_again_does(database: Database) -> None:
    door, store = Knocking(database, Seconds()), Store(database)
    await door.heard(KNOCK)
    await PolicyStore(database).allow(
        Admission(manufacturer=KNOCK.manufacturer, serial_number=KNOCK.serial_number), NOW
    )
    assert await turned_away(database) == ()
    await door.heard(replace(KNOCK, last_at=NOW + timedelta(seconds=1), reason="proximity-mismatch"))
    await door.write(at_once=True)
    assert len(await turned_away(database)) == 1
    came = Change(events=(Event.REQUEST,), notes=(), now=NOW + timedelta(seconds=2))
    await store.request(PLEDGE, Asked("", "", None, "", None), came)
    assert await turned_away(database) == ()


def test_what_a_stranger_says_is_kept_short_and_harmless() -> None:
    stranger = self_signed_registrar("x" * 60 + "\x1b[2J").certificate
    knock = of_stranger(stranger, Unknown("manufacturer-unknown", "y" * 9999), "192.0.2.1", NOW)
    assert "\x1b" not in knock.serial_number + knock.manufacturer
    assert len(knock.detail) == knocking.MAX_DETAIL


async def test_a_door_that_cannot_write_refuses_all_the_same(tmp_path: Path) -> None:
    async with Plant.open(tmp_path) as plant, plant.connect(Manufacturer(name="Another").idevid(fresh())) as line:
        await plant.store.database.write(lambda connection: connection.exec_driver_sql("DROP TABLE knocks"))
        assert (await line.request_voucher()).status == 404
