"""Durable storage: what is answered is on disk, what fails undoes itself alone.

It is so on both databases, and on SQLite whether the event loop's thread commits or, on a slow disk, another one.
"""

import asyncio
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Connection, bindparam, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from brski_common import database, groupcommit, sqlite
from brski_common.database import Database, UtcTime
from brski_common.errors import BrskiError, Misconfigured, NotYet, PeerFailed

NOTES = sqlalchemy.table("notes", sqlalchemy.column("text", sqlalchemy.String), sqlalchemy.column("at", UtcTime))
CHILDREN = sqlalchemy.table("children", sqlalchemy.column("note", sqlalchemy.String))
ADD = sqlalchemy.insert(NOTES).values(text=bindparam("text"))
ADD_CHILD = sqlalchemy.insert(CHILDREN).values(note=bindparam("note"))
ALL = sqlalchemy.select(NOTES.c.text).order_by(NOTES.c.text)
COUNT_UP = sqlalchemy.text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT count(*) FROM n"
)

FIRST = """
import sqlalchemy as sa
from alembic import op
from brski_common.database import UtcTime

revision = "0001"
down_revision = None

def upgrade() -> None:
    op.create_table("notes", sa.Column("text", sa.String, primary_key=True), sa.Column("at", UtcTime))
    looked_at_by_commit = sa.ForeignKey("notes.text", deferrable=True, initially="DEFERRED")
    op.create_table("children", sa.Column("note", sa.String, looked_at_by_commit))
"""
SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

def upgrade() -> None:
    op.add_column("notes", sa.Column("colour", sa.String))
"""

_numbers = itertools.count(1)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A role's migrations, with one revision."""
    name = f"example_role_{next(_numbers)}"
    versions = tmp_path / name / "migrations" / "versions"
    versions.mkdir(parents=True)
    for folder in (tmp_path / name, tmp_path / name / "migrations"):
        (folder / "__init__.py").touch()
    (versions / "0001_notes.py").write_text(FIRST)
    monkeypatch.syspath_prepend(tmp_path)
    return f"{name}.migrations"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine shall not move what a test wants to see on the event loop's thread."""
    monkeypatch.setattr(groupcommit, "INLINE_UNITS_SECONDS", 60.0)


class Disk:
    """A clock by which every commit takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._now = seconds, 0.0

    def __call__(self) -> float:
        self._now += self.seconds
        return self._now


@pytest.fixture(params=["quick disk", "slow disk"])
async def db(database_url: str, package: str, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    if request.param == "quick disk":
        async with Database.open(database_url, migrations=package, monotonic=Disk(0)) as opened:
            yield opened
    else:
        async with on_slow_disk(database_url, package) as opened:
            yield opened


@pytest.fixture
async def slow_db(database_url: str, package: str) -> AsyncIterator[Database]:
    async with on_slow_disk(database_url, package) as opened:
        yield opened


@asynccontextmanager
async def on_slow_disk(url: str, package: str) -> AsyncIterator[Database]:
    """A database whose thread writes from the second time on."""
    async with Database.open(url, migrations=package, monotonic=Disk(1)) as opened:
        await opened.write(clear)
        yield opened


def add(text: str) -> Callable[[Connection], str]:
    def unit(connection: Connection) -> str:
        connection.execute(ADD, {"text": text})
        return text

    return unit


def add_at(text: str, at: datetime) -> Callable[[Connection], None]:
    def unit(connection: Connection) -> None:
        connection.execute(sqlalchemy.insert(NOTES), {"text": text, "at": at})

    return unit


def clear(connection: Connection) -> None:
    connection.execute(sqlalchemy.delete(NOTES))


def texts(connection: Connection) -> list[str]:
    return list(connection.execute(ALL).scalars())


async def read_texts(url: str, package: str) -> list[str]:
    async with Database.open(url, migrations=package) as db:
        return await db.read(texts)


def is_here(_connection: Connection | None = None) -> bool:
    """Whether a unit runs on the event loop's thread."""
    return threading.current_thread() is threading.main_thread()


