"""Ctrl-C at any moment is one line and exit 130, as a shell has it.

The laws of this file:

1. As long as nothing has been made, the process ends at once, without unwinding: an exception in the midst of an import
   may be swallowed by a callback, or come out as an ImportError.
2. Where there is something to clean up, `orderly` makes it an exit that passes through every `finally`. While an event
   loop runs, it is the loop that hears the signal (`processes.until_told_to_stop`).
3. Little of the standard library is imported here and nothing else: what happens before is for Python to tell.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CODE = 128 + signal.SIGINT
LINE = b"brski: interrupted\n"
OBJECT = b'{"error": "interrupted", "detail": "%s"}\n'


def end_at_once() -> None:
    """From now on Ctrl-C ends the process with its line and nothing else."""
    signal.signal(signal.SIGINT, _end)


@contextmanager
def orderly() -> Iterator[None]:
    """In here Ctrl-C is a SystemExit; only for the main thread, as all signals are."""
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stopped(number: signal.Signals, when: str, *, as_json: bool) -> int:
    """Say that work was stopped by a signal; the exit code: only Ctrl-C has one of its own, the others are failures."""
    sys.stderr.write(f"brski: interrupted: {when}\n")
    if as_json:
        sys.stdout.write((OBJECT % when.encode()).decode())
    return CODE if number is signal.SIGINT else 1


def _end(_number: int, _frame: object) -> None:
    _tell()
    os._exit(CODE)


def _leave(_number: int, _frame: object) -> None:
    _tell()
    raise SystemExit(CODE)


def _tell() -> None:
    os.write(2, LINE)
    if "--json" in sys.argv:
        os.write(1, OBJECT % b"")
