"""The command `brski-masa`: exit 0 done, 1 refused or failed with one line why, 2 wrong usage.

`serve` takes a short way, so that a running service holds neither typer nor rich nor Alembic.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from brski_common.errors import BrskiError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; what it says goes to standard output, errors to standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["serve"] and not {"--help", "-h"} & set(given):
            return _serve(given[1:])
        return _run(given)
    except BrskiError as error:
        print(f"brski-masa: {error}", file=sys.stderr)
        if "--json" in given:
            print(json.dumps({"error": error.reason, "detail": error.detail}))
        return 1
    except KeyboardInterrupt:
        return 130


def _serve(given: Sequence[str]) -> int:
    # structlog takes rich for tracebacks wherever it finds it, which is 3 MB for nothing in a service.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type] # None: "there is no such module"
    from brski_masa import serving  # noqa: PLC0415 -- see the docstring

    parser = argparse.ArgumentParser(prog="brski-masa serve")
    parser.add_argument("--config", "-c", type=Path, default=Path("masa.toml"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(given)
    serving.run(options.config, json_lines=options.json)
    return 0


def _run(given: list[str]) -> int:
    from brski_masa.commands import app  # noqa: PLC0415 -- see the docstring

    try:
        app(args=given, prog_name="brski-masa")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