class Gate:
    """A unit that holds the writer's thread until it is opened."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._opened = threading.Event()

    def __call__(self, connection: Connection) -> None:
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._opened.wait(20)

    def open(self) -> None:
        self._opened.set()


async def held(db: Database) -> tuple[Gate, "asyncio.Task[None]"]:
    gate = Gate()
    task = asyncio.create_task(db.write(gate))
    await gate.entered.wait()
    return gate, task


async def at_once(db: Database, *units: Callable[[Connection], object]) -> list[object]:
    """What units come to that share a transaction, because the writer has all of them before it begins."""
    if await db.write(is_here):
        return await asyncio.gather(*map(db.write, units), return_exceptions=True)
    gate, task = await held(db)
    writes = asyncio.gather(*map(db.write, units), return_exceptions=True)
    await turns(10)
    gate.open()
    await task
    return await writes


async def turns(count: int) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_write_returns_the_value_of_its_unit_and_read_sees_it(db: Database) -> None:
    assert await db.write(add("a")) == "a"
    assert await db.read(texts) == ["a"]


async def test_many_writers_share_few_commits(db: Database) -> None:
    commits: list[object] = []

    def trace(raw: object, _: object) -> None:
        if isinstance(raw, sqlite3.Connection):
            raw.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)

    event.listen(db._writing, "connect", trace)
    event.listen(db._writing, "commit", commits.append)
    assert await at_once(db, *(add(f"{number:02}") for number in range(40))) == [f"{number:02}" for number in range(40)]
    assert len(commits) <= 3  # of what `at_once` does besides, two


async def test_a_unit_that_raises_undoes_itself_alone(db: Database) -> None:
    def fail(connection: Connection) -> None:
        add("bad")(connection)
        raise LookupError("mine")

    first, second, third = await at_once(db, add("a"), fail, add("b"))
    assert (first, third) == ("a", "b")
    assert isinstance(second, LookupError)
    assert await db.read(texts) == ["a", "b"]


async def test_a_unit_that_raises_alone_leaves_nothing(db: Database) -> None:
    def fail(connection: Connection) -> None:
        add("bad")(connection)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await db.write(fail)
    assert await db.read(texts) == []


async def test_the_databases_own_errors_come_out_as_they_are(db: Database) -> None:
    await db.write(add("a"))
    with pytest.raises(IntegrityError):
        await db.write(add("a"))
    assert await db.write(add("b")) == "b"


async def test_an_error_held_in_a_nested_transaction_is_the_units_own_business(db: Database) -> None:
    def unit(connection: Connection) -> str:
        try:
            with connection.begin_nested():
                connection.execute(ADD, {"text": "a"})
        except IntegrityError:
            connection.execute(ADD, {"text": "b"})
        return "done"

    await db.write(add("a"))
    assert await db.write(unit) == "done"
    assert await db.read(texts) == ["a", "b"]


async def test_a_swallowed_error_never_passes_for_a_commit(db: Database) -> None:
    """PostgreSQL would answer the COMMIT with a quiet ROLLBACK."""

    def swallow(connection: Connection) -> str:
        connection.execute(ADD, {"text": "b"})
        try:
            connection.execute(ADD, {"text": "a"})
        except IntegrityError:
            return "swallowed"
        return "no error"

    await db.write(add("a"))
    good, swallowed = await at_once(db, add("c"), swallow)
    kept = await db.read(texts)
    assert good == "c"
    assert "c" in kept
    assert ("b" in kept) == (swallowed == "swallowed")


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_a_unit_may_not_end_the_transaction(db: Database, end: str) -> None:
    def unit(connection: Connection) -> None:
        add("b")(connection)
        getattr(connection, end)()

    with pytest.raises(RuntimeError, match="must not end the transaction"):
        await db.write(unit)
    assert await db.write(add("a")) == "a"


async def test_a_commit_that_fails_fails_its_whole_batch(db: Database) -> None:
    def orphan(connection: Connection) -> None:
        connection.execute(ADD_CHILD, {"note": "nobody"})  # the constraint is looked at by COMMIT

    outcomes = await at_once(db, add("a"), orphan)
    assert [isinstance(outcome, PeerFailed) and outcome.reason for outcome in outcomes] == [
        "database-commit-failed"
    ] * 2
    assert await db.read(texts) == []
    assert await db.write(add("b")) == "b"


async def test_a_read_cannot_write(db: Database) -> None:
    with pytest.raises(DBAPIError):
        await db.read(add("a"))
    assert await db.read(texts) == []


async def test_the_unit_of_a_cancelled_caller_is_not_begun(slow_db: Database) -> None:
    gate, task = await held(slow_db)
    waiting = asyncio.create_task(slow_db.write(add("a")))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.open()
    await task
    assert await slow_db.write(add("b")) == "b"
    assert await slow_db.read(texts) == ["b"]


async def test_a_caller_cancelled_while_its_unit_runs_harms_nobody(slow_db: Database) -> None:
    gate, task = await held(slow_db)
    task.cancel()
    gate.open()
    assert await slow_db.write(add("a")) == "a"


async def test_too_many_waiting_writes_are_put_off(slow_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groupcommit, "MAX_QUEUED_UNITS", 2)
    gate, task = await held(slow_db)
    waiting = [asyncio.create_task(slow_db.write(add(text))) for text in "ab"]
    await asyncio.sleep(0)
    assert slow_db.backlog == 2
    with pytest.raises(NotYet, match="database-busy"):
        await slow_db.write(add("c"))
    gate.open()
    await asyncio.gather(task, *waiting)


@pytest.mark.parametrize("seconds", [0, 1])
async def test_close_finishes_what_is_queued(database_url: str, package: str, seconds: float) -> None:
    db = Database.open(database_url, migrations=package, monotonic=Disk(seconds))
    writes = [asyncio.create_task(db.write(add(f"{number:03}"))) for number in range(100)]
    await asyncio.sleep(0)
    await db.close()
    assert await asyncio.gather(*writes) == [f"{number:03}" for number in range(100)]
    with pytest.raises(RuntimeError, match="closed"):
        await db.write(add("late"))


def test_a_row_survives_a_process_that_is_killed(database_url: str, package: str, tmp_path: Path) -> None:
    script = tmp_path / "writer.py"
    script.write_text(
        "import asyncio, itertools, sys\n"
        "import sqlalchemy\n"
        "from brski_common.database import Database\n"
        "async def main():\n"
        f"    db = Database.open({database_url!r}, migrations={package!r})\n"
        "    add = sqlalchemy.text('INSERT INTO notes (text) VALUES (:text)')\n"
        "    for number in itertools.count():\n"
        "        await db.write(lambda connection: connection.execute(add, {'text': f'{number:05}'}) and None)\n"
        "        print(f'{number:05}', flush=True)\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline().strip() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        answered += process.stdout.read().split()
    kept = asyncio.run(read_texts(database_url, package))
    assert answered == kept[: len(answered)]


async def test_times_come_back_aware_and_in_utc(db: Database) -> None:
    noon = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5)))
    await db.write(add_at("a", noon))
    found = await db.read(lambda connection: connection.execute(sqlalchemy.select(NOTES.c.at)).scalar_one())
    assert found == noon
    assert found.tzinfo is UTC
    with pytest.raises(StatementError, match="without zone"):
        await db.write(add_at("b", noon.replace(tzinfo=None)))


POSTGRESQL_ONLY = pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))], indirect=True
)


@POSTGRESQL_ONLY
async def test_a_lost_connection_is_replaced(database_url: str, package: str) -> None:
    others = sqlalchemy.text(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with Database.open(database_url, migrations=package) as db:
        await db.write(add("a"))
        assert await db.read(texts) == ["a"]
        await db.read(lambda connection: connection.execute(others).all())  # the writer's
        assert await db.write(add("b")) == "b"
        await db.write(lambda connection: connection.execute(others).all())  # the readers'
        assert await db.read(texts) == ["a", "b"]


async def test_a_lock_that_stays_taken_puts_the_writer_off(
    database_url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(groupcommit, "CONFLICT_PAUSE_SECONDS", 0)
    async with (
        Database.open(database_url, migrations=package) as ours,
        on_slow_disk(database_url, package) as theirs,
    ):
        await ours.write(add("a"))
        gate = Gate()

        def hold(connection: Connection) -> None:
            clear(connection)
            gate(connection)

        holding = asyncio.create_task(theirs.write(hold))
        await gate.entered.wait()
        with pytest.raises(NotYet, match="database-busy"):
            await ours.write(clear)
        gate.open()
        await holding
        assert await ours.write(add("b")) == "b"


async def test_a_lock_that_is_given_back_in_time_is_waited_for(database_url: str, package: str) -> None:
    async with (
        Database.open(database_url, migrations=package) as ours,
        on_slow_disk(database_url, package) as theirs,
    ):
        gate, holding = await held(theirs)
        writing = asyncio.create_task(ours.write(add("a")))
        await turns(10)
        gate.open()
        await holding
        assert await writing == "a"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.db'}"


async def test_sqlite_is_written_without_another_thread(sqlite_url: str, package: str) -> None:
    async with Database.open(sqlite_url, migrations=package, monotonic=Disk(0)) as db:
        assert await db.write(is_here)
        await db.write(add("a"))
        with closing(sqlite3.connect(make_url(sqlite_url).database or "")) as other:
            assert other.execute("SELECT text FROM notes").fetchall() == [("a",)]
        assert "database-writer" not in {thread.name for thread in threading.enumerate()}


async def test_a_lock_of_another_process_is_waited_for_in_the_thread(sqlite_url: str, package: str) -> None:
    async with Database.open(sqlite_url, migrations=package, monotonic=Disk(0)) as db:
        with closing(sqlite3.connect(make_url(sqlite_url).database or "", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(db.write(is_here))
            await turns(10)
            assert not writing.done()
            assert await db.read(texts) == []  # the loop goes on
            other.execute("COMMIT")
            assert not await writing
        assert await db.write(is_here)


async def test_after_a_slow_commit_the_thread_writes_until_it_was_quick(sqlite_url: str, package: str) -> None:
    disk = Disk(groupcommit.SLOW_COMMIT_SECONDS * 2)
    async with Database.open(sqlite_url, migrations=package, monotonic=disk) as db:
        assert await db.write(is_here)
        assert not await db.write(is_here)
        assert not await db.write(is_here)
        disk.seconds = groupcommit.SLOW_COMMIT_SECONDS / 2
        assert not await db.write(is_here)
        assert await db.write(is_here)


async def test_nothing_overtakes_what_the_thread_has(sqlite_url: str, package: str) -> None:
    disk, ran = Disk(1), list[str]()
    async with Database.open(sqlite_url, migrations=package, monotonic=disk) as db:
        await db.write(clear)
        gate, holding = await held(db)
        disk.seconds = 0
        writing = [asyncio.create_task(db.write(lambda _, text=text: ran.append(text))) for text in "ab"]  # type: ignore[misc] # mypy infers no lambda with a default
        await turns(10)
        assert ran == []
        gate.open()
        await asyncio.gather(holding, *writing)
        await db.write(lambda _: ran.append("c"))
        assert ran == ["a", "b", "c"]


async def test_units_that_take_long_move_to_the_thread(
    sqlite_url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groupcommit, "INLINE_UNITS_SECONDS", 0.0)
    ran_here: list[bool] = []

    def unit(connection: Connection) -> int:
        ran_here.append(is_here())
        return int(connection.execute(COUNT_UP).scalar_one())

    async with Database.open(sqlite_url, migrations=package, monotonic=Disk(0)) as db:
        added, counted = await asyncio.gather(db.write(add("a")), db.write(unit))
        assert (added, counted) == ("a", 300000)
        assert ran_here == [True, False]
        assert await db.read(texts) == ["a"]
        assert await db.write(is_here)


async def test_units_that_are_late_from_the_start_are_done_by_the_thread(
    sqlite_url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite then interrupts the first thing it can, such as a savepoint."""
    monkeypatch.setattr(groupcommit, "INLINE_UNITS_SECONDS", -1.0)
    monkeypatch.setattr(sqlite, "CHECK_STEPS", 1)
    async with Database.open(sqlite_url, migrations=package, monotonic=Disk(0)) as db:
        for texts_written in ("a", "bc", "def"):
            assert await asyncio.gather(*(db.write(add(text)) for text in texts_written)) == list(texts_written)
        assert await db.read(texts) == list("abcdef")


