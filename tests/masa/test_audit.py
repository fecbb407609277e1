"""What is recorded of a voucher, and what a registrar gets to see of it (RFC 8995, 5.8.1)."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common import auditlog
from brski_common.errors import Unknown, Untrusted
from brski_common.voucher import Assertion
from brski_masa.audit import FIRST, MAX_COUNT, Entry, Link, digest, is_owner_in_log, present, verify_chain
from tests.support.world import NOW


def entry(number: int = 0, domain: bytes = b"domain", nonce: str | None = "n") -> Entry:
    return Entry(
        device_id=1,
        serial_number="SN",
        idevid_issuer=b"issuer",
        date=NOW + timedelta(minutes=number),
        domain_id=domain,
        pinned_key=bytes(32),
        nonce=nonce,
        assertion=Assertion.PROXIMITY,
        expires_on=None,
        owner=None,
        request=bytes(32),
        requester="anonymous",
    )


def chained(count: int) -> list[Link]:
    links, previous = list[Link](), FIRST
    for number in range(1, count + 1):
        made = entry(number)
        previous = digest(previous, number, made)
        links.append(Link(number, made, previous))
    return links


@pytest.mark.req("AL-17")
def test_whole_chain_holds_and_gives_its_head() -> None:
    links = chained(5)
    assert verify_chain(links) == (5, links[-1].hash)
    assert verify_chain([]) == (0, FIRST)


@pytest.mark.req("AL-17")
@given(victim=st.integers(0, 4))
def test_nothing_can_be_changed_or_taken_out(victim: int) -> None:
    links = chained(6)
    changed = replace(links[victim], entry=links[victim].entry._replace(nonce="other"))
    for broken in (
        [*links[:victim], changed, *links[victim + 1 :]],
        [*links[:victim], *links[victim + 1 :]],
        [*links[:victim], *(replace(link, number=link.number - 1) for link in links[victim + 1 :])],
    ):
        with pytest.raises(Untrusted, match="audit-log-broken"):
            verify_chain(broken)


@pytest.mark.req("AL-10", "MA-20")
def test_short_log_is_complete_and_newest_first() -> None:
    log = present([entry(2, nonce=None), entry(1)], limit=10)
    assert [event.nonce for event in log.events] == [None, "n"]
    assert not log.truncation
    assert b'"nonce":null' in auditlog.write(log)


@pytest.mark.req("AL-10")
def test_long_log_keeps_the_newest_of_each_domain_and_kind_and_counts_the_rest() -> None:
    entries = [entry(9, b"a"), entry(8, b"a"), entry(7, b"b", None), entry(6, b"a", None), entry(5, b"b", None)]
    log = present(entries, limit=3)
    assert [(event.domain_id, event.nonce, event.truncated) for event in log.events] == [
        (b"a", "n", 1),
        (b"b", None, 1),
        (b"a", None, 0),
    ]
    assert (log.truncation.nonced_duplicates, log.truncation.nonceless_duplicates) == (1, 1)
    assert log.truncation.arbitrary == 0


@pytest.mark.req("AL-10")
def test_what_still_does_not_fit_is_counted_as_arbitrary() -> None:
    entries = [entry(9, b"a"), entry(8, b"b"), entry(7, b"c"), entry(6, b"c")]
    log = present(entries, limit=2, unread=5)
    assert [event.domain_id for event in log.events] == [b"a", b"b"]
    assert log.truncation.arbitrary == 7


@pytest.mark.req("AL-10")
def test_counters_stop_at_1024() -> None:
    log = present([entry(number) for number in range(3000)], limit=1)
    assert log.truncation.nonced_duplicates == MAX_COUNT == log.events[0].truncated


@pytest.mark.req("AL-10")
@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 10),
)
def test_nothing_is_hidden(kinds: list[tuple[bytes, bool]], limit: int) -> None:
    entries = [entry(number, domain, "n" if nonced else None) for number, (domain, nonced) in enumerate(kinds)]
    log = present(entries, limit=limit)
    counted = log.truncation.nonced_duplicates + log.truncation.nonceless_duplicates + log.truncation.arbitrary
    assert len(log.events) + counted == len(entries)
    assert len(log.events) <= limit


def test_abridging_can_be_asked_for() -> None:
    assert len(present([entry(2), entry(1)], limit=10, always_abridge=True).events) == 1


@pytest.mark.req("AL-04")
def test_empty_log_is_not_found() -> None:
    with pytest.raises(Unknown, match="audit-log-empty"):
        present([], limit=10)


def test_owner_in_the_log_is_known_by_key() -> None:
    assert is_owner_in_log([entry()], frozenset((bytes(32),)))
    assert not is_owner_in_log([entry()], frozenset((b"domain",)))
