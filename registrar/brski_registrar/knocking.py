"""Who was turned away: kept for the operator, who may want to let him in.

The laws of this file:

1. Whoever can open a connection gets here, so everything is bounded: MAX_KNOCKS rows of known makers' devices and as
   many others, the newest of each; texts are cut; what comes within KNOCK_WRITE_SECONDS is one write.
2. Devices of known makers, which cannot be invented, are not driven out by certificates that can.
3. A record helps the operator and decides nothing; one that is lost is no harm.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID
from sqlalchemy import Connection, and_, bindparam, delete, desc, exists, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from brski_common.certificates import PYCA_ERRORS, common_name, fingerprint, serial_number
from brski_common.database import Database
from brski_common.errors import BrskiError
from brski_common.telemetry import printable
from brski_registrar.identity import Pledge
from brski_registrar.records import Knock
from brski_registrar.schema import admissions, as_record, devices, knocks

NOT_LISTED: Final = "device-not-allowed"
MAX_KNOCKS: Final = 256  # rows of known makers' devices, and as many of others
KNOCK_WRITE_SECONDS: Final = 5.0  # between two writes
MAX_TEXT: Final = 200  # characters
MAX_DETAIL: Final = 400

_COLUMNS: Final = tuple(knocks.columns.keys())
_AGAIN: Final = (
    update(knocks)
    .where(knocks.c.fingerprint == bindparam("b_fingerprint"))
    .values(
        {name: bindparam(name) for name in ("is_known", "manufacturer", "serial_number", "reason", "detail", "address")}
    )
    .values(last_at=bindparam("last_at"), count=knocks.c.count + bindparam("more"))
)
_NEW: Final = insert(knocks)
_FORGET: Final = delete(knocks).where(
    knocks.c.fingerprint.in_(
        select(knocks.c.fingerprint)
        .where(knocks.c.is_known == bindparam("b_is_known"))
        .order_by(desc(knocks.c.last_at), knocks.c.fingerprint)
        .offset(MAX_KNOCKS)
    )
)
# Those who have since become devices, or were put on the allow-list, do not wait for the operator any more.
_LISTED: Final = (
    select(knocks)
    .outerjoin(devices, and_(devices.c.fingerprint == knocks.c.fingerprint, devices.c.changed_at >= knocks.c.last_at))
    .where(
        devices.c.id.is_(None),
        ~exists().where(
            knocks.c.reason == NOT_LISTED,
            admissions.c.manufacturer == knocks.c.manufacturer,
            admissions.c.serial_number == knocks.c.serial_number,
        ),
    )
    .order_by(desc(knocks.c.last_at), knocks.c.fingerprint)
    .limit(2 * MAX_KNOCKS)
)


class Knocking:
    """Remembers who was turned away; `monotonic` is a clock in seconds."""

    def __init__(self, database: Database, monotonic: Callable[[], float]) -> None:
        self._database, self._monotonic = database, monotonic
        self._pending: dict[bool, dict[str, Knock]] = {True: {}, False: {}}
        self._next_write = monotonic()

    async def heard(self, knock: Knock) -> None:
        """Remember a knock; it is written at once, or with others within KNOCK_WRITE_SECONDS."""
        waiting = self._pending[knock.is_known]
        before = waiting.get(knock.fingerprint)
        if before is not None:
            knock = replace(knock, first_at=before.first_at, count=before.count + knock.count)
        elif len(waiting) >= MAX_KNOCKS:
            await self.write()
            if len(waiting) >= MAX_KNOCKS:
                return
        waiting[knock.fingerprint] = knock
        await self.write()

    async def write(self, *, at_once: bool = False) -> None:
        """Write what waits, if it is time to; raises nothing, because nobody's request may fail for this."""
        if not at_once and self._monotonic() < self._next_write:
            return
        found = [knock for waiting in self._pending.values() for knock in waiting.values()]
        if not found:
            return
        self._next_write = self._monotonic() + KNOCK_WRITE_SECONDS
        for waiting in self._pending.values():
            waiting.clear()
        try:
            await _written(self._database, found)
        except (BrskiError, SQLAlchemyError):
            return  # law 3; the database's own trouble is told elsewhere


async def turned_away(database: Database) -> tuple[Knock, ...]:
    """Who was turned away and has not been admitted since, the last first."""
    rows = await database.read(lambda connection: connection.execute(_LISTED).all())
    return tuple(as_record(Knock, row) for row in rows)


def of_pledge(pledge: Pledge, error: BrskiError, address: str, now: datetime) -> Knock:
    """The knock of a known maker's device."""
    return _knock(pledge.fingerprint, (pledge.manufacturer.name, pledge.serial_number), error, address, now, known=True)


def of_stranger(certificate: x509.Certificate, error: BrskiError, address: str, now: datetime) -> Knock:
    """The knock of somebody whose certificate says who he is, and whom nobody believes."""
    said = _name(certificate.issuer, NameOID.ORGANIZATION_NAME) or _name(certificate.issuer, NameOID.COMMON_NAME)
    return _knock(fingerprint(certificate).hex(), (said, _serial(certificate)), error, address, now, known=False)


def _knock(name: str, who: tuple[str, str], error: BrskiError, address: str, now: datetime, *, known: bool) -> Knock:
    manufacturer, serial = who
    return Knock(
        fingerprint=name,
        is_known=known,
        manufacturer=printable(manufacturer, MAX_TEXT),
        serial_number=printable(serial, MAX_TEXT),
        reason=error.reason,
        detail=printable(error.detail, MAX_DETAIL),
        address=address,
        first_at=now,
        last_at=now,
        count=1,
    )


def _name(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    try:
        found = name.get_attributes_for_oid(oid)
    except PYCA_ERRORS:
        return ""
    return str(found[0].value) if found else ""


def _serial(certificate: x509.Certificate) -> str:
    try:
        return serial_number(certificate)
    except BrskiError:
        return common_name(certificate)


async def _written(database: Database, found: list[Knock]) -> None:
    def unit(connection: Connection) -> None:
        for knock in found:
            _put(connection, knock)
        for is_known in (True, False):
            connection.execute(_FORGET, {"b_is_known": is_known})

    try:
        await database.write(unit)
    except IntegrityError:
        await database.write(unit)  # another process was first: now it is a knock again


def _put(connection: Connection, knock: Knock) -> None:
    values = {name: getattr(knock, name) for name in _COLUMNS}
    again = values | {"b_fingerprint": knock.fingerprint, "more": knock.count}
    for name in ("fingerprint", "first_at", "count"):
        del again[name]
    if not connection.execute(_AGAIN, again).rowcount:
        connection.execute(_NEW, values)
