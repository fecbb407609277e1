"""Certificate requests: what is taken, and whether it is what was asked for."""

from datetime import timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from brski_common import csr, der, issuing
from brski_common.certificates import Credential, PrivateKey
from brski_common.csr import ChangeSubjectName, check_csr, check_renewal, read_csr
from brski_common.csrattrs import EXTENSION_REQUEST, Style, ask
from brski_common.csrwishes import (
    CHALLENGE_PASSWORD,
    MAC_ADDRESS,
    SUBJECT_ALTERNATIVE_NAME,
    ExtensionWish,
    KeyWish,
    NameWish,
    Wishes,
    acp_node_name,
    subject_wish,
)
from brski_common.errors import BrskiError, Malformed, Refused, Untrusted
from tests.support.vectors import vector
from tests.support.world import NOW, key_for

NAME = issuing.name("Pump 7", organization_name="Example Plant", serial_number="P-0007")
DNS = x509.SubjectAlternativeName([x509.DNSName("pump7.example.com")])
ACP = acp_node_name("rfc8994+fd739fc23c3440112233445500000000+@acp.example.com")
COMMON_NAME, SERIAL_NUMBER, ORGANIZATION = "2.5.4.3", "2.5.4.5", "2.5.4.10"


def request(
    *extensions: x509.ExtensionType,
    kind: str = "P-256",
    subject: x509.Name = NAME,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
    challenge: bytes | None = None,
    critical: bool = False,
) -> x509.CertificateSigningRequest:
    key = key_for("device", kind)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=critical)
    if challenge is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge)
    return builder.sign(key, algorithm or issuing.signature_hash(key))


def to_der(message: x509.CertificateSigningRequest) -> bytes:
    return message.public_bytes(Encoding.DER)


def signed_by_hand(*attributes: bytes, key: PrivateKey | None = None) -> bytes:
    """A P-256 request with these DER attributes, which pyca's builder would not make."""
    key = key or key_for("device")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    information = der.sequence(der.integer(0), NAME.public_bytes(), spki, der.explicit(0, *attributes))
    signature = key.sign(information, ec.ECDSA(hashes.SHA256()))
    return der.sequence(information, der.sequence(der.oid("1.2.840.10045.4.3.2")), der.bit_string(signature))


def attribute(oid: str, *values: bytes) -> bytes:
    return der.sequence(der.oid(oid), der.set_of(*values))


# Reading


@pytest.mark.req("E-12")
@pytest.mark.parametrize("name", ["rfc9148/enroll.csr.der", "rfc9148/skg.csr.der", "rfc9908-csrattrs/CSR-template.der"])
def test_published_requests_are_read_with_proof_of_possession(name: str) -> None:
    data = vector(name)

    assert to_der(read_csr(data)) == data


@pytest.mark.req("E-11", "E-12")
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA-2048", "Ed25519"])
def test_requests_of_every_kind_of_key_are_read(kind: str) -> None:
    message = read_csr(to_der(request(DNS, kind=kind)))

    assert message.subject == NAME
    key = csr.key_wish(message.public_key())
    assert key is not None
    assert key.kind == kind


@pytest.mark.req("E-12")
def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    good = to_der(request(DNS))
    damaged = good.replace(b"pump7", b"pump8")

    assert damaged != good
    with pytest.raises(Untrusted, match="csr-signature-invalid"):
        read_csr(damaged)


@pytest.mark.req("E-18")
def test_a_signature_of_which_some_bits_do_not_count_is_refused() -> None:
    """It holds, but the request is another one to whoever compares bytes."""
    made = next(each for each in iter(request, None) if each.signature[-1] % 2 == 0)
    data = bytearray(to_der(made))
    assert data[-len(made.signature) - 1] == 0
    data[-len(made.signature) - 1] = 1
    assert x509.load_der_x509_csr(bytes(data)).is_signature_valid
    with pytest.raises(Untrusted) as refused:
        read_csr(bytes(data))
    assert refused.value.reason == "csr-signature-invalid"


def test_for_server_side_keys_signature_and_key_are_ignored() -> None:
    damaged = to_der(request(DNS)).replace(b"pump7", b"pump8")

    assert read_csr(damaged, proof_of_possession=False).subject == NAME


