"""`python -m tests.fuzz`: what `make fuzz` runs. Exit status 1 if anything was found."""

import argparse
import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tests.fuzz import guided
from tests.fuzz.running import CHUNK, Feeder, Finding, Tally, confine, run_chunk
from tests.fuzz.targets import TARGETS

INPUTS = 1_000_000  # of each target
SEED = "8995"
PROGRESS_SECONDS = 30.0

_HEAD = (
    f"{'target':<15}{'inputs':>10}{'accepted':>10}{'outcomes':>10}{'CPU s':>9}{'mean µs':>9}{'slowest µs':>12}"
    f"{'findings':>10}"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say; the exit status."""
    options = _options().parse_args(arguments)
    unknown = set(options.targets) - TARGETS.keys()
    if unknown:
        sys.stderr.write(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}\n")
        return 2
    if options.replay:
        return _replay(options.replay)
    names = options.targets or list(TARGETS)
    if options.guided:
        return guided.run_each(names, options.guided, options.findings)
    print(_HEAD, flush=True)
    tallies = _run(names, options)
    found = sum(len(tally.findings) for tally in tallies.values())
    print(f"{sum(tally.inputs for tally in tallies.values())} inputs, {found} findings", flush=True)
    return 1 if found else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="the targets to run; all of them by default")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="inputs of each target (default %(default)s)")
    parser.add_argument("--seed", default=SEED, help="the same seed gives the same inputs (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"), help="where findings are written")
    parser.add_argument("--replay", type=Path, nargs="+", help="read saved findings again")
    parser.add_argument("--guided", type=int, metavar="SECONDS", help="guided by coverage, so long a target (atheris)")
    return parser


# Running


def _run(names: Sequence[str], options: argparse.Namespace) -> dict[str, Tally]:
    """Run all chunks of all targets over the processes; prints a row when a target is done."""
    tallies = {name: Tally() for name in names}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, initializer=confine) as pool:
        chunks = {
            pool.submit(run_chunk, name, options.seed, *chunk): name
            for name in names
            for chunk in _chunks(options.inputs)
        }
        left = {name: list(chunks.values()).count(name) for name in names}
        for future in _with_progress(chunks, len(chunks)):
            name = chunks[future]
            try:
                fresh = tallies[name].add(future.result())
            except BrokenProcessPool:
                # Which of the chunks that ran it was is told by faulthandler's trace above.
                tallies[name].findings.append(Finding(name, "died", "process", "a worker died: see the trace", b""))
                break
            for finding in fresh:
                _save(finding, options.findings, options.seed)
            left[name] -= 1
            if not left[name]:
                print(_row(name, tallies[name]), flush=True)
        pool.shutdown(cancel_futures=True)
    return tallies


def _chunks(inputs: int) -> Iterator[tuple[int, int]]:
    for chunk, start in enumerate(range(0, inputs, CHUNK)):
        yield chunk, min(CHUNK, inputs - start)


def _with_progress(futures: dict[Future[Tally], str], total: int) -> Iterator[Future[Tally]]:
    shown = time.monotonic()
    for done, future in enumerate(as_completed(futures), start=1):
        yield future
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            sys.stderr.write(f"  {done} of {total} chunks, at {futures[future]}\n")


def _row(name: str, tally: Tally) -> str:
    mean = tally.seconds / max(tally.inputs, 1) * 1e6
    share = f"{tally.accepted / max(tally.inputs, 1):.1%}"
    return (
        f"{name:<15}{tally.inputs:>10}{share:>10}{len(tally.outcomes):>10}{tally.seconds:>9.1f}{mean:>9.1f}"
        f"{tally.slowest * 1e6:>12.0f}{len(tally.findings):>10}"
    )


# Findings


def _save(finding: Finding, folder: Path, seed: str) -> None:
    """The input as `<target>-<digest>.bin`, and what it did beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{finding.target}-{hashlib.sha256(finding.data).hexdigest()[:12]}.bin"
    path.write_bytes(finding.data)
    path.with_suffix(".txt").write_text(
        f"{finding.kind} at {finding.place}, seed {seed}\n{finding.detail}\n", encoding="utf-8"
    )
    print(f"{finding.kind}: {path}: {finding.place}", flush=True)


def _replay(paths: Sequence[Path]) -> int:
    found = 0
    for path in paths:
        feeder = Feeder(TARGETS[_target_of(path)])
        feeder.feed(path.read_bytes())
        found += len(feeder.tally.findings)
        for finding in feeder.tally.findings:
            print(f"{path}: {finding.kind} at {finding.place}\n{finding.detail}")
        if not feeder.tally.findings:
            print(f"{path}: {', '.join(feeder.tally.outcomes)}")
    return 1 if found else 0


def _target_of(path: Path) -> str:
    """The target a saved input is for: its name begins with it, whether we saved it or libFuzzer did."""
    return max((name for name in TARGETS if path.name.startswith(f"{name}-")), key=len)


if __name__ == "__main__":
    sys.exit(main())
