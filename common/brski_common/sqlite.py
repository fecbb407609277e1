"""SQLite itself: how its files and connections are set up, and what is run past SQLAlchemy.

Whoever asks on the event loop's own thread must not hold it up: it waits for no lock (`Hurry`), and SQLite interrupts
what takes too long. A thread may then do the same with patience.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Dialect, Engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

T = TypeVar("T")

CHECK_STEPS: Final = 1000  # SQLite virtual machine steps between two looks at the clock, some 20 µs
FILE_MODE: Final = 0o600
SWITCH_PAUSE_SECONDS: Final = 0.02

DIALECT: Final[Dialect] = sqlite.dialect()

_GAVE_UP: Final = {5, 6, 9}  # SQLITE_BUSY, SQLITE_LOCKED, SQLITE_INTERRUPT


def engine(url: URL, pool: Mapping[str, Any], *, readonly: bool, lock_wait: float) -> Engine:
    """An engine whose commits reach the disk before they return; it waits `lock_wait` seconds for a lock."""
    made = sqlalchemy.create_engine(
        url, **pool, hide_parameters=True, connect_args={"check_same_thread": False, "isolation_level": None}
    )
    pragmas = [f"busy_timeout = {int(lock_wait * 1000)}", "synchronous = FULL", "foreign_keys = ON"]
    if readonly:
        pragmas.append("query_only = ON")
    begin = "BEGIN" if readonly else "BEGIN IMMEDIATE"

    def configure(raw: Any, _entry: ConnectionPoolEntry) -> None:  # noqa: ANN401 -- a driver's connection
        for pragma in pragmas:
            raw.execute(f"PRAGMA {pragma}")

    def begin_once(connection: Connection) -> None:
        """Take the write lock before the first read: the driver's own transactions take it at the first write."""
        raw = raw_of(connection)
        if not raw.in_transaction:  # else it was begun past SQLAlchemy, which begins at a unit's execute
            run(raw, begin)

    event.listen(made, "connect", configure)
    event.listen(made, "begin", begin_once)
    return made


def prepare(path: Path, lock_wait: float) -> None:
    """Make the file, readable by its owner alone, and switch it to WAL, where readers go on beside the writer.

    The file's journals take over its mode. A file that is there is not opened here: closing it would
    give up the locks that SQLite holds on it in this process.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, FILE_MODE))
    deadline = time.monotonic() + lock_wait
    while True:
        try:
            with closing(sqlite3.connect(path, timeout=lock_wait)) as raw:
                raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # This one pragma does not wait for a program that is starting too.
            if error.sqlite_errorcode & 0xFF not in _GAVE_UP or time.monotonic() > deadline:
                raise
            time.sleep(SWITCH_PAUSE_SECONDS)
        else:
            return


class Hurry:
    """Lets a connection wait for no lock, and interrupts what it runs inside `with` for longer than `seconds`.

    Only units may be cut short. On a busy machine time passes anywhere, and SQLite would interrupt a BEGIN or COMMIT
    just as well: the connection would be left inside a transaction, for good.
    """

    def __init__(self, raw: sqlite3.Connection, seconds: float) -> None:
        self._seconds, self._deadline = seconds, inf
        raw.execute("PRAGMA busy_timeout = 0")
        raw.set_progress_handler(self._is_late, CHECK_STEPS)

    def __enter__(self) -> None:
        self._deadline = time.monotonic() + self._seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadline = inf

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline


class InlineReader:
    """Reads on the event loop's thread."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._connection = engine.connect()
        self._raw = raw_of(self._connection)
        self._hurry = Hurry(self._raw, seconds)

    def read(self, unit: Callable[[Connection], T]) -> T:
        """Run a unit on one state of the database; where `gave_up` says so, a thread may wait longer."""
        self._raw.execute("BEGIN")
        try:
            with self._hurry:
                return unit(self._connection)
        finally:
            rollback(self._connection, self._raw)

    def close(self) -> None:
        """Let go of the connection."""
        self._raw.set_progress_handler(None, 0)
        self._connection.close()


def gave_up(error: DBAPIError) -> bool:
    """Whether SQLite stopped for want of time or of a lock."""
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF in _GAVE_UP


def raw_of(connection: Connection) -> sqlite3.Connection:
    """The driver's connection beneath SQLAlchemy's."""
    pooled: Any = connection.connection
    raw: sqlite3.Connection = pooled.dbapi_connection
    return raw


def run(raw: sqlite3.Connection, text: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
    """Run text past SQLAlchemy; raises what it would."""
    try:
        return raw.execute(text, values)
    except sqlite3.Error as error:
        raise as_sqlalchemy(error, text) from error


def commit(connection: Connection, raw: sqlite3.Connection) -> None:
    """End a transaction that was begun on `raw`, past the SQLAlchemy above it; raises what SQLAlchemy would."""
    run(raw, "COMMIT")
    if connection.in_transaction():  # from the first statement that a unit executed through SQLAlchemy
        connection.rollback()


def rollback(connection: Connection, raw: sqlite3.Connection) -> None:
    """Undo such a transaction, if SQLite has not done so by itself."""
    if raw.in_transaction:
        run(raw, "ROLLBACK")
    if connection.in_transaction():  # as above
        connection.rollback()


def as_sqlalchemy(error: sqlite3.Error, text: str) -> BaseException:
    """An error of the driver as SQLAlchemy's (`IntegrityError` …), without the values."""
    return DBAPIError.instance(text, None, error, sqlite3.Error, hide_parameters=True, dialect=DIALECT)
