"""The one table of a device's life, taken as a whole."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common.errors import Refused
from brski_registrar.lifecycle import BLOCKED, EST_OPEN, SHUT, TABLE, Event, Standing, State, diagram, follow, step

PAIRS = [(state, event) for state in State for event in Event]
PARDONS = {Event.LOG_ACCEPT, Event.OVERRULE}


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
        before = state
        try:
            state = step(state, event)
        except Refused:
            continue
        if event in {Event.REQUEST, Event.HOLD}:
            judged = failed = False
        speaks_for_it = event is Event.LOG_ACCEPT or (event, before) == (Event.OVERRULE, State.DENIED)
        judged = speaks_for_it or (judged and event is not Event.LOG_REFUSE)
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
    leads_on = {event for event in Event if TABLE.get((blocked, event), blocked) not in BLOCKED}
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
        verdict = {Event.LOG_ACCEPT: State.APPROVED, Event.LOG_REFUSE: State.DENIED}.get(event)
        judged = judged or (verdict is not None and TABLE.get((state, event)) is verdict)
        state = TABLE.get((state, event), state)
        assert judged or state not in {State.OPERATIONAL, State.DENIED, *EST_OPEN}


def test_what_shuts_a_device_out_keeps_its_certificate_from_being_renewed() -> None:
    assert {state for state in State if (state, Event.RENEW) not in TABLE} == SHUT
    assert BLOCKED < SHUT


@given(st.lists(st.sampled_from(Event), max_size=40))
@pytest.mark.req("AL-14")
def test_what_the_last_verdict_was_is_known_whatever_else_happened(events: list[Event]) -> None:
    standing, against = Standing(State.NEW, is_barred=False), False
    for event in events:
        try:
            standing = follow(standing, (event,))
        except Refused:
            continue
        assert not (against and event is Event.RENEW), "renewed in spite of its log"
        against = event is Event.LOG_REFUSE or (against and event not in PARDONS)
        assert standing.is_barred is against
        if standing.is_barred:
            assert standing.state not in {State.OPERATIONAL, State.SUSPENDED, *EST_OPEN}
        assert standing.is_barred or standing.state is not State.DENIED


@given(st.sampled_from(State), st.lists(st.sampled_from(sorted(set(Event) - PARDONS)), max_size=40))
@pytest.mark.req("AL-14")
def test_after_a_verdict_against_it_nothing_renews_a_device_but_a_verdict_for_it(
    start: State, events: list[Event]
) -> None:
    standing = follow(Standing(start, start is State.DENIED), (Event.LOG_REFUSE,))
    for event in events:
        with pytest.raises(Refused) as refused:
            follow(standing, (Event.RENEW,))
        assert refused.value.reason == ("device-blocked" if standing.state in BLOCKED else "device-denied")
        try:
            standing = follow(standing, (event,))
        except Refused:
            continue
        assert standing.state not in EST_OPEN


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_an_operator_can_overrule_a_verdict_wherever_the_device_stands_but_no_more_than_that(
    events: list[Event],
) -> None:
    standing = Standing(State.NEW, is_barred=False)
    for event in (*events, Event.OVERRULE):
        is_pardon = event is Event.OVERRULE and standing.is_barred and standing.state not in BLOCKED
        try:
            after = follow(standing, (event,))
        except Refused:
            assert not is_pardon
            continue
        if event is Event.OVERRULE:
            assert is_pardon, "nothing to overrule"
            assert after.state is (State.APPROVED if standing.state is State.DENIED else standing.state)
            follow(after, (Event.RENEW,))
        standing = after


def test_a_verdict_is_taken_in_every_state() -> None:
    assert {state for state in State if (state, Event.LOG_REFUSE) in TABLE} == set(State)


def test_a_block_that_meets_a_verdict_gives_nothing_back() -> None:
    suspended = Standing(State.SUSPENDED, is_barred=False)
    assert follow(suspended, (Event.LOG_REFUSE,)) == Standing(State.BLOCKED, is_barred=True)
    assert follow(suspended, (Event.LOG_REFUSE, Event.UNBLOCK)) == Standing(State.NEW, is_barred=True)


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
