"""What the MASA remembers: devices and their owners (`registry`), and the log of vouchers.

The laws of this file:

1. It stores and finds, it decides nothing. What it gives back are the values of `policy` and `audit`.
2. `append` is the only way into the audit log: one durable unit that links the entry to the one before it. On
   PostgreSQL writers of several processes wait for each other there; SQLite has one writer anyway.
3. A change of ownership ends what the log entries before it claim (`released_after`).
"""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, Final, Self

from cryptography import x509
from sqlalchemy import Connection, bindparam, delete, func, insert, select

from brski_common.certificates import load_certificate
from brski_common.database import Database
from brski_common.errors import Refused, Unknown
from brski_common.prepared import Prepared
from brski_common.voucher import Assertion
from brski_masa import registry
from brski_masa.audit import FIRST, Entry, Link, digest
from brski_masa.parties import Device, DevicePolicy, Identity, IdentityKind, Owner, Pin
from brski_masa.registry import LAST_PIN, AnyRow, name_hash
from brski_masa.schema import audit_links, audit_log, devices

MIGRATIONS: Final = "brski_masa.migrations"
CHAIN_LOCK: Final = 0x6D617361  # PostgreSQL's advisory lock while an entry is appended
MAX_ENTRIES_READ: Final = 1000  # of one device; older ones are only counted

_ASSERTIONS = {each.value: each for each in Assertion}
_NEWEST = Prepared(select(audit_log.c.number, audit_log.c.hash).order_by(audit_log.c.number.desc()).limit(1))
_NEWEST_PIN = Prepared(select(LAST_PIN.label("pin")).select_from(devices).where(devices.c.id == bindparam("device")))
_INSERT_ENTRY = Prepared(insert(audit_log), audit_log.columns.keys())
_OF_DEVICE = (audit_log.c.device_id == bindparam("device"), audit_log.c.number <= bindparam("up_to"))
_ENTRIES = Prepared(select(audit_log).where(*_OF_DEVICE).order_by(audit_log.c.number.desc()).limit(MAX_ENTRIES_READ))
_COUNT = select(func.count()).select_from(audit_log).where(*_OF_DEVICE)
_LOCK = select(func.pg_advisory_xact_lock(CHAIN_LOCK))
_END: Final = 2**31 - 1  # past every entry


