"""The HTTP client: one call, one request, one bounded answer, and a reason for everything else."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import uvloop

from brski_common import tls
from brski_common.certificates import Peer
from brski_common.errors import BrskiError, Malformed, PeerFailed, Untrusted
from brski_common.http_client import HttpClient, HttpResponse
from brski_common.http_parsing import MAX_HEADER_BYTES
from tests.support.world import Domain, Manufacturer, self_signed_registrar

PLANT, MAKER = Domain(), Manufacturer()
DEVICE = MAKER.idevid("J-0001")
OK = b"HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; x=y\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FACTORIES = pytest.mark.parametrize(
    "factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@dataclass
class Awkward:
    """A server that says the same thing to everybody, and remembers what it heard."""

    says: bytes = OK
    hang_up: bool = False
    url: str = ""
    heard: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((line[16:] for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")), b"0")
                self.heard.append(head + await reader.readexactly(int(length)))
                writer.write(self.says)
                if self.hang_up:
                    break
        writer.close()


@asynccontextmanager
async def awkward(
    says: bytes = OK, *, hang_up: bool = False, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> AsyncIterator[Awkward]:
    peer = Awkward(says, hang_up)
    server = await asyncio.start_server(
        peer.serve, host, 0, ssl=context or tls.server_context(PLANT.registrar), ssl_shutdown_timeout=0.2
    )
    port = server.sockets[0].getsockname()[1]
    peer.url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    async with server:
        yield peer


def let_pass(_: Peer) -> None:
    """A judge that lets everybody pass."""


def client(judge: Callable[[Peer], None] = let_pass, *, seconds: float = 10) -> HttpClient:
    context = tls.client_context(DEVICE, judge=judge)
    return HttpClient(context, request_seconds=seconds)


async def failure(request: Awaitable[HttpResponse]) -> str:
    with pytest.raises(PeerFailed) as failed:
        await request
    return failed.value.reason


@FACTORIES
@pytest.mark.req("TL-05", "TL-10")
def test_an_answer_comes_whole_and_with_its_peer(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def story() -> None:
        async with awkward() as server, client() as http:
            for _ in range(3):
                answer = await http.request("POST", server.url + "/x?y=z", body=b"question", headers={"X-A": "b"})
                assert (answer.status, answer.body, answer.media_type) == (200, b"ok", "text/plain")
                assert answer.headers["content-length"] == "2"
                assert answer.peer is not None
                assert answer.peer.chain == PLANT.registrar.chain
                assert answer.peer.address == "127.0.0.1"
            assert server.connections == 1
            assert server.heard[0].startswith(b"POST /x?y=z HTTP/1.1\r\n")
            assert server.heard[0].endswith(b"\r\n\r\nquestion")
            assert b"X-A: b\r\n" in server.heard[0]
            assert b"Accept-Encoding: identity\r\n" in server.heard[0]
            assert b"User-Agent" not in server.heard[0]

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())


async def test_an_empty_post_says_so_and_a_get_has_no_body() -> None:
    async with awkward() as server, client() as http:
        await http.request("POST", server.url)
        await http.request("GET", server.url)
    assert b"Content-Length: 0\r\n" in server.heard[0]
    assert b"Content-Length" not in server.heard[1]


@pytest.mark.req("HT-06", "AT-09")
async def test_no_redirect_is_followed() -> None:
    says = b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with awkward(says) as server, client() as http:
        answer = await http.request("GET", server.url)
    assert answer.status == 302
    assert answer.headers["Location"] == "https://127.0.0.1:1/"


@pytest.mark.req("AT-08")
async def test_retry_after_is_left_to_the_caller() -> None:
    says = b"HTTP/1.1 202 Accepted\r\nRetry-After: 999999\r\nContent-Length: 0\r\n\r\n"
    async with awkward(says) as server, client() as http:
        answer = await http.request("GET", server.url)
    assert (answer.status, answer.headers["Retry-After"]) == (202, "999999")


async def test_no_cookie_is_kept_and_no_proxy_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    says = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n")
    async with awkward(says) as server, client() as http:
        await http.request("GET", server.url)
        await http.request("GET", server.url)
    assert b"Cookie" not in server.heard[1]


@pytest.mark.req("TL-07", "AT-10")
@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n", "response-too-large"),
        (CHUNKED + b"1000\r\n" + bytes(4096) + b"\r\n", "response-too-large"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(5000), "response-too-large"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx", "response-compressed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n", "response-malformed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100 + b"\r\n", "response-malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "response-incomplete"),
        (CHUNKED + b"zz\r\n", "response-malformed"),
        (CHUNKED + b"5\r\nhe", "response-incomplete"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "response-malformed"),
        (b"\x00" * 100, "response-malformed"),
        (b"", "peer-disconnected"),
    ],
    ids=["length", "chunks", "until-close", "gzip", "header", "headers",
         "short", "zz", "chunk", "ssh", "zeros", "silence"],
)  # fmt: skip
async def test_what_is_wrong_with_an_answer_has_a_name(says: bytes, reason: str) -> None:
    async with awkward(says, hang_up=True) as server, client() as http:
        assert await failure(http.request("GET", server.url, limit=4000)) == reason
        assert len(server.heard) == 1, "a request must not be repeated"


PLAINTEXT_ALERT = bytes.fromhex("15 0303 0002 0100")  # close_notify, as anybody can write it
GARBAGE = bytes.fromhex("17 0303 0014") + bytes(20)


@pytest.mark.parametrize("injected", [b"", PLAINTEXT_ALERT, GARBAGE], ids=["end", "alert", "garbage"])
@pytest.mark.req("TL-07", "AT-10")
async def test_an_answer_without_a_length_must_end_with_a_goodbye(injected: bytes) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        await writer.drain()
        # What somebody on the path can do: end TCP, but not TLS.
        connection = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
        with connection:
            connection.sendall(injected)
            connection.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0, ssl=tls.server_context(PLANT.registrar))
    async with server, client() as http:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await failure(http.request("GET", url)) == "response-incomplete"


async def test_a_host_that_is_no_name_is_not_reached() -> None:
    async with client() as http:
        for host in ("a" * 64 + ".example", "a..example"):
            assert await failure(http.request("GET", f"https://{host}/")) in {"peer-unreachable", "peer-name-not-found"}


async def test_an_answer_that_does_not_come_is_given_up() -> None:
    async with awkward(b"") as server, client(seconds=0.1) as http:
        assert await failure(http.request("GET", server.url)) == "peer-timeout"


async def test_an_answer_that_drips_is_given_up() -> None:
    async with awkward(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx") as server, client(seconds=0.1) as http:
        assert await failure(http.request("GET", server.url)) == "peer-timeout"


async def test_a_connection_reset_in_the_middle_of_an_answer_has_a_name() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx")
        await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0, ssl=tls.server_context(PLANT.registrar))
    async with server, client() as http:
        port = server.sockets[0].getsockname()[1]
        assert await failure(http.request("GET", f"https://127.0.0.1:{port}/")) == "response-incomplete"


async def test_nobody_at_home_has_a_name() -> None:
    async with awkward() as server:
        pass
    async with client() as http:
        assert await failure(http.request("GET", server.url)) == "peer-unreachable"


async def test_a_name_that_does_not_exist_has_a_name() -> None:
    async with client() as http:
        assert await failure(http.request("GET", "https://nowhere.invalid/")) == "peer-name-not-found"


@pytest.mark.parametrize("hang_up", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["plain http", "closed"])
async def test_a_peer_without_tls_has_a_name(hang_up: bytes) -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hang_up)
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server, client() as http:
        port = server.sockets[0].getsockname()[1]
        assert await failure(http.request("GET", f"https://127.0.0.1:{port}/")) == "tls-handshake-failed"


@FACTORIES
def test_what_the_judge_raises_is_what_the_caller_gets(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    error = Untrusted("host-name-mismatch", "somebody else")

    def strict(_: Peer) -> None:
        raise error

    async def story() -> None:
        async with awkward() as server, client(strict) as http:
            with pytest.raises(BrskiError) as refused:
                await http.request("POST", server.url, body=b"secret")
            assert refused.value is error
        assert not server.heard

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())


async def test_a_refused_peer_is_not_asked_again_at_its_other_address() -> None:
    def strict(_: Peer) -> None:
        raise Untrusted("path-not-found")

    async with awkward() as server:
        port = int(server.url.rpartition(":")[2])
        other = Awkward()
        context = tls.server_context(PLANT.registrar)
        async with (
            await asyncio.start_server(other.serve, "::1", port, ssl=context),
            client(strict) as http,
        ):
            with pytest.raises(Untrusted):
                await http.request("GET", f"https://localhost:{port}/")
    assert server.connections + other.connections <= 1


@pytest.mark.req("TL-06", "TL-05")
async def test_a_provisional_client_remembers_whom_it_met() -> None:
    met: list[Peer] = []
    lonely = self_signed_registrar()
    async with awkward(context=tls.server_context(lonely)) as server, client(met.append) as http:
        answer = await http.request("GET", server.url)
    assert answer.peer is not None
    assert answer.peer.chain == met[0].chain == lonely.chain


@pytest.mark.req("TL-10")
async def test_a_new_connection_takes_the_place_of_a_lost_one() -> None:
    says = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with awkward(says, hang_up=True) as server, client() as http:
        for _ in range(2):
            assert (await http.request("POST", server.url)).status == 200
    assert server.connections == 2


async def test_a_closed_client_says_so() -> None:
    async with awkward() as server:
        http = client()
        await http.request("GET", server.url)
        await http.close()
        assert await failure(http.request("GET", server.url)) == "connection-gone"


def link_local() -> tuple[str, str]:
    """An IPv6 address with a zone that this machine can talk to: a link-local one, or else loopback's."""
    with suppress(OSError), open("/proc/net/if_inet6") as table:  # noqa: PTH123 -- a kernel table, not a path
        for address, _, _, scope, _, device in (line.split() for line in table):
            if scope == "20":
                return ":".join(address[start : start + 4] for start in range(0, 32, 4)), device
    return "::1", "lo"


