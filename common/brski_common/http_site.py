"""What a server serves: which handler answers which path, and how an error becomes a response.

A path is looked up by equality, as sent and then with its percent signs resolved; only `add_below` leaves the last
segment open. What a client is told when nothing fits is plain text without an echo.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from brski_common.errors import BrskiError
from brski_common.http_message import Request, Response, plain

MAX_BODY_BYTES: Final = 256 * 1024
ANY_METHOD: Final = "*"

Handler = Callable[[Request], Awaitable[Response]]
Render = Callable[[Request, BrskiError], Response]
Admit = Callable[[Request], None]

log = logging.getLogger("brski.http")


@dataclass(frozen=True, slots=True)
class Route:
    """A handler, and how many bytes of body it is given at most."""

    handler: Handler
    limit: int


class Site:
    """The routes of a role.

    `render(request, error)` answers a BrskiError. `admit(request)` may raise one as soon as the head of a request has
    come, before its body is waited for.
    """

    def __init__(self, render: Render, *, admit: Admit | None = None) -> None:
        self.admit = admit
        self._render = render
        self._routes: dict[str, dict[str, Route]] = {}
        self._below: dict[str, dict[str, Route]] = {}

    def add(self, method: str, path: str, handler: Handler, *, limit: int = MAX_BODY_BYTES) -> None:
        """Serve a path; ANY_METHOD stands for those that are not named."""
        self._routes.setdefault(path, {})[method] = Route(handler, limit)

    def add_below(self, method: str, prefix: str, handler: Handler, *, limit: int = MAX_BODY_BYTES) -> None:
        """Serve whatever has one more segment than `prefix`, which ends in a slash."""
        self._below.setdefault(prefix, {})[method] = Route(handler, limit)

    def find(self, request: Request) -> Route | Response:
        """The route of a request, or what to answer if there is none (404, 405)."""
        routes = self._routes.get(request.path) or self._below.get(
            request.path[: len(request.path) - len(request.last())]
        )
        if routes is None:
            return plain(404, "path-unknown")
        route = routes.get(request.method) or routes.get(ANY_METHOD)
        if route is None:
            refusal = plain(405, "method-not-allowed")
            refusal.add("Allow", ", ".join(sorted(routes)))
            return refusal
        return route

    async def answer(self, request: Request, handler: Handler) -> Response:
        """What the handler says, or what its error comes to."""
        try:
            return await handler(request)
        except BrskiError as error:
            return self.refuse(request, error)
        except Exception as error:  # whatever it is, the client sees only an id
            return unforeseen(request, error)

    def refuse(self, request: Request, error: BrskiError) -> Response:
        """The answer to a BrskiError."""
        try:
            return self._render(request, error)
        except Exception as another:
            return unforeseen(request, another)


def unforeseen(request: Request | None, error: Exception) -> Response:
    """500 with an id for the client; the log has the rest under the same id."""
    identifier = secrets.token_hex(4)
    at = f"{request.method} {request.path}" if request else "a request that cannot be read"
    log.error("internal error %s at %s", identifier, at, exc_info=error)
    return plain(500, f"internal error {identifier}")