def test_a_write_that_an_earlier_event_loop_left_behind_is_in_nobodys_way(sqlite_url: str, package: str) -> None:
    db = Database.open(sqlite_url, migrations=package, monotonic=Disk(0))

    async def leave() -> None:
        writing = asyncio.create_task(db.write(add("a")))
        await turns(1)
        writing.cancel()

    async def go_on() -> list[str]:
        async with db:
            await db.write(add("b"))
            return await db.read(texts)

    asyncio.run(leave())
    assert asyncio.run(go_on()) == ["b"]


async def test_a_long_read_of_sqlite_moves_to_a_thread(tmp_path: Path, package: str) -> None:
    ran_in: list[bool] = []

    def unit(connection: Connection) -> int:
        ran_in.append(is_here())
        return int(connection.execute(COUNT_UP).scalar_one())

    async with Database.open(f"sqlite:///{tmp_path}/test.db", migrations=package) as db:
        assert await db.read(unit) == 300000
        assert await db.read(texts) == []
    assert ran_in == [True, False]


def test_the_files_of_sqlite_are_private(tmp_path: Path, package: str) -> None:
    def modes(connection: Connection) -> dict[str, int]:
        add("a")(connection)
        return {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("test.db*")}

    async def main() -> dict[str, int]:
        async with Database.open(f"sqlite:///{tmp_path}/test.db", migrations=package) as db:
            return await db.write(modes)

    assert asyncio.run(main()) == dict.fromkeys(("test.db", "test.db-wal", "test.db-shm"), 0o600)


