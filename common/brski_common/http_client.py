"""The client side of HTTP/1.1 over `tls`, alike for the pledge and the registrar (aiohttp underneath).

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
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from brski_common import tls
from brski_common.certificates import Peer
from brski_common.errors import BrskiError, Malformed, PeerFailed

MAX_RESPONSE_BYTES = 1024 * 1024  # an audit log is the longest answer (RFC 8995, 5.8.1)
MAX_LINE_BYTES = 4 * 1024
MAX_HEADER_BYTES = 8 * 1024
MAX_HEADERS = 64
REQUEST_SECONDS = 30.0  # connecting, asking and reading the whole answer
IDLE_SECONDS = 30.0  # shorter than our servers', so that a request seldom meets a connection on its way down
MAX_CONNECTIONS = 32  # of one client, to one host or several

# The first class that fits names the reason; anything else that aiohttp raises is a malformed response.
_REASONS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (TimeoutError, "peer-timeout"),
    (aiohttp.ClientConnectorDNSError, "peer-name-not-found"),
    (aiohttp.ClientSSLError, "tls-handshake-failed"),
    (aiohttp.ClientConnectorError, "peer-unreachable"),
    (aiohttp.ClientPayloadError, "response-incomplete"),
    (aiohttp.ClientConnectionError, "peer-disconnected"),
    (OSError, "peer-disconnected"),
)

_WORDS: Final = {
    "peer-timeout": "no answer in time",
    "response-incomplete": "the answer ended before its end",
    "peer-disconnected": "the connection ended before an answer came",
}


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


class HttpClient:
    """Requests over one TLS context, with connections kept alive. An async context manager, or `await close()`.

    `single_connection=True` makes exactly one connection, ever, as a provisional one must be (RFC 8995, 5.1): once it
    is gone, each request is refused with PeerFailed `connection-gone`.
    """

    def __init__(
        self,
        tls_context: tls.TlsContext | None,
        *,
        single_connection: bool = False,
        request_seconds: float = REQUEST_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._tls, self._single, self._seconds = tls_context, single_connection, request_seconds
        self._max_connections = 1 if single_connection else max_connections
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def connect(self, url: str) -> Connected:
        """Open a connection to the origin of `url` before there is anything to send; the next request takes it.

        A pledge's first request names the certificate that this shows (RFC 8995, 5.2). Raises as above.
        """
        target = _target(url)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._connect(target)
        except BrskiError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _fault(error) from error

    async def _connect(self, url: URL) -> Connected:
        session = self._open()
        assert session._connector is not None
        # aiohttp finds the connection again by what this request and the later ones have in common.
        request = aiohttp.ClientRequest("GET", url, loop=asyncio.get_running_loop(), session=session)
        connection = await session._connector.connect(request, [], session.timeout)
        try:
            peer, transport = tls.peer_of(connection.transport), connection.transport
            if peer is None or transport is None:
                raise PeerFailed("tls-handshake-failed", "the server showed no certificate")
            return Connected(peer, tls.channel_binding(transport))
        finally:
            connection.release()

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
        if any(character in value for value in (headers or {}).values() for character in "\r\n"):
            raise Malformed("header-malformed", "a line break in a header")
        fields = {"Host": _host(target), "Accept-Encoding": "identity", **(headers or {})}
        try:
            async with asyncio.timeout(self._seconds):
                return await self._exchange(method, target, body, fields, limit)
        except BrskiError:
            raise
        except (aiohttp.ClientError, aiohttp.http.HttpProcessingError, OSError, ValueError) as error:
            raise _fault(error) from error

    async def _exchange(
        self, method: str, url: URL, body: bytes, headers: Mapping[str, str], limit: int
    ) -> HttpResponse:
        data = body if body or method not in {"GET", "HEAD"} else None
        async with self._open().request(method, url, data=data, headers=headers, allow_redirects=False) as response:
            assert isinstance(response, _Response)
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise PeerFailed("response-compressed", f"{url.host}: {response.headers['Content-Encoding']}")
            content = await _read(response, limit)
        return HttpResponse(response.status, response.headers, content, response.peer)

    def _open(self) -> aiohttp.ClientSession:
        """The session, made on first use, because aiohttp wants a running loop."""
        if self._closed:
            raise PeerFailed("connection-gone", "this client is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(self._tls, limit=self._max_connections, single=self._single),
                response_class=_Response,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent",),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # one clock is enough, in `request`
                auto_decompress=False,
                max_line_size=MAX_LINE_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                max_headers=MAX_HEADERS,
            )
            self._session._retry_connection = False  # else aiohttp repeats a GET on a new connection, unasked
        return self._session


class _Connector(aiohttp.TCPConnector):
    """aiohttp's connections, without a second try after TLS failed and, if `single`, without a second connection."""

    def __init__(self, context: tls.TlsContext | None, *, limit: int, single: bool) -> None:
        super().__init__(ssl=context or False, limit=limit, use_dns_cache=False, keepalive_timeout=IDLE_SECONDS)
        self._is_single, self._begun = single, False

    async def _create_connection(self, *args: Any, **kwargs: Any) -> ResponseHandler:  # noqa: ANN401 -- passed on as they are
        if self._is_single and self._begun:
            raise PeerFailed("connection-gone", "the single connection of this client has ended")
        self._begun = True
        return await super()._create_connection(*args, **kwargs)

    async def _wrap_create_connection(self, *args: Any, **kwargs: Any) -> tuple[asyncio.Transport, ResponseHandler]:  # noqa: ANN401 -- passed on as they are
        try:
            return await super()._wrap_create_connection(*args, **kwargs)
        except aiohttp.ClientConnectorError as error:
            # A BrskiError stops aiohttp from trying the peer's other addresses, as it does for its own errors.
            if refusal := tls.refusal_in(error):
                raise refusal from error
            if isinstance(error, aiohttp.ClientSSLError) or _cut_short(error.os_error):
                raise PeerFailed("tls-handshake-failed", str(error.os_error)) from error
            raise