def test_a_short_rsa_key_is_refused() -> None:
    with pytest.raises(Refused, match="csr-key-unacceptable"):
        read_csr(to_der(request(kind="RSA-1024")))


def test_a_curve_that_is_not_certified_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256K1())
    message = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, hashes.SHA256())

    with pytest.raises(Refused, match="csr-key-unacceptable"):
        read_csr(to_der(message))


def test_a_weak_hash_is_refused() -> None:
    key = key_for("device")
    message = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, hashes.SHA224())

    with pytest.raises(Refused, match="csr-hash-unacceptable"):
        read_csr(to_der(message))


NAMES = der.sequence(der.oid(SUBJECT_ALTERNATIVE_NAME), der.octet_string(DNS.public_bytes()))
NO_NAMES = der.sequence(der.oid(SUBJECT_ALTERNATIVE_NAME), b"\x04\x02\x30\x05")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30\x00",
        b"-----BEGIN CERTIFICATE REQUEST-----",
        signed_by_hand(attribute(EXTENSION_REQUEST, der.sequence(NO_NAMES))),
        signed_by_hand(attribute(EXTENSION_REQUEST, der.sequence(NAMES, NAMES))),
        signed_by_hand(*[attribute(EXTENSION_REQUEST, der.sequence(NAMES))] * 2),
        signed_by_hand(der.sequence(der.oid(MAC_ADDRESS))),
        bytes(csr.MAX_CSR_BYTES + 1),
        to_der(request()) + b"\x00",
    ],
    ids=["empty", "shell", "pem", "bad-name", "name-twice", "two-requests", "no-values", "too-large", "trailing"],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_csr(data)


@pytest.mark.req("E-17")
def test_the_challenge_password_is_read_whatever_its_string_type() -> None:
    assert csr.challenge_password(request(challenge=b"Zm9v")) == "Zm9v"
    assert csr.challenge_password(request()) is None
    printable = read_csr(signed_by_hand(attribute(CHALLENGE_PASSWORD, der.printable_string("Zm9v"))))
    assert csr.challenge_password(printable) == "Zm9v"
    published = csr.challenge_password(read_csr(vector("rfc9148/enroll.csr.der")))
    assert published is not None
    assert published.startswith("vCv0)*&JKJ;")


@pytest.mark.req("E-17")
def test_two_challenge_passwords_are_refused() -> None:
    one, two = (attribute(CHALLENGE_PASSWORD, der.utf8_string(text)) for text in "ab")

    with pytest.raises(Malformed, match="csr-attribute-ambiguous"):
        csr.challenge_password(read_csr(signed_by_hand(one, two)))


def test_the_requested_extensions_are_the_bytes_received() -> None:
    message = request(DNS, x509.BasicConstraints(ca=True, path_length=None), critical=True)

    assert csr.requested_extensions(message) == (
        ExtensionWish(SUBJECT_ALTERNATIVE_NAME, DNS.public_bytes(), critical=True),
        ExtensionWish("2.5.29.19", b"\x30\x03\x01\x01\xff", critical=True),
    )


# Renewal


@pytest.mark.req("E-16")
@pytest.mark.parametrize("subject", [NAME, None])
@pytest.mark.parametrize("names", [DNS, None])
def test_new_names_are_read_from_change_subject_name(
    subject: x509.Name | None, names: x509.SubjectAlternativeName | None
) -> None:
    value = der.sequence(subject.public_bytes() if subject else b"", names.public_bytes() if names else b"")

    message = read_csr(signed_by_hand(attribute(csr.CHANGE_SUBJECT_NAME, value)))

    assert csr.change_subject_name(message) == ChangeSubjectName(subject, names)


def test_without_the_attribute_no_name_changes() -> None:
    assert csr.change_subject_name(request()) is None


@pytest.mark.parametrize("value", ["0500", "3003020100", "30063004a0020500", "3006300030003000", "300430028000"])
def test_a_broken_change_subject_name_is_refused(value: str) -> None:
    message = read_csr(signed_by_hand(attribute(csr.CHANGE_SUBJECT_NAME, bytes.fromhex(value))))

    with pytest.raises(Malformed):
        csr.change_subject_name(message)


