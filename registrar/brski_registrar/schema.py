"""The registrar's tables, the statements on them, and how a row becomes a record.

`migrations` makes the tables. Each record (`records`) has the columns of its table as attributes, in the same order,
so that a row becomes a record without a word in between; a `Device` has those of two tables.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

from sqlalchemy import (
    BindParameter,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    desc,
    insert,
    literal,
    select,
    update,
)

from brski_common.database import UtcTime
from brski_common.prepared import Prepared
from brski_registrar.lifecycle import State
from brski_registrar.records import Device, Entry, Issued, Knock, StoredVoucher

MAX_LISTED: Final = 1000  # rows of one listing
MAX_LINES: Final = 32  # of the journal in one unit; an audit log has 20 findings at most

metadata = MetaData()

policies = Table(
    "policies",
    metadata,
    Column("kind", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("document", Text),
    Column("changed_at", UtcTime),
)
policy_revision = Table(
    "policy_revision", metadata, Column("id", Integer, primary_key=True), Column("revision", Integer)
)
admissions = Table(
    "admissions",
    metadata,
    Column("manufacturer", String, primary_key=True),
    Column("serial_number", String, primary_key=True),
    Column("purchased_on", UtcTime),
    Column("note", Text),
    Column("added_at", UtcTime),
    Column("voucher", LargeBinary),
    Column("voucher_type", String),
)
devices = Table(
    "devices",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("manufacturer", String),
    Column("serial_number", String),
    Column("issuer", String),
    Column("state", String),
    Column("is_barred", Boolean),
    Column("reason", Text),
    Column("fingerprint", String),
    Column("address", String),
    Column("media_type", String),
    Column("pvr_sha256", String),
    Column("nonce", String),
    Column("masa", String),
    Column("csr_sha256", String),
    Column("created_at", UtcTime),
    Column("changed_at", UtcTime),
)
# What a device came with when it last asked for a voucher: long, and untouched when its state changes.
requests = Table(
    "requests",
    metadata,
    Column("device_id", Integer, primary_key=True),
    Column("certificate", LargeBinary),
    Column("rvr", LargeBinary),
)
vouchers = Table(
    "vouchers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device_id", Integer),
    Column("pvr_sha256", String),
    Column("media_type", String),
    Column("raw", LargeBinary),
    Column("nonce", String),
    Column("assertion", String),
    Column("received_at", UtcTime),
)
certificates = Table(
    "certificates",
    metadata,
    Column("fingerprint", String, primary_key=True),
    Column("device_id", Integer),
    Column("serial", String),
    Column("der", LargeBinary),
    Column("csr_sha256", String),
    Column("issued_at", UtcTime),
    Column("not_after", UtcTime),
    Column("revoked_at", UtcTime),
)
journal = Table(
    "journal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcTime),
    Column("device_id", Integer),
    Column("manufacturer", String),
    Column("serial_number", String),
    Column("event", String),
    Column("reason", String),
    Column("detail", Text),
    Column("address", String),
)

knocks = Table(
    "knocks",
    metadata,
    Column("fingerprint", String, primary_key=True),
    Column("is_known", Boolean),
    Column("manufacturer", String),
    Column("serial_number", String),
    Column("reason", String),
    Column("detail", Text),
    Column("address", String),
    Column("first_at", UtcTime),
    Column("last_at", UtcTime),
    Column("count", Integer),
)

# Statements, built once: a statement built anew for every call costs four times its execution.

CAME_WITH: Final = ("certificate", "rvr")
_DEVICE: Final = tuple((requests if name in CAME_WITH else devices).c[name] for name in Device._fields)
_DEVICES: Final = select(*_DEVICE).join(requests, requests.c.device_id == devices.c.id)

BY_PLEDGE: Final = Prepared(
    _DEVICES.where(
        devices.c.manufacturer == bindparam("manufacturer"),
        devices.c.serial_number == bindparam("serial_number"),
        devices.c.issuer == bindparam("issuer"),
    )
)
BY_ID: Final = _DEVICES.where(devices.c.id == bindparam("id"))
BY_SERIAL: Final = (
    _DEVICES.where(devices.c.serial_number == bindparam("serial_number")).order_by(devices.c.id).limit(MAX_LISTED)
)
LISTED: Final = _DEVICES.order_by(desc(devices.c.changed_at), desc(devices.c.id)).limit(bindparam("count"))
# In the statement's own text: only then does it use the index of the devices in this state.
_VOUCHERED: Final = literal(State.VOUCHERED.value, literal_execute=True)
SILENT: Final = (
    _DEVICES.where(devices.c.state == _VOUCHERED, devices.c.changed_at < bindparam("before"))
    .order_by(devices.c.changed_at)
    .limit(MAX_LISTED)
)
_TOLD_COLUMNS: Final = ("state", "reason", "csr_sha256", "changed_at")
ADVANCED_COLUMNS: Final = ("is_barred", *_TOLD_COLUMNS)
# Without the bar: asking never changes it, and so cannot undo what another process has just found against the device.
ASKED_COLUMNS: Final = (
    *("fingerprint", "address", "media_type", "pvr_sha256", "nonce", "masa"),
    *_TOLD_COLUMNS,
)
NEW_COLUMNS: Final = ("manufacturer", "serial_number", "issuer", "is_barred", "created_at", *ASKED_COLUMNS)
NEW_DEVICE: Final = Prepared(insert(devices), NEW_COLUMNS)
ASK: Final = (
    update(devices).where(devices.c.id == bindparam("b_id")).values({name: bindparam(name) for name in ASKED_COLUMNS})
)
NEW_REQUEST: Final = Prepared(insert(requests), requests.columns.keys())
ASK_WITH: Final = (
    update(requests)
    .where(requests.c.device_id == bindparam("b_device_id"))
    .values({name: bindparam(name) for name in CAME_WITH})
)
ADVANCE: Final = Prepared(
    update(devices)
    .where(
        devices.c.id == bindparam("b_id"),
        devices.c.state == bindparam("b_state"),
        devices.c.is_barred == bindparam("b_is_barred"),
        devices.c.csr_sha256 == bindparam("b_csr_sha256"),
    )
    .values({name: bindparam(name) for name in ADVANCED_COLUMNS})
)
NEW_VOUCHER: Final = Prepared(insert(vouchers), vouchers.columns.keys()[1:])
VOUCHER_FOR: Final = (
    select(vouchers)
    .where(vouchers.c.device_id == bindparam("device_id"), vouchers.c.pvr_sha256 == bindparam("pvr_sha256"))
    .order_by(desc(vouchers.c.id))
    .limit(1)
)
VOUCHERS: Final = (
    select(vouchers).where(vouchers.c.device_id == bindparam("device_id")).order_by(vouchers.c.id).limit(MAX_LISTED)
)
ISSUED: Final = select(certificates).where(certificates.c.fingerprint == bindparam("fingerprint"))
ISSUED_FOR: Final = (
    select(certificates)
    .where(certificates.c.device_id == bindparam("device_id"), certificates.c.csr_sha256 == bindparam("csr_sha256"))
    .order_by(desc(certificates.c.issued_at))
    .limit(1)
)
ISSUED_TO: Final = (
    select(certificates)
    .where(certificates.c.device_id == bindparam("device_id"))
    .order_by(certificates.c.issued_at)
    .limit(MAX_LISTED)
)
# Locked until the unit ends, so that nobody revokes it in between; SQLite has one writer and needs no lock.
REVOKED_AT: Final = (
    select(certificates.c.revoked_at)
    .where(certificates.c.fingerprint == bindparam("fingerprint"))
    .with_for_update(read=True)
)
NONCES: Final = select(vouchers.c.nonce).where(
    vouchers.c.device_id == bindparam("device_id"), vouchers.c.nonce.is_not(None)
)
REVOKE: Final = (
    update(certificates)
    .where(certificates.c.fingerprint == bindparam("b_fingerprint"), certificates.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("revoked_at"))
)
NEW_CERTIFICATE: Final = Prepared(insert(certificates), certificates.columns.keys())
ABOUT_COLUMNS: Final = ("at", "device_id", "manufacturer", "serial_number", "address")  # the same in lines of one unit
SAID_COLUMNS: Final = ("event", "reason", "detail")
JOURNAL: Final = (
    select(journal).where(journal.c.id > bindparam("after")).order_by(journal.c.id).limit(bindparam("count"))
)
JOURNAL_OF: Final = (
    select(journal)
    .where(journal.c.device_id == bindparam("device_id"), journal.c.id > bindparam("after"))
    .order_by(journal.c.id)
    .limit(bindparam("count"))
)


@lru_cache(maxsize=MAX_LINES)
def new_lines(count: int) -> Prepared:
    """So many lines of the journal in one statement: what they say has the line's number at its name's end."""
    about = {name: bindparam(name, type_=journal.c[name].type) for name in ABOUT_COLUMNS}

    def said(line: int) -> dict[str, BindParameter[Any]]:
        return {name: bindparam(f"{name}_{line}", type_=journal.c[name].type) for name in SAID_COLUMNS}

    return Prepared(insert(journal).values([about | said(line) for line in range(count)]))


Row = TypeVar("Row", Device, StoredVoucher, Issued, Entry, Knock)


def as_record(kind: type[Row], row: Sequence[Any]) -> Row:
    """A row of the table that `kind` stands for; both have the same columns in the same order."""
    values: list[Any] = list(row)
    if kind is Device:
        values[_STATE] = State(values[_STATE])
    make: Callable[..., Row] = kind
    return make(*values)


_STATE: Final = Device._fields.index("state")


def _tables_and_records_agree() -> None:
    """Both are written side by side; a column in one only, or out of order, is a fault at import."""
    if set(Device._fields) != {*devices.columns.keys(), *CAME_WITH}:
        raise AttributeError("devices and Device differ")
    for kind, table in ((StoredVoucher, vouchers), (Issued, certificates), (Entry, journal), (Knock, knocks)):
        if list(kind.__match_args__) != list(table.columns.keys()):
            raise AttributeError(f"{table.name} and {kind.__name__} differ")


_tables_and_records_agree()
