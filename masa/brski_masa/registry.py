"""Devices and owners in the database: units of work on a connection, called by `store` alone."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from cryptography import x509
from sqlalchemy import Connection, Row, bindparam, func, insert, or_, select, update

from brski_common.artifact import Format
from brski_common.certificates import domain_id, idevid_issuer, serial_number, spki_sha256, to_der
from brski_common.errors import Refused, Unknown
from brski_common.prepared import Prepared
from brski_masa.parties import Device, DevicePolicy, Identity, IdentityKind, Owner, Pin
from brski_masa.schema import audit_log, devices, identities, owners, ownerships

AnyRow = Row[*tuple[Any, ...]]

# Statements are built once: building costs more than running (brski_common.database, law 4).

_POLICIES = {each.value: each for each in DevicePolicy}
_KINDS = {each.value: each for each in IdentityKind}
_PINS = {each.value: each for each in Pin}
LAST_PIN = (
    select(audit_log.c.pinned_key)
    .where(audit_log.c.device_id == devices.c.id, audit_log.c.number > devices.c.released_after)
    .order_by(audit_log.c.number.desc())
    .limit(1)
    .scalar_subquery()
)
_DEVICE_COLUMNS = (
    devices.c.id,
    devices.c.serial_number,
    devices.c.idevid_issuer,
    devices.c.spki_sha256,
    devices.c.policy,
    devices.c.blocked,
    devices.c.formats,
    devices.c.content_type,
    LAST_PIN.label("last_pinned_key"),
    owners.c.id.label("owner_id"),
    owners.c.name.label("owner_name"),
    owners.c.pin,
    owners.c.nonceless,
    identities.c.kind,
    identities.c.value,
    identities.c.certificate,
)
_JOINED = devices.outerjoin(owners, owners.c.id == devices.c.owner_id).outerjoin(
    identities, identities.c.owner_id == owners.c.id
)
_BY_SERIAL = Prepared(
    select(*_DEVICE_COLUMNS).select_from(_JOINED).where(devices.c.serial_number == bindparam("serial"))
)
_IDENTITY_COLUMNS = (identities.c.owner_id, identities.c.kind, identities.c.value, identities.c.certificate)
_IDENTITIES = select(*_IDENTITY_COLUMNS).where(
    or_(
        identities.c.value.in_(bindparam("values", expanding=True)),
        identities.c.issuer_hash.in_(bindparam("issuers", expanding=True)),
    )
)
_VERIFIER = select(identities.c.verifier).where(
    identities.c.kind == IdentityKind.HTTP_USER.value, identities.c.value == bindparam("user")
)
_FORMER = (
    select(*_IDENTITY_COLUMNS)
    .select_from(identities.join(ownerships, ownerships.c.owner_id == identities.c.owner_id))
    .where(ownerships.c.device_id == bindparam("device"))
)


# Devices


def find_devices(connection: Connection, serial: str) -> list[Device]:
    """The devices with a serial number, with owners and their identities."""
    return _grouped(_BY_SERIAL.all(connection, {"serial": serial}))


def list_devices(connection: Connection, serial: str | None, owner: str | None, limit: int) -> list[Device]:
    """The newest devices first."""
    chosen = select(devices.c.id).outerjoin(owners, owners.c.id == devices.c.owner_id)
    if serial is not None:
        chosen = chosen.where(devices.c.serial_number == serial)
    if owner is not None:
        chosen = chosen.where(owners.c.name == owner)
    chosen = chosen.order_by(devices.c.id.desc()).limit(limit)
    statement = select(*_DEVICE_COLUMNS).select_from(_JOINED).where(devices.c.id.in_(chosen))
    return _grouped(connection.execute(statement.order_by(devices.c.id.desc())))


def register(
    connection: Connection,
    certificate: x509.Certificate,
    now: datetime,
    owner: str | None = None,
    policy: DevicePolicy | None = None,
    *,
    unsafe_shared_key: bool = False,
) -> int:
    """Add a device, or find it again; its id. A new owner is added. Raises Refused `device-registered`, `key-taken`."""
    device_id = _known(connection, certificate)
    if device_id is None:
        if not unsafe_shared_key:
            _refuse_shared_key(connection, certificate)
        device_id = _insert_device(connection, certificate, now)
    if policy is not None:
        change_device(connection, device_id, policy=policy.value)
    if owner is not None:
        put_owner(connection, owner, now)
        assign(connection, device_id, owner, now)
    return device_id


def change_device(connection: Connection, device_id: int, **values: str | None) -> None:
    """Set columns of a device."""
    connection.execute(update(devices).where(devices.c.id == device_id).values(**values))


def assign(connection: Connection, device_id: int, owner: str | None, now: datetime) -> None:
    """Change the owner: what the log says from before no longer claims the device. Raises Unknown."""
    owner_id = None if owner is None else _owner_id(connection, owner)
    current = connection.execute(select(devices.c.owner_id).where(devices.c.id == device_id)).scalar()
    if current is not None and current == owner_id:
        return
    newest = connection.execute(select(func.coalesce(func.max(audit_log.c.number), 0))).scalar()
    changes = update(devices).where(devices.c.id == device_id)
    connection.execute(changes.values(owner_id=owner_id, released_after=newest))
    running = (ownerships.c.device_id == device_id) & ownerships.c.until.is_(None)
    connection.execute(update(ownerships).where(running).values(until=now))
    if owner_id is not None:
        connection.execute(insert(ownerships).values(device_id=device_id, owner_id=owner_id, since=now))


def _known(connection: Connection, certificate: x509.Certificate) -> int | None:
    serial = serial_number(certificate)
    same = select(devices.c.id, devices.c.spki_sha256).where(
        devices.c.serial_number == serial, devices.c.idevid_issuer == idevid_issuer(certificate)
    )
    known = connection.execute(same).first()
    if known is not None and known.spki_sha256 != spki_sha256(certificate):
        raise Refused("device-registered", f"{serial} is registered with another key")
    return None if known is None else int(known.id)


def _refuse_shared_key(connection: Connection, certificate: x509.Certificate) -> None:
    """A DevID key is one device's alone (IEEE 802.1AR-2018, 6): who holds it twice can pass for both.

    The same serial number of another issuer is the same device with a new certificate.
    """
    serial = serial_number(certificate)
    same = select(devices.c.serial_number).where(
        devices.c.spki_sha256 == spki_sha256(certificate), devices.c.serial_number != serial
    )
    holder = connection.execute(same.limit(1)).scalar()
    if holder is not None:
        advice = "is this the request of the right device? each has to make a key of its own"
        raise Refused("key-taken", f"the key of {serial} is registered for {holder}: {advice}")


def _insert_device(connection: Connection, certificate: x509.Certificate, now: datetime) -> int:
    statement = insert(devices).values(
        serial_number=serial_number(certificate),
        idevid_issuer=idevid_issuer(certificate),
        certificate=to_der(certificate),
        spki_sha256=spki_sha256(certificate),
        registered_on=now,
        released_after=0,
    )
    return int(connection.execute(statement.returning(devices.c.id)).scalar_one())


def _grouped(rows: Iterable[AnyRow]) -> list[Device]:
    """One row for each identity of the owner; they become one device."""
    grouped: dict[int, list[AnyRow]] = {}
    for row in rows:
        grouped.setdefault(row.id, []).append(row)
    return [_device(rows) for rows in grouped.values()]


def _device(rows: Sequence[AnyRow]) -> Device:
    row = rows[0]
    return Device(
        id=row.id,
        serial_number=row.serial_number,
        idevid_issuer=row.idevid_issuer,
        spki_sha256=row.spki_sha256,
        owner=_owner(rows),
        policy=None if row.policy is None else _POLICIES[row.policy],
        blocked=row.blocked,
        last_pinned_key=row.last_pinned_key,
        formats=_formats(row.formats),
        content_type=row.content_type,
    )


def _formats(names: str | None) -> tuple[Format, ...]:
    return tuple([Format[name] for name in names.split(",") if name]) if names else ()


def _owner(rows: Sequence[AnyRow]) -> Owner | None:
    row = rows[0]
    if row.owner_id is None:
        return None
    known = tuple([_identity(each) for each in rows if each.kind is not None])
    return Owner(id=row.owner_id, name=row.owner_name, identities=known, pin=_PINS[row.pin], nonceless=row.nonceless)


# Owners


def put_owner(
    connection: Connection, name: str, now: datetime, pin: Pin | None = None, nonceless: bool | None = None
) -> int:
    """Add an owner, or change what is given of the one with that name; its id."""
    found = connection.execute(select(owners.c.id).where(owners.c.name == name)).scalar()
    if found is None:
        values = {"name": name, "pin": (pin or Pin.AUTO).value, "nonceless": nonceless is not False}
        statement = insert(owners).values(**values, created_on=now).returning(owners.c.id)
        return int(connection.execute(statement).scalar_one())
    changes: dict[str, str | bool] = {} if pin is None else {"pin": pin.value}
    if nonceless is not None:
        changes["nonceless"] = nonceless
    if changes:
        connection.execute(update(owners).where(owners.c.id == found).values(**changes))
    return int(found)


def add_certificate(connection: Connection, owner: str, kind: IdentityKind, certificate: x509.Certificate) -> None:
    """Recognise an owner by a certificate's key; raises Unknown, Refused."""
    key = spki_sha256(certificate)
    _refuse_same_domain_id(connection, certificate, key)
    columns = {
        "certificate": to_der(certificate),
        "domain_id": domain_id(certificate),
        "issuer_hash": name_hash(certificate.subject),
    }
    _put_identity(connection, owner, kind, key.hex(), columns)


