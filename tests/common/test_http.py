"""The HTTP server: every fault of a client is a short 4xx, every wait has an end, and nothing is leaked."""

import asyncio
import logging
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import uvloop
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from brski_common import http, http_connection, http_message, http_parsing, http_site, tls
from brski_common.certificates import Peer, to_pem
from brski_common.errors import BrskiError, Misconfigured, Refused
from brski_common.http import Server
from brski_common.http_connection import Limits
from brski_common.http_message import Request, Response, plain, reply
from brski_common.http_site import Site
from tests.support.waiting import until
from tests.support.world import Domain, Manufacturer

CURL, OPENSSL = shutil.which("curl"), shutil.which("openssl")
PLANT, MAKER = Domain(), Manufacturer()
DEVICE = MAKER.idevid("J-0001")
STRANGER = Manufacturer("Nobody Knows").idevid("X-1")
PATH = "/.well-known/brski/requestvoucher"
QUICK = Limits(request_seconds=0.2, idle_seconds=0.2, handshake_seconds=0.3, stall_seconds=0.2, close_seconds=0.2)
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answer(request: Request) -> Response:
    """Who asks, and how much: what a service does first."""
    peer = http.peer(request)
    body = request.body
    if peer is not None and peer.chain[-1] == STRANGER.chain[-1]:
        raise Refused("manufacturer-unknown", "not for the client's eyes")
    return reply(200, f"{peer and len(peer.chain)} {len(body)}".encode(), "text/plain", {"X-Seen": "yes"})


async def broken(_: Request) -> Response:
    raise RuntimeError("the secret of the house")


async def large(_: Request) -> Response:
    return reply(200, bytes(1 << 16))


async def flood(_: Request) -> Response:
    """More than any buffer holds, to somebody who may not read it."""
    return reply(200, bytes(1 << 24))


def render(_: Request, error: BrskiError) -> Response:
    assert isinstance(error, Refused)
    return plain(403, error.reason)


def site() -> Site:
    made = Site(render)
    made.add("POST", PATH, answer)
    made.add("GET", "/", answer)
    made.add("HEAD", "/", answer)
    made.add("GET", "/broken", broken)
    made.add("GET", "/large", large)
    made.add("GET", "/flood", flood)
    return made


@asynccontextmanager
async def served(limits: Limits | None = None, *, encrypted: bool = True) -> AsyncIterator[Server]:
    context = tls.server_context(PLANT.registrar) if encrypted else None
    server = await http.serve(site(), "127.0.0.1", 0, context, limits=limits)
    try:
        yield server
    finally:
        await server.close(grace_seconds=0.2)


def let_pass(_: Peer) -> None:
    """A judge that lets everybody pass."""


@asynccontextmanager
async def connected(server: Server, *, encrypted: bool = True) -> AsyncIterator[Streams]:
    context = tls.client_context(DEVICE, judge=let_pass) if encrypted else None
    options = {"server_hostname": "localhost"} if encrypted else {}
    reader, writer = await asyncio.open_connection(server.host, server.port, ssl=context, **options)  # type: ignore[arg-type]  # options fit
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def ask(streams: Streams, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """One exchange; the status, the headers in lower case, the body."""
    reader, writer = streams
    writer.write(request)
    return await response_of(reader)


async def response_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers.get("content-length", "0")))


def post(body: bytes, *headers: str, path: str = PATH) -> bytes:
    fields = "".join(f"{header}\r\n" for header in (f"Content-Length: {len(body)}", *headers))
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode() + body


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.req("TL-10")
def test_many_requests_pass_over_one_connection(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def story() -> None:
        async with served() as server, connected(server) as streams:
            assert server.url == f"https://127.0.0.1:{server.port}"
            for size in (0, 1, 5000, 100_000):
                status, headers, body = await ask(streams, post(bytes(size)))
                assert (status, body) == (200, f"3 {size}".encode())
                assert headers["x-seen"] == "yes"
                assert "server" not in headers
                assert "connection" not in headers

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())


