"""What the four programs have in common, each as a process of its own."""

import subprocess
import sys
from importlib import metadata

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
