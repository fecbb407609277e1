"""What a demo tells: the steps of every pledge, in its own time, and how each ended.

Pure data; `demo` fills it, `demo_view` shows it, `--json` prints it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

State = Literal["running", "operational", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Title:
    """A step in words, and where the standard asks for it."""

    phase: str
    text: str
    section: str


# The steps are the events of `brski_pledge.events`; the phases are those of RFC 8995, 2.1.
TITLES: Final[Mapping[str, Title]] = {
    "searching": Title("Discover", "looks for a join proxy by mDNS", "RFC 8995, 4.1"),
    "offer-found": Title("Discover", "hears of one", "RFC 8995, B"),
    "connecting": Title("Identify", "connects to it", "RFC 8995, 4.1"),
    "registrar-seen": Title("Identify", "sees a registrar, trusts nothing yet", "RFC 8995, 5.1"),
    "voucher-requested": Title("Request", "asks for a voucher, signed with the IDevID", "RFC 8995, 5.2"),
    "waiting": Title("Request", "is asked for patience", "RFC 8995, 5.6"),
    "redirected": Title("Request", "is sent to another registrar", "RFC 8995, 5.6"),
    "voucher-refused": Title("Imprint", "does not accept the voucher", "RFC 8995, 5.6.1"),
    "imprinted": Title("Imprint", "accepts voucher and registrar", "RFC 8995, 5.6.1, 5.6.2"),
    "anchors-received": Title("Enroll", "gets the domain's CA certificates", "RFC 8995, 5.9.1"),
    "key-made": Title("Enroll", "makes a fresh key pair", "RFC 8995, 5.9.3"),
    "certificate-received": Title("Enroll", "gets its LDevID and checks it", "RFC 8995, 5.9.3"),
    "saved": Title("Enroll", "has it all on disk", "RFC 8995, 1.3.4"),
    "operational": Title("Enrolled", "reports back with the LDevID", "RFC 8995, 5.9.4"),
    "attempt-failed": Title("Identify", "gives up this way and tries the next", "RFC 8995, 4.1"),
}
PHASES: Final = ("Discover", "Identify", "Request", "Imprint", "Enroll", "Enrolled")


def title_of(step: str) -> Title:
    """The words for a step; a step nobody has words for yet says its own name."""
    return TITLES.get(step, Title("", step.replace("-", " "), ""))


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened `at` seconds after its pledge started."""

    at: float
    step: str
    detail: str = ""
    checks: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        """As the contract has it."""
        return {"at": round(self.at, 3), "step": self.step, "detail": self.detail}


@dataclass(slots=True)
class Journey:
    """One pledge on its way."""

    serial: str
    state: State = "running"
    reason: str | None = None
    detail: str = ""
    ldevid: Path | None = None
    seconds: float = 0.0
    steps: list[Step] = field(default_factory=list)

    @property
    def phase(self) -> str:
        """The phase of the newest step that has one."""
        phases = (title_of(step.step).phase for step in reversed(self.steps))
        return next((phase for phase in phases if phase), "")

    def as_json(self) -> dict[str, object]:
        """As the contract has it."""
        return {
            "serial": self.serial,
            "state": "failed" if self.state == "running" else self.state,
            "reason": self.reason,
            "ldevid": None if self.ldevid is None else str(self.ldevid),
            "timeline": [step.as_json() for step in self.steps],
        }


@dataclass(slots=True)
class Report:
    """A whole demo."""

    journeys: Sequence[Journey]
    seconds: float = 0.0

    @property
    def is_success(self) -> bool:
        """Whether every pledge became operational."""
        return all(journey.state == "operational" for journey in self.journeys)

    def as_json(self) -> dict[str, object]:
        """As the contract has it."""
        return {"seconds": round(self.seconds, 3), "pledges": [journey.as_json() for journey in self.journeys]}
