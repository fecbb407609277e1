"""Children on a leash. `timeit` is a module that runs any statement, so the children are one-liners."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from brski_common.errors import PeerFailed
from brski_interop import processes
from brski_interop.processes import Crew

PATIENCE = 20.0  # seconds until a test gives up; nothing waits that long unless it fails
SAY = """print('{"event": "listening", "url": "here"}', flush=True); import signal, time; """
SERVE = SAY + "signal.pause()"
DEAF = SAY + 'signal.signal(signal.SIGTERM, signal.SIG_IGN); print(\'{"event": "deaf"}\', flush=True); signal.pause()'


def once(statement: str) -> tuple[str, ...]:
    return ("timeit", "-n", "1", "-r", "1", "-s", "", statement)


def is_running(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    return False


async def test_a_service_is_waited_for_and_ended_with_the_context(tmp_path: Path) -> None:
    async with Crew(tmp_path) as crew:
        child = await crew.start("service", *once(SERVE))
        assert (await child.listening(PATIENCE))["url"] == "here"
        assert is_running(child.pid)
    assert child.process.returncode == -signal.SIGTERM
    assert not is_running(child.pid)


async def test_a_deaf_child_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.05)
    async with Crew(tmp_path) as crew:
        child = await crew.start("deaf", *once(DEAF))
        async for event in child.events():
            if event["event"] == "deaf":
                break
    assert child.process.returncode == -signal.SIGKILL


async def test_an_error_in_between_leaves_no_process(tmp_path: Path) -> None:
    pids: list[int] = []

    async def run() -> None:
        async with Crew(tmp_path) as crew:
            child = await crew.start("service", *once(SERVE))
            await child.listening(PATIENCE)
            pids.append(child.pid)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await run()
    assert not is_running(pids[0])


async def test_cancelling_twice_still_leaves_no_process(tmp_path: Path) -> None:
    pids: list[int] = []
    ready = asyncio.Event()

    async def run() -> None:
        async with Crew(tmp_path) as crew:
            child = await crew.start("service", *once(SERVE))
            await child.listening(PATIENCE)
            pids.append(child.pid)
            ready.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await ready.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_running(pids[0])


async def test_a_service_that_ends_says_its_last_words(tmp_path: Path) -> None:
    async with Crew(tmp_path) as crew:
        child = await crew.start("service", *once("raise SystemExit('port taken')"))
        with pytest.raises(PeerFailed, match=r"service-not-started: service ended with status 1; .*port taken"):
            await child.listening(PATIENCE)


async def test_a_service_that_never_listens_is_given_up(tmp_path: Path) -> None:
    async with Crew(tmp_path) as crew:
        child = await crew.start("service", *once("import signal; signal.pause()"))
        with pytest.raises(PeerFailed, match=r"does not listen after 0\.1 s"):
            await child.listening(0.1)


async def test_a_command_that_fails_is_an_error_with_its_words(tmp_path: Path) -> None:
    async with Crew(tmp_path) as crew:
        await crew.run("good", *once("pass"))
        with pytest.raises(PeerFailed, match=r"command-failed: .*no such owner"):
            await crew.run("bad", *once("raise SystemExit('no such owner')"))


async def test_a_child_sees_no_settings_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRSKI_MASA_DATABASE", "sqlite:///elsewhere.db")
    monkeypatch.setenv("OTHER", "kept")
    statement = "import os, json; print(json.dumps({'event': 'env', 'names': [n for n in os.environ]}))"
    async with Crew(tmp_path) as crew:
        child = await crew.start("child", *once(statement))
        names = (await anext(child.events()))["names"]
    assert "OTHER" in names
    assert "BRSKI_MASA_DATABASE" not in names


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of who was killed")
async def test_a_killed_parent_leaves_no_child(tmp_path: Path) -> None:
    """SIGKILL gives the parent no chance to clean up; the kernel does."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, pathlib, sys\n"
        "from brski_interop.processes import Crew\n"
        "async def main():\n"
        "    async with Crew(pathlib.Path(sys.argv[1])) as crew:\n"
        "        child = await crew.start('service', *sys.argv[2:])\n"
        "        await child.listening()\n"
        "        print(child.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n",
        encoding="utf-8",
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(script), str(tmp_path), *once(SERVE), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(await asyncio.wait_for(parent.stdout.readline(), PATIENCE))
    end = os.pidfd_open(pid)
    try:
        parent.kill()
        await parent.wait()
        over = asyncio.Event()
        asyncio.get_running_loop().add_reader(end, over.set)  # a process descriptor is readable once it ended
        await asyncio.wait_for(over.wait(), PATIENCE)
        asyncio.get_running_loop().remove_reader(end)
    finally:
        os.close(end)
    assert not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads another process's clock as Linux has it")
async def test_processor_time_and_memory_of_a_child_can_be_read(tmp_path: Path) -> None:
    async with Crew(tmp_path) as crew:
        child = await crew.start("service", *once("sum(range(3_000_000)); " + SERVE))
        await child.listening(PATIENCE)
        used = processes.cpu_seconds(child.pid)
        assert 0 < used < time.monotonic()
        assert processes.resident_mib(child.pid) > 1
