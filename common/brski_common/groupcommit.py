"""Many units of work, few commits: on the event loop's own thread where that is quick, else in a thread.

The laws of this file:

1. A future is resolved after the commit that holds its unit, or with the reason why there was none.
2. Whatever waits, MAX_BATCH_UNITS at most, goes into one transaction (`transactions`): a commit waits for the disk, and
   eight callers shall wait once.
3. On SQLite units are run and committed on the event loop's thread, because the way to another and back costs as much
   as a commit. It happens COLLECTING_TURNS after the first was submitted, and the others come along. A thread has what
   takes longer: while another process holds the lock, after a commit that took more than SLOW_COMMIT_SECONDS, with
   units that took more than INLINE_UNITS_SECONDS.
4. Units run in the order in which they were submitted: nothing runs here before the thread has done all it was given.
5. Units that got in another process's way (deadlock, lock time-out) run again, in the thread and at last each by
   itself. A commit whose answer was lost does not: nobody knows whether it happened.
"""

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from brski_common.errors import NotYet, PeerFailed
from brski_common.transactions import BUSY_RETRY_AFTER_SECONDS, AnyUnit, Conflict, Job, Outcome, Pace, Transactor

MAX_BATCH_UNITS: Final = 64  # PostgreSQL slows down past 64 savepoints in one transaction
MAX_QUEUED_UNITS: Final = 2048
COLLECTING_TURNS: Final = 3  # of the event loop: as many as a request takes from its socket to its unit
INLINE_UNITS_SECONDS: Final = 0.005
SLOW_COMMIT_SECONDS: Final = 0.010  # a quick one may seem to take half of it, where the thread waits for Python's lock
CONFLICT_RETRIES: Final = 5
CONFLICT_PAUSE_SECONDS: Final = 0.05

Told = tuple[Job, Outcome]


