"""Durable storage in SQLite or PostgreSQL: one way to write, one way to read.

The laws of this file:

1. A unit of work is a plain function of a SQLAlchemy connection. It may run more than once (a lost
   connection, a deadlock), so it has no effect but through that connection; it never commits.
2. `write` returns after the unit is on disk, never before. Units of many callers share a commit
   (`groupcommit`), and a unit that raises undoes itself alone.
3. `read` sees one consistent state, cannot write, and never holds up the event loop for long: a small
   read of SQLite runs right here, because going to a thread costs ten times the read.
4. Statements are built once, at module level, with bind parameters: built anew for every call one
   costs 45 µs, built once 11 µs.
5. What is wrong in a unit comes out as it is (`IntegrityError` …); a database that cannot be reached
   is PeerFailed `database-unavailable`, one that is too busy is NotYet `database-busy`.
"""

import asyncio
import math
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Dialect, Engine, NullPool, QueuePool, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from brski_common import migrations as migrating
from brski_common.errors import BrskiError, Misconfigured, PeerFailed
from brski_common.groupcommit import LOCK_WAIT_SECONDS, Writer
from brski_common.prepared import run

T = TypeVar("T")
Unit = Callable[[Connection], T]

READER_THREADS: Final = 4
CONNECT_SECONDS: Final = 5
READER_LOCK_WAIT_SECONDS: Final = 5
INLINE_READ_SECONDS: Final = 0.005  # a read that takes longer starts again in a thread
INLINE_CHECK_STEPS: Final = 1000  # SQLite virtual machine steps between two looks at the clock, some 20 µs
DATABASE_FILE_MODE: Final = 0o600
SWITCH_PAUSE_SECONDS: Final = 0.02
URL_FORMS: Final = "sqlite:///FILE or postgresql://USER@HOST/NAME"

_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
_SQLITE_GAVE_UP: Final = {5, 6, 9}  # SQLITE_BUSY, SQLITE_LOCKED, SQLITE_INTERRUPT


class UtcTime(sqlalchemy.TypeDecorator[datetime]):
    """A column of aware times, in UTC on both databases; a naive time is a ValueError."""

    impl = sqlalchemy.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; SQLite has no zones, so there the UTC time is stored without one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone cannot be stored")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the time back as aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class Database:
    """An open database, for one event loop at a time."""

    @classmethod
    def open(cls, url: str, *, migrations: str) -> Self:
        """Open `url`, bring its schema up to date with the package `migrations`, start the writer.

        `url` is `sqlite:///FILE` or `postgresql://…`. Blocks: call it while starting.
        Raises Misconfigured: the URL is of another form, the database cannot be opened, or its schema
        is newer than this program.
        """
        parsed = _parse(url)
        writing = _engine(parsed, readonly=False)
        try:
            if parsed.drivername == "sqlite":
                _prepare_sqlite(Path(parsed.database or ""))
            migrating.upgrade(writing, migrations)
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            writing.dispose()
            raise Misconfigured("database-unusable", f"{_shown(parsed)}: {getattr(error, 'orig', error)}") from error
        except BrskiError as error:
            writing.dispose()
            raise type(error)(error.reason, f"{_shown(parsed)}: {error.detail}") from error
        return cls(writing, _engine(parsed, readonly=True))

    def __init__(self, writing: Engine, reading: Engine) -> None:
        self._writing = writing
        self._reading = reading
        self._writer = Writer(writing)
        self._inline = _InlineReader(reading) if reading.dialect.name == "sqlite" else None
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="database-reader")

    @property
    def backlog(self) -> int:
        """How many units wait for the writer: a gauge for the metrics."""
        return self._writer.backlog

    async def write(self, unit: Unit[T]) -> T:
        """Run `unit` in a transaction; returns its value once the commit is durable, or raises what it raised.

        If the caller is cancelled, the unit may or may not have been committed.
        Raises NotYet `database-busy` (too much waits already, or another process keeps the lock),
        PeerFailed `database-unavailable`.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._writer.submit(unit, future)
        return await future

    async def read(self, unit: Unit[T]) -> T:
        """Run `unit` on one consistent, read-only state of the database; raises PeerFailed `database-unavailable`."""
        if self._inline is not None:
            try:
                return self._inline.read(unit)
            except DBAPIError as error:
                if not _gave_up(error):
                    raise
        return await asyncio.get_running_loop().run_in_executor(self._readers, partial(_read, self._reading, unit))

    async def close(self) -> None:
        """Finish what is queued, then let go of every connection."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _close(self) -> None:
        self._writer.close()
        self._readers.shutdown()
        if self._inline is not None:
            self._inline.close()
        self._reading.dispose()
        self._writing.dispose()


