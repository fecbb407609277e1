"""Reading an IDevID: serial number, MASA URL, issuer, module name, domainID (RFC 8995, 2.3 and 5.8.2)."""

import base64
import hashlib
from contextlib import suppress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from brski_common import certificate_bytes, certificates, der, issuing
from brski_common.certificates import Credential
from brski_common.errors import BrskiError, Malformed, Untrusted
from tests.support.vectors import vector
from tests.support.world import NOW, Domain, Manufacturer, masa_url_extension


@pytest.fixture(scope="module")
def maker() -> Manufacturer:
    return Manufacturer()


@pytest.mark.req("ID-02")
def test_the_serial_number_is_the_subjects_not_the_certificates(maker: Manufacturer) -> None:
    certificate = maker.idevid("SN-0815").certificate
    assert certificates.serial_number(certificate) == "SN-0815"
    assert certificates.serial_number(certificate) != str(certificate.serial_number)


@pytest.mark.req("ID-01")
def test_a_subject_without_or_with_two_serial_numbers_is_refused(maker: Manufacturer) -> None:
    nameless = maker.idevid("SN-1", subject=issuing.name("Device"))
    with pytest.raises(Untrusted, match="serial-number-missing"):
        certificates.serial_number(nameless.certificate)
    twice = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, text) for text in ("A", "B")])
    with pytest.raises(Untrusted, match="serial-number-ambiguous"):
        certificates.serial_number(maker.idevid("SN-1", subject=twice).certificate)


@pytest.mark.req("ID-03")
def test_the_masa_url_is_read_from_an_ia5_string(maker: Manufacturer) -> None:
    assert certificates.masa_url(maker.idevid("SN-1", masa_url="masa.example").certificate) == "masa.example"
    assert certificates.masa_url(maker.idevid("SN-1", masa_url=None).certificate) is None


@pytest.mark.req("ID-03")
@pytest.mark.parametrize(
    "value", [der.utf8_string("masa.example"), b"\x16\x03\xff\xfe\xfd", b"\x16\x7fx", b"", b"\x16"]
)
def test_a_masa_url_of_another_type_is_malformed(maker: Manufacturer, value: bytes) -> None:
    extension = x509.UnrecognizedExtension(certificates.ID_PE_MASA_URL, value)
    device = maker.idevid("SN-1", masa_url=None, extensions=[(extension, False)])
    with pytest.raises(Malformed):
        certificates.masa_url(device.certificate)


@pytest.mark.req("RM-10", "D-1")
def test_idevid_issuer_is_the_whole_authority_key_identifier(maker: Manufacturer) -> None:
    certificate = maker.idevid("SN-1").certificate
    key_id = certificates.subject_key_id(maker.idevid_ca.certificate)
    assert key_id is not None
    assert certificates.idevid_issuer(certificate) == bytes.fromhex("041830168014") + key_id


@pytest.mark.req("RM-10")
def test_idevid_issuer_of_the_published_jws_example() -> None:
    (certificate,) = certificates.load_pem(vector("jws-voucher/pledge_idevid.crt.pem"))
    wanted = base64.b64decode("BBgwFoAUlU7Vft0KvopLzyjGaNB2fcQyB/U=")
    assert certificates.idevid_issuer(certificate) == wanted


@pytest.mark.req("RM-10")
def test_without_authority_key_identifier_the_devices_own_key_is_named() -> None:
    (certificate,) = certificates.load_pem(vector("rfc8995/pledge_idevid.crt.pem"))
    own = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    assert certificates.authority_key_id(certificate) is None
    assert certificates.idevid_issuer(certificate) == bytes.fromhex("041830168014") + own


def test_the_four_encodings_of_idevid_issuer_in_the_wild_are_known(maker: Manufacturer) -> None:
    certificate = maker.idevid("SN-1").certificate
    key_id = certificates.authority_key_id(certificate)
    assert key_id is not None
    full = certificates.idevid_issuer(certificate)
    assert certificates.idevid_issuer_forms(certificate) == {full, full[2:], key_id, b"\x04\x14" + key_id}


