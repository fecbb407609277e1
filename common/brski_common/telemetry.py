"""Status reports of a pledge: voucher status and enroll status (RFC 8995, 5.7 and 5.9.4).

Both are one small object `{version, status[, reason, reason-context]}`, as JSON or, for
constrained pledges, as CBOR. Writing is strict. Reading is liberal, because a report that is
refused is a failure nobody hears of: version as number or numeric text, any capitals in the four
names (erratum 6834), any value as reason-context, unknown members passed on by name.

A report may come from an unauthenticated, even malicious sender and is made to be logged. All
text in it is therefore cut to length and freed of control characters before anybody sees it.
"""

import base64
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cbor2

from brski_common import strictcbor, strictjson
from brski_common.errors import Malformed

MEDIA_TYPE_JSON = "application/json"
MEDIA_TYPE_CBOR = "application/cbor"

VERSION = 1  # the only version this module writes
MAX_TELEMETRY_BYTES = 16 * 1024
MAX_REASON = 1000  # characters; a longer reason is cut, not refused
MAX_CONTEXT_TEXT = 4000  # characters of one text inside reason-context
MAX_CONTEXT_DEPTH = 16
MAX_UNKNOWN = 16  # names of unknown members kept for the log
MAX_UNKNOWN_NAME = 64  # characters
MAX_INTEGER = 2**63  # what every reader of JSON, and every column of a log, can hold

# Keys are text in JSON; CBOR allows integers too (draft-ietf-anima-constrained-voucher, Appendix C).
Context = str | int | float | bool | Sequence["Context"] | Mapping[str | int, "Context"] | None

