"""Voucher requests in, registrar voucher requests out, vouchers through: the decisions of RFC 8995, 5.2 to 5.6.

    raw ──parse──▶ pvr ──examine──▶ ──compose──▶ rvr ──MASA──▶ voucher ──accept──▶ relay

The laws of this file:

1. What is said about the device comes from its certificate; the pledge's request is a cross-check (RFC 8995, 5.5).
2. The pledge's request and the MASA's voucher travel on as the bytes that came.
3. What a registrar thinks of a voucher is for its own records (RFC 8995, 5.6): the pledge decides. But a voucher that
   is plainly for another device or another plant is not worth the pledge's time.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from brski_common import artifact, cms, cose
from brski_common.artifact import Format, Unverified, Verified
from brski_common.certificates import (
    Credential,
    idevid_issuer_forms,
    load_certificate,
    masa_url,
    spki,
    spki_sha256,
    to_der,
    without_duplicates,
)
from brski_common.errors import BrskiError, Malformed, PeerFailed, Refused, UnsupportedFormat, Untrusted
from brski_common.paths import Anchors
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from brski_registrar.identity import Pledge
from brski_registrar.policy import Manufacturer, PinHint

WELL_KNOWN: Final = "/.well-known/brski"
MAX_MASA_URL: Final = 1024  # characters
HTTPS_PORT: Final = 443
REMEMBERED_ADDRESSES: Final = 64  # of MASAs: a maker has one for all of its devices


@dataclass(frozen=True, slots=True)
class Own:
    """The registrar's certificates in every form in which others name them: the TLS server's, and the signer's chain.

    `shown` are the certificates that a MASA gets to see, by the operator's wish.
    """

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)
    key_sha256: bytes = field(repr=False)
    chain: frozenset[bytes] = field(repr=False)
    keys: frozenset[bytes] = field(repr=False)
    keys_sha256: frozenset[bytes] = field(repr=False)
    shown: Mapping[PinHint, tuple[x509.Certificate, ...]] = field(repr=False)

    @classmethod
    def of(cls, signer: Credential, tls_certificate: x509.Certificate) -> "Own":
        """The signer is always shown. So is the TLS server's certificate, if that is another: the MASA looks for the
        one that the pledge saw (RFC 8995, 5.5.5).
        """
        counts = {PinHint.EE: 1, PinHint.CA: 2, PinHint.ROOT: len(signer.chain)}
        return cls(
            to_der(tls_certificate),
            spki(tls_certificate),
            spki_sha256(tls_certificate),
            frozenset(map(to_der, signer.chain)),
            frozenset(map(spki, signer.chain)),
            frozenset(map(spki_sha256, signer.chain)),
            {hint: without_duplicates((*signer.chain[:count], tls_certificate)) for hint, count in counts.items()},
        )


def examine(pvr: Unverified[VoucherRequest], pledge: Pledge, own: Own) -> Verified[VoucherRequest]:
    """Judge a pledge's request (RFC 8995, 5.2 and 5.5); raises Untrusted.

    1. It claims proximity, and the registrar it saw is this one. If not, somebody sits between (RFC 8995, 5.2):
       this comes first, because everything else then fails too, for reasons that hide the true one.
    2. The key that authenticated the TLS client signed it.
    3. Its serial number is that of the certificate.
    4. It has a nonce.

    Leaves that mean nothing in a request, such as pinned-domain-cert, are not looked at (RFC 8995, 3.4).
    """
    _check_proximity(pvr.claimed, own)  # 1
    verified = pvr.verify_signed_by(pledge.certificate)  # 2
    if verified.value.serial_number != pledge.serial_number:  # 3
        raise Untrusted(
            "serial-number-mismatch", f"{verified.value.serial_number!a} asked for by {pledge.serial_number!a}"
        )
    if not verified.value.nonce:  # 4
        raise Untrusted("nonce-missing", "a pledge's request has a nonce (RFC 8995, 5.2)")
    return verified


def _check_proximity(claimed: VoucherRequest, own: Own) -> None:
    if claimed.assertion is not Assertion.PROXIMITY:
        raise Untrusted("proximity-missing", f"the assertion is {claimed.assertion}")
    # draft-ietf-anima-rfc8366bis, 9: of several attributes the first of these counts.
    if claimed.proximity_registrar_pubk_sha256 is not None:
        seen = claimed.proximity_registrar_pubk_sha256 == own.key_sha256
    elif claimed.proximity_registrar_pubk is not None:
        seen = claimed.proximity_registrar_pubk == own.key
    elif claimed.proximity_registrar_cert is not None:
        seen = claimed.proximity_registrar_cert == own.certificate
    else:
        raise Untrusted("proximity-missing", "the request does not say which registrar the pledge saw")
    if not seen:
        raise Untrusted("proximity-mismatch", "the pledge saw another registrar's certificate")


def compose(pledge: Pledge, pvr: Verified[VoucherRequest], now: datetime) -> VoucherRequest:
    """The registrar's own request (RFC 8995, 5.5): the pledge's nonce and assertion, everything else from TLS."""
    return VoucherRequest(
        created_on=now,
        nonce=pvr.value.nonce,
        assertion=pvr.value.assertion,
        serial_number=pledge.serial_number,
        idevid_issuer=pledge.issuer,
        prior_signed_voucher_request=pvr.raw,
    )


def compose_nonceless(
    serial_number: str, issuer: bytes | None, now: datetime, *, renewed: bytes | None = None
) -> VoucherRequest:
    """A request for a voucher that waits for its device, known from its papers only (RFC 8995, 5.5 and 7.3).

    `renewed` is the voucher that is to be replaced, as it came (draft-ietf-anima-rfc8366bis, 10.1).
    """
    return VoucherRequest(
        created_on=now, serial_number=serial_number, idevid_issuer=issuer, prior_signed_voucher_request=renewed
    )


def sign(
    rvr: VoucherRequest,
    artifact_format: Format,
    credential: Credential,
    manufacturer: Manufacturer,
    shown: Sequence[x509.Certificate],
) -> bytes:
    """Sign the registrar's request; `shown` are the certificates that go along (`certificates_shown`)."""
    content_type = cms.ID_DATA if manufacturer.plain_cms else cms.ID_CT_ANIMA_JSON_VOUCHER
    return artifact.sign(rvr, artifact_format, credential, certificates=shown, content_type=content_type)


