"""ASN.1 bytes: a bounded reader for BER and a writer of DER (ITU-T X.690).

The laws of this file:
1. Whatever the bytes, reading raises only Malformed, in time linear to their number.
2. BER is read where peers send it: indefinite lengths (`30 80`), constructed OCTET STRINGs and long
   length octets. `is_der` tells whether any of it was met. Only DER is written.
3. An element is opened only when asked: the certificates inside a message are never walked.

A tag here is the identifier octet as it stands in the bytes, class and constructed bit included.
Multi-byte tags occur nowhere in our protocols and are refused.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache

from brski_common import oids
from brski_common.errors import Malformed
from brski_common.oids import REMEMBERED_OIDS

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32
MAX_ELEMENTS = 16_384  # opened in one message
MAX_LENGTH_OCTETS = 4
MAX_INTEGER_BYTES = 1280  # an RSA modulus of 8192 bits has 1025; Python refuses to write numbers of 4300 digits

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL_TAG = 0x05
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
IA5_STRING = 0x16
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
SET = 0x31

NULL = b"\x05\x00"

_CONSTRUCTED = 0x20
_LONG_TAG = 0x1F
_INDEFINITE = 0x80
_TWO_OCTETS = 0x82
_END_OF_CONTENTS = b"\x00\x00"
_TIME_FORMS = {
    UTC_TIME: (re.compile(rb"\d{12}Z"), "%y%m%d%H%M%SZ"),
    GENERALIZED_TIME: (re.compile(rb"\d{14}Z"), "%Y%m%d%H%M%SZ"),
}


def context(number: int, *, constructed: bool = True) -> int:
    """The tag `[number]`: constructed as EXPLICIT and structured types have it, else primitive."""
    return 0x80 | (_CONSTRUCTED if constructed else 0) | number


# Reading


class _Source:
    """The message all elements point into, and what is left of its budget."""

    __slots__ = ("data", "is_der", "remaining")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.is_der = True
        self.remaining = MAX_ELEMENTS


class Element:
    """One tag-length-value, pointing into the message it was read from."""

    __slots__ = ("_body", "_children", "_depth", "_end", "_source", "_start", "_stop", "tag")

    def __init__(self, source: _Source, tag: int, start: int, body: int, stop: int, depth: int) -> None:
        self.tag = tag
        self._source = source
        self._start = start  # of the identifier octet
        self._body = body  # of the content octets
        self._stop = stop  # of the content octets
        self._end = stop  # of the element: two octets later where the length is indefinite
        self._depth = depth
        self._children: list[Element] | None = None

    def __repr__(self) -> str:
        return f"Element(tag=0x{self.tag:02x}, length={self._stop - self._body})"

    @property
    def encoded(self) -> bytes:
        """The whole element exactly as it was received."""
        return self._source.data[self._start : self._end]

    @property
    def content(self) -> bytes:
        """The content octets exactly as received (of a constructed string these are still elements: see `octets`)."""
        return self._source.data[self._body : self._stop]

    @property
    def is_der(self) -> bool:
        """False once anything opened in this message needed BER."""
        return self._source.is_der

    def children(self) -> list["Element"]:
        """The elements inside; raises Malformed if this is a primitive."""
        found = self._children
        if found is None:
            if not self.tag & _CONSTRUCTED:
                raise Malformed("der-not-constructed", f"tag 0x{self.tag:02x}")
            found = self._children = _read_all(self._source, self._body, self._stop, self._depth + 1)
        return found

    def fields(self, tag: int = SEQUENCE) -> "Fields":
        """The elements inside one after another, of an element that must have this tag."""
        if self.tag != tag:
            raise Malformed("der-unexpected-tag", f"0x{self.tag:02x}, expected 0x{tag:02x}")
        return Fields(self.children())

    def members(self, *tags: int) -> list["Element"]:
        """The elements inside of a SEQUENCE, which must have just these tags; raises Malformed."""
        if self.tag == SEQUENCE:
            found = self.children()
            if tuple([element.tag for element in found]) == tags:
                return found
        fields = self.fields()
        found = [fields.take(tag) for tag in tags]
        fields.end()
        return found

    def inner(self, tag: int) -> "Element":
        """The one element inside, which must have this tag; an OCTET STRING may be constructed. Raises Malformed."""
        inside = self.children()
        if len(inside) == 1 and inside[0].tag == tag:
            return inside[0]
        fields = Fields(inside)
        found = fields.take(tag)
        fields.end()
        return found

    def octets(self) -> bytes:
        """The value of an OCTET STRING, put together where it came in pieces."""
        if not self.tag & _CONSTRUCTED:
            return self.content
        self._source.is_der = False
        return b"".join(_piece(child) for child in self.children())

    def integer(self) -> int:
        """The value of an INTEGER."""
        content = self.content
        if not content or self.tag & _CONSTRUCTED:
            raise Malformed("der-integer", "empty or constructed")
        if len(content) > MAX_INTEGER_BYTES:
            raise Malformed("der-integer", f"{len(content)} bytes, at most {MAX_INTEGER_BYTES}")
        if len(content) > 1 and (content[0], content[1] & 0x80) in ((0x00, 0x00), (0xFF, 0x80)):
            raise Malformed("der-integer", "superfluous leading octet")
        return int.from_bytes(content, signed=True)

    def oid(self) -> str:
        """The value of an OBJECT IDENTIFIER, dotted."""
        return oids.read(self.content)

    def time(self) -> datetime:
        """The value of a UTCTime or GeneralizedTime in the form of RFC 5280, 4.1.2.5: whole seconds, UTC."""
        pattern, form = _TIME_FORMS.get(self.tag, _TIME_FORMS[GENERALIZED_TIME])
        if not pattern.fullmatch(self.content):
            raise Malformed("der-time", f"tag 0x{self.tag:02x}: not whole seconds in UTC")
        try:
            found = datetime.strptime(self.content.decode("ascii"), form).replace(tzinfo=UTC)
        except ValueError as error:
            raise Malformed("der-time", str(error)) from error
        # UTCTime's years 50 to 99 are 19xx (RFC 5280, 4.1.2.5.1); strptime turns at 69.
        return found.replace(year=found.year - 100) if self.tag == UTC_TIME and found.year >= 2050 else found


class Fields:
    """The members of a SEQUENCE, taken in their order."""

    __slots__ = ("_at", "_elements")

    def __init__(self, elements: list[Element]) -> None:
        self._elements = elements
        self._at = 0

    def take(self, tag: int) -> Element:
        """The next member, which must have this tag; an OCTET STRING may be constructed. Raises Malformed."""
        at, elements = self._at, self._elements
        if at < len(elements) and elements[at].tag == tag:
            self._at = at + 1
            return elements[at]
        found = self.optional(tag)
        if found is None:
            raise Malformed("der-unexpected-tag", f"no member 0x{tag:02x} at position {at}")
        return found

    def take_any(self) -> Element:
        """The next member, whatever its tag; raises Malformed where there is none."""
        if self._at >= len(self._elements):
            raise Malformed("der-member-missing", f"nothing at position {self._at}")
        self._at += 1
        return self._elements[self._at - 1]

    def optional(self, tag: int) -> Element | None:
        """The next member if it has this tag."""
        if self._at >= len(self._elements):
            return None
        element = self._elements[self._at]
        if element.tag != tag and not (tag == OCTET_STRING and element.tag == OCTET_STRING | _CONSTRUCTED):
            return None
        self._at += 1
        return element

    def end(self) -> None:
        """Raises Malformed if a member is left."""
        if self._at < len(self._elements):
            raise Malformed("der-unexpected-member", f"0x{self._elements[self._at].tag:02x} at position {self._at}")


def parse(data: bytes, *, limit: int = MAX_BYTES) -> Element:
    """The one element that `data` (at most `limit` bytes) is; raises Malformed, also for bytes after it."""
    if len(data) > limit:
        raise Malformed("der-too-large", f"{len(data)} bytes, at most {limit}")
    element = _read(_Source(bytes(data)), 0, len(data), 0)
    if element._end != len(data):
        raise Malformed("der-trailing-bytes", f"{len(data) - element._end} bytes after the element")
    return element


def _read(source: _Source, start: int, limit: int, depth: int) -> Element:
    """The element that begins at `start` and must be over by `limit`."""
    if limit - start < 2:
        raise Malformed("der-truncated", f"at byte {start}")
    tag, length = source.data[start], source.data[start + 1]
    if tag == 0 or tag & _LONG_TAG == _LONG_TAG:
        raise Malformed("der-tag", f"0x{tag:02x} at byte {start}")
    source.remaining -= 1
    if source.remaining < 0:
        raise Malformed("der-too-many-elements", f"more than {MAX_ELEMENTS}")
    body = start + 2
    if length >= _INDEFINITE:
        if length == _INDEFINITE:
            return _read_indefinite(source, start, limit, depth)
        body, length = _long_length(source, body, length & 0x7F, limit)
    if length > limit - body:
        raise Malformed("der-truncated", f"{length} bytes announced at byte {start}, {limit - body} there")
    return Element(source, tag, start, body, body + length, depth)


def _read_all(source: _Source, at: int, limit: int, depth: int) -> list[Element]:
    """The elements that fill the bytes from `at` to `limit`."""
    if depth > MAX_DEPTH:
        raise Malformed("der-too-deep", f"more than {MAX_DEPTH} levels")
    data, found = source.data, []
    while at < limit:
        tag, body = data[at], at + 2
        length = data[at + 1] if body <= limit else _INDEFINITE
        if length == _TWO_OCTETS and body + 2 <= limit and data[body]:
            body, length = body + 2, data[body] << 8 | data[body + 1]
        # What nearly all elements are is read right here. `_read` has the rest, and a word for all that is wrong.
        is_usual = (length < _INDEFINITE or body > at + 2) and tag and tag & _LONG_TAG != _LONG_TAG
        if is_usual and body + length <= limit and source.remaining > 0:
            source.remaining -= 1
            element = Element(source, tag, at, body, body + length, depth)
        else:
            element = _read(source, at, limit, depth)
        found.append(element)
        at = element._end
    return found


def _read_indefinite(source: _Source, start: int, limit: int, depth: int) -> Element:
    """An element whose end is marked by two zero octets (X.690, 8.1.3.6). Its children are kept: none is read twice."""
    source.is_der = False
    if depth >= MAX_DEPTH:
        raise Malformed("der-too-deep", f"more than {MAX_DEPTH} levels")
    tag = source.data[start]
    if not tag & _CONSTRUCTED:
        raise Malformed("der-length", f"indefinite length of a primitive at byte {start}")
    found, at = [], start + 2
    while source.data[at : min(at + 2, limit)] != _END_OF_CONTENTS:
        child = _read(source, at, limit, depth + 1)
        found.append(child)
        at = child._end
    element = Element(source, tag, start, start + 2, at, depth)
    element._end, element._children = at + 2, found
    return element


def _long_length(source: _Source, at: int, octets: int, limit: int) -> tuple[int, int]:
    """Where the content begins and its length, written in `octets` octets at `at`."""
    if octets > MAX_LENGTH_OCTETS:
        raise Malformed("der-length", f"{octets} length octets at byte {at}")
    if octets > limit - at:
        raise Malformed("der-truncated", f"in the length at byte {at}")
    length = int.from_bytes(source.data[at : at + octets])
    if length < 0x80 or length >> 8 * (octets - 1) == 0:
        source.is_der = False  # longer than DER writes it
    return at + octets, length


def _piece(element: Element) -> bytes:
    if element.tag | _CONSTRUCTED != OCTET_STRING | _CONSTRUCTED:
        raise Malformed("der-unexpected-tag", f"0x{element.tag:02x} inside an OCTET STRING")
    return element.octets()


# Writing


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element: the tag, the length and the parts joined."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    if 0x100 <= length < 0x10000:  # of most of what is longer
        return bytes((tag, _TWO_OCTETS, length >> 8, length & 0xFF)) + content
    octets = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | octets)) + length.to_bytes(octets) + content


def sequence(*members: bytes) -> bytes:
    """SEQUENCE and SEQUENCE OF."""
    return tlv(SEQUENCE, *members)


def set_of(*members: bytes) -> bytes:
    """SET OF: the members in the ascending order DER asks for (X.690, 11.6)."""
    return tlv(SET, *sorted(members))


def boolean(value: bool) -> bytes:
    """BOOLEAN."""
    return b"\x01\x01\xff" if value else b"\x01\x01\x00"


def integer(value: int) -> bytes:
    """INTEGER in as few octets as hold it."""
    magnitude = value if value >= 0 else ~value
    return tlv(INTEGER, value.to_bytes(magnitude.bit_length() // 8 + 1, signed=True))


@lru_cache(maxsize=REMEMBERED_OIDS)
def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER from its dotted form; raises Malformed."""
    return tlv(OBJECT_IDENTIFIER, oids.write(dotted))


