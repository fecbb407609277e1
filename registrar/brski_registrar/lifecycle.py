"""What becomes of a device: one table, (state, event) → state, and beside it what the last verdict was.

The laws of this file:

1. A pair that is not in the table is refused; nothing else decides what may follow what.
2. IMPRINTED and FAILED exclude each other: a device that reported failure gets no EST until it asks
   for a voucher anew (RFC 8995, 5.7), and a report of success after one of failure changes nothing.
3. EST is open in the states of `EST_OPEN` only, and none of them is reached but by way of the MASA's audit log
   (RFC 8995, 5.8.3) or of an operator who overrules it.
4. A block is taken away by the operator alone, and that opens nothing: the device is NEW, whatever it was, and comes in
   by a voucher and a verdict like any other. Only what was OPERATIONAL is so again (SUSPENDED remembers it): it has its
   certificate, and EST by its IDevID is as shut there as before it asks anew.
5. A verdict against a device bars it from renewing, directly and through an RA, until a later verdict is for it or an
   operator overrules it (`Standing`, `follow`). Whatever else happens leaves the bar as it is: to ask anew, to fail, to
   be blocked and unblocked is neither. And a verdict is taken in any state, so that nobody is out of its reach.

The diagram in the documents is drawn from the table (`diagram`).
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from brski_common.errors import Refused


class State(StrEnum):
    """Where a device stands (RFC 8995, 5, seen from the registrar)."""

    NEW = "new"  # never heard of
    HELD = "held"  # asked, and waits for the operator to admit it
    REQUESTED = "requested"  # admitted, the MASA is being asked
    DECLINED = "declined"  # the MASA gave no voucher
    VOUCHERED = "vouchered"  # it has the voucher, and has not yet said what it thinks of it
    IMPRINTED = "imprinted"  # it accepted the voucher; the audit log is not judged yet
    FAILED = "failed"  # it rejected the voucher
    DENIED = "denied"  # the audit log speaks against it
    APPROVED = "approved"  # the audit log is in order: EST is open
    AWAITING = "awaiting"  # its certificate request waits for the operator
    CLEARED = "cleared"  # the operator cleared that certificate request
    ENROLLED = "enrolled"  # it was given a certificate
    UNENROLLED = "unenrolled"  # it reported that it could not use the certificate, or got none
    OPERATIONAL = "operational"  # it came back with its new certificate
    BLOCKED = "blocked"  # shut out by the operator
    SUSPENDED = "suspended"  # the same, while it was operational

    @property
    def told(self) -> "State":
        """The state as people and peers are told it: one that is blocked is blocked, whatever it was."""
        return State.BLOCKED if self is State.SUSPENDED else self


class Event(StrEnum):
    """What can happen to a device."""

    HOLD = "hold"  # policy leaves the decision to the operator
    REQUEST = "request"  # an admitted voucher request
    DECLINE = "decline"  # the MASA refused, or what it sent is no voucher for this device
    VOUCHER = "voucher"  # a voucher was handed on
    IMPRINT = "imprint"  # voucher status: success (RFC 8995, 5.7)
    FAIL = "fail"  # voucher status: failure
    LOG_ACCEPT = "log-accept"  # the audit log passed the judgement (RFC 8995, 5.8.3)
    LOG_REFUSE = "log-refuse"  # it did not
    OVERRULE = "overrule"  # the operator accepts the device in spite of it
    AWAIT = "await"  # a certificate request that the operator has to approve (RFC 7030, 4.2.3)
    CLEAR = "clear"  # the operator approves it
    ENROLL = "enroll"  # a certificate was issued to the IDevID
    ENROLL_FAIL = "enroll-fail"  # enroll status: failure (RFC 8995, 5.9.4)
    OPERATE = "operate"  # enroll status: success, over the new certificate
    RENEW = "renew"  # a certificate was issued to the present certificate (RFC 7030, 4.2.2)
    BLOCK = "block"  # the operator shuts the device out
    UNBLOCK = "unblock"


class Standing(NamedTuple):
    """A device's state, and whether the last verdict on it was against it, which outlives the state (law 5)."""

    state: State
    is_barred: bool


# States in which the device may use EST with its IDevID.
EST_OPEN: Final = frozenset({State.APPROVED, State.AWAITING, State.CLEARED, State.ENROLLED, State.UNENROLLED})
# States that follow a voucher and precede the verdict on the audit log.
LOG_PENDING: Final = frozenset({State.VOUCHERED, State.IMPRINTED})