class Store:
    """The MASA's database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    def open(cls, url: str) -> Self:
        """Open the database and bring its schema up to date; blocks; raises Misconfigured."""
        return cls(Database.open(url, migrations=MIGRATIONS))

    async def close(self) -> None:
        """Finish what is queued and let go."""
        await self.database.close()

    # Devices

    async def find_devices(self, serial: str) -> list[Device]:
        """The devices with this serial number, of any issuer, each with its owner and the owner's identities."""
        return await self.database.read(partial(registry.find_devices, serial=serial))

    async def register(
        self,
        certificate: x509.Certificate,
        now: datetime,
        *,
        owner: str | None = None,
        policy: DevicePolicy | None = None,
        unsafe_shared_key: bool = False,
    ) -> int:
        """Add a device by its IDevID, with an owner who is added too; its id.

        Raises Refused `device-registered` if serial number and issuer are there with another key, `key-taken` if
        another device has the key, unless `unsafe_shared_key`.
        """
        return await self.database.write(
            partial(
                registry.register,
                certificate=certificate,
                now=now,
                owner=owner,
                policy=policy,
                unsafe_shared_key=unsafe_shared_key,
            )
        )

    async def assign(self, device_id: int, owner: str | None, now: datetime) -> None:
        """Give the device to an owner, or to nobody: what was claimed before is void; raises Unknown."""
        await self.database.write(partial(registry.assign, device_id=device_id, owner=owner, now=now))

    async def change_device(self, device_id: int, **values: str | None) -> None:
        """Set `policy`, `blocked`, `formats` or `content_type`."""
        await self.database.write(lambda connection: registry.change_device(connection, device_id, **values))

    async def list_devices(
        self, *, serial: str | None = None, owner: str | None = None, limit: int = 1000
    ) -> list[Device]:
        """Devices for the operator, newest first."""
        return await self.database.read(partial(registry.list_devices, serial=serial, owner=owner, limit=limit))

    async def certificate_of(self, device_id: int) -> x509.Certificate:
        """The device's registered IDevID; raises Unknown."""
        statement = select(devices.c.certificate).where(devices.c.id == device_id)
        found = await self.database.read(lambda connection: connection.execute(statement).scalar())
        if found is None:
            raise Unknown("device-unknown", str(device_id))
        return load_certificate(found)

    # Owners

    async def put_owner(
        self, name: str, now: datetime, *, pin: Pin | None = None, nonceless: bool | None = None
    ) -> int:
        """Add an owner, or change the one of that name; its id."""
        return await self.database.write(partial(registry.put_owner, name=name, now=now, pin=pin, nonceless=nonceless))

    async def add_certificate(self, owner: str, kind: IdentityKind, certificate: x509.Certificate) -> None:
        """Recognise an owner by the key of a certificate; raises Unknown, Refused `identity-taken`."""
        unit = partial(registry.add_certificate, owner=owner, kind=kind, certificate=certificate)
        await self.database.write(unit)

    async def add_user(self, owner: str, user: str, verifier: str) -> None:
        """Recognise an owner by a user name; `verifier` replaces an earlier one; raises Unknown, Refused."""
        await self.database.write(partial(registry.add_user, owner=owner, user=user, verifier=verifier))

    async def list_owners(self) -> list[Owner]:
        """Every owner with its identities."""
        return await self.database.read(registry.list_owners)

    async def find_identities(
        self, keys: Iterable[bytes], issuers: Iterable[x509.Name], user: str | None
    ) -> list[Identity]:
        """Identities of any owner that a request could show: by keys, by certificates right above, by user name."""
        values = [key.hex() for key in keys] + ([user] if user is not None else [])
        unit = partial(registry.find_identities, values=values, issuers=[name_hash(name) for name in issuers])
        return await self.database.read(unit)

    async def former_identities(self, device_id: int) -> list[Identity]:
        """The identities of all who ever owned the device."""
        return await self.database.read(partial(registry.former_identities, device_id=device_id))

    async def verifier_of(self, user: str) -> str | None:
        """The verifier of an HTTP user, None if there is no such user."""
        return await self.database.read(partial(registry.verifier_of, user=user))

    # The audit log

    async def append(self, entry: Entry, *, claims: frozenset[bytes] | None = None) -> int:
        """Write an entry durably; its number. This is what has to be done before a voucher leaves.

        With `claims` the device must still be free, or claimed by one of these keys: else Refused `device-claimed`.
        """
        return await self.database.write(lambda connection: _append(connection, entry, claims))

    async def entries_of(self, device_id: int, up_to: int | None = None) -> tuple[list[Entry], int]:
        """The newest entries of a device, newest first, and how many older ones were not read."""
        return await self.database.read(lambda connection: _entries(connection, device_id, up_to))

    async def chain(self) -> list[Link]:
        """The whole log from its first entry."""
        return await self.database.read(lambda connection: list(_links(connection)))

    async def list_entries(self, *, serial: str | None = None, limit: int = 1000) -> list[Link]:
        """The newest entries, newest first."""
        return await self.database.read(lambda connection: _list_entries(connection, serial, limit))

    async def add_link(self, token: str, device_id: int, now: datetime, expires_on: datetime) -> None:
        """Remember an unguessable link to the device's log as it is now; links out of date are dropped."""
        await self.database.write(lambda connection: _add_link(connection, token, device_id, now, expires_on))

    async def follow_link(self, token: str, now: datetime) -> tuple[int, int]:
        """The device and the last entry a link shows; raises Unknown."""
        statement = select(audit_links).where(audit_links.c.token_sha256 == _token_hash(token))
        row = await self.database.read(lambda connection: connection.execute(statement).first())
        if row is None or row.expires_on <= now:
            raise Unknown("audit-log-link-unknown", "no such link, or it is out of date")
        return row.device_id, row.up_to


