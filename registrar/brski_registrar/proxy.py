"""The join proxy: carries TCP bytes between devices on a link and the registrar (RFC 8995, 4).

The laws of this file:

1. Bytes go through as they are, in order, in both directions; nothing here knows what TLS is (RFC 8995, 4).
2. What one side does not read, the other side may not send: a relayed connection holds at most two chunks.
3. An end of stream is passed on as an end of stream, a broken connection as a broken one.
4. The device side is link-local (RFC 8995, 4.1); anything else only if the operator said so.
"""

import asyncio
import ipaddress
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from brski_common import logs
from brski_common.errors import BrskiError, Misconfigured, PeerFailed, Refused
from brski_registrar.discovery import Endpoint
from brski_registrar.limits import Flow, Gate, Limits

CHUNK_BYTES: Final = 16 * 1024  # in flight in one direction of one connection, besides the kernel's buffers
KERNEL_BUFFER_BYTES: Final = 64 * 1024
BACKLOG: Final = 128
CONNECT_SECONDS: Final = 5.0  # to one address of the registrar
ACCEPT_PAUSE_SECONDS: Final = 0.5  # after accept() failed, as it does when the process is out of descriptors
SWEEP_SECONDS: Final = 1.0
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST

SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
Upstream = Callable[[], Awaitable[Sequence[Endpoint]]]

log = logs.logger("join-proxy")


