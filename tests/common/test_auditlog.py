"""The audit log on the wire: the RFC's example, integers out, both in, bounded."""

import base64
import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common import auditlog
from brski_common.auditlog import AuditEvent, AuditLog, Truncation
from brski_common.errors import BrskiError, Malformed

# RFC 8995, 5.8.1, "Example of an Audit-Log Response".
RFC_EXAMPLE = b"""{
  "version":"1",
  "events":[
    {
        "date":"2019-05-15T17:25:55.644-04:00",
        "domainID":"BduJhdHPpfhQLyponf48JzXSGZ8=",
        "nonce":"VOUFT-WwrEv0NuAQEHoV7Q",
        "assertion":"proximity",
        "truncated":"0"
    },
    {
        "date":"2017-05-15T17:25:55.644-04:00",
        "domainID":"BduJhdHPpfhQLyponf48JzXSGZ8=",
        "nonce":"f4G6Vi1t8nKo/FieCVgpBg==",
        "assertion":"proximity"
    }
  ],
    "truncation": {
        "nonced duplicates": "0",
        "nonceless duplicates": "1",
        "arbitrary": "2"
     }
}"""
DOMAIN_ID = base64.b64decode("BduJhdHPpfhQLyponf48JzXSGZ8=")
EVENT = AuditEvent(
    date=datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
    domain_id=DOMAIN_ID,
    nonce="VOUFT-WwrEv0NuAQEHoV7Q",
    assertion="logged",
)


def _document(**changes: Any) -> bytes:  # noqa: ANN401 - members of any kind, wrong ones too
    return json.dumps(json.loads(auditlog.write(AuditLog(events=(EVENT,)))) | changes).encode()


def _event(**changes: Any) -> bytes:  # noqa: ANN401 - members of any kind, wrong ones too
    event = json.loads(_document())["events"][0] | changes
    return _document(events=[{name: value for name, value in event.items() if value is not ...}])


@pytest.mark.req("AL-08", "AL-11", "D-8")
def test_the_example_of_rfc_8995_is_read() -> None:
    log = auditlog.read(RFC_EXAMPLE)

    first = AuditEvent(
        date=datetime(2019, 5, 15, 21, 25, 55, 644000, tzinfo=UTC),
        domain_id=DOMAIN_ID,
        nonce="VOUFT-WwrEv0NuAQEHoV7Q",
        assertion="proximity",
    )
    assert log.events[0] == first
    assert log.events[1].nonce == "f4G6Vi1t8nKo/FieCVgpBg=="
    assert log.truncation == Truncation(nonced_duplicates=0, nonceless_duplicates=1, arbitrary=2)
    assert log.truncation
    assert log.version == 1
    assert not log.from_the_future


@pytest.mark.req("AL-08", "AL-11", "D-8")
def test_numbers_are_written_as_integers_and_the_domain_id_in_base64_once() -> None:
    log = AuditLog(
        events=(EVENT, AuditEvent(date=EVENT.date, domain_id=b"\x01", nonce=None, assertion="x", truncated=3))
    )

    assert json.loads(auditlog.write(log)) == {
        "version": 1,
        "events": [
            {
                "date": "2026-11-20T12:00:00Z",
                "domainID": "BduJhdHPpfhQLyponf48JzXSGZ8=",
                "nonce": "VOUFT-WwrEv0NuAQEHoV7Q",
                "assertion": "logged",
            },
            {"date": "2026-11-20T12:00:00Z", "domainID": "AQ==", "nonce": None, "assertion": "x", "truncated": 3},
        ],
        "truncation": {"nonced duplicates": 0, "nonceless duplicates": 0, "arbitrary": 0},
    }


@pytest.mark.req("AL-09")
@pytest.mark.parametrize(
    ("truncation", "read"),
    [(None, Truncation()), ({}, Truncation()), ({"arbitrary": 2}, Truncation(arbitrary=2))],
)
def test_absent_counters_are_zero(truncation: dict[str, int] | None, read: Truncation) -> None:
    assert auditlog.read(_document(truncation=truncation)).truncation == read