async def test_a_new_revision_is_applied_and_the_rows_stay(database_url: str, package: str, tmp_path: Path) -> None:
    async with Database.open(database_url, migrations=package) as db:
        await db.write(add("a"))
    (tmp_path / package.partition(".")[0] / "migrations" / "versions" / "0002_colour.py").write_text(SECOND)
    async with Database.open(database_url, migrations=package) as db:
        colours = sqlalchemy.text("SELECT text, colour FROM notes")
        assert await db.read(lambda connection: [tuple(row) for row in connection.execute(colours)]) == [("a", None)]


async def test_a_schema_from_the_future_is_refused(database_url: str, package: str, tmp_path: Path) -> None:
    second = tmp_path / package.partition(".")[0] / "migrations" / "versions" / "0002_colour.py"
    second.write_text(SECOND)
    await Database.open(database_url, migrations=package).close()
    second.unlink()
    with pytest.raises(Misconfigured, match=r"0002.*up to 0001") as caught:
        Database.open(database_url, migrations=package)
    assert caught.value.reason == "database-newer-than-program"


async def test_a_revision_that_fails_leaves_the_schema_as_it_was(
    database_url: str, package: str, tmp_path: Path
) -> None:
    await Database.open(database_url, migrations=package).close()
    second = tmp_path / package.partition(".")[0] / "migrations" / "versions" / "0002_colour.py"
    second.write_text(SECOND + "    op.execute('SELECT * FROM nothing')\n")
    with pytest.raises(Misconfigured, match="database-unusable"):
        Database.open(database_url, migrations=package)
    second.write_text(SECOND)
    await Database.open(database_url, migrations=package).close()


