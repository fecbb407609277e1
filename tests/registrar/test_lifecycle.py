"""The one table of a device's life, taken as a whole."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common.errors import Refused
from brski_registrar.lifecycle import BLOCKED, EST_OPEN, SHUT, TABLE, Event, State, diagram, step

PAIRS = [(state, event) for state in State for event in Event]


@given(st.sampled_from(State), st.sampled_from(Event))
def test_any_event_in_any_state_is_a_state_or_a_refusal(state: State, event: Event) -> None:
    if (state, event) in TABLE:
        assert step(state, event) is TABLE[state, event]
    else:
        with pytest.raises(Refused) as refused:
            step(state, event)
        assert refused.value.reason == ("device-blocked" if state in BLOCKED else "event-out-of-order")


@given(st.lists(st.sampled_from(Event), max_size=30))
@pytest.mark.req("EI-12", "AL-14")
def test_no_sequence_of_events_opens_est_but_by_a_judged_log_after_the_latest_voucher(events: list[Event]) -> None:
    state, judged, failed = State.NEW, False, False
    for event in events:
        try:
            state = step(state, event)
        except Refused:
            continue
        if event in {Event.REQUEST, Event.HOLD}:
            judged = failed = False
        judged = event in {Event.LOG_ACCEPT, Event.OVERRULE} or (judged and event is not Event.LOG_REFUSE)
        failed = failed or (event is Event.FAIL)
        if state in EST_OPEN:
            assert judged
            assert not failed
        assert (state is State.FAILED) <= failed, "imprinted or failed, never both"


@pytest.mark.req("VS-05")
def test_a_failed_device_comes_back_only_by_a_new_request() -> None:
    leads_on = {event for event in Event if TABLE.get((State.FAILED, event), State.FAILED) is not State.FAILED}
    assert leads_on == {Event.REQUEST, Event.HOLD, Event.BLOCK}


@pytest.mark.parametrize("blocked", sorted(BLOCKED))
def test_a_blocked_device_is_freed_by_nobody_but_the_operator(blocked: State) -> None:
    leads_on = {event for event in Event if TABLE.get((blocked, event), blocked) is not blocked}
    assert leads_on == {Event.UNBLOCK}
    assert blocked.told is State.BLOCKED


@given(st.lists(st.sampled_from(Event), max_size=30), st.integers(1, 3))
def test_a_block_that_is_taken_away_leaves_a_device_operational_or_new(events: list[Event], blocks: int) -> None:
    state = State.NEW
    for event in events:
        state = TABLE.get((state, event), state)
    before, was_blocked = state, state in BLOCKED
    for _ in range(blocks):
        state = step(state, Event.BLOCK)
        assert state in BLOCKED
    assert state not in EST_OPEN
    after = step(state, Event.UNBLOCK)
    assert after in {State.OPERATIONAL, State.NEW}
    if not was_blocked:
        assert after is (State.OPERATIONAL if before is State.OPERATIONAL else State.NEW)


@given(st.sampled_from(State), st.lists(st.sampled_from(Event), max_size=30))
@pytest.mark.req("EI-12", "AL-14")
def test_no_block_brings_a_device_past_its_failure_or_the_verdict(start: State, events: list[Event]) -> None:
    """Failed, blocked, unblocked, renewed, and then overruled: nobody who overrules has seen a log of that voucher."""
    if start in {State.OPERATIONAL, State.SUSPENDED, *EST_OPEN}:
        return  # these have had their verdict
    state, judged = start, False
    for event in (Event.BLOCK, Event.UNBLOCK, Event.RENEW, *events):
        judged = judged or (event in {Event.LOG_ACCEPT, Event.LOG_REFUSE} and (state, event) in TABLE)
        state = TABLE.get((state, event), state)
        assert judged or state not in {State.OPERATIONAL, State.DENIED, *EST_OPEN}


def test_what_shuts_a_device_out_keeps_its_certificate_from_being_renewed() -> None:
    assert {state for state in State if (state, Event.RENEW) not in TABLE} == SHUT
    assert BLOCKED < SHUT


def test_every_state_can_be_reached_and_left() -> None:
    reached = set(TABLE.values())
    assert reached == set(State)
    assert {state for state, _ in TABLE} == set(State)


def test_the_diagram_shows_every_state() -> None:
    drawn = diagram()
    assert all(f" {state}" in drawn for state in State)


def test_the_diagram_is_the_same_in_every_process() -> None:
    """Sets of texts have another order in each process."""
    code = "from brski_registrar import lifecycle; print(lifecycle.diagram(), end='')"
    for seed in ("1", "2", "3"):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed})
        assert done.stdout == diagram()
