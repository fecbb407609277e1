"""The registrar on HTTPS: requests in, answers out, and no decision (RFC 8995, 5; RFC 7030).

    POST /.well-known/brski/requestvoucher     a voucher request, answered with the MASA's voucher
    POST /.well-known/brski/voucher_status     telemetry
    POST /.well-known/brski/enrollstatus       telemetry
    GET  /.well-known/est[/LABEL]/cacerts      CA certificates
    GET  /.well-known/est[/LABEL]/csrattrs     what to put into a certificate request
    POST /.well-known/est[/LABEL]/simpleenroll, simplereenroll, serverkeygen

What RFC 8995 says about status codes in several places is settled by `STATUS` (docs/divergences.md): 400 cannot be
read; 401 proximity, with the connection closed, or no client certificate; 403 not authentic, or an operator could
allow it; 404 a device nobody knows; 406 the answer or the device is not acceptable; 415 media type. The body is one
line, the slug of the reason; what lies behind it stays in the log.
"""

import math
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Final

from cryptography import x509

from brski_common import csrattrs, est, logs, telemetry, tls
from brski_common import http as brski_http
from brski_common.artifact import MAX_ARTIFACT_BYTES, Format
from brski_common.errors import (
    BrskiError,
    Malformed,
    Misconfigured,
    NotYet,
    PeerFailed,
    Refused,
    Unknown,
    UnsupportedFormat,
    Untrusted,
)
from brski_common.http_message import Request, Response, accepts, media_type, plain, reply
from brski_common.http_site import ANY_METHOD, Site
from brski_common.telemetry import Telemetry
from brski_registrar.enrolling import check_linked
from brski_registrar.est_service import EstService
from brski_registrar.relaying import UPSTREAM
from brski_registrar.service import RegistrarService
from brski_registrar.vouchering import WELL_KNOWN

OBSOLETE_PATHS: Final = ("requestvoucher", "voucher_status", "enrollstatus")
MAX_RETRY_AFTER_SECONDS: Final = 3600
REMEMBERED_REPORTS: Final = 16  # where all is well, devices say the same to the byte

STATUS: Final[dict[str, int]] = {
    # By reason, where the class alone does not say it.
    "proximity-missing": 401,
    "proximity-mismatch": 401,
    "client-certificate-missing": 401,
    "media-type-unknown": 415,
    "voucher-kind-unexpected": 400,
    "device-blocked": 406,
    "audit-log-refused": 403,
    "masa-cannot-issue": 406,
    "masa-unsupported-format": 415,
    "peer-timeout": 504,
    "csr-signature-invalid": 400,
}
_BY_CLASS: Final[tuple[tuple[type[BrskiError], int], ...]] = (
    (Malformed, 400),
    (UnsupportedFormat, 400),
    (Untrusted, 403),
    (Unknown, 404),
    (Refused, 403),
    (PeerFailed, 502),
    (Misconfigured, 503),
)
# What a client may read; any other reason of these classes is told as one word.
_SILENT: Final[dict[type[BrskiError], str]] = {PeerFailed: "masa-failed", Misconfigured: "registrar-not-ready"}
_CA_FAILED: Final = "ca-failed"
_CLOSING: Final = frozenset({"proximity-missing", "proximity-mismatch"})

log = logs.logger("registrar.http")


def site(service: RegistrarService, est_service: EstService) -> Site:
    """The registrar's routes, ready for `brski_common.http.serve`."""
    site = Site(render)
    vouchers, enrollment = _Vouchers(service), _Enrollment(est_service)
    site.add("POST", f"{WELL_KNOWN}/requestvoucher", vouchers.request_voucher, limit=MAX_ARTIFACT_BYTES)
    site.add("POST", f"{WELL_KNOWN}/voucher_status", vouchers.voucher_status, limit=telemetry.MAX_TELEMETRY_BYTES)
    site.add("POST", f"{WELL_KNOWN}/enrollstatus", enrollment.enroll_status, limit=telemetry.MAX_TELEMETRY_BYTES)
    for label in ("", *sorted(est_service.labels)):
        enrollment.add_routes(site, label)
    for name in OBSOLETE_PATHS:
        site.add(ANY_METHOD, f"{est.WELL_KNOWN}/{name}", _moved)
    return site


