"""The phases of an attempt and every way from one to another (RFC 8995, 2.1).

`TRANSITIONS` is the truth: `attempt` changes phase by it alone, and the diagram in the docs is drawn
from it by `mermaid`.
"""

from collections.abc import Mapping
from enum import Enum, auto


class Phase(Enum):
    """Where a conversation stands (RFC 8995, 2.1: Identify, Request Join, Imprint, Enroll)."""

    IDENTIFY = "identify"  # opening the provisional connection
    REQUEST = "request"  # asking for the voucher
    CHECK = "check"  # waiting for revocation lists that the voucher demands
    REFUSE = "refuse"  # telling that the voucher was not accepted
    IMPRINT = "imprint"  # telling that it was
    ANCHORS = "anchors"  # asking for the CA certificates
    ATTRIBUTES = "attributes"  # asking what the certificate request should hold
    KEY = "key"  # waiting for a fresh key pair
    ENROLL = "enroll"  # asking for the certificate
    SAVE = "save"  # waiting until it is durable
    CONFIRM = "confirm"  # telling of the success, with the new identity
    COMPLAIN = "complain"  # telling that enrolling failed
    ENROLLED = "enrolled"
    FAILED = "failed"

    __hash__ = object.__hash__  # in C; Enum's own is not, and every turn asks for a few


class Turn(Enum):
    """What happened in a phase."""

    DONE = auto()  # it did what it is for
    NOT_YET = auto()  # 202: the same again, later
    REDIRECTED = auto()  # to another registrar
    LISTS_WANTED = auto()  # revocation has to be checked first
    REFUSED = auto()  # what came does not hold
    FAILED = auto()  # no answer, or not the one needed
    SKIPPED = auto()  # a renewal reports nothing
    CLOSED = auto()  # we end it: another attempt won, a reset, a renewal that failed

    __hash__ = object.__hash__


TERMINAL = frozenset((Phase.ENROLLED, Phase.FAILED))

TRANSITIONS: Mapping[tuple[Phase, Turn], Phase] = {
    (Phase.IDENTIFY, Turn.DONE): Phase.REQUEST,
    (Phase.IDENTIFY, Turn.FAILED): Phase.FAILED,
    (Phase.REQUEST, Turn.DONE): Phase.IMPRINT,
    (Phase.REQUEST, Turn.NOT_YET): Phase.REQUEST,
    (Phase.REQUEST, Turn.REDIRECTED): Phase.IDENTIFY,
    (Phase.REQUEST, Turn.LISTS_WANTED): Phase.CHECK,
    (Phase.REQUEST, Turn.REFUSED): Phase.REFUSE,
    (Phase.REQUEST, Turn.FAILED): Phase.FAILED,
    (Phase.CHECK, Turn.DONE): Phase.IMPRINT,
    (Phase.CHECK, Turn.REFUSED): Phase.REFUSE,
    (Phase.CHECK, Turn.FAILED): Phase.FAILED,
    (Phase.REFUSE, Turn.DONE): Phase.FAILED,
    (Phase.REFUSE, Turn.FAILED): Phase.FAILED,
    (Phase.IMPRINT, Turn.DONE): Phase.ANCHORS,
    (Phase.IMPRINT, Turn.FAILED): Phase.ANCHORS,  # the answer is ignored, even if there is none (RFC 8995, 5.7)
    (Phase.ANCHORS, Turn.DONE): Phase.ATTRIBUTES,
    (Phase.ANCHORS, Turn.FAILED): Phase.COMPLAIN,
    (Phase.ATTRIBUTES, Turn.DONE): Phase.KEY,
    (Phase.ATTRIBUTES, Turn.FAILED): Phase.COMPLAIN,
    (Phase.KEY, Turn.DONE): Phase.ENROLL,
    (Phase.KEY, Turn.FAILED): Phase.COMPLAIN,
    (Phase.ENROLL, Turn.DONE): Phase.SAVE,
    (Phase.ENROLL, Turn.NOT_YET): Phase.ENROLL,
    (Phase.ENROLL, Turn.FAILED): Phase.COMPLAIN,
    (Phase.SAVE, Turn.DONE): Phase.CONFIRM,
    (Phase.SAVE, Turn.SKIPPED): Phase.ENROLLED,
    (Phase.SAVE, Turn.FAILED): Phase.COMPLAIN,
    (Phase.CONFIRM, Turn.DONE): Phase.ENROLLED,
    (Phase.CONFIRM, Turn.FAILED): Phase.ENROLLED,
    (Phase.COMPLAIN, Turn.DONE): Phase.FAILED,
    (Phase.COMPLAIN, Turn.FAILED): Phase.FAILED,
    **{(phase, Turn.CLOSED): Phase.FAILED for phase in Phase if phase not in TERMINAL},
}


def mermaid() -> str:
    """The table as a Mermaid state diagram, for the docs. What closes an attempt from any phase is drawn once."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.IDENTIFY.value}"]
    for (phase, turn), target in TRANSITIONS.items():
        if turn is not Turn.CLOSED:
            lines.append(f"    {phase.value} --> {target.value}: {turn.name.lower().replace('_', ' ')}")
    lines += [f"    {phase.value} --> [*]" for phase in Phase if phase in TERMINAL]
    return "\n".join(lines) + "\n"
