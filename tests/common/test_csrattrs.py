"""CSR attributes: every published example, both styles, and what must not be read."""

import base64
from dataclasses import replace
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common import csrattrs, der
from brski_common.csrattrs import CsrAttributes, Style, ask, read, write
from brski_common.csrwishes import (
    CHALLENGE_PASSWORD,
    CURVES,
    EC_PUBLIC_KEY,
    ED25519,
    MAC_ADDRESS,
    RSA_ENCRYPTION,
    SUBJECT_ALTERNATIVE_NAME,
    Attribute,
    ExtensionWish,
    KeyWish,
    NameWish,
    Wishes,
    acp_name,
    acp_node_name,
    subject_wish,
)
from brski_common.errors import BrskiError, Malformed
from tests.support.vectors import vector

COMMON_NAME, SERIAL_NUMBER, ORGANIZATIONAL_UNIT = "2.5.4.3", "2.5.4.5", "2.5.4.11"
KEY_USAGE, EXTENDED_KEY_USAGE = "2.5.29.15", "2.5.29.37"
FRIENDLY_NAME, FAVOURITE_DRINK = "1.2.840.113549.1.9.20", "0.9.2342.19200300.100.1.5"

ACP_NAME = "rfc8994+fd739fc23c3440112233445500000000+@acp.example.com"

# RFC 7030, 4.5.2 and RFC 8951, 3: a bare OID in id-ExtensionReq. RFC 9908, 5.2 calls it not correct; it is met.
OLD_EXAMPLE = base64.b64decode(
    "MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw=="
)

# RFC 9908, 3.4: what the server of the worked template asks for.
TEMPLATE_EXAMPLE = Wishes(
    subject=subject_wish((COMMON_NAME, None), (ORGANIZATIONAL_UNIT, "myDept"), (ORGANIZATIONAL_UNIT, "myGroup")),
    key=KeyWish.of("P-256"),
    extensions=(
        ExtensionWish(SUBJECT_ALTERNATIVE_NAME, bytes.fromhex("3014 8210 7777772e6d795365727665722e636f6d 8700")),
        ExtensionWish(KEY_USAGE, bytes.fromhex("03020388"), critical=True),
        ExtensionWish(EXTENDED_KEY_USAGE),
    ),
)

EXAMPLES = {
    "realistic-acp": Wishes(extensions=(acp_node_name(ACP_NAME, critical=True),)),
    "rfc7030-example01": Wishes(key=KeyWish.of("P-384"), hash="sha384", others=(CHALLENGE_PASSWORD, MAC_ADDRESS)),
    "harkins01": Wishes(key=KeyWish.of("RSA-4096"), hash="sha256", others=(CHALLENGE_PASSWORD,)),
    "harkins02": Wishes(key=KeyWish.of("P-384"), hash="sha384", others=(CHALLENGE_PASSWORD, SERIAL_NUMBER)),
    "harkins03": Wishes(
        key=KeyWish.of("P-521"),
        hash="sha512",
        others=(CHALLENGE_PASSWORD, FRIENDLY_NAME, FAVOURITE_DRINK, SERIAL_NUMBER),
    ),
}


def _template(*members: bytes) -> bytes:
    """A response with one template of these members after the version."""
    return _response(csrattrs.REQUEST_INFO_TEMPLATE, der.sequence(der.integer(0), *members))


def _response(oid: str, *values: bytes) -> bytes:
    return der.sequence(der.sequence(der.oid(oid), der.set_of(*values)))


@pytest.mark.req("CA-01", "CA-02", "CA-07", "CA-08", "E-22", "E51-04", "EI-04")
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_rfc_9908_are_understood_and_written_to_the_byte(name: str) -> None:
    data = vector(f"rfc9908-csrattrs/{name}.csrattr.der")

    attributes = read(data)

    assert attributes.wishes == EXAMPLES[name]
    assert write(attributes) == data
    assert write(ask(EXAMPLES[name], Style.LEGACY)) == data


@pytest.mark.req("CA-07")
def test_the_potato_example_is_harkins03_whatever_its_description_says() -> None:
    assert read(vector("rfc9908-csrattrs/potato-example.csrattr.der")).wishes == EXAMPLES["harkins03"]