@pytest.mark.req("TL-12", "HT-10")
async def test_a_refused_device_reads_the_reason_and_not_the_detail() -> None:
    context = tls.client_context(STRANGER, judge=let_pass)
    async with served() as server:
        reader, writer = await asyncio.open_connection(
            server.host, server.port, ssl=context, server_hostname="localhost"
        )
        status, _, body = await ask((reader, writer), post(b""))
        assert (status, body) == (403, b"manufacturer-unknown\n")
        writer.close()
        await writer.wait_closed()


async def test_a_chunked_body_is_taken() -> None:
    request = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    async with served() as server, connected(server) as streams:
        status, _, body = await ask(streams, request + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n")
    assert (status, body) == (200, b"3 11")


@pytest.mark.req("AT-10", "TL-07")
async def test_a_body_of_100_megabytes_is_refused_before_it_is_sent() -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n".encode()
    async with served() as server, connected(server) as streams:
        status, _, body = await ask(streams, head)
        assert (status, body) == (413, b"body-too-large\n")


@pytest.mark.req("AT-10")
async def test_an_endless_chunked_body_is_refused_at_the_limit() -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    async with served() as server, connected(server) as (reader, writer):
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(http_site.MAX_BODY_BYTES // 0x10000 + 1):
            writer.write(chunk)
        status, _, body = await response_of(reader)
        assert (status, body) == (413, b"body-too-large\n")


@pytest.mark.req("AT-10")
async def test_a_compressed_body_is_not_unpacked() -> None:
    async with served() as server, connected(server) as streams:
        status, _, _ = await ask(streams, post(b"\x1f\x8b\x08", "Content-Encoding: gzip"))
    assert status == 415


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("GET /nowhere HTTP/1.1", 404), ("PUT / HTTP/1.1", 405), ("HEAD / HTTP/1.1", 200), ("GET / HTTP/1.0", 200)],
)
async def test_other_paths_and_methods_are_answered_in_plain_text(request_line: str, status: int) -> None:
    async with served() as server, connected(server) as (reader, writer):
        writer.write(f"{request_line}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answered = await reader.read()
    assert answered.startswith(f"HTTP/1.{'0' if '1.0' in request_line else '1'} {status} ".encode())
    assert b"Traceback" not in answered
    assert b"aiohttp" not in answered
    assert b"Python" not in answered
    assert b"text/plain" in answered


async def test_what_nobody_foresaw_is_500_with_an_id_and_the_log_has_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as server, connected(server) as streams:
        status, _, body = await ask(streams, b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status == 500
    assert b"secret" not in body
    identifier = body.decode().split()[-1]
    logged = next(record for record in caplog.records if identifier in record.message)
    assert logged.levelno == logging.ERROR
    assert logged.exc_info is not None
    assert "the secret of the house" in str(logged.exc_info[1])


@pytest.mark.req("HT-10", "AT-10")
@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW / HTTP/1.1\r\n\r\n\x00",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon here\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /" + b"a" * (http_parsing.MAX_LINE_BYTES + 1) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * (http_parsing.MAX_HEADER_BYTES + 1) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * (http_parsing.MAX_HEADERS + 1) + b"\r\n",
    ],
    ids=lambda garbage: garbage[:24].decode("latin-1").encode("unicode_escape").decode(),
)
async def test_malformed_http_is_400_without_an_echo(garbage: bytes) -> None:
    async with served() as server, connected(server) as (reader, writer):
        writer.write(garbage)
        status, headers, body = await response_of(reader)
        assert (status, body) == (400, b"http-malformed\n")
        assert headers["connection"] == "close"
        assert await reader.read() == b""


async def test_a_broken_chunk_is_400() -> None:
    async with served() as server, connected(server) as (reader, writer):
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        status, _, _ = await response_of(reader)
        assert status == 400


