"""One connection of an HTTP/1.1 server (RFC 9112): aiohttp's parser below, a `Site` above, bounds of our own around.

Laws of this file:

1. Nothing a client sends is believed or waited for without a bound. One deadline covers a whole request, from its
   first byte to the last of its body; only between requests and while a handler works does another clock count. (What
   came in one packet with the request before counts from the next byte on, if it is not a whole head.)
2. A handler gets a request that is complete. What can be refused by its head is refused then: a path or method that is
   not there, a body that is too long or encoded, and what `Site.admit` says.
3. Requests are answered one after the other, at most one in a turn of the event loop, and none while the client has
   not read enough of the answers before. What it sends meanwhile waits, and so does it: nothing more is read from it.
4. After a last answer, what still comes is dropped for a moment, so that the client can read why. So it is with every
   answer that leaves before the body has come.
5. A client that has left is nobody's fault; its request is finished all the same.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, cast

from aiohttp.hdrs import CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader

from brski_common import http_parsing, tls
from brski_common.errors import BrskiError
from brski_common.http_message import Request, Response, head, plain
from brski_common.http_parsing import NoTransport
from brski_common.http_site import Route, Site, unforeseen
from brski_common.tls_wire import TlsWire

LINGER_SECONDS: Final = 1.0
NEVER: Final = math.inf
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

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


class _Coming:
    """A request whose head has come, and of its body as much as has."""

    __slots__ = ("chunks", "is_whole", "payload", "request", "route", "size", "version", "wants_close")

    def __init__(self, message: RawRequestMessage, payload: StreamReader, request: Request) -> None:
        self.request = request
        self.version = "1.1" if message.version >= (1, 1) else "1.0"
        self.wants_close = message.should_close or message.upgrade  # no other protocol is spoken here
        self.payload, self.chunks, self.size = payload, list[bytes](), 0
        self.route: Route | None = None
        self.is_whole = False  # its body is in the request

    def take(self, limit: int) -> bool:
        """Move what has come of the body here; whether that was the last of it. Raises _Unwelcome."""
        try:
            data = self.payload.read_nowait()
        except http_parsing.BODY_MALFORMED as error:
            raise _Unwelcome(plain(400, "body-malformed")) from error
        self.size += len(data)
        if self.size > limit:
            raise _Unwelcome(plain(413, "body-too-large"))
        self.is_whole = self.payload.is_eof()
        if self.is_whole:
            self.request.body = b"".join((*self.chunks, data)) if self.chunks else data
        elif data:
            self.chunks.append(data)
        return self.is_whole

    def has_come(self) -> bool:
        """Whether nothing more comes of it, be it taken or not."""
        return self.is_whole or self.payload.is_eof()


class _Unwelcome(Exception):
    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class HttpConnection(asyncio.Protocol):
    """The protocol of a connection; `left` is called when it is gone."""

    def __init__(self, site: Site, limits: Limits, left: Callable[["HttpConnection"], None]) -> None:
        self._site, self._limits, self._left = site, limits, left
        self._loop = loop = asyncio.get_running_loop()
        self._wire: asyncio.Transport | None = None
        self._remote = ""
        self._parser = HttpRequestParser(
            NoTransport(loop),
            loop,
            max_msg_queue_size=1,  # law 3: it keeps what follows a request
            **http_parsing.OPTIONS,
        )
        self._coming: _Coming | None = None
        self._ahead = b""  # came while a request was being answered
        self._deadline, self._stalled_until = NEVER, NEVER
        self._is_made = False  # the handshake is over
        self._is_idle = self._is_last = self._is_holding = False
        self._is_busy = False  # a request is being answered, or its answer has yet to leave
        self._is_over = self._is_closing = False  # nothing is heard any more; nor said
        self.task: asyncio.Task[None] | None = None  # while a handler works
        self._turn: asyncio.Handle | None = None  # when the next request may be looked at

    # The protocol of the transport

    def behind(self, context: tls.TlsContext) -> TlsWire:
        """TLS for this connection, whose handshake is bounded in time like all the rest (`check_time`)."""
        wire = TlsWire(
            context, self, server_side=True, close_seconds=self._limits.close_seconds, missed=self._never_made
        )
        self._wire, self._deadline = wire, self._loop.time() + self._limits.handshake_seconds
        return wire

    def _never_made(self, error: OSError) -> None:
        log.debug("no connection: %s", error)
        self.connection_lost(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client may speak."""
        self._is_made, self._wire = True, cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        name = transport.get_extra_info("peername")
        self._remote = name[0] if name else ""
        self._begin()

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 -- nobody's fault
        """The client has left."""
        self._wire, self._is_over = None, True
        self._left(self)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._is_over:
            return
        if self._is_busy:
            self._hold(data)
            return
        if self._is_idle:
            self._begin()
        self._parse(data)
        if self._coming is not None:
            self._look_at(self._coming)

    def pause_writing(self) -> None:
        """The client does not read fast enough."""
        self._stalled_until = self._loop.time() + self._limits.stall_seconds

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stalled_until = NEVER
        if self._is_busy and self.task is None:
            self._wait_for_turn()

    # What the server asks for

    def check_time(self, now: float) -> None:
        """Called now and then: ends a request that does not arrive, or an answer that nobody reads."""
        if now > self._stalled_until:
            self.abort()
        elif now > self._deadline:
            self._deadline = NEVER
            if self._is_closing or not self._is_made:
                self.abort()
            elif self._coming is not None and not self._is_over:
                self._say(plain(408, "request-timeout"), is_last=True)
            else:
                self._close()

    def finish(self) -> None:
        """Answer what is being answered, nothing more."""
        self._is_last = True
        if not self._is_made:
            self.abort()
        elif self.task is None:
            self._close()

    def abort(self) -> None:
        """Disconnect at once."""
        if self._wire is not None:
            self._wire.abort()

    # Requests

    def _begin(self) -> None:
        self._is_idle, self._deadline = False, self._loop.time() + self._limits.request_seconds

    def _hold(self, data: bytes) -> None:
        assert self._wire is not None
        self._ahead, self._is_holding = self._ahead + data, True
        self._wire.pause_reading()

    def _parse(self, data: bytes) -> None:
        """Give the parser what came. The head of a request becomes `_coming`, its body goes there by itself."""
        assert self._wire is not None
        try:
            messages, _, _ = self._parser.feed_data(data)
        except http_parsing.MALFORMED as error:
            log.debug("malformed HTTP: %s", type(error).__name__)
            self._say(plain(400, "http-malformed"), is_last=True)
            return
        for message, payload in messages:  # one at most
            target = Request(message.method, message.path, _path(message), message.headers, self._wire, self._remote)
            self._coming = _Coming(message, payload, target)

    def _look_at(self, coming: _Coming) -> None:
        """Wait for the body, let the handler work, or say at once why not."""
        try:
            route = coming.route
            if route is None:
                route = coming.route = self._route(coming)
            if coming.take(route.limit):
                self._is_busy, self._deadline = True, NEVER
                self.task = self._loop.create_task(self._answer(coming.request, route))
        except _Unwelcome as unwelcome:
            self._is_busy, self._deadline = True, NEVER
            self._say(unwelcome.response)
            self._wait_for_turn()  # law 3: others come before the next of this client

    def _wait_for_turn(self) -> None:
        if self._turn is None:
            self._turn = self._loop.call_soon(self._turn_to_next)

    def _turn_to_next(self) -> None:
        """A request is answered: look at what the client has sent behind it, once it reads what is said to it."""
        self._turn = None
        if self._is_over or self._stalled_until != NEVER:
            return
        self._is_busy = False
        self._parser.message_consumed()
        data, self._ahead = self._ahead, b""
        self._is_idle, self._deadline = True, self._loop.time() + self._limits.idle_seconds
        self._parse(data)  # and what the parser has kept
        if (data or self._coming is not None) and not self._is_over:
            self._begin()
        if self._coming is not None:
            self._look_at(self._coming)
        if self._is_holding and not self._is_busy and self._wire is not None:
            self._is_holding = False
            self._wire.resume_reading()

    def _route(self, coming: _Coming) -> Route:
        """What can be said by the head alone (law 2); raises _Unwelcome."""
        request = coming.request
        found = self._site.find(request)
        if isinstance(found, Response):
            raise _Unwelcome(found)
        self._check_body(coming, found.limit)
        if self._site.admit is not None:
            try:
                self._site.admit(request)
            except BrskiError as error:
                raise _Unwelcome(replace(self._site.refuse(request, error), closes=True)) from error
        if EXPECT in request.headers and coming.version != "1.0":
            self._check_expectation(coming)
        return found

    def _check_body(self, coming: _Coming, limit: int) -> None:
        """That the announced body can be taken; raises _Unwelcome."""
        headers = coming.request.headers
        coding, length = headers.get(CONTENT_ENCODING), headers.get(CONTENT_LENGTH)
        if coding is not None and coding.lower() != "identity":
            raise _Unwelcome(plain(415, "content-encoding-not-supported"))
        # HTTP/1.0 knows no transfer codings: who of two hops is to be believed is open (RFC 9112, 6.1).
        if TRANSFER_ENCODING in headers and (coming.version == "1.0" or not http_parsing.is_only_chunked(headers)):
            raise _Unwelcome(replace(plain(400, "transfer-coding-not-supported"), closes=True))
        if length is not None and http_parsing.exceeds(length, limit):
            raise _Unwelcome(replace(plain(413, "body-too-large"), closes=True))

    def _check_expectation(self, coming: _Coming) -> None:
        """Tell a client to go on that waits for it (RFC 9110, 10.1.1); raises _Unwelcome."""
        if coming.request.headers[EXPECT].lower() != "100-continue":
            raise _Unwelcome(plain(417, "expectation-unknown"))
        if self._wire is not None and not coming.has_come():
            self._wire.write(_CONTINUE)

    async def _answer(self, request: Request, route: Route) -> None:
        response = await self._site.answer(request, route.handler)
        self.task = None
        self._say(response)
        self._turn_to_next()

    # Answers

    def _say(self, response: Response, *, is_last: bool = False) -> None:
        """Send an answer, then go on, or let the connection end."""
        coming, self._coming = self._coming, None
        if self._wire is None:
            return
        is_partial = coming is None or not coming.has_come()
        is_last |= is_partial or self._is_last or response.closes or (coming is not None and coming.wants_close)
        self._wire.write(_written(response, coming, closes=is_last))
        if is_partial:
            self._is_over, self._deadline = True, self._loop.time() + LINGER_SECONDS
        elif is_last:
            self._close()

    def _close(self) -> None:
        self._is_over = self._is_closing = True
        self._deadline = self._loop.time() + self._limits.stall_seconds  # if what was said cannot leave
        if self._wire is not None:
            self._wire.close()


def _written(response: Response, coming: _Coming | None, *, closes: bool) -> bytes:
    """A response as it is sent; `coming` is None if its request could not even be read."""
    version = "1.1" if coming is None else coming.version
    try:
        first = head(response, time.time(), version=version, closes=closes)
    except ValueError as error:  # a header field that would be read as two
        response = unforeseen(coming.request if coming else None, error)
        first = head(response, time.time(), version=version, closes=closes)
    return first if coming is not None and coming.request.method == "HEAD" else first + response.body


def _path(message: RawRequestMessage) -> str:
    """The path of a request, its percent signs resolved, in whatever form the target has (RFC 9112, 3.2)."""
    target = message.path
    if target.startswith("/") and "%" not in target and "?" not in target:
        return target
    return message.url.path
