"""The stage of every attack: a maker's MASA and a plant's registrar that serve."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.rogues import Factory, Scene
from tests.support.world import Clock, Domain


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Both services."""
    async with Scene.open(tmp_path) as opened:
        yield opened


@pytest.fixture
async def factory(tmp_path: Path) -> AsyncIterator[Factory]:
    """A MASA alone, with one customer."""
    async with Factory.open(tmp_path, Clock()) as opened:
        await opened.owned_by(Domain())
        yield opened
