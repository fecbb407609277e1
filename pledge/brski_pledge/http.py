"""The machine's connections: each attempt has one HTTP client with exactly one TLS connection.

No decision is made here. Whatever happens to a connection is reported as the input that the machine
expects; what the machine no longer wants is cancelled. Nothing imports this module before an
onboarding begins.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress

from brski_common import tls
from brski_common.errors import BrskiError
from brski_common.http_client import HttpClient
from brski_pledge import actions
from brski_pledge.actions import Input
from brski_pledge.revocation import MAX_LIST_BYTES

MAX_ANSWER_BYTES = 256 * 1024  # a voucher with its chain, or a domain's CA certificates
LIST_SECONDS = 5.0  # for one CRL


class Transport:
    """Carries out Connect, Send, CloseConnection and FetchRevocationLists; `report` takes what came of them."""

    def __init__(self, report: Callable[[Input], None]) -> None:
        self._report = report
        self._lines: dict[int, tuple[HttpClient, str]] = {}
        self._tasks: dict[asyncio.Task[None], int] = {}

    def connect(self, action: actions.Connect) -> None:
        """Open the one connection of an attempt."""
        self.close(action.attempt)
        context = tls.client_side(action.credential, judge=action.judge, server_name=action.server_name)
        client = HttpClient(context, single_connection=True)
        self._lines[action.attempt] = client, _origin(action.host, action.port)
        self._run(action.attempt, self._connect(action.attempt, client))

    def send(self, action: actions.Send) -> None:
        """Send a request over the connection of its attempt."""
        self._run(action.attempt, self._send(action))

    def fetch(self, action: actions.FetchRevocationLists) -> None:
        """Fetch CRLs, each from wherever it is; nothing of the attempt's connection is used."""
        self._run(action.attempt, self._fetch(action))

    def close(self, attempt: int) -> None:
        """Close the connection of an attempt and stop what goes on there."""
        for task in [task for task, number in self._tasks.items() if number == attempt]:
            task.cancel()
        line = self._lines.pop(attempt, None)
        if line is not None:
            self._run(-1, line[0].close())

    async def aclose(self) -> None:
        """Close everything, and wait until it is closed."""
        for attempt in list(self._lines):
            self.close(attempt)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, attempt: int, client: HttpClient) -> None:
        try:
            found = await client.connect(self._lines[attempt][1])
        except BrskiError as error:
            self._report(actions.Lost(attempt, error.reason, error.detail))
        else:
            self._report(actions.Connected(attempt, found.peer, found.channel_binding))

    async def _send(self, action: actions.Send) -> None:
        client, origin = self._lines[action.attempt]
        try:
            answer = await client.request(
                action.method, origin + action.path, body=action.body, headers=action.headers, limit=MAX_ANSWER_BYTES
            )
        except BrskiError as error:
            self._report(actions.Lost(action.attempt, error.reason, error.detail))
        else:
            self._report(actions.Response(action.attempt, answer.status, dict(answer.headers), answer.body))

    async def _fetch(self, action: actions.FetchRevocationLists) -> None:
        found: dict[str, bytes] = {}
        async with HttpClient(None, request_seconds=LIST_SECONDS) as client:
            for url in action.urls:
                with suppress(BrskiError):
                    answer = await client.request("GET", url, limit=MAX_LIST_BYTES)
                    if answer.status == 200:
                        found[url] = answer.body
        self._report(actions.RevocationLists(action.attempt, found))

    def _run(self, attempt: int, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks[task] = attempt
        task.add_done_callback(self._tasks.pop)


def _origin(host: str, port: int) -> str:
    """The start of a URL; the zone of a link-local address is written as RFC 6874 has it."""
    return f"https://[{host.replace('%', '%25')}]:{port}" if ":" in host else f"https://{host}:{port}"
