"""The operator's decisions in the database, and the registrar's view of them.

Whoever changes something here raises the policy's revision in the same unit. A running registrar looks at the revision
now and then (`PolicyView.current`), so a change made by the command line or by another process counts within
REFRESH_SECONDS, one made through the view at once. An entry of the allow-list that was just read for a voucher request
is believed as long (`recent`) when the device's audit log is judged.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, update

from brski_common import logs
from brski_common.database import Database
from brski_common.errors import BrskiError, Malformed, Misconfigured, Unknown
from brski_common.prepared import Prepared
from brski_registrar.identity import Maker, Trust
from brski_registrar.policy import Admission, DomainPolicy, Manufacturer, read_record, write_record
from brski_registrar.recent import Recent
from brski_registrar.schema import admissions, policies, policy_revision

REFRESH_SECONDS: Final = 1.0
MAX_NAME: Final = 200  # characters
MAX_LISTED: Final = 10_000  # entries of the allow-list in one listing

log = logs.logger("registrar")

_MANUFACTURER, _DOMAIN = "manufacturer", "domain"

_REVISION: Final = select(policy_revision.c.revision)
_NEXT_REVISION: Final = update(policy_revision).values(revision=policy_revision.c.revision + 1)
_POLICIES: Final = select(policies).order_by(policies.c.kind, policies.c.name)
_FORGET_POLICY: Final = delete(policies).where(
    policies.c.kind == bindparam("b_kind"), policies.c.name == bindparam("b_name")
)
_NEW_POLICY: Final = insert(policies)
_ADMISSION: Final = Prepared(
    select(admissions).where(
        admissions.c.manufacturer == bindparam("manufacturer"), admissions.c.serial_number == bindparam("serial_number")
    )
)
_ADMISSIONS: Final = (
    select(admissions)
    .where(admissions.c.manufacturer == bindparam("manufacturer"))
    .order_by(admissions.c.serial_number)
    .limit(MAX_LISTED)
)
_FORGET_ADMISSION: Final = delete(admissions).where(
    admissions.c.manufacturer == bindparam("b_manufacturer"), admissions.c.serial_number == bindparam("b_serial_number")
)
_NEW_ADMISSION: Final = insert(admissions)


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole of it at one revision."""

    revision: int
    trust: Trust
    domain: DomainPolicy


