"""The server side of HTTP/1.1: limits, time-outs and errors, alike for the registrar and the MASA (aiohttp).

Laws of this file:

1. Nothing a client sends is believed or waited for without a bound. One deadline covers a whole request, from its
   first byte to the last of its body; only between requests and while a handler works does another clock count.
2. A client's fault is answered 4xx in plain text, never with a traceback or an echo. Anything unforeseen is 500 with
   an id, and its text is only in the log.
3. Who the client is comes from TLS alone (`peer`), at the cost of a dictionary look-up.

A role makes a `web.Application` with `error_middleware(render)` and hands it to `serve`.
"""

import asyncio
import errno
import logging
import math
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web_protocol import RequestHandler, RequestPayloadError
from aiohttp.web_request import BaseRequest

from brski_common import tls
from brski_common.certificates import Peer
from brski_common.errors import BrskiError, Misconfigured
from brski_common.tls_wire import TlsWire

MAX_BODY_BYTES = 256 * 1024
MAX_LINE_BYTES = 4 * 1024
MAX_HEADER_BYTES = 8 * 1024  # of one header field; with MAX_HEADERS this bounds all of them
MAX_HEADERS = 64
BACKLOG = 512
LINGER_SECONDS = 1.0  # how long an unread body is dropped, so that the client can still read why
ACCEPT_PAUSE_SECONDS = 0.5  # after accept() failed, as it does when the process is out of descriptors
NEVER: Final = math.inf

Render = Callable[[web.Request, BrskiError], web.StreamResponse]

log = logging.getLogger("brski.http")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of a server. A client that exceeds a time is disconnected, during a body after an answer of 408."""

    connections: int = 1024  # open at once, handshakes included; further ones wait in the backlog
    handshake_seconds: float = 10.0
    request_seconds: float = 15.0  # for a whole request, and for the first one to begin
    idle_seconds: float = 90.0  # between two requests; more than the 60 s a pledge waits at most (RFC 8995, 5.6)
    stall_seconds: float = 30.0  # while the client does not read its answer
    close_seconds: float = 2.0  # for the client's close_notify


def error_middleware(render: Render) -> Middleware:
    """The middleware that answers a BrskiError with `render(request, error)` and any other exception with 500."""

    @web.middleware
    async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except BrskiError as error:
            return render(request, error)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:  # law 2: whatever it is, the client sees only an id
            return _unforeseen(request, error)

    return answer_errors


def reply(
    status: int, body: bytes = b"", media_type: str | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A whole response. aiohttp sends its head and body in one write, which is one TLS record if it is small."""
    fields = dict(headers or ())
    if media_type is not None:
        fields["Content-Type"] = media_type
    return web.Response(status=status, body=body, headers=fields)


