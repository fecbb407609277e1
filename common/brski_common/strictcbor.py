"""CBOR as the protocol means it: bounded, no duplicate keys, nothing after the end (RFC 8949).

Why not `cbor2.loads`: of two equal keys it keeps the last, and a signer may have meant the first; it
ignores bytes after the item; it obeys the tags it knows, so a peer may have it compile regular
expressions, compute powers or build lists that hold themselves. Here a tag is only a `CBORTag`.
Writing is cbor2's part.
"""

import struct
from collections.abc import Callable

from cbor2 import CBORTag

from brski_common.errors import Malformed

CborValue = int | bytes | str | float | bool | None | list["CborValue"] | dict["CborValue", "CborValue"] | CBORTag

MAX_CBOR_BYTES = 256 * 1024
MAX_CBOR_DEPTH = 16
MAX_CBOR_ITEMS = 16_384
MAX_CBOR_MEMBERS = 512  # of one map: numbers can be chosen to collide in a dict, each costing as much as all before it

_INDEFINITE = -1
_BREAK = 0xFF
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}


def loads(data: bytes, *, limit: int = MAX_CBOR_BYTES) -> CborValue:
    """Read the one item that `data` (at most `limit` bytes) is; raises Malformed with a `cbor-…` reason."""
    if len(data) > limit:
        raise Malformed("cbor-too-large", f"{len(data)} bytes, at most {limit}")
    reader = _Reader(bytes(data))
    value = reader.item(0)
    if reader.at != len(data):
        raise Malformed("cbor-trailing-bytes", f"{len(data) - reader.at} bytes after the item")
    return value


class _Reader:
    """Where in the bytes we are, and how many items may still come."""

    __slots__ = ("at", "data", "remaining")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.remaining = MAX_CBOR_ITEMS

    def item(self, depth: int) -> CborValue:
        self.remaining -= 1
        if self.remaining < 0 or depth > MAX_CBOR_DEPTH:
            raise Malformed("cbor-too-deep" if depth > MAX_CBOR_DEPTH else "cbor-too-many-items")
        initial = self._take(1)[0]
        major, info = initial >> 5, initial & 0x1F
        return _READERS[major](self, major, info, depth)

    def _take(self, count: int) -> bytes:
        start, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise Malformed("cbor-truncated", f"at byte {start}")
        return self.data[start : self.at]

    def _argument(self, info: int, *, indefinite: bool = False) -> int:
        """The number in or after the initial byte (RFC 8949, 3)."""
        if info < 24:
            return info
        if info <= 27:
            return int.from_bytes(self._take(1 << info - 24))
        if info == 31 and indefinite:
            return _INDEFINITE
        raise Malformed("cbor-malformed", f"additional information {info} at byte {self.at - 1}")

    def _more(self, count: int, done: int) -> bool:
        """Whether another element follows the `done` of a container that has `count`, or ends with a break."""
        if count != _INDEFINITE:
            return done < count
        if self.data[self.at : self.at + 1] != bytes((_BREAK,)):
            return True
        self.at += 1
        return False

    def integer(self, major: int, info: int, _depth: int) -> int:
        value = self._argument(info)
        return -1 - value if major == 1 else value

    def octets(self, major: int, info: int, _depth: int) -> bytes:
        length = self._argument(info, indefinite=True)
        if length != _INDEFINITE:
            return self._take(length)
        pieces: list[bytes] = []
        while self._more(_INDEFINITE, 0):
            initial = self._take(1)[0]
            if initial >> 5 != major:
                raise Malformed("cbor-malformed", f"a piece of another type at byte {self.at - 1}")
            pieces.append(self._take(self._argument(initial & 0x1F)))
        return b"".join(pieces)

    def text(self, major: int, info: int, depth: int) -> str:
        try:
            return self.octets(major, info, depth).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Malformed("cbor-not-utf-8", f"before byte {self.at}") from error

    def array(self, _major: int, info: int, depth: int) -> list[CborValue]:
        count = self._argument(info, indefinite=True)
        found: list[CborValue] = []
        while self._more(count, len(found)):
            found.append(self.item(depth + 1))
        return found

    def map(self, _major: int, info: int, depth: int) -> dict[CborValue, CborValue]:
        count = self._argument(info, indefinite=True)
        found: dict[CborValue, CborValue] = {}
        while self._more(count, len(found)):
            key = self.item(depth + 1)
            if not _is_key(key):
                raise Malformed("cbor-key", f"a {type(key).__name__} as key of a map")
            if key in found:
                raise Malformed("cbor-duplicate-key", "a key occurs twice")
            if len(found) == MAX_CBOR_MEMBERS:
                raise Malformed("cbor-too-many-items", f"a map of more than {MAX_CBOR_MEMBERS} members")
            found[key] = self.item(depth + 1)
        return found

    def tag(self, _major: int, info: int, depth: int) -> CBORTag:
        return CBORTag(self._argument(info), self.item(depth + 1))

    def simple(self, _major: int, info: int, _depth: int) -> float | bool | None:
        if info in _FLOATS:
            return float(struct.unpack(_FLOATS[info], self._take(1 << info - 24))[0])
        if info in _SIMPLE:
            return _SIMPLE[info]
        raise Malformed("cbor-simple-value", f"additional information {info} at byte {self.at - 1}")


def _is_key(key: CborValue) -> bool:
    """Integers and texts; bytes; and a tagged integer, as YANG-CBOR has absolute SIDs (RFC 9254, 3.2)."""
    inner = key.value if isinstance(key, CBORTag) else key
    return isinstance(inner, int | str | bytes) and not isinstance(inner, bool)


_SIMPLE: dict[int, bool | None] = {20: False, 21: True, 22: None}
_READERS: tuple[Callable[[_Reader, int, int, int], CborValue], ...] = (
    _Reader.integer,
    _Reader.integer,
    _Reader.octets,
    _Reader.text,
    _Reader.array,
    _Reader.map,
    _Reader.tag,
    _Reader.simple,
)
