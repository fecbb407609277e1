"""The client's side: a request made from what was asked and what a device knows of itself."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from brski_common import der, issuing
from brski_common.csr import challenge_password, check_csr, requested_extensions
from brski_common.csrattrs import CsrAttributes, Style, ask, read
from brski_common.csrplan import Plan, compose, fill
from brski_common.csrwishes import (
    CHALLENGE_PASSWORD,
    MAC_ADDRESS,
    SUBJECT_ALTERNATIVE_NAME,
    Attribute,
    ExtensionWish,
    KeyWish,
    NameWish,
    Wishes,
    acp_node_name,
    subject_wish,
)
from brski_common.errors import BrskiError, Malformed
from tests.support.vectors import vector
from tests.support.world import key_for

IDEVID_NAME = issuing.name("Pump Model 3", organization_name="Example Maker", serial_number="P-0007")
COMMON_NAME, SERIAL_NUMBER, ORGANIZATION, LOCALITY = "2.5.4.3", "2.5.4.5", "2.5.4.10", "2.5.4.7"
EXTENDED_KEY_USAGE = "2.5.29.37"
CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
ADDRESSES = (ip_address("2001:db8::7"), ip_address("192.0.2.7"))


def _name(*pairs: tuple[str, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.ObjectIdentifier(oid), value) for oid, value in pairs])


@pytest.mark.req("EI-03", "E-11")
def test_where_nothing_is_asked_the_device_gives_its_own_name() -> None:
    plan = fill(CsrAttributes(), IDEVID_NAME)

    assert plan == Plan(subject=IDEVID_NAME)
    assert compose(plan, key_for("device")).subject == IDEVID_NAME


@pytest.mark.req("EI-04", "CA-06")
def test_the_acp_node_name_goes_into_the_request_as_it_was_given() -> None:
    plan = fill(read(vector("rfc9908-csrattrs/realistic-acp.csrattr.der")), IDEVID_NAME)

    name = acp_node_name("rfc8994+fd739fc23c3440112233445500000000+@acp.example.com", critical=True)
    assert requested_extensions(compose(plan, key_for("device"))) == (name,)


@pytest.mark.req("CA-03", "CA-06")
def test_given_subject_values_are_used_and_open_ones_filled() -> None:
    wish = subject_wish((ORGANIZATION, "Example Plant"), (SERIAL_NUMBER, None), (COMMON_NAME, None), (LOCALITY, None))

    plan = fill(ask(Wishes(subject=wish)), IDEVID_NAME)

    filled = ((ORGANIZATION, "Example Plant"), (SERIAL_NUMBER, "P-0007"), (COMMON_NAME, "Pump Model 3"))
    assert plan.subject == _name(*filled)
    assert plan.unfilled == (LOCALITY,)


def test_a_device_without_a_common_name_is_called_by_its_serial_number() -> None:
    plan = fill(ask(Wishes(subject=subject_wish((COMMON_NAME, None)))), _name((SERIAL_NUMBER, "P-0007")))

    assert plan.subject == _name((COMMON_NAME, "P-0007"))


@pytest.mark.req("CA-05", "CA-06", "E-21")
def test_a_legacy_wish_for_something_unknown_is_ignored() -> None:
    plan = fill(ask(Wishes(others=(MAC_ADDRESS, SERIAL_NUMBER, LOCALITY)), Style.LEGACY), IDEVID_NAME)

    assert plan.subject == IDEVID_NAME
    assert plan.unfilled == (LOCALITY,)
    assert plan.extensions == ()


@pytest.mark.req("CA-06")
def test_open_extensions_are_filled_with_the_device_s_own_and_keep_their_criticality() -> None:
    wishes = Wishes(extensions=(ExtensionWish(EXTENDED_KEY_USAGE, critical=True), ExtensionWish("2.5.29.32")))

    plan = fill(ask(wishes), IDEVID_NAME, own=[CLIENT_AUTH, x509.BasicConstraints(ca=True, path_length=None)])

    assert plan.extensions == (ExtensionWish(EXTENDED_KEY_USAGE, CLIENT_AUTH.public_bytes(), critical=True),)
    assert plan.unfilled == ("2.5.29.32",)


@pytest.mark.req("CA-06")
def test_open_names_are_filled_with_the_device_s_addresses_and_its_name() -> None:
    value = der.sequence(b"\x82\x01a", b"\x87\x00", b"\x87\x00", b"\xa4\x02\x30\x00")
    asked = ask(Wishes(extensions=(ExtensionWish(SUBJECT_ALTERNATIVE_NAME, value),)))

    message = compose(fill(asked, IDEVID_NAME, addresses=ADDRESSES), key_for("device"))

    names = message.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("a"), *map(x509.IPAddress, ADDRESSES), x509.DirectoryName(IDEVID_NAME)]
    check_csr(asked, message)


@pytest.mark.req("CA-06")
def test_names_that_cannot_be_filled_are_left_out_and_told() -> None:
    some = ExtensionWish(SUBJECT_ALTERNATIVE_NAME, der.sequence(b"\x82\x01a", b"\x87\x00"))
    only = ExtensionWish(SUBJECT_ALTERNATIVE_NAME, der.sequence(b"\x87\x00"))

    plan = fill(ask(Wishes(extensions=(some,))), IDEVID_NAME)
    assert plan.extensions == (ExtensionWish(SUBJECT_ALTERNATIVE_NAME, der.sequence(b"\x82\x01a")),)
    assert plan.unfilled == (SUBJECT_ALTERNATIVE_NAME,)
    plan = fill(ask(Wishes(extensions=(only,))), IDEVID_NAME)
    assert plan.extensions == ()
    assert plan.unfilled == (SUBJECT_ALTERNATIVE_NAME,)


@pytest.mark.req("E-17", "CA-02")
def test_key_hash_and_challenge_are_passed_on() -> None:
    plan = fill(read(vector("rfc9908-csrattrs/harkins02.csrattr.der")), IDEVID_NAME)

    assert plan.key == KeyWish.of("P-384")
    assert plan.hash == "sha384"
    assert plan.challenge_password
    message = compose(plan, key_for("device", "P-384"), challenge="Zm9v")
    assert challenge_password(message) == "Zm9v"
    assert message.signature_hash_algorithm is not None
    assert message.signature_hash_algorithm.name == "sha384"


@pytest.mark.parametrize("kind", ["P-256", "P-521", "RSA-2048", "Ed25519"])
def test_every_kind_of_key_signs_its_request(kind: str) -> None:
    asked = ask(Wishes(key=KeyWish.of(kind), hash="sha512"), Style.LEGACY)

    message = compose(fill(asked, IDEVID_NAME), key_for("device", kind))

    assert message.is_signature_valid
    check_csr(asked, message)


def test_a_subject_that_no_name_can_hold_is_refused() -> None:
    for wish in (NameWish("2.5.4.6", "Germany"), NameWish("1.2.99999999999999999999999999999999999999999999", "x")):
        with pytest.raises(Malformed):
            fill(ask(Wishes(subject=((wish,),))), IDEVID_NAME)
    with pytest.raises(Malformed):
        compose(Plan(subject=IDEVID_NAME, extensions=(ExtensionWish("9.9", b"x"),)), key_for("device"))


KINDS = st.sampled_from(["P-256", "P-384", "RSA-2048", "Ed25519"])
SUBJECTS = st.lists(
    st.tuples(st.sampled_from([COMMON_NAME, SERIAL_NUMBER, ORGANIZATION]), st.none() | st.sampled_from(["a", "b c"])),
    max_size=3,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: subject_wish(*pairs))
NAMES = st.lists(st.sampled_from([b"\x82\x01a", b"\x87\x00", b"\xa4\x02\x30\x00"]), min_size=1, max_size=3)
ALTERNATIVE_NAMES = st.builds(
    ExtensionWish,
    st.just(SUBJECT_ALTERNATIVE_NAME),
    NAMES.map(lambda names: der.sequence(*names)),
    st.booleans(),
)
WISHES = st.builds(
    Wishes,
    subject=st.none() | SUBJECTS,
    extensions=st.lists(ALTERNATIVE_NAMES, max_size=1).map(tuple),
    others=st.lists(st.sampled_from([CHALLENGE_PASSWORD, MAC_ADDRESS, SERIAL_NUMBER]), max_size=2).map(tuple),
    hash=st.none() | st.sampled_from(["sha256", "sha384", "sha512"]),
)


@given(WISHES, KINDS, st.sampled_from(Style))
def test_a_request_that_was_filled_follows_what_was_asked(wishes: Wishes, kind: str, style: Style) -> None:
    asked = ask(replace(wishes, key=KeyWish.of(kind)), style)
    plan = fill(asked, IDEVID_NAME, addresses=[*ADDRESSES, *ADDRESSES])

    assert plan.unfilled == ()
    check_csr(asked, compose(plan, key_for("device", kind), challenge="x" if plan.challenge_password else None))


@given(st.binary(max_size=60))
def test_whatever_a_server_asks_only_our_error_is_raised(data: bytes) -> None:
    template = der.sequence(der.integer(0), der.sequence(der.tlv(der.SET, data)), der.explicit(1))
    try:
        plan = fill(CsrAttributes((Attribute("1.2.840.113549.1.9.16.2.61", (template,)),)), IDEVID_NAME)
    except BrskiError:
        return
    assert isinstance(plan, Plan)
