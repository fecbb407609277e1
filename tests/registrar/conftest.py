"""A running registrar for every test of this room that asks for one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.plant import Plant


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    async with Plant.open(tmp_path) as opened:
        yield opened
