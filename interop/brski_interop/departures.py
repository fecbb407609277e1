"""What departs from the standards without being invalid: one line each, opening with the requirement's id.

The ids are those of docs/conformance.md. Nothing here decides trust; a plant that is strict may
refuse what is listed, the suite's own services refuse what must be refused.
"""

import base64
import binascii
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from cryptography import x509

from brski_common import certificates, cms
from brski_common.artifact import CLOCK_SKEW, Unverified
from brski_common.auditlog import AuditLog
from brski_common.certificates import ID_KP_CLIENT_AUTH, ID_KP_CMC_RA, ID_KP_SERVER_AUTH, ID_PE_MASA_URL
from brski_common.encoding import encode_time
from brski_common.errors import BrskiError, Misconfigured, UnsupportedFormat, Untrusted
from brski_common.issuing import NO_EXPIRY
from brski_common.published_keys import refuse_published_key
from brski_common.signatures import usable_key
from brski_common.voucher import Voucher, VoucherData, VoucherRequest

SMALL_CERTIFICATE = 1024  # bytes, IEEE 802.1AR-2018, 8
NONCE_BYTES = range(8, 33)  # RFC 8366, 5.3


def of_certificate(certificate: x509.Certificate) -> Iterator[str]:
    """Departures of one certificate: as an IDevID where it is one, as a registrar's where it is one."""
    usages = certificates.extended_key_usages(certificate)
    if ID_KP_CMC_RA in usages:
        yield from _of_registrar(certificate)
    elif _looks_like_idevid(certificate):
        yield from _of_idevid(certificate)
    yield from _of_key(certificate)


def of_envelope(parsed: Unverified[VoucherData]) -> Iterator[str]:
    """Departures of the signature's envelope."""
    envelope = parsed.envelope
    if isinstance(envelope, cms.SignedData):
        if envelope.content_type == cms.ID_DATA:
            yield "V-CMS-02 eContentType is id-data, RFC 8366 asks for id-ct-animaJSONVoucher"
        if not envelope.is_der:
            yield "VA-05 the CMS is BER, RFC 8366 asks for DER"
    if not parsed.certificates:
        yield "V-CMS-01 no certificate came along"
    for certificate in parsed.certificates:
        yield from _of_key(certificate)


def of_voucher(claimed: VoucherData, prior: VoucherData | None) -> Iterator[str]:
    """Departures of the voucher data itself; `prior` is the request inside a request."""
    yield from _of_nonce(claimed)
    if isinstance(claimed, Voucher):
        yield from _of_voucher(claimed)
    elif isinstance(claimed, VoucherRequest) and claimed.prior_signed_voucher_request is not None:
        yield from _of_rvr(claimed, prior)
    elif isinstance(claimed, VoucherRequest):
        yield from _of_pvr(claimed)


def of_dates(claimed: VoucherData, now: datetime) -> Iterator[str]:
    """What a device with a trusted clock would refuse a voucher for at `now`; a request has no such dates."""
    if not isinstance(claimed, Voucher):
        return
    if claimed.expires_on is not None and now > claimed.expires_on:
        yield f"PV-06 the voucher expired: expires-on is {encode_time(claimed.expires_on)}"
    if claimed.created_on is not None and claimed.created_on > now + CLOCK_SKEW:
        yield f"ST-06 the voucher is from the future: created-on is {encode_time(claimed.created_on)}"


def of_auditlog(log: AuditLog) -> Iterator[str]:
    """Departures of an audit log."""
    if log.from_the_future:
        yield f"AL-16 version {log.version} is newer than 1"
    for member in log.unknown:
        yield f"AL-16 unknown member {member}"


def _of_voucher(voucher: Voucher) -> Iterator[str]:
    mandatory = {"created-on": voucher.created_on, "assertion": voucher.assertion}
    for leaf, value in mandatory.items():
        if value is None:
            yield f"VA-01 {leaf} is missing"
    if not (voucher.pinned_domain_cert or voucher.pinned_domain_pubk or voucher.pinned_domain_pubk_sha256):
        yield "VA-01 nothing is pinned"
    if voucher.last_renewal_date is not None and voucher.expires_on is None:
        yield "VA-02 last-renewal-date without expires-on"
    if voucher.nonce is None and voucher.expires_on is None:
        yield "MA-18 neither nonce nor expires-on: the voucher never ends"
    yield from _of_pin(voucher)


def _of_pin(voucher: Voucher) -> Iterator[str]:
    if voucher.pinned_domain_cert is None:
        return
    try:
        pinned = certificates.load_certificate(voucher.pinned_domain_cert)
    except BrskiError as error:
        yield f"VA-01 pinned-domain-cert is no certificate ({error.reason})"
        return
    if voucher.expires_on is not None and voucher.expires_on > pinned.not_valid_after_utc:
        yield "VA-04 expires-on is later than the pinned certificate's notAfter"