def test_the_file_called_template_is_an_ordinary_request_and_no_response() -> None:
    with pytest.raises(Malformed):
        read(vector("rfc9908-csrattrs/CSR-template.der"))


@pytest.mark.req("CA-07", "E51-04")
def test_the_older_example_of_rfc_7030_and_8951_is_understood_alike() -> None:
    attributes = read(OLD_EXAMPLE)

    assert attributes.wishes == EXAMPLES["rfc7030-example01"]
    assert write(attributes) == OLD_EXAMPLE


@pytest.mark.req("CA-07", "CA-08", "E-21")
def test_the_example_of_rfc_9148_keeps_what_nobody_understands_and_means_the_rest() -> None:
    data = vector("rfc9148/csrattrs.der")

    attributes = read(data)

    assert attributes.wishes == Wishes(
        key=KeyWish(EC_PUBLIC_KEY, curve=CURVES["brainpoolP384r1"]),
        hash="sha384",
        others=(MAC_ADDRESS, CHALLENGE_PASSWORD),
    )
    assert Attribute("2.999.1", (der.printable_string("Parse SET as 2.999.1 data"),)) in attributes.items
    assert write(attributes) == data


@pytest.mark.req("E-19")
def test_an_empty_sequence_asks_for_nothing() -> None:
    assert read(b"\x30\x00").wishes == Wishes()
    assert write(CsrAttributes()) == b"\x30\x00"


# The template


@pytest.mark.req("CA-03", "CA-06")
def test_the_template_of_rfc_9908_has_the_bytes_its_dump_shows() -> None:
    (item,) = ask(TEMPLATE_EXAMPLE, Style.TEMPLATE).items

    assert isinstance(item, Attribute)
    assert item.oid == "1.2.840.113549.1.9.16.2.61"
    # Written from CSR-template.dump, with the OIDs that IANA gave to TBD2 and TBD3.
    assert item.values[0] == bytes.fromhex(
        "308193 020100"
        "302c 3107 3005 0603550403"
        "310f 300d 060355040b 0c066d7944657074 3110 300e 060355040b 0c076d7947726f7570"
        "a015 3013 06072a8648ce3d0201 06082a8648ce3d030107"
        "a149 3047 060b2a864886f70d010910023e 3138 3036"
        "301d 0603551d11 0416 3014 8210 7777772e6d795365727665722e636f6d 8700"
        "300e 0603551d0f 0101ff 0404 03020388"
        "3005 0603551d25"
    )


@pytest.mark.req("CA-03", "CA-04", "CA-06")
def test_a_template_comes_back_as_it_was_asked() -> None:
    assert read(write(ask(TEMPLATE_EXAMPLE, Style.TEMPLATE))).wishes == TEMPLATE_EXAMPLE


@pytest.mark.req("CA-05")
def test_where_both_styles_are_present_only_the_template_counts() -> None:
    both = ask(TEMPLATE_EXAMPLE)
    legacy = ask(Wishes(key=KeyWish.of("RSA-4096"), hash="sha512", others=(MAC_ADDRESS,)), Style.LEGACY)

    assert len(both.items) > 1
    assert read(write(both)).wishes == TEMPLATE_EXAMPLE
    assert CsrAttributes((*legacy.items, *ask(TEMPLATE_EXAMPLE, Style.TEMPLATE).items)).wishes == TEMPLATE_EXAMPLE


def test_the_legacy_style_says_what_it_can_and_nothing_half() -> None:
    wishes = ask(TEMPLATE_EXAMPLE, Style.LEGACY).wishes

    assert wishes.key == TEMPLATE_EXAMPLE.key
    assert wishes.extensions == (ExtensionWish(KEY_USAGE, bytes.fromhex("03020388"), critical=True),)
    assert wishes.others == (COMMON_NAME, ORGANIZATIONAL_UNIT, ORGANIZATIONAL_UNIT)