def create(url: str) -> None:
    """Make the tables, so that the service need not load Alembic for it; blocks; raises Misconfigured."""

    async def open_and_close() -> None:
        await Store.open(url).close()

    # A thread, because the caller may have an event loop of its own.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, open_and_close()).result()


def _append(connection: Connection, entry: Entry, claims: frozenset[bytes] | None) -> int:
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK)
    if claims is not None:
        holder = _NEWEST_PIN.first(connection, {"device": entry.device_id})
        if holder is not None and holder.pin is not None and holder.pin not in claims:
            raise Refused("device-claimed", f"{entry.serial_number} was claimed by another domain")
    newest = _NEWEST.first(connection, {})
    number, previous = (newest.number + 1, newest.hash) if newest else (1, FIRST)
    _INSERT_ENTRY.change(connection, _columns(number, entry) | {"hash": digest(previous, number, entry)})
    return int(number)


def _columns(number: int, entry: Entry) -> dict[str, Any]:
    return {
        "number": number,
        "device_id": entry.device_id,
        "serial_number": entry.serial_number,
        "idevid_issuer": entry.idevid_issuer,
        "date": entry.date,
        "domain_id": entry.domain_id,
        "pinned_key": entry.pinned_key,
        "nonce": entry.nonce,
        "assertion": str(entry.assertion),
        "expires_on": entry.expires_on,
        "owner": entry.owner,
        "request": entry.request,
        "requester": entry.requester,
        "renewal": entry.renewal,
    }


def _entry(row: AnyRow) -> Entry:
    return Entry(
        device_id=row.device_id,
        serial_number=row.serial_number,
        idevid_issuer=row.idevid_issuer,
        date=row.date,
        domain_id=row.domain_id,
        pinned_key=row.pinned_key,
        nonce=row.nonce,
        assertion=_ASSERTIONS[row.assertion],
        expires_on=row.expires_on,
        owner=row.owner,
        request=row.request,
        requester=row.requester,
        renewal=row.renewal,
    )


def _link(row: AnyRow) -> Link:
    return Link(row.number, _entry(row), row.hash)


def _entries(connection: Connection, device_id: int, up_to: int | None) -> tuple[list[Entry], int]:
    parameters = {"device": device_id, "up_to": _END if up_to is None else up_to}
    found = [_entry(row) for row in _ENTRIES.all(connection, parameters)]
    if len(found) < MAX_ENTRIES_READ:
        return found, 0
    return found, int(connection.execute(_COUNT, parameters).scalar_one()) - len(found)


def _links(connection: Connection) -> Iterator[Link]:
    return map(_link, connection.execute(select(audit_log).order_by(audit_log.c.number)))


def _list_entries(connection: Connection, serial: str | None, limit: int) -> list[Link]:
    statement = select(audit_log).order_by(audit_log.c.number.desc()).limit(limit)
    if serial is not None:
        statement = statement.where(audit_log.c.serial_number == serial)
    return list(map(_link, connection.execute(statement)))


def _add_link(connection: Connection, token: str, device_id: int, now: datetime, expires_on: datetime) -> None:
    connection.execute(delete(audit_links).where(audit_links.c.expires_on <= now))
    newest = select(func.coalesce(func.max(audit_log.c.number), 0)).where(audit_log.c.device_id == device_id)
    values = {"token_sha256": _token_hash(token), "device_id": device_id, "expires_on": expires_on}
    connection.execute(insert(audit_links).values(up_to=connection.execute(newest).scalar(), **values))


def _token_hash(token: str) -> bytes:
    """Only the hash is stored: who reads the database cannot follow the links."""
    return hashlib.sha256(token.encode()).digest()
