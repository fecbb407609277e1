"""Where the members of an artefact lie in its bytes, for DER, CBOR and JSON, and how to put others in their place.

A `Node` is a unit that can be removed, doubled or moved: an ASN.1 element, a CBOR item, a pair of a
map, a JSON member. `Layout.with_unit` puts other bytes in its place and mends the lengths and
counts around it, so that a mutated artefact gets past the first reader and into the decisions.
What cannot be read is simply not indexed: the input of a fuzzer is often broken already.
"""

import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

MAX_NODES = 600
MAX_NESTING = 24
REMEMBERED_INDEXES = 4096


@dataclass(slots=True)
class Node:
    """The unit `start` to `end`, its value's head at `at` and content from `body` to `stop`; `count` members in it."""

    start: int
    at: int
    body: int
    stop: int
    end: int
    parent: "Node | None"
    is_leaf: bool
    count: int = 0


class Layout(ABC):
    """One encoding: its index, its heads, and what is worth writing into it."""

    separator = b""
    tokens: tuple[bytes, ...] = ()

    @abstractmethod
    def index(self, data: bytes) -> tuple[Node, ...]:
        """The nodes of `data`, as far as they can be told."""

    @abstractmethod
    def head(self, data: bytes, node: Node, length: int, members: int) -> bytes:
        """The head of `node` around a content of `length` bytes that has `members` more members than before."""

    @abstractmethod
    def nest(self, unit: bytes, levels: int) -> bytes:
        """`unit` inside that many containers."""

    @abstractmethod
    def bent(self, data: bytes, node: Node, kind: int) -> bytes:
        """The unit with a head that says another kind or length; `kind` (0 to 7) says which."""

    def with_unit(self, data: bytes, node: Node, unit: bytes, members: int = 0) -> bytes:
        """`data` with `unit` in the place of `node`, `members` more units than the one."""
        start, end, parent = node.start, node.end, node.parent
        if not unit and self.separator:
            start, end = self._with_separator(data, start, end)
        while parent is not None:
            content = data[parent.body : start] + unit + data[end : parent.stop]
            unit = self._wrapped(data, parent, content, members)
            start, end, members, parent = parent.start, parent.end, 0, parent.parent
        return data[:start] + unit + data[end:]

    def with_content(self, data: bytes, node: Node, content: bytes) -> bytes:
        """`data` with other content in a node."""
        return self.with_unit(data, node, self._wrapped(data, node, content, 0))

    def _wrapped(self, data: bytes, node: Node, content: bytes, members: int) -> bytes:
        head = self.head(data, node, len(content), members)
        return data[node.start : node.at] + head + content + data[node.stop : node.end]

    def _with_separator(self, data: bytes, start: int, end: int) -> tuple[int, int]:
        if data[end : end + 1] == self.separator:
            return start, end + 1
        return (start - 1, end) if data[start - 1 : start] == self.separator else (start, end)


# DER


def der_head(tag: int, length: int) -> bytes:
    """An ASN.1 head with the shortest length."""
    if length < 0x80:
        return bytes((tag, length))
    octets = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | octets)) + length.to_bytes(octets)


def _from_hex(tokens: str) -> tuple[bytes, ...]:
    return tuple(map(bytes.fromhex, tokens.split()))


