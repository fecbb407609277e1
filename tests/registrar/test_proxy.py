"""The join proxy on loopback: real sockets, real TLS on both sides of it, and a clock that is set."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brski_common import tls
from brski_common.certificates import Peer
from brski_common.errors import Misconfigured, PeerFailed
from brski_registrar.discovery import Endpoint, parse_endpoint
from brski_registrar.limits import Limits
from brski_registrar.proxy import CHUNK_BYTES, KERNEL_BUFFER_BYTES, JoinProxy, listen
from tests.support.world import Domain, Manufacturer

LOCAL = Endpoint("127.0.0.1", 0)
PATIENCE = 10.0


@dataclass
class Ticks:
    """Monotonic seconds that stand until somebody moves them."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Registrar:
    """A TCP server that hands its connections to the test."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.endpoint = LOCAL

    @asynccontextmanager
    async def open(self, **options: object) -> AsyncIterator["Registrar"]:
        writers: list[asyncio.StreamWriter] = []

        async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await self.connections.put((reader, writer))

        server = await asyncio.start_server(keep, LOCAL.host, 0, **options)  # type: ignore[arg-type] # as they come
        self.endpoint = Endpoint(*server.sockets[0].getsockname())
        try:
            yield self
        finally:
            server.close()
            for writer in writers:
                with suppress(AttributeError):  # of a TLS transport that is closed already, up to Python 3.11.6
                    writer.transport.abort()
            await asyncio.sleep(0)

    async def upstream(self) -> Sequence[Endpoint]:
        return (self.endpoint,)


@asynccontextmanager
async def proxied(
    limits: Limits | None = None, clock: Ticks | None = None, **options: object
) -> AsyncIterator[tuple[JoinProxy, Registrar]]:
    async with asyncio.timeout(PATIENCE), Registrar().open(**options) as registrar:
        listener = await listen(LOCAL, any_address=True)
        proxy = JoinProxy(listener, registrar.upstream, limits=limits, clock=clock or Ticks())
        try:
            yield proxy, registrar
        finally:
            await proxy.close()


@asynccontextmanager
async def device(proxy: JoinProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(proxy.endpoint.host, proxy.endpoint.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def settled(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 -- what is waited for has no event, and each turn is a short one
            await asyncio.sleep(0)


# Bytes


@pytest.mark.req("PX-01")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    up=st.lists(st.binary(max_size=3 * CHUNK_BYTES), max_size=5),
    down=st.lists(st.binary(max_size=3 * CHUNK_BYTES), max_size=5),
)
def test_any_stream_of_bytes_goes_through_unchanged(up: list[bytes], down: list[bytes]) -> None:
    asyncio.run(_exchange(up, down))


async def _exchange(up: list[bytes], down: list[bytes]) -> None:
    async with proxied() as (proxy, registrar), device(proxy) as (reader, writer):
        far_reader, far_writer = await registrar.connections.get()
        await asyncio.gather(_write_all(writer, up), _write_all(far_writer, down))
        received = await asyncio.gather(far_reader.read(), reader.read())
    assert list(received) == [b"".join(up), b"".join(down)]
    assert proxy.counters.bytes_up == len(b"".join(up))
    assert proxy.counters.bytes_down == len(b"".join(down))


async def _write_all(writer: asyncio.StreamWriter, chunks: list[bytes]) -> None:
    for chunk in chunks:
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


@pytest.mark.req("PX-01", "DS-21")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_of_either_version_goes_through_with_both_certificates(version: ssl.TLSVersion) -> None:
    domain, idevid = Domain(), Manufacturer().idevid("SN-1")
    server = tls.server_context(domain.registrar, minimum_version=version, maximum_version=version)
    seen: list[Peer] = []
    client = tls.client_context(idevid, judge=seen.append)
    async with proxied(ssl=server) as (proxy, registrar):
        reader, writer = await asyncio.open_connection(proxy.endpoint.host, proxy.endpoint.port, ssl=client)
        far_reader, far_writer = await registrar.connections.get()
        writer.write(b"hello")
        assert await far_reader.readexactly(5) == b"hello"
        far_writer.write(b"welcome")
        assert await reader.readexactly(7) == b"welcome"
        peer = tls.peer_of(far_writer.transport)
        assert peer is not None
        assert peer.certificate == idevid.certificate
        assert [each.certificate for each in seen] == [domain.registrar.certificate]
        writer.close()
        await far_reader.read()
        far_writer.close()


# Ends


@pytest.mark.req("PX-04")
async def test_a_device_that_has_said_everything_still_gets_its_answer() -> None:
    async with proxied() as (proxy, registrar), device(proxy) as (reader, writer):
        writer.write(b"question")
        writer.write_eof()
        far_reader, far_writer = await registrar.connections.get()
        assert await far_reader.read() == b"question"
        far_writer.write(b"answer")
        far_writer.write_eof()
        assert await reader.read() == b"answer"
        await settled(lambda: proxy.counters.closed["done"] == 1)


@pytest.mark.req("PX-04")
async def test_a_registrar_that_has_said_everything_still_hears_the_device() -> None:
    async with proxied() as (proxy, registrar), device(proxy) as (reader, writer):
        far_reader, far_writer = await registrar.connections.get()
        far_writer.write(b"greeting")
        far_writer.write_eof()
        assert await reader.read() == b"greeting"
        writer.write(b"thanks")
        writer.write_eof()
        assert await far_reader.read() == b"thanks"
        await settled(lambda: proxy.counters.closed["done"] == 1)


async def test_a_broken_connection_is_broken_on_the_other_side_too() -> None:
    async with proxied() as (proxy, registrar), device(proxy) as (reader, _):
        _, far_writer = await registrar.connections.get()
        linger = struct.pack("ii", 1, 0)
        far_writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        far_writer.transport.abort()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert proxy.counters.closed == {"connection-broken": 1}


async def test_a_registrar_that_is_away_costs_the_device_no_time_and_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with Registrar().open() as registrar:
        pass
    listener = await listen(LOCAL, any_address=True)
    proxy = JoinProxy(listener, registrar.upstream)
    async with device(proxy) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert proxy.counters.closed == {"registrar-unreachable": 1}
    told = capsys.readouterr().err
    assert "registrar not reached" in told
    assert str(registrar.endpoint) in told
    await proxy.close()


async def test_a_registrar_that_cannot_be_found_is_counted() -> None:
    async def nowhere() -> Sequence[Endpoint]:
        raise PeerFailed("registrar-not-found", "nobody answered")

    proxy = JoinProxy(await listen(LOCAL, any_address=True), nowhere)
    async with device(proxy) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read()
    assert proxy.counters.closed == {"registrar-not-found": 1}
    await proxy.close()


async def test_the_next_address_of_the_registrar_is_tried() -> None:
    async with Registrar().open() as gone:
        pass
    async with Registrar().open() as registrar:

        async def both() -> Sequence[Endpoint]:
            return (gone.endpoint, registrar.endpoint)

        proxy = JoinProxy(await listen(LOCAL, any_address=True), both)
        async with device(proxy) as (_, writer):
            writer.write(b"x")
            far_reader, far_writer = await registrar.connections.get()
            assert await far_reader.readexactly(1) == b"x"
            far_writer.close()
        await proxy.close()


# Limits


@pytest.mark.req("PX-04")
async def test_a_source_with_too_many_connections_is_turned_away() -> None:
    async with proxied(Limits(per_source=2)) as (proxy, registrar), device(proxy), device(proxy):
        for _ in range(2):
            await registrar.connections.get()
        async with device(proxy) as (reader, _):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        assert proxy.counters.refused == {"too-many-from-source": 1}
        assert len(proxy.gate) == 2


@pytest.mark.req("PX-04", "AT-07")
async def test_a_connection_the_registrar_never_answers_ends() -> None:
    clock = Ticks()
    async with proxied(Limits(opening_seconds=15), clock) as (proxy, registrar), device(proxy) as (reader, writer):
        await registrar.connections.get()
        clock.now += 14
        writer.write(b"\x16")  # a byte now and then helps nobody
        await settled(lambda: any(flow.bytes_up for flow in proxy.gate._flows))
        clock.now += 1
        proxy.sweep()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert proxy.counters.closed == {"opening-timeout": 1}


@pytest.mark.req("PX-04")
async def test_a_silent_connection_ends_and_one_that_talks_does_not() -> None:
    clock = Ticks()
    limits = Limits(idle_seconds=100, total_seconds=1000)
    async with proxied(limits, clock) as (proxy, registrar), device(proxy) as (silent, _):
        _, first = await registrar.connections.get()
        async with device(proxy) as (busy, _):
            _, second = await registrar.connections.get()
            await _talk(proxy, clock, (first, silent), (second, busy))


Line = tuple[asyncio.StreamWriter, asyncio.StreamReader]


async def _talk(proxy: JoinProxy, clock: Ticks, silent: Line, busy: Line) -> None:
    for writer, reader in (silent, busy):
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
    clock.now += 99
    busy[0].write(b"y")
    assert await busy[1].readexactly(1) == b"y"
    await settled(lambda: any(flow.active == clock.now for flow in proxy.gate._flows))
    clock.now += 1
    proxy.sweep()
    with pytest.raises(ConnectionResetError):
        await silent[1].read()
    assert proxy.counters.closed == {"idle-timeout": 1}
    assert len(proxy.gate) == 1
    clock.now += 1000
    busy[0].write(b"z")
    assert await busy[1].readexactly(1) == b"z"
    proxy.sweep()
    await settled(lambda: proxy.counters.closed["lifetime-exceeded"] == 1)


@pytest.mark.req("PX-04", "AT-07")
async def test_silent_connections_make_room_for_a_device() -> None:
    clock = Ticks()
    limits = Limits(total=2, per_source=10, evictable_seconds=10)
    async with proxied(limits, clock) as (proxy, registrar), device(proxy) as (lazy, _), device(proxy):
        for _ in range(2):
            await registrar.connections.get()
        clock.now += 10
        async with device(proxy) as (_, writer):
            far_reader, _ = await registrar.connections.get()
            writer.write(b"here I am")
            assert await far_reader.readexactly(9) == b"here I am"
            with pytest.raises(ConnectionResetError):
                await lazy.read()
        assert proxy.counters.closed["evicted"] == 1


@pytest.mark.req("PX-04")
async def test_a_reader_that_stops_stops_the_sender() -> None:
    """What the proxy and the kernel hold of a stream is bounded, however much the registrar has to say."""
    async with proxied(Limits(per_source=4)) as (proxy, registrar):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (proxy.endpoint.host, proxy.endpoint.port))
        _, far_writer = await registrar.connections.get()
        sock = far_writer.transport.get_extra_info("socket")
        written, stuck = 0, 0
        # Nobody reads. When a thousand turns of the loop move nothing, nothing moves any more.
        while stuck < 1000 and written < 64 * 1024 * 1024:
            try:
                written, stuck = written + sock._sock.send(b"x" * CHUNK_BYTES), 0
            except BlockingIOError:
                stuck += 1
            await asyncio.sleep(0)
        assert written < 8 * 1024 * 1024  # the kernel's buffers on the way; the proxy itself holds one chunk
        flow = next(iter(proxy.gate._flows))
        assert flow.bytes_down <= written - CHUNK_BYTES
        received = 0
        while received < written:  # and when somebody reads again, everything is there
            received += len(await asyncio.get_running_loop().sock_recv(client, CHUNK_BYTES))
        assert received == written
        client.close()


async def test_stopping_the_proxy_ends_everything() -> None:
    async with Registrar().open() as registrar:
        proxy = JoinProxy(await listen(LOCAL, any_address=True), registrar.upstream)
        async with device(proxy) as (reader, _):
            await registrar.connections.get()
            await proxy.close()
            with pytest.raises(ConnectionError):
                assert await reader.read() != b""
        assert proxy.counters.closed == {"shutdown": 1}
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.endpoint.host, proxy.endpoint.port)


# Addresses


@pytest.mark.req("PX-02")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::", "0.0.0.0", "169.254.1.1", "2001:db8::1", "localhost"])
async def test_only_a_link_local_address_is_taken_unasked(host: str) -> None:
    with pytest.raises(Misconfigured, match="address-not-link-local"):
        await listen(Endpoint(host, 0))


@pytest.mark.req("PX-03")
async def test_the_port_is_any_free_one_unless_set() -> None:
    listeners = [await listen(LOCAL, any_address=True) for _ in range(2)]
    assert len({listener.getsockname()[1] for listener in listeners} - {0}) == 2
    for listener in listeners:
        listener.close()


async def test_an_address_that_is_not_here_is_told() -> None:
    with pytest.raises(Misconfigured, match="address-not-usable"):
        await listen(Endpoint("fe80::dead:beef%lo", 0))


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("registrar.example:8443", Endpoint("registrar.example", 8443)),
        ("[fe80::1%eth0]:0", Endpoint("fe80::1%eth0", 0)),
        ("192.0.2.1:1", Endpoint("192.0.2.1", 1)),
    ],
)
def test_an_endpoint_is_read(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text, port_needed=False) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "fe80::1:80", "h:99999", "h:0", "h:-1", "h:\u0661"])
def test_what_is_no_endpoint_is_told(text: str) -> None:
    with pytest.raises(Misconfigured, match="endpoint-invalid"):
        parse_endpoint(text)
