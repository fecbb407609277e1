"""What the suite reads in a certificate, and who holds one.

Only reading happens here; whether a certificate is trusted is decided in `paths`. IDevID fields:
RFC 8995, 2.3 and IEEE 802.1AR-2018, 8. domainID: RFC 8995, 5.8.2.

A certificate is read once for as long as it is remembered (`facts_of`): one onboarding asks the same few questions of
the same few certificates a hundred times. Only what stands in the bytes is remembered, never a verdict.
"""

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID, ObjectIdentifier

from brski_common import certificate_bytes, der
from brski_common.certificate_bytes import is_canonical, name_of
from brski_common.errors import Malformed, Untrusted

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

KeyKind = Literal["EC", "RSA", "Ed25519"]

ID_PE_MASA_URL = ObjectIdentifier("1.3.6.1.5.5.7.1.32")
ID_ON_HARDWARE_MODULE_NAME = ObjectIdentifier("1.3.6.1.5.5.7.8.4")
ID_KP_CMC_RA = ObjectIdentifier("1.3.6.1.5.5.7.3.28")
ID_KP_SERVER_AUTH = ObjectIdentifier("1.3.6.1.5.5.7.3.1")
ID_KP_CLIENT_AUTH = ObjectIdentifier("1.3.6.1.5.5.7.3.2")

MAX_CERTIFICATE_BYTES = 16 * 1024
MAX_PEM_BYTES = 1024 * 1024
REMEMBERED_CLASSES = 64
PARSED_CERTIFICATES = 128  # how many are kept: a pledge's is met four times in one onboarding, and then never again

