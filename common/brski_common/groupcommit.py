"""One writer thread, many units of work, few commits.

The laws of this file:

1. A future is resolved after the commit that holds its unit, or with the reason why there was none.
2. The thread takes whatever waits, MAX_BATCH_UNITS at most, into one transaction, each unit in its own
   savepoint: a commit waits for the disk, and eight callers shall wait once.
3. A unit that raises is undone alone; a commit that fails fails its whole batch.
4. Units that got in another process's way (deadlock, lock time-out) run again, each by itself. A
   commit whose answer was lost does not: nobody knows whether it happened.
"""

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from brski_common.errors import NotYet, PeerFailed

MAX_BATCH_UNITS: Final = 64  # PostgreSQL slows down past 64 savepoints in one transaction
MAX_QUEUED_UNITS: Final = 2048
LOCK_WAIT_SECONDS: Final = 10  # for the lock of another process
BUSY_RETRY_AFTER_SECONDS: Final = 1.0
CONFLICT_RETRIES: Final = 5
CONFLICT_PAUSE_SECONDS: Final = 0.05

_SQLITE_BUSY: Final = {5, 6}  # SQLITE_BUSY, SQLITE_LOCKED
# serialization_failure, deadlock_detected, lock_not_available
_POSTGRESQL_CONFLICTS: Final = {"40001", "40P01", "55P03"}
_POSTGRESQL_INERROR: Final = 3  # PQtransactionStatus: 3 in error, 4 unknown

AnyUnit = Callable[[Connection], Any]


@dataclass(frozen=True, slots=True)
class _Job:
    unit: AnyUnit
    future: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