async def raw_answers(request: bytes, count: int = 1) -> list[tuple[int, dict[str, str], bytes]]:
    """What is answered to bytes on a plain connection."""
    async with served(encrypted=False) as server, connected(server, encrypted=False) as (reader, writer):
        writer.write(request)
        return [await asyncio.wait_for(response_of(reader), 5) for _ in range(count)]


@pytest.mark.parametrize(
    "target", [PATH, f"{PATH}?a=b", f"http://elsewhere.example{PATH}", PATH.replace("brski", "%62rski")]
)
async def test_a_path_is_found_in_every_form_of_the_target(target: str) -> None:
    ((status, _, body),) = await raw_answers(post(b"12", path=target))
    assert (status, body) == (200, b"None 2")


async def test_requests_in_one_packet_are_answered_in_their_order() -> None:
    """The second one's body comes only while the first is being answered; a 404 and an unread body stand between."""
    requests = post(b"1") + post(b"x", path="/nowhere") + post(b"333") + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = await raw_answers(requests, 4)
    assert [(status, body) for status, _, body in answers] == [
        (200, b"None 1"),
        (404, b"path-unknown\n"),
        (200, b"None 3"),
        (200, b"None 0"),
    ]


async def test_a_client_that_sends_ahead_is_not_read_while_its_request_is_answered() -> None:
    entered, leave, seen = asyncio.Event(), asyncio.Event(), list[int]()

    async def slow(request: Request) -> Response:
        entered.set()
        await leave.wait()
        seen.append(len(request.body))
        return plain(200, "done")

    slowly = Site(render)
    slowly.add("POST", "/", slow)
    server = await http.serve(slowly, "127.0.0.1", 0, None)
    async with connected(server, encrypted=False) as (reader, writer):
        writer.write(post(b"", path="/"))
        await entered.wait()
        writer.write(post(bytes(200_000), path="/") * 50)
        (connection,) = server._connections
        await until(lambda: not connection._wire.is_reading())  # type: ignore[union-attr] # it is connected
        assert len(connection._ahead) <= http_site.MAX_BODY_BYTES
        leave.set()
        for _ in range(51):
            assert (await asyncio.wait_for(response_of(reader), 5))[0] == 200
    assert seen == [0] + 50 * [200_000]
    await server.close(0.1)


@pytest.mark.req("AT-10")
@pytest.mark.parametrize("encrypted", [True, False])
async def test_a_client_has_one_answer_in_a_turn_of_the_loop_even_if_each_is_a_refusal(encrypted: bool) -> None:
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1
        handles.append(asyncio.get_running_loop().call_soon(count))

    handles: list[asyncio.Handle] = []
    request, wanted = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 500
    async with served(encrypted=encrypted) as server, connected(server, encrypted=encrypted) as (reader, writer):
        assert (await ask((reader, writer), request))[0] == 404
        writer.write(request * wanted)
        count()
        for _ in range(wanted):
            assert (await response_of(reader))[0] == 404
        handles[-1].cancel()
    assert turns >= wanted


@pytest.mark.req("AT-10", "PX-04")
@pytest.mark.parametrize(("path", "count"), [("/large", 100), ("/nowhere", 10_000)])
async def test_a_client_that_asks_and_does_not_read_is_not_answered_without_end(path: str, count: int) -> None:
    """What waits for it is bounded, not only how long."""
    limits = Limits(request_seconds=60, stall_seconds=60, close_seconds=0.2)
    async with served(limits) as server, connected(server) as (reader, writer):
        assert (await ask((reader, writer), post(b"")))[0] == 200
        (connection,) = server._connections
        wire = connection._wire
        assert wire is not None
        wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # StreamWriter's transport reads, too
        writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode() * count)
        await until(lambda: connection._stalled_until != http_connection.NEVER)
        for _ in range(1000):
            await asyncio.sleep(0)
            assert wire.get_write_buffer_size() < 1 << 18, "what the transport bears, and one answer"
        writer.transport.resume_reading()  # type: ignore[attr-defined]  # see above
        for _ in range(count):
            assert (await asyncio.wait_for(response_of(reader), 10))[0] in {200, 404}


