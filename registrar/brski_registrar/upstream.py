"""A certification authority elsewhere, and the registrar as RA in front of it (RFC 7030, 3.7).

The laws of this file:

1. The registrar shows its own certificate, which has id-kp-cmcRA. Whom it asks is judged by the anchors that were named
   for this CA, and by the host in its URL.
2. A device's request goes up byte for byte. A challengePassword in it was linked to the device's session with us, and
   `enrolling.check_linked` has verified that; towards the CA the link cannot match, which a CA may waive for an RA
   (RFC 7030, 3.5 and 3.7). One that does not refuses, and then the device is refused.
3. Renewals go up by simpleenroll too: simplereenroll renews the certificate that the TLS client shows (RFC 7030,
   4.2.2), and ours is not the device's. That the device has the old one we have seen ourselves.
4. What the CA holds is kept for FRESH_SECONDS. A request that it lets wait is not repeated to it any sooner than it
   said, however often the device asks (RFC 7030, 4.2.3).
5. What the CA says in an error is for the operator's log, never for the device.

Reasons: `upstream-pending`, `upstream-refused`, `upstream-failed` (no answer, or none that can be used), and those of
`relaying`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from brski_common import csrattrs, est, logs, tls
from brski_common.certificates import Credential, Peer, load_certificate
from brski_common.csr import public_key
from brski_common.csrattrs import CsrAttributes
from brski_common.csrwishes import KeyWish, Wishes
from brski_common.errors import BrskiError, Malformed, NotYet, PeerFailed, Refused, Untrusted
from brski_common.est import Operation
from brski_common.http_client import HttpClient, HttpResponse
from brski_common.paths import Anchors
from brski_registrar import relaying
from brski_registrar.acp import Addressing
from brski_registrar.ca import own_wishes
from brski_registrar.calling import check_server, explanation, retry_after
from brski_registrar.enrolling import Profile, request_hash
from brski_registrar.records import Device
from brski_registrar.relaying import Authorities

FRESH_SECONDS: Final = 3600.0  # how long the CA's certificates and wishes are believed without asking again
REQUEST_SECONDS: Final = 15.0
MAX_WAITING: Final = 4096  # requests; who was forgotten may ask sooner
DEFAULT_RETRY_AFTER_SECONDS: Final = 60.0  # a CA that lets one wait has a person look at it

T = TypeVar("T")

log = logs.logger("registrar.upstream")


class UpstreamAuthority:
    """An EST server, `url` its origin (`https://ca.example:8443`), `label` the CA's there (RFC 7030, 3.2.2).

    `key_kind` and `addressing` are asked of every device, as by `LocalAuthority`. `await close()` when done.
    """

    def __init__(
        self,
        url: str,
        anchors: Anchors,
        credential: Credential,
        *,
        clock: Callable[[], datetime],
        label: str | None = None,
        key_kind: str | None = None,
        addressing: Addressing | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._url, self._anchors, self._clock, self._label = url.rstrip("/"), anchors, clock, label
        self._key = KeyWish.of(key_kind) if key_kind else None
        self._addressing = addressing
        self._host = urlsplit(url).hostname or ""
        self._client = HttpClient(tls.client_side(credential, judge=self._judge), request_seconds=request_seconds)
        self._authorities = _Fresh(self._fetch_authorities, clock)
        self._wishes = _Fresh(self._fetch_wishes, clock)
        self._waiting: OrderedDict[str, datetime] = OrderedDict()  # by request, until when

    async def ca_certs(self) -> tuple[x509.Certificate, ...]:
        """See `CertificateAuthority`: those that lead to the anchors. Raises PeerFailed."""
        return (await self._authorities.get()).certificates

    async def csr_attributes(self, device: Device | None) -> CsrAttributes:
        """See `CertificateAuthority`: what the CA wants, and what we want ourselves. Raises PeerFailed."""
        wanted = await self._wishes.get()
        if device is None:
            return csrattrs.ask(Wishes(key=wanted.key or self._key))
        own = own_wishes(device, self._key, self._addressing)
        try:
            return relaying.merge(wanted, own, load_certificate(device.certificate).subject)
        except Malformed as error:
            raise PeerFailed("upstream-failed", f"csrattrs: {error}") from error

    async def issue(self, csr: x509.CertificateSigningRequest, profile: Profile) -> x509.Certificate:
        """See `CertificateAuthority`; raises Refused, NotYet, PeerFailed.

        Of `profile` only the names count: how long a certificate is good for, and for what, this CA decides.
        """
        relaying.check_request(csr, profile, await self._wishes.get())
        name = request_hash(csr)
        self._check_wait(name)
        await self._authorities.get()  # a CA whose certificates lead nowhere shall not certify anybody in vain
        response = await self._request("POST", Operation.SIMPLEENROLL, csr.public_bytes(Encoding.DER))
        if response.status in _LATER:
            raise self._wait(name, response)
        _check_status(response, Operation.SIMPLEENROLL)
        certificate = _issued(response, csr)
        await self._check(certificate, profile)
        return certificate

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(self._authorities.close(), self._wishes.close())
        await self._client.close()

    def _judge(self, peer: Peer) -> None:
        try:
            check_server(peer, self._anchors, self._host, self._clock())
        except Untrusted as error:
            raise PeerFailed("upstream-untrusted", f"{self._host}: {error}") from error

    async def _request(self, method: str, operation: Operation, body: bytes = b"") -> HttpResponse:
        headers = {"Content-Type": est.PKCS10} if body else {}
        try:
            return await self._client.request(
                method,
                self._url + est.path(operation, self._label),
                body=est.encode_body(body) if body else b"",
                headers=headers,
                limit=est.MAX_RESPONSE_BYTES,
            )
        except PeerFailed as error:
            if error.reason == "upstream-untrusted":
                raise
            raise PeerFailed("upstream-failed", f"{operation}: {error}") from error

    async def _fetch_authorities(self) -> Authorities:
        response = await self._request("GET", Operation.CACERTS)
        _check_answered(response, Operation.CACERTS)
        sent = _certificates(response)
        found = relaying.authorities(sent, self._anchors, self._clock())
        if lost := set(sent) - set(found.certificates):
            # They lead to none of the anchors, so nobody gets them.
            log.warning("certificates not handed out", ca=self._url, subjects=sorted(map(_subject, lost)))
        return found

    async def _fetch_wishes(self) -> Wishes:
        response = await self._request("GET", Operation.CSRATTRS)
        if response.status in {204, 404} or (response.status == 200 and not response.body.strip()):
            return Wishes()  # it wants nothing in particular (RFC 7030, 4.5.2)
        _check_answered(response, Operation.CSRATTRS)
        try:
            return csrattrs.read(est.decode_body(response.body)).wishes
        except Malformed as error:
            raise PeerFailed("upstream-failed", f"csrattrs: {error}") from error

    async def _check(self, certificate: x509.Certificate, profile: Profile) -> None:
        """`relaying.check_issued`; a CA that has another root or issuer since we asked for them is asked once more."""
        try:
            relaying.check_issued(certificate, profile, await self._authorities.get(), self._clock())
        except PeerFailed as error:
            if error.reason != "upstream-certificate-untrusted":
                raise
            self._authorities.forget()
            relaying.check_issued(certificate, profile, await self._authorities.get(), self._clock())

    def _check_wait(self, name: str) -> None:
        until = self._waiting.get(name)
        seconds = (until - self._clock()).total_seconds() if until is not None else 0.0
        if seconds > 0:
            raise NotYet("upstream-pending", "the CA wants this request repeated later", seconds)

    def _wait(self, name: str, response: HttpResponse) -> NotYet:
        seconds = retry_after(response, DEFAULT_RETRY_AFTER_SECONDS)
        self._waiting[name] = self._clock() + timedelta(seconds=seconds)
        self._waiting.move_to_end(name)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
        return NotYet("upstream-pending", explanation(response, Operation.SIMPLEENROLL), seconds)


class _Fresh(Generic[T]):
    """Something the CA holds: asked for once by all who want it, and believed for FRESH_SECONDS."""

    def __init__(self, fetch: Callable[[], Coroutine[Any, Any, T]], clock: Callable[[], datetime]) -> None:
        self._fetch, self._clock = fetch, clock
        self._known: tuple[T, datetime] | None = None
        self._asking: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """What it is; raises as `fetch`."""
        now = self._clock()
        if self._known is not None and self._known[1] <= now < self._known[1] + timedelta(seconds=FRESH_SECONDS):
            return self._known[0]
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._fetch())
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    def forget(self) -> None:
        """Ask anew next time."""
        self._known = None

    async def close(self) -> None:
        """End what is under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _asked(self, task: "asyncio.Task[T]") -> None:
        self._asking = None
        if not task.cancelled() and task.exception() is None:
            self._known = task.result(), self._clock()


