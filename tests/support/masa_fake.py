"""A small, awkward MASA for the registrar's tests: in memory, or behind real TLS.

It signs whatever it is asked for and keeps a log. `spoil` changes the voucher before it is signed, `fails` answers
instead of it, and `log` can be filled with somebody else's history.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from aiohttp import web
from aiohttp.typedefs import Handler
from cryptography import x509

from brski_common import artifact, auditlog
from brski_common.artifact import Format
from brski_common.auditlog import AuditEvent, AuditLog, Truncation
from brski_common.certificates import Credential, Peer, domain_id, is_ca, to_der
from brski_common.errors import BrskiError, Unknown
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from brski_registrar.identity import Maker
from tests.support.foreign_server import peer, plain
from tests.support.world import NOW


@dataclass
class MasaFake:
    """The one behind both forms."""

    signer: Credential
    now: datetime = NOW
    spoil: Callable[[Voucher], Voucher] = lambda voucher: voucher
    raw: bytes | None = None  # sent instead of a voucher
    fails: list[BrskiError] = field(default_factory=list)  # raised first, one for each request
    log_fails: list[BrskiError] = field(default_factory=list)
    events: dict[str, list[AuditEvent]] = field(default_factory=dict)
    truncation: Truncation = field(default_factory=Truncation)
    requests: list[tuple[bytes, str]] = field(default_factory=list)  # RVR, media type
    log_requests: list[tuple[bytes, str]] = field(default_factory=list)

    def voucher(self, rvr: bytes, media_type: str) -> bytes:
        """The voucher for a registrar's request, logged."""
        self.requests.append((rvr, media_type))
        if self.fails:
            raise self.fails.pop(0)
        artifact_format = Format.of_media_type(media_type)
        verified = artifact.parse_voucher_request(rvr, artifact_format).verify_consistent(self.now)
        pinned = lowest_ca(verified.path)
        voucher = self.spoil(self._voucher(verified.value, pinned))
        self._append(voucher, pinned)
        return self.raw or artifact.sign(voucher, artifact_format, self.signer)

    def log(self, rvr: bytes, media_type: str) -> AuditLog:
        """The log of the device the request is about."""
        self.log_requests.append((rvr, media_type))
        if self.log_fails:
            raise self.log_fails.pop(0)
        asked = artifact.parse_voucher_request(rvr, Format.of_media_type(media_type)).claimed
        events = self.events.get(asked.serial_number)
        if not events:
            raise Unknown("masa-unknown-device", asked.serial_number)
        return AuditLog(events=tuple(events), truncation=self.truncation)

    def remember(self, serial: str, domain: bytes, *, days_ago: float = 0, nonce: str | None = "abcd") -> None:
        """Put somebody else's voucher into a device's history."""
        date = self.now - timedelta(days=days_ago)
        event = AuditEvent(date=date, domain_id=domain, nonce=nonce, assertion="logged")
        self.events.setdefault(serial, []).append(event)

    def _voucher(self, asked: VoucherRequest, pinned: x509.Certificate) -> Voucher:
        return Voucher(
            created_on=self.now,
            assertion=Assertion.PROXIMITY if asked.prior_signed_voucher_request else Assertion.LOGGED,
            serial_number=asked.serial_number,
            nonce=asked.nonce,
            pinned_domain_cert=to_der(pinned),
            expires_on=None if asked.nonce else self.now + timedelta(days=30),
        )

    def _append(self, voucher: Voucher, pinned: x509.Certificate) -> None:
        event = AuditEvent(
            date=self.now,
            domain_id=domain_id(pinned),
            nonce=voucher.nonce,
            assertion=str(voucher.assertion),
        )
        self.events.setdefault(voucher.serial_number, []).insert(0, event)


def lowest_ca(path: tuple[x509.Certificate, ...]) -> x509.Certificate:
    """What a MASA pins for a nonced voucher: the lowest CA, or the end entity if it is alone."""
    return next((certificate for certificate in path if is_ca(certificate)), path[0])


class MemoryMasa:
    """The registrar's `MasaClient`, without a wire."""

    def __init__(self, fake: MasaFake) -> None:
        self.fake = fake
        self.bases: list[str] = []

    async def request_voucher(self, maker: Maker, base: str, rvr: bytes, media_type: str, accept: str) -> bytes:
        """See `MasaClient`."""
        self.bases.append(base)
        return self.fake.voucher(rvr, media_type)

    async def request_audit_log(self, maker: Maker, base: str, rvr: bytes, media_type: str) -> AuditLog:
        """See `MasaClient`."""
        self.bases.append(base)
        return self.fake.log(rvr, media_type)

    async def close(self) -> None:
        """Nothing to let go of."""


@dataclass
class MasaServer:
    """What the fake saw and does on the wire."""

    fake: MasaFake
    peers: list[Peer | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[web.Request], web.Response | None] = lambda _: None  # instead of its own

    def application(self) -> web.Application:
        """The MASA's routes."""
        app = web.Application(middlewares=[_errors])
        app.router.add_post("/.well-known/brski/requestvoucher", self._voucher)
        app.router.add_post("/.well-known/brski/requestauditlog", self._log)
        app.router.add_get("/log/{slug}", self._prepared)
        return app

    async def _voucher(self, request: web.Request) -> web.Response:
        self._see(request)
        if (other := self.answer(request)) is not None:
            return other
        body = self.fake.voucher(await request.read(), request.headers["Content-Type"])
        return web.Response(body=body, content_type=request.headers["Content-Type"])

    async def _log(self, request: web.Request) -> web.Response:
        self._see(request)
        if (other := self.answer(request)) is not None:
            return other
        log = self.fake.log(await request.read(), request.headers["Content-Type"])
        return web.Response(body=auditlog.write(log), content_type=auditlog.MEDIA_TYPE)

    async def _prepared(self, request: web.Request) -> web.Response:
        self._see(request)
        log = AuditLog(events=tuple(self.fake.events[request.match_info["slug"]]))
        return web.Response(body=auditlog.write(log), content_type=auditlog.MEDIA_TYPE)

    def _see(self, request: web.Request) -> None:
        self.peers.append(peer(request))
        self.headers.append(dict(request.headers))


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BrskiError as error:
        return plain(404, error.reason)


def without_nonce(voucher: Voucher) -> Voucher:
    """A way to spoil a voucher."""
    return replace(voucher, nonce=None)
