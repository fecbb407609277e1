"""How `brski bench` looks on a terminal: each role against its floor, and what the floor is made of."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from brski_interop.bench import Outcome
from brski_interop.floor import COMPOSITION, ROLES


def show(outcome: Outcome, console: Console, *, floor: bool) -> None:
    """Print the result; with `floor` also the parts of the floor."""
    told = outcome.as_json()
    latency = "  ".join(f"{name} {value:g} ms" for name, value in told["latency_ms"].items())
    console.print(
        Text.assemble(
            (f"{told['onboardings']} onboardings, {told['concurrency']} at a time: ", ""),
            (f"{told['per_second']:g} per second", "bold"),
            f", {told['failed']} failed\n{latency}\n",
        )
    )
    table = Table("role", box=None, pad_edge=False, padding=(0, 2))
    for title in ("CPU µs", "floor µs", "ratio", "RSS MiB"):
        table.add_column(title, justify="right")
    for role in ROLES:
        size = told["rss_mib"].get(role)
        table.add_row(
            role,
            str(told["cpu_us"][role]),
            str(told["floor_us"][role]),
            Text(f"{told['ratio'][role]:.2f}", "bold"),
            "" if size is None else f"{size:g}",
        )
    console.print(table)
    if floor:
        console.print(_floor(outcome))
    console.print(Text(f"\nPython {told['versions']['python']}, {told['versions']['openssl']}", "dim"))


def _floor(outcome: Outcome) -> Table:
    table = Table("part", box=None, pad_edge=False, padding=(0, 2), title="\nThe floor", title_justify="left")
    table.add_column("µs", justify="right")
    for role in ROLES:
        table.add_column(f"{role} times", justify="right")
    for part, cost in sorted(outcome.floor.parts.items()):
        table.add_row(
            part,
            f"{cost:.1f}",
            *(f"{COMPOSITION[role].get(part, ''):g}" if part in COMPOSITION[role] else "" for role in ROLES),
        )
    return table