def certificates_shown(
    own: Own, hint: PinHint, pledges: Sequence[x509.Certificate] = ()
) -> tuple[x509.Certificate, ...]:
    """Which certificates a MASA sees, and so may pin (RFC 8995, 5.5).

    A constrained pledge sends none of its own along, so that the registrar does: `pledges`
    (draft-ietf-anima-constrained-voucher, 7.2).
    """
    return without_duplicates((*own.shown[hint], *pledges)) if pledges else own.shown[hint]


def masa_address(certificate: x509.Certificate | None, manufacturer: Manufacturer) -> str:
    """The URL under which this maker's MASA has its operations, without a slash at its end (RFC 8995, 2.3.2).

    The operator's override wins. A URL from a certificate must be allowed by the maker's record: no certificate steers
    the registrar to an address nobody approved. Raises Refused `masa-url-missing`, `masa-url-not-allowed`;
    Malformed `masa-url-malformed`; Untrusted `masa-url-not-https`.
    """
    if manufacturer.masa_url:
        return _base(manufacturer.masa_url)
    text = masa_url(certificate) if certificate is not None else None
    if not text:
        named = "the IDevID names no MASA" if certificate is not None else "no IDevID is known; --idevid FILE shows it"
        advice = f"`policy allow --masa-url URL` says it for all devices of {manufacturer.name}"
        raise Refused("masa-url-missing", f"{named}; {advice}")
    return _allowed_base(text, manufacturer.masa_hosts)


@lru_cache(maxsize=REMEMBERED_ADDRESSES)
def _allowed_base(text: str, rules: tuple[str, ...]) -> str:
    base = _base(text)
    authority = urlsplit(base)
    host, port = authority.hostname or "", authority.port or HTTPS_PORT
    if not any(_allows(rule, host, port) for rule in rules):
        raise Refused("masa-url-not-allowed", f"{host}:{port} is none of {', '.join(rules) or '-'}")
    return base


@lru_cache(maxsize=REMEMBERED_ADDRESSES)
def _base(text: str) -> str:
    if len(text) > MAX_MASA_URL or not re.fullmatch(r"[!-~]+", text):
        raise Malformed("masa-url-malformed", ascii(text[:100]))
    # RFC 8995, 2.3.2: without a "/" it is the authority alone.
    url = text if "/" in text else f"https://{text}{WELL_KNOWN}"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise Malformed("masa-url-malformed", f"{text[:100]!a}: {error}") from error
    if parts.scheme.lower() != "https":
        raise Untrusted("masa-url-not-https", ascii(text[:100]))
    if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment or "\\" in text:
        raise Malformed("masa-url-malformed", ascii(text[:100]))
    # A URI without a path names the authority as well.
    return f"https://{parts.netloc}{parts.path.rstrip('/') or WELL_KNOWN}"