class PolicyStore:
    """Reads and changes what the operator decides."""

    def __init__(self, database: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.database = database
        self._seen: Recent[tuple[str, str], tuple[Admission | None]] = Recent(monotonic)

    async def revision(self) -> int:
        """A number that grows with every change."""
        return await self.database.read(_revision)

    async def load(self) -> Policy:
        """Everything as it stands; raises Misconfigured, which names the record that is wrong."""
        revision, rows = await self.database.read(lambda connection: (_revision(connection), _documents(connection)))
        makers = [_maker(row) for row in rows if row["kind"] == _MANUFACTURER]
        domains = [read_record(DomainPolicy, row["document"]) for row in rows if row["kind"] == _DOMAIN]
        return Policy(revision, Trust(makers), domains[0] if domains else DomainPolicy())

    async def put_manufacturer(self, record: Manufacturer, now: datetime) -> None:
        """Add a maker or replace its record; raises Misconfigured for anchors, OIDs or a name that cannot be used."""
        if not 0 < len(record.name) <= MAX_NAME or not record.name.isprintable():
            raise Misconfigured("policy-malformed", f"a manufacturer's name has 1 to {MAX_NAME} printable characters")
        if not record.idevid_anchors.strip():
            raise Misconfigured("policy-malformed", f"{record.name}: without IDevID anchors nothing could be admitted")
        _parse_maker(record)
        await self._put(_MANUFACTURER, record.name, write_record(record), now)

    async def remove_manufacturer(self, name: str) -> None:
        """Forget a maker; its allow-list stays. Raises Unknown."""

        def unit(connection: Connection) -> None:
            values = {"b_kind": _MANUFACTURER, "b_name": name}
            if not connection.execute(_FORGET_POLICY, values).rowcount:
                raise Unknown("manufacturer-unknown", name)
            connection.execute(_NEXT_REVISION)

        await self.database.write(unit)

    async def put_domain(self, record: DomainPolicy, now: datetime) -> None:
        """Replace what holds for every device."""
        await self._put(_DOMAIN, _DOMAIN, write_record(record), now)

    def saw(self, manufacturer: str, serial_number: str, admission: Admission | None) -> None:
        """Remember for a moment what somebody read in a unit of his own."""
        self._seen.put((manufacturer, serial_number), (admission,))

    async def admission(self, manufacturer: str, serial_number: str) -> Admission | None:
        """The entry of one device, None if it is not on the list."""
        seen = self._seen.get((manufacturer, serial_number))
        if seen is not None:
            return seen[0]
        return await self.database.read(lambda connection: read_admission(connection, manufacturer, serial_number))

    async def admissions(self, manufacturer: str) -> tuple[Admission, ...]:
        """The allow-list of a maker, by serial number."""
        values = {"manufacturer": manufacturer}
        rows = await self.database.read(lambda connection: connection.execute(_ADMISSIONS, values).mappings().all())
        return tuple(_admission(row) for row in rows)

    async def allow(self, admission: Admission, now: datetime) -> None:
        """Put a device on the allow-list, or replace its entry."""
        await self.allow_all((admission,), now)

    async def allow_all(self, entries: tuple[Admission, ...], now: datetime) -> None:
        """Put many devices on the allow-list, as from a delivery note: all or none."""

        def unit(connection: Connection) -> None:
            for entry in entries:
                key = {"b_manufacturer": entry.manufacturer, "b_serial_number": entry.serial_number}
                connection.execute(_FORGET_ADMISSION, key)
                connection.execute(_NEW_ADMISSION, _admission_values(entry) | {"added_at": now})

        await self.database.write(unit)
        for entry in entries:
            self._seen.forget((entry.manufacturer, entry.serial_number))

    async def disallow(self, manufacturer: str, serial_number: str) -> bool:
        """Take a device off the list; False if it was not on it. What it has already is not taken away."""
        key = {"b_manufacturer": manufacturer, "b_serial_number": serial_number}
        taken = await self.database.write(lambda connection: connection.execute(_FORGET_ADMISSION, key).rowcount > 0)
        self._seen.forget((manufacturer, serial_number))
        return taken

    async def _put(self, kind: str, name: str, document: str, now: datetime) -> None:
        def unit(connection: Connection) -> None:
            connection.execute(_FORGET_POLICY, {"b_kind": kind, "b_name": name})
            values = {"kind": kind, "name": name, "document": document, "changed_at": now}
            connection.execute(_NEW_POLICY, values)
            connection.execute(_NEXT_REVISION)

        await self.database.write(unit)


class PolicyView:
    """The policy as a running registrar sees it."""

    def __init__(
        self,
        store: PolicyStore,
        *,
        refresh_seconds: float = REFRESH_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._refresh_seconds, self._monotonic = refresh_seconds, monotonic
        self._policy: Policy | None = None
        self._look_again_at = 0.0

    async def current(self) -> Policy:
        """The policy; at most `refresh_seconds` old."""
        if self._policy is None or self._monotonic() >= self._look_again_at:
            await self._look()
            self._look_again_at = self._monotonic() + self._refresh_seconds
        assert self._policy is not None
        return self._policy

    async def _look(self) -> None:
        if self._policy is None:
            self._policy = await self.store.load()
        elif await self.store.revision() != self._policy.revision:
            try:
                self._policy = await self.store.load()
            except Misconfigured as error:
                # Written past this program's checks. What held before still does, rather than nothing.
                told = {"reason": error.reason, "detail": error.detail}
                log.error("policy not read", stays_at_revision=self._policy.revision, **told)  # noqa: TRY400 -- no trace


def read_admission(connection: Connection, manufacturer: str, serial_number: str) -> Admission | None:
    """The entry of one device, inside somebody's unit of work."""
    values = {"manufacturer": manufacturer, "serial_number": serial_number}
    row = _ADMISSION.first(connection, values)
    return None if row is None else _admission(row._asdict())


def _revision(connection: Connection) -> int:
    revision: int = connection.execute(_REVISION).scalar_one()
    return revision


def _documents(connection: Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(_POLICIES).mappings()]


def _maker(row: dict[str, Any]) -> Maker:
    return _parse_maker(read_record(Manufacturer, row["document"]))


def _parse_maker(record: Manufacturer) -> Maker:
    try:
        bytes.fromhex("".join(record.audit.known_domains))
        return Maker.of(record)
    except (Malformed, ValueError) as error:
        detail = error.detail if isinstance(error, BrskiError) else str(error)
        raise Misconfigured("policy-malformed", f"{record.name}: {detail}") from error


def _admission(row: RowMapping) -> Admission:
    values = dict(row)
    del values["added_at"]
    return Admission(**values)


def _admission_values(admission: Admission) -> dict[str, Any]:
    return {name: getattr(admission, name) for name in Admission.__dataclass_fields__}
