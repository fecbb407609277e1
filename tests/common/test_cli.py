import signal
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from brski_common import cli
from brski_common.errors import Misconfigured, Refused


def make_app() -> Typer:
    app, verbs = cli.application("The program."), cli.application("Verbs.")
    app.add_typer(verbs, name="verbs")

    @verbs.command()
    def refuse(as_json: cli.Json = False) -> None:
        raise Refused("not-allowed", "ask \x1b[31mthe operator")

    @verbs.command()
    def wait(as_json: cli.Json = False) -> None:
        signal.raise_signal(signal.SIGINT)

    @verbs.command()
    def stumble(path: Path) -> None:
        path.read_bytes()

    @verbs.command()
    def listing(as_json: cli.Json = False) -> None:
        found = [{"serial": "A\x1b[2J", "at": datetime(2026, 11, 21, tzinfo=UTC), "id": b"\1\2"}]
        cli.answer(found, as_json, lambda: cli.table(("serial", "at"), [tuple(found[0].values())[:2]], empty="none"))

    return app


def test_an_error_is_one_line_and_exit_1() -> None:
    result = CliRunner().invoke(make_app(), ["verbs", "refuse"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "root: not-allowed: ask \ufffd[31mthe operator\n"


def test_an_error_is_also_json_where_json_is_asked_for() -> None:
    result = CliRunner().invoke(make_app(), ["verbs", "refuse", "--json"])
    assert result.exit_code == 1
    assert result.stdout.startswith('{"error": "not-allowed", "detail": "ask')
    assert result.stdout.count("\n") == 1


@pytest.mark.parametrize(("more", "out"), [([], ""), (["--json"], '{"error": "interrupted", "detail": ""}\n')])
def test_ctrl_c_is_one_line_and_exit_130(more: list[str], out: str) -> None:
    result = CliRunner().invoke(make_app(), ["verbs", "wait", *more])
    assert (result.exit_code, result.stdout, result.stderr) == (130, out, "root: interrupted\n")


def test_a_file_that_is_not_there_is_told_without_a_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(make_app(), ["verbs", "stumble", str(tmp_path / "missing")])
    assert result.exit_code == 1
    assert result.stderr == f"root: input-output-error: {tmp_path / 'missing'}: No such file or directory\n"


def test_a_program_tells_its_version_and_a_group_of_verbs_has_none() -> None:
    program, verbs = cli.application("The program.", distribution="brski-common"), cli.application("Verbs.")
    program.add_typer(verbs, name="verbs")
    verbs.command()(lambda: None)
    told = CliRunner().invoke(program, ["--version"])
    assert (told.exit_code, told.stdout) == (0, f"root {metadata.version('brski-common')}\n")
    assert CliRunner().invoke(program, ["verbs", "--version"]).exit_code == 2
    assert "The program." in CliRunner().invoke(program, ["--help"]).stdout


def test_wrong_usage_is_exit_2() -> None:
    assert CliRunner().invoke(make_app(), ["verbs", "dance"]).exit_code == 2


def test_a_listing_is_a_table_or_json() -> None:
    human = CliRunner().invoke(make_app(), ["verbs", "listing"]).stdout
    assert "A\ufffd[2J" in human
    assert "2026-11-21 00:00:00Z" in human
    machine = CliRunner().invoke(make_app(), ["verbs", "listing", "--json"]).stdout
    assert machine == '[{"serial": "A\\u001b[2J", "at": "2026-11-21T00:00:00Z", "id": "0102"}]\n'


WORDS = (("number", "owner", "domain-id"), [[1, "Example Plant", bytes(20)], [2, "Ex", bytes(20)]])


def shown(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(cli, "PIPE_WIDTH", width)
    cli.table(*WORDS, empty="none")
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 60, 61, 62, 66, 67, 160])
def test_no_width_cuts_or_breaks_a_word_of_a_table(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(width, monkeypatch, capsys)
    assert out.count("00" * 20) == 2
    assert "…" not in out
    assert {"number", "owner", "domain-id", "Example", "Plant"} <= set(out.split())
    if width >= 61:
        assert max(map(len, out.splitlines())) <= width


def test_a_table_that_fits_stands_in_lines_one_that_does_not_in_blocks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Example Plant" in shown(160, monkeypatch, capsys)
    assert "Example Plant" not in shown(66, monkeypatch, capsys), "the line breaks between words"
    assert "number     1\nowner      Example Plant\ndomain-id  00" in shown(40, monkeypatch, capsys)


def test_an_empty_listing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    cli.table(("serial",), [], empty="no device has asked yet")
    assert capsys.readouterr().out == "no device has asked yet\n"


def test_facts_leave_out_what_has_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    cli.facts([("state", "new"), ("reason", ""), ("since", None), ("id", 7)])
    assert capsys.readouterr().out == "state  new\nid     7\n"


def test_input_is_read_within_a_bound(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"12345")
    assert cli.read_input(file, limit=5) == b"12345"
    with pytest.raises(Misconfigured, match="more than 4 bytes"):
        cli.read_input(file, limit=4)
    with pytest.raises(Misconfigured, match="No such file"):
        cli.read_input(tmp_path / "missing")
