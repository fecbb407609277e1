"""End entities are put together here; pyca's builder, which was made for it, has to say the same."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from brski_common import issuing
from brski_common.certificates import ID_KP_CLIENT_AUTH, Credential, PrivateKey
from brski_common.paths import check_link
from tests.support.world import NOW, YEARS, key_for

NAMES = (x509.DNSName("device.example"),)
PRIVATE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
KEYS: dict[str, Callable[[], PrivateKey]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "RSA": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def authority(key: PrivateKey) -> Credential:
    subject = issuing.name("Issuing CA", organization_name="Example")
    return Credential(key, (issuing.root_ca(key, subject, now=NOW, lifetime=10 * YEARS),))


def built_by_pyca(made: x509.Certificate, issuer: Credential, key: PrivateKey) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .serial_number(made.serial_number)
        .issuer_name(issuer.certificate.subject)
        .subject_name(made.subject)
        .public_key(key.public_key())
        .not_valid_before(made.not_valid_before_utc)
        .not_valid_after(made.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(issuing.authority_key_id(issuer), critical=False)
        .add_extension(issuing.signing_key_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage((ID_KP_CLIENT_AUTH,)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName(NAMES), critical=not list(made.subject))
        .add_extension(PRIVATE, critical=True)
    )
    return builder.sign(issuer.key, issuing.signature_hash(issuer.key))


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("subject", [issuing.name("SN-1 ü", serial_number="SN-1"), x509.Name(())], ids=["named", "not"])
def test_an_end_entity_is_what_pyca_would_have_built(kind: str, subject: x509.Name) -> None:
    issuer, key = authority(KEYS[kind]()), KEYS[kind]()
    made = issuing.end_entity(
        issuer,
        key.public_key(),
        subject,
        not_before=NOW,
        not_after=issuing.NO_EXPIRY,
        extended_key_usage=(ID_KP_CLIENT_AUTH,),
        alternative_names=NAMES,
        key_usage=issuing.signing_key_usage(),
        extensions=((PRIVATE, True),),
    )
    built = built_by_pyca(made, issuer, key)
    assert made.tbs_certificate_bytes == built.tbs_certificate_bytes
    assert made.signature_algorithm_oid == built.signature_algorithm_oid
    made.verify_directly_issued_by(issuer.certificate)
    check_link(made, issuer.certificate)


def test_what_a_profile_does_without_is_not_in_it() -> None:
    key = key_for("device 1")
    issuer = authority(key)
    until = NOW + timedelta(days=1)
    plain = issuing.end_entity(
        issuer, key.public_key(), x509.Name(()), not_before=NOW, not_after=until, subject_key_identifier=False
    )
    assert [each.oid for each in plain.extensions] == [
        x509.BasicConstraints.oid,
        x509.AuthorityKeyIdentifier.oid,
    ]


def test_no_certificate_ends_before_it_begins() -> None:
    key = key_for("device 1")
    with pytest.raises(ValueError, match="before it begins"):
        issuing.end_entity(
            authority(key), key.public_key(), x509.Name(()), not_before=NOW, not_after=NOW - timedelta(seconds=1)
        )


def test_a_name_is_made_of_attributes_with_the_common_name_last() -> None:
    name = issuing.name("CN", organization_name="O", serial_number="1_2")
    assert [each.oid for each in name] == [NameOID.ORGANIZATION_NAME, NameOID.SERIAL_NUMBER, NameOID.COMMON_NAME]
