"""ASN.1 bytes: BER of any shape is read within bounds, DER is written (X.690)."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from brski_common import der
from brski_common.errors import BrskiError, Malformed


def walk(element: der.Element) -> None:
    """Open everything and ask each element for every value."""
    for read in (element.octets, element.integer, element.oid, element.time, element.fields):
        with suppress(BrskiError):
            read()
    with suppress(BrskiError):
        for child in element.children():
            walk(child)


@given(st.binary(max_size=300))
def test_any_bytes_raise_only_the_suites_errors(data: bytes) -> None:
    with suppress(BrskiError):
        walk(der.parse(data))


# Bytes that are nearly ASN.1 reach further than random ones.
near_asn1 = st.recursive(
    st.builds(der.tlv, st.sampled_from([2, 4, 5, 6, 0x17, 0x18, 0x80]), st.binary(max_size=20)),
    lambda inner: (
        st.builds(
            lambda tag, members, cut: der.tlv(tag, *members)[: -cut or None],
            st.sampled_from([0x30, 0x31, 0x24, 0xA0]),
            st.lists(inner, max_size=4),
            st.integers(0, 1),
        )
        | st.builds(lambda members: b"\x30\x80" + b"".join(members) + b"\0\0", st.lists(inner, max_size=4))
    ),
    max_leaves=20,
)


@given(near_asn1)
def test_bytes_that_are_nearly_asn1_raise_only_the_suites_errors(data: bytes) -> None:
    with suppress(BrskiError):
        walk(der.parse(data))


@given(st.integers(-(2**200), 2**200))
def test_integers_come_back(value: int) -> None:
    assert der.parse(der.integer(value)).integer() == value


@given(st.binary(max_size=70_000))
def test_octet_strings_of_any_length_come_back(value: bytes) -> None:
    element = der.parse(der.octet_string(value))
    assert (element.octets(), element.content, element.is_der) == (value, value, True)


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 2**64), max_size=8))
def test_object_identifiers_come_back(first: int, second: int, rest: list[int]) -> None:
    dotted = ".".join(map(str, (first, second, *rest)))
    assert der.parse(der.oid(dotted)).oid() == dotted


def test_object_identifiers_are_written_as_pyca_writes_them() -> None:
    extension = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28"), x509.ObjectIdentifier("2.999.3")])
    assert der.sequence(der.oid("1.3.6.1.5.5.7.3.28"), der.oid("2.999.3")) == extension.public_bytes()


@pytest.mark.parametrize("dotted", ["", "1", "3.1", "0.40", "1.2.", "1..2", "1.2.x", "1.-2", "1.2.\u0663", ".1.2"])
def test_a_wrong_object_identifier_is_not_written(dotted: str) -> None:
    with pytest.raises(Malformed, match="oid-malformed"):
        der.oid(dotted)


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001  # hypothesis takes naive bounds
def test_times_come_back_to_the_second(moment: datetime) -> None:
    assert der.parse(der.time(moment)).time() == moment.replace(microsecond=0)


@pytest.mark.parametrize(("encoded", "year"), [(b"\x17\x0d500101000000Z", 1950), (b"\x17\x0d491231235959Z", 2049)])
def test_two_digits_of_a_year_mean_what_rfc_5280_says(encoded: bytes, year: int) -> None:
    assert der.parse(encoded).time().year == year


@pytest.mark.parametrize(
    "text", [b"2101010000Z", b"210101000000+0100", b"210101000000z", b"21 101000000Z", b"", b"\xff" * 13]
)
def test_a_time_in_another_form_is_malformed(text: bytes) -> None:
    with pytest.raises(Malformed, match="der-time"):
        der.parse(der.tlv(der.UTC_TIME, text)).time()


def test_a_set_is_written_in_ascending_order() -> None:
    assert der.set_of(b"\x02\x01\x05", b"\x02\x01\x01", b"\x01\x01\xff") == bytes.fromhex("3109 0101ff 020101 020105")


def test_context_tags_are_written() -> None:
    assert der.explicit(1, der.NULL) == b"\xa1\x02\x05\x00"
    assert der.implicit(0, der.set_of(der.NULL)) == b"\xa0\x02\x05\x00"
    assert der.implicit(2, der.octet_string(b"x")) == b"\x82\x01x"
    assert der.bit_string(b"\x80", 7) == b"\x03\x02\x07\x80"
    assert der.boolean(True) + der.boolean(False) == b"\x01\x01\xff\x01\x01\x00"
    assert der.utf8_string("é") + der.printable_string("a") == b"\x0c\x02\xc3\xa9\x13\x01a"
    with pytest.raises(Malformed, match="der-not-ascii"):
        der.ia5_string("é")


@pytest.mark.req("VA-05")
@pytest.mark.parametrize(
    "encoded",
    [
        "2480 0402 6865 0403 6c6c6f 0000",
        "2407 0405 68656c6c6f",
        "2480 2404 0402 6865 2480 0403 6c6c6f 0000 0000",
        "0481 05 68656c6c6f",
        "0484 00000005 68656c6c6f",
    ],
)
def test_ber_octet_strings_are_put_together_and_noticed(encoded: str) -> None:
    element = der.parse(bytes.fromhex(encoded))
    assert element.octets() == b"hello"
    assert not element.is_der


def test_an_indefinite_sequence_gives_its_members_and_its_bytes_as_received() -> None:
    data = bytes.fromhex("3080 3080 020101 0000 0500 0000")
    inner, null = der.parse(data).children()
    assert inner.encoded == bytes.fromhex("3080 020101 0000")
    assert inner.content == bytes.fromhex("020101")
    assert (inner.children()[0].integer(), null.tag) == (1, der.NULL_TAG)


@pytest.mark.req("AT-10")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "der-truncated"),
        (b"\x30", "der-truncated"),
        (b"\x30\x05\x02\x01\x01", "der-truncated"),
        (b"\x30\x03\x02\x05\x01", "der-truncated"),  # the member is longer than what holds it
        (b"\x30\x84\xff\xff\xff\xff", "der-truncated"),
        (b"\x30\x82\x01", "der-truncated"),
        (b"\x30\x89" + b"\x01" * 9, "der-length"),
        (b"\x30\xff", "der-length"),
        (b"\x04\x80\x00\x00", "der-length"),
        (b"\x30\x80\x02\x01\x01", "der-truncated"),
        (b"\x30\x04\x30\x80\x00\x00\x00\x00", "der-trailing-bytes"),
        (b"\x05\x00\x00", "der-trailing-bytes"),
        (b"\x1f\x81\x01\x00", "der-tag"),
        (b"\x00\x00", "der-tag"),
        (b"\x30\x02\x00\x00", "der-tag"),
        (b"\x30\x80" * 100_000, "der-too-deep"),
        (b"\x04\x84\x00\x10\x00\x00" + bytes(der.MAX_BYTES), "der-too-large"),
        (b"\x30\x80" + b"\x05\x00" * (der.MAX_ELEMENTS + 1) + b"\x00\x00", "der-too-many-elements"),
    ],
)
def test_hostile_bytes_are_refused_with_a_clear_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as refused:
        list(der.parse(data).children())
    assert refused.value.reason == reason


def seen(read: Callable[[], der.Element]) -> tuple[object, ...]:
    """What a reader makes of some bytes: the element, or that there is none."""
    try:
        element = read()
    except Malformed as refused:
        return (refused.reason,)
    return element.tag, element.encoded, element.content, element.is_der


# Elements inside others are read by a shorter way, which shall see no more and no less.
@given(near_asn1 | st.builds(der.tlv, st.sampled_from([4, 0x30]), st.binary(max_size=70_000)))
@example(b"\x04\x82\x00\x01x")
@example(b"\x04\x82\x01")
@example(b"\x04\x82\x01\x00")
@example(b"\x04\x81\x01x")
@example(b"\x04\x7f")
@example(b"\x04")
@example(b"\x1f\x01x")
@example(b"\x00\x00")
@example(b"\x04\x80x\x00\x00")
def test_an_element_means_the_same_inside_another(data: bytes) -> None:
    alone = seen(lambda: der.parse(data))
    if alone != ("der-trailing-bytes",):
        assert seen(lambda: der.parse(der.sequence(data)).children()[0]) == alone


@pytest.mark.req("AT-10")
def test_the_number_of_elements_is_bounded_whatever_their_form() -> None:
    allowed = der.NULL * (der.MAX_ELEMENTS - 1)  # the SEQUENCE counts too
    assert len(der.parse(der.sequence(allowed)).children()) == der.MAX_ELEMENTS - 1
    with pytest.raises(Malformed, match="der-too-many-elements"):
        der.parse(der.sequence(allowed, der.NULL)).children()


def test_a_sequence_has_the_members_that_are_asked_for_and_no_others() -> None:
    pair = der.parse(der.sequence(der.integer(1), der.octet_string(b"x")))
    assert [member.content for member in pair.members(der.INTEGER, der.OCTET_STRING)] == [b"\x01", b"x"]
    for wrong in ((der.INTEGER,), (der.OCTET_STRING, der.INTEGER), (der.INTEGER, der.OCTET_STRING, der.NULL_TAG)):
        with pytest.raises(Malformed, match="der-unexpected"):
            pair.members(*wrong)
    with pytest.raises(Malformed, match="der-unexpected-tag"):
        der.parse(der.set_of(der.NULL)).members(der.NULL_TAG)


def test_an_explicit_tag_is_around_one_element() -> None:
    assert der.parse(der.explicit(0, der.octet_string(b"x"))).inner(der.OCTET_STRING).octets() == b"x"
    in_pieces = der.tlv(der.OCTET_STRING | 0x20, der.octet_string(b"x"))
    assert der.parse(der.explicit(0, in_pieces)).inner(der.OCTET_STRING).octets() == b"x"
    for wrong in (der.NULL, b"", der.octet_string(b"x") * 2):
        with pytest.raises(Malformed, match="der-unexpected"):
            der.parse(der.explicit(0, wrong)).inner(der.OCTET_STRING)


@pytest.mark.req("AT-10")
def test_definite_nesting_is_bounded_as_well() -> None:
    data = der.NULL
    for _ in range(der.MAX_DEPTH + 1):
        data = der.sequence(data)
    element = der.parse(data)
    for _ in range(der.MAX_DEPTH):
        (element,) = element.children()
    with pytest.raises(Malformed, match="der-too-deep"):
        element.children()


@pytest.mark.req("AT-10")
def test_nested_indefinite_lengths_are_read_once_each() -> None:
    """A reader that looks for the end anew at each level would need the square of this many elements."""
    inner = b"\x05\x00" * 8000
    for _ in range(der.MAX_DEPTH - 1):
        inner = b"\x30\x80" + inner + b"\x00\x00"
    element = der.parse(inner)
    while element.children()[0].tag == der.SEQUENCE:
        (element,) = element.children()
    assert len(element.children()) == 8000


@pytest.mark.parametrize("content", ["", "0001", "ff80", "007f"])
def test_an_integer_has_one_spelling(content: str) -> None:
    with pytest.raises(Malformed, match="der-integer"):
        der.parse(der.tlv(der.INTEGER, bytes.fromhex(content))).integer()


def test_an_integer_is_as_long_as_keys_are_and_no_longer() -> None:
    longest = der.parse(der.integer(1 << 8 * der.MAX_INTEGER_BYTES - 2)).integer()
    assert str(longest)  # a message about it can be written
    with pytest.raises(Malformed, match="der-integer"):
        der.parse(der.integer(1 << 8 * der.MAX_INTEGER_BYTES)).integer()


@pytest.mark.parametrize("content", ["", "80", "2a80", "2a8001", "2a" + "01" * 200])
def test_an_object_identifier_has_one_spelling(content: str) -> None:
    with pytest.raises(Malformed, match="der-oid"):
        der.parse(der.tlv(der.OBJECT_IDENTIFIER, bytes.fromhex(content))).oid()


def test_members_are_taken_in_order() -> None:
    fields = der.parse(der.sequence(der.integer(1), der.explicit(0, der.NULL), der.octet_string(b"x"))).fields()
    assert fields.take(der.INTEGER).integer() == 1
    assert fields.optional(der.context(1)) is None
    assert fields.optional(der.context(0)) is not None
    with pytest.raises(Malformed, match="der-unexpected-member"):
        fields.end()
    assert fields.take_any().octets() == b"x"
    fields.end()
    with pytest.raises(Malformed, match="der-unexpected-tag"):
        fields.take(der.INTEGER)
    with pytest.raises(Malformed, match="der-member-missing"):
        fields.take_any()
    with pytest.raises(Malformed, match="der-not-constructed"):
        der.parse(der.NULL).children()
    with pytest.raises(Malformed, match="der-unexpected-tag"):
        der.parse(der.set_of()).fields()


def test_an_element_does_not_show_its_content() -> None:
    assert repr(der.parse(der.octet_string(b"secret"))) == "Element(tag=0x04, length=6)"
