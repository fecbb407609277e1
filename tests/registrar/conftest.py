"""A running registrar for every test of this room that asks for one, and what it writes into its log."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from brski_common import logs
from tests.support.plant import Plant

Logged = Callable[[], list[dict[str, object]]]


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    async with Plant.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Logged]:
    """The events of the log since it was last asked for, each as its fields."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    logs.configure(json=True, level="info")
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    root.setLevel(before[0])
    root.handlers[:] = before[1]
