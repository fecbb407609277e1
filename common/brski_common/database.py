"""Durable storage in SQLite or PostgreSQL: one way to write, one way to read.

The laws of this file:

1. A unit of work is a plain function of a SQLAlchemy connection. It may run more than once (a lost
   connection, a deadlock, a lock that is taken), so it has no effect but through that connection; it never commits.
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
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from brski_common import sqlite
from brski_common.errors import BrskiError, Misconfigured, PeerFailed
from brski_common.groupcommit import Writer
from brski_common.sqlite import InlineReader

T = TypeVar("T")
Unit = Callable[[Connection], T]

READER_THREADS: Final = 4
CONNECT_SECONDS: Final = 5
LOCK_WAIT_SECONDS: Final = 10  # a writer's, for the lock of another process
READER_LOCK_WAIT_SECONDS: Final = 5
INLINE_READ_SECONDS: Final = 0.005  # a read that takes longer starts again in a thread
URL_FORMS: Final = "sqlite:///FILE or postgresql://USER@HOST/NAME"

_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
_UTC_SUFFIX: Final = "+00:00"


class UtcTime(sqlalchemy.TypeDecorator[datetime]):
    """A column of aware times, in UTC on both databases; a naive time is a ValueError."""

    impl = sqlalchemy.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 -- SQLAlchemy's
        """Convert to UTC."""
        return None if value is None else _utc(value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 -- as above
        """Give the time back as aware UTC."""
        return None if value is None else value.astimezone(UTC)

    # SQLite has no zones, and keeps a UTC time as text without one. SQLAlchemy's own way there is ten times as long.

    def bind_processor(self, dialect: Dialect) -> Callable[[datetime | None], Any] | None:
        """What writes a time."""
        return _to_text if dialect.name == "sqlite" else super().bind_processor(dialect)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        """What reads a time."""
        return _from_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time without zone cannot be stored")
    return value.astimezone(UTC)


def _to_text(value: datetime | None) -> str | None:
    return None if value is None else _utc(value).isoformat(" ", "microseconds").removesuffix(_UTC_SUFFIX)


def _from_text(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text + _UTC_SUFFIX)


class Database:
    """An open database, for one event loop at a time."""

    @classmethod
    def open(cls, url: str, *, migrations: str, monotonic: Callable[[], float] = time.monotonic) -> Self:
        """Open `url` and bring its schema up to date with the package `migrations`.

        `url` is `sqlite:///FILE` or `postgresql://…`. `monotonic` is a clock in seconds, by which commits are timed.
        Blocks: call it while starting.
        Raises Misconfigured: the URL is of another form, the database cannot be opened, or its schema
        is newer than this program.
        """
        parsed = _parse(url)
        writing = _engine(parsed, readonly=False)
        try:
            if parsed.drivername == "sqlite":
                sqlite.prepare(Path(parsed.database or ""), LOCK_WAIT_SECONDS)
            migrating.upgrade(writing, migrations)
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            writing.dispose()
            raise Misconfigured("database-unusable", f"{_shown(parsed)}: {getattr(error, 'orig', error)}") from error
        except BrskiError as error:
            writing.dispose()
            raise type(error)(error.reason, f"{_shown(parsed)}: {error.detail}") from error
        return cls(writing, _engine(parsed, readonly=True), monotonic)

    def __init__(self, writing: Engine, reading: Engine, monotonic: Callable[[], float]) -> None:
        self._writing = writing
        self._reading = reading
        self._writer = Writer(writing, monotonic)
        self._inline = InlineReader(reading, INLINE_READ_SECONDS) if reading.dialect.name == "sqlite" else None
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="database-reader")

    @staticmethod
    def check_exists(url: str) -> None:
        """Raise Misconfigured `database-missing` where `open` would make a new SQLite file."""
        parsed = _parse(url)
        if parsed.drivername == "sqlite" and not Path(parsed.database or "").exists():
            raise Misconfigured("database-missing", f"{_shown(parsed)}: there is none; is this the right place for it?")

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
                if not sqlite.gave_up(error):
                    raise
        return await asyncio.get_running_loop().run_in_executor(self._readers, partial(_read, self._reading, unit))

    async def close(self) -> None:
        """Finish what is queued, then let go of every connection."""
        self._writer.stop()
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
        wait = READER_LOCK_WAIT_SECONDS if readonly else LOCK_WAIT_SECONDS
        return sqlite.engine(url, _pool(readonly=readonly), readonly=readonly, lock_wait=wait)
    return _postgresql_engine(url, readonly=readonly)


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