async def test_a_client_that_waits_is_told_to_go_on_unless_its_body_is_unwelcome() -> None:
    head = post(bytes(5), "Expect: 100-continue")[:-5]
    async with served(encrypted=False) as server, connected(server, encrypted=False) as (reader, writer):
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(bytes(5))
        assert (await response_of(reader))[2] == b"None 5"
    ((status, _, _),) = await raw_answers(head.replace(b"Length: 5", b"Length: 5000000"))
    assert status == 413
    ((status, _, body),) = await raw_answers(head.replace(b"100-continue", b"a-miracle"))
    assert (status, body) == (417, b"expectation-unknown\n")


@pytest.mark.req("AT-07")
async def test_whom_the_site_does_not_admit_reads_so_before_sending_a_body() -> None:
    def admit(_: Request) -> None:
        raise Refused("too-many-refusals")

    closed = Site(render, admit=admit)
    closed.add("POST", PATH, answer)
    server = await http.serve(closed, "127.0.0.1", 0, None)
    async with connected(server, encrypted=False) as (reader, writer):
        writer.write(post(bytes(100))[:-100])
        status, headers, body = await asyncio.wait_for(response_of(reader), 5)
    assert (status, headers["connection"], body) == (403, "close", b"too-many-refusals\n")
    await server.close(0.1)


@pytest.mark.req("HT-10", "AT-10")
@pytest.mark.parametrize("length", [b"0" * 5000 + b"5", b"18446744073709551615", b"18446744073709551614"])
async def test_a_length_that_no_body_has_is_refused_and_the_connection_ends(length: bytes) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: ".encode()
    ((status, headers, _),) = await raw_answers(head + length + b"\r\n\r\nhello")
    assert (status, headers["connection"]) == (413, "close")
    ask = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    _, (status, headers, _) = await raw_answers(ask + head + length + b"\r\n\r\nhello", 2)
    assert (status, headers["connection"]) == (413, "close")


async def test_a_method_that_is_not_there_is_told_which_are() -> None:
    ((status, headers, _),) = await raw_answers(b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_a_head_has_no_body_and_the_next_answer_is_its_own() -> None:
    async with served(encrypted=False) as server, connected(server, encrypted=False) as (reader, writer):
        writer.write(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Content-Length: 6\r\n" in await reader.readuntil(b"\r\n\r\n")
        assert (await ask((reader, writer), post(b"x")))[2] == b"None 1"


async def test_an_old_client_that_asks_for_it_keeps_its_connection() -> None:
    request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    for status, headers, _ in await raw_answers(2 * request, 2):
        assert (status, headers["connection"]) == (200, "keep-alive")


TWICE = "chunked\r\nTransfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("coding", "version"), [("gzip, chunked", "1.1"), ("identity", "1.1"), (TWICE, "1.1"), ("chunked", "1.0")]
)
async def test_a_transfer_coding_that_is_not_spoken_is_refused(coding: str, version: str) -> None:
    fields = f"Connection: keep-alive\r\nTransfer-Encoding: {coding}"
    head = f"POST {PATH} HTTP/{version}\r\nHost: x\r\n{fields}\r\n\r\n0\r\n\r\n"
    ((status, headers, _),) = await raw_answers(head.encode())
    assert (status, headers["connection"]) == (400, "close")


async def test_another_protocol_is_not_begun_and_what_follows_the_offer_is_dropped() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00"
    ((status, headers, _),) = await raw_answers(request)
    assert (status, headers["connection"]) == (200, "close")


@pytest.mark.req("AT-10")
async def test_a_header_field_can_never_become_two(caplog: pytest.LogCaptureFixture) -> None:
    async def careless(_: Request) -> Response:
        return reply(200, b"", None, {"Location": "/x\r\nSet-Cookie: y"})

    made = Site(render)
    made.add("GET", "/", careless)
    server = await http.serve(made, "127.0.0.1", 0, None)
    async with connected(server, encrypted=False) as streams:
        status, headers, body = await ask(streams, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, "set-cookie" in headers) == (500, False)
    assert body.decode().split()[-1] in caplog.text
    await server.close(0.1)


def test_an_answer_has_a_date_and_204_has_no_length() -> None:
    head = http_message.head(Response(204), 784111777.9)
    assert head == b"HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n"


LINES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        b"GET / HTTP/1.1|POST / HTTP/1.1|Host: x|Content-Length: 5|Transfer-Encoding: chunked||5|Expect: 100-continue"
        b"|Upgrade: websocket|Connection: Upgrade|Accept: ;q=,|GET http://[ HTTP/1.1|GET /%zz?%ff#\xff HTTP/1.1"
        b"|CONNECT x:1 HTTP/1.1|Content-Type: ;;|Content-Encoding: \xff".split(b"|")
    ),
)


