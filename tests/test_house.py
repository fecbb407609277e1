"""House rules a machine can see. What it cannot (an assert that checks input, a comment that says what) is reviewed.

Each rule is a function from a file to its offences, and is itself shown to catch one.
"""

import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = sorted(ROOT.glob("*/brski_*/**/*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "docs" / "conformance.toml"])
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))

MODULE_LINES = 400
FUNCTION_LINES = 60
MEDIAN_LINES = 8
P90_LINES = 25
NAMES_THAT_SAY_NOTHING = {
    "utils",
    "util",
    "helpers",
    "helper",
    "base",
    "manager",
    "managers",
    "types",
    "common",
    "misc",
}
WRONG_CITATIONS = re.compile(
    r"\bRFC-?\d{4}"  # RFC 8995 with a space
    r"|\b[Ss]ec(tion|t?\.) ?[\d.]+ (of|in) (the )?RFC"  # the document stands first
    r"|\bRFC \d{4}(bis)?,? *(§|[Ss]ec(tion|t?\.)|\() ?\d"  # the number alone
    r"|\bRFC \d{4}(bis)? \d+(\.\d+)+"  # a comma between
)
HOME_FOLDERS = re.compile(r"(?<![\w./}-])/(home|root|Users|work)/")
SILENCERS = re.compile(
    r"# *(?:ruff: *)?(?:noqa\b(?P<codes>:[A-Z0-9, ]+)?|type: *ignore(?P<kinds>\[[\w\-, ]+\])?)(?P<reason>.*)"
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Name and lines of every function, its docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(node.body) > 1
            docstring = (first.end_lineno or 0) - first.lineno + 1 if told else 0
            yield node.name, (node.end_lineno or 0) - node.lineno + 1 - docstring


def wrong_citations(text: str) -> list[str]:
    lines = enumerate(text.splitlines(), 1)
    return [f"line {number}: {found[0]}" for number, line in lines if (found := WRONG_CITATIONS.search(line))]


def silent_ignores(source: str) -> list[str]:
    """Comments that switch a tool off without codes or without a reason in words."""
    comments = (
        token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == tokenize.COMMENT
    )
    return [
        f"line {comment.start[0]}: {comment.string}"
        for comment in comments
        if (found := SILENCERS.match(comment.string))
        and not ((found["codes"] or found["kinds"]) and re.search(r"[A-Za-z]{2}", found["reason"]))
    ]


def sleeps(source: str) -> list[str]:
    """Calls of sleep, but for `asyncio.sleep(0)`, which only lets others run."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    named = [
        call for call in calls if ast.unparse(call.func) in {"time.sleep", "asyncio.sleep", "anyio.sleep", "sleep"}
    ]
    return [f"line {call.lineno}: {ast.unparse(call)}" for call in named if ast.unparse(call) != "asyncio.sleep(0)"]


def mocks(source: str) -> list[str]:
    imports = (node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.Import, ast.ImportFrom)))
    return [f"line {node.lineno}: {text}" for node in imports if re.search(r"\bmock\b", text := ast.unparse(node))]


# The rules


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_a_module_is_short_and_its_functions_too(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= MODULE_LINES
    assert [name for name, lines in functions(source) if lines > FUNCTION_LINES] == []


def test_most_functions_are_a_few_lines() -> None:
    sizes = [lines for path in PRODUCT for _, lines in functions(path.read_text(encoding="utf-8"))]
    assert statistics.median(sizes) <= MEDIAN_LINES
    assert statistics.quantiles(sizes, n=10)[-1] <= P90_LINES


def test_every_module_has_a_name_that_says_what_it_does() -> None:
    # tests/common mirrors the room of that name, so of tests only the file counts
    names = {name_of(path): {path.stem, path.parent.name} for path in PRODUCT} | {
        name_of(path): {path.stem} for path in TESTS
    }
    assert [path for path, parts in names.items() if parts & NAMES_THAT_SAY_NOTHING] == []


def test_citations_have_one_form() -> None:
    files = [path for path in [*PRODUCT, *TESTS, *TEXTS] if path != Path(__file__)]
    found = {name_of(path): wrong_citations(path.read_text(encoding="utf-8")) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}, "write `RFC 8995, 5.6.1`"


def test_every_switched_off_check_has_its_reason() -> None:
    found = {name_of(path): silent_ignores(path.read_text(encoding="utf-8")) for path in [*PRODUCT, *TESTS]}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_no_test_sleeps_or_mocks() -> None:
    told = [path for path in TESTS if "support" not in path.parts]
    found = {name_of(path): sleeps(text) + mocks(text) for path in told for text in [path.read_text(encoding="utf-8")]}
    assert {name: lines for name, lines in found.items() if lines} == {}, "use the settable clock and the fake peers"


def test_no_text_names_a_folder_of_one_machine() -> None:
    files = [path for path in [*PRODUCT, *TESTS, *TEXTS] if path != Path(__file__)]
    assert [name_of(path) for path in files if HOME_FOLDERS.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("lock", LOCKS, ids=name_of)
def test_a_lock_names_hashes_and_no_index(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    assert "index" not in text
    assert len(re.findall(r"^\S+==", text, re.MULTILINE)) <= text.count("--hash=sha256:")


# The rules catch what they are for


@pytest.mark.parametrize(
    "text",
    ["RFC8995", "RFC-8995", "Section 5.6.1 of RFC 8995", "RFC 8995 §5.6.1", "RFC 8995, Section 5.6", "RFC 8995 5.6.1",
     "RFC 8995, sec. 5", "sect. 4.1 of the RFC", "RFC 8366bis §6.1"],
)  # fmt: skip
def test_a_wrong_citation_is_seen(text: str) -> None:
    assert wrong_citations(f"see {text} here")


@pytest.mark.parametrize(
    "text", ["RFC 8995, 5.6.1", "RFC 8366bis, 6.1 and 6.3", "RFC 8995", "rfc8995/vendor.pem", "RFC 8995 4 times"]
)
def test_a_right_citation_passes(text: str) -> None:
    assert wrong_citations(f"see {text} here") == []


@pytest.mark.parametrize(
    ("comment", "silent"),
    [
        ("noqa", True),
        ("noqa: S105", True),
        ("noqa: S105, B008", True),
        ("ruff: noqa", True),
        ("type: ignore", True),
        ("type: ignore[arg-type]", True),
        ("noqa: S105 - the name of an attribute", False),
        ("type: ignore[arg-type]  # its type forgets None", False),
    ],
)
def test_an_ignore_without_reason_is_seen(comment: str, silent: bool) -> None:
    assert bool(silent_ignores(f"x = 1  # {comment}\n")) is silent


@pytest.mark.parametrize(
    ("source", "seen"),
    [("time.sleep(1)", True), ("asyncio.sleep(0.1)", True), ("asyncio.sleep(0)", False), ("sleep(n)", True)],
)
def test_a_sleep_is_seen(source: str, seen: bool) -> None:
    assert bool(sleeps(source)) is seen


def test_a_mock_is_seen() -> None:
    assert mocks("from unittest.mock import Mock")
    assert mocks("import unittest.mock")


def test_a_docstring_does_not_make_a_function_long() -> None:
    assert dict(functions('def f():\n    """One.\n\n    Two."""\n    return 1\n')) == {"f": 2}
