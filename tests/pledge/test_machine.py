"""The machine as such: its table, and that no input in no state gets it off the table."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brski_common import est
from brski_common.certificates import Peer
from brski_pledge import actions
from brski_pledge.actions import Moment
from brski_pledge.bootstrap import MAX_ATTEMPTS, Bootstrap, State
from brski_pledge.discovery import Offer, Source
from brski_pledge.line import Surroundings
from brski_pledge.phases import TERMINAL, TRANSITIONS, Phase, Turn, mermaid
from brski_pledge.settings import PledgeSettings
from tests.support.registrar_fake import Answer, Silence, Stage
from tests.support.world import NOW, Domain, key_for, self_signed_registrar

DOMAIN = Domain()


@pytest.mark.req("ST-03")
def test_every_phase_is_reached_and_left_by_the_table() -> None:
    reached = {Phase.IDENTIFY} | set(TRANSITIONS.values())
    assert reached == set(Phase)
    assert {phase for phase, _ in TRANSITIONS} == set(Phase) - TERMINAL


@pytest.mark.req("ST-03")
def test_every_phase_can_end() -> None:
    """From each phase a path leads to an end, so nothing waits for ever by construction."""
    ends = set(TERMINAL)
    while more := {phase for (phase, _), target in TRANSITIONS.items() if target in ends} - ends:
        ends |= more
    assert ends == set(Phase)


@pytest.mark.req("PV-12", "EI-12", "RS-02")
def test_est_is_only_reached_through_imprint() -> None:
    enrolling = {Phase.ANCHORS, Phase.ATTRIBUTES, Phase.KEY, Phase.ENROLL, Phase.SAVE, Phase.CONFIRM}
    without = {key: target for key, target in TRANSITIONS.items() if Phase.IMPRINT not in (key[0], target)}
    reached = {Phase.IDENTIFY}
    while more := {target for (phase, _), target in without.items() if phase in reached} - reached:
        reached |= more
    assert not reached & enrolling


def test_the_diagram_shows_the_whole_table() -> None:
    text = mermaid()
    drawn = [line for line in text.splitlines() if "-->" in line]
    shown = [key for key in TRANSITIONS if key[1] is not Turn.CLOSED]
    assert len(drawn) == len(shown) + 1 + len(TERMINAL)
    assert "request --> imprint: done" in text


# Any input in any state

peers = st.sampled_from(
    [
        Peer(credential.certificate, credential.chain)
        for credential in (DOMAIN.registrar, Domain("Other Plant").registrar, self_signed_registrar())
    ]
)
numbers = st.integers(0, 6)
statuses = st.sampled_from([100, 200, 202, 204, 301, 303, 307, 400, 401, 404, 500, 503, 599])
headers = st.dictionaries(
    st.sampled_from(["Content-Type", "content-type", "Retry-After", "Location", "X"]),
    st.sampled_from(["application/voucher-cms+json", "5", "999999", "https://192.0.2.9/x", "/x", "", "\udcff", "☃"])
    | st.text(max_size=20),
    max_size=4,
)
bodies = st.sampled_from([b"", b"!", b"MAA=\n", est.encode_body(est.certs_only(DOMAIN.root.chain))]) | st.binary(
    max_size=40
)
offers = st.builds(
    Offer,
    st.sampled_from(["192.0.2.1", "fe80::1%1", "x.example", "bad host"]),
    st.integers(0, 70000),
    st.sampled_from(Source),
)
texts = st.text(max_size=10)
inputs: st.SearchStrategy[Any] = st.one_of(
    st.builds(actions.Found, offers),
    st.builds(actions.Connected, numbers, peers, st.none() | st.binary(max_size=12)),
    st.builds(actions.Response, numbers, statuses, headers, bodies),
    st.builds(actions.Lost, numbers, texts, texts),
    st.builds(actions.KeyMade, numbers, st.just(key_for("any"))),
    st.builds(actions.RevocationLists, numbers, st.dictionaries(texts, st.binary(max_size=5), max_size=2)),
    st.builds(actions.Saved, numbers),
    st.builds(actions.NotDone, numbers, texts),
    st.just(actions.Tick()),
    st.just(actions.LinkUp()),
    st.just(actions.FactoryReset()),
)


def drain(machine: Bootstrap, now: Moment) -> list[actions.Action]:
    """All actions until the machine waits."""
    found: list[actions.Action] = []
    for _ in range(500):
        found.append(machine.next(now))
        if isinstance(found[-1], actions.Wait | actions.Done | actions.Failed):
            return found
    raise AssertionError("the machine never rests")


@given(st.lists(st.tuples(inputs, st.floats(0, 100)), max_size=30), st.booleans(), st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_input_in_any_state_leaves_the_machine_on_its_table(
    told: list[tuple[Any, float]], once: bool, clock: bool
) -> None:
    stage = Stage(settings=PledgeSettings(registrars=("192.0.2.1:8443",), once=once, configured_after=0.0))
    machine = Bootstrap(Surroundings(stage.device, stage.settings, bytes), Moment(0.0))
    seconds = 0.0
    for each, later in told:
        seconds += later
        now = Moment(seconds, NOW + timedelta(seconds=seconds) if clock else None)
        machine.feed(each, now)
        for action in drain(machine, now):
            if isinstance(action, actions.Wait):
                assert action.until is None or action.until > seconds
        assert len(machine.phases) <= MAX_ATTEMPTS
        assert not set(machine.phases.values()) & TERMINAL
    assert machine.state in State


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_a_conversation_disturbed_at_any_point_stays_on_the_table(data: st.DataObject) -> None:
    """A good registrar answers, and something else happens in between."""
    stage = Stage(settings=PledgeSettings(mdns=False, registrars=("192.0.2.1:8443",)))
    stage.add()
    machine = stage.machine()
    for _ in range(data.draw(st.integers(0, 40))):
        for told in stage.carry_out(machine.next(stage.now)):
            stage.tell(told)
    for _ in range(data.draw(st.integers(1, 3))):
        stage.tell(data.draw(inputs))
    drain(machine, stage.now)
    assert not set(machine.phases.values()) & TERMINAL


@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_disturbed_once_the_device_gets_there_in_the_end(data: st.DataObject) -> None:
    """No disturbance wedges it: with the registrar back to normal, every device onboards."""
    stage = Stage(settings=PledgeSettings(mdns=False, registrars=("192.0.2.1:8443",)))
    registrar = stage.add()
    operation = data.draw(st.sampled_from(["requestvoucher", "voucher_status", "cacerts", "csrattrs", "simpleenroll"]))
    replies = st.builds(Answer, statuses, bodies, headers, st.booleans()) | st.just(Silence())
    registrar.script(operation, *data.draw(st.lists(replies, min_size=1, max_size=3)))
    assert isinstance(stage.run(3 * 3600), actions.Done)


def test_the_number_of_attempts_is_bounded() -> None:
    stage = Stage()
    for number in range(40):
        registrar = stage.add(f"192.0.2.{number}")
        registrar.always["requestvoucher"] = Answer(202, b"", {"Retry-After": "60"})
        stage.find(f"192.0.2.{number}")
    stage.run(1000)
    assert len(stage.machine().phases) <= MAX_ATTEMPTS
    opened: set[int] = set()
    for _, action in stage.history:
        if isinstance(action, actions.Connect):
            opened.add(action.attempt)
        elif isinstance(action, actions.CloseConnection):
            opened.discard(action.attempt)
        assert len(opened) <= stage.settings.max_connections
