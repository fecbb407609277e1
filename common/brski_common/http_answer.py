"""One HTTP/1.1 answer as it comes (RFC 9112): aiohttp's parser under bounds of ours.

Laws of this file:

1. Head and body are bounded before they are kept; the peer may be nobody's friend yet (RFC 8995, 5.1).
2. A parser reads one answer and is thrown away: nothing that a peer sent too much is taken for its next answer.
3. An answer that is complete says whether another may follow on the connection.

Every fault is PeerFailed: `response-malformed`, `response-too-large`, `response-incomplete`, `peer-disconnected`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.http import HttpProcessingError, HttpResponseParser

from brski_common.errors import PeerFailed

MAX_LINE_BYTES: Final = 4 * 1024
MAX_HEADER_BYTES: Final = 8 * 1024
MAX_HEADERS: Final = 64
MAX_INTERIM: Final = 8  # 1xx answers before the final one
MAX_LENGTH_DIGITS: Final = 20  # of a Content-Length; zeros in front are allowed (RFC 9110, 8.6), and nobody writes many
WITHOUT_BODY: Final = frozenset((204, 304))  # a length there is that of another answer, if any (RFC 9110, 8.6)
_NEVER_PAUSE: Final = 2**30  # bytes; the parser would pause a transport it does not have


class NoTransport(BaseProtocol):
    """For a parser, which wants to tell one of its progress: of a body that is bounded by who reads it."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Nothing was paused."""


class AnswerReader:
    """One answer to one request. `limit` bounds its body in bytes; to a HEAD request there is none."""

    def __init__(self, limit: int, *, to_head: bool = False) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.is_complete = self.keeps_connection = False
        self._limit, self._size, self._interim, self._to_head = limit, 0, 0, to_head
        self._chunks: list[bytes] = []
        self._payload: Any = None
        self._heard = False
        loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(
            NoTransport(loop),
            loop,
            _NEVER_PAUSE,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            payload_exception=ClientPayloadError,
            response_with_body=not to_head,
            read_until_eof=True,
            auto_decompress=False,
        )

    @property
    def body(self) -> bytes:
        """What came of the body."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    def feed(self, data: bytes) -> None:
        """Take what came; raises PeerFailed."""
        self._heard = True
        try:
            messages, upgraded, _ = self._parser.feed_data(data)
        except (HttpProcessingError, ValueError) as error:
            raise PeerFailed("response-malformed", type(error).__name__) from error
        if upgraded:
            raise PeerFailed("response-malformed", "another protocol, which nobody asked for")
        for message, payload in messages:
            self._begin(message, payload)
        self._take()

    def end(self, *, in_order: bool = True) -> None:
        """The connection ended: if in order, that completes an answer without a length; else raises PeerFailed."""
        if self.is_complete:
            return
        if not self._heard:
            raise PeerFailed("peer-disconnected", "the connection ended before an answer")
        if not in_order:
            raise PeerFailed("response-incomplete", "the connection was cut within the answer")
        try:
            self._parser.feed_eof()
            whole = self._take()
        except (HttpProcessingError, PeerFailed) as error:
            raise PeerFailed("response-incomplete", "the connection ended within the answer") from error
        if not whole:
            raise PeerFailed("response-incomplete", "the connection ended within the answer")
        self.keeps_connection = False

    def _begin(self, message: Any, payload: Any) -> None:  # noqa: ANN401 -- aiohttp's own, which differ by parser
        if self.status:
            self.keeps_connection = False  # a second answer, to no question
        elif 100 <= message.code < 200:
            self._interim += 1
            if message.code == 101 or self._interim > MAX_INTERIM:
                raise PeerFailed("response-malformed", "an interim answer that was not asked for")
        else:
            self.status, self.headers, self._payload = message.code, message.headers, payload
            self.keeps_connection = not message.should_close
            if "Transfer-Encoding" in message.headers:
                _check_codings(message.headers.getall("Transfer-Encoding"))
            if not self._to_head and message.code not in WITHOUT_BODY:
                self._check_length(message.headers.get("Content-Length", "0"))

    def _check_length(self, declared: str) -> None:
        """Raise PeerFailed for more than the limit, whatever the parser makes of it: of 2**64 - 1 it makes no body."""
        if len(declared) > MAX_LENGTH_DIGITS or int(declared) > self._limit:  # the parser saw that these are digits
            raise self._too_large()

    def _take(self) -> bool:
        """Move what came of the body here; whether that was all."""
        payload = self._payload
        if not self.status or self.is_complete:
            return self.is_complete
        try:
            data = payload.read_nowait()
        except Exception as error:  # whatever the parser has told the payload
            raise PeerFailed("response-malformed", type(error).__name__) from error
        if data:
            self._chunks.append(data)
            self._size += len(data)
            if self._size > self._limit:
                raise self._too_large()
        self.is_complete = payload.is_eof()
        return self.is_complete

    def _too_large(self) -> PeerFailed:
        return PeerFailed("response-too-large", f"more than {self._limit} bytes")


def _check_codings(codings: Sequence[str]) -> None:
    if [coding.lower() for coding in codings] != ["chunked"]:
        raise PeerFailed("response-malformed", "a transfer coding that nobody asked for")
