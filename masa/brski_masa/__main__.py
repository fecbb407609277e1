"""The command `brski-masa`: exit 0 done, 1 refused or failed with one line why, 2 wrong usage, 130 interrupted.

`serve` takes a short way, so that a running service holds neither typer nor rich nor Alembic. Nothing is imported
before Ctrl-C has its answer, because the imports take a while. As long as they do, the process ends at once: an
exception in the midst of an import may be swallowed by a callback.
"""

import os
import signal
import sys
from types import FrameType
from typing import Final, NoReturn

INTERRUPTED_CODE: Final = 130  # as a shell has it: 128 and the number of SIGINT
INTERRUPTED: Final = "brski-masa: interrupted\n"
INTERRUPTED_OBJECT: Final = '{"error": "interrupted", "detail": ""}\n'


def main(arguments: list[str] | None = None) -> int:
    """Run one command; what it says goes to standard output, errors to standard error."""
    if arguments is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        return _command(given)
    except KeyboardInterrupt:
        sys.stderr.write(INTERRUPTED)
        if "--json" in given:
            sys.stdout.write(INTERRUPTED_OBJECT)
        return INTERRUPTED_CODE


def _end_at_once(_number: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, INTERRUPTED.encode())
    if "--json" in sys.argv:
        os.write(1, INTERRUPTED_OBJECT.encode())
    os._exit(INTERRUPTED_CODE)


def _end_in_order() -> None:
    """From here on there may be something to clean up: Ctrl-C is an exception again."""
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _command(given: list[str]) -> int:
    import json  # noqa: PLC0415 -- see the docstring

    from brski_common.errors import BrskiError  # noqa: PLC0415 -- see the docstring

    try:
        if given[:1] == ["serve"] and not {"--help", "-h"} & set(given):
            return _serve(given[1:])
        return _run(given)
    except BrskiError as error:
        print(f"brski-masa: {error}", file=sys.stderr)
        if "--json" in given:
            print(json.dumps({"error": error.reason, "detail": error.detail}))
        return 1


def _serve(given: list[str]) -> int:
    import argparse  # noqa: PLC0415 -- see the docstring
    from pathlib import Path  # noqa: PLC0415 -- see the docstring

    # structlog takes rich for tracebacks wherever it finds it, which is 3 MB for nothing in a service.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type] # None: "there is no such module"
    from brski_masa import serving  # noqa: PLC0415 -- see the docstring

    _end_in_order()
    parser = argparse.ArgumentParser(prog="brski-masa serve")
    parser.add_argument("--config", "-c", type=Path, default=Path("masa.toml"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(given)
    serving.run(options.config, json_lines=options.json)
    return 0


def _run(given: list[str]) -> int:
    from brski_masa.commands import app  # noqa: PLC0415 -- see the docstring

    _end_in_order()
    try:
        app(args=given, prog_name="brski-masa")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
