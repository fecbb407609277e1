"""What a handler of the server gets and gives: a whole request, a whole response (RFC 9110). No I/O here.

A client's request is only taken apart here; who the client is comes from TLS (`http.peer`), never from a header.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from multidict import CIMultiDictProxy

PLAIN: Final = "text/plain; charset=utf-8"
_PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}
_WITHOUT_LENGTH: Final = frozenset((204, 304))

Fields = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Request:
    """A request that has come to its end. `target` is as sent, `path` without query and percent signs.

    `remote` is the address at the other end, without a port.
    """

    method: str
    target: str
    path: str
    headers: CIMultiDictProxy[str]
    transport: asyncio.BaseTransport
    remote: str = ""
    body: bytes = b""

    def last(self) -> str:
        """The last segment of the path."""
        return self.path.rpartition("/")[2]


@dataclass(slots=True)
class Response:
    """A whole response; with `closes` it is the connection's last. Values in `fields` are ours, not a client's."""

    status: int
    body: bytes = b""
    fields: Fields = ()
    closes: bool = False

    def add(self, name: str, value: str) -> None:
        """One more header field."""
        self.fields += ((name, value),)


def reply(
    status: int, body: bytes = b"", media_type: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with a body of this type."""
    fields = () if media_type is None else (("Content-Type", media_type),)
    return Response(status, body, fields + tuple(headers.items()) if headers else fields)


def plain(status: int, text: str) -> Response:
    """A one-line plain-text response."""
    return Response(status, f"{text}\n".encode(), (("Content-Type", PLAIN),))


def head(response: Response, now: float, *, version: str = "1.1", closes: bool = False) -> bytes:
    """Status line and header fields as sent at `now`, in seconds of the epoch (RFC 9112, 4; RFC 9110, 6.6.1)."""
    first = _head(response.status, response.fields, version, closes)
    if response.status in _WITHOUT_LENGTH:
        return b"%bDate: %b\r\n\r\n" % (first, _date(int(now)))
    return b"%bDate: %b\r\nContent-Length: %d\r\n\r\n" % (first, _date(int(now)), len(response.body))


@lru_cache(maxsize=256)  # services say the same again and again
def _head(status: int, fields: Fields, version: str, closes: bool) -> bytes:
    lines = [f"HTTP/{version} {status} {_PHRASES.get(status, 'Unknown')}"]
    for name, value in fields:
        if not value.isprintable():  # a line end would begin another field, or another response
            raise ValueError(f"header field {name} with a control character")
        lines.append(f"{name}: {value}")
    if closes:
        lines.append("Connection: close")
    elif version == "1.0":
        lines.append("Connection: keep-alive")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")


def media_type(request: Request) -> str:
    """The Content-Type without parameters, in lower case; empty if there is none."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def accepts(request: Request, wanted: str) -> bool:
    """Whether the client takes this media type, by name, by a range or by saying nothing (RFC 9110, 12.5.1)."""
    fields = request.headers.getall("Accept", ())
    if not fields or fields == [wanted]:
        return True
    quality = dict(_media_range(each) for each in ",".join(fields).lower().split(",") if each.strip())
    for pattern in (wanted, f"{wanted.partition('/')[0]}/*", "*/*"):  # the most specific one decides
        if pattern in quality:
            return quality[pattern] > 0
    return not quality


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            with suppress(ValueError):
                return name, float(parameter[2:])
    return name, 1.0
