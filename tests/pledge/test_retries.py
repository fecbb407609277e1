"""Patience and its end: 202, Retry-After, redirections, lost connections (RFC 8995, 5.6)."""

from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common.errors import BrskiError, PeerFailed
from brski_pledge import actions, events
from brski_pledge.actions import Response
from brski_pledge.answers import (
    DEFAULT_WAIT,
    MAX_REDIRECTS,
    MAX_WAIT,
    MIN_WAIT,
    Target,
    redirection,
    refusal,
    wait_after,
)
from brski_pledge.settings import PledgeSettings
from tests.support.registrar_fake import Answer, FakeRegistrar, HangUp, Reply, Silence, Stage
from tests.support.world import NOW, Domain, key_for

DAY = 24 * 3600.0


def not_yet(seconds: object = 5) -> Answer:
    return Answer(202, b"", {"Retry-After": str(seconds)})


def waiting(*replies: Reply, settings: PledgeSettings | None = None) -> tuple[Stage, FakeRegistrar]:
    stage = Stage(settings=settings or PledgeSettings(mdns=False))
    registrar = stage.add()
    registrar.script("requestvoucher", *replies)
    stage.find()
    return stage, registrar


def times_of(stage: Stage, operation: str) -> list[float]:
    return [
        seconds
        for seconds, action in stage.history
        if isinstance(action, actions.Send) and action.path.endswith(operation)
    ]


# 202


@pytest.mark.req("VR-14", "HT-03", "ST-08")
def test_after_202_the_very_same_bytes_are_sent_again() -> None:
    stage, registrar = waiting(not_yet(), not_yet(), not_yet())
    assert isinstance(stage.run(), actions.Done)
    bodies = [send.body for send in registrar.asked("requestvoucher")]
    assert len(bodies) == 4
    assert len(set(bodies)) == 1
    assert [event.seconds for event in stage.told(events.Waiting)] == [5, 5, 5]


@pytest.mark.req("HT-03", "AT-08")
@pytest.mark.parametrize(
    ("said", "waited"),
    [("5", 5), ("59", 59), ("60", 60), ("61", 60), ("86400", 60), ("999999999999", 60), ("0", 1), ("-5", 10)],
)
def test_the_wait_is_the_registrars_wish_up_to_a_minute(said: str, waited: float) -> None:
    stage, _ = waiting(not_yet(said))
    stage.run()
    assert times_of(stage, "requestvoucher") == [0, waited]


ENDLESS = "9" * 5000  # more digits than Python makes a number of
NO_DATES = [
    "Wed, 99 Foo 2026 00:00:00 GMT",
    "Mon, 01 Jan 2020 00:00:00 +999999999999999999999",
    "Mon, 01 Jan 2020 00:00:00 -2400",
    "Mon, 01 Jan 999999999999 00:00:00 GMT",
    "Mon, 01 Jan 2020 99999999999999999999:00:00 GMT",
    f"Mon, 01 Jan {ENDLESS} 00:00:00 GMT",
    f"-{ENDLESS}",
]


@pytest.mark.parametrize("said", ["soon", "", "1e3", "5 seconds", "\u0665", "Wed,", *NO_DATES])
def test_a_wish_nobody_understands_is_a_fixed_wait(said: str) -> None:
    assert wait_after(Response(1, 202, {"retry-after": said}), None, NOW) == DEFAULT_WAIT


@pytest.mark.parametrize("said", [ENDLESS, "9" * 20, "Fri, 31 Dec 9999 23:59:59 -2359"])
def test_a_wish_beyond_all_bounds_is_the_longest_wait(said: str) -> None:
    assert wait_after(Response(1, 202, {"retry-after": said}), None, NOW) == MAX_WAIT


_DIGITS = st.one_of(st.integers(0, 99999), st.integers(10**11, 10**30), st.just(int("9" * 4300))).map(str)
_DATES = st.tuples(_DIGITS, _DIGITS, _DIGITS, st.sampled_from("+- "), _DIGITS).map(
    lambda drawn: "Mon, {} Jan {} {}:00:00 {}{}".format(*drawn)
)


@pytest.mark.req("AT-08", "AT-10")
@given(st.one_of(st.text(max_size=60), _DATES, st.text("0123456789 :+-,./GMTJanMon", max_size=60)))
def test_any_wish_is_a_wait_within_bounds(said: str) -> None:
    for now in (NOW, None):
        assert MIN_WAIT <= wait_after(Response(1, 202, {"retry-after": said}), None, now) <= MAX_WAIT


@pytest.mark.req("AT-08", "DS-05")
@pytest.mark.parametrize("said", [*NO_DATES, ENDLESS])
def test_after_a_wish_nobody_understands_the_next_registrar_is_asked(said: str) -> None:
    stage, rogue = waiting(*[not_yet(said)] * 100)
    owner = stage.add("192.0.2.2")
    stage.find("192.0.2.2")
    assert isinstance(stage.run(), actions.Done)
    assert rogue.asked("requestvoucher")
    assert owner.asked("simpleenroll")


