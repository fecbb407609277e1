"""The record of every voucher: what is written, how it is chained, what a registrar gets to see (RFC 8995, 5.8).

The laws of this file:

1. A voucher and its entry are one thing: there is no voucher without an entry, renewed and nonceless ones included.
2. Each entry holds the hash of the one before it (`digest`), over the whole log. Nothing can be changed or taken
   out later without breaking the chain (RFC 8995, 7.1 and 9.1.1); `verify_chain` says where.
3. An entry describes its device by serial number and issuer, so that the log stands without the registry.
4. A registrar sees a device's events newest first, in full while they are few; then abridged as 5.8.1 allows, with
   everything left out counted.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from brski_common import strictjson
from brski_common.auditlog import AuditEvent, AuditLog, Truncation
from brski_common.errors import Unknown, Untrusted
from brski_common.voucher import Assertion

FIRST: Final = bytes(32)  # what the first entry has for a hash before it
MAX_COUNT: Final = 1024  # RFC 8995, 5.8.1: counters may stop there


class Entry(NamedTuple):
    """One voucher, about to be issued.

    `pinned_key` is the SPKI SHA-256 of the pinned certificate: the domainID may be chosen by who made that
    certificate, the key may not. `request` is the SHA-256 of the registrar's request. `requester` is a label.
    """

    device_id: int
    serial_number: str
    idevid_issuer: bytes
    date: datetime
    domain_id: bytes
    pinned_key: bytes
    nonce: str | None
    assertion: Assertion
    expires_on: datetime | None
    owner: str | None
    request: bytes
    requester: str
    renewal: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """An entry in the log: its place, counted from 1, and its hash."""

    number: int
    entry: Entry
    hash: bytes


def digest(previous: bytes, number: int, entry: Entry) -> bytes:
    """The hash of an entry after the hash of the one before it, SHA-256."""
    text = strictjson.dumps(
        [
            number,
            entry.device_id,
            entry.serial_number,
            entry.idevid_issuer.hex(),
            entry.date.isoformat(),
            entry.domain_id.hex(),
            entry.pinned_key.hex(),
            entry.nonce,
            str(entry.assertion),
            None if entry.expires_on is None else entry.expires_on.isoformat(),
            entry.owner,
            entry.request.hex(),
            entry.requester,
            entry.renewal,
        ]
    )
    return hashlib.sha256(previous + text).digest()


def verify_chain(links: Iterable[Link]) -> tuple[int, bytes]:
    """Check a whole log from its first entry; its length and last hash, or Untrusted `audit-log-broken`.

    That the newest entries are all there can only be seen with a hash noted earlier.
    """
    number, previous = 0, FIRST
    for link in links:
        number += 1
        if link.number != number:
            raise Untrusted("audit-log-broken", f"entry {number} is missing, there is {link.number}")
        if digest(previous, number, link.entry) != link.hash:
            raise Untrusted("audit-log-broken", f"entry {number} is not what was written")
        previous = link.hash
    return number, previous


def check_head(links: Iterable[Link], head: bytes) -> None:
    """See that a hash noted earlier is still in the log, else Untrusted `audit-log-broken`.

    The head of a log without entries is the beginning of every log.
    """
    if head != FIRST and all(link.hash != head for link in links):
        raise Untrusted(
            "audit-log-broken", f"no entry has the hash {head.hex()[:16]}…: the newest entries were taken away"
        )


def is_owner_in_log(entries: Iterable[Entry], path_keys: frozenset[bytes]) -> bool:
    """Whether a voucher was ever issued to the domain of this path, by key and not by domainID (RFC 8995, 5.8)."""
    return any(entry.pinned_key in path_keys for entry in entries)


def present(entries: Sequence[Entry], *, limit: int, always_abridge: bool = False, unread: int = 0) -> AuditLog:
    """A device's log for a registrar, from its entries newest first; raises Unknown for none.

    Up to `limit` events it is complete. `unread` counts older entries that were not even loaded.
    """
    if not entries:
        raise Unknown("audit-log-empty", "no voucher was ever issued for the device")
    if len(entries) <= limit and not unread and not always_abridge:
        return AuditLog(events=tuple([_event(entry) for entry in entries]))
    return _abridge(entries, limit, unread)


def _abridge(entries: Sequence[Entry], limit: int, unread: int) -> AuditLog:
    """RFC 8995, 5.8.1: of each domain the newest event with and the newest without a nonce, the rest counted."""
    newest: dict[tuple[bytes, bool], Entry] = {}
    omitted: Counter[tuple[bytes, bool]] = Counter()
    for entry in entries:
        kind = (entry.domain_id, entry.nonce is None)
        if newest.setdefault(kind, entry) is not entry:
            omitted[kind] += 1
    kept = list(newest.items())[:limit]
    # What the kept events stand for is counted there; the rest is "arbitrary".
    arbitrary = unread + sum(1 + omitted[kind] for kind, _ in list(newest.items())[limit:])
    truncation = Truncation(
        nonced_duplicates=_capped(sum(omitted[kind] for kind, _ in kept if not kind[1])),
        nonceless_duplicates=_capped(sum(omitted[kind] for kind, _ in kept if kind[1])),
        arbitrary=_capped(arbitrary),
    )
    return AuditLog(events=tuple(_event(entry, omitted[kind]) for kind, entry in kept), truncation=truncation)


def _event(entry: Entry, truncated: int = 0) -> AuditEvent:
    return AuditEvent(
        date=entry.date,
        domain_id=entry.domain_id,
        nonce=entry.nonce,
        assertion=str(entry.assertion),
        truncated=_capped(truncated),
    )


def _capped(count: int) -> int:
    return min(count, MAX_COUNT)