_MEMBERS = ("version", "status", "reason", "reason-context")
_BLANKS = str.maketrans("\t\r\n", "   ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """One report. `unknown` names members that the reader did not know; they are never written.

    An absent `reason_context` and a null one are the same: None.
    """

    status: bool
    version: int = VERSION
    reason: str | None = None
    reason_context: Context = None
    unknown: tuple[str, ...] = field(default=(), compare=False)

    @property
    def from_the_future(self) -> bool:
        """Whether the version is newer than this module; the registrar alerts a human then (RFC 8995, 5.7)."""
        return self.version > VERSION


def success() -> Telemetry:
    """The report that all went well."""
    return Telemetry(status=True)


def failure(reason: str, context: Context = None) -> Telemetry:
    """The report of a failure; `reason` must not help an attacker, so give a slug, not a trace (RFC 8995, 5.7)."""
    return Telemetry(status=False, reason=reason, reason_context=context)


def write(telemetry: Telemetry) -> bytes:
    """The report as JSON with lower-case names; raises Malformed if it cannot be said in JSON."""
    return strictjson.dumps(_json(_members(telemetry)))


def write_cbor(telemetry: Telemetry) -> bytes:
    """The report as CBOR with text keys (draft-ietf-anima-constrained-voucher, 7.3); raises Malformed."""
    return cbor2.dumps(_members(telemetry))


def read(data: bytes) -> Telemetry:
    """Read a JSON report; raises Malformed."""
    # A reason that somebody cut in the middle of a surrogate pair is still a reason; `printable` mends it.
    return _telemetry(strictjson.load_object(data, limit=MAX_TELEMETRY_BYTES, half_pairs=True))


def read_cbor(data: bytes) -> Telemetry:
    """Read a CBOR report; raises Malformed."""
    document = strictcbor.loads(data, limit=MAX_TELEMETRY_BYTES)
    if not isinstance(document, Mapping):
        raise Malformed("telemetry-malformed", "not a map")
    return _telemetry(document)


def printable(text: str, limit: int = MAX_REASON) -> str:
    """`text` fit for one line of a log: blanks for line ends, U+FFFD for what controls a terminal, cut to `limit`."""
    if len(text) <= limit and text.isprintable():
        return text
    shown = "".join(map(_harmless, text[: limit + 1].translate(_BLANKS)))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _harmless(character: str) -> str:
    # Cc, Cf (direction overrides), Cs, Co, Cn; and the line and paragraph separators.
    category = unicodedata.category(character)
    return "\ufffd" if category[0] == "C" or category in {"Zl", "Zp"} else character


def _members(telemetry: Telemetry) -> dict[str | int, Context]:
    members: dict[str | int, Context] = {"version": telemetry.version, "status": telemetry.status}
    if telemetry.reason is not None:
        members["reason"] = printable(telemetry.reason)
    if telemetry.reason_context is not None:
        members["reason-context"] = _context(telemetry.reason_context)
    return members


def _json(value: Context) -> strictjson.JsonValue:
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json(item) for item in value]
    return value


def _telemetry(document: Mapping[Any, object]) -> Telemetry:
    members, unknown = _sort_members(document)
    reason = members.get("reason")
    return Telemetry(
        version=_version(members.get("version")),
        status=_status(members.get("status")),
        reason=None if reason is None else _reason(reason),
        reason_context=_context(members.get("reason-context")),
        unknown=unknown,
    )


def _sort_members(document: Mapping[Any, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    members: dict[str, object] = {}
    unknown: list[str] = []
    for key, value in document.items():
        name = key.lower() if isinstance(key, str) else ""
        if name not in _MEMBERS:
            unknown.append(printable(str(key)[: 2 * MAX_UNKNOWN_NAME], MAX_UNKNOWN_NAME))
        elif name in members:
            # "status": true beside "Status": false: which one was meant is not ours to choose.
            raise Malformed("telemetry-member-ambiguous", f"{name} occurs twice")
        else:
            members[name] = value
    return members, tuple(unknown[:MAX_UNKNOWN])


def _version(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < MAX_INTEGER:
        raise Malformed("telemetry-version-malformed", "version is mandatory and a positive integer")
    return value


def _status(value: object) -> bool:
    if not isinstance(value, bool):
        raise Malformed("telemetry-status-malformed", "status is mandatory and a boolean")
    return value


def _reason(value: object) -> str:
    if not isinstance(value, str):
        raise Malformed("telemetry-reason-malformed", "reason is not a text")
    return printable(value)


def _context(value: object, depth: int = 0) -> Context:
    """`value` as plain data: binary as base64 text, tags dropped, text made harmless; raises Malformed."""
    if depth > MAX_CONTEXT_DEPTH:
        raise Malformed("telemetry-context-malformed", f"more than {MAX_CONTEXT_DEPTH} levels")
    if value is None or isinstance(value, bool):
        return value
    for kind, reader in _CONTEXT_KINDS:
        if isinstance(value, kind):
            return reader(value, depth)
    raise Malformed("telemetry-context-malformed", f"a {type(value).__name__} has no JSON form")


def _context_map(value: Mapping[Any, object], depth: int) -> Context:
    return {_context_key(key): _context(item, depth + 1) for key, item in value.items()}


def _context_key(key: object) -> str | int:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise Malformed("telemetry-context-malformed", f"a {type(key).__name__} as key")
    return printable(key, MAX_UNKNOWN_NAME) if isinstance(key, str) else _integer(key)


def _integer(value: int, _depth: int = 0) -> int:
    if not -MAX_INTEGER <= value < MAX_INTEGER:
        raise Malformed("telemetry-context-malformed", "an integer of more than 64 bits")
    return value


def _float(value: float, _depth: int) -> float:
    if not math.isfinite(value):
        raise Malformed("telemetry-context-malformed", "a number that is not finite")
    return value


_CONTEXT_KINDS: tuple[tuple[type, Callable[..., Context]], ...] = (
    (str, lambda value, _: printable(value, MAX_CONTEXT_TEXT)),
    (int, _integer),
    (float, _float),
    (bytes, lambda value, _: base64.b64encode(value).decode()),
    (Mapping, _context_map),
    (Sequence, lambda value, depth: [_context(item, depth + 1) for item in value]),
    (cbor2.CBORTag, lambda value, depth: _context(value.value, depth + 1)),
)