def test_a_date_counts_only_with_a_clock() -> None:
    later = format_datetime(NOW + timedelta(seconds=30), usegmt=True)
    response = Response(1, 202, {"Retry-After": later})
    assert wait_after(response, None, NOW) == 30
    assert wait_after(response, None, None) == DEFAULT_WAIT
    assert wait_after(response, None, NOW + timedelta(days=1)) == 1
    assert wait_after(response, None, NOW - timedelta(days=1)) == MAX_WAIT


@pytest.mark.req("HT-04")
def test_one_configured_wait_may_replace_all_wishes() -> None:
    stage, _ = waiting(not_yet(2), not_yet(50), settings=PledgeSettings(mdns=False, retry_after=20.0))
    stage.run()
    assert times_of(stage, "requestvoucher") == [0, 20, 40]


@pytest.mark.req("HT-05")
def test_after_four_days_the_attempt_fails_and_begins_anew() -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.always["requestvoucher"] = not_yet(60)
    stage.find()
    stage.run(4 * DAY + 120)
    (failure,) = stage.told(events.AttemptFailed)
    assert failure.reason == "registrar-never-ready"
    at = next(seconds for seconds, action in stage.history if action == actions.Notify(failure))
    assert 4 * DAY - 60 <= at <= 4 * DAY
    bodies = [send.body for send in registrar.asked("requestvoucher")]
    assert len(set(bodies[:-2])) == 1
    assert bodies[-1] != bodies[0], "a new attempt has a new nonce"


def test_the_certificate_may_take_its_time_too() -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.script("simpleenroll", not_yet(30), not_yet(30))
    stage.find()
    assert isinstance(stage.run(), actions.Done)
    assert times_of(stage, "simpleenroll") == [0, 30, 60]
    assert len({send.body for send in registrar.asked("simpleenroll")}) == 1


@pytest.mark.req("TL-11", "VR-14")
def test_a_connection_lost_while_waiting_is_opened_again_to_the_same_registrar() -> None:
    stage, registrar = waiting(replace(not_yet(), close=True), replace(not_yet(), close=True))
    assert isinstance(stage.run(), actions.Done)
    assert len({send.body for send in registrar.asked("requestvoucher")}) == 1
    assert len(registrar.clients) == 4


@pytest.mark.req("TL-11", "AT-25")
def test_after_the_wait_another_certificate_is_refused() -> None:
    stage, registrar = waiting(replace(not_yet(), close=True))
    stage.run(2)
    registrar.credential = Domain().registrar_with(key=key_for("second registrar"))
    stage.run(6)
    assert stage.told(events.AttemptFailed)[0].reason == "registrar-certificate-changed"


def test_a_registrar_out_of_reach_for_some_minutes_does_not_cost_four_days() -> None:
    stage, registrar = waiting(replace(not_yet(), close=True))
    stage.run(2)
    del stage.registrars["192.0.2.1", 8443]
    stage.run(180)
    stage.registrars["192.0.2.1", 8443] = registrar
    assert isinstance(stage.run(), actions.Done)
    assert len({send.body for send in registrar.asked("requestvoucher")}) == 1


def test_a_registrar_out_of_reach_for_long_is_given_up() -> None:
    stage, _ = waiting(replace(not_yet(), close=True))
    stage.run(2)
    stage.registrars.clear()
    stage.run(400)
    assert stage.told(events.AttemptFailed)[0].reason == "peer-unreachable"


# Silence


@pytest.mark.req("AT-07")
def test_a_registrar_that_never_answers_is_given_up() -> None:
    stage, _ = waiting(Silence())
    stage.run(31)
    (failure,) = stage.told(events.AttemptFailed)
    assert failure.reason == "peer-timeout"
    assert stage.did(actions.CloseConnection)


def test_a_handshake_that_never_ends_is_given_up() -> None:
    stage = Stage()
    stage.add(reachable=False)
    stage.find()
    stage.run(11)
    assert stage.told(events.AttemptFailed)[0].reason == "peer-timeout"


@pytest.mark.parametrize("operation", ["cacerts", "csrattrs", "simpleenroll"])
def test_silence_after_the_voucher_ends_in_discovery_again(operation: str) -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.always[operation] = Silence()
    stage.find()
    stage.run(32)
    assert stage.told(events.AttemptFailed)[0].reason == "peer-timeout"


def test_a_connection_lost_before_any_answer_is_not_repaired() -> None:
    stage, registrar = waiting(HangUp())
    stage.run(2)
    assert len(registrar.asked("requestvoucher")) == 1
    assert stage.told(events.AttemptFailed)


# Redirections


