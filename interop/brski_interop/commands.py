"""The verbs of `brski`: demo, bench, inspect. An adapter: it reads options and prints what others decide."""

import json
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from rich.console import Console

from brski_common import cli
from brski_common.certificates import load_pem
from brski_common.encoding import decode_time
from brski_common.errors import BrskiError, Malformed
from brski_common.paths import Anchors
from brski_interop import interruption

app = cli.application("Where the BRSKI roles meet: demo, bench and inspect.", distribution="brski-interop")


@app.command(epilog="Example: `brski inspect voucher.vcj --anchor masa.pem --at 2026-11-21T12:00:00Z`")
def inspect(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The artefact's file, or - for standard input.", allow_dash=True)
    ],
    anchor: Annotated[
        list[Path] | None,
        typer.Option(help="Trust anchors, PEM. May be repeated. Without one nothing is trusted or distrusted."),
    ] = None,
    at: Annotated[str | None, typer.Option(help="Judge dates at this time (RFC 3339), not now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Say what an artefact is, show it in the field's terms, and check it."""
    from brski_interop import inspection  # noqa: PLC0415 - a demo does not pay for it

    try:
        data = cli.read_input(file)
        now = decode_time(at) if at else datetime.now(UTC)
        report = inspection.inspect(data, inspection.Check(_anchors(anchor or []), now))
    except BrskiError as error:
        raise _unreadable(error, as_json) from error
    if as_json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
    else:
        from brski_interop.inspect_view import show  # noqa: PLC0415 - only where somebody looks

        show(report, Console())
    if not report.acceptable:
        raise typer.Exit(1)


@app.command(epilog="Example: `brski demo`, or `brski demo --pledges 5 --dir ./demo`")
def demo(
    pledges: Annotated[int, typer.Option(min=1, max=100, help="How many pledges to onboard.")] = 3,
    folder: Annotated[Path | None, typer.Option("--dir", help="Keep everything here. Else a temporary folder.")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Onboard nobody: serve until stopped, see DIR/demo.json.")
    ] = False,
    as_json: cli.Json = False,
) -> None:
    """Onboard pledges at a registrar, a join proxy and a MASA, all of them processes on this machine's loopback."""
    from brski_interop import demo_command  # noqa: PLC0415 - `inspect` does not pay for it

    if serve and folder is None:
        raise typer.BadParameter("--serve needs --dir, where demo.json is written")
    if serve and folder:
        raise typer.Exit(demo_command.serve(folder, pledges))
    raise typer.Exit(demo_command.run(folder, pledges, as_json=as_json))


@app.command(epilog="Example: `brski bench --onboardings 500 --concurrency 8`")
def bench(
    onboardings: Annotated[int, typer.Option(min=1, max=100_000, help="How many onboardings to measure.")] = 500,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="How many at a time.")] = 8,
    floor: Annotated[bool, typer.Option("--floor", help="Show what the floor is made of.")] = False,
    as_json: cli.Json = False,
) -> None:
    """Measure whole onboardings, and in the same run the cryptography and commits they cannot do without."""
    from brski_interop import bench as measuring  # noqa: PLC0415 - `inspect` does not pay for it
    from brski_interop.bench_view import show  # noqa: PLC0415 - likewise
    from brski_interop.processes import run_until_told  # noqa: PLC0415 - likewise

    outcome = run_until_told(measuring.run(onboardings, concurrency))
    if isinstance(outcome, signal.Signals):
        raise typer.Exit(interruption.stopped(outcome, "before the end", as_json=as_json))
    if as_json:
        sys.stdout.write(json.dumps(outcome.as_json(), indent=2) + "\n")
    else:
        show(outcome, Console(), floor=floor)
    if outcome.failures:
        sys.stderr.write(f"brski: {len(outcome.failures)} onboardings failed, the first: {outcome.failures[0]}\n")
        raise typer.Exit(1)


def _anchors(files: list[Path]) -> Anchors:
    return Anchors(certificate for path in files for certificate in _certificates(path))


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return load_pem(cli.read_input(path))
    except Malformed as error:
        raise Malformed(error.reason, f"{path}: {error.detail}") from error


def _unreadable(error: BrskiError, as_json: bool) -> typer.Exit:
    """The object has one member only here: it was given away so."""
    sys.stderr.write(f"brski: {error}\n")
    if as_json:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
    return typer.Exit(1)
