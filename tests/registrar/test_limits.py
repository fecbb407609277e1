import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common.errors import Refused
from brski_registrar.limits import RULES, Flow, Gate, Limits

LIMITS = Limits(
    total=3,
    per_source=2,
    opening_seconds=10,
    idle_seconds=100,
    half_closed_seconds=20,
    total_seconds=1000,
    evictable_seconds=5,
)


def gate_with(*sources: str, now: float = 0.0) -> tuple[Gate, list[Flow]]:
    gate = Gate(LIMITS)
    return gate, [gate.enter(source, now)[0] for source in sources]


@pytest.mark.req("PX-04")
def test_one_source_gets_its_share_and_no_more() -> None:
    gate, flows = gate_with("fe80::1", "fe80::1")
    with pytest.raises(Refused, match="too-many-from-source"):
        gate.enter("fe80::1", 1)
    assert gate.enter("fe80::2", 1)[1] is None
    gate.leave(flows[0])
    gate.leave(flows[1])
    assert gate.enter("fe80::1", 2)[1] is None


@pytest.mark.req("PX-04")
def test_a_full_proxy_refuses_while_everybody_is_active() -> None:
    gate, _ = gate_with("a", "b", "c")
    with pytest.raises(Refused, match="too-many-connections"):
        gate.enter("d", 4)
    assert len(gate) == 3


@pytest.mark.req("PX-04", "AT-07")
def test_a_full_proxy_drops_the_one_that_was_silent_longest() -> None:
    gate, (first, second, third) = gate_with("a", "b", "c")
    first.sent_up(1, 6)
    third.sent_down(1, 3)
    assert gate.enter("d", 8)[1] is second
    assert len(gate) == 3


def test_leaving_twice_does_no_harm() -> None:
    gate, (flow,) = gate_with("a")
    gate.leave(flow)
    gate.leave(flow)
    assert len(gate) == 0
    assert len([gate.enter("a", 0), gate.enter("a", 0)]) == 2


def activity_none(_flow: Flow) -> None:
    return


def activity_up(flow: Flow) -> None:
    flow.sent_up(5, 8)


def activity_answer(flow: Flow) -> None:
    flow.sent_down(5, 8)


def activity_half_closed(flow: Flow) -> None:
    flow.sent_down(5, 8)
    flow.ended(9)
    flow.ended(50)  # the second side: what counts is the first


def activity_busy(flow: Flow) -> None:
    flow.sent_down(5, 995)


@pytest.mark.req("PX-04")
@pytest.mark.parametrize(
    ("activity", "before", "at", "reason"),
    [
        (activity_none, 9.9, 10, "opening-timeout"),
        (activity_up, 9.9, 10, "opening-timeout"),  # a client that sends a byte now and then, and is never answered
        (activity_answer, 107.9, 108, "idle-timeout"),
        (activity_half_closed, 28.9, 29, "half-closed-timeout"),
        (activity_busy, 999.9, 1000, "lifetime-exceeded"),
    ],
)
def test_every_time_out_strikes_at_its_time(activity: object, before: float, at: float, reason: str) -> None:
    gate, (flow,) = gate_with("a")
    assert callable(activity)
    activity(flow)
    assert list(gate.expired(before)) == []
    assert list(gate.expired(at)) == [(flow, reason)]


def test_every_rule_is_shown() -> None:
    assert {rule.reason for rule in RULES} == {
        "opening-timeout",
        "idle-timeout",
        "half-closed-timeout",
        "lifetime-exceeded",
    }


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 20), st.booleans())))
def test_the_bounds_hold_whatever_happens(steps: list[tuple[str, float, bool]]) -> None:
    gate, inside, now = Gate(LIMITS), dict[Flow, None](), 0.0
    for source, later, leaves in steps:
        now += later
        if leaves and inside:
            gate.leave(flow := next(iter(inside)))
            del inside[flow]
            continue
        try:
            flow, victim = gate.enter(source, now)
        except Refused:
            continue
        inside[flow] = None
        if victim is not None:
            del inside[victim]
        assert len(gate) == len(inside) <= LIMITS.total
        assert sum(each.source == source for each in inside) <= LIMITS.per_source
