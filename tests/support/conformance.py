"""Conformance bookkeeping: docs/conformance.toml in, docs/conformance.md out.

The laws of this file:

1. docs/conformance.toml is the only source. It says what is asked, where it lives and how far it is.
2. Which tests show a row is read from the tests themselves (`@pytest.mark.req("PV-05")`), without importing them.
3. docs/conformance.md is made from both and never edited by hand.
4. Whatever the standard wants and is not done is argued in docs/divergences.md, in its section of exceptions.

    python -m tests.support.conformance docs/conformance.md           write the page (`make docs`)
    python -m tests.support.conformance docs/conformance.md --check   fail if the page is stale
    python -m tests.support.conformance --summary                     print the counts per role
    python -m tests.support.conformance --mark done PV-05 PV-07 --where pledge/brski_pledge/vouchering.py
    python -m tests.support.conformance --mark partly PV-13 --reason "other EST servers are not used yet"
"""

import argparse
import ast
import difflib
import itertools
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "docs" / "conformance.toml"
PAGE = ROOT / "docs" / "conformance.md"
ARGUMENTS = ROOT / "docs" / "divergences.md"
STALE = "docs/conformance.md is stale: run `make docs` and commit what it writes"

ROLES = {
    "P": "pledge",
    "R": "registrar",
    "M": "MASA",
    "J": "join proxy",
    "EC": "EST client",
    "ES": "EST server",
    "MF": "factory",
    "ALL": "every role",
}
LEVELS = {
    "M": "MUST",
    "N": "MUST NOT",
    "S": "SHOULD",
    "m": "MAY",
    "I": "needed to interoperate",
    "A": "attack to withstand",
    "D": "decision of this project",
}
STATES = ("done", "partly", "not")
BINDING = ("M", "N")
TOLD = 12  # ids in a line of counts
WANTED = (*BINDING, "S")  # of these every row that is not done is argued


class BookkeepingError(Exception):
    """The source or a mark breaks a rule of this file; the text says where and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One requirement, attack or decision."""

    id: str
    roles: tuple[str, ...]
    level: str
    section: str
    text: str
    where: tuple[str, ...]
    state: str
    reason: str = ""

    @property
    def group(self) -> str:
        return self.id.rpartition("-")[0]


@dataclass(frozen=True, slots=True)
class Matrix:
    """All rows by id, and the titles of their groups, in the order of the source."""

    groups: Mapping[str, str]
    rows: Mapping[str, Row]

    def hint(self, unknown: str) -> str:
        """The sentence that helps whoever wrote an id that does not exist."""
        near = difflib.get_close_matches(unknown, self.rows, n=3)
        return f"unknown requirement {unknown!r}" + (f", near: {', '.join(near)}" if near else "")


@dataclass(frozen=True, slots=True, order=True)
class Shown:
    """One place in the tests that claims to show a row."""

    path: str
    line: int
    name: str
    id: str


# Source