@dataclass(slots=True)
class Counters:
    """What a proxy has done since it started: numbers for the metrics."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason
    closed: Counter[str] = field(default_factory=Counter)  # by reason
    bytes_up: int = 0
    bytes_down: int = 0


class JoinProxy:
    """A listening proxy. `upstream` tells where the registrar is, `clock` is monotonic seconds."""

    def __init__(
        self,
        listener: socket.socket,
        upstream: Upstream,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.endpoint = _endpoint_of(listener)
        self.counters = Counters()
        self.gate = Gate(limits or Limits())
        self._listener, self._upstream, self._clock = listener, upstream, clock
        self._link_local = _is_link_local(self.endpoint.host)
        self._relays: dict[Flow, asyncio.Task[None]] = {}
        self._tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._sweep())]

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Accept nothing more, give relayed connections `grace_seconds`, then break them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        if self._relays and grace_seconds:
            await asyncio.wait(self._relays.values(), timeout=grace_seconds)
        for relay in self._relays.values():
            relay.cancel("shutdown")
        await asyncio.gather(*self._relays.values(), return_exceptions=True)

    def sweep(self) -> None:
        """End the connections whose time is over."""
        for flow, reason in self.gate.expired(self._clock()):
            self._end(flow, reason)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("cannot accept connections", error=error)
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            try:
                self._admit(client, address)
            except Refused as error:
                self.counters.refused[error.reason] += 1
                log.debug("refused", source=address[0], reason=error.reason)
                _reset(client)

    def _admit(self, client: socket.socket, address: tuple[str, int]) -> None:
        source = address[0].partition("%")[0]
        if self._link_local and not _is_link_local(source):
            raise Refused("source-not-link-local", source)
        flow, victim = self.gate.enter(source, self._clock())
        if victim is not None:
            self._end(victim, "evicted")
        self.counters.accepted += 1
        self._relays[flow] = asyncio.create_task(self._relay(flow, client))

    def _end(self, flow: Flow, reason: str) -> None:
        self.gate.leave(flow)
        if flow in self._relays:
            self._relays[flow].cancel(reason)

    async def _relay(self, flow: Flow, client: socket.socket) -> None:
        """One connection from its beginning to its end; whatever ends it, both sockets are closed."""
        sockets, reason = [client], "done"
        try:
            registrar = await self._connect()
            sockets.append(registrar)
            _prepare(client)
            await self._both_ways(flow, client, registrar)
        except asyncio.CancelledError as cancelled:
            reason = str(cancelled.args[0]) if cancelled.args else "shutdown"
        except (BrskiError, OSError) as error:
            reason = error.reason if isinstance(error, BrskiError) else "connection-broken"
            if isinstance(error, BrskiError):  # the device sees a reset connection, and cannot know why
                log.warning("registrar not reached", source=flow.source, reason=error.reason, detail=error.detail)
        finally:
            for each in sockets:
                each.close() if reason == "done" else _reset(each)
            self._forget(flow, reason)

    async def _both_ways(self, flow: Flow, client: socket.socket, registrar: socket.socket) -> None:
        up = asyncio.create_task(self._carry(flow, client, registrar, flow.sent_up))
        down = asyncio.create_task(self._carry(flow, registrar, client, flow.sent_down))
        try:
            await asyncio.gather(up, down)
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _carry(
        self, flow: Flow, source: socket.socket, sink: socket.socket, sent: Callable[[int, float], None]
    ) -> None:
        """One direction. The next chunk is read only when the sink has taken the one before."""
        loop, buffer = asyncio.get_running_loop(), bytearray(CHUNK_BYTES)
        view = memoryview(buffer)
        while count := await loop.sock_recv_into(source, buffer):
            await loop.sock_sendall(sink, view[:count])
            sent(count, self._clock())
        flow.ended(self._clock())
        with suppress(OSError):  # the other side may have gone meanwhile
            sink.shutdown(socket.SHUT_WR)

    async def _connect(self) -> socket.socket:
        """A connection to the first address of the registrar that takes one; raises PeerFailed."""
        endpoints = await self._upstream()
        for endpoint in endpoints:
            with suppress(OSError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await _connected(endpoint)
        raise PeerFailed("registrar-unreachable", f"no connection to {', '.join(map(str, endpoints))}")

    def _forget(self, flow: Flow, reason: str) -> None:
        self.gate.leave(flow)
        self._relays.pop(flow, None)
        self.counters.closed[reason] += 1
        self.counters.bytes_up += flow.bytes_up
        self.counters.bytes_down += flow.bytes_down
        log.info(
            "relayed", source=flow.source, end=reason, up=flow.bytes_up, down=flow.bytes_down,
            seconds=round(self._clock() - flow.opened, 1),
        )  # fmt: skip


async def listen(endpoint: Endpoint, *, any_address: bool = False) -> socket.socket:
    """A listening socket on the device side; raises Misconfigured, also for what is not link-local (RFC 8995, 4.1)."""
    if not any_address and not _is_link_local(endpoint.host):
        advice = "devices reach a join proxy at an IPv6 link-local address; --any-address takes others"
        raise Misconfigured("address-not-link-local", f"{endpoint.host}: {advice}")
    try:
        family, address = await _resolve(endpoint)
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Misconfigured("address-not-usable", f"{endpoint}: {error}") from error
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted sockets inherit these: what waits unread in the kernel is bounded too (law 2).
        _bound_buffers(listener)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Misconfigured("address-not-usable", f"{endpoint}: {error}") from error
    return listener


async def _connected(endpoint: Endpoint) -> socket.socket:
    family, address = await _resolve(endpoint)
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        _bound_buffers(connection)
        _prepare(connection)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


async def _resolve(endpoint: Endpoint) -> tuple[int, SocketAddress]:
    found = await asyncio.get_running_loop().getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    return family, address


def _prepare(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _bound_buffers(connection: socket.socket) -> None:
    for which in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        connection.setsockopt(socket.SOL_SOCKET, which, KERNEL_BUFFER_BYTES)


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()


def _endpoint_of(listener: socket.socket) -> Endpoint:
    host, port, *rest = listener.getsockname()
    if len(rest) == 2 and rest[1] and "%" not in host:
        host = f"{host}%{socket.if_indextoname(rest[1])}"
    return Endpoint(host, port)


def _is_link_local(address: str) -> bool:
    try:
        return ipaddress.IPv6Address(address).is_link_local
    except ValueError:
        return False