def render(request: Request, error: BrskiError) -> Response:
    """The answer to a request that failed. A client is told the slug of the reason, and nothing else."""
    if isinstance(error, NotYet):
        return _later(request, error)
    status = STATUS.get(error.reason) or next(status for kind, status in _BY_CLASS if isinstance(error, kind))
    _log(request, error, status)
    response = plain(status, _told(error))
    if error.reason in _CLOSING:
        # RFC 8995, 5.2: somebody is on the path; the connection "MUST be closed after the returning" of 401.
        response.closes = True
    return response


def _log(request: Request, error: BrskiError, status: int) -> None:
    """One line about an answer that is no success; of whom it speaks was bound where he was identified."""
    tell, event = log.info, "later" if isinstance(error, NotYet) else "refused"
    if isinstance(error, PeerFailed) or error.reason == "masa-not-ready":
        tell = log.warning
    elif isinstance(error, Misconfigured):
        tell = log.error
    detail = error.detail.strip()
    tell(event, status=status, reason=error.reason, detail=detail, path=request.path, peer=request.remote)


def _told(error: BrskiError) -> str:
    if isinstance(error, PeerFailed) and error.reason.startswith(UPSTREAM):
        return _CA_FAILED
    return _SILENT.get(type(error), error.reason)


def _later(request: Request, error: NotYet) -> Response:
    """202 to those who are to repeat their request (RFC 8995, 5.6; RFC 7030, 4.2.3), 503 to others."""
    repeats = request.method == "POST" and request.last() in _REPEATED
    seconds = min(max(1, math.ceil(error.retry_after)), MAX_RETRY_AFTER_SECONDS)
    status = 202 if repeats else 503
    _log(request, error, status)
    response = plain(status, error.reason)
    response.add("Retry-After", str(seconds))
    return response


_REPEATED: Final = frozenset({"requestvoucher", "simpleenroll", "simplereenroll", "serverkeygen"})


class _Vouchers:
    """BRSKI's own endpoints; bodies are binary (RFC 8995, 6)."""

    def __init__(self, service: RegistrarService) -> None:
        self._service = service

    async def request_voucher(self, request: Request) -> Response:
        artifact_format = Format.of_media_type(media_type(request))
        if not accepts(request, artifact_format.media_type):
            return plain(406, "voucher-type-not-available")
        voucher = await self._service.request_voucher(request.body, artifact_format, brski_http.peer(request))
        return reply(200, voucher, artifact_format.media_type)

    async def voucher_status(self, request: Request) -> Response:
        await self._service.voucher_status(_telemetry(request), brski_http.peer(request))
        return reply(200)


