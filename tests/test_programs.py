"""What the four programs have in common, each as a process of its own."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

PROGRAMS = {
    "brski": "brski_interop",
    "brski-masa": "brski_masa",
    "brski-registrar": "brski_registrar",
    "brski-pledge": "brski_pledge",
}


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", PROGRAMS[program], *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_says_which_version_of_which_distribution_it_is(program: str) -> None:
    told = run(program, "--version")
    version = metadata.version(PROGRAMS[program].replace("_", "-"))
    assert (told.returncode, told.stdout, told.stderr) == (0, f"{program} {version}\n", "")


FAILURES = {
    "brski": (("demo", "--dir", "taken"), "folder-in-use"),
    "brski-masa": (("device", "list", "--config", "missing.toml"), "settings-unreadable"),
    "brski-registrar": (("device", "list", "--config", "missing.toml"), "settings-unreadable"),
    "brski-pledge": (("status", "--state", "missing"), "state-missing"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_failure_is_one_object_with_a_slug_and_one_line_of_the_same(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken" / "masa").mkdir(parents=True)
    arguments, slug = FAILURES[program]
    done = run(program, *arguments, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["error"]) == (1, slug)
    assert told["detail"]
    assert done.stderr.splitlines() == [done.stderr.rstrip()]
    assert done.stderr.startswith(f"{program}: {slug}: {told['detail']}")
    assert run(program, *arguments).stdout == "", "without --json there is no object"


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_while_a_program_starts_is_one_line_an_object_and_130(program: str) -> None:
    code = (
        "import runpy, signal, sys\n"
        "class Keyboard:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {'cryptography' if program == 'brski-pledge' else 'typer'!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Keyboard())\n"
        f"runpy.run_module({PROGRAMS[program]!r}, run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-c", code, *FAILURES[program][0], "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, f"{program}: interrupted\n")
    told = json.loads(done.stdout)
    assert (told["error"], told["detail"]) == ("interrupted", "")


@pytest.mark.parametrize("program", ["brski-masa", "brski-registrar"])
def test_what_was_made_before_is_not_made_again(program: str, tmp_path: Path) -> None:
    assert run(program, "init", str(tmp_path / "made")).returncode == 0
    done = run(program, "init", str(tmp_path / "made"), "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]) == (1, "already-there")