_LATER: Final = frozenset({202, 429})  # RFC 7030, 4.2.3; RFC 6585, 4


def _issued(response: HttpResponse, csr: x509.CertificateSigningRequest) -> x509.Certificate:
    """The certificate for the device's key, whatever else came along; raises PeerFailed."""
    certificates = _certificates(response)
    try:
        return est.find_certificate(certificates, public_key(csr))
    except PeerFailed as error:
        raise PeerFailed("upstream-certificate-unfit", error.detail) from error


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


def _certificates(response: HttpResponse) -> tuple[x509.Certificate, ...]:
    """The certificates of an answer; raises PeerFailed `upstream-failed`."""
    if response.media_type != est.PKCS7_MIME:
        raise PeerFailed("upstream-failed", f"an answer of type {response.media_type[:100]!a}")
    try:
        return est.parse_certs_only(est.decode_body(response.body))
    except BrskiError as error:
        raise PeerFailed("upstream-failed", str(error)) from error


def _check_answered(response: HttpResponse, operation: Operation) -> None:
    """Raise PeerFailed for anything but an answer: these are questions of ours, and no device's request is refused."""
    if response.status != 200:
        raise PeerFailed("upstream-failed", explanation(response, operation))


def _check_status(response: HttpResponse, operation: Operation) -> None:
    """Raise what a status other than 200 means for the device's request: Refused for 4xx, else PeerFailed."""
    if 400 <= response.status < 500:
        raise Refused("upstream-refused", explanation(response, operation))
    _check_answered(response, operation)
