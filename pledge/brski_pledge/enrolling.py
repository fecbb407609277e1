"""Enrollment, seen from the device: anchors, certificate request, and whether what came is ours.

RFC 8995, 5.9 and RFC 7030, 4. The server is known by now, but its answers are still judged:

 1. CA certificates: what is self-signed becomes the explicit anchors, the rest may help a path (RFC 7030, 4.1.3)
 2. the request asks for what the CSR attributes say, and for a key made on this device (RFC 9908)
 3. the issued certificate is for that key, is no CA, and has a path to the anchors; with a trusted clock it is valid
 4. a later EST server is authorised by id-kp-cmcRA or by its name (RFC 7030, 3.6.1)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from brski_common import csrattrs, csrplan, est
from brski_common.certificates import (
    ID_KP_CMC_RA,
    Credential,
    Peer,
    PrivateKey,
    extended_key_usages,
    is_ca,
    is_self_issued,
)
from brski_common.csrwishes import ExtensionWish, KeyWish
from brski_common.errors import BrskiError, PeerFailed, Refused, Untrusted
from brski_common.paths import Anchors, build_path, verify_host
from brski_pledge.state import Enrollment
from brski_pledge.vouchering import Imprint

MAX_CA_CERTIFICATES = 32
EXPONENT = 65537

_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_RSA_BITS = {"RSA": 2048, "RSA-2048": 2048, "RSA-3072": 3072, "RSA-4096": 4096}


@dataclass(frozen=True, slots=True)
class Domain:
    """Whom the device trusts in its domain: explicit anchors, and other CA certificates that help a path."""

    anchors: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()


def read_ca_certificates(body: bytes) -> Domain:
    """Read a cacerts answer; raises BrskiError if it holds no anchor. Roll-over certificates are kept as they are."""
    certificates = est.parse_certs_only(est.decode_body(body))
    if len(certificates) > MAX_CA_CERTIFICATES:
        raise PeerFailed("cacerts-too-many", f"{len(certificates)}, at most {MAX_CA_CERTIFICATES}")
    authorities = [each for each in certificates if is_ca(each)]
    roots = tuple(each for each in authorities if is_self_issued(each) and _signed_itself(each))
    if not roots:
        raise PeerFailed("cacerts-without-root", "no self-signed CA certificate among the CA certificates")
    return Domain(roots, tuple(each for each in authorities if each not in roots))


def plan_request(attributes: bytes | None, idevid: x509.Certificate) -> csrplan.Plan:
    """What the request is to hold; `attributes` is the csrattrs body, None if there is none. Raises Malformed."""
    return csrplan.fill(_asked(attributes), idevid.subject)


def plan_renewal(attributes: bytes | None, current: x509.Certificate) -> csrplan.Plan:
    """A request that keeps the names of the current certificate (RFC 7030, 4.2.2). Raises Malformed."""
    plan = csrplan.fill(_asked(attributes), current.subject)
    others = tuple(wish for wish in plan.extensions if wish.oid != ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string)
    return replace(plan, subject=current.subject, extensions=(*_own_names(current), *others))


def key_kind(wish: KeyWish | None, preferred: str) -> str:
    """The kind of key to make: what the server asks for, else our own preference; raises Refused."""
    kind = preferred if wish is None else wish.kind
    if wish is not None and kind is None:  # an elliptic curve of our choice
        kind = preferred if preferred in _CURVES else "P-256"
    if kind not in {*_CURVES, *_RSA_BITS, "Ed25519"}:
        raise Refused("key-kind-unsupported", f"the registrar asks for {kind}")
    return str(kind)


def make_key(kind: str) -> PrivateKey:
    """A fresh key pair on this device; `kind` as from `key_kind`."""
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind in _RSA_BITS:
        return rsa.generate_private_key(public_exponent=EXPONENT, key_size=_RSA_BITS[kind])
    return ec.generate_private_key(_CURVES[kind])


def compose_request(plan: csrplan.Plan, key: PrivateKey, challenge: str | None) -> bytes:
    """The simpleenroll body. `challenge` binds it to the TLS connection, where that was asked for (RFC 7030, 3.5)."""
    request = csrplan.compose(plan, key, challenge=challenge if plan.challenge_password else None)
    return est.encode_body(request.public_bytes(Encoding.DER))


def check_issued(body: bytes, key: PrivateKey, domain: Domain, now: datetime | None) -> Credential:
    """The LDevID in a simpleenroll answer, with its chain up to but without the anchor; raises BrskiError."""
    certificates = est.parse_certs_only(est.decode_body(body))
    issued = est.find_certificate(certificates, key.public_key())
    if is_ca(issued):
        raise Untrusted("certificate-not-wanted", "a CA certificate was issued to a device")
    path = build_path(issued, [*certificates, *domain.intermediates], Anchors(domain.anchors), now)
    return Credential(key, path[:-1] if len(path) > 1 else path)


def new_enrollment(
    imprint: Imprint | None,
    registrar: x509.Certificate,
    credential: Credential,
    domain: Domain,
    *,
    where: tuple[str, int],
    now: datetime | None,
) -> Enrollment:
    """What is worth keeping of an onboarding. Without an imprint somebody at the device vouched for the registrar."""
    return Enrollment(
        credential=credential,
        anchors=domain.anchors,
        voucher=b"" if imprint is None else imprint.voucher.raw,
        pinned=registrar if imprint is None else imprint.pinned,
        registrar=registrar,
        host=where[0],
        port=where[1],
        enrolled_on=now,
    )


def judge_est_server(peer: Peer, host: str, anchors: Sequence[x509.Certificate], now: datetime | None) -> None:
    """Whether this is an EST server of our domain, on a connection that is not provisional; raises Untrusted."""
    build_path(peer.certificate, peer.chain[1:], Anchors(anchors), now)
    if ID_KP_CMC_RA not in extended_key_usages(peer.certificate):
        verify_host(peer.certificate, host)


def _asked(attributes: bytes | None) -> csrattrs.CsrAttributes:
    if attributes is None or not attributes.strip():
        return csrattrs.CsrAttributes()
    return csrattrs.read(est.decode_body(attributes))


def _own_names(certificate: x509.Certificate) -> Iterable[ExtensionWish]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return
    yield ExtensionWish(extension.oid.dotted_string, extension.value.public_bytes(), extension.critical)


def _signed_itself(certificate: x509.Certificate) -> bool:
    try:
        build_path(certificate, (), Anchors([certificate]), None)
    except BrskiError:
        return False
    return True
