"""The registrar's memory, on SQLite and PostgreSQL alike."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, LargeBinary, bindparam, text
from sqlalchemy.exc import DBAPIError

from brski_common.certificates import Peer, fingerprint
from brski_common.database import Database, UtcTime
from brski_common.errors import Misconfigured, Refused, Unknown
from brski_common.sqlite import DIALECT
from brski_registrar import migrations, schema
from brski_registrar.identity import Maker, Pledge, Trust
from brski_registrar.lifecycle import Event, State
from brski_registrar.policy import Admission, Approval, DomainPolicy, Treatment
from brski_registrar.policy_store import PolicyStore, PolicyView
from brski_registrar.recent import RECENT_SECONDS
from brski_registrar.records import Asked, Change, Note
from brski_registrar.store import MIGRATIONS, Store
from tests.registrar.conftest import Logged
from tests.support.plant import record_of
from tests.support.world import NOW, Domain, Manufacturer, fresh

MAKER = Manufacturer()
TRUST = Trust([Maker.of(record_of(MAKER))])
ASKED = Asked("application/voucher-cms+json", "a" * 64, "nonce", "https://masa.example", b"rvr")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url, migrations=MIGRATIONS) as opened:
        yield opened


def pledge_of(serial: str) -> Pledge:
    credential = MAKER.idevid(serial)
    return TRUST.pledge(Peer(credential.certificate, credential.chain), NOW)


def change(*events: Event, **more: object) -> Change:
    notes = tuple(Note(event) for event in events)
    return Change(events=events, notes=notes, now=NOW)._replace(**more)  # type: ignore[arg-type] # names of members


VOUCHERED = change(Event.REQUEST, Event.VOUCHER)


async def test_what_was_asked_and_what_came_of_it_is_one_record(database: Database) -> None:
    store, pledge = Store(database), pledge_of(fresh())
    device = await store.request(pledge, ASKED, VOUCHERED, b"voucher", "proximity")
    elsewhere = Store(database)
    assert await elsewhere.device(pledge) == device == await elsewhere.device_by_id(device.id)
    assert (device.state, device.rvr, device.nonce, device.created_at) == (State.VOUCHERED, b"rvr", "nonce", NOW)
    stored = await elsewhere.voucher_for(device.id, ASKED.pvr_sha256)
    assert stored is not None
    assert (stored.raw, stored.assertion, stored.received_at) == (b"voucher", "proximity", NOW)
    assert [entry.event for entry in await elsewhere.journal(device.id)] == ["request", "voucher"]
    assert await elsewhere.find(pledge.serial_number) == (device,)
    assert await elsewhere.devices() == (device,)
    with pytest.raises(Unknown):
        await elsewhere.device_by_id(device.id + 1)


EARLIER_DEVICE = """
    INSERT INTO devices VALUES (7, 'Example Maker', 'SN-1', '0418', 'operational', '', 'f00d', :certificate, '::1',
        'application/voucher-cms+json', 'ab', 'nonce', 'https://masa.example', :rvr, 'cd', :now, :now)
"""
EARLIER_VOUCHER = """
    INSERT INTO vouchers VALUES (1, 7, 'ab', 'application/voucher-cms+json', :rvr, 'nonce', 'proximity', :now)
"""


DEVICE_BEFORE_BARS = """
    INSERT INTO devices VALUES (:id, 'Example Maker', :serial, '0418', :state, '', 'f00d', '::1',
        'application/voucher-cms+json', 'ab', 'nonce', 'https://masa.example', 'cd', :now, :now)