@pytest.mark.req("E-16")
def test_a_renewal_repeats_the_names_of_the_certificate() -> None:
    ca_key = key_for("ca")
    root = issuing.root_ca(ca_key, issuing.name("Example CA"), now=NOW, lifetime=timedelta(days=9))
    certificate = issuing.end_entity(
        Credential(ca_key, (root,)),
        key_for("device").public_key(),
        NAME,
        not_before=NOW,
        not_after=NOW + timedelta(days=1),
        alternative_names=tuple(DNS),
    )

    check_renewal(request(DNS), certificate)
    with pytest.raises(Refused, match="csr-alternative-names-changed"):
        check_renewal(request(), certificate)
    with pytest.raises(Refused, match="csr-alternative-names-changed"):
        check_renewal(request(x509.SubjectAlternativeName([x509.DNSName("other")])), certificate)
    with pytest.raises(Refused, match="csr-subject-changed"):
        check_renewal(request(DNS, subject=issuing.name("Pump 8")), certificate)


# Following what was asked


def _raised(wishes: Wishes, message: x509.CertificateSigningRequest, style: Style = Style.LEGACY) -> str:
    with pytest.raises(Refused) as caught:
        check_csr(ask(wishes, style), message)
    return caught.value.reason


@pytest.mark.req("EI-05")
@pytest.mark.parametrize("style", list(Style))
def test_nothing_asked_is_followed_by_everything(style: Style) -> None:
    check_csr(ask(Wishes(), style), request(DNS))


@pytest.mark.req("EI-05", "E-22")
@pytest.mark.parametrize("style", list(Style))
@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048", "Ed25519"])
def test_the_kind_of_key_that_was_asked_for_is_taken_and_no_other(kind: str, style: Style) -> None:
    wishes = Wishes(key=KeyWish.of(kind))

    check_csr(ask(wishes, style), request(kind=kind))
    assert _raised(wishes, request(kind="P-521"), style) == "csr-key-kind-mismatch"


@pytest.mark.req("EI-05")
def test_a_key_wish_without_size_takes_any_size() -> None:
    check_csr(ask(Wishes(key=KeyWish.of("RSA"))), request(kind="RSA-2048"))
    assert _raised(Wishes(key=KeyWish.of("RSA")), request()) == "csr-key-kind-mismatch"
    assert _raised(Wishes(key=KeyWish.of("RSA-3072")), request(kind="RSA-2048")) == "csr-key-kind-mismatch"


@pytest.mark.req("EI-05", "E-22")
def test_the_hash_that_was_asked_for_is_taken_and_no_other() -> None:
    wishes = Wishes(hash="sha384")

    check_csr(ask(wishes, Style.LEGACY), request(algorithm=hashes.SHA384()))
    check_csr(ask(wishes, Style.LEGACY), request(kind="Ed25519"))
    assert _raised(wishes, request()) == "csr-hash-mismatch"


@pytest.mark.req("EI-04", "EI-05")
@pytest.mark.parametrize("style", list(Style))
def test_a_request_without_the_acp_node_name_is_refused(style: Style) -> None:
    assert ACP.value is not None
    names = x509.UnrecognizedExtension(x509.ObjectIdentifier(SUBJECT_ALTERNATIVE_NAME), ACP.value)

    check_csr(ask(Wishes(extensions=(ACP,)), style), request(names))
    assert _raised(Wishes(extensions=(ACP,)), request(), style) == "csr-extension-missing"
    assert _raised(Wishes(extensions=(ACP,)), request(DNS), style) == "csr-extension-mismatch"


@pytest.mark.req("EI-05", "CA-06")
def test_an_extension_asked_for_as_critical_has_to_be() -> None:
    wishes = Wishes(extensions=(ExtensionWish(SUBJECT_ALTERNATIVE_NAME, DNS.public_bytes(), critical=True),))

    check_csr(ask(wishes), request(DNS, critical=True))
    assert _raised(wishes, request(DNS)) == "csr-extension-mismatch"


@pytest.mark.req("EI-05", "CA-06")
def test_an_open_extension_may_have_any_value() -> None:
    wishes = Wishes(extensions=(ExtensionWish(SUBJECT_ALTERNATIVE_NAME),))

    check_csr(ask(wishes), request(DNS))
    assert _raised(wishes, request(), Style.TEMPLATE) == "csr-extension-missing"


