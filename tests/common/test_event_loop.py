"""A service runs on uvloop where it is installed, and just as well without."""

import asyncio
import sys

import pytest
import uvloop

from brski_common import event_loop


async def running() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_uvloop_is_taken_where_it_is_installed() -> None:
    assert isinstance(event_loop.run(running()), uvloop.Loop)


def test_without_it_asyncio_has_a_loop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert isinstance(event_loop.run(running()), asyncio.BaseEventLoop)