_DECLARED: Final = tuple(State)
BLOCKED: Final = frozenset({State.BLOCKED, State.SUSPENDED})
_REQUESTING: Final = frozenset(State) - BLOCKED
_RENEWING: Final = frozenset({State.ENROLLED, State.OPERATIONAL})
_REMEMBERED: Final = frozenset({State.OPERATIONAL, State.SUSPENDED})  # by a block; a second one forgets nothing
SHUT: Final = BLOCKED | {State.DENIED}  # states in which no certificate is renewed, barred or not
# What else a device may come to without a verdict, and so with the bar of an earlier one.
_UNJUDGED: Final = LOG_PENDING | {State.NEW, State.HELD, State.REQUESTED, State.DECLINED, State.FAILED}
# What sets and takes away the bar; nothing else does.
_BARS: Final[Mapping[Event, bool]] = {Event.LOG_REFUSE: True, Event.LOG_ACCEPT: False, Event.OVERRULE: False}
_ROWS: Final[tuple[tuple[Iterable[State], Event, State], ...]] = (
    # A device that was reset asks again, whatever it was before; earlier certificates have a life of their own.
    (_REQUESTING, Event.HOLD, State.HELD),
    (_REQUESTING, Event.REQUEST, State.REQUESTED),
    ((State.REQUESTED,), Event.DECLINE, State.DECLINED),
    ((State.REQUESTED, State.VOUCHERED), Event.VOUCHER, State.VOUCHERED),
    ((State.VOUCHERED, State.IMPRINTED), Event.IMPRINT, State.IMPRINTED),
    ((State.APPROVED,), Event.IMPRINT, State.APPROVED),
    # A contradiction is taken for failure as long as no certificate is out.
    ((State.VOUCHERED, State.IMPRINTED, State.APPROVED, State.AWAITING, State.CLEARED), Event.FAIL, State.FAILED),
    ((State.REQUESTED, State.FAILED), Event.FAIL, State.FAILED),
    ((State.VOUCHERED, State.IMPRINTED), Event.LOG_ACCEPT, State.APPROVED),
    ((State.APPROVED,), Event.LOG_ACCEPT, State.APPROVED),
    # The log may be read again at any time (RFC 8995, 5.8); what it then says counts at once.
    (
        EST_OPEN | LOG_PENDING | {State.OPERATIONAL, State.DENIED},
        Event.LOG_REFUSE,
        State.DENIED,
    ),
    # Where EST is shut already, only the bar is new; what a block has to give back is not the same any more.
    *(((state,), Event.LOG_REFUSE, state) for state in State if state in _UNJUDGED - LOG_PENDING | {State.BLOCKED}),
    ((State.SUSPENDED,), Event.LOG_REFUSE, State.BLOCKED),
    ((State.DENIED,), Event.OVERRULE, State.APPROVED),
    # Elsewhere it takes the bar away and opens nothing: of the log that belongs to this voucher nobody has heard yet.
    *(((state,), Event.OVERRULE, state) for state in State if state in _UNJUDGED),
    ((State.APPROVED, State.AWAITING, State.CLEARED, State.UNENROLLED), Event.AWAIT, State.AWAITING),
    ((State.AWAITING, State.CLEARED), Event.CLEAR, State.CLEARED),
    # From AWAITING too: an operator who makes approval automatic approves whatever waits.
    (EST_OPEN, Event.ENROLL, State.ENROLLED),
    (EST_OPEN, Event.ENROLL_FAIL, State.UNENROLLED),
    ((State.ENROLLED, State.OPERATIONAL), Event.OPERATE, State.OPERATIONAL),
    (_RENEWING, Event.RENEW, State.OPERATIONAL),
    # Asking for a new voucher does not take the certificate in use away.
    *(((state,), Event.RENEW, state) for state in State if state not in _RENEWING | SHUT),
    (frozenset(State) - _REMEMBERED, Event.BLOCK, State.BLOCKED),
    (_REMEMBERED, Event.BLOCK, State.SUSPENDED),
    ((State.BLOCKED,), Event.UNBLOCK, State.NEW),
    ((State.SUSPENDED,), Event.UNBLOCK, State.OPERATIONAL),
)

TABLE: Final[Mapping[tuple[State, Event], State]] = {
    # Sets have no order of their own: states are taken as they are declared, so that the diagram is always the same.
    (state, event): after
    for states, event, after in _ROWS
    for state in sorted(states, key=_DECLARED.index)
}


def step(state: State, event: Event) -> State:
    """The state after `event`; raises Refused `device-blocked` or `event-out-of-order`."""
    after = TABLE.get((state, event))
    if after is not None:
        return after
    if state in BLOCKED:
        raise Refused("device-blocked", f"{event} while blocked")
    raise Refused("event-out-of-order", f"{event} while {state}")


def follow(standing: Standing, events: Iterable[Event]) -> Standing:
    """Where a device stands after `events`; raises as `step`, and Refused `device-denied` where it may not renew."""
    state, is_barred = standing
    for event in events:
        if event is Event.RENEW:
            check_renewable(Standing(state, is_barred))
        if event is Event.OVERRULE and not is_barred:
            raise Refused("event-out-of-order", f"{event} while nothing speaks against the device")
        state, is_barred = step(state, event), _BARS.get(event, is_barred)
    return Standing(state, is_barred)


def check_renewable(standing: Standing, why: str = "") -> None:
    """Whether certificates of a device are renewed, here or for an RA; raises Refused `device-blocked`, `…-denied`."""
    if standing.state in BLOCKED:
        raise Refused("device-blocked", why)
    if standing.is_barred or standing.state is State.DENIED:
        # Elsewhere than in DENIED the record's reason is another matter.
        told = why if standing.state is State.DENIED else ""
        raise Refused("device-denied", told or "its audit log was refused, and nobody has overruled that")


def diagram() -> str:
    """The table as a Mermaid state diagram; what is possible nearly everywhere, as blocking, is drawn once."""
    lines = ["stateDiagram-v2", "    [*] --> new"]
    merged: dict[tuple[State, State], list[str]] = {}
    for (state, event), after in TABLE.items():
        everywhere = event in {Event.REQUEST, Event.HOLD} or (event, after) == (Event.BLOCK, State.BLOCKED)
        if not everywhere and state is not after:
            merged.setdefault((state, after), []).append(event)
    lines += [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in merged.items()]
    lines += [
        "    note right of new: request and hold lead from every state but blocked and suspended to requested and held"
    ]
    lines += ["    note right of blocked: block leads here from every state but operational"]
    lines += ["    note right of denied: no renewal after log-refuse, in whatever state, until log-accept or overrule"]
    lines += ["    new --> held: hold", "    new --> requested: request", "    requested --> blocked: block"]
    return "\n".join(lines) + "\n"
