"""The one table of a device's life, taken as a whole."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common.errors import Refused
from brski_registrar.lifecycle import EST_OPEN, TABLE, Event, State, diagram, step

PAIRS = [(state, event) for state in State for event in Event]


@given(st.sampled_from(State), st.sampled_from(Event))
def test_any_event_in_any_state_is_a_state_or_a_refusal(state: State, event: Event) -> None:
    if (state, event) in TABLE:
        assert step(state, event) is TABLE[state, event]
    else:
        with pytest.raises(Refused) as refused:
            step(state, event)
        assert refused.value.reason == ("device-blocked" if state is State.BLOCKED else "event-out-of-order")


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


def test_a_blocked_device_is_freed_by_nobody_but_the_operator() -> None:
    leads_on = {event for event in Event if TABLE.get((State.BLOCKED, event), State.BLOCKED) is not State.BLOCKED}
    assert leads_on == {Event.UNBLOCK}


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
