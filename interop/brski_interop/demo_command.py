"""`brski demo` and `brski demo --serve`: the folder, the signals, what is printed and the exit code."""

import fcntl
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from brski_common.errors import Misconfigured
from brski_interop import demo, demo_view, interruption
from brski_interop.demo_report import Journey, Report
from brski_interop.processes import Crew, run_until_told
from brski_interop.staging import Stage

MARK: Final = ".brski-demo"  # says that what else is in a folder was made by a demo, and may be made anew
MADE: Final = ("masa", "registrar", "pledges", "logs", "demo.json")


def run(folder: Path | None, pledges: int, *, as_json: bool) -> int:
    """`brski demo`; returns the exit code, raises BrskiError."""
    console = Console(stderr=as_json, highlight=False)
    with interruption.orderly(), _stage_folder(folder) as place:
        report = run_until_told(_demo(place, pledges, console))
        if isinstance(report, signal.Signals):
            return interruption.stopped(report, "before every pledge was operational", as_json=as_json)
        if as_json:
            sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
        else:
            demo_view.show(report, console, kept=None if folder is None else place)
    for journey in report.journeys:
        if journey.state != "operational":
            sys.stderr.write(f"brski: {journey.serial} {journey.state}: {journey.reason}: {journey.detail}\n")
    return 0 if report.is_success else 1


def serve(folder: Path, pledges: int) -> int:
    """`brski demo --serve`: until SIGTERM or SIGINT, then 0; raises BrskiError."""
    with interruption.orderly(), _stage_folder(folder) as place:
        run_until_told(_serve(place, pledges))
    return 0


async def _demo(folder: Path, pledges: int, console: Console) -> Report:
    journeys: list[Journey] = []
    with demo_view.view_for(console, journeys) as view:
        return await demo.run(folder, pledges, view, journeys)


async def _serve(folder: Path, pledges: int) -> None:
    stage = Stage(folder)
    stage.logs.mkdir(parents=True, exist_ok=True)
    view = demo_view.PlainView(Console(stderr=True, highlight=False))
    async with Crew(stage.logs) as crew:
        services, devices = await demo.start_services(crew, stage, pledges, view, others=True)
        _write(folder / "demo.json", demo.document(stage, services, devices))
        view.ready(f"everything is named in {folder / 'demo.json'}; stop with Ctrl-C or SIGTERM")
        fallen = await crew.fallen()
    raise Misconfigured("service-ended", f"{fallen.name} ended by itself; {fallen.last_words()}")


def _write(path: Path, document: dict[str, Any]) -> None:
    """Whoever sees the file sees all of it."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


@contextmanager
def _stage_folder(folder: Path | None) -> Iterator[Path]:
    """A temporary folder that goes, or the named one, cleared of what an earlier demo left; raises Misconfigured."""
    if folder is None:
        made = Path(tempfile.mkdtemp(prefix="brski-demo-"))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return
    place = folder.absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            yield place
    except OSError as error:
        raise Misconfigured("folder-unusable", f"{error.filename or place}: {error.strerror}") from error


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    mark = place / MARK
    taken = [name for name in MADE if (place / name).exists()]
    if taken and not mark.exists():
        raise Misconfigured("folder-in-use", f"{place / taken[0]} is not of a demo; choose another folder")
    with mark.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Misconfigured("folder-in-use", f"another demo runs in {place}; choose another folder") from error
        for name in taken:
            _remove(place / name)
        yield


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
