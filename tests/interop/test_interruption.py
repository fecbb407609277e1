"""Ctrl-C at any moment of `brski`, and what it says of itself."""

import json
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brski_interop import interruption
from brski_interop.commands import app

SECONDS = 60.0


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (("demo",), "typer.models"),
        (("demo", "--json"), "sqlalchemy.util"),
        (("inspect", "-"), "typer.models"),
        (("inspect", "-", "--json"), "brski_interop.inspection"),
        (("bench", "--json"), "brski_interop.bench"),
    ],
)
def test_ctrl_c_during_the_imports_is_one_line_and_exit_130(arguments: tuple[str, ...], module: str) -> None:
    """Python says what it has imported, so that the interrupt comes where it is meant to."""
    command = [sys.executable, "-X", "importtime", "-m", "brski_interop", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rstrip().endswith(f" {module}"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    said = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, said) == (130, ["brski: interrupted"])
    assert [json.loads(line) for line in out.splitlines()] == (
        [{"error": "interrupted", "detail": ""}] if "--json" in arguments else []
    )


def test_where_there_is_something_to_clean_up_it_is_cleaned_up(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    made = tmp_path / "made"

    def work() -> None:
        made.touch()
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            made.unlink()

    with interruption.orderly(), pytest.raises(SystemExit) as end:
        work()
    assert (end.value.code, made.exists()) == (130, False)
    assert capfd.readouterr().err == "brski: interrupted\n"
    assert signal.getsignal(signal.SIGINT) == before


def test_the_version_is_that_of_the_distribution() -> None:
    told = CliRunner().invoke(app, ["--version"], prog_name="brski")
    assert (told.exit_code, told.stdout) == (0, f"brski {metadata.version('brski-interop')}\n")
    assert CliRunner().invoke(app, ["--versions"]).exit_code == 2
