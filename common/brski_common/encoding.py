"""Vouchers as YANG-JSON (RFC 7951) and YANG-CBOR (RFC 9254), written and read from the one leaf table.

Reading is liberal where the field needs it (RFC 8995, 5.6.1 "ignore unknown fields"): unknown
members are passed over, times come with any offset or as a date, CBOR keys as names, SID deltas or
tagged absolute SIDs. Writing is strict. A voucher is never read as a voucher request, nor the
other way round: the one top member decides.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import cbor2

from brski_common import strictcbor, strictjson
from brski_common.errors import Malformed, UnsupportedFormat
from brski_common.strictjson import JsonValue
from brski_common.voucher import (
    PRM_REQUEST_NAME,
    REQUEST_NAME,
    REQUEST_SID,
    VOUCHER_NAME,
    VOUCHER_SID,
    Assertion,
    Kind,
    Leaf,
    Voucher,
    VoucherData,
    VoucherRequest,
    leaves_of,
    top_name,
)

MAX_PAYLOAD_BYTES = 128 * 1024
MAX_TEXT = 1024  # characters of one text leaf
MAX_NONCE = 64  # characters: 32 bytes in base64 are 44
MAX_LIST = 32
TAG_SID = 47  # RFC 9254, 3.2: an absolute SID as a key

_TOPS: dict[str | int, type[VoucherData]] = {
    VOUCHER_NAME: Voucher,
    REQUEST_NAME: VoucherRequest,
    PRM_REQUEST_NAME: VoucherRequest,
    VOUCHER_SID: Voucher,
    REQUEST_SID: VoucherRequest,
}
_Reader = tuple[Leaf, str, Callable[[Any], Any]]  # with the attribute's name
_ASSERTIONS = {assertion.value: assertion for assertion in Assertion}
# draft-ietf-anima-rfc8366bis, 8.5: the numbers of the assertion's names.
_ASSERTION_NUMBERS = {assertion: number for number, assertion in enumerate(Assertion)}


def write_json(model: VoucherData) -> bytes:
    """A voucher or voucher request as YANG-JSON, without white space."""
    return strictjson.dumps({top_name(type(model)): json_members(model)})


def json_members(model: VoucherData) -> dict[str, JsonValue]:
    """The leaves that are set, as JSON values under their YANG names."""
    leaves = vars(model)
    return {
        yang: write(leaves[attribute])
        for yang, attribute, write in _JSON_WRITERS[type(model)]
        if attribute in leaves and leaves[attribute] is not None
    }


def read_json(data: bytes) -> VoucherData:
    """Read YANG-JSON: a `Voucher` or a `VoucherRequest`; raises Malformed, UnsupportedFormat."""
    document = strictjson.load_object(data, limit=MAX_PAYLOAD_BYTES)
    kind, members = _top(document)
    readers = _JSON_READERS[kind]
    values: dict[str, Any] = {}
    for name, value in members.items():
        if name in readers and value is not None:
            leaf, attribute, reader = readers[name]
            try:
                values[attribute] = reader(value)
            except Malformed as error:
                raise _in_leaf(leaf, error) from error
    return _build(kind, values)


def write_cbor(model: VoucherData) -> bytes:
    """A voucher or voucher request as YANG-CBOR with SID deltas as keys."""
    kind = type(model)
    members: dict[int, Any] = {}
    for delta, attribute, write in _CBOR_WRITERS[kind]:
        value = getattr(model, attribute)
        if value is not None:
            members[delta] = write(value)
    return cbor2.dumps({_parent(kind): members})


def read_cbor(data: bytes) -> VoucherData:
    """Read YANG-CBOR: a `Voucher` or a `VoucherRequest`; raises Malformed, UnsupportedFormat."""
    kind, members = _top(strictcbor.loads(data, limit=MAX_PAYLOAD_BYTES))
    readers = _CBOR_READERS[kind]
    values: dict[str, Any] = {}
    for key, value in members.items():
        found = readers.get(_cbor_key(key))
        if found is None or value is None:
            continue
        leaf, attribute, reader = found
        if attribute in values:
            raise Malformed("voucher-duplicate-leaf", leaf.yang)
        try:
            values[attribute] = reader(value)
        except Malformed as error:
            raise _in_leaf(leaf, error) from error
    return _build(kind, values)


def decode_base64(text: str) -> bytes:
    """Read base64 (RFC 4648, 4), tolerating the URL alphabet and absent padding; raises Malformed."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)  # what nearly everybody writes
    except ValueError:
        standard = text.translate(_URL_ALPHABET).rstrip("=")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("base64-malformed", str(error)) from error