"""


def copy_revisions(pattern: str, package: Path) -> None:
    versions = package / "versions"
    versions.mkdir(parents=True)
    (package / "__init__.py").touch()
    for revision in Path(migrations.__path__[0], "versions").glob(pattern):
        (versions / revision.name).write_bytes(revision.read_bytes())


async def test_what_an_earlier_release_knew_of_its_devices_is_kept(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_revisions("000[12]_*.py", tmp_path / "earlier" / "migrations")
    monkeypatch.syspath_prepend(tmp_path)

    def unit(connection: Connection) -> None:
        values = {"certificate": b"idevid", "rvr": b"rvr", "now": NOW}
        kinds = (bindparam("certificate", type_=LargeBinary), bindparam("rvr", type_=LargeBinary))
        connection.execute(text(EARLIER_DEVICE).bindparams(*kinds, bindparam("now", type_=UtcTime)), values)
        del values["certificate"]
        connection.execute(text(EARLIER_VOUCHER).bindparams(kinds[1], bindparam("now", type_=UtcTime)), values)
        connection.execute(text("ALTER TABLE earlier_revision RENAME TO brski_registrar_revision"))

    async with Database.open(database_url, migrations="earlier.migrations") as database:
        await database.write(unit)
    async with Database.open(database_url, migrations=MIGRATIONS) as database:
        store = Store(database)
        (device,) = await store.find("SN-1")
        assert (device.id, device.state, device.certificate, device.rvr) == (7, State.OPERATIONAL, b"idevid", b"rvr")
        assert (device.nonce, device.csr_sha256, device.changed_at) == ("nonce", "cd", NOW)
        assert [voucher.raw for voucher in await store.vouchers(7)] == [b"rvr"]
        assert (await store.advance(device, change(Event.BLOCK))).rvr == b"rvr"


async def test_devices_that_an_earlier_release_denied_are_barred(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_revisions("000[123]_*.py", tmp_path / "before_bars" / "migrations")
    monkeypatch.syspath_prepend(tmp_path)

    def unit(connection: Connection) -> None:
        for number, state in enumerate(("denied", "operational", "new")):
            values = {"id": number, "serial": f"SN-{state}", "state": state, "now": NOW, "certificate": b"idevid"}
            connection.execute(text(DEVICE_BEFORE_BARS).bindparams(bindparam("now", type_=UtcTime)), values)
            request = text("INSERT INTO requests VALUES (:id, :certificate, NULL)")
            connection.execute(request.bindparams(bindparam("certificate", type_=LargeBinary)), values)
        connection.execute(text("ALTER TABLE before_bars_revision RENAME TO brski_registrar_revision"))

    async with Database.open(database_url, migrations="before_bars.migrations") as database:
        await database.write(unit)
    async with Database.open(database_url, migrations=MIGRATIONS) as database:
        store = Store(database)
        found = {device.state: device for device in await store.devices()}
        barred = {state: device.is_barred for state, device in found.items()}
        assert barred == {State.DENIED: True, State.OPERATIONAL: False, State.NEW: False}
        denied = await store.advance(found[State.DENIED], change(Event.BLOCK, Event.UNBLOCK))
        assert (denied.state, denied.is_barred) == (State.NEW, True)
        with pytest.raises(Refused, match="device-denied"):
            await store.advance(denied, change(Event.RENEW))
        await store.advance(found[State.NEW], change(Event.RENEW))


async def test_a_bar_outlives_requests_and_is_seen_by_who_has_not_heard_of_it(database: Database) -> None:
    mine, others, pledge = Store(database), Store(database), pledge_of(fresh())
    device = await mine.request(pledge, ASKED, change(Event.REQUEST))
    barred = await others.advance(device, change(Event.LOG_REFUSE))
    assert (barred.state, barred.is_barred) == (State.REQUESTED, True)
    with pytest.raises(Refused, match="device-denied"):
        await mine.advance(device, change(Event.RENEW))
    asked = await mine.request(pledge, ASKED, VOUCHERED)
    assert (asked.state, asked.is_barred) == (State.VOUCHERED, True)
    assert await Store(database).device(pledge) == asked
    accepted = await others.advance(asked, change(Event.IMPRINT, Event.LOG_ACCEPT))
    assert (accepted.state, accepted.is_barred) == (State.APPROVED, False)
    assert await Store(database).device(pledge) == accepted


def test_asking_does_not_write_the_bar() -> None:
    """What one process finds against a device is not undone by another that had read its row before."""
    assert "is_barred" not in str(schema.ASK)


async def test_who_is_silent_is_found_without_a_look_at_all_the_others(tmp_path: Path) -> None:
    asked = schema.SILENT.params(before=NOW).compile(dialect=DIALECT, compile_kwargs={"render_postcompile": True})
    async with Database.open(f"sqlite:///{tmp_path}/registrar.sqlite", migrations=MIGRATIONS) as database:
        plan = await database.read(
            lambda connection: connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}", ("2026", 1, 0)).all()
        )
    assert "USING INDEX devices_vouchered" in str(plan)


async def test_a_second_request_replaces_the_first_and_keeps_its_history(database: Database) -> None:
    store, pledge = Store(database), pledge_of(fresh())
    first = await store.request(pledge, ASKED, VOUCHERED, b"one", "")
    later = change(Event.REQUEST, now=NOW + timedelta(days=1))
    second = await store.request(pledge, ASKED._replace(pvr_sha256="b" * 64, nonce=None), later)
    assert (second.id, second.created_at, second.changed_at) == (first.id, NOW, NOW + timedelta(days=1))
    assert (second.state, second.nonce) == (State.REQUESTED, None)
    assert await Store(database).device(pledge) == second
    assert len(await store.vouchers(first.id)) == 1


async def test_events_out_of_order_leave_no_trace(database: Database) -> None:
    store, pledge = Store(database), pledge_of(fresh())
    device = await store.request(pledge, ASKED, change(Event.REQUEST))
    with pytest.raises(Refused, match="event-out-of-order"):
        await store.advance(device, change(Event.ENROLL))
    assert await Store(database).device(pledge) == device
    assert len(await store.journal()) == 1


async def test_of_two_at_once_the_second_sees_what_the_first_did(database: Database) -> None:
    mine, others, pledge = Store(database), Store(database), pledge_of(fresh())
    device = await mine.request(pledge, ASKED, VOUCHERED)
    failed = await others.advance(device, change(Event.FAIL))
    assert failed.state is State.FAILED
    with pytest.raises(Refused, match="event-out-of-order"):
        await mine.advance(device, change(Event.IMPRINT))
    assert (await mine.advance(device, change(Event.REQUEST))).state is State.REQUESTED
    outcomes = await asyncio.gather(
        mine.advance(device, change(Event.BLOCK)), others.advance(device, change(Event.DECLINE)), return_exceptions=True
    )
    assert State.BLOCKED in [getattr(outcome, "state", None) for outcome in outcomes]
    assert (await mine.device_by_id(device.id)).state is State.BLOCKED


async def test_the_same_new_device_at_two_registrars_at_once_is_one_device(database: Database) -> None:
    pledge = pledge_of(fresh())
    stores = [Store(database) for _ in range(4)]
    devices = await asyncio.gather(*(store.request(pledge, ASKED, VOUCHERED) for store in stores))
    assert len({device.id for device in devices}) == 1


@pytest.mark.req("AL-17")
@pytest.mark.parametrize("statement", ["DELETE FROM journal", "UPDATE journal SET reason = 'nothing happened'"])
async def test_the_journal_cannot_be_changed(database: Database, statement: str) -> None:
    store, pledge = Store(database), pledge_of(fresh())
    await store.request(pledge, ASKED, VOUCHERED)
    with pytest.raises(DBAPIError, match="append-only"):
        await database.write(lambda connection: connection.execute(text(statement)))
    assert len(await store.journal()) == 2


async def test_the_journal_is_read_on_from_where_one_was(database: Database) -> None:
    store, pledge = Store(database), pledge_of(fresh())
    await store.note(pledge, None, Note("refused", "device-not-allowed", "x\x1b[2J" * 3000), "192.0.2.1", NOW)
    device = await store.request(pledge, ASKED, VOUCHERED)
    first, *rest = await store.journal()
    assert (first.device_id, first.reason, first.address) == (None, "device-not-allowed", "192.0.2.1")
    assert "\x1b" not in first.detail
    assert len(first.detail) <= 4000
    assert await store.journal(after=first.id) == tuple(rest)
    assert await store.journal(device.id, count=1) == tuple(rest[:1])


async def test_certificates_are_found_by_what_they_are(database: Database) -> None:
    store, domain, serial = Store(database), Domain(), fresh()
    device = await store.request(pledge_of(serial), ASKED, VOUCHERED)
    device = await store.advance(device, change(Event.LOG_ACCEPT))
    certificate = domain.ldevid(serial).certificate
    device = await store.certificate(device, certificate, change(Event.ENROLL, csr_sha256="c" * 64))
    found = await store.issued(certificate)
    assert found is not None
    assert await Store(database).issued(certificate) == found
    for each in (store, Store(database)):
        assert (found[0].serial, found[1]) == (f"{certificate.serial_number:x}", device)
        assert await each.issued_for(device.id, "c" * 64) == found[0]
        assert await each.issued(domain.root.certificate) is None
    assert await store.revoke(found[0].fingerprint, NOW)
    assert not await store.revoke(found[0].fingerprint, NOW)
    revoked = await store.issued(certificate)
    assert revoked is not None
    assert revoked[0].revoked_at == NOW


async def test_a_certificate_that_is_given_again_is_the_same_devices_or_nobodys(database: Database) -> None:
    """As a CA elsewhere may do with a request that comes again."""
    store, certificate, serials = Store(database), Domain().ldevid(fresh()).certificate, (fresh(), fresh())
    devices = [await store.request(pledge_of(serial), ASKED, VOUCHERED) for serial in serials]
    device, other = [await store.advance(each, change(Event.LOG_ACCEPT)) for each in devices]
    for csr_sha256 in ("c" * 64, "d" * 64):
        device = await store.certificate(device, certificate, change(Event.ENROLL, csr_sha256=csr_sha256))
    assert (device.state, device.csr_sha256) == (State.ENROLLED, "d" * 64)
    assert len(await store.issued_to(device.id)) == 1
    with pytest.raises(Refused, match="certificate-of-another"):
        await store.certificate(other, certificate, change(Event.ENROLL, csr_sha256="c" * 64))
    assert (await Store(database).device_by_id(other.id)).state is State.APPROVED
    await store.revoke(fingerprint(certificate).hex(), NOW)
    with pytest.raises(Refused, match="certificate-revoked"):
        await store.certificate(device, certificate, change(Event.ENROLL, csr_sha256="c" * 64))


async def test_what_another_process_did_is_known_within_a_second(database: Database) -> None:
    now = [0.0]
    store, pledge = Store(database, monotonic=lambda: now[0]), pledge_of(fresh())
    device = await store.request(pledge, ASKED, VOUCHERED)
    await Store(database).advance(device, change(Event.BLOCK))
    now[0] += 1.1
    found = await store.device(pledge)
    assert found is not None
    assert found.state is State.BLOCKED


@pytest.mark.req("VS-09")
async def test_silent_devices_are_found(database: Database) -> None:
    store, pledge = Store(database), pledge_of(fresh())
    device = await store.request(pledge, ASKED, VOUCHERED)
    assert await store.silent_since(NOW) == ()
    assert await store.silent_since(NOW + timedelta(seconds=1)) == (device,)
    await store.advance(device, change(Event.IMPRINT))
    assert await store.silent_since(NOW + timedelta(seconds=1)) == ()


# Policy


@pytest.mark.req("RA-07", "RA-08")
async def test_nothing_is_allowed_from_the_start(database: Database) -> None:
    policy = await PolicyStore(database).load()
    assert policy.trust.makers == {}
    assert policy.domain == DomainPolicy()


@pytest.mark.req("RA-07", "ID-11")
async def test_makers_and_devices_are_kept(database: Database) -> None:
    policies = PolicyStore(database)
    record = record_of(MAKER, masa_url="https://masa.example/x", tolerated_critical=("1.2.3.4",))
    await policies.put_manufacturer(record, NOW)
    await policies.put_manufacturer(replace(record, plain_cms=True), NOW)
    policy = await policies.load()
    assert policy.trust.makers[MAKER.name].record == replace(record, plain_cms=True)
    entries = tuple(
        Admission(manufacturer=MAKER.name, serial_number=serial, purchased_on=NOW, note="order 4711")
        for serial in ("SN-1", "SN-2")
    )
    await policies.allow_all(entries, NOW)
    await policies.allow(replace(entries[0], note="order 4712"), NOW)
    assert [entry.note for entry in await policies.admissions(MAKER.name)] == ["order 4712", "order 4711"]
    assert await policies.admission(MAKER.name, "SN-3") is None
    assert await policies.disallow(MAKER.name, "SN-2")
    assert not await policies.disallow(MAKER.name, "SN-2")
    await policies.remove_manufacturer(MAKER.name)
    assert (await policies.load()).trust.makers == {}
    with pytest.raises(Unknown):
        await policies.remove_manufacturer(MAKER.name)


async def test_an_entry_that_was_just_seen_is_believed_for_a_moment_unless_it_changes_here(database: Database) -> None:
    now = [0.0]
    mine, others = PolicyStore(database, monotonic=lambda: now[0]), PolicyStore(database)
    entry = Admission(manufacturer=MAKER.name, serial_number="SN-1", purchased_on=NOW)
    mine.saw(MAKER.name, "SN-1", None)
    await others.allow(entry, NOW)
    assert await mine.admission(MAKER.name, "SN-1") is None
    now[0] += RECENT_SECONDS
    assert await mine.admission(MAKER.name, "SN-1") == entry
    for change in (mine.allow(replace(entry, note="order 4711"), NOW), mine.disallow(MAKER.name, "SN-1")):
        mine.saw(MAKER.name, "SN-1", entry)
        await change
        assert await mine.admission(MAKER.name, "SN-1") != entry


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "x" * 300},
        {"idevid_anchors": ""},
        {"idevid_anchors": "not PEM"},
        {"masa_tls_anchors": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"},
        {"tolerated_critical": ("not an oid",)},
    ],
)
async def test_a_record_that_cannot_be_used_is_not_kept(database: Database, changes: dict[str, object]) -> None:
    policies = PolicyStore(database)
    with pytest.raises(Misconfigured):
        await policies.put_manufacturer(record_of(MAKER, **changes), NOW)
    assert (await policies.load()).trust.makers == {}


async def test_a_change_is_seen_without_a_restart(database: Database) -> None:
    now = [0.0]
    mine, others = PolicyStore(database), PolicyStore(database)
    view = PolicyView(mine, monotonic=lambda: now[0])
    before = await view.current()
    await others.put_domain(DomainPolicy(approval=Approval.MANUAL), NOW)
    assert await view.current() is before
    now[0] += 1.1
    after = await view.current()
    assert after.domain.approval is Approval.MANUAL
    now[0] += 1.1
    assert await view.current() is after


async def test_a_policy_broken_from_outside_leaves_the_last_good_one(database: Database, logged: Logged) -> None:
    policies = PolicyStore(database)
    await policies.put_manufacturer(record_of(MAKER), NOW)
    view = PolicyView(policies, refresh_seconds=0)
    before = await view.current()

    def spoil(connection: object) -> None:
        connection.execute(text("UPDATE policies SET document = '{}'"))  # type: ignore[attr-defined] # a Connection
        connection.execute(text("UPDATE policy_revision SET revision = revision + 1"))  # type: ignore[attr-defined] # as above

    await database.write(spoil)
    assert await view.current() is before
    (told,) = logged()
    assert (told["event"], told["level"], told["reason"]) == ("policy not read", "error", "policy-malformed")
    assert told["stays_at_revision"] == before.revision
    with pytest.raises(Misconfigured):
        await policies.load()


def test_the_strict_choice_is_the_default_everywhere() -> None:
    rules = record_of(MAKER).audit
    assert rules.unexpected_domain is rules.foreign_nonceless is rules.log_unreachable is Treatment.REFUSE
    assert not any(getattr(record_of(MAKER), name) for name in record_of(MAKER).__slots__ if name.startswith("unsafe_"))


async def test_a_certificate_that_was_revoked_meanwhile_is_not_renewed(database: Database) -> None:
    """The renewal was looked at before the operator revoked, and is written after."""
    store, pledge = Store(database), pledge_of(fresh())
    device = await store.request(pledge, ASKED, VOUCHERED, b"voucher", "")
    device = await store.advance(device, change(Event.IMPRINT, Event.LOG_ACCEPT))
    plant = Domain()
    old, new = plant.ldevid("SN-old").certificate, plant.ldevid("SN-new").certificate
    device = await store.certificate(device, old, change(Event.ENROLL, csr_sha256="c" * 64))
    assert await store.issued(old) is not None
    await Store(database).revoke(fingerprint(old).hex(), NOW)  # by another process
    with pytest.raises(Refused, match="certificate-revoked"):
        await store.certificate(device, new, change(Event.RENEW, csr_sha256="d" * 64), renews=old)
    assert [issued.fingerprint for issued in await store.issued_to(device.id)] == [fingerprint(old).hex()]
    assert (await Store(database).device_by_id(device.id)).state is State.ENROLLED


async def test_every_step_of_a_device_is_one_line_in_the_log(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, object]] = []

    class Listening:
        def info(self, event: str, **values: object) -> None:
            told.append({"event": event} | values)

    monkeypatch.setattr("brski_registrar.store.log", Listening())
    store, pledge = Store(database), pledge_of("SN-77")
    device = await store.request(pledge, ASKED, VOUCHERED, b"the voucher", "")
    device = await store.advance(device, change(Event.FAIL, reason="voucher rejected"))
    await store.advance(device, change())
    assert {(each["event"], each["serial_number"], each["manufacturer"]) for each in told} == {
        ("device changed", "SN-77", "Example Maker")
    }
    assert [(each["state"], each["events"], each["reason"]) for each in told] == [
        ("vouchered", "request, voucher", ""),
        ("failed", "fail", "voucher rejected"),
    ]


async def test_the_nonces_of_a_devices_vouchers(database: Database) -> None:
    store, pledge = Store(database), pledge_of(fresh())
    assert await store.nonces(1) == frozenset()
    device = await store.request(pledge, ASKED, VOUCHERED, b"voucher", "")
    for nonce in ("two", None):
        device = await store.request(pledge, ASKED._replace(nonce=nonce), VOUCHERED, b"voucher", "")
    assert await store.nonces(device.id) == {"nonce", "two"}
