"""Requests that wait for one and the same work."""

import asyncio

import pytest

from brski_common.errors import NotYet, PeerFailed
from brski_registrar.flights import Flights


class Work:
    """Something that takes until it is told to end."""

    def __init__(self) -> None:
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.begun = 0

    async def __call__(self) -> str:
        self.begun += 1
        return await self.end


def joined(flights: Flights, work: Work, *, patience: float | None = None) -> "asyncio.Task[str]":
    return asyncio.ensure_future(flights.join("key", work, patience=patience, retry_after=7))


async def turn() -> None:
    """Let everybody go on as far as he can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_the_same_gets_the_same_and_the_next_one_begins_anew() -> None:
    flights, work = Flights(), Work()
    waiting = [joined(flights, work) for _ in range(3)]
    await turn()
    work.end.set_result("voucher")
    assert await asyncio.gather(*waiting) == ["voucher"] * 3
    assert work.begun == 1
    assert await joined(flights, work) == "voucher"
    assert work.begun == 2


async def test_a_failure_is_everybodys() -> None:
    flights, work = Flights(), Work()
    waiting = [joined(flights, work) for _ in range(2)]
    await turn()
    work.end.set_exception(PeerFailed("masa-failed"))
    for each in waiting:
        with pytest.raises(PeerFailed, match="masa-failed"):
            await each


async def test_the_work_goes_on_when_nobody_waits_any_more() -> None:
    flights, work = Flights(), Work()
    gone, patient = joined(flights, work), joined(flights, work)
    await turn()
    gone.cancel()
    await turn()
    assert gone.cancelled()
    assert not work.end.cancelled()
    patient.cancel()
    await turn()
    late = joined(flights, work)
    await turn()
    work.end.set_result("voucher")
    assert await late == "voucher"
    assert work.begun == 1


async def test_patience_has_an_end_and_the_work_has_not() -> None:
    flights, work = Flights(), Work()
    with pytest.raises(NotYet, match="masa-not-ready") as later:
        await flights.join("key", work, patience=0, retry_after=7)
    assert later.value.retry_after == 7
    again = joined(flights, work, patience=60)
    await turn()
    work.end.set_result("voucher")
    assert await again == "voucher"
    assert work.begun == 1


async def test_a_failure_that_nobody_waits_for_is_no_noise() -> None:
    flights, work = Flights(), Work()
    with pytest.raises(NotYet):
        await flights.join("key", work, patience=0, retry_after=7)
    await turn()
    work.end.set_exception(PeerFailed("masa-failed"))
    await turn()  # a warning would be an error here
    assert not flights._running


@pytest.mark.parametrize("has_begun", [True, False])
async def test_at_the_end_everybody_is_told(has_begun: bool) -> None:
    flights, work = Flights(), Work()
    waiting = joined(flights, work)
    await asyncio.sleep(0)  # it asks, and the work has not begun
    if has_begun:
        await turn()
    assert work.begun == has_begun
    await flights.close()
    await turn()
    assert waiting.cancelled()
    assert not flights._running
