"""The registrar's side of BRSKI-MASA, over real TLS and HTTP to a fake MASA on loopback."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from aiohttp import web
from cryptography import x509

from brski_common import tls
from brski_common.artifact import Format
from brski_common.auditlog import AuditLog
from brski_common.certificates import ID_KP_CLIENT_AUTH, Credential
from brski_common.errors import BrskiError, Misconfigured, NotYet, PeerFailed, Refused, Unknown
from brski_registrar import vouchering
from brski_registrar.identity import Maker
from brski_registrar.masa_client import HttpMasaClient
from brski_registrar.policy import Login
from tests.support import foreign_server
from tests.support.masa_fake import MasaFake, MasaServer
from tests.support.plant import CMS, record_of
from tests.support.world import Clock, Domain, Manufacturer

MAKER, DOMAIN = Manufacturer(), Domain()


@dataclass
class Talk:
    """A client, a server, and what they said."""

    client: HttpMasaClient
    server: foreign_server.ForeignServer
    seen: MasaServer
    maker: Maker

    @property
    def base(self) -> str:
        return f"{self.server.url}/.well-known/brski"

    async def voucher(self, base: str | None = None, serial: str = "SN-1") -> bytes:
        return await self.client.request_voucher(self.maker, base or self.base, rvr_for(serial), CMS, CMS)

    async def log(self, serial: str = "SN-1") -> AuditLog:
        return await self.client.request_audit_log(self.maker, self.base, rvr_for(serial), CMS)

    def known_as(self, **record: object) -> None:
        self.maker = Maker.of(record_of(MAKER, **record))


def rvr_for(serial: str) -> bytes:
    rvr = replace(vouchering.compose_nonceless(serial, None, Clock().now), nonce="n")
    return vouchering.sign(rvr, Format.CMS, DOMAIN.registrar, record_of(MAKER), DOMAIN.registrar.chain)


@asynccontextmanager
async def talk(
    credential: Credential | None = None, secret: Callable[[str], str] | None = None, **record: object
) -> AsyncIterator[Talk]:
    seen = MasaServer(MasaFake(MAKER.voucher_signer))
    server = await foreign_server.serve(seen.application(), "127.0.0.1", 0, tls.server_context(credential or MAKER.tls))
    client = HttpMasaClient(DOMAIN.registrar, clock=Clock(), secret=secret)
    try:
        yield Talk(client, server, seen, Maker.of(record_of(MAKER, **record)))
    finally:
        await client.close()
        await server.close()


@pytest.mark.req("MT-01", "MT-03", "MT-08", "TL-02", "TL-14", "RM-01")
async def test_the_registrar_shows_its_certificate_and_keeps_the_connection() -> None:
    async with talk() as masa:
        assert await masa.voucher()
        assert (await masa.log()).events
        (first, second) = masa.seen.peers
        assert first is not None
        assert first is second, "one connection for both"
        assert first.chain == DOMAIN.registrar.chain
        usages = first.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert ID_KP_CLIENT_AUTH in usages
        assert masa.seen.headers[0]["Accept"] == CMS


@pytest.mark.req("MT-03")
async def test_no_client_certificate_where_none_is_wanted() -> None:
    async with talk(login=Login.NONE) as masa:
        await masa.voucher()
        assert masa.seen.peers == [None]


@pytest.mark.parametrize(
    ("credential", "reason"),
    [
        (Manufacturer(name="Elsewhere").tls, "path-not-found"),
        (MAKER.tls_for(x509.DNSName("other.example")), "host-name-mismatch"),
        (MAKER.idevid("SN-9"), "host-name-mismatch"),
        (Domain().registrar, "path-not-found"),
    ],
)
@pytest.mark.req("MT-02", "TL-12")
async def test_a_server_that_is_not_the_masa_gets_nothing(credential: Credential, reason: str) -> None:
    async with talk(credential) as masa:
        with pytest.raises(PeerFailed, match=f"masa-untrusted.*{reason}"):
            await masa.voucher()
        assert not masa.seen.fake.requests


@pytest.mark.req("MT-02")
async def test_the_masas_name_is_sent_as_sni() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read(16_384))
        writer.close()

    listener = await asyncio.start_server(listen, "localhost", 0)
    async with talk() as masa, listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(PeerFailed):
            await masa.voucher(f"https://localhost:{port}/.well-known/brski")
    assert b"\x00\x00\x09localhost" in heard.get_nowait()  # RFC 6066, 3: host_name, its length, the name


@pytest.mark.req("MT-02")
async def test_dns_id_is_matched() -> None:
    async with talk(MAKER.tls_for(x509.DNSName("localhost"))) as masa:
        base = masa.base.replace("127.0.0.1", "localhost")
        assert await masa.voucher(base)
        with pytest.raises(PeerFailed, match="masa-untrusted"):
            await masa.voucher()


async def test_without_anchors_no_masa_is_trusted() -> None:
    async with talk(masa_tls_anchors="") as masa:
        with pytest.raises(Misconfigured, match="masa-anchors-missing"):
            await masa.voucher()


@pytest.mark.req("MT-03", "MT-04")
async def test_http_basic() -> None:
    async with talk(
        secret={"masa": "s3cret"}.__getitem__, login=Login.BASIC, login_user="me", login_secret="masa"
    ) as masa:
        await masa.voucher()
        assert masa.seen.headers[0]["Authorization"] == "Basic " + base64.b64encode(b"me:s3cret").decode()
        assert masa.seen.peers == [None]


@pytest.mark.req("MT-03", "MT-04")
async def test_http_digest_answers_the_challenge_and_goes_on_with_its_nonce() -> None:
    async with talk(secret=lambda _: "s3cret", login=Login.DIGEST, login_user="me", login_secret="masa") as masa:

        def ask(request: web.Request) -> web.Response | None:
            if "Authorization" in request.headers:
                return None
            challenge = 'Digest realm="masa", qop="auth", algorithm=SHA-256, nonce="abc"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})

        masa.seen.answer = ask
        await masa.voucher()
        await masa.voucher(serial="SN-2")
    authorized = [headers.get("Authorization", "") for headers in masa.seen.headers]
    assert [("nc=00000001" in text, "nc=00000002" in text) for text in authorized] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    assert not any("s3cret" in text for text in authorized)


@pytest.mark.req("MT-05")
async def test_an_unexpected_401_is_a_fault_the_operator_reads_about(capsys: pytest.CaptureFixture[str]) -> None:
    async with talk() as masa:
        masa.seen.answer = lambda _: web.Response(status=401, text="who are you?")
        with pytest.raises(PeerFailed, match=r"masa-login-refused.*who are you"):
            await masa.voucher()
    assert "another login" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, Refused, "masa-refused"),
        (403, Refused, "masa-refused"),
        (404, Unknown, "masa-unknown-device"),
        (406, Refused, "masa-cannot-issue"),
        (415, Refused, "masa-unsupported-format"),
        (418, PeerFailed, "masa-failed"),
        (302, PeerFailed, "masa-failed"),
        (500, PeerFailed, "masa-failed"),
    ],
)
@pytest.mark.req("HT-08", "MA-24")
async def test_a_masas_answers(status: int, kind: type[BrskiError], reason: str) -> None:
    async with talk() as masa:
        location = {"Location": "https://evil.example/"}
        masa.seen.answer = lambda _: web.Response(status=status, text="bec\x1bause\n", headers=location)
        with pytest.raises(kind) as raised:
            await masa.voucher()
        assert raised.value.reason == reason
        assert "\x1b" not in raised.value.detail


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("99999999", 3600.0),
        ("9" * 4500, 10.0),
        ("soon", 10.0),
        ("", 10.0),
        ("Mon, 01 Jan 2020 00:00:00 +999999999999999999999", 10.0),
    ],
)
@pytest.mark.req("HT-02", "RA-06")
async def test_a_masa_that_is_not_ready(header: str, seconds: float) -> None:
    async with talk() as masa:
        masa.seen.answer = lambda _: web.Response(status=202, headers={"Retry-After": header})
        with pytest.raises(NotYet) as raised:
            await masa.voucher()
        assert raised.value.retry_after == seconds


async def test_a_voucher_of_another_type_or_size_is_none() -> None:
    async with talk() as masa:
        masa.seen.answer = lambda _: web.Response(body=b"x", content_type="text/html")
        with pytest.raises(PeerFailed, match="masa-media-type"):
            await masa.voucher()
        masa.seen.answer = lambda _: web.Response(body=b"x" * 200_000, content_type=CMS)
        with pytest.raises(PeerFailed, match="response-too-large"):
            await masa.voucher()


@pytest.mark.req("AL-01", "AL-06")
async def test_a_log_may_be_fetched_from_where_the_masa_prepared_it() -> None:
    async with talk() as masa:
        await masa.voucher()
        direct = await masa.log()
        masa.seen.answer = lambda request: web.Response(status=201, headers={"Location": "/log/SN-1"})
        assert await masa.log() == direct


@pytest.mark.parametrize(
    "location",
    ["", "https://evil.example/log", "http://127.0.0.1/log", "//evil.example/x", "https://[", "//[", "https://\u2100/"],
)
async def test_a_log_elsewhere_is_not_fetched(location: str) -> None:
    async with talk() as masa:
        masa.seen.answer = lambda _: web.Response(status=201, headers={"Location": location})
        with pytest.raises(PeerFailed, match="audit-log-elsewhere"):
            await masa.log()


async def test_a_log_that_cannot_be_read() -> None:
    async with talk() as masa:
        masa.seen.answer = lambda _: web.Response(body=b"{", content_type="application/json")
        with pytest.raises(PeerFailed, match="audit-log-unreadable"):
            await masa.log()
        masa.seen.answer = lambda _: None
        with pytest.raises(Unknown):
            await masa.log("SN-UNKNOWN")


async def test_a_masa_that_is_not_there() -> None:
    async with talk() as masa:
        await masa.server.close()
        with pytest.raises(PeerFailed, match="peer-unreachable"):
            await masa.voucher()


@pytest.mark.req("ID-11")
async def test_a_changed_record_counts_at_once() -> None:
    async with talk() as masa:
        await masa.voucher()
        masa.known_as(login=Login.NONE)
        await masa.voucher()
        assert [peer is None for peer in masa.seen.peers] == [False, True]


async def test_a_record_that_only_was_read_again_keeps_its_connection() -> None:
    async with talk() as masa:
        await masa.voucher()
        masa.known_as()
        await masa.voucher()
        assert masa.seen.peers[0] is masa.seen.peers[1]
        masa.known_as(ignore_expired_idevid=True)
        await masa.voucher()
        assert masa.seen.peers[1] is not masa.seen.peers[2]
        assert len(masa.client._sites) == 1, "the one for the old record is gone"