async def test_programs_that_start_together_migrate_once(database_url: str, package: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: Database.open(database_url, migrations=package), range(4)))
    for db in opened:
        await db.close()


def test_alembic_is_imported_only_when_there_is_something_to_do(tmp_path: Path, package: str) -> None:
    script = (
        "import asyncio, sys\n"
        "from brski_common.database import Database\n"
        f"db = Database.open('sqlite:///{tmp_path}/test.db', migrations={package!r})\n"
        "asyncio.run(db.close())\n"
        "print('alembic' in sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    said = [subprocess.check_output([sys.executable, "-c", script], env=environment, text=True) for _ in range(2)]
    assert said == ["True\n", "False\n"]


@pytest.mark.parametrize("url", ["mysql://host/name", "no url", "sqlite://", "sqlite:///:memory:"])
def test_a_url_of_another_kind_is_refused_with_the_kinds_there_are(url: str, package: str) -> None:
    with pytest.raises(Misconfigured, match="sqlite:///FILE or postgresql://") as caught:
        Database.open(url, migrations=package)
    assert caught.value.reason == "database-url-unknown"


@pytest.mark.parametrize(
    "url", ["postgresql://me:hunter2@127.0.0.1:1/none", "sqlite:////nowhere/at/all.db"], ids=["postgresql", "sqlite"]
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(url: str, package: str) -> None:
    with pytest.raises(BrskiError) as caught:
        Database.open(url, migrations=package)
    assert isinstance(caught.value, Misconfigured)
    assert caught.value.reason == "database-unusable"
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path, package: str) -> None:
    (tmp_path / "test.db").write_text("not a database, but long enough to be looked at" * 10)
    with pytest.raises(Misconfigured, match="database-unusable"):
        Database.open(f"sqlite:///{tmp_path}/test.db", migrations=package)


async def test_sqlite_commits_reach_the_disk(tmp_path: Path, package: str) -> None:
    """WAL with synchronous=FULL (2): what is answered survives a loss of power."""
    async with Database.open(f"sqlite:///{tmp_path}/test.db", migrations=package) as db:
        assert await db.write(lambda connection: connection.exec_driver_sql("PRAGMA synchronous").scalar()) == 2
        assert await db.write(lambda connection: connection.exec_driver_sql("PRAGMA journal_mode").scalar()) == "wal"
        assert await db.write(lambda connection: connection.exec_driver_sql("PRAGMA foreign_keys").scalar()) == 1


async def test_a_read_that_is_late_from_the_start_leaves_no_transaction_behind(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "INLINE_READ_SECONDS", -1.0)
    monkeypatch.setattr(sqlite, "CHECK_STEPS", 1)
    async with Database.open(f"sqlite:///{tmp_path / 'late.db'}", migrations=package) as db:
        for _ in range(3):
            assert await db.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar()) == 1
