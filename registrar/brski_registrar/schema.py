"""The registrar's tables, and their rows as values.

The tables here are what statements are built from; `migrations` makes them. Each record below has the columns of its
table as attributes, so that a row becomes a record without a word in between.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table, Text

from brski_common.database import UtcTime
from brski_registrar.lifecycle import State

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
    Column("reason", Text),
    Column("fingerprint", String),
    Column("certificate", LargeBinary),
    Column("address", String),
    Column("media_type", String),
    Column("pvr_sha256", String),
    Column("nonce", String),
    Column("masa", String),
    Column("rvr", LargeBinary),
    Column("csr_sha256", String),
    Column("created_at", UtcTime),
    Column("changed_at", UtcTime),
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


@dataclass(frozen=True, slots=True)
class Device:
    """A device as last heard of. `issuer` and `fingerprint` are hex; `rvr` is the request its voucher came from."""

    id: int
    manufacturer: str
    serial_number: str
    issuer: str
    state: State
    reason: str
    fingerprint: str
    certificate: bytes
    address: str
    media_type: str
    pvr_sha256: str
    nonce: str | None
    masa: str
    rvr: bytes | None
    csr_sha256: str
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class StoredVoucher:
    """A voucher that was handed on."""

    id: int
    device_id: int
    pvr_sha256: str
    media_type: str
    raw: bytes
    nonce: str | None
    assertion: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was issued here. `serial` is the certificate's own, hex."""

    fingerprint: str
    device_id: int
    serial: str
    der: bytes
    csr_sha256: str
    issued_at: datetime
    not_after: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal."""

    id: int
    at: datetime
    device_id: int | None
    manufacturer: str
    serial_number: str
    event: str
    reason: str
    detail: str
    address: str


@dataclass(frozen=True, slots=True)
class Note:
    """What to write into the journal: an event, a slug, and what the operator may want to know."""

    event: str
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a pledge's request came to: how the MASA was, or will be, asked."""

    media_type: str
    pvr_sha256: str
    nonce: str | None
    masa: str
    rvr: bytes | None


Row = TypeVar("Row", Device, StoredVoucher, Issued, Entry)


def as_record(kind: type[Row], row: sqlalchemy.Row[Any]) -> Row:
    """A row of the table that `kind` stands for; both have the same columns in the same order."""
    values: list[Any] = list(row)
    if kind is Device:
        values[_STATE] = State(values[_STATE])
    make: Callable[..., Row] = kind
    return make(*values)


_STATE = [field.name for field in fields(Device)].index("state")


def _tables_and_records_agree() -> None:
    """Both are written side by side; a column in one only, or out of order, is a fault at import."""
    for kind, table in ((Device, devices), (StoredVoucher, vouchers), (Issued, certificates), (Entry, journal)):
        if [field.name for field in fields(kind)] != list(table.columns.keys()):
            raise AttributeError(f"{table.name} and {kind.__name__} differ")


_tables_and_records_agree()
