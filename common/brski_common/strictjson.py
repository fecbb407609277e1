"""JSON as the protocol means it: UTF-8, bounded, no duplicate members, no NaN or infinity.

Python's reader keeps the last of two equal members and a signer may have meant the first; it also
follows nesting until the stack ends. Both are attacks on a verifier (RFC 8995, 11), so every JSON
document that comes from a peer is read here.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from brski_common.errors import Malformed

JsonScalar = str | int | float | bool | None
JsonValue = JsonScalar | Sequence["JsonValue"] | Mapping[str, "JsonValue"]

MAX_JSON_BYTES = 256 * 1024
MAX_JSON_DEPTH = 32
MAX_INTEGER_DIGITS = 20  # 2**64 has 20; nothing in the protocol counts higher


def loads(data: bytes | str, *, limit: int = MAX_JSON_BYTES, half_pairs: bool = False) -> JsonValue:
    """Read one JSON text of at most `limit` bytes; raises Malformed with a `json-…` reason.

    `half_pairs` lets escapes through that spell half of a surrogate pair (RFC 8259, 8.2), for a caller
    that makes the text harmless: nobody can write or print it as it is.
    """
    if len(data) > limit:
        raise Malformed("json-too-large", f"{len(data)} bytes, at most {limit}")
    text = data if isinstance(data, str) else _decode(data)
    if text.count("{") + (text.count("[") if "[" in text else 0) > MAX_JSON_DEPTH:  # to count is slow, to look is not
        _check_depth(text)
    try:
        value: JsonValue = _DECODER.decode(text)
    except ValueError as error:
        raise Malformed("json-malformed", str(error)) from error
    # One character is looked for thirty times faster than two, and base64 has no backslash.
    if not half_pairs and (isinstance(data, str) or ("\\" in text and "\\u" in text)):
        _check_characters(value)
    return value


def load_object(data: bytes | str, *, limit: int = MAX_JSON_BYTES, half_pairs: bool = False) -> Mapping[str, JsonValue]:
    """Read a JSON text whose top is an object; raises Malformed."""
    value = loads(data, limit=limit, half_pairs=half_pairs)
    if not isinstance(value, dict):
        raise Malformed("json-not-an-object", type(value).__name__)
    return value


def dumps(value: JsonValue) -> bytes:
    """Write `value` compactly as UTF-8."""
    return _write(value).encode()


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("json-not-utf-8", f"at byte {error.start}") from error


def _check_depth(text: str) -> None:
    """Refuse deep nesting before the recursive reader meets it."""
    depth, quoted, escaped = 0, False, False
    for character in text:
        if quoted:
            escaped, quoted = character == "\\" and not escaped, character != '"' or escaped
        elif character == '"':
            quoted = True
        elif character in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                raise Malformed("json-too-deep", f"more than {MAX_JSON_DEPTH} levels")
        elif character in "]}":
            depth -= 1


def _check_characters(value: JsonValue) -> None:
    """Refuse halves of a surrogate pair; raises Malformed."""
    try:
        dumps(value)
    except UnicodeEncodeError as error:
        raise Malformed("json-malformed", "half a surrogate pair in a text") from error


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("json-duplicate-member", "a member name occurs twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise Malformed("json-number-too-long", f"{len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Malformed("json-malformed", "a number beyond all bounds")
    return number


def _no_constant(name: str) -> NoReturn:
    raise Malformed("json-malformed", f"{name} is not JSON")


def writer(items: str, keys: str, *, allow_nan: bool) -> Callable[[object], str]:
    """What writes values with these separators, UTF-8 as it is; they must not hold themselves.

    CPython's own encoder, which `JSONEncoder.encode` sets up anew for every text: half of what a short one costs.
    """
    slow = json.JSONEncoder(separators=(items, keys), ensure_ascii=False, allow_nan=allow_nan, check_circular=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return slow.encode
    write = make(None, slow.default, json.encoder.encode_basestring, None, keys, items, False, False, allow_nan)
    return lambda value: "".join(write(value, 0))


_write = writer(",", ":", allow_nan=False)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
)
