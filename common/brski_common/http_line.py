"""One connection of an HTTP/1.1 client: opened once, then a question, its answer, the next question.

Laws of this file:

1. An answer, or why there is none, is told by a call, once, in the turn of the event loop in which it came. It takes no
   task and no future; who wants one makes it (`http_client`).
2. Head and body of an answer are bounded (`http_answer`); so is time, where the caller does not watch the clock itself.
   A timer that rings too early is set anew then, instead of one being set and cancelled for each question.
3. A line that has ended stays so.

Reasons are those of `http_client`.
"""

import asyncio
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from brski_common import tls
from brski_common.certificates import Peer
from brski_common.errors import BrskiError, Malformed, PeerFailed
from brski_common.http_answer import AnswerReader
from brski_common.tls_wire import TlsWire

MAX_RESPONSE_BYTES = 1024 * 1024  # an audit log is the longest answer (RFC 8995, 5.8.1)
NEXT_ADDRESS_SECONDS = 0.25  # before a host's other addresses are tried too (RFC 8305, 5)
MAX_URL_CHARACTERS = 4096
REMEMBERED_URLS = 64  # a client asks for the same few again and again
REMEMBERED_FIELDS = 64

_PORTS: Final = {"https": 443, "http": 80}
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_USUAL: Final = {"Host", "Accept-Encoding", "Accept", "Content-Type"}  # are the same again and again, and no secret
_VALUE: Final = re.compile(r"[\t -\x7e\x80-\xff]*")


class HttpResponse(NamedTuple):
    """A whole answer. `headers` ignore case; `peer` is whose TLS connection it came over."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    peer: Peer | None

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters, in lower case; empty if there is none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


Told = Callable[[HttpResponse | BrskiError], None]
Origin = tuple[bool, str, int]  # whether with TLS, host, port


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in parts. `host` may have a zone, as sockets spell it; `authority` is the Host header, without."""

    encrypted: bool
    host: str
    port: int
    authority: str
    path: str

    @property
    def origin(self) -> Origin:
        """What one connection leads to."""
        return self.encrypted, self.host, self.port


class Line(asyncio.Protocol):
    """A connection to `origin`."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.peer: Peer | None = None
        self.transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._reader: AnswerReader | None = None
        self._told: Told | None = None
        self._deadline: float | None = None  # of the answer that is awaited
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = self._ended = False

    @property
    def is_usable(self) -> bool:
        """Whether it can carry a question."""
        return self._is_open and not self._ended and not self.transport.is_closing()

    async def open(self, context: tls.TlsContext | tls.TlsSide | None) -> None:
        """Connect, with TLS unless `context` is None; raises BrskiError. Cancel it to give up."""
        _, host, port = self.origin
        if context is None:
            await self._connect(self, host, port)
            return
        wire = TlsWire(context, self, server_side=False, server_hostname=host.partition("%")[0])
        await self._connect(wire, host, port)
        try:
            await wire.opened()
        except tls.PeerRefusedError as error:
            raise error.error from error
        except TimeoutError as error:  # TCP's
            raise PeerFailed("peer-timeout", f"{host}: {error}") from error
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
        except TimeoutError as error:
            raise PeerFailed("peer-timeout", f"{host}: {error}") from error
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else None
            why = os.strerror(number) if number else str(error)
            raise PeerFailed("peer-unreachable", f"{host} port {port}: {why}") from error

    def ask(self, question: "Question", told: Told, deadline: float | None = None) -> None:
        """Send a request; `told` hears of it, maybe before this returns. `deadline` is by the event loop's clock."""
        if not self.is_usable:
            told(PeerFailed("connection-gone", "the connection has ended"))
            return
        if self._told is not None:
            raise RuntimeError("one question at a time")
        self._reader, self._told, self._deadline = question.reader, told, deadline
        if deadline is not None and self._timer is None:
            self._timer = self._loop.call_at(deadline, self._ring)
        self.transport.write(question.data)
        if self._ended:
            self._fail(PeerFailed("peer-disconnected", "the connection had ended"))

    def close(self) -> None:
        """End it. Nothing more is told."""
        self._told = self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
        if self._is_open and not self._ended:
            self.transport.close()
        self._ended = True

    def _ring(self) -> None:
        self._timer, deadline = None, self._deadline
        if deadline is None:
            return
        if self._loop.time() < deadline:
            self._timer = self._loop.call_at(deadline, self._ring)
        else:
            self._fail(PeerFailed("peer-timeout", f"no answer from {self.origin[1]} in time"))

    # What the event loop says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self.transport, self._is_open = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
        reader = self._reader
        if reader is None:
            self.close()  # nobody asked
            return
        try:
            reader.feed(data)
        except PeerFailed as error:
            self._fail(error)
        else:
            if reader.is_complete:
                self._answered(reader)

    def eof_received(self) -> None:
        """The peer says no more."""
        self._finish("the connection ended")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._finish(str(exc) if exc else "the connection ended", in_order=exc is None)

    def _finish(self, why: str, *, in_order: bool = True) -> None:
        self._ended = True
        reader = self._reader
        if reader is None or self._told is None:
            return
        try:
            reader.end(in_order=in_order)
        except PeerFailed as error:
            self._fail(PeerFailed(error.reason, why))
        else:
            self._answered(reader)

    def _answered(self, reader: AnswerReader) -> None:
        coding = reader.headers.get("Content-Encoding", "identity")
        if coding.lower() != "identity":
            self._fail(PeerFailed("response-compressed", f"{self.origin[1]}: {coding[:40]}"))
            return
        told, self._told, self._reader, self._deadline = self._told, None, None, None
        if not reader.keeps_connection:
            self.close()
        if told is not None:
            told(HttpResponse(reader.status, reader.headers, reader.body, self.peer))

    def _fail(self, error: BrskiError) -> None:
        told = self._told
        self.close()
        if told is not None:
            told(error)


class Question:
    """A request in bytes, and the reader of its answer of at most `limit` bytes; raises Malformed."""

    __slots__ = ("data", "reader")

    def __init__(
        self,
        method: str,
        target: Target,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        limit: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self.data = _head(method, target, body, headers or {}) + body
        self.reader = AnswerReader(limit, to_head=method == "HEAD")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _head(method: str, target: Target, body: bytes, headers: Mapping[str, str]) -> bytes:
    """The request line and the header fields; raises Malformed."""
    fields = {"Host": target.authority, "Accept-Encoding": "identity", **headers}
    if body or method not in {"GET", "HEAD"}:
        fields["Content-Length"] = str(len(body))
    lines = "".join([(_usual if name in _USUAL else _field)(name, value) for name, value in fields.items()])
    return f"{method} {target.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def _field(name: str, value: str) -> str:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise Malformed("header-malformed", f"{name[:40]!a}: a line break, or another character that cannot be")
    return f"{name}: {value}\r\n"


_usual = lru_cache(maxsize=REMEMBERED_FIELDS)(_field)


@lru_cache(maxsize=REMEMBERED_URLS)
def read_url(url: str) -> Target:
    """Read an absolute URL; raises Malformed.

    The host may be a link-local address with its zone, `https://[fe80::1%25eth0]:8443/` (RFC 6874).
    """
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
    return Target(parts.scheme == "https", host, port or _PORTS[parts.scheme], authority, path)
