"""Making certificates: the few shapes that the suite's own authorities issue.

Root and subordinate CAs, and end entities whose subject, usages and extensions the caller has
decided. Serial numbers are random (159 bits); AuthorityKeyIdentifier is always present, and
SubjectKeyIdentifier unless the profile does without (IEEE 802.1AR wants none in an IDevID).

End entities are many, and alike but for a few fields: what is constant is encoded once, and the rest
put into it here. pyca's builder makes the few CAs.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID, ObjectIdentifier

from brski_common import der
from brski_common.certificates import Credential, Facts, PrivateKey, extension, facts_of, public_key_info
from brski_common.der_spans import members

# RFC 5280, 4.1.2.5: the notAfter of a certificate that never expires, as IDevIDs do.
NO_EXPIRY = datetime.fromisoformat("9999-12-31T23:59:59+00:00")
# A certificate is valid a little before it is made: clocks in a plant are not equal to the second.
BACKDATE = timedelta(minutes=5)
REMEMBERED_PROFILES = 16

_PRINTABLE = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]*")
_CURVE_HASHES: dict[str, hashes.SHA384 | hashes.SHA512] = {"secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
_VERSION_3 = der.explicit(0, der.integer(2))
_ED25519 = der.sequence(der.oid("1.3.101.112"))
_RSA = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.NULL)
_ECDSA = {
    "sha256": der.sequence(der.oid("1.2.840.10045.4.3.2")),
    "sha384": der.sequence(der.oid("1.2.840.10045.4.3.3")),
    "sha512": der.sequence(der.oid("1.2.840.10045.4.3.4")),
}

Extensions = Iterable[tuple[x509.ExtensionType, bool]]


def signature_hash(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """The hash that goes with a signing key: as strong as its curve, None for Ed25519."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    return _curve_hash(key.curve) if isinstance(key, ec.EllipticCurvePrivateKey) else hashes.SHA256()


def _curve_hash(curve: ec.EllipticCurve) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    return _CURVE_HASHES.get(curve.name, hashes.SHA256())


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
    if not_after < not_before:
        raise ValueError(f"a certificate that ends at {not_after} before it begins at {not_before}")
    frame = _frame(facts_of(issuer.certificate), key_usage, tuple(extended_key_usage))
    key_info = public_key_info(public_key)
    own = [_key_id_extension(key_info)] if subject_key_identifier else []
    if alternative_names:
        own.append(_extension(x509.SubjectAlternativeName(alternative_names), critical=not list(subject)))
    own += [_extension(value, critical=critical) for value, critical in extensions]
    #   TBSCertificate ::= SEQUENCE { version [0], serialNumber, signature, issuer, validity, subject,
    #       subjectPublicKeyInfo, extensions [3] }
    signed = der.sequence(
        _VERSION_3,
        der.integer(x509.random_serial_number()),
        frame.algorithm,
        frame.issuer,
        der.sequence(der.time(not_before), der.time(not_after)),
        subject.public_bytes(),
        key_info,
        der.explicit(3, der.sequence(frame.extensions, *own)),
    )
    signature = der.bit_string(_sign(issuer.key, signed))
    return x509.load_der_x509_certificate(der.sequence(signed, frame.algorithm, signature))


class _Frame(NamedTuple):
    """What all end entities of one issuer and one kind have in common, as DER."""

    algorithm: bytes
    issuer: bytes
    extensions: bytes


@lru_cache(maxsize=REMEMBERED_PROFILES)
def _frame(issuer: Facts, key_usage: x509.KeyUsage | None, extended_key_usage: tuple[ObjectIdentifier, ...]) -> _Frame:
    certificate = issuer.certificate
    extensions = [
        _extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
        _extension(_authority_key_id(certificate), critical=False),
    ]
    if key_usage is not None:
        extensions.append(_extension(key_usage, critical=True))
    if extended_key_usage:
        extensions.append(_extension(x509.ExtendedKeyUsage(extended_key_usage), critical=False))
    return _Frame(_algorithm(certificate.public_key()), certificate.subject.public_bytes(), b"".join(extensions))


def _extension(value: x509.ExtensionType, *, critical: bool) -> bytes:
    #   Extension ::= SEQUENCE { extnID OBJECT IDENTIFIER, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }
    flag = der.boolean(True) if critical else b""
    return der.sequence(der.oid(value.oid.dotted_string), flag, der.octet_string(value.public_bytes()))


_KEY_ID_BYTES = 20
_SEQUENCE = bytes((der.SEQUENCE,))
_ALGORITHM_AND_KEY = bytes((der.SEQUENCE, der.BIT_STRING))
_KEY_ID_HEAD = _extension(x509.SubjectKeyIdentifier(bytes(_KEY_ID_BYTES)), critical=False)[:-_KEY_ID_BYTES]


def _key_id_extension(key_info: bytes) -> bytes:
    """The SubjectKeyIdentifier: SHA-1 of the key's bits (RFC 5280, 4.2.1.2, method 1), as pyca makes it for a CA."""
    #   SubjectPublicKeyInfo ::= SEQUENCE { algorithm SEQUENCE, subjectPublicKey BIT STRING }
    (info,) = members(key_info, (0, 0, len(key_info)), _SEQUENCE)
    _, (_, bits, end) = members(key_info, info, _ALGORITHM_AND_KEY)
    return _KEY_ID_HEAD + hashlib.sha1(key_info[bits + 1 : end], usedforsecurity=False).digest()


def _algorithm(key: object) -> bytes:
    """The AlgorithmIdentifier of what `_sign` makes with this public key's private one."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _ECDSA[_curve_hash(key.curve).name]
    return _RSA if isinstance(key, rsa.RSAPublicKey) else _ED25519


def _sign(key: PrivateKey, data: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(_curve_hash(key.curve)))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data)


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
