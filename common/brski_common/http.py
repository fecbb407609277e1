"""The server side of HTTP/1.1 over TLS: who listens, how many are let in, and when they are put out.

What a connection says is `http_connection`'s, what is answered is `http_site`'s. Who the client is comes from TLS alone
(`peer`), at the cost of a dictionary look-up. A role makes a `Site` and hands it to `serve`.
"""

import asyncio
import errno
import logging
import socket

from brski_common import tls
from brski_common.certificates import Peer
from brski_common.errors import Misconfigured
from brski_common.http_connection import HttpConnection, Limits
from brski_common.http_message import Request
from brski_common.http_site import Site

BACKLOG = 512
ACCEPT_PAUSE_SECONDS = 0.5  # after accept() failed, as it does when the process is out of descriptors

log = logging.getLogger("brski.http")


def peer(request: Request) -> Peer | None:
    """The TLS client of this connection, None if it showed no certificate; raises Malformed for an unreadable one."""
    return tls.peer_of(request.transport)


class Server:
    """A listening server: `host`, `port`, `url`; `await close()` lets running requests finish."""

    def __init__(self, site: Site, listener: socket.socket, tls_context: tls.TlsContext | None, limits: Limits) -> None:
        self.host, self.port = listener.getsockname()[:2]
        self.limits = limits
        self._site, self._listener, self._tls = site, listener, tls_context
        self._loop = asyncio.get_running_loop()
        self._slots = limits.connections
        self._connections: set[HttpConnection] = set()
        self._greetings: set[asyncio.Task[None]] = set()  # the event loop takes the sockets
        self._is_listening = self._is_closing = False
        self._listen()
        # One timer for all connections: their deadlines then cost a request nothing but an assignment.
        shortest = min(limits.handshake_seconds, limits.request_seconds, limits.stall_seconds)
        self._sweep_seconds = min(1.0, shortest / 4)
        self._sweeper = self._loop.call_later(self._sweep_seconds, self._sweep)

    @property
    def url(self) -> str:
        """`https://127.0.0.1:8443`, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    async def close(self, grace_seconds: float = 5.0) -> None:
        """Accept nothing more, give running requests `grace_seconds`, then disconnect everybody."""
        self._is_closing = True
        self._pause()
        self._sweeper.cancel()
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would not close its socket
        for task in self._greetings:
            task.cancel()
        await asyncio.gather(*self._greetings, return_exceptions=True)
        self._listener.close()
        for connection in tuple(self._connections):
            connection.finish()
        if tasks := [each.task for each in self._connections if each.task is not None]:
            _, late = await asyncio.wait(tasks, timeout=grace_seconds)
            for task in late:
                task.cancel()
        while self._connections:
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.sleep(0)

    def _listen(self) -> None:
        if self._slots > 0 and not (self._is_listening or self._is_closing):
            self._is_listening = True
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _pause(self) -> None:
        if self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        """Let one client in; the event loop calls again if there are more."""
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # it has thought better of it
        except OSError as error:
            log.warning("cannot accept connections: %s", error)
            self._pause()
            self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._listen)
            return
        client.setblocking(False)
        self._slots -= 1
        if self._slots <= 0:
            self._pause()
        greeting = self._loop.create_task(self._greet(client))
        self._greetings.add(greeting)
        greeting.add_done_callback(self._greetings.discard)

    async def _greet(self, client: socket.socket) -> None:
        """Connect a protocol; the TLS handshake then goes on by itself."""
        connection = HttpConnection(self._site, self.limits, self._left)
        self._connections.add(connection)
        is_taken = False
        try:
            protocol = connection if self._tls is None else connection.behind(self._tls)
            await self._loop.connect_accepted_socket(lambda: protocol, client)
            is_taken = True
        except OSError as error:
            log.debug("no connection: %s", error)
        except Exception:
            log.exception("no connection")
        finally:
            if not is_taken:
                self._left(connection)

    def _left(self, connection: HttpConnection) -> None:
        """A connection is gone, or never was: its slot is free."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._slots += 1
            self._listen()

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in tuple(self._connections):
            connection.check_time(now)
        self._sweeper = self._loop.call_later(self._sweep_seconds, self._sweep)


async def serve(
    site: Site,
    host: str,
    port: int,
    tls_context: tls.TlsContext | None,
    *,
    limits: Limits | None = None,
    reuse_port: bool = False,
) -> Server:
    """Serve `site` on one address (`port` 0: any free one). Raises Misconfigured if the address cannot be used.

    Without `tls_context` it is plain HTTP, for a metrics port. `reuse_port` lets several processes share the load.
    """
    return Server(site, await _listen(host, port, reuse_port=reuse_port), tls_context, limits or Limits())


async def _listen(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Misconfigured("address-not-usable", _unusable(host, port, error)) from error
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Misconfigured("address-not-usable", _unusable(host, port, error)) from error
    return listener


def _unusable(host: str, port: int, error: OSError) -> str:
    words = error.strerror or str(error)
    advice = "; stop what listens there, or choose another port" if error.errno == errno.EADDRINUSE else ""
    return f"{host} port {port}: {words[:1].lower()}{words[1:]}{advice}"
