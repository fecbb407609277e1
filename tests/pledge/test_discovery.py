"""Which offer is tried, and when (RFC 8995, 4.1 and 5.1)."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_pledge import actions, events
from brski_pledge.discovery import MAX_OFFERS, Candidates, Offer, Queries, Source, is_usable, parse_offer
from brski_pledge.settings import PledgeSettings
from tests.support.registrar_fake import Answer, Silence, Stage
from tests.support.world import Domain

A, B, C = Offer("192.0.2.1", 1), Offer("192.0.2.2", 1), Offer("192.0.2.3", 1)


def candidates(*offers: Offer) -> Candidates:
    found = Candidates(lambda: 0.0)
    for offer in offers:
        assert found.found(offer, 0.0)
    return found


# Order


@pytest.mark.req("DS-15")
def test_offers_are_tried_by_source_then_as_they_came() -> None:
    sources = [Source.CONFIGURED, Source.GRASP, Source.MDNS, Source.MDNS]
    offers = [Offer(f"192.0.2.{number}", 1, source) for number, source in enumerate(sources)]
    known, order = candidates(*offers), []
    while (best := known.best(0.0)) is not None:
        known.started(best, 0.0)
        order.append(best)
    assert order == [offers[2], offers[3], offers[1], offers[0]]


@pytest.mark.req("DS-06", "DS-07")
def test_each_offer_backs_off_by_itself_doubling_up_to_an_hour() -> None:
    known = candidates(A, B)
    delays = []
    now = 0.0
    for _ in range(14):
        known.started(A, now)
        delays.append(known.failed(A, now))
        now += delays[-1]
    assert delays[:5] == [5, 10, 20, 40, 80]
    assert delays[-1] == max(delays) == 3600
    assert known.failed(B, now) == 5


@pytest.mark.req("DS-04")
def test_a_link_that_comes_up_ends_back_offs() -> None:
    known = candidates(A)
    known.started(A, 0.0)
    known.failed(A, 0.0)
    assert known.best(1.0) is None
    known.forgive(1.0)
    assert known.best(1.0) == A
    known.started(A, 1.0)
    assert known.failed(A, 1.0) == 5


@given(st.floats(0, 0.999))
def test_back_offs_are_spread_but_never_above_an_hour(share: float) -> None:
    known = Candidates(lambda: share)
    known.found(A, 0.0)
    for _ in range(30):
        known.started(A, 0.0)
        assert 4.5 <= known.failed(A, 0.0) <= 3600


@pytest.mark.req("DS-04", "DS-13")
def test_rounds_of_queries_double_up_to_an_hour() -> None:
    queries, times = Queries(0.0), []
    for _ in range(15):
        times.append(queries.due)
        queries.sent(queries.due)
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps[:4] == [1, 2, 4, 8]
    assert gaps[-1] == max(gaps) == 3600
    queries.restart(99999.0)
    queries.sent(99999.0)
    assert queries.due == 100000.0


@pytest.mark.req("TL-07")
def test_a_flood_of_offers_is_bounded_and_failures_make_room() -> None:
    known = candidates(*[Offer(f"fe80::{number:x}%eth0", 1, Source.MDNS) for number in range(MAX_OFFERS)])
    assert not known.found(A, 0.0)
    first = known.best(0.0)
    assert first is not None
    known.started(first, 0.0)
    known.failed(first, 0.0)
    assert known.found(A, 0.0)
    assert len(known) == MAX_OFFERS


@pytest.mark.req("DS-16")
def test_the_cloud_waits_until_nothing_local_is_left() -> None:
    cloud = Offer("cloud.example", 443, Source.CLOUD)
    known = candidates(A, cloud)
    assert known.best(0.0) == A
    known.started(A, 0.0)
    assert known.best(0.0) is None
    known.failed(A, 0.0)
    assert known.best(0.0) == cloud


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:8443", "192.0.2.1", 8443),
        ("[fe80::1%eth0]:8443", "fe80::1%eth0", 8443),
        (" registrar.example:443 ", "registrar.example", 443),
    ],
)
def test_offers_are_read(text: str, host: str, port: int) -> None:
    offer = parse_offer(text)
    assert (offer.host, offer.port) == (host, port)
    assert parse_offer(str(offer)) == offer


@pytest.mark.parametrize(
    "text",
    ["", ":1", "host", "host:", "host:0", "host:70000", "host:x", "fe80::1:8443", "[fe80::1]", "a b:1", "https://h:1"],
)
def test_what_is_no_offer_is_said_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|port|name"):
        parse_offer(text)


def test_a_default_port_fills_in() -> None:
    assert parse_offer("cloud.example", port=443) == Offer("cloud.example", 443)
    assert parse_offer("[2001:db8::1]", port=443) == Offer("2001:db8::1", 443)


@given(st.text(), st.integers())
def test_any_text_is_an_offer_or_is_not(host: str, port: int) -> None:
    if is_usable(Offer(host, port)):
        assert parse_offer(str(Offer(host, port))).port == port


# In the machine


def stage_of(count: int, **settings: object) -> Stage:
    stage = Stage(settings=PledgeSettings(mdns=False, **settings))  # type: ignore[arg-type] # as PledgeSettings takes them
    for number in range(1, count + 1):
        stage.add(f"192.0.2.{number}")
        stage.find(f"192.0.2.{number}")
    return stage


def silence(stage: Stage, *numbers: int) -> None:
    for number in numbers:
        stage.registrars[f"192.0.2.{number}", 8443].always["requestvoucher"] = Silence()


def starts(stage: Stage) -> list[tuple[float, str]]:
    return [(seconds, action.host) for seconds, action in stage.history if isinstance(action, actions.Connect)]


@pytest.mark.req("DS-08", "TL-08", "AT-07", "DS-09", "DS-07")
def test_attempts_overlap_with_starts_some_seconds_apart() -> None:
    stage = stage_of(3)
    silence(stage, 1, 2)
    assert isinstance(stage.run(), actions.Done)
    assert starts(stage)[:3] == [(0.0, "192.0.2.1"), (4.0, "192.0.2.2"), (8.0, "192.0.2.3")]
    assert 3 <= stage.settings.attempt_spacing <= 5
    nonces = [r.nonce for registrar in stage.registrars.values() for r in registrar.requests()]
    assert len(set(nonces)) == len(nonces) == 3


@pytest.mark.req("DS-08")
def test_offers_heard_of_later_are_tried_while_others_are_under_way() -> None:
    stage = stage_of(1)
    silence(stage, 1)
    stage.run(10)
    stage.add("192.0.2.2")
    stage.find("192.0.2.2")
    assert isinstance(stage.run(), actions.Done)
    assert starts(stage)[1] == (10.0, "192.0.2.2")


@pytest.mark.req("AT-01")
def test_the_first_voucher_that_holds_ends_all_other_attempts() -> None:
    stage = stage_of(3)
    silence(stage, 1, 2)
    stage.run()
    closed = [action.attempt for action in stage.did(actions.CloseConnection)]
    assert {1, 2} <= set(closed)
    for number in (1, 2):
        assert stage.registrars[f"192.0.2.{number}", 8443].asked("cacerts") == []


@pytest.mark.req("TL-09", "AT-07")
def test_with_one_connection_the_stalled_one_gives_way_after_five_seconds() -> None:
    stage = stage_of(3, max_connections=1)
    silence(stage, 1, 2)
    assert isinstance(stage.run(), actions.Done)
    assert starts(stage)[:3] == [(0.0, "192.0.2.1"), (5.0, "192.0.2.2"), (10.0, "192.0.2.3")]


@pytest.mark.req("TL-09")
def test_with_one_connection_the_least_recently_tried_offer_is_next() -> None:
    stage = stage_of(3, max_connections=1)
    silence(stage, 1, 2, 3)
    stage.run(29)
    assert [host[-1] for _, host in starts(stage)] == ["1", "2", "3", "1", "2", "3"]


@pytest.mark.req("TL-09")
def test_with_nobody_else_to_ask_the_slow_one_is_waited_for() -> None:
    stage = stage_of(1, max_connections=1)
    silence(stage, 1)
    stage.run(29)
    assert len(starts(stage)) == 1


@pytest.mark.req("TL-09", "VR-14")
def test_who_asked_for_patience_keeps_its_request_while_others_use_the_connection() -> None:
    stage = stage_of(2, max_connections=1)
    patient, other = (stage.registrars[f"192.0.2.{number}", 8443] for number in (1, 2))
    patient.script("requestvoucher", *[Answer(202, b"", {"Retry-After": "10"})] * 3)
    other.credential = Domain("Other Plant").registrar
    assert isinstance(stage.run(), actions.Done)
    assert len({send.body for send in patient.asked("requestvoucher")}) == 1
    assert len(other.asked("requestvoucher")) >= 1


@pytest.mark.req("DS-06", "DS-10")
def test_offers_that_fail_are_tried_again_less_and_less_often() -> None:
    stage = stage_of(1)
    stage.registrars["192.0.2.1", 8443].always["requestvoucher"] = Answer(404)
    stage.run(3 * 3600)
    times = [seconds for seconds, _ in starts(stage)]
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps[:4] == [5, 10, 20, 40]
    assert max(gaps) == 3600


@pytest.mark.req("DS-04")
def test_a_link_that_comes_up_brings_everything_back_to_life() -> None:
    stage = Stage(settings=PledgeSettings(registrars=("192.0.2.1:8443",)))
    stage.add().always["requestvoucher"] = Answer(404)
    stage.run(2000)
    count = len(starts(stage))
    queries = len(stage.did(actions.Discover))
    stage.tell(actions.LinkUp())
    stage.run(0.5)
    assert len(starts(stage)) == count + 1
    assert len(stage.did(actions.Discover)) == queries + 1


@pytest.mark.req("DS-03", "DS-04", "DS-10", "ST-01")
def test_queries_go_on_beside_attempts_and_back_off() -> None:
    stage = Stage(settings=PledgeSettings())
    stage.add().always["requestvoucher"] = Answer(404)
    stage.find()
    stage.run(10)
    assert stage.times(actions.Discover) == [0, 1, 3, 7]
    stage.run(8 * 3600)
    gaps = stage.times(actions.Discover)
    assert gaps[-1] - gaps[-2] == 3600


@pytest.mark.req("DS-14")
def test_an_offer_that_was_never_asked_for_is_enough() -> None:
    stage = Stage(settings=PledgeSettings(mdns=False, grasp=False))
    registrar = stage.add()
    stage.find()
    assert isinstance(stage.run(), actions.Done)
    assert stage.did(actions.Discover) == []
    assert registrar.seen


def test_what_is_configured_gives_what_is_discovered_a_head_start() -> None:
    stage = Stage(settings=PledgeSettings(registrars=("192.0.2.1:8443",)))
    stage.add()
    assert isinstance(stage.run(), actions.Done)
    assert starts(stage)[0] == (2.0, "192.0.2.1")


@pytest.mark.req("DS-16")
def test_the_cloud_is_asked_after_looking_around() -> None:
    domain = Domain()
    stage = Stage(settings=PledgeSettings(cloud_registrar="cloud.example"), cloud_anchors=domain.anchors)
    stage.add("cloud.example", 443)
    stage.run(29)
    assert starts(stage) == []
    stage.run(2)
    assert starts(stage)[0] == (30.0, "cloud.example")


@pytest.mark.parametrize("offers", [(), ("192.0.2.1:8443",)])
def test_only_who_says_once_ever_gives_up(offers: tuple[str, ...]) -> None:
    stage = Stage(settings=PledgeSettings(registrars=offers, once=True))
    failed = stage.run()
    assert isinstance(failed, actions.Failed)
    assert failed.reason == ("peer-unreachable" if offers else "no-registrar-found")
    patient = Stage(settings=PledgeSettings(registrars=offers))
    assert isinstance(patient.run(100_000), actions.Wait)


def test_once_waits_for_all_offers() -> None:
    stage = stage_of(2, once=True)
    stage.registrars["192.0.2.1", 8443].always["requestvoucher"] = Answer(403)
    stage.registrars["192.0.2.2", 8443].script("requestvoucher", Answer(202, b"", {"Retry-After": "60"}))
    assert isinstance(stage.run(), actions.Done)


def test_an_offer_that_is_no_address_is_not_tried() -> None:
    stage = Stage()
    stage.find("bad host", 1)
    stage.find("192.0.2.1", 0)
    stage.run(60)
    assert starts(stage) == []
    assert stage.told(events.OfferFound) == []
