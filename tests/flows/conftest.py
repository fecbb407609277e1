"""One `brski demo --serve` for all flow tests of a worker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.foreign import ForeignPledge

START_SECONDS = 60.0
PLEDGES = 12


class DemoWorld:
    """What demo.json says, and the devices that nobody has onboarded yet."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.registrar: str = document["registrar"]["url"]
        self.anchors: dict[str, str] = document["anchors"]
        self._good = iter([device for device in document["pledges"] if device["role"] == "good"])

    def fresh_pledge(self, folder: Path) -> ForeignPledge:
        """A good device that no other test of this worker has."""
        return ForeignPledge(next(self._good), self.anchors, folder)

    def pledge(self, role: str, folder: Path) -> ForeignPledge:
        """The device with a role other than good."""
        device = next(device for device in self.document["pledges"] if device["role"] == role)
        return ForeignPledge(device, self.anchors, folder)


@pytest.fixture(scope="session")
def demo_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoWorld]:
    """A registrar, a MASA and a join proxy that serve until the worker ends."""
    folder = tmp_path_factory.mktemp("demo")
    process = start_serving(folder)
    try:
        yield DemoWorld(wait_for_document(process, folder / "demo.json"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


def start_serving(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start `brski demo --serve`."""
    command = [sys.executable, "-m", "brski_interop", "demo", "--serve", "--dir", str(folder)]
    log = (folder.parent / f"{folder.name}.log").open("wb")
    with log:
        return subprocess.Popen(
            [*command, *(arguments or ("--pledges", str(PLEDGES)))], stdout=log, stderr=log, cwd=folder.parent
        )


def wait_for_document(process: "subprocess.Popen[bytes]", path: Path) -> dict[str, Any]:
    """Read demo.json as soon as it is there; it appears complete (one rename)."""
    # A folder's entries are watched by asking again: a wait with a limit on the process is the clock.
    for _ in range(int(START_SECONDS / 0.05)):
        if path.exists():
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return document
        try:
            status = process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        words = path.parent.with_suffix(".log").read_text(encoding="utf-8", errors="replace")
        pytest.fail(f"brski demo --serve ended with status {status}: {words}")
    os.kill(process.pid, signal.SIGKILL)
    pytest.fail(f"no demo.json after {START_SECONDS:g} s")
