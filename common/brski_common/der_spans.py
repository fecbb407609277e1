"""Where the members of DER stand, without an object for each: enough for what nearly every message and certificate is.

`der` reads all there is and has the word for what is wrong with it. This reads the usual for a fraction of the calls:
tags of one octet, lengths as DER writes them, up to MAX_MEMBERS in one element. Anything else is Malformed here, which
says no more than that `der` has to be asked.
"""

from brski_common.errors import Malformed

Place = tuple[int, int, int]  # where an element begins, its content, and what comes after it
Span = tuple[int, Place]  # with its tag before

MAX_MEMBERS = 64

_LONG_TAG = 0x1F
_TWO_OCTETS = 0x82


def spans(data: bytes, outer: Place) -> list[Span]:
    """The elements inside of `outer`; raises Malformed."""
    _, at, stop = outer
    found: list[Span] = []
    try:
        for _ in range(MAX_MEMBERS + 1):
            if at >= stop:
                return found
            tag, length, body = data[at], data[at + 1], at + 2
            if length == _TWO_OCTETS and data[body]:
                body, length = body + 2, data[body] << 8 | data[body + 1]
            elif length >= 0x80:
                body, length = _long_length(data, body, length & 0x7F)
            after = body + length
            if tag == 0 or tag & _LONG_TAG == _LONG_TAG or after > stop:
                raise Malformed("der-not-usual", f"at byte {at}")
            found.append((tag, (at, body, after)))
            at = after
    except IndexError as error:
        raise Malformed("der-not-usual", f"truncated after byte {at}") from error
    raise Malformed("der-not-usual", f"more than {MAX_MEMBERS} members")


def members(data: bytes, outer: Place, tags: bytes) -> list[Place]:
    """The elements inside of `outer`, which must have just these tags; raises Malformed."""
    _, at, stop = outer
    found: list[Place] = []
    try:
        for tag in tags:
            length, body = data[at + 1], at + 2
            if length == _TWO_OCTETS and data[body]:
                body, length = body + 2, data[body] << 8 | data[body + 1]
            elif length >= 0x80:
                body, length = _long_length(data, body, length & 0x7F)
            after = body + length
            if data[at] != tag or after > stop:
                raise Malformed("der-not-usual", f"at byte {at}")
            found.append((at, body, after))
            at = after
    except IndexError as error:
        raise Malformed("der-not-usual", f"truncated after byte {at}") from error
    if at != stop:
        raise Malformed("der-not-usual", f"more at byte {at}")
    return found


def _long_length(data: bytes, at: int, octets: int) -> tuple[int, int]:
    """Where the content begins and its length, written in `octets` octets at `at`."""
    first = data[at]
    if octets == 1 and first >= 0x80:
        return at + 1, first
    if octets == 2 and first:
        return at + 2, first << 8 | data[at + 1]
    if octets == 3 and first:
        return at + 3, first << 16 | data[at + 1] << 8 | data[at + 2]
    raise Malformed("der-not-usual", f"a length of {octets} octets at byte {at}")
