"""A certification authority behind EST, over real TLS, that copies what a request says: names, extensions, key.

It is the careless CA that an RA has to reckon with. One rule it has: a request whose challengePassword does not belong
to the connection it came over is taken from an RA only (RFC 7030, 3.5 and 3.7), that is a certificate of its own with
id-kp-cmcRA. `answers` are given first, one for each request, in place of a certificate.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

from aiohttp import web
from cryptography import x509

from brski_common import csrattrs, est, issuing, tls
from brski_common.certificates import (
    ID_KP_CMC_RA,
    ID_KP_SERVER_AUTH,
    Credential,
    Peer,
    PublicKey,
    extended_key_usages,
)
from brski_common.csr import challenge_password, public_key, read_csr
from brski_common.csrattrs import CsrAttributes
from tests.support.foreign_server import ForeignServer, peer, plain, reply, serve
from tests.support.world import LOOPBACK, Clock, Domain

Answer = Callable[["CaFake", x509.CertificateSigningRequest | None], Awaitable[web.StreamResponse]]


@dataclass
class CaFake:
    """The CA. What it saw is in `requests` (path and CSR, byte for byte) and `peers`."""

    issuer: Credential
    clock: Clock
    label: str = ""
    authorities: tuple[x509.Certificate, ...] = ()
    attributes: CsrAttributes | None = None
    answers: list[Answer] = field(default_factory=list)
    asked: list[Answer] = field(default_factory=list)  # the same for GET, where there is no request
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)  # paths of GET
    peers: list[Peer | None] = field(default_factory=list)
    issued: list[x509.Certificate] = field(default_factory=list)
    server: ForeignServer = field(init=False)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, clock: Clock, domain: Domain | None = None, *, credential: Credential | None = None, label: str = ""
    ) -> AsyncIterator["CaFake"]:
        """Listen on loopback as the CA of `domain`; its server has the certificate `credential`."""
        domain = domain or Domain()
        ca = cls(domain.issuing, clock, label, domain.issuing.chain)
        app, prefix = web.Application(), f"{est.WELL_KNOWN}/{label}".rstrip("/")
        app.router.add_get(f"{prefix}/{{operation:cacerts|csrattrs}}", ca._question)
        app.router.add_post(f"{prefix}/simpleenroll", ca._enroll)
        context = tls.server_context(credential or server_of(domain))
        ca.server = await serve(app, "127.0.0.1", 0, context)
        try:
            yield ca
        finally:
            await ca.server.close(0.1)

    def certificate(self, csr: x509.CertificateSigningRequest, **changes: object) -> x509.Certificate:
        """The certificate for a request, but for `changes`, which are arguments of `issuing.end_entity`."""
        now = self.clock()
        extensions = [(each.value, each.critical) for each in csr.extensions]
        made: dict[str, object] = {
            "issuer": self.issuer,
            "public_key": public_key(csr),
            "subject": csr.subject,
            "not_before": now - timedelta(minutes=5),
            "not_after": now + timedelta(days=90),
            "extensions": extensions,
        }
        return issuing.end_entity(**(made | changes))  # type: ignore[arg-type] # see above

    def hand_out(self, *certificates: x509.Certificate) -> web.Response:
        """An answer with these certificates."""
        self.issued.extend(certificates)
        return reply(200, est.encode_body(est.certs_only(certificates)), est.CERTS_ONLY)

    async def _question(self, request: web.Request) -> web.StreamResponse:
        self.questions.append(request.path)
        self.peers.append(peer(request))
        if self.asked:
            return await self.asked.pop(0)(self, None)
        if request.match_info["operation"] == "cacerts":
            return reply(200, est.encode_body(est.certs_only(self.authorities)), est.CERTS_ONLY)
        if self.attributes is None:
            return reply(204)
        return reply(200, est.encode_body(csrattrs.write(self.attributes)), est.CSRATTRS)

    async def _enroll(self, request: web.Request) -> web.StreamResponse:
        body = est.decode_body(await request.read())
        client = peer(request)
        self.requests.append((request.path, body))
        self.peers.append(client)
        csr = read_csr(body)
        if self.answers:
            return await self.answers.pop(0)(self, csr)
        if not self._is_linked(csr, request) and not self._is_ra(client):
            return plain(403, "this request is not linked to this session, and you are no RA")
        return self.hand_out(self.certificate(csr))

    @staticmethod
    def _is_linked(csr: x509.CertificateSigningRequest, request: web.Request) -> bool:
        said = challenge_password(csr)
        assert request.transport is not None
        return said is None or said == base64.b64encode(tls.channel_binding(request.transport) or b"").decode()

    def _is_ra(self, peer: Peer | None) -> bool:
        return (
            peer is not None
            and ID_KP_CMC_RA in extended_key_usages(peer.certificate)
            and peer.certificate.issuer == self.issuer.certificate.subject
        )


def server_of(domain: Domain, *names: x509.GeneralName) -> Credential:
    """The certificate of a CA's EST server, which is no registrar's."""
    return domain.registrar_with(usages=(ID_KP_SERVER_AUTH,), names=names or LOOPBACK)


# Answers


def status(code: int, text: str = "no", retry_after: str | None = None) -> Answer:
    """A status, a text, and Retry-After."""

    async def answer(_: CaFake, __: x509.CertificateSigningRequest | None) -> web.StreamResponse:
        response = plain(code, text)
        if retry_after is not None:
            response.headers["Retry-After"] = retry_after
        return response

    return answer


def body(data: bytes, media_type: str = est.CERTS_ONLY) -> Answer:
    """A success with that body."""

    async def answer(_: CaFake, __: x509.CertificateSigningRequest | None) -> web.StreamResponse:
        return reply(200, data, media_type)

    return answer


def certificate(**changes: object) -> Answer:
    """A certificate with changes; `public_key`, `issuer` and the like."""

    async def answer(ca: CaFake, csr: x509.CertificateSigningRequest | None) -> web.StreamResponse:
        assert csr is not None
        return ca.hand_out(ca.certificate(csr, **changes))

    return answer


def subordinate() -> Answer:
    """The certificate of a CA, for the device's key."""

    async def answer(ca: CaFake, csr: x509.CertificateSigningRequest | None) -> web.StreamResponse:
        assert csr is not None
        key = cast("PublicKey", public_key(csr))
        made = issuing.subordinate_ca(
            Domain().root, key, csr.subject, now=ca.clock(), lifetime=timedelta(days=90), path_length=0
        )
        return ca.hand_out(made)

    return answer


def silence() -> Answer:
    """No answer, ever."""

    async def answer(_: CaFake, __: x509.CertificateSigningRequest | None) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    return answer