def to(location: str, status: int = 307) -> Answer:
    return Answer(status, b"", {"Location": location})


@pytest.mark.req("HT-06", "E-07")
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_one_redirection_to_another_origin_is_followed(status: int) -> None:
    stage, first = waiting(to("https://registrar.example:9443/brski/v2/requestvoucher", status))
    second = stage.add("registrar.example", 9443, credential=Domain().registrar_with(key=key_for("second registrar")))
    assert isinstance(stage.run(), actions.Done)
    assert [send.path for send in second.asked("requestvoucher")] == ["/brski/v2/requestvoucher"]
    (before,), (after,) = first.requests(), second.requests()
    assert after.nonce != before.nonce
    assert after.proximity_registrar_cert != before.proximity_registrar_cert
    assert len(first.seen) == 1


@pytest.mark.req("HT-06", "AT-09")
def test_a_second_redirection_to_another_origin_is_not() -> None:
    stage, _ = waiting(to("https://192.0.2.2/x"))
    stage.add("192.0.2.2", 443).script("requestvoucher")
    stage.registrars["192.0.2.2", 443].always["x"] = to("https://192.0.2.3/x")
    third = stage.add("192.0.2.3", 443)
    stage.run(3)
    assert third.seen == []
    assert stage.told(events.AttemptFailed)[0].reason == "redirect-loop"


@pytest.mark.req("AT-09")
def test_two_registrars_that_send_to_each_other_end() -> None:
    stage = Stage()
    stage.add().always["requestvoucher"] = to("https://192.0.2.2:8443/.well-known/brski/requestvoucher")
    stage.add("192.0.2.2").always["requestvoucher"] = to("https://192.0.2.1:8443/.well-known/brski/requestvoucher")
    stage.find()
    stage.run(3)
    assert stage.told(events.AttemptFailed)[0].reason == "redirect-loop"


@pytest.mark.req("E-07")
def test_within_the_origin_a_few_redirections_are_followed() -> None:
    stage, registrar = waiting(to("/other/requestvoucher"), to("https://192.0.2.1:8443/third/requestvoucher"))
    assert isinstance(stage.run(), actions.Done)
    paths = [send.path for send in registrar.asked("requestvoucher")]
    assert paths == ["/.well-known/brski/requestvoucher", "/other/requestvoucher", "/third/requestvoucher"]
    assert len({send.body for send in registrar.asked("requestvoucher")}) == 1


@pytest.mark.req("AT-09")
def test_within_the_origin_not_for_ever() -> None:
    stage, registrar = waiting(*[to("/requestvoucher")] * 20)
    stage.run(3)
    assert len(registrar.asked("requestvoucher")) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://h.example/a?b=c", Target("h.example", 443, "/a?b=c")),
        ("https://h.example:1", Target("h.example", 1, "/")),
        ("//h.example/a", Target("h.example", 443, "/a")),
        ("b", Target("fe80::1%eth0", 8443, "/a/b")),
        ("https://[fe80::1]:8443/x", Target("fe80::1%eth0", 8443, "/x")),
        ("https://[2001:db8::1]/x", Target("2001:db8::1", 443, "/x")),
    ],
)
def test_where_a_redirection_leads(location: str, target: Target) -> None:
    answer = Response(1, 307, {"location": location})
    assert redirection(answer, "fe80::1%eth0", 8443, "/a/requestvoucher") == target


@pytest.mark.parametrize(
    "location",
    [
        "http://h.example/a",
        "ftp://h.example",
        "https://user@h.example/",
        "https://h.example:0/",
        "https://h.example:99999/",
        "https://[::1/",
        "https://h example/",
        "https://h.example/\r\nX: y",
        "https://h.example/" + "a" * 2000,
        "javascript:alert(1)",
        "",
    ],
)
def test_a_redirection_to_nowhere_ends_the_attempt(location: str) -> None:
    with pytest.raises(BrskiError):
        redirection(Response(1, 307, {"Location": location}), "192.0.2.1", 8443, "/")


@pytest.mark.parametrize("status", [300, 303, 304, 305, 399])
def test_what_is_no_place_to_repeat_a_post_is_not_followed(status: int) -> None:
    with pytest.raises(PeerFailed):
        redirection(Response(1, status, {"Location": "/a"}), "192.0.2.1", 8443, "/")


def test_a_refusal_keeps_only_a_harmless_line_of_the_registrars_words() -> None:
    error = refusal("x", Response(1, 403, {}, b"\x1b[2J" + "ü".encode() + b"\n" * 5 + b"A" * 10_000))
    assert len(error.detail) < 200
    assert error.detail.isprintable()
    assert refusal("x", Response(1, 403, {"Content-Type": "text/html"}, b"<script>")).detail == "HTTP 403"
    assert isinstance(refusal("x", Response(1, 502)), PeerFailed)
