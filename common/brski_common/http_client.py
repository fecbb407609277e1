"""The client side of HTTP/1.1 over `tls`, alike for the pledge and the registrar (aiohttp reads the answers).

Laws of this file:

1. One call is one request and at most one answer: no redirect is followed, no request repeated, no cookie kept, no
   proxy taken from the environment, nothing decompressed. The caller decides what comes next.
2. Time, head and body of an answer are bounded; the peer may be nobody's friend yet (RFC 8995, 5.1).
3. Every fault of the transport is PeerFailed with one of the reasons below. What `judge` raised comes through as it is.

Reasons: `peer-name-not-found`, `peer-unreachable`, `peer-timeout`, `tls-handshake-failed`, `peer-disconnected` (before
an answer), `connection-gone` (a single connection ended), `response-malformed`, `response-incomplete`,
`response-too-large`, `response-compressed`. A URL that cannot be used is Malformed `url-malformed`.
"""

import asyncio
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

from brski_common import tls
from brski_common.certificates import Peer
from brski_common.errors import BrskiError, Malformed, PeerFailed
from brski_common.http_answer import AnswerReader
from brski_common.tls_wire import TlsWire

MAX_RESPONSE_BYTES = 1024 * 1024  # an audit log is the longest answer (RFC 8995, 5.8.1)
REQUEST_SECONDS = 30.0  # connecting, asking and reading the whole answer
IDLE_SECONDS = 30.0  # shorter than our servers', so that a request seldom meets a connection on its way down
MAX_CONNECTIONS = 32  # of one client, to one host or several
NEXT_ADDRESS_SECONDS = 0.25  # before a host's other addresses are tried too (RFC 8305, 5)
MAX_URL_CHARACTERS = 4096
REMEMBERED_URLS = 64  # a client asks for the same few again and again

_PORTS: Final = {"https": 443, "http": 80}
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t -\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A whole answer. `headers` ignore case; `peer` is whose TLS connection it came over."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    peer: Peer | None

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters, in lower case; empty if there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection that stands: who is at the other end, and what binds a CSR to it (RFC 7030, 3.5; RFC 9266)."""

    peer: Peer
    channel_binding: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL in parts. `host` may have a zone, as sockets spell it; `authority` is the Host header, without."""

    encrypted: bool
    host: str
    port: int
    authority: str
    path: str

    @property
    def origin(self) -> tuple[bool, str, int]:
        return self.encrypted, self.host, self.port


