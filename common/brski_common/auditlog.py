"""The MASA's audit log of one device, as it crosses the wire (RFC 8995, 5.8.1).

Numbers are written as JSON integers, as the CDDL has it, and read as integers or numeric text, as
the RFC's own example has it. `truncation` is always written; reading it, absent counters are 0.
A newer version or an unknown member is no error: "no information will be removed in future
versions". Their names are kept, so that a policy can decide about them.

What the entries mean for a device is decided by the registrar; what is logged, by the MASA.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from brski_common import strictjson
from brski_common.encoding import decode_base64, decode_time, encode_time
from brski_common.errors import Malformed
from brski_common.strictjson import JsonValue
from brski_common.telemetry import printable

MEDIA_TYPE = "application/json"

VERSION = 1  # the only version this module writes
MAX_AUDITLOG_BYTES = 4 * 1024 * 1024
MAX_EVENTS = 10_000
MAX_NONCE = 256  # characters: a nonce is opaque text (RFC 8995, 5.8.1)
MAX_ASSERTION = 64  # characters
MAX_DOMAIN_ID_BYTES = 256
MAX_COUNTER = 2**53 - 1  # what a JSON reader with doubles still counts exactly
MAX_UNKNOWN = 32  # names of unknown members kept
MAX_UNKNOWN_NAME = 64  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """A voucher that the MASA issued for the device.

    `assertion` is text, not an enumeration: a log may hold kinds that are younger than this reader.
    `truncated` counts the events of this domain left out in favour of this one.
    """

    date: datetime
    domain_id: bytes
    nonce: str | None
    assertion: str
    truncated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """How many events are missing from a log, by the way they were chosen."""

    nonced_duplicates: int = 0
    nonceless_duplicates: int = 0
    arbitrary: int = 0

    def __bool__(self) -> bool:
        return self != Truncation()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLog:
    """A log, newest event first as the MASA sent it. `unknown` names members the reader did not know."""

    events: tuple[AuditEvent, ...]
    truncation: Truncation = Truncation()
    version: int = VERSION
    unknown: tuple[str, ...] = field(default=(), compare=False)

    @property
    def from_the_future(self) -> bool:
        """Whether the log has a format newer than this module (RFC 8995, 5.8.1)."""
        return self.version > VERSION


_EVENT_MEMBERS = frozenset({"date", "domainID", "nonce", "assertion", "truncated"})
_COUNTERS = {
    "nonced duplicates": "nonced_duplicates",
    "nonceless duplicates": "nonceless_duplicates",
    "arbitrary": "arbitrary",
}
_LOG_MEMBERS = frozenset({"version", "events", "truncation"})


def write(log: AuditLog) -> bytes:
    """The log as JSON; raises Malformed for an empty one (a device without events gets 404, RFC 8995, 5.8)."""
    if not log.events:
        raise Malformed("auditlog-empty", "a log has at least one event")
    counters: dict[str, JsonValue] = {name: getattr(log.truncation, attribute) for name, attribute in _COUNTERS.items()}
    events = [_event_members(event) for event in log.events]
    return strictjson.dumps({"version": log.version, "events": events, "truncation": counters})


def read(data: bytes) -> AuditLog:
    """Read a log; raises Malformed."""
    document = strictjson.load_object(data, limit=MAX_AUDITLOG_BYTES)
    events = document.get("events")
    if not isinstance(events, list):
        raise Malformed("auditlog-events-malformed", "events is mandatory and a list")
    if len(events) > MAX_EVENTS:
        raise Malformed("auditlog-too-long", f"{len(events)} events, at most {MAX_EVENTS}")
    objects = [_object(event, "event") for event in events]
    counters = _object(document.get("truncation") or {}, "truncation")
    return AuditLog(
        version=_counter(document.get("version"), "version", at_least=1),
        events=tuple(map(_event, objects)),
        truncation=Truncation(**{to: _counter(counters.get(name, 0), name) for name, to in _COUNTERS.items()}),
        unknown=_unknown(document, objects, counters),
    )


def _event_members(event: AuditEvent) -> dict[str, JsonValue]:
    members: dict[str, JsonValue] = {
        "date": encode_time(event.date),
        "domainID": base64.b64encode(event.domain_id).decode(),
        "nonce": event.nonce,
        "assertion": str(event.assertion),
    }
    return members | ({"truncated": event.truncated} if event.truncated else {})


def _event(members: Mapping[str, JsonValue]) -> AuditEvent:
    return AuditEvent(
        date=decode_time(_text(members.get("date"), "date", 64)),
        domain_id=_domain_id(members.get("domainID")),
        # "null SHOULD be used in preference to omitting": some omit it, which says the same.
        nonce=None if members.get("nonce") is None else _text(members["nonce"], "nonce", MAX_NONCE),
        assertion=_text(members.get("assertion"), "assertion", MAX_ASSERTION),
        truncated=_counter(members.get("truncated", 0), "truncated"),
    )


def _object(value: JsonValue, name: str) -> Mapping[str, JsonValue]:
    if not isinstance(value, dict):
        raise Malformed(f"auditlog-{name}-malformed", f"{name} is not an object")
    return value


def _text(value: JsonValue, name: str, limit: int) -> str:
    if not isinstance(value, str) or not value or len(value) > limit or not value.isprintable():
        raise Malformed(f"auditlog-{name}-malformed", f"{name} is not a printable text of 1 to {limit} characters")
    return value


def _domain_id(value: JsonValue) -> bytes:
    domain_id = decode_base64(_text(value, "domain-id", 2 * MAX_DOMAIN_ID_BYTES))
    if not 0 < len(domain_id) <= MAX_DOMAIN_ID_BYTES:
        raise Malformed("auditlog-domain-id-malformed", f"{len(domain_id)} bytes")
    return domain_id


def _counter(value: JsonValue, name: str, *, at_least: int = 0) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= MAX_COUNTER:
        raise Malformed("auditlog-number-malformed", f"{name} is not an integer from {at_least}")
    return value


def _unknown(
    document: Mapping[str, JsonValue], events: list[Mapping[str, JsonValue]], counters: Mapping[str, JsonValue]
) -> tuple[str, ...]:
    names = [name for name in document if name not in _LOG_MEMBERS]
    names += [f"events.{name}" for event in events for name in event if name not in _EVENT_MEMBERS]
    names += [f"truncation.{name}" for name in counters if name not in _COUNTERS]
    return tuple(printable(name, MAX_UNKNOWN_NAME) for name in list(dict.fromkeys(names))[:MAX_UNKNOWN])
