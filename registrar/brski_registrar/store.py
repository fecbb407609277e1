"""The registrar's durable memory: policy, devices, vouchers, certificates, and a journal that only grows.

The laws of this file:

1. Verbs of the registrar, not tables: what belongs together is one unit of work, durable when the call returns.
2. A device changes state only through `lifecycle.follow`, inside the unit that records it, so that of two requests at
   once each sees what the other did.
3. The journal is append-only; the database itself refuses anything else.
4. A record of a device or a certificate that was written here is believed for RECENT_SECONDS without asking the
   database; what is written next is still checked against the row itself. A decision about a voucher request reads.
5. Statements are built once (`schema`).
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from sqlalchemy import Connection, Select
from sqlalchemy.exc import IntegrityError

from brski_common import logs
from brski_common.certificates import fingerprint, to_der
from brski_common.database import Database
from brski_common.errors import NotYet, Refused, Unknown
from brski_common.telemetry import printable
from brski_registrar import lifecycle, schema
from brski_registrar.identity import Pledge
from brski_registrar.lifecycle import Event, Standing, State
from brski_registrar.policy import Admission
from brski_registrar.policy_store import read_admission
from brski_registrar.recent import Recent
from brski_registrar.records import Asked, Change, Device, Entry, Issued, Note, StoredVoucher
from brski_registrar.schema import MAX_LISTED, Row, as_record

MIGRATIONS: Final = "brski_registrar.migrations"
MAX_DETAIL: Final = 4000  # characters of one journal line

log = logs.logger("registrar")

Key = tuple[str, str, str]  # manufacturer, serial number, issuer


class Store:
    """The registrar's verbs on its database."""

    def __init__(self, database: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.database = database
        self._devices: Recent[Key, Device] = Recent(monotonic)
        self._issued: Recent[str, tuple[Issued, Key]] = Recent(monotonic)

    def _remember(self, device: Device, change: Change) -> Device:
        """Remember a device that was just written, and tell where it stands now."""
        self._devices.put(_key(device), device)
        if change.events and Event.DECLINE not in change.events:  # that is told with the answer, and who heard it
            is_refused = Event.LOG_REFUSE in change.events
            tell, event = (log.warning, "audit log refused") if is_refused else (log.info, "device changed")
            tell(
                event,
                state=str(device.state.told),
                serial_number=device.serial_number,
                manufacturer=device.manufacturer,
                events=", ".join(change.events),
                reason=device.reason,
                peer=change.address,
            )
        return device

    # Devices

    async def device(self, pledge: Pledge) -> Device | None:
        """The device that a pledge is, if it was ever admitted or held (law 4)."""
        recent = self._devices.get((pledge.manufacturer.name, pledge.serial_number, pledge.issuer.hex()))
        return recent or await self.database.read(lambda connection: _device(connection, pledge))

    async def device_by_id(self, device_id: int) -> Device:
        """One device; raises Unknown."""
        return await self.database.read(lambda connection: _device_by_id(connection, device_id))

    async def find(self, serial_number: str) -> tuple[Device, ...]:
        """Every device with that serial number: several makers may have one each."""
        return await self._all(Device, schema.BY_SERIAL, serial_number=serial_number)

    async def devices(self, count: int = MAX_LISTED) -> tuple[Device, ...]:
        """The devices that changed last, newest first."""
        return await self._all(Device, schema.LISTED, count=min(count, MAX_LISTED))

    async def silent_since(self, before: datetime) -> tuple[Device, ...]:
        """Devices that got their voucher before that time and have not said what they think of it."""
        return await self._all(Device, schema.SILENT, before=before)

    async def look_up(self, pledge: Pledge) -> tuple[Device | None, Admission | None]:
        """The device that a pledge is, and its entry on the allow-list, both as they are now."""
        record = pledge.manufacturer

        def unit(connection: Connection) -> tuple[Device | None, Admission | None]:
            return _device(connection, pledge), read_admission(connection, record.name, pledge.serial_number)

        return await self.database.read(unit)

    async def request(
        self, pledge: Pledge, asked: Asked, change: Change, voucher: bytes | None = None, assertion: str = ""
    ) -> Device:
        """Record what a pledge asked for and what came of it; raises Refused for a blocked device.

        A voucher is handed on only after this returned.
        """

        def unit(connection: Connection) -> Device:
            before = _device(connection, pledge)
            standing = lifecycle.follow(before.standing if before else _UNHEARD, change.events)
            device = _device_asking(pledge, asked, standing, change, before)
            if before is None:
                device = _insert(connection, device)
            else:
                _update(connection, device)
            if voucher is not None:
                schema.NEW_VOUCHER.insert(connection, _voucher_values(device, voucher, assertion, change.now))
            _write_notes(connection, device, change)
            return device

        try:
            device = await self.database.write(unit)
        except IntegrityError:
            device = await self.database.write(unit)  # another process was first: now it is no new device any more
        return self._remember(device, change)

    async def advance(self, device: Device, change: Change) -> Device:
        """Let events happen to a device; raises Refused where one is out of order, and then nothing happened."""
        after = await self.database.write(lambda connection: _advance(connection, device, change))
        return self._remember(after, change)

    # Vouchers and certificates

    async def voucher_for(self, device_id: int, pvr_sha256: str) -> StoredVoucher | None:
        """The voucher that answered this very request, if there was one."""
        return await self._first(StoredVoucher, schema.VOUCHER_FOR, device_id=device_id, pvr_sha256=pvr_sha256)

    async def vouchers(self, device_id: int) -> tuple[StoredVoucher, ...]:
        """Every voucher a device got, oldest first."""
        return await self._all(StoredVoucher, schema.VOUCHERS, device_id=device_id)

    async def nonces(self, device_id: int) -> frozenset[str]:
        """The nonces of every voucher that a device got here."""
        found = await self.database.read(
            lambda connection: connection.execute(schema.NONCES, {"device_id": device_id}).scalars().all()
        )
        return frozenset(found)

    async def certificate(
        self, device: Device, certificate: x509.Certificate, change: Change, *, renews: x509.Certificate | None = None
    ) -> Device:
        """Record a certificate before it is handed out; raises Refused where the device may have none (any more).

        `renews` is the certificate that it follows, which must not have been revoked by now.
        """
        issued = Issued(
            fingerprint=fingerprint(certificate).hex(),
            device_id=device.id,
            serial=f"{certificate.serial_number:x}",
            der=to_der(certificate),
            csr_sha256=change.csr_sha256 or "",
            issued_at=change.now,
            not_after=certificate.not_valid_after_utc,
            revoked_at=None,
        )
        values = issued._asdict()

        def unit(connection: Connection) -> Device:
            if renews is not None:
                _check_not_revoked(connection, renews)
            after = _advance(connection, device, change)
            schema.NEW_CERTIFICATE.change(connection, values)
            return after

        try:
            advanced = await self.database.write(unit)
        except IntegrityError:
            advanced = await self._certified_again(device, certificate, change)
        after = self._remember(advanced, change)
        self._issued.put(issued.fingerprint, (issued, _key(after)))
        return after

    async def _certified_again(self, device: Device, certificate: x509.Certificate, change: Change) -> Device:
        """A CA elsewhere may answer the same request with the same certificate, which is this device's already."""

        def unit(connection: Connection) -> Device:
            row = connection.execute(schema.ISSUED, {"fingerprint": fingerprint(certificate).hex()}).first()
            if row is None or row.device_id != device.id:
                raise Refused("certificate-of-another", f"{certificate.serial_number:x} was issued to another device")
            _check_not_revoked(connection, certificate)
            return _advance(connection, device, change)

        return await self.database.write(unit)

    async def issued(self, certificate: x509.Certificate) -> tuple[Issued, Device] | None:
        """The record of a certificate that was issued here, and whose it is; None for any other."""
        name = fingerprint(certificate).hex()
        recent = self._issued.get(name)
        device = self._devices.get(recent[1]) if recent else None
        if recent is not None and device is not None:
            return recent[0], device

        def unit(connection: Connection) -> tuple[Issued, Device] | None:
            row = connection.execute(schema.ISSUED, {"fingerprint": name}).first()
            return None if row is None else (as_record(Issued, row), _device_by_id(connection, row.device_id))

        return await self.database.read(unit)

    async def issued_for(self, device_id: int, csr_sha256: str) -> Issued | None:
        """The certificate that answered this very request, if one did."""
        return await self._first(Issued, schema.ISSUED_FOR, device_id=device_id, csr_sha256=csr_sha256)

    async def issued_to(self, device_id: int) -> tuple[Issued, ...]:
        """Every certificate of a device, oldest first."""
        return await self._all(Issued, schema.ISSUED_TO, device_id=device_id)

    async def revoke(self, certificate_fingerprint: str, now: datetime) -> bool:
        """Take a certificate (hex fingerprint) out of use; False if there was none to take."""
        self._issued.forget(certificate_fingerprint)
        values = {"b_fingerprint": certificate_fingerprint, "revoked_at": now}
        return await self.database.write(lambda connection: connection.execute(schema.REVOKE, values).rowcount > 0)

    # Journal

    async def note(self, pledge: Pledge, device: Device | None, note: Note, address: str, now: datetime) -> None:
        """Write about a pledge whose state does not change."""
        change = Change(events=(), notes=(note,), now=now, address=address)
        about = device or _device_asking(pledge, _NOTHING, _UNHEARD, change, None)
        await self.database.write(lambda connection: _write_notes(connection, about, change))

    async def note_of(self, serial_number: str, note: Note, address: str, now: datetime) -> None:
        """Write about a device that an RA speaks for, and that is no device of this registrar."""
        about = {"at": now, "device_id": None, "manufacturer": "", "serial_number": serial_number, "address": address}
        await self.database.write(lambda connection: _write_lines(connection, about, (note,)))

    async def journal(
        self, device_id: int | None = None, *, after: int = 0, count: int = MAX_LISTED
    ) -> tuple[Entry, ...]:
        """Lines of the journal in their order, from the one after `after` on: of one device or of all."""
        count = min(count, MAX_LISTED)
        if device_id is None:
            return await self._all(Entry, schema.JOURNAL, after=after, count=count)
        return await self._all(Entry, schema.JOURNAL_OF, device_id=device_id, after=after, count=count)

    async def _all(self, kind: type[Row], statement: Select[Any], **values: object) -> tuple[Row, ...]:
        rows = await self.database.read(lambda connection: connection.execute(statement, values).all())
        return tuple(as_record(kind, row) for row in rows)

    async def _first(self, kind: type[Row], statement: Select[Any], **values: object) -> Row | None:
        row = await self.database.read(lambda connection: connection.execute(statement, values).first())
        return None if row is None else as_record(kind, row)


_NOTHING: Final = Asked(media_type="", pvr_sha256="", nonce=None, masa="", rvr=None)
_UNHEARD: Final = Standing(State.NEW, is_barred=False)  # of a device that asks for the first time


def _device(connection: Connection, pledge: Pledge) -> Device | None:
    values = {
        "manufacturer": pledge.manufacturer.name,
        "serial_number": pledge.serial_number,
        "issuer": pledge.issuer.hex(),
    }
    row = schema.BY_PLEDGE.first(connection, values)
    return None if row is None else as_record(Device, row)


def _device_by_id(connection: Connection, device_id: int) -> Device:
    row = connection.execute(schema.BY_ID, {"id": device_id}).first()
    if row is None:
        raise Unknown("device-unknown", f"no device {device_id}")
    return as_record(Device, row)


def _device_asking(pledge: Pledge, asked: Asked, standing: Standing, change: Change, before: Device | None) -> Device:
    return Device(
        id=before.id if before else 0,
        manufacturer=pledge.manufacturer.name,
        serial_number=pledge.serial_number,
        issuer=pledge.issuer.hex(),
        state=standing.state,
        is_barred=standing.is_barred,
        reason=printable(change.reason),
        fingerprint=pledge.fingerprint,
        certificate=to_der(pledge.certificate),
        address=change.address,
        media_type=asked.media_type,
        pvr_sha256=asked.pvr_sha256,
        nonce=asked.nonce,
        masa=asked.masa,
        rvr=asked.rvr,
        csr_sha256="",
        created_at=before.created_at if before else change.now,
        changed_at=change.now,
    )


def _insert(connection: Connection, device: Device) -> Device:
    values = device._asdict()
    del values["id"]  # the database chooses it
    came_with = {name: values.pop(name) for name in schema.CAME_WITH}
    device_id = schema.NEW_DEVICE.insert(connection, values)
    schema.NEW_REQUEST.change(connection, {"device_id": device_id, **came_with})
    return device._replace(id=device_id)


def _update(connection: Connection, device: Device) -> None:
    values = device._asdict()
    asked = {name: values[name] for name in schema.ASKED_COLUMNS}
    connection.execute(schema.ASK, asked | {"b_id": device.id})
    came_with = {name: values[name] for name in schema.CAME_WITH}
    connection.execute(schema.ASK_WITH, came_with | {"b_device_id": device.id})


def _check_not_revoked(connection: Connection, certificate: x509.Certificate) -> None:
    revoked_at = connection.execute(schema.REVOKED_AT, {"fingerprint": fingerprint(certificate).hex()}).scalar()
    if revoked_at is not None:
        raise Refused("certificate-revoked", f"on {revoked_at.isoformat()}")


def _key(device: Device) -> Key:
    return device.manufacturer, device.serial_number, device.issuer


def _advance(connection: Connection, device: Device, change: Change) -> Device:
    """`device` may be old. If its row is not as expected, somebody was here in between: look, and decide again."""
    try:
        after = _changed(connection, device, change)
    except Refused:
        after = None
    if after is not None:
        return after
    fresh = _device_by_id(connection, device.id)
    after = _changed(connection, fresh, change)
    if after is None:
        raise NotYet("device-busy", f"device {device.id} changes all the time", 1.0)
    return after


def _changed(connection: Connection, device: Device, change: Change) -> Device | None:
    """The device after `change`, None if it does not stand where `device` says."""
    state, is_barred = lifecycle.follow(device.standing, change.events)
    values: dict[str, Any] = {
        "state": state,
        "is_barred": is_barred,
        "reason": printable(change.reason) if change.reason else "",
        "csr_sha256": device.csr_sha256 if change.csr_sha256 is None else change.csr_sha256,
        "changed_at": change.now,
    }
    expected = {"b_id": device.id, "b_state": device.state, "b_is_barred": device.is_barred}
    known = expected | {"b_csr_sha256": device.csr_sha256}
    if schema.ADVANCE.change(connection, values | known) != 1:
        return None
    after = device._replace(**values)
    _write_notes(connection, after, change)
    return after


def _voucher_values(device: Device, raw: bytes, assertion: str, now: datetime) -> dict[str, Any]:
    return {
        "device_id": device.id,
        "pvr_sha256": device.pvr_sha256,
        "media_type": device.media_type,
        "raw": raw,
        "nonce": device.nonce,
        "assertion": assertion,
        "received_at": now,
    }


def _write_notes(connection: Connection, device: Device, change: Change) -> None:
    about = {
        "at": change.now,
        "device_id": device.id or None,
        "manufacturer": device.manufacturer,
        "serial_number": device.serial_number,
        "address": change.address,
    }
    _write_lines(connection, about, change.notes)


def _write_lines(connection: Connection, about: dict[str, Any], notes: Sequence[Note]) -> None:
    """Write all lines of a unit in one statement; `about` is what they have in common."""
    if not notes:
        return
    values = dict(about)
    for line, (event, reason, detail) in enumerate(notes):
        values[f"event_{line}"], values[f"reason_{line}"] = event, reason
        values[f"detail_{line}"] = printable(detail, MAX_DETAIL) if detail else ""
    schema.new_lines(len(notes)).change(connection, values)
