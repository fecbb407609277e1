"""What a pledge asks, request by request (RFC 8995, 5 and 5.9; RFC 7030, 4)."""

from collections.abc import Mapping
from dataclasses import dataclass

from brski_common import est, telemetry
from brski_common.artifact import Format
from brski_common.errors import BrskiError
from brski_pledge.vouchering import ACCEPTED

BRSKI = "/.well-known/brski"
REQUEST_VOUCHER = f"{BRSKI}/requestvoucher"
# All that a registrar learns of a voucher we refuse: it may be the attacker's (RFC 8995, 5.7).
GENERIC_REASON = "voucher not accepted"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


def voucher(path: str, signed: bytes) -> Request:
    """The voucher request, binary; Accept names what we can read (RFC 8995, 5.2)."""
    accepted = ", ".join(each.media_type for each in ACCEPTED)
    return Request("POST", path, {"Content-Type": Format.CMS.media_type, "Accept": accepted}, signed)


def voucher_status(*, accepted: bool) -> Request:
    """Whether the voucher was accepted (RFC 8995, 5.7)."""
    report = telemetry.success() if accepted else telemetry.failure(GENERIC_REASON)
    return _report("voucher_status", report)


def enroll_status(failure: BrskiError | None) -> Request:
    """Whether enrolling worked (RFC 8995, 5.9.4).

    The registrar is ours by now, so it may know which check failed; no text of any peer goes along.
    """
    return _report("enrollstatus", telemetry.success() if failure is None else telemetry.failure(failure.reason))


def ca_certificates(label: str | None) -> Request:
    """The domain's CA certificates."""
    return Request("GET", est.path(est.Operation.CACERTS, label), {"Accept": est.PKCS7_MIME})


def csr_attributes(label: str | None) -> Request:
    """What the certificate request should hold."""
    return Request("GET", est.path(est.Operation.CSRATTRS, label), {"Accept": est.CSRATTRS})


def certificate(label: str | None, body: bytes, *, renewing: bool) -> Request:
    """The certificate request."""
    operation = est.Operation.SIMPLEREENROLL if renewing else est.Operation.SIMPLEENROLL
    return Request("POST", est.path(operation, label), {"Content-Type": est.PKCS10, "Accept": est.PKCS7_MIME}, body)


def _report(operation: str, report: telemetry.Telemetry) -> Request:
    return Request("POST", f"{BRSKI}/{operation}", {"Content-Type": telemetry.MEDIA_TYPE_JSON}, telemetry.write(report))
