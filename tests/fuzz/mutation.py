"""From a good artefact to a bad one: edits that know a little of the structure, and edits that know nothing.

`Mutator.mutate` takes a seed, makes up to two structural edits (delete, double, move, nest, another
head, another artefact's member; also inside what a string holds: JSON in CMS, a certificate in
base64 in JSON) and then up to four blunt ones (flips, splices, tokens, truncation). All chance
comes from the `random.Random` it is given: the same seed gives the same inputs.
"""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from random import Random

from tests.fuzz.layouts import JSON, Layout, Node, indexed, known, layout_of

MAX_INPUT = 64 * 1024  # bytes of one mutated input, unless the target says otherwise
MAX_INSIDE = 4  # layers of one encoding in another that are opened
MAX_REPEATS = 40
RARE = 400  # one input in so many is blown up to its limit
BLUNT = 0.2  # the share of inputs that get blunt edits: most of those end in the first reader

_EDITS_A_SEED = (0, *[1] * 15, 2, 2, 3)
Index = Callable[[bytes], tuple[Layout | None, tuple[Node, ...]]]

_INTERESTING = bytes((0x00, 0x01, 0x7F, 0x80, 0x81, 0x84, 0xFF, 0x30, 0x24, 0x1F, 0x22, 0x5C, 0x0A, 0x2E))
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{12,}={0,2}\s*")
_TEXT_TOKENS = (
    *(b"=", b"==", b"===", b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b"--", b"-----BEGIN CERTIFICATE-----", b"-"),
    *(b"-----END CERTIFICATE-----", b"-----BEGIN PKCS7-----", b"0", b"\x30", b"Content-Type:", b"application/pkcs8"),
    *(b"--est-server-key", b"\r\n\r\n", b'; boundary="', b";", b'"', b"\\", b"multipart/mixed", b"+", b"/", b"_"),
    b"\xff",
)  # fmt: skip


