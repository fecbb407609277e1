"""The stage of every attack: a maker's MASA and a plant's registrar that serve."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.rogues import Scene


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with Scene.open(tmp_path) as opened:
        yield opened
