"""Whether a certificate of the registrar's path was revoked, as the voucher wants it known.

RFC 8366, 5.3, domain-cert-revocation-checks: true means that the pledge MUST check, false that it MUST NOT, absent
the usual PKIX behaviour. Checked are CRLs (RFC 5280, 6.3) from the http URLs in the certificates:

- required: every certificate of the path below the pinned one needs a list that is valid and does not name it;
- usual: what lists could be fetched are heeded, a missing one is no obstacle (a pledge often reaches only its proxy);
- forbidden: nothing is fetched.

A list helps only if the next certificate of the path signed it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from brski_common.certificates import PYCA_ERRORS, common_name
from brski_common.errors import Untrusted
from brski_pledge.vouchering import Imprint, Revocation

MAX_LIST_BYTES = 512 * 1024
MAX_LISTS = 4
MAX_URL_CHARACTERS = 1024


def lists_wanted(imprint: Imprint) -> tuple[str, ...]:
    """The URLs to fetch before the imprint counts; raises Untrusted if a required check cannot be made at all."""
    if imprint.revocation is Revocation.FORBIDDEN:
        return ()
    below = imprint.path[:-1]
    if imprint.revocation is Revocation.REQUIRED and not (below and all(map(_urls, below))):
        raise Untrusted("revocation-not-checkable", "the voucher demands a check, the certificates name no list")
    return tuple(dict.fromkeys(url for each in below for url in _urls(each)))[:MAX_LISTS]


def check_revocation(imprint: Imprint, lists: Mapping[str, bytes], now: datetime | None) -> None:
    """Judge the path by the fetched lists; raises Untrusted."""
    required = imprint.revocation is Revocation.REQUIRED
    for certificate, issuer in pairwise(imprint.path):
        fetched = [lists[url] for url in _urls(certificate) if url in lists]
        valid = [each for data in fetched if (each := _read(data, issuer, now)) is not None]
        for each in valid:
            if each.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                raise Untrusted("certificate-revoked", common_name(certificate))
        if required and not valid:
            raise Untrusted("revocation-not-checked", f"no valid list for {common_name(certificate)}")


def _urls(certificate: x509.Certificate) -> Sequence[str]:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return ()
    names = [name.value for point in points for name in point.full_name or () if not point.reasons]
    texts = [name for name in names if isinstance(name, str)]
    return [text for text in texts if text.lower().startswith("http://") and len(text) <= MAX_URL_CHARACTERS]


def _read(data: bytes, issuer: x509.Certificate, now: datetime | None) -> x509.CertificateRevocationList | None:
    """The list, if its issuer made it and it is current; None if it says nothing."""
    try:
        revoked = _load(data)
        key = issuer.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey)
        if revoked.issuer != issuer.subject or not revoked.is_signature_valid(key):
            return None
        if any(extension.critical for extension in revoked.extensions):
            return None  # indirect or partial: it may leave out what we ask for
        begin, end = revoked.last_update_utc, revoked.next_update_utc
    except (*PYCA_ERRORS, AssertionError):
        return None
    if now is not None and (begin > now or (end is not None and end < now)):
        return None
    return revoked


def _load(data: bytes) -> x509.CertificateRevocationList:
    if data.lstrip().startswith(b"-----BEGIN"):
        return x509.load_pem_x509_crl(data)
    return x509.load_der_x509_crl(data)
