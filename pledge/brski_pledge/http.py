"""The machine's connections: each attempt has one HTTP client with exactly one TLS connection.

No decision is made here. Whatever happens to a connection is reported as the input that the machine
expects; what the machine no longer wants is cancelled. Nothing imports this module before an
onboarding begins.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress

from brski_common import tls
from brski_common.errors import BrskiError
from brski_common.http_client import HttpClient
from brski_pledge import actions
from brski_pledge.actions import Input
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
        self._tasks = set[asyncio.Task[None]]()

    def connect(self, action: actions.Connect) -> None:
        """Open the one connection of an attempt."""
        self.close(action.attempt)
        self._lines[action.attempt] = line = _Line(action, self._report, self._begin)
        line.say(action)

    def send(self, action: actions.Send) -> None:
        """Send a request over the connection of its attempt."""
        self._lines[action.attempt].say(action)

    def fetch(self, action: actions.FetchRevocationLists) -> None:
        """Fetch CRLs, each from wherever it is; nothing of the attempt's connection is used."""
        self._fetches[action.attempt] = self._begin(self._fetch(action))

    def close(self, attempt: int) -> None:
        """Close the connection of an attempt and stop what goes on there."""
        if (fetching := self._fetches.pop(attempt, None)) is not None:
            fetching.cancel()
        if (line := self._lines.pop(attempt, None)) is not None:
            line.close()

    async def aclose(self) -> None:
        """Close everything, and wait until it is closed."""
        for attempt in [*self._lines, *self._fetches]:
            self.close(attempt)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _fetch(self, action: actions.FetchRevocationLists) -> None:
        found: dict[str, bytes] = {}
        async with HttpClient(None, request_seconds=LIST_SECONDS) as client:
            for url in action.urls:
                with suppress(BrskiError):
                    answer = await client.request("GET", url, limit=MAX_LIST_BYTES)
                    if answer.status == 200:
                        found[url] = answer.body
        self._report(actions.RevocationLists(action.attempt, found))

    def _begin(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Line:
    """One connection. A task talks over it for as long as each answer is followed by a question at once."""

    def __init__(
        self,
        action: actions.Connect,
        report: Report,
        begin: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
    ) -> None:
        context = tls.client_side(action.credential, judge=action.judge, server_name=action.server_name)
        self._client = HttpClient(context, single_connection=True)
        self._origin = _origin(action.host, action.port)
        self._report, self._begin = report, begin
        self._to_say = deque[actions.Connect | actions.Send]()
        self._talk: asyncio.Task[None] | None = None
        self._is_reporting = self._is_closed = False

    def say(self, action: actions.Connect | actions.Send) -> None:
        """Connect, or send a request, after whatever is under way."""
        self._to_say.append(action)
        if self._talk is None:
            self._talk = self._begin(self._go_on())

    def close(self) -> None:
        """Close it. Nothing more is reported."""
        self._is_closed = True
        if self._is_reporting:
            return  # the task itself calls, and looks for that next
        if self._talk is not None:
            self._talk.cancel()
        self._begin(self._client.close())

    async def _go_on(self) -> None:
        while self._to_say and not self._is_closed:
            told = await self._do(self._to_say.popleft())
            self._is_reporting = True
            self._report(told)
            self._is_reporting = False
        self._talk = None
        if self._is_closed:
            await self._client.close()

    async def _do(self, action: actions.Connect | actions.Send) -> Input:
        attempt = action.attempt
        try:
            if isinstance(action, actions.Connect):
                found = await self._client.connect(self._origin)
                return actions.Connected(attempt, found.peer, found.channel_binding)
            url = self._origin + action.path
            answer = await self._client.request(
                action.method, url, body=action.body, headers=action.headers, limit=MAX_ANSWER_BYTES
            )
        except BrskiError as error:
            return actions.Lost(attempt, error.reason, error.detail)
        return actions.Response(attempt, answer.status, answer.headers, answer.body)


def _origin(host: str, port: int) -> str:
    """The start of a URL; the zone of a link-local address is written as RFC 6874 has it."""
    return f"https://[{host.replace('%', '%25')}]:{port}" if ":" in host else f"https://{host}:{port}"
