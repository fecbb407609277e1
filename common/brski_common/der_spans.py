"""Where the members of DER stand, without an object for each: enough for what nearly every message and certificate is.

`der` reads all there is and has the word for what is wrong with it. This reads the usual for a fraction of the calls:
tags of one octet, lengths as DER writes them, up to MAX_MEMBERS in one element. Anything else is Malformed here, which
says no more than that `der` has to be asked.
"""

from brski_common.errors import Malformed

Span = tuple[int, int, int, int]  # the tag, and where the element begins, its content, and what comes after it

MAX_MEMBERS = 64

_LONG_TAG = 0x1F


def spans(data: bytes, at: int, stop: int) -> list[Span]:
    """The elements that fill the bytes from `at` to `stop`; raises Malformed."""
    found: list[Span] = []
    try:
        for _ in range(MAX_MEMBERS + 1):
            if at >= stop:
                return found
            tag, length, body = data[at], data[at + 1], at + 2
            if length >= 0x80:
                body, length = _long_length(data, body, length & 0x7F)
            after = body + length
            if tag == 0 or tag & _LONG_TAG == _LONG_TAG or after > stop:
                raise Malformed("der-not-usual", f"at byte {at}")
            found.append((tag, at, body, after))
            at = after
    except IndexError as error:
        raise Malformed("der-not-usual", f"truncated after byte {at}") from error
    raise Malformed("der-not-usual", f"more than {MAX_MEMBERS} members")


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
