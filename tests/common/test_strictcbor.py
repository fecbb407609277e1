"""CBOR from a peer: bounded, unambiguous, and no tag is obeyed (RFC 8949; RFC 8995, 11)."""

import math
from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common import strictcbor
from brski_common.errors import BrskiError, Malformed
from brski_common.strictcbor import CborValue

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
    | st.text(max_size=40)
)
keys = st.integers(-(2**64), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_what_cbor2_writes_is_read(value: CborValue) -> None:
    assert strictcbor.loads(cbor2.dumps(value)) == value


@given(values)
def test_what_cbor2_writes_canonically_is_read(value: CborValue) -> None:
    assert strictcbor.loads(cbor2.dumps(value, canonical=True)) == value


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_the_suites_errors_and_are_read_as_cbor2_reads_them(data: bytes) -> None:
    with suppress(BrskiError):
        value = strictcbor.loads(data)
        if not any(major in repr(value) for major in ("CBORTag", "nan")):
            assert cbor2.loads(data) == value


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("9f010203ff", [1, 2, 3]),
        ("bf0102ff", {1: 2}),
        ("5f4101420203ff", b"\x01\x02\x03"),
        ("7f61616162ff", "ab"),
        ("9fff", []),
        ("1b0000000000000001", 1),
        ("f97e00", math.nan),
        ("d81243010203", cbor2.CBORTag(18, b"\x01\x02\x03")),
        ("a1d82f1909c600", {cbor2.CBORTag(47, 2502): 0}),
    ],
)
def test_every_form_of_an_item_is_read(encoded: str, value: CborValue) -> None:
    found = strictcbor.loads(bytes.fromhex(encoded))
    assert found == value or (found != found and value != value)  # noqa: PLR0124  # only NaN is not itself


@pytest.mark.req("AT-10")
@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("", "cbor-truncated"),
        ("5bffffffffffffffff", "cbor-truncated"),
        ("9bffffffffffffffff", "cbor-truncated"),
        ("bbffffffffffffffff", "cbor-truncated"),
        ("9f01", "cbor-truncated"),
        ("a201020103", "cbor-duplicate-key"),
        ("a2010218010a", "cbor-duplicate-key"),  # 1 in two spellings
        ("bf01020102ff", "cbor-duplicate-key"),
        ("a1f500", "cbor-key"),
        ("a1f93c0000", "cbor-key"),
        ("a1800a", "cbor-key"),
        ("a1a0f6", "cbor-key"),
        ("a1d8238000", "cbor-key"),
        ("0000", "cbor-trailing-bytes"),
        ("1c", "cbor-malformed"),
        ("1f", "cbor-malformed"),
        ("df00", "cbor-malformed"),
        ("5f6161ff", "cbor-malformed"),
        ("5f5f4101ffff", "cbor-malformed"),
        ("ff", "cbor-simple-value"),
        ("f7", "cbor-simple-value"),
        ("f801", "cbor-simple-value"),
        ("61ff", "cbor-not-utf-8"),
        ("81" * 100_000, "cbor-too-deep"),
        ("c1" * 1000, "cbor-too-deep"),
        ("9f" + "00" * (strictcbor.MAX_CBOR_ITEMS + 1) + "ff", "cbor-too-many-items"),
        ("00" * (strictcbor.MAX_CBOR_BYTES + 1), "cbor-too-large"),
    ],
)
def test_hostile_cbor_is_refused_with_a_clear_reason(encoded: str, reason: str) -> None:
    with pytest.raises(Malformed) as refused:
        strictcbor.loads(bytes.fromhex(encoded))
    assert refused.value.reason == reason


@pytest.mark.req("AT-10")
@pytest.mark.parametrize(
    "encoded", ["d82368285b615d2b292b24", "c5821b00000000ffffffff01", "c001", "d81d00", "d8254100"]
)
def test_no_tag_is_obeyed(encoded: str) -> None:
    """A regular expression, a huge power, a date, a reference, a UUID: all stay a number and what it stands before."""
    assert isinstance(strictcbor.loads(bytes.fromhex(encoded)), cbor2.CBORTag)


def test_a_map_has_a_bound_of_its_own() -> None:
    most = dict.fromkeys(range(strictcbor.MAX_CBOR_MEMBERS), 0)
    assert strictcbor.loads(cbor2.dumps(most)) == most
    with pytest.raises(Malformed, match="cbor-too-many-items"):
        strictcbor.loads(cbor2.dumps(most | {-1: 0}))
