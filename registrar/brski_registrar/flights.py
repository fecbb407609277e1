"""Work that several requests wait for is done once."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

from brski_common.errors import NotYet

T = TypeVar("T")


class Flights:
    """Tasks under way, by key."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def join(
        self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]], *, patience: float | None, retry_after: float
    ) -> T:
        """The result of the work with this key, begun now if nobody did before.

        Raises NotYet after `patience` seconds (None: never); the work goes on even if nobody waits any more.
        """
        task: asyncio.Task[T] | None = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.ensure_future(work())
            task.add_done_callback(lambda done: self._landed(key, done))
        if patience is not None:
            await asyncio.wait((task,), timeout=patience)
            if not task.done():
                raise NotYet("masa-not-ready", "still waiting for the MASA", retry_after)
        return await asyncio.shield(task)

    def _landed(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # whoever waits gets it; if nobody does, it was journaled where it arose

    async def close(self) -> None:
        """End what is still under way."""
        tasks = tuple(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
