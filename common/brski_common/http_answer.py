"""One HTTP/1.1 answer as it comes (RFC 9112): aiohttp's parser under bounds of ours.

Laws of this file:

1. Head and body are bounded before they are kept; the peer may be nobody's friend yet (RFC 8995, 5.1).
2. A parser reads one answer and is thrown away: nothing that a peer sent too much is taken for its next answer.
3. An answer that is complete says whether another may follow on the connection.

Every fault is PeerFailed: `response-malformed`, `response-too-large`, `response-incomplete`, `peer-disconnected`.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiohttp.hdrs import TRANSFER_ENCODING
from aiohttp.http import HttpProcessingError, HttpResponseParser

from brski_common import http_parsing
from brski_common.errors import PeerFailed
from brski_common.http_parsing import NoTransport

MAX_INTERIM: Final = 8  # 1xx answers before the final one
WITHOUT_BODY: Final = frozenset((204, 304))  # a length there is that of another answer, if any (RFC 9110, 8.6)


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
            NoTransport(loop), loop, response_with_body=not to_head, read_until_eof=True, **http_parsing.OPTIONS
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
        except http_parsing.MALFORMED as error:
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
            if TRANSFER_ENCODING in message.headers and not http_parsing.is_only_chunked(message.headers):
                raise PeerFailed("response-malformed", "a transfer coding that nobody asked for")
            if not self._to_head and message.code not in WITHOUT_BODY:
                self._check_length(message.headers.get("Content-Length", "0"))

    def _check_length(self, declared: str) -> None:
        """Raise PeerFailed for more than the limit, whatever the parser makes of it: of 2**64 - 1 it makes no body."""
        if http_parsing.exceeds(declared, self._limit):
            raise self._too_large()

    def _take(self) -> bool:
        """Move what came of the body here; whether that was all."""
        payload = self._payload
        if not self.status or self.is_complete:
            return self.is_complete
        try:
            data = payload.read_nowait()
        except http_parsing.BODY_MALFORMED as error:
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
