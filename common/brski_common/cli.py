"""What the command lines of the services have in common (typer and rich; the pledge has neither).

The laws of this file:

1. Whatever a user can cause is one line on standard error, and exit 1; wrong usage is exit 2, Ctrl-C exit 130, as a
   shell has it; never a traceback.
2. Standard output holds the answer and nothing else. With `--json` that is one JSON value, for a failure
   `{"error": slug, "detail": …}`.
3. Texts that came from a device are shown without what could steer a terminal.
"""

import json
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, cast

import typer
from typer.core import TyperGroup

from brski_common.errors import BrskiError, Misconfigured
from brski_common.telemetry import printable

T = TypeVar("T")

INTERRUPTED: Final = 130  # 128 and the number of SIGINT
MAX_INPUT_BYTES: Final = 16 * 1024 * 1024
MAX_CELL_CHARACTERS: Final = 400
PIPE_WIDTH: Final = 240  # columns of a table that goes into a file or a pipe
EDGE: Final = 2  # columns that a table has beside its cells
GAP: Final = 3  # columns between two cells
_JSON_WANTED: Final = "brski.json"


class Group(TyperGroup):
    """A group of commands that tells errors as law 1 says."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 -- typer carries its own copy of click, whose types it hides
        """Run the command; a BrskiError or an OSError becomes a line and exit 1, Ctrl-C a line and exit 130."""
        try:
            return super().invoke(ctx)
        except BrskiError as error:
            raise _failed(ctx, error.reason, error.detail) from error
        except KeyboardInterrupt as error:
            raise _failed(ctx, "interrupted", "", INTERRUPTED) from error
        except BrokenPipeError:
            raise
        except (OSError, sqlite3.Error) as error:
            file = getattr(error, "filename", None)
            words = getattr(error, "strerror", None) or str(error)
            raise _failed(ctx, "input-output-error", f"{file}: {words}" if file else words) from error


def application(purpose: str, *, distribution: str | None = None) -> typer.Typer:
    """A group of verbs, with one line about its purpose; of a whole program, named by its distribution."""
    app = typer.Typer(
        cls=Group,
        help=purpose,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    if distribution is not None:

        @app.callback()
        def program(_version: Annotated[bool, version_option(distribution)] = False) -> None:
            """A program has options of its own."""

    return app


def version_option(distribution: str) -> Any:  # noqa: ANN401 -- so typer declares its options
    """The option --version of a program: its name and the version of what was installed, then exit 0."""

    def tell(ctx: typer.Context, wanted: bool) -> None:
        if wanted:
            from importlib import metadata  # noqa: PLC0415 -- nothing else asks for it

            show(f"{ctx.find_root().info_name} {metadata.version(distribution)}")
            raise typer.Exit

    return typer.Option("--version", help="Show the version, and exit.", callback=tell, is_eager=True)


def _remember_json(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[_JSON_WANTED] = value
    return value


Json = Annotated[
    bool, typer.Option("--json", help="Machine output on standard output.", callback=_remember_json, is_eager=True)
]


def emit(value: object) -> None:
    """Write one JSON value as one line on standard output; times as RFC 3339, bytes as hex."""
    sys.stdout.write(json.dumps(value, default=_as_json, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Tell a person what goes on, on standard error."""
    print(text, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Write lines for a person on standard output."""
    sys.stdout.write(f"{text}\n")


def cell(value: object) -> str:
    """A value as a person reads it: harmless on a terminal, times to the second in UTC."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list | frozenset):
        return ", ".join(map(cell, value))
    return printable(str(value.value if isinstance(value, Enum) else value), MAX_CELL_CHARACTERS)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Write rows as a table on standard output, or the sentence `empty`.

    Lines break between words. Where that is not enough each row is a block of lines instead: what is cut or broken
    cannot be copied.
    """
    from rich import box  # noqa: PLC0415 -- a command without listing starts quicker
    from rich.console import Console  # noqa: PLC0415 -- see above
    from rich.table import Column, Table  # noqa: PLC0415 -- see above
    from rich.text import Text  # noqa: PLC0415 -- see above

    shown = [[cell(value) for value in row] for row in rows]
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    widths = _widths([columns, *shown], console.width - EDGE - GAP * (len(columns) - 1))
    if not shown:
        show(empty)
    elif widths is None:
        for row in shown:
            facts(zip(columns, row, strict=True))
            show("")
    else:
        named = (Column(name, width=width) for name, width in zip(columns, widths, strict=True))
        drawn = Table(*named, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in shown:
            drawn.add_row(*map(Text, row))
        console.print(drawn)


def _widths(rows: Sequence[Sequence[str]], available: int) -> list[int] | None:
    """The width of each column so that no word is broken and all is as wide as it can be; None if they do not fit."""
    from rich.cells import cell_len  # noqa: PLC0415 -- a command without listing starts quicker

    columns = list(zip(*rows, strict=True))
    needed = [max(cell_len(word) for text in column for word in (*text.split(), "")) for column in columns]
    widths = [max(map(cell_len, column)) for column in columns]
    if sum(needed) > available:
        return None
    while sum(widths) > available:
        widest = max(range(len(widths)), key=lambda index: (widths[index] > needed[index], widths[index]))
        widths[widest] -= 1
    return widths


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Write names and values, one a line, on standard output; what has no value is left out."""
    shown = [(name, text) for name, value in pairs if (text := cell(value))]
    width = max((len(name) for name, _ in shown), default=0)
    for name, text in shown:
        show(f"{name:<{width}}  {text}")


def answer(value: object, as_json: bool, human: Callable[[], None]) -> None:
    """Give `value` as JSON, or let `human` write it."""
    if as_json:
        emit(value)
    else:
        human()


def read_input(path: Path, limit: int = MAX_INPUT_BYTES) -> bytes:
    """The content of a file, or of standard input for `-`; raises Misconfigured `file-unreadable`."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as file:
                data = file.read(limit + 1)
    except OSError as error:
        raise Misconfigured("file-unreadable", f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise Misconfigured("file-unreadable", f"{path}: more than {limit} bytes")
    return data


def run_async(work: Awaitable[T]) -> T:
    """Run what a command has to wait for."""
    import asyncio  # noqa: PLC0415 -- most commands wait for nothing

    async def main() -> T:
        return await work

    return asyncio.run(main())


def _failed(ctx: typer.Context, reason: str, detail: str, code: int = 1) -> typer.Exit:
    program = ctx.find_root().info_name
    line = printable(f"{reason}: {detail}" if detail else reason, 10 * MAX_CELL_CHARACTERS)
    say(f"{program}: {line}")
    if ctx.meta.get(_JSON_WANTED):
        emit({"error": reason, "detail": detail})
    return typer.Exit(code)


def _as_json(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset | set):
        return sorted(cast("set[str]", value))
    raise TypeError(f"a {type(value).__name__} has no form in JSON")