class HttpClient:
    """Requests over one TLS context, with connections kept alive. An async context manager, or `await close()`.

    `single_connection=True` makes exactly one connection, ever, as a provisional one must be (RFC 8995, 5.1): once it
    is gone, each request is refused with PeerFailed `connection-gone`.
    """

    def __init__(
        self,
        tls_context: tls.TlsContext | tls.TlsSide | None,
        *,
        single_connection: bool = False,
        request_seconds: float = REQUEST_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._tls, self._single, self._seconds = tls_context, single_connection, request_seconds
        self._slots = asyncio.Semaphore(1 if single_connection else max_connections)
        self._idle: list[_Line] = []
        self._begun = self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection that is not in use, and each of the others after its answer."""
        self._closed = True
        lines, self._idle = self._idle, []
        for line in lines:
            line.close()
        # The event loop gets rid of the sockets in its next turns.
        await asyncio.sleep(0)

    async def connect(self, url: str) -> Connected:
        """Open a connection to the origin of `url` before there is anything to send; the next request takes it.

        A pledge's first request names the certificate that this shows (RFC 8995, 5.2). Raises as above.
        """
        line = await self._use(_target(url), None)
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
        target = _target(url)
        question = _Question(_head(method, target, body, headers or {}) + body, limit, to_head=method == "HEAD")
        line = await self._use(target, question)
        answer = question.reader
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            line.close()
            raise PeerFailed("response-compressed", f"{target.host}: {answer.headers['Content-Encoding'][:40]}")
        return HttpResponse(answer.status, answer.headers, answer.body, line.peer)

    async def _use(self, target: _Target, question: "_Question | None") -> "_Line":
        """A connection, and on it the answer to the question, in time; it is kept if it can carry another."""
        line: _Line | None = None
        try:
            async with asyncio.timeout(self._seconds), self._slots:
                line = self._kept(target) or await self._open(target)
                if question is not None:
                    await line.ask(question)
                self._keep(line)
                return line
        except TimeoutError as error:
            raise PeerFailed("peer-timeout", f"no answer from {target.host} within {self._seconds:g} s") from error
        finally:
            if line is not None and not line.is_kept:
                line.close()

    def _kept(self, target: _Target) -> "_Line | None":
        now = asyncio.get_running_loop().time()
        for line in list(self._idle):
            if not line.is_usable or (line.until < now and not self._single):
                self._idle.remove(line)
                line.close()
            elif line.origin == target.origin:
                self._idle.remove(line)
                line.is_kept = False
                return line
        return None

    def _keep(self, line: "_Line") -> None:
        if line.is_usable and not self._closed:
            line.is_kept, line.until = True, asyncio.get_running_loop().time() + IDLE_SECONDS
            self._idle.append(line)

    async def _open(self, target: _Target) -> "_Line":
        if self._closed:
            raise PeerFailed("connection-gone", "this client is closed")
        if self._single and self._begun:
            raise PeerFailed("connection-gone", "the single connection of this client has ended, or leads elsewhere")
        self._begun = True
        line = _Line(target.origin)
        await line.open(self._tls if target.encrypted else None, target.host, target.port, self._seconds)
        return line


class _Question:
    """A request in bytes, and the reader of its answer."""

    __slots__ = ("data", "reader")

    def __init__(self, data: bytes, limit: int, *, to_head: bool) -> None:
        self.data, self.reader = data, AnswerReader(limit, to_head=to_head)


class _Line(asyncio.Protocol):
    """One connection: a question, its answer, the next question."""

    def __init__(self, origin: tuple[bool, str, int]) -> None:
        self.origin = origin
        self.is_kept = False
        self.until = 0.0
        self.peer: Peer | None = None
        self.transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._reader: AnswerReader | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._ended = False

    @property
    def is_usable(self) -> bool:
        """Whether it can carry a question."""
        return not self._ended and not self.transport.is_closing()

    async def open(self, context: tls.TlsContext | tls.TlsSide | None, host: str, port: int, seconds: float) -> None:
        """Connect, with TLS unless `context` is None."""
        if context is None:
            await self._connect(self, host, port)
            return
        wire = TlsWire(context, self, server_side=False, server_hostname=host.partition("%")[0])
        await self._connect(wire, host, port)
        try:
            await wire.opened(seconds)
        except tls.PeerRefusedError as error:
            raise error.error from error
        except TimeoutError:
            raise
        except OSError as error:
            raise PeerFailed("tls-handshake-failed", str(error)) from error
        self.peer = tls.peer_of(wire)

    async def _connect(self, protocol: asyncio.Protocol, host: str, port: int) -> None:
        # uvloop knows no such delay, and an address has no others.
        race = isinstance(self._loop, asyncio.BaseEventLoop) and not _is_address(host)
        delay: dict[str, Any] = {"happy_eyeballs_delay": NEXT_ADDRESS_SECONDS} if race else {}
        try:
            await self._loop.create_connection(lambda: protocol, host, port, **delay)
        except socket.gaierror as error:
            raise PeerFailed("peer-name-not-found", f"{host}: {error.strerror}") from error
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else None
            why = os.strerror(number) if number else str(error)
            raise PeerFailed("peer-unreachable", f"{host} port {port}: {why}") from error

    async def ask(self, question: _Question) -> None:
        """Send a request and read its answer."""
        self._reader, self._waiting = question.reader, self._loop.create_future()
        self.transport.write(question.data)
        if self._ended:
            self._fail(PeerFailed("peer-disconnected", "the connection had ended"))
        await self._waiting
        self._reader = None
        if not question.reader.keeps_connection:
            self.close()

    def close(self) -> None:
        """End it."""
        self.is_kept = False
        if not self._ended and hasattr(self, "transport"):
            self.transport.close()
        self._ended = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            self.close()  # nobody asked
            return
        try:
            self._reader.feed(data)
        except PeerFailed as error:
            self._fail(error)
        else:
            if self._reader.is_complete:
                self._done()

    def eof_received(self) -> None:
        self._finish("the connection ended")

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(str(exc) if exc else "the connection ended", in_order=exc is None)

    def _finish(self, why: str, *, in_order: bool = True) -> None:
        self._ended = True
        if self._reader is None or self._waiting is None or self._waiting.done():
            return
        try:
            self._reader.end(in_order=in_order)
        except PeerFailed as error:
            self._fail(PeerFailed(error.reason, why))
        else:
            self._done()

    def _done(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _fail(self, error: BrskiError) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.close()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _head(method: str, target: _Target, body: bytes, headers: Mapping[str, str]) -> bytes:
    """The request line and the header fields; raises Malformed."""
    fields = {"Host": target.authority, "Accept-Encoding": "identity", **headers}
    if body or method not in {"GET", "HEAD"}:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target.path} HTTP/1.1"]
    for name, value in fields.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Malformed("header-malformed", f"{name[:40]!a}: a line break, or another character that cannot be")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@lru_cache(maxsize=REMEMBERED_URLS)
def _target(url: str) -> _Target:
    """Read an absolute URL; raises Malformed."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Malformed("url-malformed", f"{url[:200]!a}: {error}") from error
    written = len(url) <= MAX_URL_CHARACTERS and url.isascii() and url.isprintable() and " " not in url
    if not written or parts.scheme not in _PORTS or not host or "@" in parts.netloc or port == 0:
        raise Malformed("url-malformed", f"{url[:200]!a}: wanted is an absolute http(s) URL without credentials")
    host = host.replace("%25", "%")
    name = host.partition("%")[0]  # a zone has a meaning on this machine only and stays here (RFC 6874, 1)
    authority = f"[{name}]" if ":" in name else name
    if port not in {None, _PORTS[parts.scheme]}:
        authority = f"{authority}:{port}"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Target(parts.scheme == "https", host, port or _PORTS[parts.scheme], authority, path)
