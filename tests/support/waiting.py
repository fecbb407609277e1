"""Wait for what tells nobody that it has happened."""

import asyncio
from collections.abc import Callable

POLL_SECONDS = 0.01
DEADLINE_SECONDS = 10.0


async def until(condition: Callable[[], object]) -> None:
    """Return as soon as `condition` holds; TimeoutError if it does not within ten seconds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(POLL_SECONDS)