@pytest.mark.req("HT-10", "AT-10")
def test_no_bytes_at_all_make_a_500_or_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def story(lines: list[bytes], server: Server) -> None:
        async with connected(server, encrypted=False) as (reader, writer):
            writer.write(b"\r\n".join(lines))
            writer.write_eof()
            with suppress(ConnectionError):
                answered = await reader.read()
                assert b"HTTP/1.1 5" not in answered
                assert b"HTTP/1.0 5" not in answered

    with asyncio.Runner() as runner:
        context = served(encrypted=False)
        server = runner.run(context.__aenter__())

        @settings(max_examples=300, deadline=None)
        @given(st.lists(LINES, min_size=1, max_size=12))
        def anything(lines: list[bytes]) -> None:
            runner.run(story(lines, server))

        try:
            anything()
        finally:
            runner.run(context.__aexit__(None, None, None))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.req("PX-04", "AT-10")
@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_head_that_does_not_come_is_cut_off(sent: bytes) -> None:
    async with served(QUICK) as server, connected(server) as (reader, writer):
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 5) == b""


@pytest.mark.req("PX-04", "AT-10")
async def test_dripping_bytes_do_not_prolong_the_deadline() -> None:
    async with served(QUICK) as server, connected(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n")
        ended = asyncio.ensure_future(reader.read())
        drops = 0
        while not ended.done() and drops < 1000:
            writer.write(b"X: y\r\n" if drops % 20 == 0 else b"")
            await asyncio.wait([ended], timeout=0.01)
            drops += 1
        assert await ended == b""


@pytest.mark.req("AT-10")
async def test_a_body_that_does_not_come_is_answered_408() -> None:
    async with served(QUICK) as server, connected(server) as (reader, writer):
        writer.write(post(bytes(100))[:-50])
        status, headers, body = await asyncio.wait_for(response_of(reader), 5)
        assert (status, body) == (408, b"request-timeout\n")
        assert headers["connection"] == "close"


class Stuck(asyncio.Transport):
    """What was written does not leave, so that closing has no end: plain TCP to a client that does not read."""

    aborted = False

    def close(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


async def test_a_closed_connection_whose_last_bytes_do_not_leave_is_disconnected() -> None:
    connection, stuck = http_connection.HttpConnection(site(), Limits(), lambda _: None), Stuck()
    connection.connection_made(stuck)
    now = asyncio.get_running_loop().time()
    connection.check_time(now + Limits().request_seconds + 1)
    connection.check_time(now + Limits().request_seconds + 2)
    assert not stuck.aborted
    connection.check_time(now + Limits().request_seconds + Limits().stall_seconds + 2)
    assert stuck.aborted


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with served(QUICK) as server, connected(server) as (reader, writer):
        assert (await ask((reader, writer), post(b"x")))[0] == 200
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_second_request_has_a_deadline_of_its_own() -> None:
    limits = Limits(request_seconds=0.2, close_seconds=0.2)
    async with served(limits) as server, connected(server) as (reader, writer):
        assert (await ask((reader, writer), post(b"x")))[0] == 200
        writer.write(b"GET / HTTP/1.1\r\nX-Slow: ")
        assert await asyncio.wait_for(reader.read(), 5) == b""


@pytest.mark.req("AT-07")
async def test_half_a_request_right_behind_a_whole_one_has_a_deadline_too() -> None:
    limits = Limits(request_seconds=0.2, close_seconds=0.2)
    async with served(limits) as server, connected(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + post(bytes(100))[:-50])
        assert (await asyncio.wait_for(response_of(reader), 5))[0] == 200
        assert (await asyncio.wait_for(response_of(reader), 5))[0] == 408


@pytest.mark.req("PX-04")
async def test_a_client_that_does_not_read_is_disconnected() -> None:
    async with served(QUICK) as server, connected(server) as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # StreamWriter's transport reads, too
        writer.write(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: not (server._connections or server._greetings))
        assert not reader.at_eof()
        writer.transport.abort()


async def test_a_client_that_never_shakes_hands_is_disconnected() -> None:
    async with served(QUICK) as server, connected(server, encrypted=False) as (reader, writer):
        writer.write(b"\x16\x03\x01")
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_plain_http_at_the_tls_port_is_disconnected() -> None:
    async with served() as server, connected(server, encrypted=False) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionError):
            assert not (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP")


@pytest.mark.req("PX-04")
async def test_clients_beyond_the_limit_wait_until_one_leaves() -> None:
    async with served(Limits(connections=1)) as server, connected(server) as first:
        assert (await ask(first, post(b"x")))[0] == 200
        second = connected(server)
        waiting = asyncio.ensure_future(second.__aenter__())
        await asyncio.wait([waiting], timeout=0.1)
        assert not waiting.done()
        first[1].close()
        streams = await asyncio.wait_for(waiting, 5)
        assert (await ask(streams, post(b"x")))[0] == 200
        await second.__aexit__(None, None, None)


async def test_failed_handshakes_give_their_slots_back() -> None:
    async with served(Limits(connections=2)) as server:
        for _ in range(5):
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(b"no TLS at all, sorry")
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        async with connected(server) as streams:
            assert (await ask(streams, post(b"x")))[0] == 200


async def test_a_running_request_may_finish_while_the_server_closes() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Response:
        entered.set()
        await leave.wait()
        return plain(200, "done")

    slowly = Site(render)
    slowly.add("GET", "/", slow)
    server = await http.serve(slowly, "127.0.0.1", 0, tls.server_context(PLANT.registrar))
    async with connected(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await entered.wait()
        closing = asyncio.ensure_future(server.close(grace_seconds=5))
        await asyncio.wait([closing], timeout=0.05)
        assert not closing.done()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(server.host, server.port)
        leave.set()
        assert (await response_of(reader))[0] == 200
        await closing


@pytest.mark.parametrize("encrypted", [True, False])
async def test_a_client_that_stops_in_the_middle_leaves_nothing_behind(
    encrypted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(encrypted=encrypted) as server:
        for ending in (asyncio.StreamWriter.close, lambda writer: writer.transport.abort()):
            async with connected(server, encrypted=encrypted) as (_, writer):
                writer.write(post(bytes(100))[:-50])
                ending(writer)
        await until(lambda: not (server._connections or server._greetings))
    assert "internal error" not in caplog.text


async def test_an_address_in_use_is_a_misconfiguration() -> None:
    async with served() as server:
        with pytest.raises(Misconfigured) as refused:
            await http.serve(site(), "127.0.0.1", server.port, None)
    assert refused.value.reason == "address-not-usable"
    assert refused.value.detail == (
        f"127.0.0.1 port {server.port}: address already in use; stop what listens there, or choose another port"
    )


async def test_a_name_that_is_no_address_is_a_misconfiguration() -> None:
    with pytest.raises(Misconfigured) as refused:
        await http.serve(site(), "no such host", 0, None)
    assert "rrno" not in refused.value.detail


async def test_two_servers_can_share_a_port_and_an_ipv6_url_has_brackets() -> None:
    first = await http.serve(site(), "::1", 0, None, reuse_port=True)
    second = await http.serve(site(), "::1", first.port, None, reuse_port=True)
    assert first.url == second.url == f"http://[::1]:{first.port}"
    await first.close()
    await second.close()


def request_with(headers: dict[str, str]) -> Request:
    return Request("POST", "/", "/", CIMultiDictProxy(CIMultiDict(headers)), asyncio.Transport())


@pytest.mark.parametrize(
    ("accept", "wanted", "taken"),
    [
        (None, "application/voucher-cms+json", True),
        ("", "application/voucher-cms+json", True),
        ("application/voucher-cms+json", "application/voucher-cms+json", True),
        ("Application/Voucher-CMS+json; q=0.5, text/html", "application/voucher-cms+json", True),
        ("*/*", "application/voucher-cms+json", True),
        ("application/*", "application/voucher-cms+json", True),
        ("text/*", "application/voucher-cms+json", False),
        ("application/voucher-jws+json", "application/voucher-cms+json", False),
        ("application/voucher-cms+json;q=0, */*", "application/voucher-cms+json", False),
        ("*/*;q=0", "application/voucher-cms+json", False),
        ("*/*;q=nonsense", "application/voucher-cms+json", True),
    ],
)
def test_what_a_client_accepts(accept: str | None, wanted: str, taken: bool) -> None:
    request = request_with({} if accept is None else {"Accept": accept})
    assert http_message.accepts(request, wanted) is taken


@pytest.mark.parametrize(
    ("sent", "read"), [("", ""), ("Text/Plain; charset=utf-8", "text/plain"), (";", ""), ("garbage", "garbage")]
)
def test_the_media_type_is_read_without_its_parameters(sent: str, read: str) -> None:
    assert http_message.media_type(request_with({"Content-Type": sent})) == read


@pytest.mark.skipif(CURL is None, reason="install the package curl: a foreign client is wanted")
@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_curl_posts_with_a_client_certificate(tmp_path: Path, version: str) -> None:
    (tmp_path / "cert.pem").write_bytes(to_pem(*DEVICE.chain))
    (tmp_path / "key.pem").write_bytes(DEVICE.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "ca.pem").write_bytes(to_pem(PLANT.root.certificate))
    (tmp_path / "body").write_bytes(bytes(200_000))
    files = ["--cert", "cert.pem", "--key", "key.pem", "--cacert", "ca.pem", "--data-binary", "@body"]
    async with served() as server:
        process = await asyncio.create_subprocess_exec(
            str(CURL), "-sS", f"--tlsv{version}", "--tls-max", version, *files, server.url + PATH,
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
    assert output == b"3 200000"


@pytest.mark.skipif(CURL is None, reason="install the package curl: a foreign client is wanted")
async def test_curl_reads_why_its_large_body_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "body").open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    async with served() as server:
        process = await asyncio.create_subprocess_exec(
            str(CURL), "-sSk", "--data-binary", "@body", "-H", "Expect:", "-w", "%{http_code}", server.url + PATH,
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
    assert output.startswith(b"body-too-large\n413")


async def test_a_client_of_the_standard_library_is_served() -> None:
    context = ssl.create_default_context(cadata=to_pem(PLANT.root.certificate).decode())
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    async with served() as server:
        reader, writer = await asyncio.open_connection(server.host, server.port, ssl=context)
        assert (await ask((reader, writer), post(b"x")))[2] == b"None 1"
        writer.close()
        await writer.wait_closed()
