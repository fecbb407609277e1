"""The runner: feed a target, watch what escapes, and how much time and memory one input takes.

Work is cut into chunks. A chunk's inputs depend on target, seed and chunk number alone, so a run
gives the same inputs on one core or on eight, and any chunk can be run again by itself. Within a
chunk an input that ends in a way not met before (another reason of refusal) becomes a seed too.

Time is CPU time of the thread. What is over the limit is measured again with empty caches, and is a
finding only if it is always over. A reader that does not come back is interrupted by the watchdog.
"""

import faulthandler
import gc
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import FrameType

from brski_common.errors import BrskiError
from tests.fuzz.mutation import Mutator
from tests.fuzz.targets import TARGETS, Broken, Target

CHUNK = 10_000  # inputs
MAX_SECONDS = 0.1  # CPU time of one input, the longest inputs included
MAX_GROWTH = 64 * 1024  # KiB by which one input may raise the peak of the process's memory
HANG_SECONDS = 10.0  # CPU time after which an input is given up
COLLECT_EVERY = 5000  # inputs between two garbage collections, which would else be measured
MAX_GROWN = 64  # seeds that a chunk adds to its corpus
GROWN = 0.2  # how often one of them is taken
MAX_FINDINGS = 20  # of one chunk, each at another place in the code
REPEATS = 3

MAX_MEMORY = 4 * 1024**3  # bytes of address space of a worker: a bomb ends in MemoryError, not in a dead machine

ACCEPTED = "accepted"


@dataclass(frozen=True, slots=True)
class Finding:
    """One input that broke a rule. `place` tells findings of one cause from others."""

    target: str
    kind: str
    place: str
    detail: str
    data: bytes


@dataclass(slots=True)
class Tally:
    """What came of some inputs. `outcomes` are the reasons of refusal, or `accepted`."""

    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    outcomes: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: "Tally") -> list[Finding]:
        """Count another tally in; of findings at one place the first is kept. Returns those not known before."""
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.seconds += other.seconds
        self.slowest = max(self.slowest, other.slowest)
        self.outcomes |= other.outcomes
        known = {(finding.kind, finding.place) for finding in self.findings}
        fresh = [finding for finding in other.findings if (finding.kind, finding.place) not in known]
        self.findings += fresh
        return fresh


class Hang(BaseException):
    """The watchdog's. No reader may catch it."""


def confine() -> None:
    """What a worker process does first."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))


def run_chunk(name: str, seed: str, chunk: int, inputs: int) -> Tally:
    """Run one chunk of a target in this process."""
    return Feeder(TARGETS[name]).run(seed, chunk, inputs)


class Feeder:
    """Feeds one target, input by input."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.tally = Tally()
        self._known: set[tuple[str, str]] = set()

    def run(self, seed: str, chunk: int, inputs: int) -> Tally:
        """The good inputs (in the first chunk), then mutations of them."""
        random = Random(f"{seed}/{self.target.name}/{chunk}")
        corpus = list(self.target.seeds())
        grown: list[bytes] = []
        mutator = Mutator(random, corpus, self.target.limit)
        with _watched(self.tally), _collected_by_hand():
            for number in range(inputs):
                whole = chunk == 0 and number < len(corpus)
                source = grown if grown and random.random() < GROWN else corpus
                data = corpus[number] if whole else mutator.mutate(random.choice(source))
                if self.feed(data) and len(grown) < MAX_GROWN and not whole:
                    grown.append(data)
                if number % COLLECT_EVERY == 0:
                    gc.collect()
        return self.tally

    def feed(self, data: bytes) -> bool:
        """One input; whether it ended in a way that was not met before."""
        before = _peak()
        started = time.thread_time()
        outcome, failure = self._outcome(data)
        took = time.thread_time() - started
        tally = self.tally
        tally.inputs += 1
        tally.accepted += outcome == ACCEPTED
        tally.seconds += took
        tally.slowest = max(tally.slowest, took)
        if failure is not None:
            self._report(outcome, *failure, data)
        if took > MAX_SECONDS and (least := self._least(data)) > MAX_SECONDS:
            self._report("slow", "time", f"{least:.3f} s for {len(data)} bytes", data)
        if _peak() - before > MAX_GROWTH:
            self._report("memory", "memory", f"{_peak() - before} KiB for {len(data)} bytes", data)
        fresh = outcome not in tally.outcomes
        tally.outcomes.add(outcome)
        return fresh

    def _outcome(self, data: bytes) -> tuple[str, tuple[str, str] | None]:
        """`accepted`, a reason of refusal, or the kind of finding with its place and detail."""
        try:
            self.target.read(data)
        except BrskiError as refusal:
            return refusal.reason, None
        except Broken as broken:
            return "broken", (str(broken), traceback.format_exc())
        except Hang as hang:
            return "hang", (_place(hang), traceback.format_exc())
        except (Exception, RecursionError) as escape:
            return "escape", (f"{type(escape).__name__} {_place(escape)}", traceback.format_exc())
        return ACCEPTED, None

    def _least(self, data: bytes) -> float:
        """The shortest time of several tries, caches emptied before each."""
        times = []
        for _ in range(REPEATS):
            empty_caches()
            started = time.thread_time()
            self._outcome(data)
            times.append(time.thread_time() - started)
        return min(times)

    def _report(self, kind: str, place: str, detail: str, data: bytes) -> None:
        if (kind, place) not in self._known and len(self._known) < MAX_FINDINGS:
            self._known.add((kind, place))
            self.tally.findings.append(Finding(self.target.name, kind, place, detail, data))


def empty_caches() -> None:
    """Forget everything that readers remember."""
    for name, module in list(sys.modules.items()):
        if name.startswith("brski_"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear") and not isinstance(value, type):
                    value.cache_clear()


def _place(error: BaseException) -> str:
    """The deepest line of the suite's own code in a traceback, and the deepest of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "brski_" in frame.filename] or frames
    return f"{own[-1].name}:{own[-1].lineno} < {frames[-1].name}:{frames[-1].lineno}"


def _peak() -> int:
    """The most memory this process ever held, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def _collected_by_hand() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _watched(tally: Tally) -> Iterator[None]:
    """Raise Hang where one input takes more than `HANG_SECONDS` of CPU time."""
    seen = -1

    def look(_number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if tally.inputs == seen:
            raise Hang(f"more than {HANG_SECONDS} s")
        seen = tally.inputs

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
