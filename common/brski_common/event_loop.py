"""The event loop of a service: uvloop's where it is installed, which costs a request less, else asyncio's own."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def run(main: Coroutine[object, object, T]) -> T:
    """`asyncio.run` on the best loop there is."""
    with asyncio.Runner(loop_factory=_factory()) as runner:
        return runner.run(main)


def _factory() -> Callable[[], asyncio.AbstractEventLoop]:
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415 -- an extra of the services, and not for every system

        return uvloop.new_event_loop
    return asyncio.new_event_loop