class Der(Layout):
    """ASN.1. What an OCTET STRING or a BIT STRING holds is indexed too, if it is ASN.1."""

    tokens = _from_hex(
        "3080 0000 05800000 24800000 30840000ffff 3084ffffffff 3085 1f8101 ffff 0500 0400 3000 3100 0101ff 020100"
        " 020101 0202ff80 02020001 a000 a100 8000 8700 a4023000 06092a864886f70d010702 06092a864886f70d010701"
        " 060b2a864886f70d0109100128 06092a864886f70d010903 06092a864886f70d010904 06092a864886f70d010905"
        " 0608608648016503040201 06082a8648ce3d040302 06032b6570 06092a864886f70d01010a 06072b0601050507 06012a"
        " 06028000 0603550405 0603551d0e 0603551d11 0603551d13 0603551d23 0603551d1e 06082b06010505070120"
        " 170d3439313233313233353935395a 180f39393939313233313233353935395a 180d3230323131323331323335395a"
        " 170b343931323331323335395a 130548656c6c6f 0c0548656c6c6f 1e020041 0c02ff00"
    )

    def index(self, data: bytes) -> tuple[Node, ...]:
        found: list[Node] = []
        _der_nodes(data, 0, len(data), None, found)
        return tuple(found)

    def head(self, data: bytes, node: Node, length: int, members: int) -> bytes:
        return der_head(data[node.at], length)

    def nest(self, unit: bytes, levels: int) -> bytes:
        for level in range(levels):
            unit = der_head((0x30, 0x31, 0xA0, 0x24)[level % 4], len(unit)) + unit
        return unit

    def bent(self, data: bytes, node: Node, kind: int) -> bytes:
        tag, content = data[node.at], data[node.body : node.stop]
        length, half = len(content), len(content) // 2
        pieces = der_head(tag, half) + content[:half] + der_head(tag, length - half) + content[half:]
        head, body = (
            (bytes((tag, 0x80)), content + b"\x00\x00"),  # BER: indefinite
            (bytes((tag, 0x84)) + length.to_bytes(4), content),  # BER: more length octets than needed
            (der_head(tag, length + 1), content),
            (der_head(tag, max(length - 1, 0)), content),
            (der_head(tag | 0x20, len(pieces)), pieces),  # BER: a string in pieces
            (der_head(tag ^ 0x20, length), content),
            (bytes((tag, 0x84, 0xFF, 0xFF, 0xFF, 0xFF)), content),
            (der_head((tag * 7 + length) & 0xFF, length), content),
        )[kind]
        return head + body


def _der_nodes(data: bytes, at: int, limit: int, parent: Node | None, found: list[Node], depth: int = 0) -> bool:
    """Append the elements from `at` to `limit`; False, and nothing appended, if they are none."""
    mark = len(found)
    while at < limit:
        body, stop = _der_extent(data, at, limit)
        if not body or len(found) >= MAX_NODES or depth > MAX_NESTING:
            del found[mark:]
            return False
        inside = body + (data[at] == 0x03)  # the content of a BIT STRING begins with a count
        inner: list[Node] = []
        node = Node(at, at, body, stop, stop, parent, not data[at] & 0x20)
        if data[at] & 0x20 or (data[at] in (0x03, 0x04) and data[inside : inside + 1] in (b"\x30", b"\x04", b"\x03")):
            _der_nodes(data, inside, stop, node, inner, depth + 1)
        found += [node, *inner]
        at = stop
    return True