def add_user(connection: Connection, owner: str, user: str, verifier: str) -> None:
    """Recognise an owner by a user name; raises Unknown, Refused."""
    _put_identity(connection, owner, IdentityKind.HTTP_USER, user, {"verifier": verifier})


def find_identities(connection: Connection, values: list[str], issuers: list[bytes]) -> list[Identity]:
    """Identities of any owner with one of these values, or with a certificate of one of these subjects."""
    return [_identity(row) for row in connection.execute(_IDENTITIES, {"values": values, "issuers": issuers})]


def former_identities(connection: Connection, device_id: int) -> list[Identity]:
    """The identities of everybody who ever owned the device."""
    return [_identity(row) for row in connection.execute(_FORMER, {"device": device_id})]


def verifier_of(connection: Connection, user: str) -> str | None:
    """What an HTTP user's password is checked with."""
    found: str | None = connection.execute(_VERIFIER, {"user": user}).scalar()
    return found


def list_owners(connection: Connection) -> list[Owner]:
    """Every owner, by name."""
    known: dict[int, list[Identity]] = {}
    for row in connection.execute(select(*_IDENTITY_COLUMNS)):
        known.setdefault(row.owner_id, []).append(_identity(row))
    return [
        Owner(
            id=row.id,
            name=row.name,
            identities=tuple(known.get(row.id, ())),
            pin=_PINS[row.pin],
            nonceless=row.nonceless,
        )
        for row in connection.execute(select(owners).order_by(owners.c.name))
    ]