def octet_string(value: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(OCTET_STRING, value)


def bit_string(value: bytes, unused: int = 0) -> bytes:
    """BIT STRING; `unused` is the number of bits of the last octet that do not count."""
    return tlv(BIT_STRING, bytes((unused,)), value)


def utf8_string(text: str) -> bytes:
    """UTF8String."""
    return tlv(UTF8_STRING, text.encode())


def ia5_string(text: str) -> bytes:
    """IA5String; raises Malformed if the text is not ASCII."""
    return tlv(IA5_STRING, _ascii(text))


def printable_string(text: str) -> bytes:
    """PrintableString; raises Malformed if the text is not ASCII."""
    return tlv(PRINTABLE_STRING, _ascii(text))


def time(moment: datetime) -> bytes:
    """Time as RFC 5280, 4.1.2.5 has it, cut to the second: UTCTime from 1950 to 2049, else GeneralizedTime."""
    utc = moment.astimezone(UTC)
    if 1950 <= utc.year < 2050:
        return tlv(UTC_TIME, utc.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(GENERALIZED_TIME, f"{utc.year:04}{utc:%m%d%H%M%S}Z".encode())


def explicit(number: int, *members: bytes) -> bytes:
    """`[number] EXPLICIT` around an element; around several: `[number] IMPLICIT` of a SEQUENCE or SET of them."""
    return tlv(context(number), *members)


def implicit(number: int, encoded: bytes) -> bytes:
    """`[number] IMPLICIT`: the same element under a context tag."""
    return bytes((0x80 | encoded[0] & _CONSTRUCTED | number,)) + encoded[1:]


def _ascii(text: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError as error:
        raise Malformed("der-not-ascii", ascii(text[:80])) from error
