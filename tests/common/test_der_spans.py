"""The quick reader of DER sees what the thorough one sees, or nothing."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common import der
from brski_common.der_spans import MAX_MEMBERS, members, spans
from brski_common.errors import Malformed

Read = list[tuple[int, bytes, bytes]]

pieces = st.one_of(
    st.binary(max_size=8),
    st.builds(der.tlv, st.sampled_from([1, 2, 4, 0x0C, 0x30, 0x80, 0xA0]), st.binary(max_size=300)),
    st.sampled_from(
        [b"\x04\x81\x05hello", b"\x04\x82\x00\x05hello", b"\x30\x80\x00\x00", b"\x1f\x01\x00", b"\x04\x84"]
    ),
)


def thorough(data: bytes) -> Read:
    outer = der.parse(der.sequence(data))
    found = [(each.tag, each.encoded, each.content) for each in outer.children()]
    if not outer.is_der:
        raise Malformed("not-der")
    return found


def quick(data: bytes, tags: bytes | None = None) -> Read:
    whole = (0, 0, len(data))
    found = spans(data, whole) if tags is None else list(zip(tags, members(data, whole, tags), strict=True))
    return [(tag, data[at:after], data[body:after]) for tag, (at, body, after) in found]


@given(st.lists(pieces, max_size=5).map(b"".join))
def test_what_is_read_is_what_the_thorough_reader_reads(data: bytes) -> None:
    with suppress(Malformed):
        found = quick(data)
        assert found == thorough(data)
        assert found == quick(data, bytes(tag for tag, _, _ in found))


@pytest.mark.parametrize("size", [0, 127, 128, 255, 256, 65_535, 65_536])
def test_der_of_any_length_is_read(size: int) -> None:
    data = der.octet_string(bytes(size)) + der.integer(1)
    assert quick(data) == quick(data, b"\x04\x02") == thorough(data)


@pytest.mark.parametrize("tags", [b"", b"\x04", b"\x04\x02\x02", b"\x02\x04"])
def test_other_members_are_malformed(tags: bytes) -> None:
    with pytest.raises(Malformed):
        quick(der.octet_string(b"x") + der.integer(1), tags)


def test_what_has_to_be_read_is_bounded() -> None:
    assert len(quick(der.NULL * MAX_MEMBERS)) == MAX_MEMBERS
    with pytest.raises(Malformed, match="der-not-usual"):
        quick(der.NULL * (MAX_MEMBERS + 1))
