"""The documents as data: their links, the commands they quote, the parts that are made, the blocks that are run.

    python -m tests.support.documents            make every made part anew (`make docs`)
    python -m tests.support.documents --check    fail if one is stale
    python -m tests.support.documents --demo     run a demo and take its picture

Two kinds of comment, which a page does not show, say what a part is:

    <!-- made: pledge-phases -->  …  <!-- /made -->      drawn from the code
    <!-- run: maker -->                                  the next block belongs to the story `maker`, in order
    <!-- run: firmware device.py -->                     the next block is that story's file
"""

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PICTURE: Final = ROOT / "docs" / "pictures" / "demo.svg"
PROGRAMS: Final = ("brski", "brski-masa", "brski-registrar", "brski-pledge")
HELP_COLUMNS: Final = "100"

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_MADE = re.compile(r"(<!-- made: (?P<name>[^>]+?) -->\n)(?P<text>.*?)(<!-- /made -->)", re.DOTALL)
_RUN = re.compile(
    r"<!-- run: (?P<story>[\w-]+)(?: (?P<file>[\w./-]+))? -->\n+```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_END_OF_COMMAND = re.compile(r"\s(?:\||&&|;|>|2>|&)(?:\s|$)")


def pages() -> list[Path]:
    """Every Markdown file of the repository."""
    rooms = ROOT.glob("*/README.md")
    return sorted({*ROOT.glob("*.md"), *rooms, *ROOT.glob("docs/**/*.md")})


def name_of(path: Path) -> str:
    """The path from the root, for messages."""
    return path.relative_to(ROOT).as_posix()


# Links


def links(text: str) -> list[str]:
    """The targets of links and pictures, code left out."""
    plain = _SPAN.sub("", _FENCE.sub("", text))
    return [next(filter(None, found)) for found in _LINK.findall(plain)]


def anchors(text: str) -> set[str]:
    """What a page can be linked at: its headings, as GitHub names them."""
    headings = re.findall(r"^#+ +(.+?)\s*$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Commands that are quoted


def commands(text: str) -> list[list[str]]:
    """Every quoted command line of ours as words, one command each."""
    blocks = [found["text"] for found in _FENCE.finditer(text) if found["language"] in {"sh", "bash", "shell"}]
    lines = [line for block in blocks for line in shell_lines(block)]
    lines += _SPAN.findall(_FENCE.sub("", text))
    return [words for line in lines for words in _ours(line)]


def shell_lines(block: str) -> list[str]:
    """The commands of a shell block, a continued one in one line, without comments and prompts."""
    joined = block.replace("\\\n", " ")
    lines = (line.strip().removeprefix("$ ") for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _ours(line: str) -> Iterator[list[str]]:
    for part in _END_OF_COMMAND.split(line):
        try:
            words = shlex.split(part, comments=True)
        except ValueError:  # an apostrophe: prose
            continue
        if words and words[0] in PROGRAMS:
            yield words


def complaint(words: Sequence[str]) -> str | None:
    """What is wrong with a command line: a verb or an option that the program does not have."""
    found, options, verbs = words[0], *_grammar(words[0], ())
    path: tuple[str, ...] = ()
    for word in words[1:]:
        if word in verbs:
            path += (word,)
            options, verbs = _grammar(words[0], path)
        elif word.startswith("-") and word not in {"-", "--help"}:
            if word.partition("=")[0] not in options:
                return f"{' '.join((found, *path))} has no option {word}"
        elif verbs and word not in {"…", "…)", "VERB", "COMMAND", "--help"}:
            return f"{' '.join((found, *path))} has no verb {word}"
    return None


def _grammar(program: str, path: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """The options and verbs of a program, or of a verb of it."""
    if program == "brski-pledge":
        return _argparse_grammar(path)
    command: Any = _typer_command(program)
    for verb in path:
        command = command.commands[verb]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return options, set(getattr(command, "commands", {}))


def _typer_command(program: str) -> Any:  # noqa: ANN401 -- typer hides the types of its copy of click
    from typer.main import get_command

    from brski_interop.commands import app as interop
    from brski_masa.commands import app as masa
    from brski_registrar.commands.application import app as registrar

    return get_command({"brski": interop, "brski-masa": masa, "brski-registrar": registrar}[program])


def _argparse_grammar(path: tuple[str, ...]) -> tuple[set[str], set[str]]:
    from brski_pledge.arguments import make_parser

    parser = make_parser()
    for verb in path:
        parser = _subparsers(parser)[verb]
    return set(parser._option_string_actions), set(_subparsers(parser))


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


# Parts that are made


def made(name: str) -> str:
    """The text of a made part, as it should stand in the page; raises KeyError for a name nobody knows."""
    if name.startswith("help "):
        return f"```text\n{help_of(name.removeprefix('help '))}```\n"
    return f"```mermaid\n{_DIAGRAMS[name]()}```\n"


def _registrar_lifecycle() -> str:
    from brski_registrar import lifecycle

    head, *lines = lifecycle.diagram().splitlines()
    # The table is built from sets: the order of its rows differs from run to run.
    edges = sorted((line for line in lines if "-->" in line), key=_rank)
    return "\n".join([head, *edges, *(line for line in lines if "-->" not in line), ""])


def _rank(edge: str) -> tuple[int, int]:
    """The order of the states in the code: first that of the state before, then that of the state after."""
    from brski_registrar.lifecycle import State

    order = {state.value: number for number, state in enumerate(State)}
    before, after = edge.split(":", 1)[0].split("-->")
    return order.get(before.strip(), -1), order[after.strip()]


def _pledge_phases() -> str:
    from brski_pledge import phases

    return phases.mermaid()


_DIAGRAMS: Final[dict[str, Callable[[], str]]] = {
    "registrar-lifecycle": _registrar_lifecycle,
    "pledge-phases": _pledge_phases,
}


def help_of(command: str) -> str:
    """What `command --help` says, 100 columns wide."""
    modules = dict(zip(PROGRAMS, ("brski_interop", "brski_masa", "brski_registrar", "brski_pledge"), strict=True))
    program, *verbs = command.split()
    environment = dict(os.environ, COLUMNS=HELP_COLUMNS, TERMINAL_WIDTH=HELP_COLUMNS, NO_COLOR="1", TERM="dumb")
    run = subprocess.run(
        [sys.executable, "-m", modules[program], *verbs, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.rstrip() for line in run.stdout.strip("\n").splitlines()]
    return "\n".join(lines) + "\n"


def refreshed(text: str) -> str:
    """A page with every made part as it should be."""
    return _MADE.sub(lambda found: f"{found[1]}{made(found['name'])}{found[4]}", text)


# Stories


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a story: commands, or the content of a `file`."""

    text: str
    file: str | None = None


def stories() -> dict[str, list[Block]]:
    """The blocks that are to be run, by story, in the order of the page."""
    found: dict[str, list[Block]] = {}
    for page in pages():
        for match in _RUN.finditer(page.read_text(encoding="utf-8")):
            found.setdefault(match["story"], []).append(Block(match["text"], match["file"]))
    return found


# Command


def take_picture() -> None:
    """Run a demo with one pledge and keep what it shows in the end."""
    import asyncio

    from rich.console import Console

    from brski_interop import demo, demo_view
    from brski_interop.demo_report import Journey

    journeys: list[Journey] = []
    with tempfile.TemporaryDirectory(prefix="brski-demo-") as folder:
        silent = demo_view.PlainView(Console(file=io.StringIO()))
        report = asyncio.run(demo.run(Path(folder), 1, silent, journeys))
    if not report.is_success:
        raise SystemExit("the demo failed: no picture")
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, highlight=False)
    demo_view.show(report, console, kept=None)
    svg = console.export_svg(title="brski demo --pledges 1", unique_id="brski-demo")
    # The fonts of the web are not needed: every viewer has a monospaced one.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code", "monospace")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command of the module docstring; 0 done, 1 stale."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.documents")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a made part is stale")
    parser.add_argument("--demo", action="store_true", help="run a demo and take its picture")
    options = parser.parse_args(arguments)
    if options.demo:
        take_picture()
    stale = [page for page in pages() if (text := page.read_text(encoding="utf-8")) != refreshed(text)]
    for page in stale:
        if options.check:
            print(f"{name_of(page)} is stale: run `make docs`", file=sys.stderr)
        else:
            page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