@pytest.mark.req("CA-03")
def test_a_template_of_a_later_version_is_left_to_those_who_know_it() -> None:
    template = der.sequence(der.integer(1), der.octet_string(b"unheard of"))
    response = CsrAttributes((MAC_ADDRESS, Attribute(csrattrs.REQUEST_INFO_TEMPLATE, (template,))))

    assert response.wishes == Wishes(others=(MAC_ADDRESS,))


@pytest.mark.req("CA-04")
def test_a_template_uses_one_extension_request_and_the_plain_one_where_nothing_is_open() -> None:
    whole = write(ask(EXAMPLES["realistic-acp"], Style.TEMPLATE))
    partial = write(ask(TEMPLATE_EXAMPLE, Style.TEMPLATE))

    plain, template = der.oid(csrattrs.EXTENSION_REQUEST), der.oid(csrattrs.EXTENSION_REQUEST_TEMPLATE)
    assert (whole.count(plain), whole.count(template)) == (1, 0)
    assert (partial.count(plain), partial.count(template)) == (0, 1)


@pytest.mark.req("CA-04")
@pytest.mark.parametrize("first", [csrattrs.EXTENSION_REQUEST, csrattrs.EXTENSION_REQUEST_TEMPLATE])
def test_a_template_with_two_extension_requests_is_refused(first: str) -> None:
    value = der.sequence(der.sequence(der.oid(KEY_USAGE), der.octet_string(b"\x03\x02\x07\x80")))
    requests = [der.sequence(der.oid(oid), der.set_of(value)) for oid in (first, csrattrs.EXTENSION_REQUEST_TEMPLATE)]

    with pytest.raises(Malformed, match="csrattrs-template-malformed"):
        read(_template(der.explicit(1, *requests)))


@pytest.mark.req("CA-03")
def test_the_size_of_an_rsa_key_is_said_by_a_dummy_of_that_size() -> None:
    for bits in (2048, 3072, 4096, 8192):
        wishes = Wishes(key=KeyWish.of(f"RSA-{bits}"))
        assert read(write(ask(wishes, Style.TEMPLATE))).wishes == wishes
        assert read(write(ask(wishes, Style.LEGACY))).wishes == wishes


@pytest.mark.req("CA-02")
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA", "RSA-2048", "Ed25519"])
@pytest.mark.parametrize("style", list(Style))
def test_every_kind_of_key_can_be_asked_for(kind: str, style: Style) -> None:
    key = read(write(ask(Wishes(key=KeyWish.of(kind)), style))).wishes.key

    assert key is not None
    assert key.kind == kind


@pytest.mark.req("CA-02")
def test_a_key_wish_may_leave_the_curve_open() -> None:
    key = read(_response(EC_PUBLIC_KEY)).wishes.key

    assert key == KeyWish(EC_PUBLIC_KEY)
    assert key.kind is None


@pytest.mark.req("CA-07")
def test_bare_oids_of_keys_and_hashes_are_wishes_too() -> None:
    response = der.sequence(der.oid(ED25519), der.oid("2.16.840.1.101.3.4.2.3"))

    assert read(response).wishes == Wishes(key=KeyWish(ED25519), hash="sha512")


def test_a_server_cannot_ask_for_an_absurd_rsa_key() -> None:
    for bits in (512, 1 << 20):
        with pytest.raises(Malformed, match="csrattrs-key-size"):
            read(_response(RSA_ENCRYPTION, der.integer(bits)))
    with pytest.raises(Malformed, match="csrattrs-key-size"):
        KeyWish.of("RSA-1024")


@pytest.mark.parametrize("kind", ["", "P-512", "RSA-x", "RSA-99999999", "DSA", "ed25519"])
def test_an_unknown_kind_of_key_is_refused(kind: str) -> None:
    with pytest.raises(Malformed):
        KeyWish.of(kind)


# Extensions


@pytest.mark.req("CA-01")
def test_two_extensions_of_one_kind_are_refused() -> None:
    extension = der.sequence(der.oid(KEY_USAGE), der.octet_string(b"\x03\x02\x07\x80"))

    with pytest.raises(Malformed, match="csrattrs-extension-ambiguous"):
        read(_response(csrattrs.EXTENSION_REQUEST, der.sequence(extension, extension)))


