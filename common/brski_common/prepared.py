"""Statements of the busiest units of work: text and conversions are made once, then SQLite runs them directly.

SQLAlchemy writes the SQL and knows the types of the columns, once for each statement. What it does besides at every
execution (events, contexts, results for every kind of database) costs a service more than SQLite's own work: a fifth
of its processor time. Elsewhere than on SQLite, and for statements that are not here, it does it all.

An error of SQLite comes out as SQLAlchemy's (`IntegrityError` …), without the values.
"""

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from operator import itemgetter
from typing import Any

from sqlalchemy import BindParameter, Connection, Insert, LargeBinary, Select, Update
from sqlalchemy.types import TypeEngine

from brski_common.sqlite import DIALECT, as_sqlalchemy, raw_of, run

Values = Mapping[str, Any]
Convert = Callable[[Any], Any]


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
            raise as_sqlalchemy(error, self._text) from error
        return [self._row(row) for row in found]

    def first(self, connection: Connection, values: Values) -> Any:  # noqa: ANN401 -- a row is whatever was selected
        """The first row of a Select that finds few, None without one."""
        found = self.all(connection, values)
        return found[0] if found else None

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
        return run(raw_of(connection), self._text, self._bind(values))

    @cached_property
    def _compiled(self) -> Any:  # noqa: ANN401 -- SQLAlchemy's own
        return self.statement.compile(dialect=DIALECT, column_keys=self._columns or None)

    @cached_property
    def _text(self) -> str:
        return str(self._compiled)

    @cached_property
    def _bind(self) -> Callable[[Values], Sequence[Any]]:
        """From the values to what stands for each question mark, in their order."""
        binds: list[BindParameter[Any]] = [self._compiled.binds[name] for name in self._compiled.positiontup]
        pick = _picker([each.key for each in binds])
        fixed = {each.key: each.value for each in binds if not each.required}  # in the statement, such as a LIMIT
        converts = [(number, convert) for number, each in enumerate(binds) if (convert := _writer(each.type))]

        def bind(values: Values) -> Sequence[Any]:
            bound = [*pick({**fixed, **values} if fixed else values)]
            for number, convert in converts:
                bound[number] = convert(bound[number])
            return bound

        return bind

    @cached_property
    def _row(self) -> Convert:
        """From a row of SQLite to one of the statement's columns."""
        assert isinstance(self.statement, Select)
        columns = self.statement.selected_columns
        make: Convert = partial(tuple.__new__, namedtuple("Row", columns.keys()))  # noqa: PYI024 -- names known only now
        readers = [(number, read) for number, each in enumerate(columns) if (read := _reader(each.type))]

        if not readers:
            return make

        def convert(row: tuple[Any, ...]) -> Any:  # noqa: ANN401 -- as above
            values = list(row)
            for number, read in readers:
                values[number] = read(values[number])
            return make(values)

        return convert


def _picker(keys: Sequence[str]) -> Callable[[Values], Sequence[Any]]:
    if len(keys) > 1:
        return itemgetter(*keys)
    return lambda values: [values[key] for key in keys]


def _writer(kind: TypeEngine[Any]) -> Convert | None:
    write: Convert | None = kind.dialect_impl(DIALECT).bind_processor(DIALECT)
    return write


def _reader(kind: TypeEngine[Any]) -> Convert | None:
    if isinstance(kind, LargeBinary):
        return None  # bytes come as bytes
    read: Convert | None = kind.dialect_impl(DIALECT).result_processor(DIALECT, None)
    return read