OPEN_NAMES = ExtensionWish(SUBJECT_ALTERNATIVE_NAME, bytes.fromhex("300b 8205 612e622e63 8700 8700"))


@pytest.mark.req("EI-05", "CA-06")
def test_open_addresses_are_filled_with_addresses_and_nothing_is_added() -> None:
    dns = x509.DNSName("a.b.c")
    four, six = (x509.IPAddress(ip_address(text)) for text in ("192.0.2.1", "2001:db8::1"))
    asked = Wishes(extensions=(OPEN_NAMES,))

    check_csr(ask(asked), request(x509.SubjectAlternativeName([four, dns, six])))
    for names in ([dns, four], [dns, four, six, four], [four, six], [x509.DNSName("x"), four, six], [dns, dns, four]):
        assert _raised(asked, request(x509.SubjectAlternativeName(names)), Style.BOTH) == "csr-extension-mismatch"
    unfilled = x509.UnrecognizedExtension(x509.ObjectIdentifier(SUBJECT_ALTERNATIVE_NAME), OPEN_NAMES.value or b"")
    assert _raised(asked, request(unfilled), Style.BOTH) == "csr-extension-mismatch"


@pytest.mark.req("EI-05", "CA-03")
def test_the_subject_of_the_template_is_followed_to_the_letter() -> None:
    wishes = Wishes(subject=subject_wish((ORGANIZATION, "Example Plant"), (SERIAL_NUMBER, None), (COMMON_NAME, None)))

    check_csr(ask(wishes), request())
    for other in (
        issuing.name("Pump 7", organization_name="Example Plant"),
        issuing.name("Pump 7", organization_name="Other Plant", serial_number="1"),
        issuing.name("Pump 7", serial_number="1", organization_name="Example Plant"),
        issuing.name("Pump 7", organization_name="Example Plant", serial_number="1", locality_name="x"),
        x509.Name([]),
    ):
        assert _raised(wishes, request(subject=other), Style.BOTH) == "csr-subject-mismatch"


@pytest.mark.req("EI-05")
def test_a_subject_attribute_asked_for_in_the_legacy_style_has_to_be_there() -> None:
    wishes = Wishes(others=(SERIAL_NUMBER, MAC_ADDRESS))

    check_csr(ask(wishes, Style.LEGACY), request())
    assert _raised(wishes, request(subject=issuing.name("Pump 7"))) == "csr-subject-mismatch"


@pytest.mark.req("EI-05", "CA-03")
def test_an_rdn_of_several_values_is_followed_in_any_order() -> None:
    wish = ((NameWish(COMMON_NAME, "a"), NameWish(SERIAL_NUMBER)),)
    pair = [x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.SERIAL_NUMBER, "1")]

    check_csr(ask(Wishes(subject=wish)), request(subject=x509.Name([x509.RelativeDistinguishedName(pair)])))
    assert _raised(Wishes(subject=wish), request(subject=x509.Name(pair)), Style.BOTH) == "csr-subject-mismatch"


@pytest.mark.req("E-17", "EI-05")
def test_a_challenge_password_that_was_asked_for_has_to_be_there() -> None:
    wishes = Wishes(others=(CHALLENGE_PASSWORD,))

    check_csr(ask(wishes, Style.LEGACY), request(challenge=b"x"))
    assert _raised(wishes, request()) == "csr-challenge-password-missing"


# Anything


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_our_error(data: bytes) -> None:
    with pytest.raises(BrskiError):
        read_csr(data)


GOOD = to_der(request(DNS, challenge=b"x"))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.booleans())
def test_a_damaged_request_raises_only_our_error(at: int, value: int, proof: bool) -> None:
    damaged = GOOD[:at] + bytes([value]) + GOOD[at + 1 :]

    try:
        message = read_csr(damaged, proof_of_possession=proof)
        check_csr(ask(Wishes(key=KeyWish.of("P-256"), extensions=(OPEN_NAMES,))), message)
        csr.challenge_password(message)
    except BrskiError:
        return
    pytest.fail("a damaged request was taken as following the wishes")
