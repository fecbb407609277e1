"""Many units of work in one transaction, on SQLite or PostgreSQL.

The laws of this file:

1. A unit that raises is undone alone. That is rare, so units run without savepoints first; if one of several raises,
   all is undone and they run again, each in a savepoint of its own.
2. Whoever runs a batch gets an outcome for each unit after the commit that holds them, or an exception and no commit:
   a commit that fails, fails its whole batch.
3. On SQLite transactions begin and end past SQLAlchemy, at a fifth of the price.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from brski_common import sqlite
from brski_common.errors import NotYet, PeerFailed
from brski_common.sqlite import Hurry

BUSY_RETRY_AFTER_SECONDS: Final = 1.0

# serialization_failure, deadlock_detected, lock_not_available
_POSTGRESQL_CONFLICTS: Final = {"40001", "40P01", "55P03"}
_POSTGRESQL_INERROR: Final = 3  # PQtransactionStatus: 3 in error, 4 unknown

AnyUnit = Callable[[Connection], Any]


class Job(NamedTuple):
    """A unit of work and who waits for it."""

    unit: AnyUnit
    future: asyncio.Future[Any]


class Outcome(NamedTuple):
    """What a unit returned or raised."""

    value: Any = None
    error: BaseException | None = None


class Conflict(Exception):
    """Another process had what this transaction wanted, or its time was up; nothing happened."""


@dataclass(slots=True)
class Pace:
    """How fast the disk is, as its last commit shows. `monotonic` is a clock in seconds."""

    monotonic: Callable[[], float]
    commit_seconds: float = 0.0


class Transactor:
    """The owner of one writing connection, which it opens when it is needed.

    `unit_seconds` is how long the units of a transaction may take together, on SQLite; then Conflict is raised. With
    such a limit no lock is waited for either.
    """

    def __init__(self, engine: Engine, pace: Pace, *, unit_seconds: float | None = None) -> None:
        self._engine, self._pace, self._unit_seconds = engine, pace, unit_seconds
        self._ground: _Ground | None = None
        self._limit: AbstractContextManager[None] = nullcontext()

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One transaction, from its beginning to the disk.

        Raises Conflict, NotYet `database-busy` (it could not begin), PeerFailed `database-commit-failed` or
        `database-unavailable`, or what else broke the transaction.
        """
        ground = self._ground or self._connect()
        outcomes = self._run_units(ground, jobs, savepoints=False)
        if len(jobs) > 1 and outcomes[-1].error is not None:
            ground.rollback()
            outcomes = self._run_units(ground, jobs, savepoints=True)
        if all(outcome.error is not None for outcome in outcomes):
            ground.rollback()
        else:
            self._commit(ground)
        return outcomes

    def disconnect(self) -> None:
        """Give the connection up; the next transaction opens another."""
        ground, self._ground = self._ground, None
        if ground is not None:
            with suppress(SQLAlchemyError):  # it is given up in any case
                ground.connection.close()

    def _run_units(self, ground: "_Ground", jobs: Sequence[Job], *, savepoints: bool) -> list[Outcome]:
        """Begin, and run the units; without savepoints one that raises is the last."""
        _begin(ground)
        outcomes: list[Outcome] = []
        try:
            with self._limit:
                for job in jobs:
                    outcomes.append(_run_beside(ground, job) if savepoints else _run_unit(ground, job))
                    if outcomes[-1].error is not None and not savepoints:
                        break
        except BaseException as error:
            self._undo(ground)
            if isinstance(error, DBAPIError) and _is_conflict(error):
                raise Conflict(str(error.orig)) from error
            raise
        return outcomes

    def _undo(self, ground: "_Ground") -> None:
        try:
            ground.rollback()
        except SQLAlchemyError:  # what went wrong first is what is told
            self.disconnect()

    def _commit(self, ground: "_Ground") -> None:
        began = self._pace.monotonic()
        try:
            ground.commit()
        except DBAPIError as error:
            self.disconnect()
            raise PeerFailed("database-commit-failed", str(error.orig)) from error
        self._pace.commit_seconds = self._pace.monotonic() - began

    def _connect(self) -> "_Ground":
        try:
            connection = self._engine.connect()
        except DBAPIError as error:
            raise PeerFailed("database-unavailable", str(error.orig)) from error
        if connection.dialect.name == "postgresql":
            self._ground = _PostgreSQL(connection)
        else:
            self._ground = _SQLite(connection)
            if self._unit_seconds is not None:
                self._limit = Hurry(self._ground.raw, self._unit_seconds)
        return self._ground


