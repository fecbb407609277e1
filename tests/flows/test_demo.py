"""`brski demo` as a user and a script run it: what it prints, how it ends, and what it leaves behind."""

import json
import os
import pty
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import START_SECONDS, DemoWorld, start_serving, wait_for_document

COMMAND = [sys.executable, "-m", "brski_interop", "demo"]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A folder for temporary files, and an empty home."""
    for name in ("tmp", "home", "elsewhere"):
        (tmp_path / name).mkdir()
    return tmp_path


def start(temporary: Path, *arguments: str, **others: Any) -> "subprocess.Popen[str]":  # noqa: ANN401 -- as Popen takes them
    environment = os.environ | {"TMPDIR": str(temporary / "tmp"), "HOME": str(temporary / "home")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | others
    return subprocess.Popen([*COMMAND, *arguments], env=environment, cwd=temporary / "elsewhere", text=True, **pipes)


def run(temporary: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    process = start(temporary, *arguments)
    out, err = process.communicate(timeout=2 * START_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def processes_naming(text: Path) -> list[str]:
    """Command lines of the processes that have to do with a folder."""
    return [line for line in _command_lines() if str(text) in line]


def _command_lines() -> Iterator[str]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def is_clean(temporary: Path) -> bool:
    """Whether neither process nor file is left."""
    files = [path for name in ("tmp", "home", "elsewhere") for path in (temporary / name).iterdir()]
    assert files == []
    assert processes_naming(temporary) == []
    return True


def test_every_pledge_of_a_demo_becomes_operational_and_nothing_is_left(temporary: Path) -> None:
    done = run(temporary, "--json", "--pledges", "1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report.keys() == {"seconds", "pledges"}
    [pledge] = report["pledges"]
    assert pledge.keys() == {"serial", "state", "reason", "ldevid", "timeline"}
    assert (pledge["state"], pledge["reason"]) == ("operational", None)
    assert pledge["ldevid"].endswith(".pem")
    steps = [entry["step"] for entry in pledge["timeline"]]
    assert steps[0] == "searching"
    assert steps[-1] == "operational"
    assert {"offer-found", "voucher-requested", "imprinted", "certificate-received"} <= set(steps)
    times = [entry["at"] for entry in pledge["timeline"]]
    assert times == sorted(times)
    assert times[-1] <= report["seconds"]
    assert is_clean(temporary)


def test_two_demos_at_once_do_not_disturb_each_other(temporary: Path) -> None:
    demos = [start(temporary, "--json", "--pledges", "1") for _ in range(2)]
    ends = [demo.communicate(timeout=2 * START_SECONDS) for demo in demos]
    assert [demo.returncode for demo in demos] == [0, 0], [err for _, err in ends]
    assert [json.loads(out)["pledges"][0]["state"] for out, _ in ends] == ["operational"] * 2
    assert is_clean(temporary)


def test_with_a_folder_everything_stays_there_and_may_be_made_anew(temporary: Path) -> None:
    folder = temporary / "kept"
    for _ in range(2):
        done = run(temporary, "--pledges", "1", "--dir", str(folder))
        assert done.returncode == 0, done.stderr
        ldevid = next(Path(word) for word in done.stdout.split() if word.endswith("ldevid.pem"))
        assert ldevid.is_relative_to(folder)
        assert "BEGIN CERTIFICATE" in ldevid.read_text(encoding="ascii")
    assert is_clean(temporary)


def test_a_folder_with_something_else_in_it_is_left_alone(temporary: Path) -> None:
    precious = temporary / "precious" / "masa"
    precious.mkdir(parents=True)
    done = run(temporary, "--dir", str(precious.parent))
    assert done.returncode == 1
    assert "folder-in-use" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(precious.parent.iterdir()) == [precious]


@pytest.mark.parametrize("arguments", [("--pledges", "0"), ("--pledges", "many"), ("--serve",), ("--unknown",)])
def test_wrong_usage_is_exit_code_2(temporary: Path, arguments: tuple[str, ...]) -> None:
    done = run(temporary, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_demo_that_is_interrupted_leaves_nothing(temporary: Path) -> None:
    process = start(temporary, "--pledges", "2")
    assert process.stdout is not None
    process.stdout.readline()  # something listens
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=START_SECONDS)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "brski: interrupted: before every pledge was operational"
    assert "Traceback" not in err
    assert is_clean(temporary)


def test_on_a_terminal_the_demo_draws_a_timeline_for_each_pledge(temporary: Path) -> None:
    master, slave = pty.openpty()
    process = start(temporary, "--pledges", "1", stdin=slave, stdout=slave, stderr=slave, close_fds=True)
    os.close(slave)
    drawn = b""
    with suppress(OSError):  # the other end is closed
        while data := os.read(master, 65536):
            drawn += data
    os.close(master)
    assert process.wait(START_SECONDS) == 0
    text = drawn.decode(errors="replace")
    assert "Discover" in text
    assert "1 of 1 pledges operational" in text


def test_serve_ends_with_0_on_both_signals_and_leaves_no_process(temporary: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        folder = temporary / f"served-{number}"
        process = start_serving(folder, "--pledges", "1")
        wait_for_document(process, folder / "demo.json")
        assert processes_naming(folder) != []
        process.send_signal(number)
        assert process.wait(START_SECONDS) == 0
        assert processes_naming(folder) == []


def test_serve_with_a_dead_service_fails_with_a_reason(temporary: Path) -> None:
    folder = temporary / "served"
    process = start_serving(folder, "--pledges", "1")
    wait_for_document(process, folder / "demo.json")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in (line := path.read_bytes()) and b"brski_masa" in line:
                os.kill(int(path.parent.name), signal.SIGKILL)
    assert process.wait(START_SECONDS) == 1
    words = folder.with_suffix(".log").read_text(encoding="utf-8")
    assert "service-ended: masa" in words
    assert processes_naming(folder) == []


def test_demo_json_has_what_the_contract_says(demo_world: DemoWorld) -> None:
    document = demo_world.document
    assert document["registrar"]["url"].startswith("https://127.0.0.1:")
    assert document["masa"]["url"].startswith("https://127.0.0.1:")
    assert document["join_proxy"]["host"] == "127.0.0.1"
    assert 0 < document["join_proxy"]["port"] < 65536
    assert document["anchors"].keys() == {"masa_voucher", "masa_tls", "manufacturer", "domain_ca"}
    assert document["registrar_credential"].keys() == {"cert", "key", "chain"}
    roles = [pledge["role"] for pledge in document["pledges"]]
    assert roles.count("good") >= 1
    assert set(roles) == {"good", "unknown-manufacturer", "not-owned", "not-allowed"}
    assert len({pledge["serial"] for pledge in document["pledges"]}) == len(roles)


def test_every_file_of_demo_json_is_an_absolute_pem_and_keys_are_private(demo_world: DemoWorld) -> None:
    document = demo_world.document
    credentials = [document["registrar_credential"], *document["pledges"]]
    for credential in credentials:
        chain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        chain.load_cert_chain(credential["chain"], credential["key"])
        chain.load_cert_chain(credential["cert"], credential["key"])
        assert stat.S_IMODE(Path(credential["key"]).stat().st_mode) == 0o600
    files = [*document["anchors"].values(), *(each[name] for each in credentials for name in ("cert", "key", "chain"))]
    assert all(Path(file).is_absolute() for file in files)
    assert all(Path(file).read_text(encoding="ascii").startswith("-----BEGIN ") for file in files)