def encode_time(moment: datetime) -> str:
    """A time as RFC 3339 in UTC with `Z`, milliseconds only where there are some."""
    moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond >= 1000 else "seconds").replace("+00:00", "Z")


def decode_time(text: str) -> datetime:
    """Read an RFC 3339 time with any offset and fraction, or a date alone; aware UTC. Raises Malformed."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Malformed("time-malformed", text[:64]) from error
    return moment


def _top(document: object) -> tuple[type[VoucherData], Mapping[Any, Any]]:
    if not isinstance(document, dict):
        raise Malformed("voucher-malformed", "not a map")
    if len(document) != 1:
        raise Malformed("voucher-malformed", f"{len(document)} top members, exactly one is a voucher")
    ((top, members),) = document.items()
    key = top.value if isinstance(top, cbor2.CBORTag) and top.tag == TAG_SID else top
    kind = _TOPS.get(key) if isinstance(key, (str, int)) else None
    if kind is None:
        raise UnsupportedFormat("voucher-kind-unknown", str(key)[:64])
    if not isinstance(members, dict):
        raise Malformed("voucher-malformed", "the top member is not a map")
    return kind, members


def _build(kind: type[VoucherData], values: dict[str, Any]) -> VoucherData:
    if not values.get("serial_number"):
        raise Malformed("voucher-serial-number-missing", "serial-number is mandatory")
    return kind.of(values)


def _cbor_key(key: object) -> object:
    if isinstance(key, cbor2.CBORTag):
        return ("sid", key.value) if key.tag == TAG_SID and isinstance(key.value, int) else None
    return key if isinstance(key, str | int) and not isinstance(key, bool) else None


def _in_leaf(leaf: Leaf, error: Malformed) -> Malformed:
    return Malformed("voucher-leaf-malformed", f"{leaf.yang}: {error}")


def _text(value: object, limit: int = MAX_TEXT) -> str:
    if not isinstance(value, str) or not value or len(value) > limit:
        raise Malformed("text-malformed", f"not a text of 1 to {limit} characters")
    if not value.isprintable():
        raise Malformed("text-malformed", "control characters")
    return value


def _nonce(value: object) -> str:
    return _text(value, MAX_NONCE)


def _cbor_nonce(value: object) -> str:
    return _encode_base64(_bytes(value))


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Malformed("boolean-malformed", type(value).__name__)
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise Malformed("binary-malformed", type(value).__name__)
    return value


def _binary(value: object) -> bytes:
    if not isinstance(value, str):
        raise Malformed("binary-malformed", type(value).__name__)
    return decode_base64(value)


def _list(value: object) -> Sequence[object]:
    """A list, or the bare item that some writers put in its place."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return (value,)
    if len(value) > MAX_LIST:
        raise Malformed("list-too-long", f"more than {MAX_LIST}")
    return value


def _names(value: object) -> tuple[str | int, ...]:
    items = _list(value)
    if not all(isinstance(item, str | int) and not isinstance(item, bool) for item in items):
        raise Malformed("list-malformed", "neither names nor numbers")
    return tuple(item for item in items if isinstance(item, str | int))


def _assertion(value: object) -> Assertion:
    found = _ASSERTIONS.get(value) if isinstance(value, str) else None
    if found is None:
        raise Malformed("assertion-unknown", _text(value)[:64])
    return found


def _cbor_assertion(value: object) -> Assertion:
    for assertion, number in _ASSERTION_NUMBERS.items():
        if value == number and type(value) is int:
            return assertion
    return _assertion(value)


