"""How far an IDevID keeps to RFC 8995, 2.3 and IEEE 802.1AR-2018, 8: findings by requirement id.

An `error` breaks a MUST, so that registrars may refuse the device; a `warning` is a SHOULD. The ids are those of
docs/conformance.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from brski_common import der, issuing
from brski_common.certificates import (
    ID_PE_MASA_URL,
    authority_key_id,
    extended_key_usages,
    hardware_module_name,
    is_ca,
    spki_sha256,
    subject_key_id,
    to_der,
)
from brski_common.errors import BrskiError, Malformed, Untrusted
from brski_common.paths import check_link
from brski_common.published_keys import PUBLISHED_TEST_KEYS

SMALL_BYTES: Final = 1024  # IEEE 802.1AR-2018, 8
MIN_RSA_BITS: Final = 2048

# IEEE 802.1AR-2018, 9: curve or key kind, and the hash that goes with it
_SUITES: Final = {"secp256r1": "sha256", "secp384r1": "sha384"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One departure from the standard."""

    requirement: str
    level: Literal["error", "warning"]
    text: str

    def __str__(self) -> str:
        return f"{self.requirement} {self.level}: {self.text}"


def lint(certificate: x509.Certificate) -> list[Finding]:
    """Everything that is not as it should be; empty for a good IDevID."""
    return [
        *_subject(certificate),
        *_masa_url(certificate),
        *_usages(certificate),
        *_identifiers(certificate),
        *_hardware(certificate),
        *_suite(certificate),
        *_rest(certificate),
    ]


def lint_chain(chain: Sequence[x509.Certificate]) -> list[Finding]:
    """The IDevID at its head, and whether the device stores all it needs to send (AR-09)."""
    findings = lint(chain[0])
    for below, above in pairwise(chain):
        try:
            check_link(below, above)
        except Untrusted as error:
            findings.append(Finding("AR-09", "error", f"the chain does not hold together: {error}"))
    if len(chain) == 1 or not is_ca(chain[-1]):
        findings.append(Finding("AR-09", "error", "the chain of the issuer is missing"))
    return findings


def _subject(certificate: x509.Certificate) -> Iterator[Finding]:
    found = certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    if len(found) != 1 or not found[0].value:
        yield Finding("ID-01", "error", f"the subject has {len(found)} serialNumber attributes (2.5.4.5), not one")
    if not list(certificate.subject):
        yield Finding("AR-01", "error", "the subject is empty")
    if not list(certificate.issuer):
        yield Finding("AR-01", "error", "the issuer is empty")
    if certificate.version is not x509.Version.v3:
        yield Finding("AR-01", "error", "not an X.509 v3 certificate")


def _masa_url(certificate: x509.Certificate) -> Iterator[Finding]:
    try:
        extension = certificate.extensions.get_extension_for_oid(ID_PE_MASA_URL)
    except x509.ExtensionNotFound:
        yield Finding("ID-03", "warning", "no MASA URL extension: every registrar has to be told where the MASA is")
        return
    if extension.critical:
        yield Finding("ID-03", "error", "the MASA URL extension is critical")
    try:
        element = der.parse(extension.value.public_bytes())
        text = element.content.decode("ascii")
    except (Malformed, UnicodeDecodeError):
        yield Finding("ID-03", "error", "the MASA URL extension cannot be read")
        return
    if element.tag != der.IA5_STRING:
        yield Finding("ID-03", "error", "the MASA URL is not an IA5String")
    if "/" in text:
        yield Finding("ID-04", "warning", "the MASA URL is more than host[:port]")


def _usages(certificate: x509.Certificate) -> Iterator[Finding]:
    if extended_key_usages(certificate):
        yield Finding("ID-08", "warning", "extendedKeyUsage restricts what the IDevID can be used for")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        return
    yield Finding("ID-08", "warning", "keyUsage restricts what the IDevID can be used for")
    if not usage.value.digital_signature:
        yield Finding("AR-04", "error", "keyUsage lacks digitalSignature")
    if not usage.critical:
        yield Finding("AR-04", "error", "keyUsage is not critical")


def _identifiers(certificate: x509.Certificate) -> Iterator[Finding]:
    if authority_key_id(certificate) is None:
        yield Finding("AR-03", "error", "no keyIdentifier in the AuthorityKeyIdentifier: idevid-issuer is made of it")
    if subject_key_id(certificate) is not None:
        yield Finding("AR-03", "warning", "a SubjectKeyIdentifier, which a DevID does without")


def _hardware(certificate: x509.Certificate) -> Iterator[Finding]:
    try:
        hardware_module_name(certificate)
    except BrskiError as error:
        yield Finding("AR-05", "error", f"hardwareModuleName: {error}")


def _suite(certificate: x509.Certificate) -> Iterator[Finding]:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _SUITES:
            yield Finding("AR-07", "warning", f"a key on {key.curve.name}, not P-256 or P-384")
    elif not isinstance(key, rsa.RSAPublicKey):
        yield Finding("AR-07", "warning", "neither ECDSA nor RSA: registrars may not know it")
    elif key.key_size < MIN_RSA_BITS:
        yield Finding("AR-07", "error", f"an RSA key of {key.key_size} bits")
    algorithm = certificate.signature_hash_algorithm
    if algorithm is not None and algorithm.name not in {*_SUITES.values(), "sha512"}:
        yield Finding("AR-07", "error", f"signed with {algorithm.name}")
    if spki_sha256(certificate) in PUBLISHED_TEST_KEYS:
        yield Finding("ID-14", "error", "the private key stands in a specification")


def _rest(certificate: x509.Certificate) -> Iterator[Finding]:
    if certificate.not_valid_after_utc != issuing.NO_EXPIRY:
        yield Finding("ID-12", "warning", f"ends on {certificate.not_valid_after_utc:%Y-%m-%d}, not 99991231235959Z")
    if is_ca(certificate):
        yield Finding("AR-01", "error", "the certificate is a CA's")
    if (size := len(to_der(certificate))) > SMALL_BYTES:
        yield Finding("AR-08", "warning", f"{size} bytes, more than {SMALL_BYTES}")