class _Response(aiohttp.ClientResponse):
    """A response that remembers its peer: a short answer gives its connection back before the caller sees it."""

    peer: Peer | None = None

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        self.peer = tls.peer_of(connection.transport)
        return await super().start(connection)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    if (response.content_length or 0) > limit:
        raise _too_large(response, limit)
    chunks, size = list[bytes](), 0
    while chunk := await response.content.readany():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise _too_large(response, limit)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(response: aiohttp.ClientResponse, limit: int) -> PeerFailed:
    response.close()
    return PeerFailed("response-too-large", f"{response.url.host}: more than {limit} bytes")


def _cut_short(error: OSError) -> bool:
    """The TCP connection stood, and then ended within the handshake."""
    return isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError)


def _fault(error: BaseException) -> PeerFailed:
    reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "response-malformed")
    return PeerFailed(reason, _words(reason, error))


def _words(reason: str, error: BaseException) -> str:
    """What happened, without aiohttp's insides. The rest of a malformed answer's error is the peer's own text."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{error.host} port {error.port}: {_system_words(error.os_error)}"
    if reason in _WORDS:
        return _WORDS[reason]
    said = str(getattr(error, "message", "") or error).strip().splitlines()
    return f"not a usable HTTP answer: {said[0]}" if said else "not a usable HTTP answer"


def _system_words(error: OSError) -> str:
    """The system's words for its error; asyncio's own repeat the address."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


def _target(url: str) -> URL:
    """The URL as aiohttp wants it: the zone of a link-local address spelled as the sockets spell it."""
    scheme, _, rest = url.partition("://")
    try:
        if rest.startswith("["):
            address, bracket, tail = rest.partition("]")
            target = URL(f"{scheme}://{address.replace('%25', '%')}{bracket}{tail}", encoded=True)
        else:
            target = URL(url)
        usable = target.scheme in {"https", "http"} and bool(target.raw_host) and target.user is None
    except ValueError as error:
        raise Malformed("url-malformed", f"{url[:200]!r}: {error}") from error
    if not usable or any(character <= " " for character in url):
        raise Malformed("url-malformed", f"{url[:200]!r}: wanted is an absolute http(s) URL without credentials")
    return target


def _host(url: URL) -> str:
    """The Host header. A zone has a meaning on this machine only and stays here (RFC 6874, 1)."""
    host = (url.raw_host or "").partition("%")[0]
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() else f"{host}:{url.port}"
