"""How much of a join proxy one device may use, and for how long. Pure: `now` is in seconds of one monotonic clock.

The laws of this file:

1. A time-out is a row of `RULES`; there is no other reason to end a connection that both sides keep open.
2. A proxy that is full makes room by dropping the connection that has been silent longest, if that is long enough, so
   silent connections cannot keep devices out (RFC 8995, 4.1 and 5.1: slow peers must not block others).
3. Nothing here looks at what is relayed, only at how much and when (RFC 8995, 4).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from brski_common.errors import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of a proxy. Seconds are whole patience, not per byte."""

    total: int = 256  # connections at once
    per_source: int = 8  # connections at once from one address
    opening_seconds: float = 15.0  # until the registrar has answered with its first byte
    idle_seconds: float = 120.0  # without a byte in either direction; pledges pause up to 60 (RFC 8995, 5.6)
    half_closed_seconds: float = 30.0  # after one side has ended its stream
    total_seconds: float = 1800.0  # a whole connection
    evictable_seconds: float = 10.0  # of silence, after which a connection may have to make room


@dataclass(slots=True, eq=False)
class Flow:
    """One relayed connection, as the limits see it."""

    source: str
    opened: float
    active: float  # when the last byte went in either direction
    answered: bool = False
    half_closed: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0

    def sent_up(self, count: int, now: float) -> None:
        """Bytes went to the registrar."""
        self.active, self.bytes_up = now, self.bytes_up + count

    def sent_down(self, count: int, now: float) -> None:
        """Bytes went to the device."""
        self.active, self.bytes_down, self.answered = now, self.bytes_down + count, True

    def ended(self, now: float) -> None:
        """One side has ended its stream."""
        self.half_closed = now if self.half_closed is None else self.half_closed


@dataclass(frozen=True, slots=True)
class Rule:
    """A time-out: its slug, and when it strikes."""

    reason: str
    deadline: Callable[[Flow, Limits], float]


RULES: Final = (
    Rule("opening-timeout", lambda flow, limits: math.inf if flow.answered else flow.opened + limits.opening_seconds),
    Rule("idle-timeout", lambda flow, limits: flow.active + limits.idle_seconds),
    Rule(
        "half-closed-timeout",
        lambda flow, limits: math.inf if flow.half_closed is None else flow.half_closed + limits.half_closed_seconds,
    ),
    Rule("lifetime-exceeded", lambda flow, limits: flow.opened + limits.total_seconds),
)


class Gate:
    """Who is in. Every flow that was let in has to `leave`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._flows: dict[Flow, None] = {}
        self._sources: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._flows)

    def enter(self, source: str, now: float) -> tuple[Flow, Flow | None]:
        """Let a connection in; returns it and the one that has to go for it, if one has.

        Raises Refused `too-many-from-source` or `too-many-connections`.
        """
        if self._sources[source] >= self.limits.per_source:
            raise Refused("too-many-from-source", f"{source} has {self.limits.per_source} connections")
        victim = None
        if len(self._flows) >= self.limits.total:
            victim = self._silent_longest(now)
            self.leave(victim)
        flow = Flow(source, opened=now, active=now)
        self._flows[flow] = None
        self._sources[source] += 1
        return flow, victim

    def leave(self, flow: Flow) -> None:
        """A connection is over; saying so twice does no harm."""
        if flow not in self._flows:
            return
        del self._flows[flow]
        self._sources[flow.source] -= 1
        if not self._sources[flow.source]:
            del self._sources[flow.source]

    def expired(self, now: float) -> Iterator[tuple[Flow, str]]:
        """The connections whose time is over, each with the slug of the first rule that it broke."""
        for flow in tuple(self._flows):
            for rule in RULES:
                if rule.deadline(flow, self.limits) <= now:
                    yield flow, rule.reason
                    break

    def _silent_longest(self, now: float) -> Flow:
        silent = min(self._flows, key=lambda flow: flow.active)
        if silent.active + self.limits.evictable_seconds > now:
            raise Refused("too-many-connections", f"{self.limits.total} connections, and all of them are in use")
        return silent
