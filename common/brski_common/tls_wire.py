"""One TLS connection on a TCP transport of the event loop: OpenSSL's memory BIOs without `asyncio.sslproto` between.

Laws of this file:

1. What the socket gives goes into OpenSSL as it comes, and what OpenSSL gives goes to the protocol at once: nothing is
   buffered here, so the event loop's own flow control, passed on as it is, bounds memory on both sides.
2. The protocol is told of a connection when the handshake is over and `judge` had no objection, and not before. Why
   there is none, `opened` raises, and `missed` is told when TCP is gone. How long a handshake may take is for them.
3. A `TlsWire` is the transport of its protocol and the protocol of its transport. It ends in `connection_lost`, once.
4. In TLS 1.3 each side's last word of the handshake travels with what it says first, so that the other wakes once for
   both. The server's is a ticket that points at nothing (pyOpenSSL cannot do without) and may wait for long, the
   client's is waited for: it goes when those who waited for the handshake have had their turn, in any case.
5. A peer that keeps us busy with records that carry no data, such as key updates, is put out.
6. Closing sends close_notify, then the end of the stream, and waits `close_seconds` for the peer to do the same; what
   the peer still sends is dropped. So an answer is read before a reset can overtake it. A peer that has said goodbye
   is not waited for.

`asyncio.sslproto` can do all of this; it costs a connection about as much again as its handshake.
"""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

from OpenSSL import SSL
from OpenSSL._util import ffi
from OpenSSL._util import lib as openssl

from brski_common.tls import MAX_PLAINTEXT_BYTES, PeerRefusedError, TlsContext, TlsSide, as_ssl_error

DRAIN_BYTES = 32 * 1024  # taken from OpenSSL at a time
CLOSE_SECONDS = 2.0
SLICE_BYTES = 32 * 1024  # given to OpenSSL at a time
MAX_SILENT_BYTES = 64 * 1024  # received without any plaintext in between: a whole record has 17 KiB

_NOBODY = asyncio.Protocol()


class _Buffers(threading.local):
    """One of each is enough for a thread: their content is copied before anything else can run there."""

    def __init__(self) -> None:
        self.plain = ffi.new("char[]", MAX_PLAINTEXT_BYTES)
        self.encrypted = ffi.new("char[]", DRAIN_BYTES)


_BUFFERS = _Buffers()


