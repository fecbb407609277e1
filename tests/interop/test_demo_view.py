"""What a demo shows before anything listens."""

import io

from rich.console import Console

from brski_interop.demo_report import Journey
from brski_interop.demo_view import LiveView, PlainView

DOING = "makes keys"


def live(*journeys: Journey) -> str:
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=True, width=100), journeys) as view:
        view.doing(DOING)
    return out.getvalue()


def test_a_terminal_shows_what_is_being_done_until_the_pledges_are_there() -> None:
    assert DOING in live()
    assert DOING not in live(Journey("SN-1"))


def test_elsewhere_it_is_a_line() -> None:
    out = io.StringIO()
    with PlainView(Console(file=out, width=100)) as view:
        view.doing(DOING)
    assert out.getvalue().endswith(f"demo          {DOING}\n")
