"""What both sides ask of aiohttp's parser (llhttp): the same bounds, and the same strictness about lengths and codings.

A request is read by `http_connection`, an answer by `http_answer`.
"""

from typing import Any, Final

from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.hdrs import TRANSFER_ENCODING
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDictProxy

MAX_LINE_BYTES: Final = 4 * 1024
MAX_HEADER_BYTES: Final = 8 * 1024  # of one header field; with MAX_HEADERS this bounds all of them
MAX_HEADERS: Final = 64
MAX_LENGTH_DIGITS: Final = 20  # of a Content-Length; zeros in front are allowed (RFC 9110, 8.6), and nobody writes many
NEVER_PAUSE: Final = 2**30  # bytes; the parser would pause a transport it does not have
MALFORMED: Final = (HttpProcessingError, ValueError)  # what the parser raises
BODY_MALFORMED: Final = (ClientPayloadError, HttpProcessingError)  # what it leaves in a body instead

OPTIONS: Final[dict[str, Any]] = {
    "limit": NEVER_PAUSE,
    "max_line_size": MAX_LINE_BYTES,
    "max_field_size": MAX_HEADER_BYTES,
    "max_headers": MAX_HEADERS,
    "payload_exception": ClientPayloadError,
    "auto_decompress": False,
}


class NoTransport(BaseProtocol):
    """For a parser, which wants to tell one of its progress: of a body that is bounded by who reads it."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Nothing was paused."""


def exceeds(declared: str, limit: int) -> bool:
    """Whether a Content-Length is more than `limit`. The parser has seen that these are digits, however many."""
    return len(declared) > MAX_LENGTH_DIGITS or int(declared) > limit


def is_only_chunked(headers: CIMultiDictProxy[str]) -> bool:
    """Whether the Transfer-Encoding, in however many fields, is the one that the parser undoes."""
    return [coding.lower() for coding in headers.getall(TRANSFER_ENCODING)] == ["chunked"]
