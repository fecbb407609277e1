"""What the registrar remembers, as values: devices, vouchers, certificates, the journal, and what changes them.

`StoredVoucher`, `Issued`, `Entry` and `Knock` have the columns of their tables, in the same order; `Device` has those
of `devices` and, for what it came with, of `requests` (`schema`).
What an onboarding makes anew at each of its steps is a named tuple, as a row is: at a fifth of a dataclass's price.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from brski_registrar.lifecycle import Event, Standing, State


class Device(NamedTuple):
    """A device as last heard of. `issuer` and `fingerprint` are hex; `rvr` is the request its voucher came from."""

    id: int
    manufacturer: str
    serial_number: str
    issuer: str
    state: State
    is_barred: bool
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

    @property
    def standing(self) -> Standing:
        """What decides about its renewals."""
        return Standing(self.state, self.is_barred)


class StoredVoucher(NamedTuple):
    """A voucher that was handed on."""

    id: int
    device_id: int
    pvr_sha256: str
    media_type: str
    raw: bytes
    nonce: str | None
    assertion: str
    received_at: datetime


class Issued(NamedTuple):
    """A certificate that was issued here. `serial` is the certificate's own, hex."""

    fingerprint: str
    device_id: int
    serial: str
    der: bytes
    csr_sha256: str
    issued_at: datetime
    not_after: datetime
    revoked_at: datetime | None = None


class Entry(NamedTuple):
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
class Knock:
    """Somebody who was turned away before he was known as a device; who is not `is_known` may have lied about himself.

    `fingerprint` is that of his certificate, hex; `manufacturer` of an unknown one is what his certificate says.
    """

    fingerprint: str
    is_known: bool
    manufacturer: str
    serial_number: str
    reason: str
    detail: str
    address: str
    first_at: datetime
    last_at: datetime
    count: int


class Note(NamedTuple):
    """What to write into the journal: an event, a slug, and what the operator may want to know."""

    event: str
    reason: str = ""
    detail: str = ""


class Asked(NamedTuple):
    """What a pledge's request came to: how the MASA was, or will be, asked."""

    media_type: str
    pvr_sha256: str
    nonce: str | None
    masa: str
    rvr: bytes | None


class Change(NamedTuple):
    """What happens to a device in one unit: events in their order, notes for the journal, and why."""

    events: tuple[Event, ...]
    notes: tuple[Note, ...]
    now: datetime
    reason: str = ""
    address: str = ""
    csr_sha256: str | None = None  # None: as it was