class TlsWire(asyncio.Transport, asyncio.Protocol):
    """Give it to an event loop as the protocol of a connection; `await opened()`, then `protocol` is connected."""

    def __init__(
        self,
        context: TlsContext | TlsSide,
        protocol: asyncio.Protocol,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        close_seconds: float = CLOSE_SECONDS,
        missed: Callable[[OSError], None] | None = None,
    ) -> None:
        super().__init__()
        self._tls = _side(context).connection(server_side=server_side, server_hostname=server_hostname)
        self._connection = self._tls._connection
        self._plain, self._encrypted = _BUFFERS.plain, _BUFFERS.encrypted
        self._protocol, self._server_side, self._close_seconds = protocol, server_side, close_seconds
        self._missed = missed
        self._loop = asyncio.get_running_loop()
        self._raw: asyncio.Transport | None = None
        self._said_nothing = 0
        self._joined = self._closing = self._paused = self._is_cut = self._heard_goodbye = False
        self._failure: OSError | None = None  # why the handshake did not come to its end
        self._waiting: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def opened(self) -> None:
        """Wait for the end of the handshake; raises ssl.SSLError, PeerRefusedError or another OSError.

        Who has waited for long enough cancels.
        """
        if not self._joined and self._failure is None:
            self._waiting = self._loop.create_future()
            try:
                await self._waiting
            except asyncio.CancelledError:
                self.abort()
                raise
        if self._failure is not None:
            raise self._failure

    def _shaken(self, failure: OSError | None) -> None:
        """The handshake is over."""
        self._joined, self._failure = failure is None, failure
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # The protocol of the TCP transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP stands; a client begins to speak."""
        self._raw = cast("asyncio.Transport", transport)
        if self._closing:
            self._raw.abort()  # it was given up before it stood
        elif not self._server_side:
            self._shake()

    def data_received(self, data: bytes) -> None:
        """Encrypted bytes have come."""
        for part in (data,) if len(data) <= SLICE_BYTES else _slices(data):
            if self._closing:
                return  # after our goodbye only the end of the peer's stream is of interest
            openssl.BIO_write(self._connection._into_ssl, part, len(part))
            if not self._joined:
                self._shake()
            elif not self._paused:
                self._said_nothing += len(part)
                self._read()

    def eof_received(self) -> None:
        """The peer's stream has ended; the TCP transport closes itself.

        Without close_notify somebody on the path may have cut it: the protocol is not told of an end, but of a loss. So
        it is after an alert, or a record that cannot be read.
        """
        self._is_cut = self._joined and not self._closing

    def connection_lost(self, exc: BaseException | None) -> None:
        """TCP is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._closing = True
        protocol, self._protocol, self._raw = self._protocol, _NOBODY, None  # a cycle less for the collector
        missed, self._missed = self._missed, None
        if self._joined:
            if exc is None and self._is_cut:
                exc = ConnectionAbortedError("the TLS connection ended without close_notify")
            protocol.connection_lost(cast("Exception | None", exc))
            return
        if self._failure is None:
            ended = exc if isinstance(exc, OSError) else ConnectionResetError("closed during the handshake")
            self._shaken(ended)
        if missed is not None and self._failure is not None:
            missed(self._failure)

    def pause_writing(self) -> None:
        """The peer does not read fast enough."""
        if self._joined:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._joined:
            self._protocol.resume_writing()

    # TLS

    def _shake(self) -> None:
        handle = self._connection._ssl
        done = openssl.SSL_do_handshake(handle)
        if done != 1:
            self._not_yet(handle, done)
            return
        try:
            self._tls.judge()
        except PeerRefusedError as error:
            # The last flight stays here: in TLS 1.3 a refused server does not even learn our certificate.
            self._end(error)
            return
        if self._connection.get_protocol_version() < ssl.TLSVersion.TLSv1_3:
            self._flush()
        self._join()
        if not self._server_side:
            self._loop.call_soon(self._flush)

    def _not_yet(self, handle: Any, result: int) -> None:  # noqa: ANN401 -- a pointer
        """More has to come from the peer, most of the time: not worth an exception."""
        if openssl.SSL_get_error(handle, result) == openssl.SSL_ERROR_WANT_READ:
            self._flush()
        else:
            self._raise(handle, result)

    def _join(self) -> None:
        self._shaken(None)
        self._protocol.connection_made(self)
        if not self._paused:
            self._read()  # what came with the last flight

    def _read(self) -> None:
        """Hand on what can be read, unless the protocol has had enough."""
        handle = self._connection._ssl
        while not self._closing and not self._paused:
            size = openssl.SSL_read(handle, self._plain, MAX_PLAINTEXT_BYTES)
            if size > 0:
                self._said_nothing = 0
                self._protocol.data_received(ffi.buffer(self._plain, size)[:])
                continue
            # Nearly always there is just no more: not worth an exception. An answer to a key update may wait for
            # the next write (RFC 8446, 4.6.3).
            why = openssl.SSL_get_error(handle, size)
            if why == openssl.SSL_ERROR_WANT_READ:
                if self._said_nothing > MAX_SILENT_BYTES:
                    self._fail(ssl.SSLError(ssl.SSL_ERROR_SSL, "the peer sends records without data"))
                return
            if why == openssl.SSL_ERROR_ZERO_RETURN:
                self._heard_goodbye = True
                self._protocol.eof_received()
                self.close()
            else:
                self._raise(handle, size)

    def _raise(self, handle: Any, result: int) -> None:  # noqa: ANN401 -- a pointer
        """Something is wrong: the connection ends as OpenSSL's error says."""
        try:
            self._connection._raise_ssl_error(handle, result)
        except SSL.Error as error:
            self._fail(as_ssl_error(error))

    def _flush(self) -> None:
        """Send what OpenSSL has for the peer."""
        if self._raw is None:
            return
        while (size := openssl.BIO_read(self._connection._from_ssl, self._encrypted, DRAIN_BYTES)) > 0:
            self._raw.write(ffi.buffer(self._encrypted, size)[:])
            if size < DRAIN_BYTES:
                return

    def _fail(self, error: OSError) -> None:
        """An alert for the peer, then the end."""
        self._flush()
        self._end(error)

    def _end(self, error: OSError) -> None:
        assert self._raw is not None
        self._is_cut = self._joined
        if not self._joined:
            self._shaken(error)
        self._closing = True
        self._raw.close()

    # The transport of the protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._closing or not data:
            return
        handle, plain, sent = self._connection._ssl, ffi.from_buffer("char[]", data), 0
        whole = len(plain)
        while sent < whole:  # a record at a time; a memory BIO is never full
            size = openssl.SSL_write(handle, plain + sent, whole - sent)
            if size <= 0:
                self._raise(handle, size)
                return
            sent += size
        self._flush()

    def close(self) -> None:
        """Say goodbye, and wait a moment for the peer to do so."""
        if self._closing or self._raw is None:
            return
        self._closing = True
        if openssl.SSL_shutdown(self._connection._ssl) < 0:
            openssl.ERR_clear_error()  # nothing can be said any more, or not yet
        self._flush()
        if self._raw.is_closing():
            return
        if self._heard_goodbye:
            self._raw.close()
        else:
            self._end_stream(self._raw)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._close_seconds, self.abort)

    def _end_stream(self, raw: asyncio.Transport) -> None:
        try:
            raw.write_eof()
            raw.resume_reading()
        except OSError:  # the peer has reset the connection, and the event loop has not looked yet
            raw.abort()

    def abort(self) -> None:
        """Close without a word."""
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def is_closing(self) -> bool:
        """Whether the end has begun."""
        return self._closing

    def pause_reading(self) -> None:
        """Give the protocol nothing more until `resume_reading`."""
        if not self._paused and not self._closing and self._raw is not None:
            self._paused = True
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Go on, with what waits in OpenSSL first."""
        if self._paused and not self._closing and self._raw is not None:
            self._paused = False
            self._raw.resume_reading()
            self._loop.call_soon(self._read)

    def is_reading(self) -> bool:
        """Whether the protocol gets data."""
        return not self._paused and not self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 -- asyncio's signature
        """`ssl_object` is the TlsObject; anything else is the TCP transport's."""
        if name == "ssl_object":
            return self._tls
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Change who is told."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told."""
        return self._protocol

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the peer."""
        return 0 if self._raw is None else self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """From where on writing pauses."""
        return (0, 0) if self._raw is None else self._raw.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set from where on writing pauses."""
        if self._raw is not None:
            self._raw.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        """No: TLS cannot be closed by half in a way that everybody understands."""
        return False


def _slices(data: bytes) -> Iterator[bytes]:
    return (data[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES))


def _side(context: TlsContext | TlsSide) -> TlsSide:
    return context.side if isinstance(context, TlsContext) else context