def _encode_base64(value: bytes) -> str:
    return binascii.b2a_base64(value, newline=False).decode("ascii")


def _time(value: object) -> datetime:
    return decode_time(_text(value))


_URL_ALPHABET = str.maketrans("-_", "+/")

# Write and read stand side by side, one line a kind.
_TO_JSON: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: str,
    Kind.TIME: encode_time,
    Kind.BINARY: _encode_base64,
    Kind.BINARY_LIST: lambda value: [_encode_base64(item) for item in value],
    Kind.NONCE: str,
    Kind.BOOLEAN: bool,
    Kind.ASSERTION: str,
    Kind.NAMES: list,
}
_FROM_JSON: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: _text,
    Kind.TIME: _time,
    Kind.BINARY: _binary,
    Kind.BINARY_LIST: lambda value: tuple(_binary(item) for item in _list(value)),
    Kind.NONCE: _nonce,
    Kind.BOOLEAN: _boolean,
    Kind.ASSERTION: _assertion,
    Kind.NAMES: _names,
}
_TO_CBOR: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: str,
    Kind.TIME: encode_time,
    Kind.BINARY: bytes,
    Kind.BINARY_LIST: list,
    Kind.NONCE: decode_base64,
    Kind.BOOLEAN: bool,
    Kind.ASSERTION: _ASSERTION_NUMBERS.__getitem__,
    Kind.NAMES: list,
}
_FROM_CBOR: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: _text,
    Kind.TIME: _time,
    Kind.BINARY: _bytes,
    Kind.BINARY_LIST: lambda value: tuple(_bytes(item) for item in _list(value)),
    Kind.NONCE: _cbor_nonce,
    Kind.BOOLEAN: _boolean,
    Kind.ASSERTION: _cbor_assertion,
    Kind.NAMES: _names,
}

# What writing and reading look up, made once for each kind of artifact.


def _parent(kind: type[VoucherData]) -> int:
    return REQUEST_SID if issubclass(kind, VoucherRequest) else VOUCHER_SID


def _sid(leaf: Leaf, kind: type[VoucherData]) -> int:
    sid = leaf.request_sid if issubclass(kind, VoucherRequest) else leaf.voucher_sid
    assert sid is not None
    return sid


def _json_readers(kind: type[VoucherData]) -> dict[str, _Reader]:
    return {leaf.yang: (leaf, leaf.attribute, _FROM_JSON[leaf.kind]) for leaf in leaves_of(kind)}


def _cbor_readers(kind: type[VoucherData]) -> dict[object, _Reader]:
    """By YANG name, SID delta, and absolute SID as `_cbor_key` has it."""
    readers: dict[object, _Reader] = {}
    for leaf in leaves_of(kind):
        sid = _sid(leaf, kind)
        for key in (leaf.yang, sid - _parent(kind), ("sid", sid)):
            readers[key] = (leaf, leaf.attribute, _FROM_CBOR[leaf.kind])
    return readers


def _json_writers(kind: type[VoucherData]) -> tuple[tuple[str, str, Callable[[Any], Any]], ...]:
    return tuple((leaf.yang, leaf.attribute, _TO_JSON[leaf.kind]) for leaf in leaves_of(kind))


def _cbor_writers(kind: type[VoucherData]) -> tuple[tuple[int, str, Callable[[Any], Any]], ...]:
    """In the order of their keys."""
    leaves = sorted(leaves_of(kind), key=lambda leaf: _sid(leaf, kind))
    return tuple((_sid(leaf, kind) - _parent(kind), leaf.attribute, _TO_CBOR[leaf.kind]) for leaf in leaves)


_KINDS: tuple[type[VoucherData], ...] = (Voucher, VoucherRequest)
_JSON_READERS = {kind: _json_readers(kind) for kind in _KINDS}
_CBOR_READERS = {kind: _cbor_readers(kind) for kind in _KINDS}
_JSON_WRITERS = {kind: _json_writers(kind) for kind in _KINDS}
_CBOR_WRITERS = {kind: _cbor_writers(kind) for kind in _KINDS}