@pytest.mark.req("AL-11", "D-8")
def test_domain_id_without_key_identifier_is_the_spki_fingerprint() -> None:
    (registrar,) = certificates.load_pem(vector("rfc8995/registrar.crt.pem"))
    assert base64.b64encode(certificates.domain_id(registrar)) == b"Oy6w2vS8ar8m/FtEHuzs7sl7LSD3pW9yTCgCecoIL3M="


@pytest.mark.req("AL-11")
def test_domain_id_is_the_value_of_the_key_identifier() -> None:
    registrar = Domain().registrar.certificate
    extension = registrar.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert certificates.domain_id(registrar) == extension.value.digest


@pytest.mark.req("AR-05")
def test_the_hardware_module_name_of_the_published_request() -> None:
    csr = x509.load_der_x509_csr(vector("rfc9148/enroll.csr.der"))
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (other,) = names.get_values_for_type(x509.OtherName)
    read = certificates.read_hardware_module_name(other.value)
    assert read == certificates.HardwareModuleName("1.3.6.1.4.1.6715.10.1", bytes.fromhex("01020304"))


@pytest.mark.req("AR-05")
def test_the_hardware_module_name_of_a_device(maker: Manufacturer) -> None:
    value = der.sequence(der.oid("1.3.6.1.4.1.6715.10.1"), der.octet_string(b"\x01\x02"))
    names = x509.SubjectAlternativeName([x509.OtherName(certificates.ID_ON_HARDWARE_MODULE_NAME, value)])
    device = maker.idevid("SN-1", extensions=[(names, False)])
    assert certificates.hardware_module_name(device.certificate) == certificates.HardwareModuleName(
        "1.3.6.1.4.1.6715.10.1", b"\x01\x02"
    )
    assert certificates.hardware_module_name(maker.idevid("SN-2").certificate) is None


@pytest.mark.parametrize("value", [b"", b"\x30\x00", der.octet_string(b"x"), der.sequence(der.octet_string(b"x"))])
def test_a_broken_hardware_module_name_is_malformed(value: bytes) -> None:
    with pytest.raises(Malformed):
        certificates.read_hardware_module_name(value)


@given(st.binary(max_size=300))
def test_any_bytes_as_a_certificate_raise_only_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        certificates.load_certificate(data)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_certificate_with_a_flipped_byte_raises_only_the_suites_errors(position: int, flip: int) -> None:
    encoded = bytearray(certificates.to_der(Manufacturer().idevid("SN-1").certificate))
    encoded[position % len(encoded)] ^= flip
    try:
        certificate = certificates.load_certificate(bytes(encoded))
        certificates.serial_number(certificate)
        certificates.masa_url(certificate)
        certificates.idevid_issuer(certificate)
        certificates.hardware_module_name(certificate)
    except BrskiError:
        pass


def test_a_certificate_has_one_spelling_of_its_signature(maker: Manufacturer) -> None:
    # pyca ignores how many bits of the last octet count: the same certificate would have two fingerprints.
    encoded = certificates.to_der(maker.root.certificate)
    at = len(encoded) - len(maker.root.certificate.signature) - 1
    even = encoded[:-1] + bytes((encoded[-1] & 0xFE,))
    with pytest.raises(Malformed, match="certificate-malformed"):
        certificates.load_certificate(even[:at] + b"\x01" + even[at + 1 :])


def test_a_serial_number_that_is_not_positive_is_malformed(maker: Manufacturer) -> None:
    device = maker.idevid("SN-1").certificate
    encoded = certificates.to_der(device)
    number = der.integer(device.serial_number)
    negative = number[:2] + bytes([number[2] | 0x80]) + number[3:]
    with pytest.raises(Malformed, match="certificate-malformed"):
        certificates.load_certificate(encoded.replace(number, negative))


