"""What a pledge puts on the wire, seen by a stranger who only captures: TLS, HTTP and mDNS bytes."""

import asyncio
import secrets
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from zeroconf import DNSIncoming, ServiceInfo  # type: ignore[attr-defined] # missing in zeroconf's __all__
from zeroconf.asyncio import AsyncZeroconf

from brski_common import est
from brski_common.csr import challenge_password
from brski_common.csrwishes import CHALLENGE_PASSWORD, Wishes
from brski_pledge import Pledge, PledgeSettings, actions
from brski_pledge.mdns import SERVICE, Browser
from tests.support.registrar_fake import Answer, FakeRegistrar, HangUp, Stage, serve
from tests.support.world import NOW, Manufacturer

MAKER = Manufacturer()
SERVER_NAME, SESSION_TICKET, SUPPORTED_VERSIONS, PRE_SHARED_KEY = 0, 35, 43, 41


def pledge(state: Path, *registrars: str, **settings: object) -> Pledge:
    chosen = PledgeSettings(mdns=False, registrars=registrars, **({"once": True} | settings))  # type: ignore[arg-type] # as PledgeSettings takes them
    return Pledge(chosen, MAKER.idevid("SN-1"), MAKER.voucher_anchors, state=state, clock=lambda: NOW)


@asynccontextmanager
async def capturing(count: int = 1) -> AsyncIterator[tuple[int, "asyncio.Queue[bytes]"]]:
    """A port that takes what comes first and says nothing."""
    captured: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        captured.put_nowait(await reader.read(16_384))
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], captured


def extensions_of(hello: bytes) -> dict[int, bytes]:
    """The extensions of a ClientHello (RFC 8446, 4.1.2), read by hand."""
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]  # session id
    at += 2 + int.from_bytes(hello[at : at + 2])  # cipher suites
    at += 1 + hello[at] + 2  # compression methods, then the length of all extensions
    found = {}
    while at + 4 <= len(hello):
        kind, length = struct.unpack_from("!HH", hello, at)
        found[kind] = hello[at + 4 : at + 4 + length]
        at += 4 + length
    return found


@pytest.mark.req("TL-01", "TL-15", "TL-18", "E-03")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_client_hello_offers_tls_1_2_and_1_3_no_resumption_and_a_name_only_for_a_name(
    host: str, tmp_path: Path
) -> None:
    async with capturing() as (port, captured):
        await pledge(tmp_path, f"{host}:{port}").onboard()
        hello = captured.get_nowait()
    extensions = extensions_of(hello)
    assert extensions[SUPPORTED_VERSIONS] == b"\x04\x03\x04\x03\x03"
    assert SESSION_TICKET not in extensions
    assert PRE_SHARED_KEY not in extensions
    assert (SERVER_NAME in extensions) is (host == "localhost")


@pytest.mark.req("AT-07", "TL-08", "DS-08")
async def test_a_registrar_that_dribbles_does_not_hold_up_another(tmp_path: Path) -> None:
    never = asyncio.Event()

    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x16\x03")  # the beginning of a record, and no more
        await never.wait()
        writer.close()

    slow = await asyncio.start_server(dribble, "127.0.0.1", 0)
    good = await serve(FakeRegistrar(maker=MAKER))
    addresses = (f"127.0.0.1:{slow.sockets[0].getsockname()[1]}", good.url.removeprefix("https://"))
    async with asyncio.timeout(8):
        outcome = await pledge(tmp_path, *addresses, attempt_spacing=0.2).onboard()
    assert outcome.is_operational
    never.set()
    slow.close()
    await good.close(0.1)


