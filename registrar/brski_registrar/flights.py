"""Work that several requests wait for is done once.

It is a task of its own, because it goes on when nobody waits any more. Who waits has a future, which the work itself
resolves: a callback between the two would cost every voucher another turn of the event loop.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from brski_common.errors import NotYet

T = TypeVar("T")


@dataclass(slots=True)
class _Flight:
    """Work under way, and who waits or waited for it."""

    waiters: list[asyncio.Future[Any]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def waiting(self) -> list[asyncio.Future[Any]]:
        """Without those who gave up, who have cancelled their future."""
        return [waiter for waiter in self.waiters if not waiter.done()]


class Flights:
    """Work under way, by key."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Flight] = {}

    async def join(
        self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]], *, patience: float | None, retry_after: float
    ) -> T:
        """The result of the work with this key, begun now if nobody did before.

        Raises NotYet after `patience` seconds (None: never); the work goes on even if nobody waits any more.
        """
        loop = asyncio.get_running_loop()
        flight = self._running.get(key)
        if flight is None:
            flight = self._running[key] = _Flight()
            flight.task = loop.create_task(self._fly(key, flight, work))
        waiter: asyncio.Future[T] = loop.create_future()
        flight.waiters.append(waiter)
        if patience is not None:
            await asyncio.wait((waiter,), timeout=patience)
            if not waiter.done():
                waiter.cancel()
                raise NotYet("masa-not-ready", "still waiting for the MASA", retry_after)
        return await waiter

    async def _fly(self, key: Hashable, flight: _Flight, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        try:
            result = await work()
        except Exception as error:  # whoever waits gets it; if nobody does, it was journaled where it arose
            for waiter in flight.waiting():
                waiter.set_exception(error)
        else:
            for waiter in flight.waiting():
                waiter.set_result(result)
        finally:
            del self._running[key]

    async def close(self) -> None:
        """End what is still under way, and tell those who wait."""
        flights = tuple(self._running.values())
        tasks = [flight.task for flight in flights if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for flight in flights:
            for waiter in flight.waiting():
                waiter.cancel()
        self._running.clear()  # also of work that was cancelled before it began