# A hostile peer shall not write to our standard error. What the first warns of is refused by `load_certificate`;
# the second is about name attributes longer or shorter than their type allows, which decides nothing here.
warnings.filterwarnings("ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning)
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

# Everything pyca raises on bytes that are not the certificate they claim to be.
PYCA_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Credential:
    """A private key with its certificate chain, leaf first. Shows no key in its repr."""

    key: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...]

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate of `key`."""
        return self.chain[0]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a TLS connection: the chain exactly as received, leaf first, not yet judged."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    address: str | None = None


@dataclass(frozen=True, slots=True)
class HardwareModuleName:
    """RFC 4108, 5: the type of a security module (dotted OID) and its serial number."""

    hw_type: str
    hw_serial_number: bytes


ExtensionValue = TypeVar("ExtensionValue", bound=x509.ExtensionType)

_SERIAL_NUMBER = NameOID.SERIAL_NUMBER.dotted_string


@lru_cache(maxsize=REMEMBERED_CLASSES)
def key_kind(kind: type) -> KeyKind | None:
    """What keys of this class are. pyca's classes are abstract, so that every `isinstance` asks a registry anew."""
    if issubclass(kind, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return "EC"
    if issubclass(kind, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return "RSA"
    return "Ed25519" if issubclass(kind, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey) else None


class Facts:
    """What stands in one certificate. Equal only to itself: a cheap key for what is remembered about it."""

    def __init__(self, certificate: x509.Certificate, der_bytes: bytes | None = None) -> None:
        self.certificate = certificate
        self.der = certificate.public_bytes(Encoding.DER) if der_bytes is None else der_bytes
        self.extensions: dict[ObjectIdentifier, Any] = {}
        self.critical: list[ObjectIdentifier] = []
        for extension in certificate.extensions:
            oid = extension.oid
            self.extensions[oid] = extension.value
            if extension.critical:
                self.critical.append(oid)
        self.parts = parts = certificate_bytes.read(self.der)
        self.issuer_and_serial = parts.issuer + parts.serial  # byte for byte, as in an IssuerAndSerialNumber
        self.subject, self.issuer = name_of(parts.subject), name_of(parts.issuer)
        self.is_self_issued = self.subject == self.issuer
        self.key = certificate.public_key()
        self.key_kind = key_kind(type(self.key))
        self.spki = parts.key_info if is_canonical(parts.key_info) else public_key_info(self.key)
        self.spki_sha256 = hashlib.sha256(self.spki).digest()
        self.not_before = certificate.not_valid_before_utc
        self.not_after = certificate.not_valid_after_utc
        own = self.value(x509.SubjectKeyIdentifier)
        self.key_id = None if own is None else own.digest
        basic = self.value(x509.BasicConstraints)
        self.is_ca = basic is not None and basic.ca
        self.path_length = None if basic is None else basic.path_length
        usages = self.value(x509.ExtendedKeyUsage)
        self.extended_key_usages = frozenset(() if usages is None else usages)

    def value(self, kind: type[ExtensionValue]) -> ExtensionValue | None:
        """The value of an extension, None without it."""
        return self.extensions.get(kind.oid)

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of the DER, 32 bytes."""
        return hashlib.sha256(self.der).digest()

    @cached_property
    def issuer_forms(self) -> frozenset[bytes]:
        """See `idevid_issuer_forms`."""
        extension, found = _issuer_extension(self), self.value(x509.AuthorityKeyIdentifier)
        key_id = None if found is None else found.key_identifier
        bare = () if key_id is None else (key_id, der.octet_string(key_id))
        return frozenset((der.octet_string(extension), extension, *bare))


class _Remembered:
    """The facts of the last certificates asked about, found by identity: that needs no hash of the whole certificate.

    Whoever is in here is kept alive by it, so that no other certificate can have its `id`.
    """

    def __init__(self) -> None:
        self._by_id: dict[int, Facts] = {}
        self._lock = Lock()  # services sign in threads

    def facts_of(self, certificate: x509.Certificate) -> Facts:
        """What stands in a certificate."""
        try:
            return self._by_id[id(certificate)]
        except KeyError:
            return self.add(Facts(certificate))

    def known(self, certificate: x509.Certificate) -> Facts | None:
        """The facts of a certificate that was asked about before, for a question not worth reading it."""
        return self._by_id.get(id(certificate))

    def add(self, facts: Facts) -> Facts:
        with self._lock:
            if len(self._by_id) >= PARSED_CERTIFICATES:
                del self._by_id[next(iter(self._by_id))]  # the oldest
            self._by_id[id(facts.certificate)] = facts
        return facts

    def cache_clear(self) -> None:
        """Forget all, as `lru_cache` does."""
        with self._lock:
            self._by_id.clear()


remembered = _Remembered()
facts_of = remembered.facts_of


def load_certificate(data: bytes) -> x509.Certificate:
    """Parse one DER certificate, once for as long as it is remembered; raises Malformed."""
    if len(data) > MAX_CERTIFICATE_BYTES:
        raise Malformed("certificate-too-large", f"{len(data)} bytes, at most {MAX_CERTIFICATE_BYTES}")
    return _load_certificate(bytes(data))


@lru_cache(maxsize=PARSED_CERTIFICATES)
def _load_certificate(data: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(data)
        # pyca parses lazily: what is broken shall show here, not in the middle of a decision.
        facts = Facts(certificate, data)
    except PYCA_ERRORS as error:
        raise Malformed("certificate-malformed", _words(error)) from error
    if data[-len(certificate.signature) - 1] != 0:  # unused bits of a BIT STRING, which no signature algorithm has
        raise Malformed("certificate-malformed", "the signature does not end with an octet")
    if certificate.serial_number <= 0:
        raise Malformed("certificate-malformed", "the certificate's serial number is not positive (RFC 5280, 4.1.2.2)")
    return remembered.add(facts).certificate


def load_pem(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read every certificate of a PEM text, in order; raises Malformed if there is none."""
    if len(data) > MAX_PEM_BYTES:
        raise Malformed("pem-too-large", f"{len(data)} bytes, at most {MAX_PEM_BYTES}")
    try:
        parsed = x509.load_pem_x509_certificates(data)
        return tuple(load_certificate(certificate.public_bytes(Encoding.DER)) for certificate in parsed)
    except PYCA_ERRORS as error:
        raise Malformed("certificate-malformed", _pem_words(data, error)) from error


def _pem_words(data: bytes, error: Exception) -> str:
    """What is wrong with a PEM text, for who named the wrong file."""
    if b"-----BEGIN CERTIFICATE-----" in data:
        return _words(error)
    found = "a private key" if b"PRIVATE KEY-----" in data else "no certificate"
    return f"{found}, where PEM certificates are wanted (-----BEGIN CERTIFICATE-----)"


def _words(error: Exception) -> str:
    """pyca's reason without its advice to read pyca's manual."""
    return str(error).partition(" See http")[0]


def to_der(certificate: x509.Certificate) -> bytes:
    """The certificate's DER bytes."""
    known = remembered.known(certificate)
    return certificate.public_bytes(Encoding.DER) if known is None else known.der


def to_pem(*certificates: x509.Certificate) -> bytes:
    """The certificates as PEM, in the order given."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's DER, 32 bytes."""
    return facts_of(certificate).fingerprint


def public_key_info(key: CertificatePublicKeyTypes) -> bytes:
    """A public key as DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spki(certificate: x509.Certificate) -> bytes:
    """The certificate's DER SubjectPublicKeyInfo."""
    return facts_of(certificate).spki


def spki_sha256(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo, 32 bytes (RFC 7469, 2.4)."""
    return facts_of(certificate).spki_sha256


def extension(certificate: x509.Certificate, kind: type[ExtensionValue]) -> ExtensionValue | None:
    """The value of one extension, None without it."""
    return facts_of(certificate).value(kind)


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, or its whole subject where it has none: for people, never for a decision."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.subject.rfc4514_string({NameOID.SERIAL_NUMBER: "serialNumber"})


def serial_number(certificate: x509.Certificate) -> str:
    """The device's serial number (2.5.4.5), never the certificate's own (RFC 8995, 2.3.1); raises Untrusted."""
    found = [value for rdn in facts_of(certificate).subject for kind, value in rdn if kind == _SERIAL_NUMBER]
    if not found:
        raise Untrusted("serial-number-missing", "the subject has no serialNumber attribute (2.5.4.5)")
    if len(found) > 1:
        raise Untrusted("serial-number-ambiguous", "the subject has several serialNumber attributes")
    return str(found[0])


def masa_url(certificate: x509.Certificate) -> str | None:
    """The text of the MASA URL extension, None without one (RFC 8995, 2.3.2); raises Malformed."""
    value = _unrecognised(certificate, ID_PE_MASA_URL)
    if value is None:
        return None
    element = der.parse(value)
    if element.tag != der.IA5_STRING:
        raise Malformed("masa-url-malformed", "the extension is not an IA5String")
    try:
        return element.content.decode("ascii")
    except UnicodeDecodeError as error:
        raise Malformed("masa-url-malformed", "not ASCII") from error


def subject_key_id(certificate: x509.Certificate) -> bytes | None:
    """The value of the SubjectKeyIdentifier extension."""
    return facts_of(certificate).key_id


def authority_key_id(certificate: x509.Certificate) -> bytes | None:
    """The keyIdentifier of the AuthorityKeyIdentifier extension."""
    found = extension(certificate, x509.AuthorityKeyIdentifier)
    return None if found is None else found.key_identifier


def idevid_issuer(certificate: x509.Certificate) -> bytes:
    """The idevid-issuer leaf for this IDevID: the whole extnValue of its AuthorityKeyIdentifier.

    That is an OCTET STRING around the extension, `04 18 30 16 80 14 …` with a usual key identifier
    (draft-ietf-anima-rfc8366bis, 6.1). Without the extension the same wrapping holds the
    SHA-1 key identifier of the IDevID's own key, as that text has it.
    """
    return der.octet_string(_issuer_extension(facts_of(certificate)))


def _issuer_extension(facts: Facts) -> bytes:
    found = facts.value(x509.AuthorityKeyIdentifier)
    if found is None:
        own = x509.SubjectKeyIdentifier.from_public_key(facts.key).digest
        found = x509.AuthorityKeyIdentifier(own, None, None)
    return found.public_bytes()


def idevid_issuer_forms(certificate: x509.Certificate) -> frozenset[bytes]:
    """Every encoding of idevid-issuer met in the wild that names this IDevID's issuer.

    Besides the right one: the extension without the OCTET STRING, the bare key identifier in an
    OCTET STRING, and the bare key identifier. Each names the same key, so none weakens the check.
    """
    return facts_of(certificate).issuer_forms


def hardware_module_name(certificate: x509.Certificate) -> HardwareModuleName | None:
    """The hardwareModuleName of the subjectAltName (IEEE 802.1AR-2018, 8.10.4); raises Malformed."""
    names = extension(certificate, x509.SubjectAlternativeName)
    for name in names.get_values_for_type(x509.OtherName) if names is not None else ():
        if name.type_id == ID_ON_HARDWARE_MODULE_NAME:
            return read_hardware_module_name(name.value)
    return None


def read_hardware_module_name(value: bytes) -> HardwareModuleName:
    """Decode `SEQUENCE { hwType OBJECT IDENTIFIER, hwSerialNum OCTET STRING }`; raises Malformed."""
    sequence = der.parse(value)
    members = sequence.children() if sequence.tag == der.SEQUENCE else ()
    if len(members) != 2 or members[0].tag != der.OBJECT_IDENTIFIER or members[1].tag != der.OCTET_STRING:
        raise Malformed("hardware-module-name-malformed", "not a sequence of OID and OCTET STRING")
    return HardwareModuleName(members[0].oid(), members[1].content)


def domain_id(certificate: x509.Certificate) -> bytes:
    """The domainID of a pinned-domain-cert: its SubjectKeyIdentifier, else SPKI SHA-256 (RFC 8995, 5.8.2)."""
    return subject_key_id(certificate) or spki_sha256(certificate)


def extended_key_usages(certificate: x509.Certificate) -> frozenset[ObjectIdentifier]:
    """The extended key usages, empty without the extension."""
    return facts_of(certificate).extended_key_usages


def is_ca(certificate: x509.Certificate) -> bool:
    """Whether basicConstraints says CA."""
    return facts_of(certificate).is_ca


def is_self_issued(certificate: x509.Certificate) -> bool:
    """Whether subject and issuer are one name."""
    return facts_of(certificate).is_self_issued


def without_duplicates(certificates: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """The certificates in order, each once."""
    listed = tuple(certificates)
    return listed if len(listed) < 2 else tuple({to_der(each): each for each in listed}.values())


def _unrecognised(certificate: x509.Certificate, oid: ObjectIdentifier) -> bytes | None:
    value = facts_of(certificate).extensions.get(oid)
    if value is None:
        return None
    return value.value if isinstance(value, x509.UnrecognizedExtension) else value.public_bytes()