@pytest.mark.req("E-05")
async def test_a_challenge_for_a_password_is_never_answered(tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    registrar.always["simpleenroll"] = Answer(401, b"", {"WWW-Authenticate": 'Basic realm="plant"'})
    server = await serve(registrar)
    outcome = await pledge(tmp_path, server.url.removeprefix("https://")).onboard()
    await server.close(0.1)
    assert (outcome.state, outcome.reason) == ("refused", "enrollment-refused")
    assert all("authorization" not in {name.lower() for name in send.headers} for send in registrar.seen)


@pytest.mark.req("E-17", "D-9")
async def test_where_a_challenge_password_is_asked_for_it_is_the_channel_binding(tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER, wishes=Wishes(others=(CHALLENGE_PASSWORD,)))
    registrar.script("csrattrs", Answer(200, est.encode_body(bytes.fromhex("300b06092a864886f70d010907"))))
    server = await serve(registrar)
    outcome = await pledge(tmp_path, server.url.removeprefix("https://")).onboard()
    await server.close(0.1)
    assert outcome.is_operational
    text = challenge_password(est.read_csr(est.decode_body(registrar.asked("simpleenroll")[0].body)))
    assert text is not None
    assert len(text) == 44, "32 bytes of the exporter as base64 (RFC 9266, 2)"


@pytest.mark.req("D-9")
def test_where_none_is_asked_for_there_is_none() -> None:
    stage = Stage()
    registrar = stage.add()
    stage.find()
    assert isinstance(stage.run(), actions.Done)
    assert challenge_password(est.read_csr(est.decode_body(registrar.asked("simpleenroll")[0].body))) is None


@pytest.mark.req("AT-10", "TL-07")
@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 abc\r\n\r\n",
        b"\x00" * 64,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    ],
    ids=[
        "huge",
        "negative",
        "two lengths",
        "no status",
        "zeros",
        "many headers",
        "huge chunk",
        "compressed",
        "continue",
    ],
)
async def test_broken_http_is_a_clean_failure(reply: bytes, tmp_path: Path) -> None:
    from brski_common import tls

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(reply)
        writer.close()

    context = tls.server_context(FakeRegistrar().domain.registrar)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server, asyncio.timeout(20):
        outcome = await pledge(tmp_path, f"127.0.0.1:{server.sockets[0].getsockname()[1]}").onboard()
    assert outcome.state == "failed"
    assert outcome.reason in {
        "response-malformed",
        "response-too-large",
        "response-incomplete",
        "response-compressed",
        "peer-disconnected",
    }


# mDNS, captured


def _listener() -> socket.socket:
    ears = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    ears.bind(("", 5353))
    group = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
    ears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    ears.setblocking(False)
    return ears


async def _next_query(ears: socket.socket, known: str) -> DNSIncoming:
    """The next query for our service that names `known` among the answers it has, or the next at all."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(10):
        while True:
            message = DNSIncoming(await loop.sock_recv(ears, 9000))
            asked = [question.name.lower() for question in message.questions]
            answers = [getattr(record, "alias", "") for record in message.answers()]
            if message.is_query() and SERVICE in asked and (not known or known in answers):
                return message


@pytest.mark.req("DS-13")
async def test_queries_are_delayed_and_name_the_answers_already_known() -> None:
    name = f"proxy-{secrets.token_hex(4)}"
    found = asyncio.Event()
    browser = Browser(lambda offer: found.set() if offer.port == 4713 else None, ("127.0.0.1",))
    await browser.ready()
    proxy = AsyncZeroconf(interfaces=["127.0.0.1"])
    service = ServiceInfo(SERVICE, f"{name}.{SERVICE}", 4713, parsed_addresses=["127.0.0.1"], server=f"{name}.local.")
    await proxy.async_register_service(service)
    async with asyncio.timeout(10):
        await found.wait()
    with _listener() as ears:
        begin = asyncio.get_running_loop().time()
        browser.query()
        await _next_query(ears, f"{name}.{SERVICE}")
        assert asyncio.get_running_loop().time() - begin >= 0.019
    await browser.close()
    await proxy.async_close()


def test_a_stranger_cannot_hang_up_on_an_answer_that_was_heard() -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.script("csrattrs", HangUp())
    stage.find()
    assert isinstance(stage.run(), actions.Done)