@pytest.mark.req("AT-10")
def test_an_oversize_certificate_is_not_even_parsed() -> None:
    with pytest.raises(Malformed, match="certificate-too-large"):
        certificates.load_certificate(b"\x30" * (certificates.MAX_CERTIFICATE_BYTES + 1))


def test_a_certificate_is_parsed_once(maker: Manufacturer) -> None:
    encoded = certificates.to_der(maker.idevid("SN-1").certificate)
    assert certificates.load_certificate(encoded) is certificates.load_certificate(bytes(bytearray(encoded)))


def test_no_certificate_is_taken_for_one_that_is_gone(maker: Manufacturer) -> None:
    """Facts are found by the identity of an object, and Python gives the place of one that is gone to the next."""
    encoded = [certificates.to_der(maker.idevid(f"SN-{number}").certificate) for number in range(3)]
    for round_ in range(4 * certificates.PARSED_CERTIFICATES):
        data = encoded[round_ % 3]
        assert certificates.fingerprint(x509.load_der_x509_certificate(data)) == hashlib.sha256(data).digest()


def test_what_is_remembered_of_certificates_is_bounded(maker: Manufacturer) -> None:
    encoded = certificates.to_der(maker.idevid("SN-1").certificate)
    facts = certificates.facts_of(certificates.load_certificate(encoded))
    assert certificates.facts_of(facts.certificate) is facts
    for _ in range(certificates.PARSED_CERTIFICATES):
        certificates.is_ca(x509.load_der_x509_certificate(encoded))
    assert certificates.remembered.known(facts.certificate) is None
    assert certificates.facts_of(facts.certificate).spki_sha256 == facts.spki_sha256


@pytest.mark.parametrize("kind", ["P-256", "RSA-2048", "Ed25519"])
def test_issuer_and_serial_number_are_as_pyca_writes_them(kind: str) -> None:
    certificate = Manufacturer(name=f"Maker {kind}", kind=kind).idevid("SN-1").certificate
    written = certificate.issuer.public_bytes() + der.integer(certificate.serial_number)
    assert certificates.facts_of(certificate).issuer_and_serial == written


def test_equal_names_in_other_string_types_are_equal() -> None:
    def written(kind: int, *rdns: tuple[bytes, ...]) -> bytes:
        return der.sequence(*(der.set_of(*(_attribute(kind, text) for text in rdn)) for rdn in rdns))

    name = certificate_bytes.name_of(written(der.UTF8_STRING, (b"Plant", b"North"), (b"CA",)))
    assert certificate_bytes.name_of(written(der.PRINTABLE_STRING, (b"North", b"Plant"), (b"CA",))) == name
    for other in (((b"CA",), (b"Plant", b"North")), ((b"Plant", b"North"),), ((b"plant", b"North"), (b"CA",))):
        assert certificate_bytes.name_of(written(der.UTF8_STRING, *other)) != name


@given(
    st.lists(
        st.tuples(
            st.sampled_from([NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER, NameOID.DOMAIN_COMPONENT]),
            st.text(min_size=1, max_size=9),
            st.sampled_from([0x0C, 0x13, 0x14, 0x16, 0x1E]),
        ),
        max_size=4,
    ),
    st.binary(max_size=2),
)
def test_a_usual_name_is_read_as_any_other_is(rdns: list[tuple[x509.ObjectIdentifier, str, int]], spare: bytes) -> None:
    values = [der.tlv(kind, text.encode("utf-16-be" if kind == 0x1E else "utf-8")) for _, text, kind in rdns]
    attributes = [der.sequence(der.oid(rdn[0].dotted_string), value) for rdn, value in zip(rdns, values, strict=True)]
    encoded = der.sequence(*map(der.set_of, attributes)) + spare
    with suppress(ValueError, Malformed):  # what pyca cannot read is in no certificate
        assert certificate_bytes._any_name(encoded) == certificate_bytes._usual_name(encoded)