def name_hash(name: x509.Name) -> bytes:
    """What a subject is found by."""
    return hashlib.sha256(name.public_bytes()).digest()


def _owner_id(connection: Connection, name: str) -> int:
    found = connection.execute(select(owners.c.id).where(owners.c.name == name)).scalar()
    if found is None:
        raise Unknown("owner-unknown", f"no owner {name!r}; add it with: brski-masa owner add")
    return int(found)


def _refuse_same_domain_id(connection: Connection, certificate: x509.Certificate, key: bytes) -> None:
    """Two domains on record never share a domainID (RFC 8995, 11.2)."""
    same = select(identities.c.value).where(identities.c.domain_id == domain_id(certificate))
    if any(value != key.hex() for value in connection.execute(same).scalars()):
        raise Refused("domain-id-taken", "another certificate on record has the same SubjectKeyIdentifier")


def _put_identity(
    connection: Connection, owner: str, kind: IdentityKind, value: str, columns: dict[str, bytes] | dict[str, str]
) -> None:
    owner_id = _owner_id(connection, owner)
    same = select(identities.c.id, identities.c.owner_id).where(
        identities.c.kind == kind.value, identities.c.value == value
    )
    known = connection.execute(same).first()
    if known is None:
        statement = insert(identities).values(owner_id=owner_id, kind=kind.value, value=value)
        connection.execute(statement.values(**columns))
    elif known.owner_id != owner_id:
        raise Refused("identity-taken", f"{kind.value} {value} belongs to another owner")
    else:
        connection.execute(update(identities).where(identities.c.id == known.id).values(**columns))


def _identity(row: AnyRow) -> Identity:
    return Identity(row.owner_id, _KINDS[row.kind], row.value, row.certificate)