@FACTORIES
@pytest.mark.req("TL-15", "PX-02")
def test_a_link_local_address_keeps_its_zone_to_itself(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    address, zone = link_local()

    async def story() -> None:
        async with awkward(host=f"{address}%{zone}") as server, client() as http:
            port = server.url.rpartition(":")[2]
            for spelling in ("%25", "%"):
                answer = await http.request("GET", f"https://[{address}{spelling}{zone}]:{port}/a%20b")
                assert answer.status == 200
            assert answer.peer is not None
            assert answer.peer.address is not None
        assert f"\r\nHost: [{address}]:{port}\r\n".encode() in server.heard[0]
        assert server.heard[0].startswith(b"GET /a%20b HTTP/1.1\r\n")
        assert zone.encode() not in server.heard[0] + server.heard[1]

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())


async def test_the_host_header_can_be_chosen() -> None:
    async with awkward() as server, client() as http:
        await http.request("GET", server.url, headers={"Host": "registrar.example"})
    assert server.heard[0].count(b"Host: ") == 1
    assert b"\r\nHost: registrar.example\r\n" in server.heard[0]


@pytest.mark.parametrize(
    "url",
    [
        "", "nonsense", "ftp://host/", "https://", "https:///path", "https://u:p@host/", "https://host:port/", "https://[/",
        "https://[fe80::1%25eth0]/ HTTP/1.1\r\nX: y", "https://host/\r\nX: y", "https://[::1", "https://h\x00/",
    ],
)  # fmt: skip
async def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    async with client() as http:
        with pytest.raises(Malformed) as refused:
            await http.request("GET", url)
    assert refused.value.reason == "url-malformed"


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    async with awkward() as server, client() as http:
        with pytest.raises(Malformed) as refused:
            await http.request("GET", server.url, headers={"X-A": "b\r\nX-C: d"})
        assert refused.value.reason == "header-malformed"
    assert not server.heard