class Writer:
    """The thread that owns the writing connection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = False
        # A daemon, so that a program that forgets to close can still end; what was answered is on disk.
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """How many units wait."""
        return self._queue.qsize()

    def submit(self, unit: AnyUnit, future: asyncio.Future[Any]) -> None:
        """Queue a unit; `future` is resolved on its own loop. Raises NotYet `database-busy` if too many wait."""
        if self._closing:
            raise RuntimeError("the database is closed")
        if self._queue.qsize() >= MAX_QUEUED_UNITS:
            raise NotYet("database-busy", f"{MAX_QUEUED_UNITS} writes wait already", BUSY_RETRY_AFTER_SECONDS)
        self._queue.put(_Job(unit, future))

    def close(self) -> None:
        """Finish what is queued and end the thread; blocks."""
        self._closing = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            jobs = [job for job in batch if not job.future.cancelled()]
            if jobs:
                _resolve(jobs, self._settle(jobs))
        self._disconnect()

    def _take(self) -> list[_Job]:
        """Wait for work and take what is there; nothing once all is done and the queue is closed."""
        batch: list[_Job] = []
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

    def _settle(self, jobs: list[_Job]) -> list[_Outcome]:
        try:
            return self._settle_or_raise(jobs)
        except BaseException as error:  # the thread must live on, whatever a unit does
            self._disconnect()
            return [_Outcome(error=error)] * len(jobs)

    def _settle_or_raise(self, jobs: list[_Job]) -> list[_Outcome]:
        """Run the jobs; after a conflict each by itself, after a lost connection once more."""
        for attempt in range(CONFLICT_RETRIES):
            try:
                return self._transact(jobs)
            except _Conflict as conflict:
                if len(jobs) > 1:
                    return [outcome for job in jobs for outcome in self._settle([job])]
                if attempt + 1 == CONFLICT_RETRIES:
                    raise NotYet("database-busy", str(conflict), BUSY_RETRY_AFTER_SECONDS) from conflict
                time.sleep(CONFLICT_PAUSE_SECONDS * 2**attempt * random.random())  # noqa: S311 -- spreads retries
            except DBAPIError as error:
                self._disconnect()
                if attempt or not error.connection_invalidated:
                    raise PeerFailed("database-unavailable", str(error.orig)) from error
        raise AssertionError("every attempt returns or raises")

    def _transact(self, jobs: list[_Job]) -> list[_Outcome]:
        """One transaction, from its beginning to the disk."""
        connection = self._connect()
        try:
            transaction = connection.begin()
        except DBAPIError as error:
            if _is_busy(error):
                raise NotYet("database-busy", str(error.orig), BUSY_RETRY_AFTER_SECONDS) from error
            raise
        try:
            outcomes = _run_units(connection, transaction, jobs)
        except BaseException:
            if transaction.is_active:
                with suppress(SQLAlchemyError):  # the first error is the one to tell
                    transaction.rollback()
            raise
        if not transaction.is_active:  # the only unit was undone
            return outcomes
        try:
            transaction.commit()
        except DBAPIError as error:
            self._disconnect()
            raise PeerFailed("database-commit-failed", str(error.orig)) from error
        return outcomes

    def _connect(self) -> Connection:
        if self._connection is None:
            try:
                self._connection = self._engine.connect()
            except DBAPIError as error:
                raise PeerFailed("database-unavailable", str(error.orig)) from error
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):  # it is given up in any case
                connection.close()


class _Conflict(Exception):
    """Another process had what this transaction wanted."""


def _run_units(connection: Connection, transaction: RootTransaction, jobs: list[_Job]) -> list[_Outcome]:
    if len(jobs) == 1:
        return [_run_alone(connection, transaction, jobs[0])]
    return [_run_beside(connection, job) for job in jobs]


def _run_alone(connection: Connection, transaction: RootTransaction, job: _Job) -> _Outcome:
    """Run the only unit of a transaction, which is all there is to undo."""
    try:
        value = job.unit(connection)
        _check_usable(connection)
    except Exception as error:
        _raise_if_transaction_lost(connection, error)
        transaction.rollback()
        return _Outcome(error=error)
    return _Outcome(value)


def _run_beside(connection: Connection, job: _Job) -> _Outcome:
    """Run one unit of several in its savepoint. Raises where the whole transaction is lost with it."""
    _savepoint(connection, "SAVEPOINT unit")
    try:
        value = job.unit(connection)
        _check_usable(connection)
    except Exception as error:
        _raise_if_transaction_lost(connection, error)
        _savepoint(connection, "ROLLBACK TO SAVEPOINT unit")
        return _Outcome(error=error)
    if connection.dialect.name == "sqlite":  # SQLite slows down under open savepoints, PostgreSQL under round trips
        _savepoint(connection, "RELEASE SAVEPOINT unit")
    return _Outcome(value)


def _savepoint(connection: Connection, statement: str) -> None:
    if connection.dialect.name == "sqlite":
        raw: Any = connection.connection.dbapi_connection
        raw.execute(statement)  # past SQLAlchemy: a fifth of the price, and nothing here can be busy or lost
    else:
        connection.exec_driver_sql(statement)


def _raise_if_transaction_lost(connection: Connection, error: Exception) -> None:
    if isinstance(error, DBAPIError) and _is_busy(error):
        raise _Conflict(str(error.orig)) from error
    if not connection.in_transaction() or not _is_open(connection):
        raise error


def _is_open(connection: Connection) -> bool:
    """Whether the database still holds the transaction: SQLite ends it by itself on a full disk."""
    if connection.invalidated:
        return False
    raw: Any = connection.connection.dbapi_connection
    return bool(raw.in_transaction) if connection.dialect.name == "sqlite" else not raw.closed


def _is_busy(error: DBAPIError) -> bool:
    if getattr(error.orig, "sqlstate", None) in _POSTGRESQL_CONFLICTS:
        return True
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF in _SQLITE_BUSY


def _check_usable(connection: Connection) -> None:
    """Refuse to go on where COMMIT would quietly do nothing: PostgreSQL makes it a ROLLBACK after an error."""
    raw: Any = connection.connection.dbapi_connection
    if not connection.in_transaction() or not _is_open(connection):
        raise RuntimeError("a unit of work must not end the transaction")
    if connection.dialect.name == "postgresql" and raw.info.transaction_status >= _POSTGRESQL_INERROR:
        raise RuntimeError("a unit of work must let the database's errors out, or hold them in begin_nested()")


def _resolve(jobs: list[_Job], outcomes: list[_Outcome]) -> None:
    """Tell every caller, waking each event loop once."""
    told = [(job.future, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
    for loop in {job.future.get_loop() for job in jobs}:
        pairs = [pair for pair in told if pair[0].get_loop() is loop]
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, pairs)


def _tell(pairs: Iterable[tuple[asyncio.Future[Any], _Outcome]]) -> None:
    for future, outcome in pairs:
        if future.done():  # the caller was cancelled
            continue
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)