@pytest.mark.req("CA-01")
def test_all_extensions_are_written_into_one_attribute() -> None:
    wishes = Wishes(extensions=(acp_node_name(ACP_NAME), ExtensionWish(KEY_USAGE, b"\x03\x02\x07\x80", critical=True)))

    (item,) = ask(wishes, Style.LEGACY).items

    assert isinstance(item, Attribute)
    assert len(item.values) == 1
    assert len(der.parse(item.values[0]).children()) == 2
    assert CsrAttributes((item,)).wishes == wishes


@pytest.mark.req("CA-06", "CA-07")
def test_open_extensions_are_read_in_each_of_their_forms() -> None:
    absent = der.sequence(der.oid(KEY_USAGE))
    empty = der.sequence(der.oid(EXTENDED_KEY_USAGE), der.boolean(True), der.octet_string(b""))
    bare = der.oid("2.5.29.32")

    wishes = read(_response(csrattrs.EXTENSION_REQUEST, der.sequence(absent, empty, bare))).wishes

    assert wishes.extensions == (
        ExtensionWish(KEY_USAGE),
        ExtensionWish(EXTENDED_KEY_USAGE, critical=True),
        ExtensionWish("2.5.29.32"),
    )
    assert all(wish.is_partial for wish in wishes.extensions)
    assert wishes.extension(KEY_USAGE) == ExtensionWish(KEY_USAGE)
    assert wishes.extension(SUBJECT_ALTERNATIVE_NAME) is None


@pytest.mark.req("CA-07")
def test_an_extension_without_its_list_is_read() -> None:
    extension = der.sequence(der.oid(KEY_USAGE), der.octet_string(b"\x03\x02\x07\x80"))

    wishes = read(_response(csrattrs.EXTENSION_REQUEST, extension)).wishes

    assert wishes.extensions == (ExtensionWish(KEY_USAGE, b"\x03\x02\x07\x80"),)


@pytest.mark.req("CA-06")
@pytest.mark.parametrize(
    ("name", "is_partial"), [("8700", True), ("a4023000", True), ("82016a", False), ("8200", False)]
)
def test_only_empty_addresses_and_directory_names_are_open(name: str, is_partial: bool) -> None:
    value = der.sequence(bytes.fromhex(name))

    assert ExtensionWish(SUBJECT_ALTERNATIVE_NAME, value).is_partial == is_partial


# RFC 8994


@pytest.mark.req("EI-04")
def test_an_acp_name_is_built_from_its_parts() -> None:
    address = IPv6Address("fd73:9fc2:3c34:4011:2233:4455:0:0")

    assert acp_name("acp.example.com", address) == ACP_NAME
    assert (
        acp_name("acp.example.com", routing_subdomain="area51.research") == "rfc8994++area51.research@acp.example.com"
    )


@pytest.mark.req("EI-04")
@pytest.mark.parametrize("name", ["", "rfc8994+x", "x@y", "rfc8994+@a@b", "rfc8994+@ä", "rfc8994+@" + "x" * 300])
def test_what_is_no_acp_name_is_refused(name: str) -> None:
    with pytest.raises(Malformed):
        acp_node_name(name)


# Refusals


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x31\x00",
        b"\x30\x02\x05\x00",
        b"\x30\x00\x00",
        der.sequence(der.sequence(der.oid(MAC_ADDRESS))),
        der.sequence(der.sequence(der.oid(MAC_ADDRESS), der.set_of(), der.NULL)),
        _response(csrattrs.EXTENSION_REQUEST, der.NULL),
        _response(csrattrs.EXTENSION_REQUEST, der.sequence(der.sequence(der.oid(KEY_USAGE), der.NULL))),
        _response(csrattrs.REQUEST_INFO_TEMPLATE),
        _response(csrattrs.REQUEST_INFO_TEMPLATE, der.sequence(der.integer(0), der.explicit(1)), der.sequence()),
        _template(der.sequence()),
        _template(der.sequence(der.sequence()), der.explicit(1)),
        _template(der.sequence(der.set_of(der.sequence())), der.explicit(1)),
        _template(der.sequence(der.set_of(der.sequence(der.oid(COMMON_NAME), der.NULL))), der.explicit(1)),
        _template(der.sequence(der.set_of(der.sequence(der.oid(COMMON_NAME), b"\x0c\x01\xff"))), der.explicit(1)),
        _template(der.explicit(0), der.explicit(1)),
        _template(der.explicit(1), der.explicit(1)),
        _template(der.explicit(0, der.sequence(der.oid(RSA_ENCRYPTION)), der.bit_string(b"")), der.explicit(1)),
        der.sequence(*[_response(csrattrs.REQUEST_INFO_TEMPLATE, b"\x05\x00")[2:]] * 2),
        b"\x30\x84\x00\x01\x00\x00" + bytes(65536),
    ],
)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data)