def plain(status: int, text: str) -> web.Response:
    """A one-line plain-text response."""
    return reply(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


async def read_body(request: web.Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """The whole body, chunked or not; raises web.HTTPException 400, 408, 413 or 415 (compressed) in plain text."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType(text="content-encoding-not-supported\n")
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    content, chunks, size = request.content, list[bytes](), 0
    try:
        while not content.at_eof():
            chunks.append(chunk := await content.readany())
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text="request-timeout\n", headers={"Connection": "close"}) from error
    except RequestPayloadError as error:
        raise web.HTTPBadRequest(text="body-malformed\n") from error
    _received(request)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def media_type(request: web.Request) -> str:
    """The Content-Type without parameters, in lower case; empty if there is none."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def accepts(request: web.Request, wanted: str) -> bool:
    """Whether the client takes this media type, by name, by a range or by saying nothing (RFC 9110, 12.5.1)."""
    fields = request.headers.getall("Accept", ())
    if not fields:
        return True
    quality = dict(_media_range(each) for each in ",".join(fields).lower().split(",") if each.strip())
    for pattern in (wanted, f"{wanted.partition('/')[0]}/*", "*/*"):  # the most specific one decides
        if pattern in quality:
            return quality[pattern] > 0
    return not quality


def peer(request: web.Request) -> Peer | None:
    """The TLS client of this connection, None if it showed no certificate; raises Malformed for an unreadable one."""
    return tls.peer_of(request.transport)


class Server:
    """A listening server: `host`, `port`, `url`; `await close()` lets running requests finish."""

    def __init__(
        self, runner: web.AppRunner, listener: socket.socket, tls_context: tls.TlsContext | None, limits: Limits
    ) -> None:
        assert runner.server is not None
        self.host, self.port = listener.getsockname()[:2]
        self.limits = limits
        self._runner, self._listener, self._tls, self._manager = runner, listener, tls_context, runner.server
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(limits.connections)
        self._connections: set[_Connection] = set()
        self._greetings: set[asyncio.Task[None]] = set()
        self._accepting = self._loop.create_task(self._accept())
        # One timer for all connections: their deadlines then cost a request nothing but an assignment.
        self._sweep_seconds = min(1.0, limits.request_seconds / 4, limits.stall_seconds / 4)
        self._sweeper = self._loop.call_later(self._sweep_seconds, self._sweep)

    @property
    def url(self) -> str:
        """`https://127.0.0.1:8443`, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    async def close(self, grace_seconds: float = 5.0) -> None:
        """Accept nothing more, give running requests `grace_seconds`, then disconnect everybody."""
        self._sweeper.cancel()
        for task in (self._accepting, *self._greetings):
            task.cancel()
        await asyncio.gather(self._accepting, *self._greetings, return_exceptions=True)
        self._listener.close()
        self._runner._shutdown_timeout = grace_seconds
        await self._runner.cleanup()
        while self._connections:
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.sleep(0)

    async def _accept(self) -> None:
        while True:
            await self._free.acquire()
            try:
                client, _ = await self._loop.sock_accept(self._listener)
            except OSError as error:
                self._free.release()
                log.warning("cannot accept connections: %s", error)
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            greeting = self._loop.create_task(self._greet(client))
            self._greetings.add(greeting)
            greeting.add_done_callback(self._greetings.discard)

    async def _greet(self, client: socket.socket) -> None:
        """The TLS handshake; from its end on, the slot belongs to the `_Connection`."""
        connection = _Connection(self, self._manager)
        try:
            if self._tls is None:
                await self._loop.connect_accepted_socket(lambda: connection, client)
                return
            wire = TlsWire(self._tls, connection, server_side=True, close_seconds=self.limits.close_seconds)
            await self._loop.connect_accepted_socket(lambda: wire, client)
            await wire.opened(self.limits.handshake_seconds)
        except OSError as error:  # includes ssl.SSLError and TimeoutError
            log.debug("no connection: %s", error)
        except Exception:
            log.exception("no connection")
        finally:
            if not connection.made:
                self._free.release()

    def joined(self, connection: "_Connection") -> None:
        """A connection is established."""
        self._connections.add(connection)

    def left(self, connection: "_Connection") -> None:
        """A connection is gone: its slot is free."""
        self._connections.discard(connection)
        self._free.release()

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in tuple(self._connections):
            connection.check_time(now)
        self._sweeper = self._loop.call_later(self._sweep_seconds, self._sweep)


async def serve(
    app: web.Application,
    host: str,
    port: int,
    tls_context: tls.TlsContext | None,
    *,
    limits: Limits | None = None,
    reuse_port: bool = False,
) -> Server:
    """Serve `app` on one address (`port` 0: any free one). Raises Misconfigured if the address cannot be used.

    Without `tls_context` it is plain HTTP, for a metrics port. `reuse_port` lets several processes share the load.
    """
    listener = await _listen(host, port, reuse_port=reuse_port)
    app.on_response_prepare.append(_hide_versions)
    runner = web.AppRunner(app, access_log=None)
    try:
        await runner.setup()
        return Server(runner, listener, tls_context, limits or Limits())
    except BaseException:
        listener.close()
        raise


class _Connection(RequestHandler):
    """aiohttp's connection with a deadline for each request and none of its chatter."""

    def __init__(self, server: Server, manager: web.Server) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=server.limits.idle_seconds,
            tcp_keepalive=False,
            access_log=None,  # type: ignore[arg-type] # aiohttp tests its truth; its type forgets that
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
        )
        self.made = False
        self.deadline, self._stalled_until = NEVER, NEVER
        self._server = server
        self._wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made, self._wire = True, cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._begin()
        self._server.joined(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.left(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.deadline == NEVER and self._current_request is None:
            self._begin()
        super().data_received(data)

    def pause_writing(self) -> None:
        self._stalled_until = self._loop.time() + self._server.limits.stall_seconds
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_until = NEVER
        super().resume_writing()

    def _begin(self) -> None:
        self.deadline = self._loop.time() + self._server.limits.request_seconds

    def check_time(self, now: float) -> None:
        """Called now and then: ends a request that does not arrive, or an answer that nobody reads."""
        if now > self._stalled_until:
            self.abort()
        elif now > self.deadline:
            self.deadline = NEVER
            if self._current_request is None:
                self.force_close()
            elif not self._current_request.content.is_eof():
                self._current_request.content.set_exception(TimeoutError())

    def abort(self) -> None:
        """Disconnect at once."""
        if self._wire is not None:
            self._wire.abort()

    async def _handle_request(
        self,
        request: BaseRequest,
        start_time: float | None,
        request_handler: Callable[[BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        if request.content.is_eof():
            self.deadline = NEVER
        elif self.deadline == NEVER:  # it came right behind the one before
            self._begin()
        return await super()._handle_request(request, start_time, request_handler)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 -- aiohttp's text, which echoes what the client sent
    ) -> web.StreamResponse:
        """Answer what never reached a handler: HTTP that cannot be read."""
        if isinstance(exc, ConnectionError):  # the client has left, and nobody is at fault
            raise exc
        if status >= 500:
            response = _unforeseen(request, exc)
        else:
            log.debug("malformed HTTP from %s: %s", request.remote, exc)
            response = plain(status, "http-malformed")
        if request.writer.output_size > 0:
            raise ConnectionError("the response had begun")
        response.headers.update({"Server": "brski", "Connection": "close"})
        response.force_close()
        return response


def _received(request: web.Request) -> None:
    """The body is complete: from here on it is the handler that takes time."""
    if isinstance(request.protocol, _Connection):
        request.protocol.deadline = NEVER


def _unforeseen(request: BaseRequest, error: BaseException | None) -> web.Response:
    identifier = secrets.token_hex(4)
    log.error("internal error %s at %s %s", identifier, request.method, request.path, exc_info=error)
    return plain(500, f"internal error {identifier}")


def _too_large(limit: int) -> web.HTTPRequestEntityTooLarge:
    return web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=limit + 1, text="body-too-large\n")


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            with suppress(ValueError):
                return name, float(parameter[2:])
    return name, 1.0


async def _hide_versions(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)  # aiohttp's and Python's versions


async def _listen(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Misconfigured("address-not-usable", _unusable(host, port, error)) from error
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Misconfigured("address-not-usable", _unusable(host, port, error)) from error
    return listener


def _unusable(host: str, port: int, error: OSError) -> str:
    words = error.strerror or str(error)
    advice = "; stop what listens there, or choose another port" if error.errno == errno.EADDRINUSE else ""
    return f"{host} port {port}: {words[:1].lower()}{words[1:]}{advice}"
