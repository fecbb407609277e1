"""The bookkeeping of docs/conformance.toml is held here, and so is the generator that makes the page of it."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support import conformance
from tests.support.conformance import BookkeepingError, Matrix, Row

SIZES = {
    "ID": 14, "AR": 9, "ST": 8, "DS": 23, "PX": 6, "TL": 18, "VR": 16, "RA": 8, "MT": 8, "RM": 16, "MA": 25, "HT": 10,
    "PV": 17, "VS": 9, "AL": 17, "EI": 16, "RS": 13, "VA": 5, "V-CMS": 8, "BIS": 11, "E": 24, "E51": 4, "CA": 8,
    "EC": 9, "CB": 26, "OP": 8, "AT": 27, "D": 14,
}  # fmt: skip


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return conformance.load()


@pytest.fixture(scope="module")
def shown() -> list[conformance.Shown]:
    return conformance.shown_by(conformance.ROOT / "tests")


# The state of the project


def test_the_matrix_is_whole(matrix: Matrix) -> None:
    sizes = Counter(row.group for row in matrix.rows.values())
    assert sizes == SIZES
    assert sizes.total() - sizes["AT"] - sizes["D"] - sizes["CB"] == 310


def test_every_row_that_is_done_has_a_test_and_a_place(matrix: Matrix, shown: list[conformance.Shown]) -> None:
    marked = {place.id for place in shown}
    done = [row for row in matrix.rows.values() if row.state == "done"]
    assert [row.id for row in done if row.id not in marked] == [], "done, but no test is marked with it"
    assert [row.id for row in done if not row.where] == [], "done, but `where` is empty"


def test_every_row_that_is_not_done_says_why_and_no_other(matrix: Matrix) -> None:
    assert [row.id for row in matrix.rows.values() if (row.state == "done") is bool(row.reason)] == []


def test_what_the_standard_wants_and_is_not_done_is_argued_and_nothing_else(matrix: Matrix) -> None:
    wanted = {row.id for row in matrix.rows.values() if row.level in conformance.WANTED and row.state != "done"}
    undone = {row.id for row in matrix.rows.values() if row.state != "done"}
    argued = conformance.argued()
    assert sorted(wanted - argued) == [], "not done, and not among the exceptions of docs/divergences.md"
    assert sorted(argued - undone) == [], "argued, but done or no row at all"


def test_every_place_exists(matrix: Matrix) -> None:
    places = {path for row in matrix.rows.values() for path in row.where}
    assert sorted(path for path in places if not (conformance.ROOT / path).exists()) == []


def test_every_id_in_a_test_is_a_row(matrix: Matrix, shown: list[conformance.Shown]) -> None:
    assert sorted({place.id for place in shown} - matrix.rows.keys()) == []


def test_the_page_is_fresh(matrix: Matrix, shown: list[conformance.Shown]) -> None:
    fresh = conformance.PAGE.read_text(encoding="utf-8") == conformance.render(matrix, shown)
    assert fresh, conformance.STALE


# The generator

ROW = Row(
    id="PV-01",
    roles=("P",),
    level="M",
    section="RFC 8995, 5.6.1",
    text="Only a | b.",
    where=("pledge/x.py",),
    state="not",
    reason="not built yet",
)
GROUPS = '[groups]\nPV = "Vouchers"\n\n'


def written(tmp_path: Path, *blocks: str) -> Path:
    source = tmp_path / "conformance.toml"
    source.write_text(GROUPS + "\n".join(blocks), encoding="utf-8")
    return source


def named(tmp_path: Path, test: str) -> list[tuple[str, str, int]]:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_x.py").write_text("import pytest\n" + test, encoding="utf-8")
    return [(place.id, place.name, place.line) for place in conformance.shown_by(tests)]


def test_a_row_reads_back_as_it_was_written(tmp_path: Path) -> None:
    assert conformance.load(written(tmp_path, conformance.block(ROW))).rows == {"PV-01": ROW}


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('roles = ["P"]', 'roles = ["X"]', "role"),
        ('roles = ["P"]', "roles = []", "role"),
        ('level = "M"', 'level = "MUST"', "level"),
        ('state = "not"', 'state = "soon"', "state"),
        ('level = "M"\n', "", "level"),
        ('level = "M"', 'level = "M"\nremark = "x"', "remark"),
        ("[PV-01]", "[QQ-01]", "group"),
        ("[PV-01]", "[PV-01a]", "group"),
    ],
)
def test_a_row_out_of_shape_is_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(BookkeepingError, match=complaint):
        conformance.load(written(tmp_path, conformance.block(ROW).replace(old, new)))


def test_an_id_cannot_come_twice_or_out_of_order(tmp_path: Path) -> None:
    block = conformance.block(ROW)
    with pytest.raises(BookkeepingError):
        conformance.load(written(tmp_path, block, block))
    with pytest.raises(BookkeepingError, match="order"):
        conformance.load(written(tmp_path, block.replace("PV-01", "PV-02"), block))


def test_marking_changes_the_named_rows_and_nothing_else(tmp_path: Path) -> None:
    second = conformance.block(ROW).replace("PV-01", "PV-02")
    source = written(tmp_path, "# a remark\n", conformance.block(ROW), second)
    conformance.mark_rows(source, ["PV-01"], "done", ["pledge/y.py"], "")
    text = source.read_text(encoding="utf-8")
    assert text.startswith(GROUPS + "# a remark\n\n[PV-01]")
    assert text.endswith("\n" + second)
    row = conformance.load(source).rows["PV-01"]
    assert (row.state, row.reason, row.where) == ("done", "", ("pledge/x.py", "pledge/y.py"))


@pytest.mark.parametrize(
    ("id_", "state", "reason"), [("PV-09", "done", ""), ("PV-01", "partly", ""), ("PV-01", "done", "x")]
)
def test_marking_refuses_what_the_rules_forbid(tmp_path: Path, id_: str, state: str, reason: str) -> None:
    source = written(tmp_path, conformance.block(ROW))
    with pytest.raises(BookkeepingError, match=id_):
        conformance.mark_rows(source, [id_], state, [], reason)


@pytest.mark.parametrize(
    ("test", "found"),
    [
        ('@pytest.mark.req("A-1", "A-2")\ndef test_f(): ...\n', [("A-1", "test_f", 3), ("A-2", "test_f", 3)]),
        ('@pytest.mark.req("A-1")\nasync def test_f(): ...\n', [("A-1", "test_f", 3)]),
        ('@pytest.mark.req("A-1")\nclass TestC:\n    def test_f(self): ...\n', [("A-1", "TestC", 3)]),
        ('class TestC:\n    @pytest.mark.req("A-1")\n    def test_f(self): ...\n', [("A-1", "test_f", 4)]),
        ('pytestmark = pytest.mark.req("A-1")\n', [("A-1", "test_x.py", 2)]),
        ('pytestmark = [pytest.mark.slow, pytest.mark.req("A-1")]\n', [("A-1", "test_x.py", 2)]),
        ('CASES = [\n    pytest.param(1, marks=pytest.mark.req("A-1")),\n]\n', [("A-1", "CASES", 2)]),
        ('@pytest.mark.parametrize("x", [pytest.param(1, marks=[pytest.mark.req("A-1")])])\ndef test_f(x): ...\n',
         [("A-1", "test_f", 3)]),
        ("@pytest.mark.slow\ndef test_f(): ...\n", []),
    ],
)  # fmt: skip
def test_marks_are_found_wherever_pytest_allows_them(
    tmp_path: Path, test: str, found: list[tuple[str, str, int]]
) -> None:
    assert named(tmp_path, test) == found


def test_an_id_that_is_computed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BookkeepingError, match=r"test_x\.py:2"):
        named(tmp_path, "@pytest.mark.req(NAME)\ndef test_f(): ...\n")


def test_the_page_links_modules_and_tests() -> None:
    page = conformance.render(
        Matrix({"PV": "Vouchers"}, {"PV-01": ROW}), [conformance.Shown("tests/test_x.py", 7, "test_f", "PV-01")]
    )
    assert (
        "| PV-01 | P | M | Only a \\| b. (RFC 8995, 5.6.1) | [x.py](../pledge/x.py) | **not**: not built yet "
        "| [test_f](../tests/test_x.py) |\n"
    ) in page
    assert "## Vouchers (PV)" in page


def test_only_binding_rows_are_counted_and_tests_ahead_are_told() -> None:
    rows = {
        "PV-01": ROW,
        "PV-02": Row(id="PV-02", roles=("P",), level="S", section="", text="", where=(), state="done"),
    }
    text = conformance.summary(Matrix({"PV": "Vouchers"}, rows), [conformance.Shown("t.py", 1, "test_f", "PV-01")])
    assert "0 done, 0 partly, 1 not (1 NOT argued in docs/divergences.md: PV-01) of 1 MUST" in text
    assert text.endswith("PV-01")


def test_exceptions_are_those_of_one_section() -> None:
    page = "## Decisions\n\nPV-01.\n\n## Exceptions\n\n| PV-02, V-CMS-01 | why |\n\n## Later\n\nPV-03\n"
    assert conformance.argued_in(page) == {"PV-02", "V-CMS-01"}
    assert conformance.argued_in("# Nothing\n") == frozenset()


@pytest.mark.parametrize(
    ("exceptions", "told"),
    [((), "(1 NOT argued in docs/divergences.md: PV-01)"), (("PV-01",), "(argued in docs/divergences.md: 1)")],
)
def test_the_counts_tell_what_is_argued(exceptions: tuple[str, ...], told: str) -> None:
    line = conformance.count_line([ROW], frozenset(exceptions))
    assert line == f"0 done, 0 partly, 1 not {told} of 1 MUST and MUST NOT"


def test_check_fails_on_a_stale_page_and_says_how_to_mend_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "conformance.md"
    assert conformance.main([str(page), "--check"]) == 1
    assert "make docs" in capsys.readouterr().err
    assert conformance.main([str(page)]) == 0
    assert conformance.main([str(page), "--check"]) == 0


# The plugin in tests/conftest.py


def run_pytest(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["-c", str(conformance.ROOT / "pyproject.toml"), "--rootdir", str(path.parent), str(path), *options]
    return subprocess.run(command, cwd=conformance.ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_an_unknown_id_stops_collection(tmp_path: Path, options: tuple[str, ...]) -> None:
    test = tmp_path / "test_x.py"
    test.write_text('import pytest\n@pytest.mark.req("PV-99")\ndef test_f():\n    pass\n', encoding="utf-8")
    run = run_pytest(test, *options)
    assert run.returncode != 0
    assert "test_f: unknown requirement 'PV-99', near: PV-" in run.stdout
    assert "passed" not in run.stdout


def test_a_known_id_runs_and_the_report_ends_with_the_counts(tmp_path: Path) -> None:
    test = tmp_path / "test_x.py"
    test.write_text('import pytest\n@pytest.mark.req("PV-05")\ndef test_f():\n    pass\n', encoding="utf-8")
    run = run_pytest(test)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "conformance: " in run.stdout