def test_text_that_its_type_cannot_hold_is_not_written() -> None:
    with pytest.raises(Malformed, match="text-malformed"):
        ask(Wishes(subject=((NameWish(SERIAL_NUMBER, "ä", 0x13),),)))
    with pytest.raises(Malformed, match="text-malformed"):
        ask(Wishes(subject=((NameWish(COMMON_NAME, "x", 0x02),),)))
    with pytest.raises(Malformed, match="csrattrs-hash-unknown"):
        ask(Wishes(hash="md5"))


oids = st.builds("1.3.6.1.{}.{}".format, st.integers(0, 2**40), st.integers(0, 300)) | st.sampled_from(
    [CHALLENGE_PASSWORD, MAC_ADDRESS, COMMON_NAME, SERIAL_NUMBER, *csrattrs._HASHES, ED25519]
)
texts = st.text(st.characters(codec="utf-8"), max_size=12)
names = st.builds(NameWish, st.sampled_from([COMMON_NAME, ORGANIZATIONAL_UNIT]), st.none() | texts)
extensions = st.builds(ExtensionWish, oids, st.none() | st.binary(min_size=1, max_size=20), st.booleans())
wishes = st.builds(
    Wishes,
    subject=st.none() | st.lists(names.map(lambda name: (name,)), max_size=4).map(tuple),
    key=st.none() | st.sampled_from(["P-256", "P-384", "P-521", "RSA", "RSA-3072", "Ed25519"]).map(KeyWish.of),
    extensions=st.lists(extensions, max_size=4, unique_by=lambda wish: wish.oid).map(tuple),
)
attributes = st.builds(
    Attribute, oids, st.lists(st.binary(max_size=9).map(der.octet_string), max_size=3).map(sorted).map(tuple)
)
responses = st.lists(oids | attributes, max_size=6).map(tuple).map(CsrAttributes)


@given(wishes)
def test_what_is_asked_in_the_template_style_is_what_is_read(asked: Wishes) -> None:
    assert read(write(ask(asked))).wishes == asked


@given(wishes, st.sampled_from(Style), st.sampled_from([None, "sha256"]), st.sampled_from([(), (MAC_ADDRESS,)]))
def test_who_asks_knows_what_will_be_read(
    plain: Wishes, style: Style, name: str | None, others: tuple[str, ...]
) -> None:
    for asked in (plain, replace(plain, extensions=()), replace(plain, extensions=(), hash=name, others=others)):
        response = ask(asked, style)
        assert response.wishes == CsrAttributes(response.items).wishes


@given(responses)
def test_a_response_comes_back_to_the_byte(response: CsrAttributes) -> None:
    data = write(response)

    assert read(data) == response
    assert write(read(data)) == data


@given(st.binary(max_size=120))
def test_any_bytes_raise_only_our_error(data: bytes) -> None:
    for candidate in (data, der.sequence(data), _response(csrattrs.REQUEST_INFO_TEMPLATE, der.sequence(data))):
        try:
            response = read(candidate)
        except BrskiError:
            continue
        assert isinstance(response.wishes, Wishes)


@given(st.data())
def test_a_damaged_response_raises_only_our_error(data: st.DataObject) -> None:
    damaged = bytearray(write(ask(TEMPLATE_EXAMPLE)))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))

    try:
        response = read(bytes(damaged))
    except BrskiError:
        return
    assert isinstance(response.wishes, Wishes)
