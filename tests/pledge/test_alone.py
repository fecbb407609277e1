"""The pledge alone: with nothing but what its own distributions ask for, it imports and onboards."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import brski_common
import brski_pledge
from tests.support.link_host import write_device
from tests.support.registrar_fake import FakeRegistrar, serve
from tests.support.world import Manufacturer

MAKER = Manufacturer()
SERVER_ONLY = (
    "sqlalchemy",
    "alembic",
    "pydantic",
    "structlog",
    "typer",
    "rich",
    "psycopg",
    "jinja2",
    "brski_registrar",
)

# Import every module of both packages but those whose own dependencies are an extra of brski-common.
IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.insert(0, {site!r})
import brski_pledge
for module in pkgutil.walk_packages(brski_pledge.__path__, "brski_pledge."):
    importlib.import_module(module.name)
for name in {forbidden!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(name + " is there, which a pledge does without")
print("alone")
"""
ONBOARD = """
import sys
sys.path.insert(0, {site!r})
from brski_pledge.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def needed(name: str, extras: frozenset[str], seen: dict[tuple[str, frozenset[str]], Distribution]) -> None:
    """Collect a distribution and all it asks for."""
    if (name, extras) in seen:
        return
    found = seen[name, extras] = distribution(name)
    for text in found.requires or ():
        requirement = Requirement(text)
        chosen = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker is None or any(requirement.marker.evaluate(each) for each in chosen):
            needed(requirement.name, frozenset(requirement.extras), seen)


def top_level(found: Distribution) -> Iterator[Path]:
    """What an installed distribution put beside the others."""
    for name in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
        path = Path(str(found.locate_file(name)))
        if path.exists() and not name.startswith(("_editable", "__pycache__")):
            yield path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pledge, common, and exactly what they depend on."""
    folder = tmp_path_factory.mktemp("site")
    seen: dict[tuple[str, frozenset[str]], Distribution] = {}
    needed("brski-pledge", frozenset(), seen)
    for package in (brski_common, brski_pledge):
        (folder / package.__name__).symlink_to(Path(package.__file__ or "").parent)
    for found in seen.values():
        for path in top_level(found):
            target = folder / path.name
            if not target.exists() and not path.name.startswith("brski"):
                target.symlink_to(path)
    return folder


def test_every_module_imports_without_the_services_libraries(site: Path) -> None:
    code = IMPORT_ALL.format(site=str(site), forbidden=SERVER_ONLY)
    shown = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert shown.stdout.strip() == "alone", shown.stderr


async def test_it_onboards_without_the_services_libraries(site: Path, tmp_path: Path) -> None:
    write_device(tmp_path, MAKER)
    server = await serve(FakeRegistrar(maker=MAKER))
    address = server.url.removeprefix("https://")
    arguments = ["onboard", "--config", str(tmp_path / "pledge.toml"), "--registrar", address]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", ONBOARD.format(site=str(site)), *arguments, stderr=subprocess.PIPE
    )
    _, err = await process.communicate()
    await server.close(0.1)
    assert process.returncode == 0, err.decode()
