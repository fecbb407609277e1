"""The machine's connections: each attempt has exactly one, with TLS.

No decision is made here, not even how long to wait: the machine has its own deadlines. Whatever happens to a connection
is reported as the input that the machine expects, in the turn of the event loop in which it happened; what the machine
no longer wants is cancelled. Nothing imports this module before an onboarding begins.
"""

import asyncio
from contextlib import suppress

from brski_common import tls
from brski_common.errors import BrskiError, PeerFailed
from brski_common.http_client import HttpClient
from brski_common.http_line import HttpResponse, Line, Question, read_url
from brski_pledge import actions
from brski_pledge.revocation import MAX_LIST_BYTES
from brski_pledge.transport import Report

MAX_ANSWER_BYTES = 256 * 1024  # a voucher with its chain, or a domain's CA certificates
LIST_SECONDS = 5.0  # for one CRL


class Transport:
    """Carries out Connect, Send, CloseConnection and FetchRevocationLists; `report` takes what came of them."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lines: dict[int, _Line] = {}
        self._fetches: dict[int, asyncio.Task[None]] = {}
        self._ending = set[asyncio.Task[None]]()  # what was cancelled and has yet to end

    def connect(self, action: actions.Connect) -> None:
        """Open the one connection of an attempt."""
        self.close(action.attempt)
        self._lines[action.attempt] = _Line(action, self._report)

    def send(self, action: actions.Send) -> None:
        """Send a request over the connection of its attempt."""
        self._lines[action.attempt].send(action)

    def fetch(self, action: actions.FetchRevocationLists) -> None:
        """Fetch CRLs, each from wherever it is; nothing of the attempt's connection is used."""
        self._fetches[action.attempt] = asyncio.ensure_future(self._fetch(action))

    def close(self, attempt: int) -> None:
        """Close the connection of an attempt and stop what goes on there."""
        if (fetching := self._fetches.pop(attempt, None)) is not None:
            self._cancel(fetching)
        if (line := self._lines.pop(attempt, None)) is not None:
            line.close()
            if line.opening is not None:
                self._cancel(line.opening)

    async def aclose(self) -> None:
        """Close everything, and wait until it is closed."""
        for attempt in [*self._lines, *self._fetches]:
            self.close(attempt)
        if self._ending:
            await asyncio.wait(self._ending)
        await asyncio.sleep(0)  # the event loop gets rid of the sockets in its next turns

    async def _fetch(self, action: actions.FetchRevocationLists) -> None:
        found: dict[str, bytes] = {}
        async with HttpClient(None, request_seconds=LIST_SECONDS) as client:
            for url in action.urls:
                with suppress(BrskiError):
                    answer = await client.request("GET", url, limit=MAX_LIST_BYTES)
                    if answer.status == 200:
                        found[url] = answer.body
        self._report(actions.RevocationLists(action.attempt, found))

    def _cancel(self, task: asyncio.Task[None]) -> None:
        if task.cancel():
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


class _Line:
    """One connection."""

    def __init__(self, action: actions.Connect, report: Report) -> None:
        self._attempt, self._report = action.attempt, report
        self._origin = _origin(action.host, action.port)
        self._line = Line((True, action.host, action.port))
        context = tls.client_side(action.credential, judge=action.judge, server_name=action.server_name)
        self.opening: asyncio.Task[None] | None = asyncio.ensure_future(self._open(context))

    async def _open(self, context: tls.TlsSide) -> None:
        line = self._line
        try:
            await line.open(context)
            if line.peer is None:
                raise PeerFailed("tls-handshake-failed", "the server showed no certificate")
        except BrskiError as error:
            line.close()
            told: actions.Input = actions.Lost(self._attempt, error.reason, error.detail)
        else:
            told = actions.Connected(self._attempt, line.peer, tls.channel_binding(line.transport))
        self.opening = None  # what is reported may have this closed, by this task
        self._report(told)

    def send(self, action: actions.Send) -> None:
        """Send a request."""
        try:
            target = read_url(self._origin + action.path)
            question = Question(action.method, target, body=action.body, headers=action.headers, limit=MAX_ANSWER_BYTES)
        except BrskiError as error:  # a path that a redirection named
            self._answered(error)
        else:
            self._line.ask(question, self._answered)

    def close(self) -> None:
        """Close it. Nothing more is reported of it, if `opening` is cancelled too."""
        self._line.close()

    def _answered(self, told: HttpResponse | BrskiError) -> None:
        if isinstance(told, BrskiError):
            self._report(actions.Lost(self._attempt, told.reason, told.detail))
        else:
            self._report(actions.Response(self._attempt, told.status, told.headers, told.body))


def _origin(host: str, port: int) -> str:
    """The start of a URL; the zone of a link-local address is written as RFC 6874 has it."""
    return f"https://[{host.replace('%', '%25')}]:{port}" if ":" in host else f"https://{host}:{port}"
