"""The pledge's judgement: what it asks for, which voucher it believes, and whom that voucher means.

`compose` makes the pledge voucher request (RFC 8995, 5.2). `check_voucher` and `judge_registrar`
are all checks between an unknown registrar and an owner, in this order:

RFC 8995, 5.6.1, and RFC 8366, 5.3 (the voucher)
  1. it is a voucher, in a format that was asked for, not a voucher request
  2. it is signed under a built-in anchor of the maker's MASA, and under nothing else
  3. its signer may sign vouchers; another device's IDevID may not
  4. serial-number is ours
  5. idevid-issuer, if there, is ours
  6. nonce, if there, is the one we sent; if not, the maker's policy decides
  7. with a trusted clock: created-on has passed, expires-on has not (the signing time is judged with the signature)
  8. assertion is one the local policy takes
  9. something is pinned that can be read

RFC 8995, 5.6.2 (the registrar, as its TLS connection showed it)
 10. the chain it showed leads to the pinned key, or its own key is the pinned one
 11. if a CA is pinned, the registrar's certificate has id-kp-cmcRA: no LDevID plays the registrar
 12. domain-cert-revocation-checks: done in `revocation`, where lists have been fetched

Everything raises; nothing here returns a verdict as a bool. Unknown fields were dropped in reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cached_property
from itertools import pairwise

from cryptography import x509
from cryptography.x509.oid import ObjectIdentifier

from brski_common import artifact, cms
from brski_common.artifact import Format, Unverified, Verified
from brski_common.certificates import (
    ID_KP_CMC_RA,
    Credential,
    Peer,
    common_name,
    extended_key_usages,
    idevid_issuer_forms,
    load_certificate,
    masa_url,
    serial_number,
    spki,
    spki_sha256,
    to_der,
)
from brski_common.errors import BrskiError, Malformed, Misconfigured, Refused, UnsupportedFormat, Untrusted
from brski_common.paths import Anchors, build_path, check_link, check_path
from brski_common.voucher import Assertion, Voucher, VoucherRequest

ACCEPTED = (Format.CMS,)  # the envelopes this pledge reads, preferred first
# Why a path search fails that meets none of the anchors' keys.
_LEADS_NOWHERE = frozenset(("path-not-found", "certificate-signature-invalid", "cms-signer-certificate-missing"))
CLOCK_SKEW = timedelta(minutes=5)  # how far a MASA's clock may be ahead of ours


class Revocation(Enum):
    """What the voucher asks for (RFC 8366, 5.3, domain-cert-revocation-checks)."""

    REQUIRED = "required"  # true: MUST check
    FORBIDDEN = "forbidden"  # false: MUST NOT check
    USUAL = "usual"  # absent: as PKIX has it, where revocation information is to be had


@dataclass(frozen=True, slots=True, kw_only=True)
class VoucherPolicy:
    """What the maker and the device decide about vouchers (RFC 8995, 5.6.1: local policy)."""

    assertions: frozenset[Assertion] = frozenset((Assertion.VERIFIED, Assertion.LOGGED, Assertion.PROXIMITY))
    nonceless: bool = True
    signer_oid: ObjectIdentifier | None = None


@dataclass(frozen=True)
class Device:
    """Who we are and whom our maker told us to believe."""

    idevid: Credential
    anchors: Anchors
    policy: VoucherPolicy

    @cached_property
    def serial_number(self) -> str:
        """The product serial number in the IDevID (RFC 8995, 2.3.1); raises Untrusted."""
        return serial_number(self.idevid.certificate)


@dataclass(frozen=True, slots=True)
class Imprint:
    """An owner: a voucher that held, and the registrar it means. `path` ends at what is pinned, or at the registrar."""

    voucher: Verified[Voucher]
    registrar: x509.Certificate
    path: tuple[x509.Certificate, ...]
    pinned: x509.Certificate
    revocation: Revocation


def check_device(device: Device) -> None:
    """Refuse what could never be safe, before any packet leaves; raises Misconfigured, Untrusted."""
    _ = device.serial_number
    if not device.anchors:
        raise Misconfigured("voucher-anchors-missing", "the maker's voucher anchors have to be built in")
    if device.policy.signer_oid is None and _shares_anchor(device):
        # Else any device of this maker could sign vouchers for all others (D-14).
        raise Misconfigured(
            "voucher-anchor-shared",
            "IDevIDs are issued under the voucher anchor: name voucher_signer_oid, a policy that only signers have",
        )


def compose(
    device: Device, peer: Peer, nonce: str, now: datetime | None, *, content_type: str = cms.ID_CT_ANIMA_JSON_VOUCHER
) -> bytes:
    """The signed pledge voucher request for the registrar at the other end of the provisional connection (5.2).

    `nonce` is new for every attempt. `now=None`: no clock, hence no created-on.
    """
    request = VoucherRequest(
        assertion=Assertion.PROXIMITY,
        created_on=now,
        serial_number=device.serial_number,
        nonce=nonce,
        proximity_registrar_cert=to_der(peer.certificate),
    )
    return artifact.sign(request, Format.CMS, device.idevid, content_type=content_type)


def check_voucher(
    device: Device, body: bytes, media_type: str, nonce: str | None, now: datetime | None
) -> Verified[Voucher]:
    """Checks 1 to 8, for the voucher that answers the request with `nonce`; raises BrskiError."""
    # 1.
    received = artifact.parse_voucher(body, _accepted_format(media_type))
    # 2. Certificates in the CMS are candidates for the path, never anchors.
    verified = _verified(received, device.anchors, now)
    # 3.
    check_signer(verified.signer, device)
    voucher = verified.value
    # 4. The subject's serialNumber, not the certificate's own number.
    if voucher.serial_number != device.serial_number:
        raise Untrusted("serial-number-mismatch", f"the voucher is for {voucher.serial_number[:64]!r}")
    # 5. "If the serial-number is not unique … the pledge MUST NOT process it" (RFC 8366, 5.3).
    issuer = voucher.idevid_issuer
    if issuer is not None and issuer not in idevid_issuer_forms(device.idevid.certificate):
        raise Untrusted("idevid-issuer-mismatch", "the voucher is for a device of another issuer")
    # 6.
    _check_nonce(voucher.nonce, nonce, device.policy)
    # 7. last-renewal-date is for the MASA; pledges ignore it.
    if now is not None:
        _check_times(voucher, now)
    # 8.
    if voucher.assertion is None or voucher.assertion not in device.policy.assertions:
        raise Refused("assertion-not-accepted", str(voucher.assertion))
    return verified


def judge_registrar(voucher: Verified[Voucher], peer: Peer, now: datetime | None) -> Imprint:
    """Checks 9 to 11: whether the pinned key vouches for the registrar at the other end; raises BrskiError."""
    value = voucher.value
    # 9. and 10.
    path, pinned = _path_to_pin(value, peer, now)
    # 11. With a pinned end entity the voucher itself names the registrar (RFC 8995, 5.6.2).
    by_own_key = spki(pinned) == spki(peer.certificate)
    if not by_own_key and ID_KP_CMC_RA not in extended_key_usages(peer.certificate):
        raise Untrusted("registrar-not-authorised", f"{common_name(peer.certificate)} has no id-kp-cmcRA")
    asked = value.domain_cert_revocation_checks
    revocation = Revocation.USUAL if asked is None else Revocation.REQUIRED if asked else Revocation.FORBIDDEN
    return Imprint(voucher, peer.certificate, path, pinned, revocation)


def checks_made(imprint: Imprint, now: datetime | None) -> tuple[str, ...]:
    """What was checked on the way to an imprint, in words for a log; none has a comma, they are listed with commas."""
    voucher = imprint.voucher.value
    return (
        "signature under the built-in anchor",
        "signer may sign vouchers",
        "serial-number",
        *(() if voucher.idevid_issuer is None else ("idevid-issuer",)),
        "no nonce (policy allows that)" if voucher.nonce is None else "nonce",
        "no dates (no trusted clock)" if now is None else "dates",
        "assertion",
        "registrar's chain to the pinned key",
        *(() if len(imprint.path) == 1 else ("registrar has id-kp-cmcRA",)),
    )


def check_signer(signer: x509.Certificate, device: Device) -> None:
    """Check 3: a certificate under the anchor is not enough (D-14); raises Untrusted."""
    if _is_device(signer):
        raise Untrusted("voucher-signer-not-authorised", "an IDevID signed the voucher")
    oid = device.policy.signer_oid
    if oid is not None and oid not in extended_key_usages(signer) and oid not in _policies(signer):
        raise Untrusted("voucher-signer-not-authorised", f"the signer has not {oid.dotted_string}")


def _verified(received: Unverified[Voucher], anchors: Anchors, now: datetime | None) -> Verified[Voucher]:
    """Check 2. That nothing leads to our anchors is told in the words of who may have given us the wrong ones."""
    try:
        return received.verify(anchors, now)
    except Untrusted as error:
        if error.reason not in _LEADS_NOWHERE:
            raise
        names = ", ".join(common_name(anchor) for anchor in anchors.certificates)
        explanation = f"the voucher is not signed under this device's voucher_anchors ({names})"
        raise Untrusted("voucher-signer-unknown", explanation) from error


def _accepted_format(media_type: str) -> Format:
    found = Format.of_media_type(media_type)
    if found not in ACCEPTED:
        raise UnsupportedFormat("media-type-not-asked-for", media_type)
    return found


def _check_nonce(received: str | None, sent: str | None, policy: VoucherPolicy) -> None:
    if received is not None:
        if received != sent:
            raise Untrusted("nonce-mismatch", "the voucher answers another request")
    elif not policy.nonceless:
        # RFC 8995, 7.2 has pledges accept these; a maker may decide otherwise (5.6.1, D-3).
        raise Refused("nonceless-voucher", "this device takes none")


def _check_times(voucher: Voucher, now: datetime) -> None:
    if voucher.expires_on is not None and now > voucher.expires_on:
        raise Untrusted("voucher-expired", voucher.expires_on.isoformat())
    if voucher.created_on is not None and voucher.created_on > now + CLOCK_SKEW:
        raise Untrusted("voucher-from-the-future", voucher.created_on.isoformat())


def _path_to_pin(
    voucher: Voucher, peer: Peer, now: datetime | None
) -> tuple[tuple[x509.Certificate, ...], x509.Certificate]:
    """The path from the registrar's certificate to the pinned key, and the certificate that holds it.

    Of several pins the kind of our own request counts, the certificate. A voucher without nonce answers no request: of
    its pins the first of pubk-sha256, pubk, cert counts (draft-ietf-anima-rfc8366bis, 8).
    """
    certificate, key, digest = voucher.pinned_domain_cert, voucher.pinned_domain_pubk, voucher.pinned_domain_pubk_sha256
    is_alone = key is None and digest is None
    if certificate is not None and (is_alone or voucher.nonce is not None):
        return _path_to_certificate(_pinned_certificate(certificate), peer, now)
    if digest is not None:
        return _path_to_key(digest, [spki_sha256(each) for each in peer.chain], peer, now)
    if key is not None:
        return _path_to_key(key, [spki(each) for each in peer.chain], peer, now)
    raise Untrusted("pinned-domain-cert-missing", "the voucher names no owner")


def _pinned_certificate(data: bytes) -> x509.Certificate:
    try:
        return load_certificate(data)
    except Malformed as error:
        raise Untrusted("pinned-domain-cert-malformed", error.detail) from error


def _path_to_certificate(
    pinned: x509.Certificate, peer: Peer, now: datetime | None
) -> tuple[tuple[x509.Certificate, ...], x509.Certificate]:
    # "consider the public key from the pinned-domain-cert as the sole temporary trust anchor" (5.6.2):
    # the key counts, so another certificate of the same CA key will do as well.
    pinned_key = spki(pinned)
    same_key = [each for each in peer.chain[1:] if spki(each) == pinned_key]
    try:
        anchors = Anchors([pinned, *same_key])
        path = build_path(peer.certificate, peer.chain[1:], anchors, now, leaf_may_be_anchor=True)
    except BrskiError as error:
        if error.reason in {"certificate-expired", "certificate-not-yet-valid"}:
            raise
        raise Untrusted("registrar-not-pinned", f"{error}") from error
    return path, pinned


def _path_to_key(
    wanted: bytes, keys: Sequence[bytes], peer: Peer, now: datetime | None
) -> tuple[tuple[x509.Certificate, ...], x509.Certificate]:
    """Without a certificate the chain itself has to hold the pinned key."""
    if wanted not in keys:
        raise Untrusted("registrar-not-pinned", "no key of the registrar's chain is the pinned one")
    path = peer.chain[: keys.index(wanted) + 1]
    for below, above in pairwise(path):
        check_link(below, above)
    check_path(path, now)
    return path, path[-1]


def _shares_anchor(device: Device) -> bool:
    """Whether our own IDevID has a path to the voucher anchors: then other devices' have one too."""
    mine = {spki(each) for each in device.idevid.chain}
    if any(spki(anchor) in mine for anchor in device.anchors.certificates):
        return True
    try:
        build_path(device.idevid.certificate, device.idevid.chain[1:], device.anchors, None)
    except BrskiError:
        return False
    return True


def _is_device(certificate: x509.Certificate) -> bool:
    """Whether this is an IDevID: it says where its MASA is. No voucher signer has a MASA of its own."""
    try:
        return masa_url(certificate) is not None
    except Malformed:
        return True


def _policies(certificate: x509.Certificate) -> frozenset[ObjectIdentifier]:
    try:
        value = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(policy.policy_identifier for policy in value)
