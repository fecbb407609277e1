"""The registrar's side of the talk with a MASA (RFC 8995, 5.4 to 5.8).

The laws of this file:

1. A MASA's server certificate leads to the anchors that its maker's record has for it, and names the host of the URL
   (RFC 8995, 5.4; RFC 9525). SNI is sent. The manufacturer's device anchors count for nothing here.
2. One client per maker and host, with connections kept alive; all of them are bounded in time and size.
3. No redirect is followed: the operator allowed a host, not whatever that host names.
4. What a MASA says in an error is for the operator's log, never for the pledge.
"""

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol
from urllib.parse import urljoin, urlsplit

from brski_common import auditlog, logs, tls
from brski_common.artifact import MAX_ARTIFACT_BYTES
from brski_common.auditlog import AuditLog
from brski_common.certificates import Credential, Peer
from brski_common.errors import Malformed, Misconfigured, NotYet, PeerFailed, Refused, Unknown, Untrusted
from brski_common.http_client import HttpClient, HttpResponse
from brski_registrar import httpauth
from brski_registrar.calling import check_server, explanation, retry_after
from brski_registrar.identity import Maker
from brski_registrar.policy import Login, Manufacturer

MAX_SITES: Final = 64
REQUEST_SECONDS: Final = 15.0

log = logs.logger("registrar.masa")


