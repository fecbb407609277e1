"""How a demo looks: live where somebody looks, one line per event elsewhere, one timeline per pledge in the end.

`LiveView` and `PlainView` take the same calls. Neither decides anything.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from brski_interop.demo_report import PHASES, Journey, Report, Step, title_of

REFRESH_PER_SECOND: Final = 12
MAX_WIDTH: Final = 100
MAX_LIVE_DETAIL: Final = 60  # characters

_MARKS: Final[Mapping[str, tuple[str, str]]] = {
    "operational": ("✔", "bold green"),
    "refused": ("✗", "bold red"),
    "failed": ("✗", "bold red"),
    "running": ("•", "cyan"),
}


class View(AbstractContextManager["View"], Protocol):
    """What a demo tells while it runs."""

    def doing(self, what: str) -> None:
        """Tell what is being done until something else is told."""

    def service(self, name: str, detail: str) -> None:
        """Tell that a service listens."""

    def step(self, journey: Journey, step: Step) -> None:
        """Tell of a step of a pledge."""

    def ended(self, journey: Journey) -> None:
        """Tell how a pledge ended."""


def view_for(console: Console, journeys: Sequence[Journey]) -> View:
    """The live view on a terminal, the plain one elsewhere."""
    return LiveView(console, journeys) if console.is_terminal and not console.is_dumb_terminal else PlainView(console)


class PlainView:
    """One line for each thing that happens, as it happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def doing(self, what: str) -> None:
        """Print a line."""
        self._print("demo", what, "")

    def service(self, name: str, detail: str) -> None:
        """Print a line."""
        self._print(name, "listens", detail)

    def ready(self, detail: str) -> None:
        """Print a line: everything listens."""
        self._print("demo", "is ready", detail)

    def step(self, journey: Journey, step: Step) -> None:
        """Print a line."""
        self._print(journey.serial, title_of(step.step).text, step.detail)

    def ended(self, journey: Journey) -> None:
        """Print a line, only for what is not good: the last step has told the good."""
        if journey.state != "operational":
            self._print(journey.serial, journey.state, f"{journey.reason}: {journey.detail}".rstrip(": "))

    def _print(self, who: str, what: str, detail: str) -> None:
        line = f"{time.monotonic() - self._started:7.3f}  {who:<13} {what}"
        self._console.print(Text(f"{line}: {detail}" if detail else line), soft_wrap=True)


class LiveView:
    """A table of services and pledges that changes in place, and goes when all is over."""

    def __init__(self, console: Console, journeys: Sequence[Journey]) -> None:
        self._journeys = journeys
        self._services: dict[str, str] = {}
        self._doing = ""
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=REFRESH_PER_SECOND, transient=True
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def doing(self, what: str) -> None:
        """Remember it for the next refresh."""
        self._doing = what

    def service(self, name: str, detail: str) -> None:
        """Remember it for the next refresh."""
        self._services[name] = detail

    def step(self, journey: Journey, step: Step) -> None:
        """Nothing to do: the next refresh looks at the journey."""

    def ended(self, journey: Journey) -> None:
        """Nothing to do: the next refresh looks at the journey."""

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for name, detail in self._services.items():
            table.add_row(Text("●", style="green"), Text(name, style="bold"), Text(detail, style="dim"), Text())
        if self._doing and not self._journeys:
            table.add_row(self._spinner, Text("demo", style="bold"), Text(f"{self._doing} …", style="dim"), Text())
        table.add_row()
        for journey in self._journeys:
            table.add_row(self._mark(journey), Text(journey.serial, style="bold"), _strip(journey), _now(journey))
        return Panel(table, title="BRSKI demo", title_align="left", border_style="blue", padding=(1, 2))

    def _mark(self, journey: Journey) -> RenderableType:
        mark, style = _MARKS[journey.state]
        return self._spinner if journey.state == "running" and journey.steps else Text(mark, style=style)


def _strip(journey: Journey) -> Text:
    """The phases as a line of beads, as far as the pledge has come."""
    reached = PHASES.index(journey.phase) if journey.phase in PHASES else -1
    text = Text(no_wrap=True)
    for number, phase in enumerate(PHASES):
        done = number < reached or journey.state == "operational"
        style = "green" if done else "bold cyan" if number == reached else "dim"
        if number:
            text.append("─", style)
        text.append(phase, style)
    return text


def _now(journey: Journey) -> Text:
    if not journey.steps:
        return Text()
    step = journey.steps[-1]
    detail = step.detail if len(step.detail) <= MAX_LIVE_DETAIL else f"{step.detail[:MAX_LIVE_DETAIL]}…"
    return Text(detail or title_of(step.step).text, style="dim", no_wrap=True, overflow="ellipsis")


def show(report: Report, console: Console, kept: Path | None) -> None:
    """Print the timelines and where the LDevIDs are; `kept` is the folder that stays, if one does."""
    for journey in report.journeys:
        console.print(_timeline(journey), width=min(console.width, MAX_WIDTH) if console.is_terminal else MAX_WIDTH)
    console.print(_summary(report, kept), soft_wrap=True)  # a path is to be copied: nothing breaks it


def _timeline(journey: Journey) -> Panel:
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(ratio=1)
    table.add_column(style="dim", no_wrap=True, justify="right")
    phase = ""
    for step in journey.steps:
        title = title_of(step.step)
        table.add_row(
            f"{step.at * 1000:.0f} ms", title.phase if title.phase != phase else "", _told(step), title.section
        )
        phase = title.phase
    mark, style = _MARKS[journey.state]
    how = journey.state if journey.reason is None else f"{journey.state}: {journey.reason}"
    heading = Text.assemble(
        " ", (mark, style), " ", (journey.serial, "bold"), f" · {how} after {journey.seconds:.2f} s "
    )
    if journey.detail:
        table.add_row("", "", Text(journey.detail, style="red"), "")
    return Panel(table, title=heading, title_align="left", border_style=style.removeprefix("bold "))


def _told(step: Step) -> Text:
    text = Text(title_of(step.step).text)
    if step.detail:
        text.append(f"\n{step.detail}", "dim")
    for check in step.checks:
        text.append("\n✓ ", "green").append(check)
    return text


def _summary(report: Report, kept: Path | None) -> Text:
    good = sum(journey.state == "operational" for journey in report.journeys)
    text = Text(f"\n{good} of {len(report.journeys)} pledges operational in {report.seconds:.1f} s.", "bold")
    if kept is None:
        return text.append("\nThe LDevIDs went with the temporary folder; `brski demo --dir DIR` keeps them.", "dim")
    for journey in report.journeys:
        if journey.ldevid is not None:
            text.append(f"\nLDevID of {journey.serial}  ", "cyan").append(str(journey.ldevid))
    return text.append(f"\nKeys, databases and logs are in {kept}", "dim")