@pytest.mark.req("AL-09")
def test_truncation_itself_may_be_absent() -> None:
    document = json.loads(_document())
    del document["truncation"]

    log = auditlog.read(json.dumps(document).encode())

    assert not log.truncation


@pytest.mark.req("AL-13")
def test_a_nonceless_event_has_a_null_nonce_or_none_at_all() -> None:
    assert auditlog.read(_event(nonce=None)).events[0].nonce is None
    assert auditlog.read(_event(nonce=...)).events[0].nonce is None


@pytest.mark.req("AL-16")
def test_a_newer_log_is_read_and_says_what_is_new() -> None:
    event = json.loads(_document())["events"][0] | {"assertion": "sworn", "witness": "x", "bad\x1b": 1}

    log = auditlog.read(_document(version=2, events=[event, event], seal="y", truncation={"lost": 1}))

    assert log.from_the_future
    assert log.events[0].assertion == "sworn"
    assert log.unknown == ("seal", "events.witness", "events.bad\ufffd", "truncation.lost")


@pytest.mark.req("AL-08")
def test_a_log_without_events_is_read_but_never_written() -> None:
    log = auditlog.read(_document(events=[]))

    assert log.events == ()
    with pytest.raises(Malformed, match="auditlog-empty"):
        auditlog.write(log)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"null", "json-not-an-object"),
        (b"{}", "auditlog-events-malformed"),
        (_document(events="none"), "auditlog-events-malformed"),
        (_document(events=[[]]), "auditlog-event-malformed"),
        (_document(truncation=[1]), "auditlog-truncation-malformed"),
        (_document(truncation={"arbitrary": -1}), "auditlog-number-malformed"),
        (_document(truncation={"arbitrary": "many"}), "auditlog-number-malformed"),
        (_document(truncation={"arbitrary": None}), "auditlog-number-malformed"),
        (_document(version=0), "auditlog-number-malformed"),
        (_document(version=None), "auditlog-number-malformed"),
        (_document(version=True), "auditlog-number-malformed"),
        (_event(truncated=1.5), "auditlog-number-malformed"),
        (_event(date=...), "auditlog-date-malformed"),
        (_event(date="yesterday"), "time-malformed"),
        (_event(date="0001-01-01T00:00:00+23:59"), "time-malformed"),
        (_event(domainID=...), "auditlog-domain-id-malformed"),
        (_event(domainID="===="), "auditlog-domain-id-malformed"),
        (_event(domainID="!"), "base64-malformed"),
        (_event(nonce=5), "auditlog-nonce-malformed"),
        (_event(nonce="x" * 257), "auditlog-nonce-malformed"),
        (_event(nonce="\ud800"), "json-malformed"),
        (_event(assertion=None), "auditlog-assertion-malformed"),
        (_document(events=[{}] * (auditlog.MAX_EVENTS + 1)), "auditlog-too-long"),
        (b" " * (auditlog.MAX_AUDITLOG_BYTES + 1), "json-too-large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_log_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        auditlog.read(data)

    assert caught.value.reason == reason


counters = st.integers(0, 2**40)
moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001 - bounds
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=40)
events = st.builds(
    AuditEvent,
    date=moments,
    domain_id=st.binary(min_size=1, max_size=40),
    nonce=st.none() | names,
    assertion=names,
    truncated=counters,
)
logs = st.builds(
    AuditLog,
    events=st.lists(events, min_size=1, max_size=5).map(tuple),
    truncation=st.builds(Truncation, nonced_duplicates=counters, nonceless_duplicates=counters, arbitrary=counters),
    version=st.integers(1, 9),
)


@given(logs)
def test_a_log_comes_back_as_it_was(log: AuditLog) -> None:
    assert auditlog.read(auditlog.write(log)) == log


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("1"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["date", "domainID", "x"]), inner),
    max_leaves=8,
)


@given(st.sampled_from(["version", "events", "truncation"]), json_values)
def test_any_member_raises_only_our_error(name: str, value: object) -> None:
    with contextlib.suppress(BrskiError):
        auditlog.read(_document(**{name: value}))


@given(st.binary(max_size=300))
def test_any_bytes_raise_only_our_error(data: bytes) -> None:
    with pytest.raises(BrskiError):
        auditlog.read(data)