def _der_extent(data: bytes, at: int, limit: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends; zeros if it is none."""
    if limit - at < 2 or data[at] & 0x1F == 0x1F or data[at] == 0:
        return 0, 0
    octets = data[at + 1] & 0x7F if data[at + 1] > 0x80 else 0
    body = at + 2 + octets
    length = int.from_bytes(data[at + 2 : body]) if octets else data[at + 1]
    return (body, body + length) if data[at + 1] != 0x80 and octets <= 4 and body + length <= limit else (0, 0)


# CBOR


def cbor_head(major: int, argument: int) -> bytes:
    """A CBOR head with the shortest argument."""
    if argument < 24:
        return bytes((major << 5 | argument,))
    size = next(size for size in (1, 2, 4, 8) if argument < 1 << 8 * size)
    return bytes((major << 5 | 23 + size.bit_length(),)) + argument.to_bytes(size)


class Cbor(Layout):
    """CBOR. A pair of a map is one unit; so is each item of an array and what a tag stands before."""

    tokens = _from_hex(
        "9f ff bf 5f 7f f6 f7 f4 f5 f97e00 f97c00 fb7ff0000000000000 1bffffffffffffffff 3bffffffffffffffff"
        " 9bffffffffffffffff 5bffffffffffffffff bb00000000ffffffff d82f1909c4 d818 c240 c34101 d81c80 d81d00"
        " d823612e d9010280"
        " a0 80 40 60 a10126 a10127 1820 1821 d28443a10126 190993 1909c5 82f6f6 8180 a10080 61c3 f8ff 00 20 01 0c"
    )

    def index(self, data: bytes) -> tuple[Node, ...]:
        found: list[Node] = []
        return tuple(found) if _cbor_nodes(data, 0, None, found, 0) >= 0 else ()

    def head(self, data: bytes, node: Node, length: int, members: int) -> bytes:
        major = data[node.at] >> 5
        if major in (2, 3):
            return cbor_head(major, length)
        if major in (4, 5):
            return cbor_head(major, max(node.count + members, 0))
        return data[node.at : node.body]

    def nest(self, unit: bytes, levels: int) -> bytes:
        return b"".join((b"\x81", b"\xa1\x00", b"\xd8\x63", b"\x9f")[level % 3] for level in range(levels)) + unit

    def bent(self, data: bytes, node: Node, kind: int) -> bytes:
        initial, content, rest = data[node.at], data[node.body : node.stop], data[node.at + 1 : node.end]
        major, half = initial >> 5, len(content) // 2
        pieces = cbor_head(major, half) + content[:half] + cbor_head(major, len(content) - half) + content[half:]
        odd = (
            bytes((initial | 31,)) + content + b"\xff",  # indefinite
            bytes((major << 5 | 27,)) + (node.count or len(content)).to_bytes(8) + content,  # longer than needed
            bytes((initial + 1 & 0xFF,)) + rest,
            bytes((initial - 1 & 0xFF,)) + rest,
            bytes((initial | 31,)) + pieces + b"\xff",  # a string in pieces
            bytes((initial ^ 0x20,)) + rest,
            b"\xd8\x2f" + data[node.at : node.end],  # tagged as an absolute SID
            bytes(((initial * 7 + len(content)) & 0xFF,)) + rest,
        )
        return data[node.start : node.at] + odd[kind]


def _cbor_nodes(data: bytes, at: int, parent: Node | None, found: list[Node], depth: int, key: int = -1) -> int:
    """Append the item at `at` (a pair whose key begins at `key`) and what is in it; where it ends, -1 if it is none."""
    major, argument, body = _cbor_extent(data, at)
    if body < 0 or depth > MAX_NESTING or len(found) >= MAX_NODES:
        return -1
    start = key if key >= 0 else at
    if major < 4 or major == 7:
        stop = body + (argument if major in (2, 3) else 0)
        found.append(Node(start, at, body, stop, stop, parent, major in (2, 3)))
        return stop if stop <= len(data) else -1
    node = Node(start, at, body, body, body, parent, False, argument)
    found.append(node)
    node.stop = node.end = _cbor_members(data, node, found, depth + 1)
    return node.end


def _cbor_members(data: bytes, parent: Node, found: list[Node], depth: int) -> int:
    major, at = data[parent.at] >> 5, parent.body
    for _ in range(1 if major == 6 else parent.count):
        key = -1
        if major == 5:
            key, at = at, _cbor_nodes(data, at, parent, [], depth)
        if at >= 0:
            at = _cbor_nodes(data, at, parent, found, depth, key)
        if at < 0:
            return -1
    return at


def _cbor_extent(data: bytes, at: int) -> tuple[int, int, int]:
    """Major type, argument and where the head ends (-1 if it cannot be told)."""
    if at >= len(data):
        return 0, 0, -1
    major, info = data[at] >> 5, data[at] & 0x1F
    if info > 27:
        return 0, 0, -1
    size = 1 << info - 24 if info >= 24 else 0
    body = at + 1 + size
    return major, int.from_bytes(data[at + 1 : body]) if size else info, body if body <= len(data) else -1


# JSON


def _words(tokens: str) -> tuple[bytes, ...]:
    return tuple(token.encode() for token in tokens.split())


class Json(Layout):
    """JSON text. A member with its name is one unit; so is each value of an array."""

    separator = b","
    tokens = (
        *_words(
            "null true false 0 -0 1.5 1e999 -1 NaN Infinity 18446744073709551616 9999999999999999999999 [] {}"
            ' "" "\\ud800" "\\u0000" "\u202e" "2026-02-30T00:00:00Z" "9999-12-31T23:59:59-23:59" "0001-01-01"'
            ' "2026-11-21" "2026-11-21T12:00:00.123456789+05:30" "2026-W47-6" "24:00" "AA==" "A" "-_"'
            ' "ietf-voucher:voucher" "ietf-voucher-request:voucher" "version" "status" "Status" "reason"'
            ' "reason-context" "events" "truncation" "nonce" "serial-number" "created-on" "assertion"'
            ' "payload" "signatures" "protected" "signature" "header" "alg" "x5c" "crit" "none" "ES256" "HS256"'
            ' \ufeff \\ \\" /**/ \x00 1e400 0x1 01 +1 .5 \x7f [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[['
            ' {"a":{"a":{"a":'
        ),
        *(b'"' + b"A" * 5000 + b'"', b"1" * 5000, b'"\xed\xa0\x80"', b" ", b"\t"),
    )

    def index(self, data: bytes) -> tuple[Node, ...]:
        found: list[Node] = []
        _json_nodes(data, found)
        return tuple(found)

    def head(self, data: bytes, node: Node, length: int, members: int) -> bytes:
        return data[node.at : node.body]

    def nest(self, unit: bytes, levels: int) -> bytes:
        name, colon, value = unit.partition(b":") if unit[:1] == b'"' else (b"", b"", unit)
        return name + colon + b"[" * levels + (value or b"0") + b"]" * levels

    def bent(self, data: bytes, node: Node, kind: int) -> bytes:
        name, value = data[node.start : node.at], data[node.at : node.end]
        text = value.strip(b'"')
        odd = (
            b'"' + text + b'"',
            text,
            b"[" + value + b"]",
            b'{"a":' + value + b"}",
            json.dumps(value.decode("latin-1")).encode(),
            b'"' + text + b'\\u0000"',
            value.swapcase(),
        )
        return name.swapcase() + value if kind == 7 else name + odd[kind]


# An unfinished text is a token too: else each quote after it would be tried again to the end.
_JSON_TOKEN = re.compile(rb'"(?:[^"\\]+|\\.)*+\\?(?:"|\Z)|[\[\]{}:,]|[^\s\[\]{}:,"]+', re.DOTALL)


def _json_nodes(data: bytes, found: list[Node]) -> None:
    """One flat pass over the tokens: JSON has no lengths to mend, so that nobody asks for parents."""
    open_at: list[int] = []
    name_at = -1
    tokens = [(token.start(), token.end()) for token in _JSON_TOKEN.finditer(data)]
    for position, (start, end) in enumerate(tokens[: 4 * MAX_NODES]):
        first = data[start]
        unit = start if name_at < 0 else name_at
        if first in b"[{":
            open_at.append(unit)
            name_at = -1
        elif first in b"]}":
            if open_at:
                unit = open_at.pop()
                at = data.find(b":", unit, end) + 1 if data[unit] == 0x22 else unit
                found.append(Node(unit, at, at + 1, end - 1, end, None, False))
            name_at = -1
        elif first not in b":,":
            follows = tokens[position + 1][0] if position + 1 < len(tokens) else 0
            if first == 0x22 and follows and data[follows] == 0x3A:
                name_at = start
                continue
            quoted = first == 0x22
            found.append(Node(unit, start, start + quoted, end - quoted, end, None, quoted))
            name_at = -1


DER, CBOR, JSON = Der(), Cbor(), Json()


def layout_of(data: bytes) -> Layout | None:
    """The layout these bytes seem to have."""
    first = data[:1]
    if first in (b"{", b"["):
        return JSON
    if first in (b"\x30", b"\x31", b"\xa0", b"\x24", b"\x06", b"\x04"):
        return DER
    return CBOR if first and first[0] >> 5 in (4, 5, 6) else None


def indexed(data: bytes) -> tuple[Layout | None, tuple[Node, ...]]:
    """The layout and the nodes of these bytes."""
    layout = layout_of(data)
    return layout, () if layout is None else layout.index(data)


# For seeds and what is in them, which come again and again.
known = lru_cache(maxsize=REMEMBERED_INDEXES)(indexed)
