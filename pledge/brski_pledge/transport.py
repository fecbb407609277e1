"""What a device that brings its own TLS implements: five methods, as `http.Transport` has them.

Each returns at once. What comes of it is reported by the function the transport was made with, as
Connected, Response, RevocationLists or Lost, from within the event loop. A transport keeps these
promises, on which the machine's decisions stand:

1. `connect` opens exactly one connection for the attempt, TLS 1.2 or newer, with no resumption, proves possession of
   `action.credential`, checks that the server proves possession of its key and nothing else about it, and reports
   the whole chain the server sent, leaf first. SNI is sent only if `action.server_name`.
2. `action.judge(peer)` is asked as soon as the handshake ends; if it raises, the connection is closed and Lost is
   reported with the error's reason and detail.
3. `send` uses the attempt's own connection, never a new one, follows no redirection, and bounds head and body.
"""

from collections.abc import Callable
from typing import Protocol

from brski_pledge import actions


class Transport(Protocol):
    """How actions reach the network."""

    def connect(self, action: actions.Connect) -> None:
        """Open the one connection of an attempt; report Connected or Lost."""

    def send(self, action: actions.Send) -> None:
        """Send a request over the connection of its attempt; report Response or Lost."""

    def fetch(self, action: actions.FetchRevocationLists) -> None:
        """Fetch CRLs by plain HTTP; report RevocationLists."""

    def close(self, attempt: int) -> None:
        """Close the attempt's connection; nothing more is reported about it."""

    async def aclose(self) -> None:
        """Close everything."""


Report = Callable[[actions.Input], None]
MakeTransport = Callable[[Report], Transport]
