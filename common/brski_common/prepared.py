"""Statements of the busiest units of work: text and conversions are made once, then SQLite runs them directly.

SQLAlchemy writes the SQL and knows the types of the columns, once for each statement. What it does besides at every
execution (events, contexts, results for every kind of database) costs a service more than SQLite's own work: a fifth
of its processor time. Elsewhere than on SQLite, and for statements that are not here, it does it all.

An error of SQLite comes out as SQLAlchemy's (`IntegrityError` …), without the values.
"""

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Dialect, Insert, Select, Update
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

Values = Mapping[str, Any]
Convert = Callable[[Any], Any]

_DIALECT: Final[Dialect] = sqlite.dialect()


def run(connection: Connection, text: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
    """Run text on the SQLite beneath a connection; raises what SQLAlchemy would."""
    raw: Any = connection.connection.dbapi_connection
    try:
        cursor: sqlite3.Cursor = raw.execute(text, values)
    except sqlite3.Error as error:
        raise _as_sqlalchemy(error, text) from error
    return cursor


class Prepared:
    """A statement with all its columns and conditions named; every value is given at every execution."""

    def __init__(self, statement: Select[Any] | Insert | Update, columns: Sequence[str] = ()) -> None:
        """`columns` are those that an Insert sets."""
        self.statement = statement
        self._columns = list(columns)

    def all(self, connection: Connection, values: Values) -> Sequence[Any]:
        """The rows of a Select: tuples with a name for each column."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement, values).all()
        try:
            found = self._run(connection, values).fetchall()  # a Select does its work here
        except sqlite3.Error as error:
            raise _as_sqlalchemy(error, self._text) from error
        return [self._row(row) for row in found]

    def first(self, connection: Connection, values: Values) -> Any:  # noqa: ANN401 -- a row is whatever was selected
        """The first row of a Select that finds few, None without one."""
        return next(iter(self.all(connection, values)), None)

    def change(self, connection: Connection, values: Values) -> int:
        """Carry out an Insert or Update; how many rows there were."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self.statement, values).rowcount
        return self._run(connection, values).rowcount

    def insert(self, connection: Connection, values: Values) -> int:
        """Insert a row whose key is a number that the database chooses; that number."""
        if connection.dialect.name != "sqlite":
            (key,) = connection.execute(self.statement, values).inserted_primary_key or (0,)
            return int(key)
        return int(self._run(connection, values).lastrowid or 0)

    def _run(self, connection: Connection, values: Values) -> sqlite3.Cursor:
        return run(connection, self._text, [bind(values) for bind in self._binds])

    @cached_property
    def _compiled(self) -> Any:  # noqa: ANN401 -- SQLAlchemy's own
        return self.statement.compile(dialect=_DIALECT, column_keys=self._columns or None)

    @cached_property
    def _text(self) -> str:
        return str(self._compiled)

    @cached_property
    def _binds(self) -> list[Callable[[Values], Any]]:
        """What stands for each question mark, in their order."""
        return [_bind(self._compiled.binds[name]) for name in self._compiled.positiontup]

    @cached_property
    def _row(self) -> Convert:
        """From a row of SQLite to one of the statement's columns."""
        assert isinstance(self.statement, Select)
        columns = self.statement.selected_columns
        make: Convert = getattr(namedtuple("Row", columns.keys()), "_make")  # noqa: B009, PYI024 -- names known only now
        readers = [(number, read) for number, each in enumerate(columns) if (read := _reader(each.type))]

        def convert(row: tuple[Any, ...]) -> Any:  # noqa: ANN401 -- as above
            values = list(row)
            for number, read in readers:
                values[number] = read(values[number])
            return make(values)

        return convert


def _bind(parameter: BindParameter[Any]) -> Callable[[Values], Any]:
    convert = parameter.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    if not parameter.required:  # written into the statement, such as a LIMIT
        value = parameter.value if convert is None else convert(parameter.value)
        return lambda _values: value
    if convert is None:
        return itemgetter(parameter.key)
    return lambda values: convert(values[parameter.key])


def _reader(kind: TypeEngine[Any]) -> Convert | None:
    read: Convert | None = kind.dialect_impl(_DIALECT).result_processor(_DIALECT, None)
    return read


def _as_sqlalchemy(error: sqlite3.Error, text: str) -> BaseException:
    return DBAPIError.instance(text, None, error, sqlite3.Error, hide_parameters=True, dialect=_DIALECT)