def load(source: Path = SOURCE) -> Matrix:
    """Read and check the source; raises BookkeepingError."""
    try:
        tables = tomllib.loads(source.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise BookkeepingError(f"{source.name}: {error}") from error
    groups: dict[str, str] = tables.pop("groups", {})
    matrix = Matrix(groups, {id_: _row(id_, table) for id_, table in tables.items()})
    _check_order(matrix)
    return matrix


def _row(id_: str, table: dict[str, Any]) -> Row:
    allowed = {field.name for field in fields(Row)} - {"id"}
    wrong = sorted(table.keys() ^ allowed - ({"reason"} - table.keys()))
    if wrong:
        raise BookkeepingError(f"[{id_}] keys missing or unknown: {', '.join(wrong)}")
    leaves: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    row = Row(id=id_, **leaves)
    _check_choice(id_, "role", row.roles, ROLES)
    _check_choice(id_, "level", [row.level], LEVELS)
    _check_choice(id_, "state", [row.state], STATES)
    return row


def _check_choice(id_: str, what: str, values: Sequence[str], choice: Iterable[str]) -> None:
    if not values or not set(values) <= set(choice):
        raise BookkeepingError(f"[{id_}] {what} {', '.join(values) or 'missing'}: allowed are {', '.join(choice)}")


def _check_order(matrix: Matrix) -> None:
    order = list(matrix.groups)
    for id_, row in matrix.rows.items():
        if row.group not in order or not id_.rpartition("-")[2].isdecimal():
            raise BookkeepingError(f"[{id_}] is not GROUP-NUMBER with a group of [groups]")
    keys = [(order.index(row.group), int(id_.rpartition("-")[2]), id_) for id_, row in matrix.rows.items()]
    for before, after in itertools.pairwise(keys):
        if after <= before:
            raise BookkeepingError(f"[{after[2]}] stands behind [{before[2]}]: keep the order of [groups] and numbers")


def block(row: Row) -> str:
    """One row as it stands in the source."""
    lines = [f"[{row.id}]"]
    for field in fields(Row)[1:]:
        value = getattr(row, field.name)
        if field.name != "reason" or value:
            text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
            lines.append(f"{field.name} = {text}")
    return "\n".join(lines) + "\n"


def mark_rows(source: Path, ids: Sequence[str], state: str, where: Iterable[str], reason: str) -> None:
    """Set the state of rows in place and leave every other line as it is; `where` adds to what is there."""
    text, matrix = source.read_text(encoding="utf-8"), load(source)
    _check_choice(",".join(ids), "state", [state], STATES)
    for id_ in ids:
        if id_ not in matrix.rows:
            raise BookkeepingError(matrix.hint(id_))
        old = matrix.rows[id_]
        new = replace(old, state=state, reason=reason, where=tuple(dict.fromkeys((*old.where, *where))))
        if (state == "done") is bool(reason):
            raise BookkeepingError(f"[{id_}] a reason belongs to every row that is not done, and to no other")
        old_block = re.compile(rf"^\[{id_}\]\n(?:.+\n?)*", re.MULTILINE)
        text = block(new).join(old_block.split(text))
    source.write_text(text, encoding="utf-8")


# Exceptions


def argued_in(page: str) -> frozenset[str]:
    """The ids that the section "Exceptions" of a page names."""
    section = re.search(r"^## Exceptions\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return frozenset(re.findall(r"\b[A-Z][A-Z0-9]*(?:-[A-Z]+)*-\d+\b", section[1])) if section else frozenset()


def argued() -> frozenset[str]:
    """The ids that docs/divergences.md names among its exceptions."""
    return argued_in(ARGUMENTS.read_text(encoding="utf-8"))


# Tests


def shown_by(tests: Path) -> list[Shown]:
    """Every `pytest.mark.req(…)` under `tests`: on functions, classes, modules and `pytest.param`."""
    found: list[Shown] = []
    for path in sorted(tests.rglob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        relative = path.relative_to(tests.parent).as_posix()
        for argument, owner in _marks(module, module):
            if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                raise BookkeepingError(f"{relative}:{argument.lineno}: the ids of `req` are written out as strings")
            found.append(Shown(relative, getattr(owner, "lineno", 1), _name_of(owner) or path.name, argument.value))
    return sorted(set(found))


def _marks(node: ast.AST, owner: ast.AST) -> Iterator[tuple[ast.expr, ast.AST]]:
    """The arguments of each mark with the definition or the top-level assignment that holds the mark."""
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        table = isinstance(child, (ast.Assign, ast.AnnAssign)) and isinstance(node, ast.Module)
        match child:
            case ast.Call(func=ast.Attribute(attr="req", value=ast.Attribute(attr="mark"))):
                yield from ((argument, owner) for argument in child.args)
        yield from _marks(child, child if named or table else owner)


def _name_of(owner: ast.AST) -> str:
    match owner:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return "" if name == "pytestmark" else name
    return ""


# Counts


def count_line(rows: Iterable[Row], exceptions: frozenset[str] = frozenset()) -> str:
    """`160 done, 2 partly, 4 not (argued in …: all 6) of 166 …` for the binding rows."""
    binding = [row for row in rows if row.level in BINDING]
    states = Counter(row.state for row in binding)
    line = ", ".join(f"{states[state]} {state}" for state in STATES)
    open_ = [row.id for row in binding if row.state != "done"]
    missing = [id_ for id_ in open_ if id_ not in exceptions]
    if open_ and not missing:
        line += f" (argued in docs/divergences.md: {'all ' if len(open_) > 1 else ''}{len(open_)})"
    elif open_:
        line += f" ({len(missing)} NOT argued in docs/divergences.md: {' '.join(missing[:TOLD])})"
    return f"{line} of {len(binding)} MUST and MUST NOT"


def summary(matrix: Matrix, shown: Iterable[Shown], exceptions: frozenset[str] = frozenset()) -> str:
    """The count line, one line per role (a row of two roles counts for both), and what the tests are ahead of."""
    lines = [f"conformance: {count_line(matrix.rows.values(), exceptions)}"]
    for role, name in ROLES.items():
        rows = [row for row in matrix.rows.values() if role in row.roles]
        lines.append(f"  {name:<11} {count_line(rows, exceptions)}")
    marked = {place.id for place in shown}
    ahead = [row.id for row in matrix.rows.values() if row.id in marked and row.state == "not"]
    return "\n".join([*lines, *([f"  a test marks these, their state is `not`: {' '.join(ahead)}"] if ahead else [])])


# Page


def render(matrix: Matrix, shown: Sequence[Shown]) -> str:
    """The whole page."""
    parts = [_head(matrix), _count_table(matrix)]
    for group, title in matrix.groups.items():
        rows = [row for row in matrix.rows.values() if row.group == group]
        parts.append(
            f"## {title} ({group})\n\n| id | role | level | requirement | where | state | tests |\n"
            "|---|---|---|---|---|---|---|\n" + "".join(_line(row, shown) for row in rows)
        )
    return "\n".join(parts)


def _head(matrix: Matrix) -> str:
    groups = Counter(row.group for row in matrix.rows.values())
    attacks, decisions = groups["AT"], groups["D"]
    return (
        "# Conformance\n\n<!-- Made from docs/conformance.toml and the tests by `make docs`. Edit those. -->\n\n"
        f"{len(matrix.rows) - attacks - decisions} requirements, {attacks} attacks to withstand, "
        f"{decisions} decisions. {count_line(matrix.rows.values(), argued())}.\n\n"
        "A row is **done** when a test shows it; every other row says why it is not, and what the standard wants is\n"
        "argued among the [exceptions](divergences.md#exceptions). The wording is ours and short: the section cited\n"
        "has the last word.\n\n"
        f"Levels: {', '.join(f'{level} {name}' for level, name in LEVELS.items())}.\n"
        f"Roles: {', '.join(f'{role} {name}' for role, name in ROLES.items())}.\n"
    )


def _count_table(matrix: Matrix) -> str:
    lines = ["Counts are done / partly / not; a row of two roles counts for both.\n"]
    lines += [f"| role | {' | '.join(LEVELS)} |", f"|---|{'---|' * len(LEVELS)}"]
    for role, name in ROLES.items():
        cells = (_cell([row for row in matrix.rows.values() if role in row.roles and row.level == lv]) for lv in LEVELS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cells = (_cell([row for row in matrix.rows.values() if row.level == level]) for level in LEVELS)
    return "\n".join([*lines, f"| **all rows** | {' | '.join(cells)} |", ""])


def _cell(rows: Sequence[Row]) -> str:
    states = Counter(row.state for row in rows)
    return " / ".join(str(states[state]) for state in STATES) if rows else ""


def _line(row: Row, shown: Sequence[Shown]) -> str:
    where = "<br>".join(f"[{path.partition('/')[2] or path}](../{path})" for path in row.where)
    tests = "<br>".join(f"[{place.name}](../{place.path})" for place in shown if place.id == row.id)
    state = f"**{row.state}**" + (f": {row.reason}" if row.reason else "")
    cells = (row.id, ", ".join(row.roles), row.level, f"{row.text} ({row.section})", where, state, tests)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


# Command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command of the module docstring; 0 done, 1 stale or wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.conformance")
    parser.add_argument("page", nargs="?", type=Path, help="the page to write, usually docs/conformance.md")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if the page is stale")
    parser.add_argument("--summary", action="store_true", help="print the counts per role")
    parser.add_argument("--mark", nargs="+", metavar="STATE ID", help="set the state of rows: done, partly or not")
    parser.add_argument("--where", nargs="+", default=[], metavar="PATH", help="with --mark: modules to add")
    parser.add_argument("--reason", default="", help="with --mark partly or not: why")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except BookkeepingError as error:
        print(error, file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.mark:
        mark_rows(SOURCE, options.mark[1:], options.mark[0], options.where, options.reason)
    matrix = load()
    shown = shown_by(ROOT / "tests") if options.page or options.summary else []
    if options.summary:
        print(summary(matrix, shown, argued()))
    if options.page:
        text = render(matrix, shown)
        if not options.check:
            options.page.write_text(text, encoding="utf-8")
        elif not options.page.exists() or options.page.read_text(encoding="utf-8") != text:
            raise BookkeepingError(STALE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
