"""Certificate signing requests (PKCS #10, RFC 2986): read and judged. They are composed in `csrplan`.

- `read_csr` takes a request only with proof of possession, a key and a hash worth certifying.
- `check_csr` decides whether a request follows what the server asked for (RFC 8995, 5.9.2),
  `check_renewal` whether it repeats the names of the certificate it renews (RFC 7030, 4.2.2).

`check_csr` looks at what was asked. Anything beyond that a request may contain, such as CA:TRUE, is
for the certificate authority to leave out: it copies nothing that its own profile does not hold.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from brski_common import der
from brski_common.certificates import PYCA_ERRORS
from brski_common.csrattrs import EXTENSION_REQUEST, CsrAttributes, read_extensions, read_item, read_text
from brski_common.csrwishes import (
    CHALLENGE_PASSWORD,
    CURVES,
    EC_PUBLIC_KEY,
    ED25519,
    RSA_BITS,
    RSA_ENCRYPTION,
    SUBJECT_ALTERNATIVE_NAME,
    SUBJECT_ATTRIBUTES,
    Attribute,
    ExtensionWish,
    KeyWish,
    NameWish,
    Wishes,
    general_names,
    is_hole,
)
from brski_common.errors import Malformed, Refused, Untrusted

MAX_CSR_BYTES = 32 * 1024
HASHES = frozenset({"sha256", "sha384", "sha512"})
CURVE_KINDS = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}  # the curves that are certified
MIN_RSA_EXPONENT = 3
REMEMBERED_REQUESTS = 8  # one request is asked for its attributes several times, then never again

CHANGE_SUBJECT_NAME = "1.3.6.1.5.5.7.7.36"  # RFC 6402, 2.8

_ATTRIBUTES_TAG = der.context(0)

# Reading


def read_csr(data: bytes, *, proof_of_possession: bool = True) -> x509.CertificateSigningRequest:
    """Read a DER request and verify its proof of possession (RFC 7030, 3.4).

    Raises Malformed, Refused (`csr-key-unacceptable`, `csr-hash-unacceptable`) or Untrusted
    (`csr-signature-invalid`). Afterwards subject, extensions and key can be read without error.
    For server-side key generation, where key and signature are to be ignored (RFC 7030, 4.4.1),
    say `proof_of_possession=False`.
    """
    if len(data) > MAX_CSR_BYTES:
        raise Malformed("csr-too-large", f"{len(data)} bytes, at most {MAX_CSR_BYTES}")
    try:
        csr = x509.load_der_x509_csr(data)
        # pyca decodes on access. What cannot be read shall be known here, not in the middle of a decision.
        _ = subject_of(csr), csr.extensions, requested_extensions(csr)
    except PYCA_ERRORS as error:
        raise Malformed("csr-malformed", f"{type(error).__name__}: {error}") from error
    if proof_of_possession:
        check_key(public_key(csr))
        _verify(csr, data)
    return csr


@lru_cache(maxsize=REMEMBERED_REQUESTS)
def attributes(csr: x509.CertificateSigningRequest) -> tuple[Attribute, ...]:
    """All attributes of a request with all their values."""
    members = der.parse(csr.tbs_certrequest_bytes).fields()
    for tag in (der.INTEGER, der.SEQUENCE, der.SEQUENCE):  # version, subject, subjectPKInfo
        members.take(tag)
    found = members.optional(_ATTRIBUTES_TAG)
    items = [read_item(element) for element in found.children()] if found else []
    return tuple(item for item in items if isinstance(item, Attribute))


def challenge_password(csr: x509.CertificateSigningRequest) -> str | None:
    """The challengePassword: in EST the base64 of a channel binding (RFC 7030, 3.5); raises Malformed."""
    value = _attribute(csr, CHALLENGE_PASSWORD)
    return None if value is None else read_text(value)


@lru_cache(maxsize=REMEMBERED_REQUESTS)
def requested_extensions(csr: x509.CertificateSigningRequest) -> tuple[ExtensionWish, ...]:
    """The extensions a request holds, each with its DER value as received; raises Malformed."""
    value = _attribute(csr, EXTENSION_REQUEST)
    return () if value is None else read_extensions([value.encoded])[0]


@dataclass(frozen=True, slots=True)
class ChangeSubjectName:
    """The names a renewed certificate is to have instead of the present ones (RFC 6402, 2.8)."""

    subject: x509.Name | None = None
    alternative_names: x509.SubjectAlternativeName | None = None


def change_subject_name(csr: x509.CertificateSigningRequest) -> ChangeSubjectName | None:
    """The ChangeSubjectName attribute of a request; raises Malformed."""
    value = _attribute(csr, CHANGE_SUBJECT_NAME)
    if value is None:
        return None
    members = value.fields()
    subject, names = None, None
    for member in (element for element in (members.optional(der.SEQUENCE), members.optional(der.SEQUENCE)) if element):
        # Name and GeneralNames are both a SEQUENCE without a tag of their own; one holds SETs, the other never.
        if any(child.tag != der.SET for child in member.children()):
            names = member.encoded
        else:
            subject = member.encoded
    members.end()
    return _names_changed(subject, names)


def key_wish(key: CertificatePublicKeyTypes) -> KeyWish | None:
    """The wish that asks for just such a key; None for kinds of key that are never certified here."""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVE_KINDS:
        return KeyWish(EC_PUBLIC_KEY, curve=CURVES[CURVE_KINDS[key.curve.name]])
    if isinstance(key, rsa.RSAPublicKey):
        return KeyWish(RSA_ENCRYPTION, bits=key.key_size)
    return KeyWish(ED25519) if isinstance(key, ed25519.Ed25519PublicKey) else None


def check_key(key: CertificatePublicKeyTypes) -> None:
    """Refuse keys that are not worth certifying: RSA under 2048 bits, curves other than P-256, P-384, P-521."""
    wish = key_wish(key)
    if wish is None:
        raise Refused("csr-key-unacceptable", f"a {type(key).__name__} is not certified")
    if isinstance(key, rsa.RSAPublicKey) and (
        key.key_size not in RSA_BITS or key.public_numbers().e < MIN_RSA_EXPONENT
    ):
        raise Refused("csr-key-unacceptable", f"RSA with {key.key_size} bits, exponent {key.public_numbers().e}")


@lru_cache(maxsize=REMEMBERED_REQUESTS)
def subject_of(csr: x509.CertificateSigningRequest) -> x509.Name:
    """The name in a request, which pyca would read anew each time."""
    return csr.subject


@lru_cache(maxsize=REMEMBERED_REQUESTS)
def public_key(csr: x509.CertificateSigningRequest) -> CertificatePublicKeyTypes:
    """The key that is to be certified; raises Refused `csr-key-unacceptable` where it cannot be read."""
    try:
        return csr.public_key()
    except PYCA_ERRORS as error:
        raise Refused("csr-key-unacceptable", f"{type(error).__name__}: {error}") from error


def _hash(csr: x509.CertificateSigningRequest) -> str | None:
    """The name of the hash the request was signed with; None for Ed25519, which leaves no choice of one."""
    try:
        algorithm = csr.signature_hash_algorithm
    except PYCA_ERRORS as error:
        raise Refused("csr-hash-unacceptable", f"{type(error).__name__}: {error}") from error
    return algorithm.name if algorithm else None


def _verify(csr: x509.CertificateSigningRequest, data: bytes) -> None:
    name = _hash(csr)
    if name is not None and name not in HASHES:
        raise Refused("csr-hash-unacceptable", f"signed with {name}")
    try:
        valid = csr.is_signature_valid
    except PYCA_ERRORS as error:
        raise Untrusted("csr-signature-invalid", f"{type(error).__name__}: {error}") from error
    if not valid:
        raise Untrusted("csr-signature-invalid", "the key in the request did not sign it")
    if data[-len(csr.signature) - 1]:  # how many bits of the last octet do not count; pyca lets one byte say so
        raise Untrusted("csr-signature-invalid", "the signature has bits that do not count")


def _attribute(csr: x509.CertificateSigningRequest, oid: str) -> der.Element | None:
    values = [value for attribute in attributes(csr) if attribute.oid == oid for value in attribute.values]
    if len(values) > 1:
        raise Malformed("csr-attribute-ambiguous", f"{oid} has {len(values)} values")
    return der.parse(values[0]) if values else None


# The rest of a request around names that are to be read: pyca reads names only inside something.
_NO_NAME = der.sequence()
_SOME_KEY = ed25519.Ed25519PublicKey.from_public_bytes(bytes(31) + b"\x01")
_SOME_ALGORITHM = der.sequence(der.oid(ED25519))


def _names_changed(subject: bytes | None, names: bytes | None) -> ChangeSubjectName:
    extension = der.sequence(der.oid(SUBJECT_ALTERNATIVE_NAME), der.octet_string(names)) if names else b""
    request = der.sequence(der.oid(EXTENSION_REQUEST), der.set_of(der.sequence(extension))) if names else b""
    key = der.sequence(_SOME_ALGORITHM, der.bit_string(_SOME_KEY.public_bytes_raw()))
    information = der.sequence(der.integer(0), subject or _NO_NAME, key, der.explicit(0, request))
    try:
        shell = x509.load_der_x509_csr(der.sequence(information, _SOME_ALGORITHM, der.bit_string(b"")))
        return ChangeSubjectName(
            shell.subject if subject else None,
            shell.extensions.get_extension_for_class(x509.SubjectAlternativeName).value if names else None,
        )
    except PYCA_ERRORS as error:
        raise Malformed("csr-change-subject-name-malformed", f"{type(error).__name__}: {error}") from error


# Judging


def check_csr(asked: CsrAttributes, csr: x509.CertificateSigningRequest) -> None:
    """Raise Refused (`csr-…`) unless the request follows what was asked (RFC 8995, 5.9.2; RFC 9908, 3)."""
    check_wishes(asked.wishes, csr)


def check_wishes(wishes: Wishes, csr: x509.CertificateSigningRequest) -> None:
    """The same, for who wants to be followed in some of the wishes only."""
    _check_key_wish(wishes, csr)
    _check_hash(wishes, csr)
    if wishes.subject is not None:
        _check_subject(wishes.subject, subject_of(csr))
    if wishes.extensions:
        _check_extensions(wishes.extensions, csr)
    if wishes.others:
        _check_others(wishes.others, csr)


def check_renewal(csr: x509.CertificateSigningRequest, certificate: x509.Certificate) -> None:
    """Raise Refused unless subject and subjectAltName are those of `certificate` (RFC 7030, 4.2.2).

    New names come in a ChangeSubjectName attribute beside the old ones, never instead of them.
    """
    if csr.subject != certificate.subject:
        raise Refused("csr-subject-changed", "the subject is not that of the certificate to be renewed")
    if _alternative_names(csr.extensions) != _alternative_names(certificate.extensions):
        raise Refused(
            "csr-alternative-names-changed", "the subjectAltName is not that of the certificate to be renewed"
        )


def _alternative_names(extensions: x509.Extensions) -> x509.SubjectAlternativeName | None:
    try:
        return extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def _check_key_wish(wishes: Wishes, csr: x509.CertificateSigningRequest) -> None:
    wish = wishes.key
    if wish is None:
        return
    have = key_wish(public_key(csr)) or KeyWish("unknown")
    asked = (wish.algorithm, wish.curve or have.curve, wish.bits or have.bits)
    if asked != (have.algorithm, have.curve, have.bits):
        raise Refused("csr-key-kind-mismatch", f"{wish.kind or wish.algorithm} was asked for, {have.kind} came")


def _check_hash(wishes: Wishes, csr: x509.CertificateSigningRequest) -> None:
    if wishes.hash is not None and (name := _hash(csr)) not in (None, wishes.hash):
        raise Refused("csr-hash-mismatch", f"{wishes.hash} was asked for, {name} came")


def _check_subject(wish: tuple[tuple[NameWish, ...], ...], subject: x509.Name) -> None:
    rdns = subject.rdns
    if len(rdns) != len(wish) or not all(map(_rdn_follows, wish, rdns)):
        raise Refused("csr-subject-mismatch", f"the subject {subject.rfc4514_string()} is not what was asked for")


def _rdn_follows(wish: tuple[NameWish, ...], rdn: x509.RelativeDistinguishedName) -> bool:
    have = {attribute.oid.dotted_string: attribute.value for attribute in rdn}
    return len(have) == len(wish) and all(
        have.get(name.oid) if name.value is None else have.get(name.oid) == name.value for name in wish
    )


def _check_extensions(wishes: Iterable[ExtensionWish], csr: x509.CertificateSigningRequest) -> None:
    found = {extension.oid: extension for extension in requested_extensions(csr)}
    for wish in wishes:
        _check_extension(wish, found.get(wish.oid))


def _check_extension(wish: ExtensionWish, have: ExtensionWish | None) -> None:
    if have is None:
        raise Refused("csr-extension-missing", f"{wish.oid} was asked for")
    if wish.critical and not have.critical:
        raise Refused("csr-extension-mismatch", f"{wish.oid} was asked for as critical")
    if wish.value is None:
        return
    names = wish.oid == SUBJECT_ALTERNATIVE_NAME
    if not (_names_follow(general_names(wish), general_names(have)) if names else wish.value == have.value):
        raise Refused("csr-extension-mismatch", f"{wish.oid} has another value than was asked for")


def _names_follow(wish: tuple[bytes, ...], have: tuple[bytes, ...]) -> bool:
    """Whether `have` is `wish` in any order, each hole filled with one name of its kind and nothing added."""
    rest = list(have)
    for name in wish:
        if not is_hole(name):
            if name not in rest:
                return False
            rest.remove(name)
    holes = sorted(name[0] for name in wish if is_hole(name))
    return holes == sorted(name[0] for name in rest) and not any(map(is_hole, rest))


def _check_others(others: Iterable[str], csr: x509.CertificateSigningRequest) -> None:
    subject = {attribute.oid.dotted_string for attribute in subject_of(csr)}
    for oid in others:
        # Other attributes may be unknown to the client, which then has to ignore them (RFC 7030, 4.5.2).
        if oid.startswith(SUBJECT_ATTRIBUTES) and oid not in subject:
            raise Refused("csr-subject-mismatch", f"the subject has no {oid}, which was asked for")
        if oid == CHALLENGE_PASSWORD and not challenge_password(csr):
            raise Refused("csr-challenge-password-missing", "a challengePassword was asked for")
