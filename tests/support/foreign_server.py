"""aiohttp's own server over asyncio's TLS, for fake peers: no line of `brski_common.http` answers there."""

from collections.abc import Mapping

from aiohttp import web

from brski_common import tls
from brski_common.certificates import Peer


class ForeignServer:
    """Where it listens, and its end."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner
        self.host, self.port = runner.addresses[0][:2]
        self.url = f"https://{self.host}:{self.port}"

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Give running requests so long, then end."""
        self._runner._shutdown_timeout = grace_seconds
        await self._runner.cleanup()


async def serve(app: web.Application, host: str, port: int, context: tls.TlsContext) -> ForeignServer:
    """Listen on one address; port 0 is any."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port, ssl_context=context).start()
    return ForeignServer(runner)


def peer(request: web.Request) -> Peer | None:
    """Who is at the other end."""
    return tls.peer_of(request.transport)


def plain(status: int, text: str) -> web.Response:
    """One line of text."""
    return web.Response(status=status, text=f"{text}\n")


def reply(
    status: int, body: bytes = b"", media_type: str | None = None, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A body of a type."""
    kind = {} if media_type is None else {"Content-Type": media_type}
    return web.Response(status=status, body=body, headers={**kind, **(headers or {})})