class _InlineReader:
    """Reads SQLite on the event loop's thread; after INLINE_READ_SECONDS SQLite interrupts the statement."""

    def __init__(self, engine: Engine) -> None:
        self._deadline = math.inf
        self._connection = engine.connect()
        raw: Any = self._connection.connection.dbapi_connection
        raw.execute("PRAGMA busy_timeout = 0")
        raw.set_progress_handler(self._is_late, INLINE_CHECK_STEPS)

    def read(self, unit: Unit[T]) -> T:
        with self._connection.begin():
            # Only the unit may be cut short. On a busy machine time passes anywhere, and SQLite would interrupt a BEGIN
            # or COMMIT just as well: the connection would be left inside a transaction, for good.
            self._deadline = time.monotonic() + INLINE_READ_SECONDS
            try:
                return unit(self._connection)
            finally:
                self._deadline = math.inf

    def close(self) -> None:
        raw: Any = self._connection.connection.dbapi_connection
        raw.set_progress_handler(None, 0)
        self._connection.close()

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline


def _gave_up(error: DBAPIError) -> bool:
    """Whether SQLite stopped for want of time or of a lock: a thread may wait longer."""
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF in _SQLITE_GAVE_UP


def _read(engine: Engine, unit: Unit[T]) -> T:
    """Read in a thread. A connection that was lost while it lay idle is replaced, once."""
    try:
        return _read_once(engine, unit)
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return _read_once(engine, unit)


def _read_once(engine: Engine, unit: Unit[T]) -> T:
    try:
        connection = engine.connect()
    except DBAPIError as error:
        raise PeerFailed("database-unavailable", str(error.orig)) from error
    with connection, connection.begin():
        return unit(connection)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise Misconfigured("database-url-unknown", f"a database URL is {URL_FORMS}") from error
    if parsed.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername != "sqlite":
        raise Misconfigured("database-url-unknown", f"{parsed.drivername}: a database URL is {URL_FORMS}")
    if parsed.database in {None, "", ":memory:"}:
        raise Misconfigured("database-url-unknown", f"a SQLite database needs a file: a database URL is {URL_FORMS}")
    return parsed


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def _engine(url: URL, *, readonly: bool) -> Engine:
    if url.drivername == "sqlite":
        return _sqlite_engine(url, readonly=readonly)
    return _postgresql_engine(url, readonly=readonly)


def _sqlite_engine(url: URL, *, readonly: bool) -> Engine:
    engine = sqlalchemy.create_engine(
        url,
        **_pool(readonly=readonly),
        hide_parameters=True,
        connect_args={"check_same_thread": False, "isolation_level": None},
    )
    wait = READER_LOCK_WAIT_SECONDS if readonly else LOCK_WAIT_SECONDS
    # FULL makes a commit reach the disk before it returns.
    pragmas = [f"busy_timeout = {int(wait * 1000)}", "synchronous = FULL", "foreign_keys = ON"]
    if readonly:
        pragmas.append("query_only = ON")

    def configure(raw: Any, _entry: ConnectionPoolEntry) -> None:  # noqa: ANN401 -- a driver's connection
        for pragma in pragmas:
            raw.execute(f"PRAGMA {pragma}")

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", _begin_reading if readonly else _begin_writing)
    return engine


def _begin_reading(connection: Connection) -> None:
    raw: Any = connection.connection.dbapi_connection
    raw.execute("BEGIN")  # past SQLAlchemy: this cannot fail, and every read pays for it


def _begin_writing(connection: Connection) -> None:
    """Take the write lock before the first read: the driver's own transactions take it at the first write, too late."""
    run(connection, "BEGIN IMMEDIATE")


def _prepare_sqlite(path: Path) -> None:
    """Make the file, readable by its owner alone, and switch it to WAL, where readers go on beside the writer.

    The file's journals take over its mode. A file that is there is not opened here: closing it would
    give up the locks that SQLite holds on it in this process.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, DATABASE_FILE_MODE))
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            with closing(sqlite3.connect(path, timeout=LOCK_WAIT_SECONDS)) as raw:
                raw.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # This one pragma does not wait for a program that is starting too.
            if error.sqlite_errorcode & 0xFF not in _SQLITE_GAVE_UP or time.monotonic() > deadline:
                raise
            time.sleep(SWITCH_PAUSE_SECONDS)
        else:
            return


def _postgresql_engine(url: URL, *, readonly: bool) -> Engine:
    engine = sqlalchemy.create_engine(
        url,
        **_pool(readonly=readonly),
        hide_parameters=True,  # errors go to the log, rows do not
        isolation_level="REPEATABLE READ" if readonly else "READ COMMITTED",
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )

    def configure(raw: Any, _entry: ConnectionPoolEntry) -> None:  # noqa: ANN401 -- a driver's connection
        if readonly:
            raw.read_only = True
            return
        # A server may be set up to answer before the disk has it; law 2 does not allow that.
        raw.execute(_DURABLE)
        raw.execute(f"SET lock_timeout = '{LOCK_WAIT_SECONDS}s'")
        raw.commit()

    event.listen(engine, "connect", configure)
    return engine


def _pool(*, readonly: bool) -> dict[str, Any]:
    if readonly:
        return {"poolclass": QueuePool, "pool_size": READER_THREADS + 1, "max_overflow": 0}
    return {"poolclass": NullPool}
