"""What is remembered, alike in SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import DBAPIError

from brski_common.certificates import idevid_issuer, spki_sha256
from brski_common.errors import Refused, Unknown
from brski_masa.audit import Entry, verify_chain
from brski_masa.parties import DevicePolicy, IdentityKind, Pin
from brski_masa.schema import metadata
from brski_masa.store import MAX_ENTRIES_READ, Store
from tests.masa.plant import MAKER, OTHER_PLANT, PLANT, open_desk, rvr
from tests.masa.test_audit import entry
from tests.support.world import NOW, fresh


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    made = Store.open(database_url)
    yield made
    await made.close()


def entry_of(device_id: int, **changes: object) -> Entry:
    return entry()._replace(device_id=device_id, **changes)  # type: ignore[arg-type] # passed on


async def test_device_comes_back_with_its_owner_and_all_its_identities(store: Store) -> None:
    device = MAKER.idevid(fresh())
    number = await store.register(device.certificate, NOW, owner="Plant", policy=DevicePolicy.AUDIT_ONLY)
    await store.put_owner("Plant", NOW, pin=Pin.HIGHEST_CA, nonceless=False)
    await store.add_certificate("Plant", IdentityKind.ANCHOR, PLANT.root.certificate)
    await store.add_certificate("Plant", IdentityKind.TLS_CLIENT, PLANT.registrar.certificate)
    await store.add_user("Plant", "plant", "ab" * 32)
    (found,) = await store.find_devices((await store.list_devices())[0].serial_number)
    assert (found.id, found.policy, found.last_pinned_key) == (number, DevicePolicy.AUDIT_ONLY, None)
    assert found.spki_sha256 == spki_sha256(device.certificate)
    assert found.idevid_issuer == idevid_issuer(device.certificate)
    assert found.owner is not None
    assert (found.owner.name, found.owner.pin, found.owner.nonceless) == ("Plant", Pin.HIGHEST_CA, False)
    assert {each.kind for each in found.owner.identities} == set(IdentityKind)
    assert await store.verifier_of("plant") == "ab" * 32
    assert await store.verifier_of("nobody") is None
    assert await store.certificate_of(number) == device.certificate


@pytest.mark.req("AR-02", "ID-01")
async def test_one_serial_number_of_one_issuer_has_one_key(store: Store) -> None:
    serial = fresh()
    first = MAKER.idevid(serial)
    assert await store.register(first.certificate, NOW) == await store.register(first.certificate, NOW)
    other = MAKER.idevid(serial, key=MAKER.idevid(fresh()).key)
    with pytest.raises(Refused, match="device-registered"):
        await store.register(other.certificate, NOW)
    await store.register(MAKER.idevid(serial, issuer=MAKER.root).certificate, NOW)
    assert len(await store.find_devices(serial)) == 2


@pytest.mark.req("AR-06")
async def test_one_key_is_one_device_s(store: Store) -> None:
    serial, other = fresh(), fresh()
    first = MAKER.idevid(serial)
    await store.register(first.certificate, NOW)
    with pytest.raises(Refused, match=f"key-taken: the key of {other} is registered for {serial}:"):
        await store.register(MAKER.idevid(other, key=first.key).certificate, NOW)
    with pytest.raises(Refused, match="key-taken"):
        await store.register(MAKER.idevid(other, key=first.key, issuer=MAKER.root).certificate, NOW)
    assert await store.find_devices(other) == []
    await store.register(MAKER.idevid(serial, issuer=MAKER.root).certificate, NOW)
    assert len(await store.find_devices(serial)) == 2, "the same device, certified by another CA"
    await store.register(MAKER.idevid(other, key=first.key).certificate, NOW, unsafe_shared_key=True)
    assert len(await store.find_devices(other)) == 1


async def test_identity_belongs_to_one_owner(store: Store) -> None:
    await store.put_owner("A", NOW)
    await store.put_owner("B", NOW)
    await store.add_certificate("A", IdentityKind.ANCHOR, PLANT.root.certificate)
    await store.add_certificate("A", IdentityKind.ANCHOR, PLANT.root.certificate)
    with pytest.raises(Refused, match="identity-taken"):
        await store.add_certificate("B", IdentityKind.ANCHOR, PLANT.root.certificate)
    with pytest.raises(Unknown, match="owner-unknown"):
        await store.add_certificate("C", IdentityKind.ANCHOR, OTHER_PLANT.root.certificate)
    found = await store.find_identities([spki_sha256(PLANT.root.certificate)], [], None)
    assert [each.value for each in found] == [spki_sha256(PLANT.root.certificate).hex()]
    assert await store.find_identities([], [PLANT.root.certificate.subject], None) == found


@pytest.mark.req("AL-17", "MA-19")
async def test_entries_are_chained_also_when_they_come_at_once(store: Store) -> None:
    device = await store.register(MAKER.idevid(fresh()).certificate, NOW)
    numbers = await asyncio.gather(*(store.append(entry_of(device, nonce=str(each))) for each in range(20)))
    assert sorted(numbers) == list(range(1, 21))
    links = await store.chain()
    assert verify_chain(links)[0] == 20
    assert [link.number for link in await store.list_entries(limit=3)] == [20, 19, 18]


@pytest.mark.req("AL-17")
async def test_two_processes_write_one_chain(database_url: str) -> None:
    first, second = Store.open(database_url), Store.open(database_url)
    try:
        device = await first.register(MAKER.idevid(fresh()).certificate, NOW)
        await asyncio.gather(*(each.append(entry_of(device)) for each in (first, second) * 10))
        assert verify_chain(await first.chain())[0] == 20
    finally:
        await first.close()
        await second.close()


@pytest.mark.req("AL-17")
@pytest.mark.parametrize("statement", ["UPDATE audit_log SET nonce = 'x'", "DELETE FROM audit_log"])
async def test_database_refuses_to_change_the_log(store: Store, statement: str) -> None:
    device = await store.register(MAKER.idevid(fresh()).certificate, NOW)
    await store.append(entry_of(device))
    with pytest.raises(DBAPIError, match="append-only"):
        await store.database.write(lambda connection: connection.execute(sqlalchemy.text(statement)))
    assert verify_chain(await store.chain())[0] == 1


async def test_claim_holds_against_another_domain_at_the_same_moment(store: Store) -> None:
    device = await store.register(MAKER.idevid(fresh()).certificate, NOW)
    keys = [bytes([number]) * 32 for number in range(8)]
    made = (store.append(entry_of(device, pinned_key=key), claims=frozenset((key,))) for key in keys)
    results = await asyncio.gather(*made, return_exceptions=True)
    assert len([each for each in results if isinstance(each, int)]) == 1
    assert all(isinstance(each, int) or getattr(each, "reason", "") == "device-claimed" for each in results)


async def test_change_of_owner_ends_earlier_claims_and_is_remembered(store: Store) -> None:
    device = await store.register(MAKER.idevid(fresh()).certificate, NOW, owner="A")
    await store.put_owner("B", NOW)
    await store.add_user("A", "a", "00")
    await store.append(entry_of(device))
    serial = (await store.list_devices())[0].serial_number
    assert (await store.find_devices(serial))[0].last_pinned_key == bytes(32)
    await store.assign(device, "A", NOW)  # no change
    assert (await store.find_devices(serial))[0].last_pinned_key == bytes(32)
    await store.assign(device, "B", NOW)
    found = (await store.find_devices(serial))[0]
    assert (found.last_pinned_key, found.owner.name if found.owner else None) == (None, "B")
    assert [each.value for each in await store.former_identities(device)] == ["a"]
    assert [each.serial_number for each in await store.list_devices(owner="B")] == [serial]
    assert await store.list_devices(owner="A") == []


async def test_long_log_is_read_in_part_and_the_rest_counted(store: Store) -> None:
    device = await store.register(MAKER.idevid(fresh()).certificate, NOW)
    await asyncio.gather(*(store.append(entry_of(device)) for _ in range(MAX_ENTRIES_READ + 5)))
    entries, unread = await store.entries_of(device)
    assert (len(entries), unread) == (MAX_ENTRIES_READ, 5)
    assert (await store.entries_of(device, up_to=2))[1] == 0


async def test_whole_flow_on_either_database(database_url: str, tmp_path: Path) -> None:
    async with open_desk(tmp_path, database=database_url) as desk:
        device = await desk.sell(MAKER.idevid(fresh()))
        await desk.ask(rvr(device))
        assert len(await desk.entries()) == 1


async def test_migrations_make_what_the_code_expects(store: Store) -> None:
    def differences(connection: sqlalchemy.Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"version_table": "brski_masa_revision"})
        found = compare_metadata(context, metadata)
        return [each for each in found if "index" not in str(each[0]) or "ix_" in str(each)]

    assert await store.database.write(differences) == []
