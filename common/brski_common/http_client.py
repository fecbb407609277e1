"""The client side of HTTP/1.1 over `tls`, alike for the pledge and the registrar.

Laws of this file:

1. One call is one request and at most one answer: no redirect is followed, no request repeated, no cookie kept, no
   proxy taken from the environment, nothing decompressed. The caller decides what comes next.
2. Time, head and body of an answer are bounded; the peer may be nobody's friend yet (RFC 8995, 5.1).
3. Every fault of the transport is PeerFailed with one of the reasons below. What `judge` raised comes through as it is.

Reasons: `peer-name-not-found`, `peer-unreachable`, `peer-timeout`, `tls-handshake-failed`, `peer-disconnected` (before
an answer), `connection-gone` (it ended, or the client is closed), `response-malformed`, `response-incomplete`,
`response-too-large`, `response-compressed`. A URL that cannot be used is Malformed `url-malformed`.

The connections themselves are `http_line`'s.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from brski_common import tls
from brski_common.certificates import Peer
from brski_common.errors import BrskiError, PeerFailed
from brski_common.http_line import MAX_RESPONSE_BYTES, HttpResponse, Line, Question, Target, read_url

__all__ = ["MAX_RESPONSE_BYTES", "Connected", "HttpClient", "HttpResponse"]

REQUEST_SECONDS = 30.0  # connecting, asking and reading the whole answer
IDLE_SECONDS = 30.0  # shorter than our servers', so that a request seldom meets a connection on its way down
MAX_CONNECTIONS = 32  # of one client, to one host or several


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection that stands: who is at the other end, and what binds a CSR to it (RFC 7030, 3.5; RFC 9266)."""

    peer: Peer
    channel_binding: bytes | None = field(repr=False)


class HttpClient:
    """Requests over one TLS context, with connections kept alive. An async context manager, or `await close()`.

    A lost connection is replaced, so it is nothing for the provisional one (RFC 8995, 5.1): that is a `http_line.Line`.
    """

    def __init__(
        self,
        tls_context: tls.TlsContext | tls.TlsSide | None,
        *,
        request_seconds: float = REQUEST_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._tls, self._seconds = tls_context, request_seconds
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: dict[Line, float] = {}  # and until when
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection that is not in use, and each of the others after its answer."""
        self._closed = True
        lines, self._idle = self._idle, {}
        for line in lines:
            line.close()
        # The event loop gets rid of the sockets in its next turns.
        await asyncio.sleep(0)

    async def connect(self, url: str) -> Connected:
        """Open a connection to the origin of `url` before there is anything to send; the next request takes it.

        A pledge's first request names the certificate that this shows (RFC 8995, 5.2). Raises as above.
        """
        line, _ = await self._use(read_url(url), None)
        if line.peer is None:
            raise PeerFailed("tls-handshake-failed", "the server showed no certificate")
        return Connected(line.peer, tls.channel_binding(line.transport))

    async def request(
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        limit: int = MAX_RESPONSE_BYTES,
    ) -> HttpResponse:
        """Send one request and read its answer of at most `limit` bytes, whatever its status; raises as above.

        The host may be a link-local address with its zone, `https://[fe80::1%25eth0]:8443/` (RFC 6874).
        """
        target = read_url(url)
        _, answer = await self._use(target, Question(method, target, body=body, headers=headers, limit=limit))
        assert answer is not None
        return answer

    async def _use(self, target: Target, question: Question | None) -> tuple[Line, HttpResponse | None]:
        """A connection, and on it the answer to the question, in time; it is kept if it can carry another."""
        loop = asyncio.get_running_loop()
        deadline, line = loop.time() + self._seconds, None
        try:
            await self._take_slot(deadline)
            try:
                line = self._kept(target, loop.time()) or await self._open(target, deadline)
                answer = None if question is None else await _answer(line, question, deadline)
                if line.is_usable and not self._closed:
                    self._idle[line] = loop.time() + IDLE_SECONDS
                return line, answer
            finally:
                self._slots.release()
        except TimeoutError as error:
            raise PeerFailed("peer-timeout", f"no answer from {target.host} within {self._seconds:g} s") from error
        finally:
            if line is not None and line not in self._idle:
                line.close()

    async def _take_slot(self, deadline: float) -> None:
        if self._slots.locked():
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
        else:
            await self._slots.acquire()  # at once

    def _kept(self, target: Target, now: float) -> Line | None:
        for line, until in list(self._idle.items()):
            if not line.is_usable or until < now:
                del self._idle[line]
                line.close()
            elif line.origin == target.origin:
                del self._idle[line]
                return line
        return None

    async def _open(self, target: Target, deadline: float) -> Line:
        if self._closed:
            raise PeerFailed("connection-gone", "this client is closed")
        line = Line(target.origin)
        async with asyncio.timeout_at(deadline):
            await line.open(self._tls if target.encrypted else None)
        return line


async def _answer(line: Line, question: Question, deadline: float) -> HttpResponse:
    waiting: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

    def told(what: HttpResponse | BrskiError) -> None:
        if waiting.done():
            return  # cancelled
        if isinstance(what, BrskiError):
            waiting.set_exception(what)
        else:
            waiting.set_result(what)

    line.ask(question, told, deadline)
    return await waiting
