"""Prepared statements behave on SQLite as on PostgreSQL, where SQLAlchemy runs them."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Boolean, Column, Integer, MetaData, Table, Text, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from brski_common.database import Database, UtcTime
from brski_common.prepared import Prepared

AT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
VISITS = Table(
    "visits",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("guest", Text, unique=True, nullable=False),
    Column("is_known", Boolean),
    Column("at", UtcTime),
)
NEW = Prepared(insert(VISITS), ("guest", "is_known", "at"))
MOVE = Prepared(update(VISITS).where(VISITS.c.guest == bindparam("b_guest")).values(at=bindparam("at")))
BY_GUEST = Prepared(select(VISITS).where(VISITS.c.guest == bindparam("guest")))
FIRST = Prepared(select(VISITS.c.guest).order_by(VISITS.c.id).limit(1))
ADA = {"guest": "Ada", "is_known": True, "at": AT}

REVISION = """
import sqlalchemy
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "visits",
        sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
        sqlalchemy.Column("guest", sqlalchemy.Text, unique=True, nullable=False),
        sqlalchemy.Column("is_known", sqlalchemy.Boolean),
        sqlalchemy.Column("at", sqlalchemy.DateTime(timezone=True)),
    )
"""


@pytest.fixture
async def db(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    versions = tmp_path / "prepared_migrations" / "versions"
    versions.mkdir(parents=True)
    (versions.parent / "__init__.py").touch()
    (versions / "0001_visits.py").write_text(REVISION, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    async with Database.open(database_url, migrations="prepared_migrations") as opened:
        yield opened


async def test_a_row_comes_back_in_the_types_of_its_columns(db: Database) -> None:
    number = await db.write(lambda connection: NEW.insert(connection, ADA))
    row = await db.read(lambda connection: BY_GUEST.first(connection, {"guest": "Ada"}))
    assert tuple(row) == (number, "Ada", True, AT)
    assert (row.guest, row.is_known, row.at) == ("Ada", True, AT)


async def test_a_time_may_be_missing_and_comes_back_in_utc(db: Database) -> None:
    east = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    await db.write(lambda connection: NEW.insert(connection, ADA | {"at": east}))
    await db.write(lambda connection: NEW.insert(connection, ADA | {"guest": "Bob", "at": None}))
    rows = await db.read(lambda connection: [BY_GUEST.first(connection, {"guest": guest}) for guest in ("Ada", "Bob")])
    assert [row.at for row in rows] == [AT, None]
    assert rows[0].at.tzinfo is UTC


async def test_prepared_or_not_a_time_is_the_same(db: Database) -> None:
    odd = AT.replace(microsecond=7)
    await db.write(lambda connection: NEW.insert(connection, ADA | {"at": odd}))
    same = select(VISITS.c.guest).where(VISITS.c.at == odd)
    assert await db.read(lambda connection: connection.execute(same).scalar()) == "Ada"
    assert await db.read(lambda connection: connection.execute(select(VISITS.c.at)).scalar()) == odd


async def test_who_is_not_there_is_none(db: Database) -> None:
    assert await db.read(lambda connection: BY_GUEST.first(connection, {"guest": "Bob"})) is None


async def test_a_change_tells_how_many_rows_it_changed(db: Database) -> None:
    await db.write(lambda connection: NEW.insert(connection, ADA))
    later = AT.replace(hour=13)
    assert await db.write(lambda connection: MOVE.change(connection, {"b_guest": "Ada", "at": later})) == 1
    assert await db.write(lambda connection: MOVE.change(connection, {"b_guest": "Bob", "at": later})) == 0
    row = await db.read(lambda connection: BY_GUEST.first(connection, {"guest": "Ada"}))
    assert row.at == later


async def test_what_the_statement_holds_itself_need_not_be_given(db: Database) -> None:
    for guest in ("Ada", "Bob"):
        await db.write(lambda connection, guest=guest: NEW.insert(connection, ADA | {"guest": guest}))  # type: ignore[misc] # mypy infers no lambda with a default
    assert [row.guest for row in await db.read(lambda connection: FIRST.all(connection, {}))] == ["Ada"]


async def test_an_error_is_sqlalchemys_and_holds_no_values(db: Database) -> None:
    await db.write(lambda connection: NEW.insert(connection, ADA))
    with pytest.raises(IntegrityError) as caught:
        await db.write(lambda connection: NEW.insert(connection, ADA | {"at": AT.replace(year=2031)}))
    assert "2031" not in str(caught.value)
    assert (
        await db.read(lambda connection: connection.execute(sqlalchemy.func.count(VISITS.c.id).select()).scalar()) == 1
    )


async def test_a_missing_value_is_no_null(db: Database) -> None:
    with pytest.raises((KeyError, sqlalchemy.exc.SQLAlchemyError)):
        await db.read(lambda connection: BY_GUEST.first(connection, {}))