def _attribute(kind: int, text: bytes) -> bytes:
    types = {b"CA": "2.5.4.3", b"North": "2.5.4.11"}
    return der.sequence(der.oid(types.get(text, "2.5.4.10")), der.tlv(kind, text))


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA-2048", "Ed25519"])
def test_a_key_is_as_pyca_writes_it(kind: str) -> None:
    certificate = Manufacturer(name=f"Maker {kind}", kind=kind).idevid("SN-1").certificate
    assert certificates.facts_of(certificate).spki == certificates.public_key_info(certificate.public_key())


def test_a_compressed_key_is_the_same_key(maker: Manufacturer) -> None:
    """Otherwise who writes his key in another form would be another device, or not the one with the published key."""
    encoded = certificates.to_der(maker.idevid("SN-1").certificate)
    key = certificates.load_certificate(encoded).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    bits = der.bit_string(key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint))
    tbs, *rest = der.parse(encoded).children()
    info = [each.encoded for each in tbs.children()]
    info[6] = der.sequence(der.parse(info[6]).children()[0].encoded, bits)
    other = certificates.load_certificate(der.sequence(der.sequence(*info), *(each.encoded for each in rest)))
    assert bits in certificates.to_der(other)
    assert certificates.spki_sha256(other) == certificates.spki_sha256(certificates.load_certificate(encoded))


def test_what_end_entities_have_in_common_is_not_taken_from_another_kind(maker: Manufacturer) -> None:
    def usages(
        issuer: Credential, usage: x509.KeyUsage | None = None, extended: tuple[x509.ObjectIdentifier, ...] = ()
    ) -> tuple[x509.KeyUsage | None, frozenset[x509.ObjectIdentifier]]:
        certificate = issuing.end_entity(
            issuer,
            issuer.key.public_key(),
            issuing.name("x"),
            not_before=NOW,
            not_after=NOW + timedelta(days=1),
            key_usage=usage,
            extended_key_usage=extended,
        )
        assert certificate.issuer == issuer.certificate.subject
        assert certificates.authority_key_id(certificate) == certificates.subject_key_id(issuer.certificate)
        found = certificates.extension(certificate, x509.KeyUsage)
        return found, certificates.extended_key_usages(certificate)

    signing, client = issuing.signing_key_usage(), certificates.ID_KP_CLIENT_AUTH
    for issuer in (maker.root, maker.idevid_ca, maker.root):
        assert usages(issuer) == (None, frozenset())
        assert usages(issuer, signing) == (signing, frozenset())
        assert usages(issuer, None, (client,)) == (None, frozenset({client}))
        assert usages(issuer, signing, (client,)) == (signing, frozenset({client}))


def test_a_credential_shows_no_key(maker: Manufacturer) -> None:
    assert "key" not in repr(maker.idevid("SN-1"))


def test_extended_key_usages_and_ca_flag(maker: Manufacturer) -> None:
    registrar = Domain().registrar.certificate
    assert certificates.ID_KP_CMC_RA in certificates.extended_key_usages(registrar)
    assert certificates.extended_key_usages(maker.idevid("SN-1").certificate) == frozenset()
    assert certificates.is_ca(maker.root.certificate)
    assert not certificates.is_ca(registrar)


@pytest.mark.req("ID-12")
def test_a_device_identity_does_not_expire(maker: Manufacturer) -> None:
    certificate = maker.idevid("SN-1").certificate
    assert certificate.not_valid_after_utc == issuing.NO_EXPIRY
    assert b"99991231235959Z" in certificates.to_der(certificate)
    assert certificate.not_valid_before_utc < NOW + timedelta(0)


def test_the_extension_is_written_as_it_is_read() -> None:
    assert masa_url_extension("m").value == b"\x16\x01m"
