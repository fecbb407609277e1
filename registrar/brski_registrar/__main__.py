"""The `brski-registrar` command: exit 0 done, 1 refused or failed with one line why, 2 wrong usage, 130 interrupted.

`serve` takes a short way, so that a running registrar holds neither typer nor rich nor the other verbs.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from brski_common.errors import BrskiError

INTERRUPTED: Final = 130  # as a shell has it: 128 and the number of SIGINT


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command, and exit; an interruption, be it in the midst of an import, is a line and 130."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(given)
    except KeyboardInterrupt:
        print("brski-registrar: interrupted", file=sys.stderr)
        if "--json" in given:
            print(json.dumps({"error": "interrupted", "detail": ""}))
        sys.exit(INTERRUPTED)


def _run(given: list[str]) -> None:
    if given[:1] == ["serve"] and not {"--help", "-h"} & set(given):
        sys.exit(_serve(given[1:]))
    from brski_registrar.commands.application import app  # noqa: PLC0415 -- see above

    app(given, prog_name="brski-registrar")


def _serve(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="brski-registrar serve", add_help=False)
    parser.add_argument("--config", type=Path, default=Path("registrar.toml"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(given)
    # structlog takes rich for tracebacks wherever it finds it, which is 3 MB for nothing in a service.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type] # None: "there is no such module"
    from brski_registrar import runtime  # noqa: PLC0415 -- see above

    try:
        runtime.run(options.config, as_json=options.json)
    except BrskiError as error:
        print(f"brski-registrar: {error}", file=sys.stderr)
        if options.json:
            print(json.dumps({"error": error.reason, "detail": error.detail}))
        return 1
    return 0


if __name__ == "__main__":
    main()
