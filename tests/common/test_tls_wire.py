"""TLS on a TCP transport: handshake, data both ways, flow control, and every way to end."""

import asyncio
import ctypes
import ctypes.util
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
import uvloop

from brski_common import tls
from brski_common.certificates import Peer
from brski_common.errors import Untrusted
from brski_common.tls_wire import TlsWire
from tests.support.world import Domain, Manufacturer

PLANT, DEVICE = Domain(), Manufacturer().idevid("W-0001")
SECONDS = 10.0
MEGABYTE = 1 << 20

LOOPS = pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


class Listener(asyncio.Protocol):
    """A protocol that remembers what it was told; `echoes` sends back what comes."""

    def __init__(self, *, echoes: bool = False) -> None:
        self.echoes = echoes
        self.told: list[str] = []
        self.received = bytearray()
        self.paused = 0
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.told.append("made")
        self.changed.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.echoes:
            self.transport.write(data)
        self.changed.set()

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost.set_result(exc)
        self.changed.set()

    def pause_writing(self) -> None:
        self.paused += 1
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def serving(
    context: ssl.SSLContext | tls.TlsContext | None = None, *, echoes: bool = True
) -> AsyncIterator[tuple[int, list[Listener]]]:
    """A TCP server each of whose connections is a wire; the port and the protocols."""
    loop = asyncio.get_running_loop()
    listeners: list[Listener] = []

    def wire() -> TlsWire:
        listeners.append(Listener(echoes=echoes))
        server = context or tls.server_context(PLANT.registrar)
        assert isinstance(server, tls.TlsContext)
        return TlsWire(server, listeners[-1], server_side=True, close_seconds=1.0)

    server = await loop.create_server(wire, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], listeners
    finally:
        server.close()


async def connect(
    port: int,
    *,
    judge: Callable[[Peer], None] = lambda _: None,
    maximum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> tuple[TlsWire, Listener]:
    listener = Listener()
    side = tls.client_side(DEVICE, judge=judge, maximum_version=maximum_version)
    wire = TlsWire(side, listener, server_side=False)
    await asyncio.get_running_loop().create_connection(lambda: wire, "127.0.0.1", port)
    async with asyncio.timeout(SECONDS):  # no task of its own: some tests count the turns of the event loop
        await wire.opened()
    return wire, listener


@LOOPS
@pytest.mark.req("TL-05")
def test_both_ends_meet_and_talk(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def story() -> None:
        async with serving() as (port, servers):
            wire, listener = await connect(port)
            wire.write(b"hello")
            await listener.until(lambda: bytes(listener.received) == b"hello")
            for transport, chain in ((wire, PLANT.registrar.chain), (servers[0].transport, DEVICE.chain)):
                peer = tls.peer_of(transport)
                assert peer is not None
                assert (peer.chain, peer.address) == (chain, "127.0.0.1")
            assert tls.channel_binding(wire) == tls.channel_binding(servers[0].transport)
            wire.close()
            assert await asyncio.wait_for(servers[0].lost, SECONDS) is None
            assert await asyncio.wait_for(listener.lost, SECONDS) is None
            assert servers[0].told == ["made", "eof", "lost"]
            assert listener.told == ["made", "lost"]

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())


@LOOPS
def test_much_comes_whole_and_a_slow_reader_stops_the_writer(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def story() -> None:
        async with serving(echoes=False) as (port, servers):
            wire, listener = await connect(port)
            await servers[0].until(lambda: servers[0].told == ["made"])
            servers[0].transport.pause_reading()
            data = bytes(range(256)) * (16 * MEGABYTE // 256)
            wire.write(data)
            await listener.until(lambda: listener.paused > 0)
            assert wire.get_write_buffer_size() > 0
            assert not servers[0].received
            assert not servers[0].transport.is_reading()
            servers[0].transport.resume_reading()
            await servers[0].until(lambda: len(servers[0].received) == len(data))
            assert bytes(servers[0].received) == data
            wire.close()
            await servers[0].lost
            await listener.lost

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())


async def test_what_was_written_before_closing_arrives() -> None:
    async with serving(echoes=False) as (port, servers):
        wire, listener = await connect(port)
        wire.write(bytes(MEGABYTE))
        wire.close()
        wire.write(b"too late")
        await asyncio.wait_for(servers[0].lost, SECONDS)
        await asyncio.wait_for(listener.lost, SECONDS)
    assert bytes(servers[0].received) == bytes(MEGABYTE)


async def test_the_judges_word_ends_the_handshake_and_the_protocol_never_hears_of_it() -> None:
    error = Untrusted("path-not-found")

    def strict(_: Peer) -> None:
        raise error

    async with serving() as (port, servers):
        with pytest.raises(tls.PeerRefusedError) as refused:
            await connect(port, judge=strict)
        await asyncio.sleep(0)
    assert refused.value.error is error
    assert all(listener.told == [] for listener in servers)


async def test_a_peer_that_speaks_no_tls_is_an_error() -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ssl.SSLError):
            await connect(server.sockets[0].getsockname()[1])


async def test_a_peer_that_hangs_up_in_the_handshake_is_an_error() -> None:
    async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(rude, "127.0.0.1", 0)
    async with server:
        with pytest.raises(ConnectionResetError):
            await connect(server.sockets[0].getsockname()[1])


async def test_a_handshake_that_takes_too_long_is_given_up() -> None:
    over = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        wire = TlsWire(tls.client_side(None, judge=lambda _: None), Listener(), server_side=False)
        port = server.sockets[0].getsockname()[1]
        await asyncio.get_running_loop().create_connection(lambda: wire, "127.0.0.1", port)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.opened(), 0.05)
        assert wire.is_closing()
        over.set()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_that_says_nothing_still_ends_its_handshake(version: ssl.TLSVersion) -> None:
    async with serving() as (port, servers):
        wire, _ = await connect(port, maximum_version=version)
        await servers[0].until(lambda: servers[0].told == ["made"])
        wire.abort()


