"""Other programs on a leash: started, waited for, stopped, and never left behind.

Laws of this file:

1. Whoever leaves the `async with` of a `Crew`, by return, error, Ctrl-C or SIGTERM, leaves no process: SIGTERM first,
   SIGKILL to the whole process group after `GRACE_SECONDS`. If we are killed ourselves, Linux kills the children
   (PR_SET_PDEATHSIG, set before the program is loaded).
2. What a child writes goes to one file per child. Lines of JSON on its standard output are its events.
3. A child sees none of our BRSKI_… variables and imports nothing from the folder it runs in.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

from brski_common.errors import PeerFailed
from brski_interop import interruption

START_SECONDS = 30.0  # how long a service may take until it listens, on a slow and busy machine
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
MAX_LINE_BYTES = 1024 * 1024
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TAIL_LINES = 4  # of a child's log, shown when it fails

# Runs in the child: argv is our process id and the command. PR_SET_PDEATHSIG is 1; it survives the exec. Whose parent
# is gone already has missed the signal.
_LEASH = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "os.getppid() == int(sys.argv[1]) or os._exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)

Event = Mapping[str, Any]
Result = TypeVar("Result")


class Child:
    """A running program: its events, and its end."""

    def __init__(self, name: str, log: Path, process: asyncio.subprocess.Process) -> None:
        self.name, self.log, self.process = name, log, process
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        streams = [stream for stream in (process.stdout, process.stderr) if stream is not None]
        self._copying = asyncio.create_task(self._copy_all(streams), name=f"output of {name}")

    @property
    def pid(self) -> int:
        """The process id, also of its group."""
        return self.process.pid

    async def events(self) -> AsyncIterator[Event]:
        """Yield what it says in JSON, line by line, until it says no more."""
        while (event := await self._events.get()) is not None:
            yield event

    async def listening(self, seconds: float = START_SECONDS) -> Event:
        """Wait until it says {"event": "listening", …}; raises PeerFailed "service-not-started"."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for event in self.events():
                    if event.get("event") == "listening":
                        return event
                await self.process.wait()
        state = self.process.returncode
        how = f"does not listen after {seconds:g} s" if state is None else f"ended with status {state}"
        raise PeerFailed("service-not-started", f"{self.name} {how}; {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, for an error message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[-TAIL_LINES:] if line.strip()) or "it said nothing"

    async def ended(self) -> int:
        """Wait for the end and for its last words; the exit status."""
        status = await self.process.wait()
        await self._copying
        return status

    async def stop(self) -> None:
        """End it and everything it started."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), GRACE_SECONDS)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self.ended()

    async def _copy_all(self, streams: list[asyncio.StreamReader]) -> None:
        with self.log.open("ab") as file:
            await asyncio.gather(*(self._copy(stream, file) for stream in streams))
        self._events.put_nowait(None)

    async def _copy(self, stream: asyncio.StreamReader, file: BinaryIO) -> None:
        try:
            while line := await stream.readline():
                file.write(line)
                file.flush()
                if (event := _event(line)) is not None:
                    self._events.put_nowait(event)
        except (ValueError, OSError):  # an endless line, or a full disk: it goes on without its log
            while await stream.read(MAX_LINE_BYTES):
                pass


class Crew:
    """The children of one run; leaving the context ends them all."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []

    async def start(
        self, name: str, module: str, *arguments: str, attentive: bool = True, settings: Mapping[str, str] | None = None
    ) -> Child:
        """Run `python -m module arguments…` with BRSKI_… variables `settings`; what it writes goes to `name`.log.

        With `attentive` what it says on standard error is heard too, else that is left to the kernel.
        """
        log = self._logs / f"{name}.log"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *_leashed(python_command(module, *arguments)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE if attentive else file,
                env=environment() | dict(settings or {}),
                start_new_session=True,  # Ctrl-C is for us; we end the children in order
                limit=MAX_LINE_BYTES,
            )
        child = Child(name, log, process)
        self._children.append(child)
        return child

    async def run(self, name: str, module: str, *arguments: str) -> None:
        """Run a command to its end; raises PeerFailed "command-failed" with its last words."""
        child = await self.start(name, module, *arguments)
        if status := await child.ended():
            told = f"{module} {arguments[0]} ended with status {status}; {child.last_words()}"
            raise PeerFailed("command-failed", told)

    async def fallen(self) -> Child:
        """Wait until any child has ended, and return it."""
        waits = {asyncio.ensure_future(child.process.wait()): child for child in self._children}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[done.pop()]
        finally:
            for wait in waits:
                wait.cancel()

    async def stop(self) -> None:
        """End all children, the youngest first to be told."""
        await asyncio.gather(*(child.stop() for child in reversed(self._children)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _whatever_happens(self.stop())


async def together(works: Iterable[Coroutine[object, object, Result]]) -> list[Result]:
    """Do all at the same time; the first that fails ends the others, and its error is raised when they have ended."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def until_told_to_stop(work: Coroutine[object, object, Result]) -> Result | signal.Signals:
    """Do the work; SIGINT, SIGTERM or SIGHUP cancel it, and then the signal is the result."""
    task, told = asyncio.ensure_future(work), list[signal.Signals]()
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        told.append(number)
        task.cancel()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not told:
            raise
        return told[0]


def run_until_told(work: Coroutine[object, object, Result]) -> Result | signal.Signals:
    """The same with a loop of its own, which leaves Ctrl-C as it was (asyncio would leave KeyboardInterrupt)."""
    with interruption.orderly():
        return asyncio.run(until_told_to_stop(work))


def python_command(module: str, *arguments: str) -> list[str]:
    """The command line of a module under this interpreter; -P keeps the current folder off its path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Our environment without what configures a role."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BRSKI_")}


def cpu_seconds(pid: int) -> float:
    """Processor time of another process so far, all its threads; Linux (a process's CPU clock, clock_getcpuclockid)."""
    return time.clock_gettime((~pid << 3) | 2)


def resident_mib(pid: int) -> float:
    """Resident memory of a process in MiB; Linux."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _leashed(command: Sequence[str]) -> list[str]:
    if sys.platform != "linux":
        return [*command]
    return [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *command]


async def _whatever_happens(work: Coroutine[object, object, None]) -> None:
    """Finish `work` though we are cancelled meanwhile, then let the cancellation go on."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


def _event(line: bytes) -> Event | None:
    if not line.startswith(b"{"):
        return None
    with suppress(ValueError):
        value = json.loads(line)
        return value if isinstance(value, dict) else None
    return None
