"""The MASA over HTTPS: transport to service and back, no decision (RFC 8995, 5.4 to 5.6 and 5.8).

    POST /.well-known/brski/requestvoucher     a voucher in the format that Accept asks for, else as the request's
    POST /.well-known/brski/requestauditlog    the log of the device, or a Location of it
    GET  /auditlog/TOKEN                       a log that was made before

The same under `/.well-known/est/`, where drafts of RFC 8995 had them and old registrars still look.

What a refused registrar learns is one line: the reason and what it means. The detail is in our log (RFC 8995, 5.6
asks for "explanatory information"; 11 for none that helps an attacker).
"""

import re
from collections.abc import Sequence
from typing import Final, Literal, TypeVar

from brski_common import artifact, auditlog
from brski_common.artifact import Format
from brski_common.errors import (
    BrskiError,
    Malformed,
    NotYet,
    PeerFailed,
    Refused,
    Unknown,
    UnsupportedFormat,
    Untrusted,
)
from brski_common.http import peer
from brski_common.http_message import Request, Response, accepts, media_type, plain, reply
from brski_common.http_site import Site
from brski_common.logs import logger
from brski_masa.authentication import HttpAuthentication
from brski_masa.limiting import Allowance
from brski_masa.parties import Requester
from brski_masa.service import AuditAnswer, Masa

PREFIXES: Final = ("/.well-known/brski", "/.well-known/est")
LOG_PATH: Final = "/auditlog/"
TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{16,128}")
# A log behind a link never changes; but only its reader may keep it.
CACHE: Final = {"Cache-Control": "private, max-age=86400, immutable"}
NOT_CACHED: Final = {"Cache-Control": "no-store"}

ONLY: Final = {each.media_type: (each,) for each in Format}  # what is wanted by who names just one

T = TypeVar("T")
AnswerMode = Literal["direct", "direct-with-location", "created"]

log = logger("masa.http")

# The status of an error, by its kind; of S-note 1 in docs/divergences.md.
STATUS: Final[dict[type[BrskiError], int]] = {
    Malformed: 400,
    UnsupportedFormat: 415,
    Untrusted: 403,
    Refused: 403,
    Unknown: 404,
    NotYet: 429,
    PeerFailed: 503,
}
# Where the reason says more than the kind.
STATUS_OF_REASON: Final = {
    "voucher-format-not-acceptable": 406,
    "http-credentials-wrong": 401,
    "http-nonce-stale": 401,
    "http-scheme-not-accepted": 401,
    "database-busy": 503,
}
# With HTTP authentication on offer these ask for it.
CHALLENGED: Final = frozenset(("registrar-not-authenticated", "nonceless-not-authenticated"))

EXPLANATIONS: Final = {
    "audit-log-empty": "no voucher was ever issued for this device",
    "device-blocked": "the manufacturer has blocked this device; ask its support",
    "device-claimed": "another domain has this device; its owner has to release it at the manufacturer",
    "device-not-owned": "the device is not on record as yours; ask the manufacturer's sales to assign it",
    "device-unknown": "no such device is known here for this registrar",
    "device-without-owner": "no owner of the device is on record; ask the manufacturer's sales to assign it",
    "domain-id-not-derived": "the SubjectKeyIdentifier of the certificate to be pinned is not a hash of its key",
    "idevid-issuer-mismatch": "idevid-issuer is not the AuthorityKeyIdentifier of the pledge's IDevID",
    "idevid-missing": "the certificate that signed the pledge's request did not come along",
    "idevid-not-registered": "the pledge's IDevID is not the one on record for its serial number",
    "nonce-mismatch": "the nonce is not that of the prior-signed-voucher-request",
    "nonce-stripped": "the prior-signed-voucher-request has a nonce, which is missing here",
    "nonceless-not-allowed": "vouchers without a nonce are not agreed with you",
    "nonceless-not-authenticated": "without a nonce only the authenticated owner of the device gets a voucher",
    "prior-signed-voucher-request-missing": "the request of the pledge itself has to come along",
    "proximity-mismatch": "the pledge's proximity-registrar-cert is not a registrar of the domain that signed this",
    "published-test-key": "the private key of one of the certificates stands in a specification",
    "registrar-not-authenticated": "only registrars known to the manufacturer are served",
    "registrar-not-authorized": "the signer's certificate lacks the extended key usage id-kp-cmcRA",
    "registrar-revoked": "a certificate of the registrar's chain is revoked",
    "renewal-of-another-domain": "the voucher to be renewed pins another domain",
    "request-replayed": "this request was first sent by somebody else",
    "request-stale": "created-on is too far from the current time",
    "revocation-unknown": "the revocation servers named in the registrar's chain could not be asked",
    "serial-number-ambiguous": "several devices have this serial number; idevid-issuer has to tell which",
    "serial-number-mismatch": "the serial number is not that of the IDevID that signed the pledge's request",
    "too-many-refusals": "too many refused requests; come back later",
    "voucher-format-not-acceptable": "none of the accepted voucher formats can be issued for this device",
}
GENERAL: Final[dict[type[BrskiError], str]] = {
    Malformed: "the request cannot be read",
    UnsupportedFormat: "the format of the request is not understood",
    Untrusted: "a signature or certificate in the request does not hold",
    Refused: "the request is refused",
    Unknown: "not known here",
    NotYet: "come back later",
    PeerFailed: "the service is not available; come back later",
}