async def test_the_last_word_of_a_handshake_travels_with_the_first_that_is_said() -> None:
    async with serving() as (port, servers):
        wire, listener = await connect(port)
        assert servers[0].told == [], "the client has the server's flight, and its own is still here"
        wire.write(b"hello")
        await listener.until(lambda: bytes(listener.received) == b"hello")
        assert bytes(servers[0].received) == b"hello"
        wire.close()
        await servers[0].lost
        await listener.lost


def update_keys(port: int, count: int) -> int:
    """A client on the system's libssl that only asks for new keys; how often it could."""
    name = ctypes.util.find_library("ssl")
    if name is None:
        pytest.skip("no libssl: install the Debian package libssl3")
    library, pointer = ctypes.CDLL(name), ctypes.c_void_p
    for function in (library.TLS_client_method, library.SSL_CTX_new, library.SSL_new):
        function.restype = pointer
    context = pointer(library.SSL_CTX_new(pointer(library.TLS_client_method())))
    connection = pointer(library.SSL_new(context))
    with socket.create_connection(("127.0.0.1", port)) as raw:
        library.SSL_set_fd(connection, raw.fileno())
        assert library.SSL_connect(connection) == 1
        for done in range(count):
            if library.SSL_key_update(connection, 0) != 1 or library.SSL_do_handshake(connection) != 1:
                return done
    return count


@pytest.mark.req("AT-10")
async def test_a_peer_that_only_asks_for_new_keys_is_put_out() -> None:
    async with serving() as (port, servers):
        assert await asyncio.to_thread(update_keys, port, 100) == 100, "now and then that is what TLS wants"
        assert await asyncio.to_thread(update_keys, port, 1_000_000) < 1_000_000
        await asyncio.wait_for(servers[1].lost, SECONDS)
        assert not servers[1].received


async def test_bytes_that_are_no_record_end_the_connection() -> None:
    async with serving() as (port, servers):
        wire, listener = await connect(port)
        wire.write(b"x")
        await listener.until(lambda: bool(listener.received))
        assert wire._raw is not None
        wire._raw.write(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(servers[0].lost, SECONDS)
        await asyncio.wait_for(listener.lost, SECONDS)


async def test_abort_needs_no_goodbye() -> None:
    async with serving() as (port, servers):
        wire, listener = await connect(port)
        await servers[0].until(lambda: servers[0].told == ["made"])
        wire.abort()
        assert wire.is_closing()
        await asyncio.wait_for(listener.lost, SECONDS)
        await asyncio.wait_for(servers[0].lost, SECONDS)


async def test_a_standard_client_is_understood() -> None:
    """The other end is Python's own ssl module."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with serving() as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), SECONDS) == b"hello"
        writer.close()
        await writer.wait_closed()


@LOOPS
def test_closing_what_the_peer_has_left_just_now_is_no_error(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    def connect(port: int) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port)))

    async def story() -> None:
        async with serving() as (port, listeners):
            client = await asyncio.to_thread(connect, port)
            (listener,) = listeners
            await listener.until(lambda: "made" in listener.told)
            os.close(client.detach())  # our goodbye will be answered by a reset, before the loop has a turn to see it
            listener.transport.close()
            await listener.lost

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())


def test_wires_of_two_threads_share_no_memory() -> None:
    """OpenSSL runs without the interpreter's lock: one thread's plaintext must not pass through the other's buffer."""

    async def buffers() -> tuple[object, object]:
        wire = TlsWire(tls.server_context(PLANT.registrar), asyncio.Protocol(), server_side=True)
        return wire._plain, wire._encrypted

    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(asyncio.run, buffers()).result()
    here = asyncio.run(buffers())
    assert not set(map(id, here)) & set(map(id, there))