def _allows(rule: str, host: str, port: int) -> bool:
    """`host`, `host:port`, `host:*`; `*.` in front stands for one or more labels."""
    named, _, wanted = rule.rpartition(":") if re.search(r":(\d+|\*)$", rule) else (rule, "", str(HTTPS_PORT))
    if wanted not in {"*", str(port)}:
        return False
    named, host = named.strip("[]").lower().rstrip("."), host.lower().rstrip(".")
    return host.endswith(named[1:]) if named.startswith("*.") else host == named


def accept(
    raw: bytes,
    artifact_format: Format,
    rvr: VoucherRequest,
    manufacturer: Manufacturer,
    voucher_anchors: Anchors,
    own: Own,
    now: datetime,
) -> Voucher | None:
    """What the MASA's answer says, None where it cannot be read and may be opaque; raises PeerFailed.

    1. It is a voucher in the format that was asked for.
    2. If this maker's voucher anchors are known, it is signed under them.
    3. It is for the device that was asked for, and carries the nonce, character by character.
    4. It pins a certificate of this plant.
    """
    try:
        voucher = artifact.parse_voucher(raw, artifact_format)  # 1
    except BrskiError as error:
        if manufacturer.unsafe_opaque_vouchers:
            return None
        raise PeerFailed("voucher-unreadable", str(error)) from error
    if voucher_anchors:  # 2
        try:
            voucher.verify(voucher_anchors, now)
        except Untrusted as error:
            raise PeerFailed("voucher-untrusted", str(error)) from error
    _check_device(voucher.claimed, rvr)  # 3
    _check_pin(voucher.claimed, own)  # 4
    return voucher.claimed


def _check_device(voucher: Voucher, rvr: VoucherRequest) -> None:
    if voucher.serial_number != rvr.serial_number:
        raise PeerFailed("voucher-serial-number-mismatch", ascii(voucher.serial_number))
    if voucher.nonce != rvr.nonce:
        raise PeerFailed("voucher-nonce-mismatch", "the voucher has another nonce than was asked for, or none")
    if voucher.idevid_issuer is not None and rvr.idevid_issuer not in (None, voucher.idevid_issuer):
        raise PeerFailed("voucher-issuer-mismatch", voucher.idevid_issuer.hex())


def _check_pin(voucher: Voucher, own: Own) -> None:
    if voucher.pinned_domain_cert is not None:
        ours = voucher.pinned_domain_cert in own.chain or _key_in(voucher.pinned_domain_cert) in own.keys
    elif voucher.pinned_domain_pubk is not None:
        ours = voucher.pinned_domain_pubk in own.keys
    elif voucher.pinned_domain_pubk_sha256 is not None:
        ours = voucher.pinned_domain_pubk_sha256 in own.keys_sha256
    else:
        raise PeerFailed("voucher-pins-nothing", "the pledge could not trust anybody by it")
    if not ours:
        raise PeerFailed("voucher-pins-foreign-domain", "the pinned certificate is none of this plant's chain")


def _key_in(pinned: bytes) -> bytes:
    """The key in a pinned certificate, which may be another one for a key of ours."""
    try:
        return spki(load_certificate(pinned))
    except Malformed as error:
        raise PeerFailed("voucher-pin-unreadable", error.detail) from error


def check_prefetched(voucher: Voucher, pledge: Pledge) -> None:
    """Whether a voucher that waited in the store is for this pledge; raises Refused."""
    issuer = voucher.idevid_issuer
    if voucher.serial_number != pledge.serial_number or voucher.nonce is not None:
        raise Refused("prefetched-voucher-unusable", "not a nonceless voucher for this serial number")
    if issuer is not None and issuer not in idevid_issuer_forms(pledge.certificate):
        raise Refused("prefetched-voucher-unusable", "for a device with that serial number of another line")


def relay(raw: bytes, artifact_format: Format) -> bytes:
    """The MASA's bytes as they go to the pledge: unchanged (RFC 8995, 5.6), except that certificates outside the
    signature of a COSE voucher stay here (draft-ietf-anima-constrained-voucher, 7.2).
    """
    if artifact_format is not Format.COSE:
        return raw
    try:
        return cose.strip_unprotected_certificates(raw)
    except (Malformed, UnsupportedFormat):
        return raw