class _Enrollment:
    """EST's endpoints; bodies are base64, whatever a header says (RFC 8951, 3.1)."""

    def __init__(self, service: EstService) -> None:
        self._service = service
        self._authorities: dict[str, tuple[tuple[x509.Certificate, ...], bytes]] = {}  # by label, with their body

    def add_routes(self, site: Site, label: str) -> None:
        """The operations under one label (RFC 7030, 3.2.2)."""

        def asks(operation: est.Operation, handler: Callable[..., Awaitable[Response]]) -> None:
            site.add("GET", est.path(operation, label or None), partial(handler, label=label))

        def posts(operation: est.Operation, handler: Callable[..., Awaitable[Response]]) -> None:
            at = est.path(operation, label or None)
            site.add("POST", at, partial(handler, label=label), limit=est.MAX_REQUEST_BYTES)

        asks(est.Operation.CACERTS, self.ca_certificates)
        asks(est.Operation.CSRATTRS, self.csr_attributes)
        posts(est.Operation.SIMPLEENROLL, self.simple_enroll)
        posts(est.Operation.SIMPLEREENROLL, self.simple_reenroll)
        posts(est.Operation.SERVERKEYGEN, self.server_key)

    async def ca_certificates(self, request: Request, label: str) -> Response:
        certificates = await self._service.ca_certificates(brski_http.peer(request), label)
        known = self._authorities.get(label)
        if known is None or known[0] != certificates:
            known = self._authorities[label] = certificates, est.encode_body(est.certs_only(certificates))
        return _est(known[1], est.CERTS_ONLY)

    async def csr_attributes(self, request: Request, label: str) -> Response:
        asked = await self._service.csr_attributes(brski_http.peer(request), label)
        if not asked.items:
            return reply(204)
        return _est(est.encode_body(csrattrs.write(asked)), est.CSRATTRS)

    async def simple_enroll(self, request: Request, label: str) -> Response:
        csr, peer = _csr(request), brski_http.peer(request)
        if not self._service.is_ra(peer):  # who has verified the link on the session that the device had with him
            check_linked(csr, lambda: _binding(request))
        certificate = await self._service.simple_enroll(csr, peer, label)
        return _est(est.encode_body(est.certs_only((certificate,))), est.CERTS_ONLY)

    async def simple_reenroll(self, request: Request, label: str) -> Response:
        csr = _csr(request)
        check_linked(csr, lambda: _binding(request))
        certificate = await self._service.simple_reenroll(csr, brski_http.peer(request), label)
        return _est(est.encode_body(est.certs_only((certificate,))), est.CERTS_ONLY)

    async def server_key(self, request: Request, label: str) -> Response:
        csr = _csr(request, proof_of_possession=False)  # key and signature do not count (RFC 7030, 4.4.1)
        content_type, body = est.write_server_key(await self._service.server_key(csr, brski_http.peer(request), label))
        return reply(200, body, content_type)

    async def enroll_status(self, request: Request) -> Response:
        await self._service.enroll_status(_telemetry(request), brski_http.peer(request))
        return reply(200)


def _telemetry(request: Request) -> Telemetry:
    # A client that forgets the header means JSON: a report that is refused is a failure nobody hears of.
    told = media_type(request) or telemetry.MEDIA_TYPE_JSON
    if told not in _REPORTS:
        raise UnsupportedFormat("media-type-unknown", told)
    return _report(told, request.body)


@lru_cache(maxsize=REMEMBERED_REPORTS)
def _report(media_type: str, body: bytes) -> Telemetry:
    return _REPORTS[media_type](body)


_REPORTS: Final[dict[str, Callable[[bytes], Telemetry]]] = {
    telemetry.MEDIA_TYPE_JSON: telemetry.read,
    telemetry.MEDIA_TYPE_CBOR: telemetry.read_cbor,
}


def _csr(request: Request, *, proof_of_possession: bool = True) -> x509.CertificateSigningRequest:
    if (told := media_type(request)) != est.PKCS10:
        raise UnsupportedFormat("media-type-unknown", told)
    return est.read_csr(est.decode_body(request.body), proof_of_possession=proof_of_possession)


def _est(body: bytes, media_type: str) -> Response:
    """An EST answer. Its body is base64 whatever the header says (RFC 8951, 3.1); BouncyCastle wants to be told."""
    return reply(200, body, media_type, _ENCODED)


_ENCODED: Final = {"Content-Transfer-Encoding": "base64"}


def _binding(request: Request) -> bytes | None:
    return tls.channel_binding(request.transport)


async def _moved(_: Request) -> Response:
    """Drafts of RFC 8995 had these under EST; some clients still have, and should hear what to do about it."""
    return plain(404, f"path-obsolete: this operation is under {WELL_KNOWN}/ (RFC 8995, 8.3.1)")