class Front:
    """The handlers, bound to a service."""

    def __init__(
        self,
        masa: Masa,
        allowance: Allowance,
        *,
        answer: AnswerMode = "direct",
        authentication: HttpAuthentication | None = None,
    ) -> None:
        self._masa = masa
        self._allowance = allowance
        self._answer = answer
        self._authentication = authentication

    def site(self) -> Site:
        """The routes, for `brski_common.http.serve`."""
        site = Site(self.render, admit=self._admit)
        for prefix in PREFIXES:
            site.add("POST", f"{prefix}/requestvoucher", self.request_voucher, limit=artifact.MAX_ARTIFACT_BYTES)
            site.add("POST", f"{prefix}/requestauditlog", self.request_audit_log, limit=artifact.MAX_ARTIFACT_BYTES)
        for method in ("GET", "HEAD"):
            site.add_below(method, LOG_PATH, self.follow_link)
        return site

    def _admit(self, request: Request) -> None:
        self._allowance.check(request.remote)

    async def request_voucher(self, request: Request) -> Response:
        """POST requestvoucher."""
        request_format = Format.of_media_type(media_type(request))
        wanted = wanted_formats(request, request_format)
        requester = await self._requester(request)
        answer_format, voucher = await self._masa.request_voucher(request.body, request_format, wanted, requester)
        return reply(200, voucher, answer_format.media_type, NOT_CACHED)

    async def request_audit_log(self, request: Request) -> Response:
        """POST requestauditlog."""
        request_format = Format.of_media_type(media_type(request))
        requester = await self._requester(request)
        answer = await self._masa.request_audit_log(request.body, request_format, requester)
        return await self._reply_log(answer)

    async def follow_link(self, request: Request) -> Response:
        """GET of an earlier answer (RFC 8995, 5.8: a capability URL)."""
        if TOKEN.fullmatch(token := request.last()) is None:
            raise Unknown("audit-log-unknown", "no such link")
        body = await self._masa.follow_link(token)
        return reply(200, body, auditlog.MEDIA_TYPE, CACHE)

    async def _reply_log(self, answer: AuditAnswer) -> Response:
        if self._answer == "direct":
            return reply(200, answer.body, auditlog.MEDIA_TYPE, NOT_CACHED)
        headers = NOT_CACHED | {"Location": LOG_PATH + await self._masa.new_link(answer.device_id)}
        if self._answer == "created":
            return reply(201, b"", None, headers)
        return reply(200, answer.body, auditlog.MEDIA_TYPE, headers)

    async def _requester(self, request: Request) -> Requester:
        user = None
        field = request.headers.get("Authorization")
        if field is not None and self._authentication is not None:
            user = await self._authentication.authenticate(field, request.method, request.target)
        return Requester(peer=peer(request), user=user, address=request.remote)

    def render(self, request: Request, error: BrskiError) -> Response:
        """An error as status and one line of text."""
        status = self._status(error)
        if not isinstance(error, NotYet | PeerFailed):
            self._allowance.spend(request.remote)
        log.info(
            "refused", status=status, reason=error.reason, detail=error.detail, path=request.path, peer=request.remote
        )
        response = plain(status, f"{error.reason}: {explain(error)}")
        if isinstance(error, NotYet):
            response.add("Retry-After", str(max(1, round(error.retry_after))))
        if status == 401 and self._authentication is not None:
            for challenge in self._authentication.challenges(stale=error.reason == "http-nonce-stale"):
                response.add("WWW-Authenticate", challenge)
        return response

    def _status(self, error: BrskiError) -> int:
        if error.reason in CHALLENGED and self._authentication is not None:
            return 401
        return STATUS_OF_REASON.get(error.reason) or _of_kind(error, STATUS, 500)


def wanted_formats(request: Request, request_format: Format) -> Sequence[Format]:
    """The formats the registrar takes, that of its request first; raises Refused (406) if it takes none."""
    fields = request.headers.getall("Accept", ())
    if len(fields) == 1 and fields[0] in ONLY:  # what registrars say: one format and nothing else
        return ONLY[fields[0]]
    ordered = (request_format, *(each for each in Format if each is not request_format))
    wanted = [each for each in ordered if accepts(request, each.media_type)]
    if not wanted:
        raise Refused("voucher-format-not-acceptable", request.headers.get("Accept", "")[:128])
    return wanted


def explain(error: BrskiError) -> str:
    """What a reason means, in words that give nothing else away."""
    return EXPLANATIONS.get(error.reason) or _of_kind(error, GENERAL, "the request failed")


def _of_kind(error: BrskiError, table: dict[type[BrskiError], T], default: T) -> T:
    return next((value for kind, value in table.items() if isinstance(error, kind)), default)
