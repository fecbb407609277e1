"""Making certificates: the few shapes that the suite's own authorities issue.

Root and subordinate CAs, and end entities whose subject, usages and extensions the caller has
decided. Serial numbers are random (159 bits); AuthorityKeyIdentifier is always present, and
SubjectKeyIdentifier unless the profile does without (IEEE 802.1AR wants none in an IDevID).
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID, ObjectIdentifier

from brski_common.certificates import Credential, Facts, PrivateKey, extension, facts_of

# RFC 5280, 4.1.2.5: the notAfter of a certificate that never expires, as IDevIDs do.
NO_EXPIRY = datetime.fromisoformat("9999-12-31T23:59:59+00:00")
# A certificate is valid a little before it is made: clocks in a plant are not equal to the second.
BACKDATE = timedelta(minutes=5)
REMEMBERED_PROFILES = 16

_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]*")
_CURVE_HASHES: dict[str, hashes.SHA384 | hashes.SHA512] = {"secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}

Extensions = Iterable[tuple[x509.ExtensionType, bool]]


def signature_hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """The hash that goes with a signing key: as strong as its curve, None for Ed25519."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _CURVE_HASHES.get(key.curve.name, hashes.SHA256())
    return hashes.SHA256()


def name(common_name: str, **attributes: str) -> x509.Name:
    """A subject: `name("Example CA", organization_name="Example", serial_number="…")`, the common name last."""
    pairs = [(getattr(NameOID, key.upper()), value) for key, value in attributes.items()]
    return x509.Name([name_attribute(oid, value) for oid, value in [*pairs, (NameOID.COMMON_NAME, common_name)]])


def name_attribute(oid: ObjectIdentifier, value: str) -> x509.NameAttribute[str]:
    """An attribute of a name; a serialNumber that is no PrintableString, as some makers have, is a UTF8String.

    RFC 5280, A.1 allows PrintableString only. But a device is called in its domain as its maker called it.
    """
    if oid == NameOID.SERIAL_NUMBER and not is_printable_string(value):
        return x509.NameAttribute(oid, value, _ASN1Type.UTF8String)
    return x509.NameAttribute(oid, value)


def is_printable_string(text: str) -> bool:
    """Whether PrintableString can hold the text (X.680, 41.4)."""
    return _PRINTABLE.fullmatch(text) is not None


def root_ca(
    key: PrivateKey, subject: x509.Name, *, now: datetime, lifetime: timedelta, path_length: int | None = None
) -> x509.Certificate:
    """A self-signed CA certificate."""
    builder = _ca(subject, key.public_key(), path_length).issuer_name(subject)
    builder = builder.not_valid_before(now - BACKDATE).not_valid_after(now + lifetime)
    return builder.add_extension(_key_id(key.public_key()), critical=False).sign(key, signature_hash(key))


def subordinate_ca(
    issuer: Credential,
    public_key: CertificateIssuerPublicKeyTypes,
    subject: x509.Name,
    *,
    now: datetime,
    lifetime: timedelta,
    path_length: int | None = 0,
) -> x509.Certificate:
    """A CA certificate issued by another CA; it never outlives its issuer."""
    not_after = min(now + lifetime, issuer.certificate.not_valid_after_utc)
    builder = _ca(subject, public_key, path_length).issuer_name(issuer.certificate.subject)
    builder = builder.not_valid_before(now - BACKDATE).not_valid_after(not_after)
    builder = builder.add_extension(_key_id(public_key), critical=False)
    return builder.add_extension(authority_key_id(issuer), critical=False).sign(issuer.key, signature_hash(issuer.key))


def end_entity(
    issuer: Credential,
    public_key: CertificateIssuerPublicKeyTypes,
    subject: x509.Name,
    *,
    not_before: datetime,
    not_after: datetime,
    extended_key_usage: Sequence[ObjectIdentifier] = (),
    alternative_names: Sequence[x509.GeneralName] = (),
    key_usage: x509.KeyUsage | None = None,
    extensions: Extensions = (),
    subject_key_identifier: bool = True,
) -> x509.Certificate:
    """An end-entity certificate. `extensions` are (value, critical) pairs added as they are."""
    builder = (
        _end_entities(facts_of(issuer.certificate), key_usage, tuple(extended_key_usage))
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    optional: list[tuple[x509.ExtensionType, bool]] = []
    if subject_key_identifier:
        optional.append((_key_id(public_key), False))
    if alternative_names:
        optional.append((x509.SubjectAlternativeName(alternative_names), not list(subject)))
    for value, critical in [*optional, *extensions]:
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(issuer.key, signature_hash(issuer.key))


@lru_cache(maxsize=REMEMBERED_PROFILES)
def _end_entities(
    issuer: Facts, key_usage: x509.KeyUsage | None, extended_key_usage: tuple[ObjectIdentifier, ...]
) -> x509.CertificateBuilder:
    """What all end entities of one issuer and one kind have in common, its extensions encoded once for all."""
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer.certificate.subject)
        .add_extension(_encoded(x509.BasicConstraints(ca=False, path_length=None)), critical=True)
        .add_extension(_encoded(_authority_key_id(issuer.certificate)), critical=False)
    )
    if key_usage is not None:
        builder = builder.add_extension(_encoded(key_usage), critical=True)
    if extended_key_usage:
        builder = builder.add_extension(_encoded(x509.ExtendedKeyUsage(extended_key_usage)), critical=False)
    return builder


def _encoded(value: x509.ExtensionType) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(value.oid, value.public_bytes())


def authority_key_id(issuer: Credential) -> x509.AuthorityKeyIdentifier:
    """The AuthorityKeyIdentifier that points to `issuer`."""
    return _authority_key_id(issuer.certificate)


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = extension(issuer, x509.SubjectKeyIdentifier)
    if own is None:
        key = cast("CertificateIssuerPublicKeyTypes", issuer.public_key())  # it signs certificates
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


@lru_cache
def signing_key_usage(*, certificates: bool = False) -> x509.KeyUsage:
    """keyUsage digitalSignature, or keyCertSign and cRLSign for a CA."""
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _ca(
    subject: x509.Name, public_key: CertificateIssuerPublicKeyTypes, path_length: int | None
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(signing_key_usage(certificates=True), critical=True)
    )


def _key_id(public_key: CertificateIssuerPublicKeyTypes) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(public_key)
