"""The command `brski`: exit 0 done, 1 refused or failed with one line why, 2 wrong usage, 130 interrupted.

Nothing is imported before Ctrl-C has its answer, because the imports take a second.
"""

from brski_interop import interruption


def main() -> None:
    """Run the command."""
    interruption.end_at_once()
    from brski_interop.commands import app  # noqa: PLC0415 - see the docstring

    app(prog_name="brski")


if __name__ == "__main__":
    main()
