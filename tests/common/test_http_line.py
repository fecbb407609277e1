"""One connection: a question, its answer by a call, the next question; and nothing more once it has ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from brski_common import tls
from brski_common.errors import BrskiError, PeerFailed
from brski_common.http_line import HttpResponse, Line, Question, Told, read_url
from tests.common.test_http_client import OK, awkward
from tests.support.world import Manufacturer

SIDE = tls.client_side(Manufacturer().idevid("L-0001"), judge=lambda _: None)
SECONDS = 10.0
CLOSING = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


class Ear:
    """Remembers what it is told, and wakes who waits."""

    def __init__(self) -> None:
        self.heard: list[int | str] = []
        self._changed = asyncio.Event()

    def __call__(self, told: HttpResponse | BrskiError) -> None:
        self.heard.append(told.status if isinstance(told, HttpResponse) else told.reason)
        self._changed.set()

    async def has(self, number: int) -> None:
        async with asyncio.timeout(SECONDS):
            while len(self.heard) < number:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def connected(says: bytes = OK, *, hang_up: bool = False) -> AsyncIterator[tuple[Line, str]]:
    async with awkward(says, hang_up=hang_up) as server:
        line = Line(read_url(server.url).origin)
        await line.open(SIDE)
        yield line, server.url
        line.close()
        await asyncio.sleep(0)


async def ended(line: Line) -> None:
    async with asyncio.timeout(SECONDS):
        while line.is_usable:  # noqa: ASYNC110 -- it tells nobody, only whoever asks next
            await asyncio.sleep(0)


def question(url: str, method: str = "GET") -> Question:
    return Question(method, read_url(url))


async def test_who_hears_an_answer_may_ask_at_once() -> None:
    async with connected() as (line, url):
        ear, left = Ear(), 3

        def told(what: HttpResponse | BrskiError) -> None:
            nonlocal left
            left -= 1
            if left:
                line.ask(question(url), told)
            ear(what)

        line.ask(question(url), told)
        await ear.has(3)
        assert ear.heard == [200, 200, 200]


async def test_two_questions_at_once_are_the_callers_mistake() -> None:
    async with connected(b"") as (line, url):
        line.ask(question(url), Ear())
        with pytest.raises(RuntimeError):
            line.ask(question(url), Ear())


@pytest.mark.req("TL-11", "AT-25")
@pytest.mark.parametrize("says", [OK, CLOSING], ids=["the server", "both"])
async def test_a_line_that_has_ended_stays_so(says: bytes) -> None:
    async with connected(says, hang_up=True) as (line, url):
        ear = Ear()
        line.ask(question(url), ear)
        await ear.has(1)
        await ended(line)
        line.ask(question(url), ear)
        assert ear.heard == [200, "connection-gone"]


async def test_after_its_end_nothing_is_told() -> None:
    async with connected(b"") as (line, url):
        ear = Ear()
        line.ask(question(url), ear, asyncio.get_running_loop().time())
        line.close()
        for _ in range(3):
            await asyncio.sleep(0)
        assert ear.heard == []


@pytest.mark.req("TL-07")
async def test_an_answer_that_does_not_come_in_time_ends_the_line() -> None:
    async with connected(b"") as (line, url):
        ear = Ear()
        line.ask(question(url), ear, asyncio.get_running_loop().time() + 0.05)
        await ear.has(1)
        assert ear.heard == ["peer-timeout"]
        assert not line.is_usable


async def test_each_question_has_its_own_time() -> None:
    """The first one's timer rings during the second, and is set anew."""
    async with connected() as (line, url):
        ear, loop = Ear(), asyncio.get_running_loop()
        line.ask(question(url), ear, loop.time() + 0.2)
        await ear.has(1)
        line.ask(question(url), ear, loop.time() + SECONDS)
        await ear.has(2)
        rings = loop.create_future()
        loop.call_later(0.3, rings.set_result, None)
        await rings
        told: Told = ear
        line.ask(question(url), told, loop.time() + SECONDS)
        await ear.has(3)
        assert ear.heard == [200, 200, 200]


async def test_opening_is_given_up_by_cancelling_it() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read()
        writer.close()
        gone.set()

    gone = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        line = Line((True, "127.0.0.1", server.sockets[0].getsockname()[1]))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await line.open(SIDE)
        ear = Ear()
        line.ask(question("https://127.0.0.1/"), ear)
        assert ear.heard == ["connection-gone"]
        await gone.wait()
        await asyncio.sleep(0)


async def test_a_line_to_nobody_says_why() -> None:
    async with awkward() as server:
        origin = read_url(server.url).origin
    with pytest.raises(PeerFailed) as failed:
        await Line(origin).open(SIDE)
    assert failed.value.reason == "peer-unreachable"