def _of_pvr(request: VoucherRequest) -> Iterator[str]:
    if request.assertion is None:
        yield "VR-05 assertion is missing"
    if request.proximity_registrar_cert is None and request.agent_signed_data is None:
        yield "VR-05 proximity-registrar-cert is missing"
    if request.nonce is None:
        yield "VR-04 nonce is missing"
    yield from _of_ignored(request)


def _of_rvr(request: VoucherRequest, prior: VoucherData | None) -> Iterator[str]:
    if request.idevid_issuer is None:
        yield "RM-10 idevid-issuer is missing"
    if request.created_on is None:
        yield "RM-06 created-on is missing"
    if request.proximity_registrar_cert is not None:
        yield "RM-12 proximity-registrar-cert does not belong in a registrar's request"
    yield from _of_ignored(request)
    if prior is not None and prior.serial_number != request.serial_number:
        yield "RM-09 serial-number differs from the pledge's request"
    if prior is not None and prior.nonce is not None and prior.nonce != request.nonce:
        yield "RM-07 nonce differs from the pledge's request"


def _of_ignored(request: VoucherRequest) -> Iterator[str]:
    for leaf in ("pinned_domain_cert", "last_renewal_date", "domain_cert_revocation_checks"):
        if getattr(request, leaf) is not None:
            yield f"VR-10 {leaf.replace('_', '-')} has no meaning in a request"


def _of_nonce(claimed: VoucherData) -> Iterator[str]:
    if claimed.nonce is None:
        return
    try:
        length = len(base64.b64decode(claimed.nonce, validate=True))
    except (binascii.Error, ValueError):
        yield "VR-15 nonce is not standard base64"
        return
    if length not in NONCE_BYTES:
        yield f"VR-15 nonce has {length} bytes, 8 to 32 are allowed"


def _looks_like_idevid(certificate: x509.Certificate) -> bool:
    if certificates.is_ca(certificate):
        return False
    return any(extension.oid == ID_PE_MASA_URL for extension in certificate.extensions)


def _of_idevid(certificate: x509.Certificate) -> Iterator[str]:
    try:
        certificates.serial_number(certificate)
    except BrskiError as error:
        yield f"ID-01 {error.detail}"
    yield from _of_masa_url(certificate)
    if certificates.extended_key_usages(certificate):
        yield "ID-08 an IDevID has no extendedKeyUsage"
    if certificate.not_valid_after_utc != NO_EXPIRY:
        yield "ID-12 notAfter is not 99991231235959Z"
    if certificates.authority_key_id(certificate) is None:
        yield "AR-03 authorityKeyIdentifier is missing"
    if certificates.subject_key_id(certificate) is not None:
        yield "AR-03 an IDevID has no subjectKeyIdentifier"
    yield from _of_key_usage(certificate)
    if len(certificates.to_der(certificate)) > SMALL_CERTIFICATE:
        yield f"AR-08 larger than {SMALL_CERTIFICATE} bytes"


def _of_masa_url(certificate: x509.Certificate) -> Iterator[str]:
    try:
        url = certificates.masa_url(certificate) or ""
    except BrskiError as error:
        yield f"ID-03 {error.detail}"
        return
    if certificate.extensions.get_extension_for_oid(ID_PE_MASA_URL).critical:
        yield "ID-03 the MASA URL extension is critical"
    if "/" in url:
        yield "ID-04 the MASA URL holds more than the authority"


def _of_key_usage(certificate: x509.Certificate) -> Iterator[str]:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        return
    if not usage.value.digital_signature:
        yield "AR-04 keyUsage lacks digitalSignature"
    if not usage.critical:
        yield "AR-04 keyUsage is not critical"


def _of_registrar(certificate: x509.Certificate) -> Iterator[str]:
    usages = certificates.extended_key_usages(certificate)
    if ID_KP_SERVER_AUTH not in usages:
        yield "TL-14 a registrar certificate with id-kp-cmcRA also has serverAuth"
    if ID_KP_CLIENT_AUTH not in usages:
        yield "MT-08 towards the MASA a registrar certificate also has clientAuth"
    if certificates.subject_key_id(certificate) is None:
        yield "TL-17 subjectKeyIdentifier is missing: the domainID is the key's SHA-256"


def _of_key(certificate: x509.Certificate) -> Iterator[str]:
    with suppress(Untrusted, UnsupportedFormat):
        try:
            refuse_published_key(usable_key(certificate))
        except Misconfigured:
            yield f"OP-07 the key of {certificates.common_name(certificate)} is published: for tests only"