class Mutator:
    """A source of bad inputs. `pool` are the artefacts whose members it may take."""

    def __init__(self, random: Random, pool: Sequence[bytes], limit: int = MAX_INPUT) -> None:
        self._random = random
        self._pool = pool
        self._limit = limit

    def mutate(self, data: bytes) -> bytes:
        """One bad input, at most `limit` bytes; now and then the seed comes back as it was."""
        random = self._random
        for edit in range(random.choice(_EDITS_A_SEED)):
            data = self._structural(data, 0, known if edit == 0 else indexed)
        if random.random() < BLUNT:
            for _ in range(random.choice((1, 1, 2, 4))):
                data = self._blunt(data)
        if random.randrange(RARE) == 0:
            data = self._blown_up(data)
        return data[: self._limit]

    # Structure

    def _structural(self, data: bytes, inside: int, index: Index) -> bytes:
        layout, nodes = index(data)
        if layout is None or not nodes:
            return self._armoured(data, inside, index)
        random = self._random
        node = random.choice(nodes)
        if node.is_leaf and inside < MAX_INSIDE and node.stop - node.body > 12 and random.random() < 0.6:
            return layout.with_content(data, node, self._structural(data[node.body : node.stop], inside + 1, index))
        return random.choice(_EDITS)(self, layout, data, nodes, node)

    def _armoured(self, data: bytes, inside: int, index: Index) -> bytes:
        """Base64 is opened, its content mutated and armoured again; anything else gets a blunt edit."""
        if _BASE64.fullmatch(data) and self._random.random() < 0.8:
            url = b"-" in data or b"_" in data or not data.rstrip().endswith(b"=")
            text = data.strip().translate(_FROM_URL).rstrip(b"=")
            try:
                content = base64.b64decode(text + b"=" * (-len(text) % 4))
            except binascii.Error:
                return self._blunt(data)
            changed = base64.b64encode(self._structural(content, inside + 1, index) if inside < MAX_INSIDE else content)
            if data.strip().endswith(b"=") or not url:
                return self._rearmoured(changed)
            return changed.rstrip(b"=").translate(_TO_URL)
        return self._blunt(data)

    def _rearmoured(self, text: bytes) -> bytes:
        match self._random.randrange(12):
            case 0:
                return b"\r\n".join(text[at : at + 64] for at in range(0, len(text), 64)) + b"\r\n"
            case 1:
                return text.rstrip(b"=")
            case 2:
                return text + b"="
            case 3:
                return text.translate(_TO_URL)
            case 4:
                return b"-----BEGIN CERTIFICATE-----\n" + text + b"\n-----END CERTIFICATE-----\n"
        return text

    def _delete(self, layout: Layout, data: bytes, _nodes: Sequence[Node], node: Node) -> bytes:
        return layout.with_unit(data, node, b"", -1)

    def _double(self, layout: Layout, data: bytes, _nodes: Sequence[Node], node: Node) -> bytes:
        unit = data[node.start : node.end]
        times = 2 if self._random.random() < 0.8 else self._random.randrange(3, MAX_REPEATS)
        if len(unit) * times > self._limit:
            return data
        return layout.with_unit(data, node, layout.separator.join([unit] * times), times - 1)

    def _exchange(self, layout: Layout, data: bytes, nodes: Sequence[Node], node: Node) -> bytes:
        other = self._random.choice(nodes)
        return layout.with_unit(data, node, data[other.start : other.end])

    def _add(self, layout: Layout, data: bytes, nodes: Sequence[Node], node: Node) -> bytes:
        other = self._random.choice(nodes)
        units = [data[node.start : node.end], data[other.start : other.end]]
        return layout.with_unit(data, node, layout.separator.join(units), 1)

    def _transplant(self, layout: Layout, data: bytes, _nodes: Sequence[Node], node: Node) -> bytes:
        donor = self._random.choice(self._pool)
        of_donor, nodes = known(donor)
        if of_donor is not layout or not nodes:
            return layout.with_content(data, node, donor) if node.is_leaf else data
        other = self._random.choice(nodes)
        return layout.with_unit(data, node, donor[other.start : other.end])

    def _nest(self, layout: Layout, data: bytes, _nodes: Sequence[Node], node: Node) -> bytes:
        levels = self._random.choice((1, 1, 2, 3, 15, 16, 17, 31, 32, 33, 40))
        return layout.with_unit(data, node, layout.nest(data[node.start : node.end], levels))

    def _bend(self, layout: Layout, data: bytes, _nodes: Sequence[Node], node: Node) -> bytes:
        return layout.with_unit(data, node, layout.bent(data, node, self._random.randrange(8)))

    def _tokenise(self, layout: Layout, data: bytes, _nodes: Sequence[Node], node: Node) -> bytes:
        token = self._random.choice(layout.tokens)
        unit = data[node.start : node.at] + token if layout is JSON or self._random.random() < 0.7 else token
        return layout.with_unit(data, node, unit)

    def _refill(self, layout: Layout, data: bytes, _nodes: Sequence[Node], node: Node) -> bytes:
        return layout.with_content(data, node, self._blunt(data[node.body : node.stop]))

    def _empty(self, layout: Layout, data: bytes, _nodes: Sequence[Node], node: Node) -> bytes:
        return layout.with_content(data, node, b"")

    # Blunt edits

    def _blunt(self, data: bytes) -> bytes:
        if not data:
            return self._random.choice(_TEXT_TOKENS)
        return self._random.choice(_BLUNT_EDITS)(self, data, self._random.randrange(len(data)))

    def _flip(self, data: bytes, at: int) -> bytes:
        return data[:at] + bytes((data[at] ^ 1 << self._random.randrange(8),)) + data[at + 1 :]

    def _overwrite(self, data: bytes, at: int) -> bytes:
        octet = data[at] + self._random.choice((1, -1, 2, -2)) & 0xFF
        return data[:at] + bytes((self._random.choice((octet, octet, *_INTERESTING)),)) + data[at + 1 :]

    def _cut_out(self, data: bytes, at: int) -> bytes:
        return data[:at] + data[at + self._random.choice((1, 1, 2, 4, 16, 64)) :]

    def _insert(self, data: bytes, at: int) -> bytes:
        return data[:at] + self._random.randbytes(self._random.choice((1, 1, 2, 4, 8))) + data[at:]

    def _insert_token(self, data: bytes, at: int) -> bytes:
        return data[:at] + self._token(data) + data[at:]

    def _overwrite_token(self, data: bytes, at: int) -> bytes:
        token = self._token(data)
        return data[:at] + token + data[at + len(token) :]

    def _truncate(self, data: bytes, at: int) -> bytes:
        return data[:at] if self._random.random() < 0.5 else data[at:]

    def _copy(self, data: bytes, at: int) -> bytes:
        piece = data[at : at + self._random.choice((1, 2, 4, 16, 64, 256))]
        to = self._random.randrange(len(data))
        return data[:to] + piece + data[to:]

    def _splice(self, data: bytes, at: int) -> bytes:
        donor = self._random.choice(self._pool)
        start = self._random.randrange(len(donor) + 1)
        return data[:at] + donor[start : start + self._random.choice((4, 16, 64, 256, 65536))]

    def _token(self, data: bytes) -> bytes:
        layout = layout_of(data)
        return self._random.choice(layout.tokens if layout else _TEXT_TOKENS + _BINARY_TOKENS)

    def _blown_up(self, data: bytes) -> bytes:
        """Some piece again and again until the limit: work must not grow faster than the input."""
        at = self._random.randrange(len(data) + 1)
        piece = data[at : at + self._random.choice((1, 2, 3, 8, 64))] or b"\x30"
        room = max(self._limit - len(data), 0)
        return data[:at] + piece * (room // len(piece)) + data[at:]


Edit = Callable[[Mutator, Layout, bytes, Sequence[Node], Node], bytes]

# How often each edit is made: what leaves the structure whole gets furthest.
_EDITS: tuple[Edit, ...] = (
    *[Mutator._refill] * 5,
    *[Mutator._delete, Mutator._double, Mutator._exchange, Mutator._bend] * 2,
    *(Mutator._add, Mutator._transplant, Mutator._nest, Mutator._tokenise, Mutator._empty),
)
_BLUNT_EDITS: tuple[Callable[[Mutator, bytes, int], bytes], ...] = (
    *[Mutator._flip, Mutator._insert_token, Mutator._overwrite] * 2,
    *(Mutator._cut_out, Mutator._insert, Mutator._overwrite_token, Mutator._truncate, Mutator._copy, Mutator._splice),
)
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_BINARY_TOKENS = tuple(
    bytes.fromhex(text) for text in ("3080", "0000", "a0820000", "5f", "ff", "d2", "0500", "84ffffffff")
)