class Writer:
    """Takes units and commits them; for one event loop at a time. `monotonic` is a clock in seconds."""

    def __init__(self, engine: Engine, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._waiting: list[Job] = []
        self._pace = Pace(monotonic)
        self._thread = _Thread(Transactor(engine, self._pace))
        self._here: Transactor | None = None
        if engine.dialect.name == "sqlite":
            self._here = Transactor(engine, self._pace, unit_seconds=INLINE_UNITS_SECONDS)
        self._is_closed = False

    @property
    def backlog(self) -> int:
        """How many units wait."""
        return len(self._waiting) + self._thread.backlog

    def submit(self, unit: AnyUnit, future: asyncio.Future[Any]) -> None:
        """Queue a unit; `future` is resolved on its own loop. Raises NotYet `database-busy` if too many wait."""
        if self._is_closed:
            raise RuntimeError("the database is closed")
        if self.backlog >= MAX_QUEUED_UNITS:
            raise NotYet("database-busy", f"{MAX_QUEUED_UNITS} writes wait already", BUSY_RETRY_AFTER_SECONDS)
        if self._here is None:
            self._thread.take(Job(unit, future))
            return
        loop = future.get_loop()
        # What waits from an earlier loop was given up by its callers, and nothing there will come for it.
        is_first = not self._waiting or self._waiting[-1].future.get_loop() is not loop
        self._waiting.append(Job(unit, future))
        if is_first:
            self._collect(loop, COLLECTING_TURNS)

    def stop(self) -> None:
        """Take nothing more; what waits here is done or goes to the thread. To be called on the event loop."""
        self._is_closed = True
        while self._waiting:
            self._commit_batch()

    def close(self) -> None:
        """Finish what the thread has, and let go; blocks."""
        self._thread.close()
        if self._here is not None:
            self._here.disconnect()

    def _collect(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        if turns == 0:
            self._commit_batch()
        if turns or self._waiting:  # one batch a turn: the loop has others to serve
            loop.call_soon(self._collect, loop, max(turns - 1, 0))

    def _commit_batch(self) -> None:
        batch, self._waiting = self._waiting[:MAX_BATCH_UNITS], self._waiting[MAX_BATCH_UNITS:]
        jobs = _wanted(batch)
        if jobs and not self._settle_here(jobs):
            for job in jobs:
                self._thread.take(job)

    def _settle_here(self, jobs: list[Job]) -> bool:
        """Commit a batch on this thread; False where the other shall do it, and then nothing has happened."""
        if self._here is None or not self._thread.is_idle or self._pace.commit_seconds > SLOW_COMMIT_SECONDS:
            return False
        try:
            outcomes = self._here.run(jobs)
        except (Conflict, NotYet):
            return False
        except DBAPIError:
            self._here.disconnect()
            return False
        except Exception as error:
            self._here.disconnect()
            outcomes = [Outcome(error=error)] * len(jobs)
        _tell(zip(jobs, outcomes, strict=True))
        return True


class _Thread:
    """The thread that writes what may take its time. It is started when it is needed."""

    def __init__(self, transactor: Transactor) -> None:
        self._transactor = transactor
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._taken = self._done = 0  # units so far; the one counts in the event loop's thread, the other in this

    @property
    def backlog(self) -> int:
        """How many units wait."""
        return self._queue.qsize()

    @property
    def is_idle(self) -> bool:
        """Whether all that was given is on disk or refused."""
        return self._taken == self._done

    def take(self, job: Job) -> None:
        """Queue a unit."""
        if self._thread is None:
            # A daemon, so that a program that forgets to close can still end; what was answered is on disk.
            self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
            self._thread.start()
        self._taken += 1
        self._queue.put(job)

    def close(self) -> None:
        """Finish what is queued and end the thread; blocks."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            jobs = _wanted(batch)
            outcomes = self._settle(jobs) if jobs else []
            self._done += len(batch)  # before anybody hears of it, so that his next unit finds the thread idle
            _tell_loops(list(zip(jobs, outcomes, strict=True)))
        self._transactor.disconnect()

    def _next_batch(self) -> list[Job]:
        """Wait for work and take what is there; nothing once all is done and the queue is closed."""
        batch: list[Job] = []
        while len(batch) < MAX_BATCH_UNITS:
            try:
                job = self._queue.get(block=not batch)
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)  # the next round shall find it, behind whatever came before
                break
            batch.append(job)
        return batch

    def _settle(self, jobs: list[Job]) -> list[Outcome]:
        try:
            return self._settle_or_raise(jobs)
        except BaseException as error:  # the thread must live on, whatever a unit does
            self._transactor.disconnect()
            return [Outcome(error=error)] * len(jobs)

    def _settle_or_raise(self, jobs: list[Job]) -> list[Outcome]:
        """Run the jobs; after a conflict each by itself, after a lost connection once more."""
        for attempt in range(CONFLICT_RETRIES):
            try:
                return self._transactor.run(jobs)
            except Conflict as conflict:
                if len(jobs) > 1:
                    return [outcome for job in jobs for outcome in self._settle([job])]
                if attempt + 1 == CONFLICT_RETRIES:
                    raise NotYet("database-busy", str(conflict), BUSY_RETRY_AFTER_SECONDS) from conflict
                time.sleep(CONFLICT_PAUSE_SECONDS * 2**attempt * random.random())  # noqa: S311 -- spreads retries
            except DBAPIError as error:
                self._transactor.disconnect()
                if attempt or not error.connection_invalidated:
                    raise PeerFailed("database-unavailable", str(error.orig)) from error
        raise AssertionError("every attempt returns or raises")


def _wanted(batch: list[Job]) -> list[Job]:
    return [job for job in batch if not job.future.cancelled()]


def _tell_loops(told: list[Told]) -> None:
    """Tell every caller from another thread, waking each event loop once."""
    for loop in {job.future.get_loop() for job, _ in told}:
        pairs = [pair for pair in told if pair[0].future.get_loop() is loop]
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, pairs)


def _tell(pairs: Iterable[Told]) -> None:
    for job, outcome in pairs:
        if job.future.done():  # the caller was cancelled
            continue
        if outcome.error is not None:
            job.future.set_exception(outcome.error)
        else:
            job.future.set_result(outcome.value)