class MasaClient(Protocol):
    """What the service needs of a MASA: over HTTP here, in memory elsewhere."""

    async def request_voucher(self, maker: Maker, base: str, rvr: bytes, media_type: str, accept: str) -> bytes:
        """The MASA's voucher, byte for byte; raises Refused, NotYet, PeerFailed."""
        ...

    async def request_audit_log(self, maker: Maker, base: str, rvr: bytes, media_type: str) -> AuditLog:
        """The device's log; raises Unknown if the MASA has none for us, else as above."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class HttpMasaClient:
    """MASAs over HTTPS. `secret` turns the name of a secret in a maker's record into the secret itself."""

    def __init__(
        self,
        credential: Credential,
        *,
        clock: Callable[[], datetime],
        secret: Callable[[str], str] | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._credential, self._clock, self._secret, self._seconds = credential, clock, secret, request_seconds
        self._sites: OrderedDict[tuple[str, str], _Site] = OrderedDict()

    async def request_voucher(self, maker: Maker, base: str, rvr: bytes, media_type: str, accept: str) -> bytes:
        """See `MasaClient`."""
        headers = {"Content-Type": media_type, "Accept": accept}
        site = await self._site(maker, base)
        response = await site.request("POST", f"{base}/requestvoucher", rvr, headers, MAX_ARTIFACT_BYTES)
        _check_status(response, "requestvoucher")
        if response.media_type not in {each.strip().lower() for each in accept.split(",")}:
            raise PeerFailed("masa-media-type", ascii(response.media_type[:100]))
        return response.body

    async def request_audit_log(self, maker: Maker, base: str, rvr: bytes, media_type: str) -> AuditLog:
        """See `MasaClient`. Where the MASA answers with the place of the log, it is fetched from the same host."""
        site, limit = await self._site(maker, base), auditlog.MAX_AUDITLOG_BYTES
        headers = {"Content-Type": media_type, "Accept": auditlog.MEDIA_TYPE}
        response = await site.request("POST", f"{base}/requestauditlog", rvr, headers, limit)
        if response.status == 201:
            place = _same_origin(base, response.headers.get("Location", ""))
            response = await site.request("GET", place, b"", {"Accept": auditlog.MEDIA_TYPE}, limit)
        _check_status(response, "requestauditlog")
        try:
            return auditlog.read(response.body)
        except Malformed as error:
            raise PeerFailed("audit-log-unreadable", str(error)) from error

    async def close(self) -> None:
        """Close every connection."""
        while self._sites:
            await self._sites.popitem()[1].client.close()

    async def _site(self, maker: Maker, base: str) -> "_Site":
        key = maker.record.name, urlsplit(base).netloc
        site = self._sites.get(key)
        if site is not None and site.is_for(maker.record):
            self._sites.move_to_end(key)
            return site
        fresh = _Site(maker.record, self._context(maker, base), self._password(maker.record), self._seconds)
        self._sites[key] = fresh
        self._sites.move_to_end(key)
        if site is None and len(self._sites) > MAX_SITES:
            _, site = self._sites.popitem(last=False)
        if site is not None:
            await site.client.close()
        return fresh

    def _context(self, maker: Maker, base: str) -> tls.TlsSide:
        if not maker.tls:
            raise Misconfigured("masa-anchors-missing", f"{maker.record.name} has no anchors for its MASA's TLS server")
        host = urlsplit(base).hostname or ""

        def judge(peer: Peer) -> None:
            try:
                check_server(peer, maker.tls, host, self._clock())
            except Untrusted as error:
                raise PeerFailed("masa-untrusted", f"{host}: {error}") from error

        return tls.client_side(self._credential if maker.record.login is Login.TLS else None, judge=judge)

    def _password(self, record: Manufacturer) -> str:
        if record.login not in {Login.BASIC, Login.DIGEST}:
            return ""
        if self._secret is None:
            raise Misconfigured("masa-secret-missing", f"nobody can say the secret for the MASA of {record.name}")
        return self._secret(record.login_secret)


class _Site:
    """One MASA: its connections, and how we log in there."""

    def __init__(self, record: Manufacturer, context: tls.TlsSide, password: str, seconds: float) -> None:
        self.client = HttpClient(context, request_seconds=seconds)
        self._record, self._password = record, password
        self._challenge: httpauth.Challenge | None = None
        self._count = 0

    def is_for(self, record: Manufacturer) -> bool:
        """Whether nothing has changed in the record: nothing of an old one is used again."""
        return self._record is record or self._record == record

    async def request(self, method: str, url: str, body: bytes, headers: dict[str, str], limit: int) -> HttpResponse:
        sent = headers | self._login(method, url)
        response = await self.client.request(method, url, body=body, headers=sent, limit=limit)
        if response.status != 401 or self._record.login is not Login.DIGEST:
            return response
        # The first answer, or one to a nonce that has grown old: answer the challenge once.
        self._challenge, self._count = httpauth.read_challenge(response.headers.get("WWW-Authenticate", "")), 0
        return await self.client.request(
            method, url, body=body, headers=headers | self._login(method, url), limit=limit
        )

    def _login(self, method: str, url: str) -> dict[str, str]:
        if self._record.login is Login.BASIC:
            return {"Authorization": httpauth.basic(self._record.login_user, self._password)}
        if self._record.login is Login.DIGEST and self._challenge is not None:
            self._count += 1
            parts = urlsplit(url)
            uri = parts.path + (f"?{parts.query}" if parts.query else "")
            user, password = self._record.login_user, self._password
            return {"Authorization": httpauth.digest(self._challenge, user, password, method, uri, self._count)}
        return {}


def _same_origin(base: str, location: str) -> str:
    """A Location on the MASA's own host; raises PeerFailed for any other."""
    try:
        url = urljoin(f"{base}/", location)
        is_there = bool(location) and urlsplit(url)[:2] == urlsplit(base)[:2]
    except ValueError as error:  # brackets without an address, or letters that no host has
        raise PeerFailed("audit-log-elsewhere", ascii(location[:200])) from error
    if not is_there:
        raise PeerFailed("audit-log-elsewhere", ascii(location[:200]))
    return url


def _check_status(response: HttpResponse, operation: str) -> None:
    """Raise what a status other than 200 means; the text goes into the detail, cut and cleaned."""
    if response.status == 200:
        return
    detail = explanation(response, operation)
    if response.status == 202:
        raise NotYet("masa-not-ready", detail, retry_after(response))
    if response.status == 401:
        # RFC 8995, 5.4: nothing a pledge could do; the operator has to look at the maker's record.
        log.warning("the MASA wants another login than configured", detail=detail)
        raise PeerFailed("masa-login-refused", detail)
    if response.status == 404:
        raise Unknown("masa-unknown-device", detail)
    if response.status in _REFUSALS:
        raise Refused(_REFUSALS[response.status], detail)
    raise PeerFailed("masa-failed", detail)


_REFUSALS: Final = {
    400: "masa-refused",
    403: "masa-refused",
    406: "masa-cannot-issue",
    415: "masa-unsupported-format",
}