def _begin(ground: "_Ground") -> None:
    try:
        ground.begin()
    except DBAPIError as error:
        if _is_conflict(error):
            raise NotYet("database-busy", str(error.orig), BUSY_RETRY_AFTER_SECONDS) from error
        raise


def _run_beside(ground: "_Ground", job: Job) -> Outcome:
    """Run one unit of several in its savepoint, so that the others stay if it raises."""
    ground.save()
    outcome = _run_unit(ground, job)
    if outcome.error is None:
        ground.release()
    else:
        ground.undo()
    return outcome


def _run_unit(ground: "_Ground", job: Job) -> Outcome:
    """Raises where the whole transaction is lost with the unit."""
    try:
        value = job.unit(ground.connection)
        ground.check_usable()
    except Exception as error:
        if not ground.is_open() or (isinstance(error, DBAPIError) and _is_conflict(error)):
            raise
        return Outcome(error=error)
    return Outcome(value)


def _is_conflict(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _POSTGRESQL_CONFLICTS or sqlite.gave_up(error)


class _Ground(Protocol):
    """How a database begins, saves and ends."""

    connection: Connection

    def begin(self) -> None: ...
    def save(self) -> None: ...
    def release(self) -> None: ...
    def undo(self) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...

    def is_open(self) -> bool:
        """Whether the database still holds the transaction."""

    def check_usable(self) -> None:
        """Refuse to go on where COMMIT would not commit what came before."""


class _SQLite:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.raw: sqlite3.Connection = sqlite.raw_of(connection)

    def begin(self) -> None:
        sqlite.run(self.raw, "BEGIN IMMEDIATE")

    def save(self) -> None:
        sqlite.run(self.raw, "SAVEPOINT unit")

    def release(self) -> None:
        sqlite.run(self.raw, "RELEASE SAVEPOINT unit")  # SQLite slows down under open savepoints

    def undo(self) -> None:
        sqlite.run(self.raw, "ROLLBACK TO SAVEPOINT unit")

    def commit(self) -> None:
        sqlite.commit(self.connection, self.raw)

    def rollback(self) -> None:
        sqlite.rollback(self.connection, self.raw)

    def is_open(self) -> bool:
        return self.raw.in_transaction  # SQLite ends it by itself on a full disk

    def check_usable(self) -> None:
        if not self.raw.in_transaction:
            raise RuntimeError("a unit of work must not end the transaction")


class _PostgreSQL:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._raw: Any = None
        self._transaction: RootTransaction | None = None

    def begin(self) -> None:
        self._transaction = self.connection.begin()
        self._raw = self.connection.connection.dbapi_connection

    def save(self) -> None:
        self.connection.exec_driver_sql("SAVEPOINT unit")

    def release(self) -> None:
        """Nothing: a savepoint of the same name hides it, and this would be a round trip."""

    def undo(self) -> None:
        self.connection.exec_driver_sql("ROLLBACK TO SAVEPOINT unit")

    def commit(self) -> None:
        if self._transaction is not None:
            self._transaction.commit()

    def rollback(self) -> None:
        if self._transaction is not None and self._transaction.is_active:
            self._transaction.rollback()

    def is_open(self) -> bool:
        return not self.connection.invalidated and self.connection.in_transaction() and not self._raw.closed

    def check_usable(self) -> None:
        if not self.is_open():
            raise RuntimeError("a unit of work must not end the transaction")
        if self._raw.info.transaction_status >= _POSTGRESQL_INERROR:  # COMMIT would be a quiet ROLLBACK
            raise RuntimeError("a unit of work must let the database's errors out, or hold them in begin_nested()")
