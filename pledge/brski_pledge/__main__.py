"""The command `brski-pledge`, from the first moment on: all else is imported where an interrupt is heard."""

import sys
from collections.abc import Sequence

INTERRUPTED = 130  # as a shell has it: 128 and the number of SIGINT
INTERRUPTED_OBJECT = '{"error": "interrupted", "state": "failed", "reason": "interrupted", "detail": ""}'


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        from brski_pledge import command  # noqa: PLC0415 -- takes its time, in which somebody may press Ctrl-C

        return command.run(arguments)
    except KeyboardInterrupt:
        print("brski-pledge: interrupted", file=sys.stderr)
        if "--json" in (sys.argv if arguments is None else arguments):
            print(INTERRUPTED_OBJECT)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
