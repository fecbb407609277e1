"""The judgement of the audit log, rule by rule (RFC 8995, 5.8.3)."""

from dataclasses import replace
from datetime import timedelta

import pytest

from brski_common.auditlog import AuditEvent, AuditLog, Truncation
from brski_common.errors import Refused
from brski_registrar.auditing import Context, Finding, judge, unexplained
from brski_registrar.policy import AuditPolicy, Treatment
from tests.support.world import NOW

OWN, OTHER = b"\x01" * 20, b"\x02" * 20
MINE = AuditEvent(date=NOW, domain_id=OWN, nonce="n", assertion="proximity")
CONTEXT = Context(own_domains={OWN}, nonce="n")


def log_of(*events: AuditEvent, **changes: object) -> AuditLog:
    return replace(AuditLog(events=(MINE, *events)), **changes)  # type: ignore[arg-type] # names of members


def event(**changes: object) -> AuditEvent:
    return replace(MINE, **{"nonce": "older", **changes})  # type: ignore[arg-type] # names of members


CASES: list[tuple[str, AuditLog, Context, str]] = [
    ("somebody else had it", log_of(event(domain_id=OTHER)), CONTEXT, "audit-log-unexpected-domain"),
    ("we could be reset by others", log_of(event(domain_id=OTHER, nonce=None)), CONTEXT, "audit-log-unexpected-domain"),
    ("our voucher is missing", AuditLog(events=(event(),)), CONTEXT, "audit-log-own-entry-missing"),
    ("an unknown kind of assertion", log_of(event(assertion="rumoured")), CONTEXT, "audit-log-assertion"),
    (
        "older than the purchase",
        log_of(event(date=NOW - timedelta(days=9))),
        CONTEXT._replace(purchased_on=NOW - timedelta(days=2)),
        "audit-log-before-purchase",
    ),
]


@pytest.mark.parametrize(("log", "context", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.req("AL-13", "AL-14")
def test_what_is_refused_by_default(log: AuditLog, context: Context, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        judge(log, AuditPolicy(), context)
    assert refused.value.reason == reason


@pytest.mark.req("AL-11", "AL-12", "AL-13")
def test_our_own_history_is_in_order() -> None:
    context = CONTEXT._replace(purchased_on=NOW - timedelta(days=2))
    assert judge(log_of(event(), event(date=NOW - timedelta(days=1))), AuditPolicy(), context) == ()


@pytest.mark.req("AL-13")
def test_a_known_earlier_owner_is_in_order_unless_he_could_take_the_device_back() -> None:
    rules = AuditPolicy(known_domains=(OTHER.hex(),))
    assert judge(log_of(event(domain_id=OTHER)), rules, CONTEXT) == ()
    with pytest.raises(Refused, match="audit-log-nonceless"):
        judge(log_of(event(domain_id=OTHER, nonce=None)), rules, CONTEXT)
    lenient = replace(rules, foreign_nonceless=Treatment.NOTE)
    assert [found.reason for found in judge(log_of(event(domain_id=OTHER, nonce=None)), lenient, CONTEXT)] == [
        "audit-log-nonceless"
    ]


@pytest.mark.req("AL-13", "RS-10")
def test_nonceless_entries_of_our_own_are_noted_and_may_be_refused_or_ignored() -> None:
    log = log_of(event(nonce=None))
    assert [found.reason for found in judge(log, AuditPolicy(), CONTEXT)] == ["audit-log-nonceless"]
    assert judge(log, AuditPolicy(own_nonceless=Treatment.IGNORE), CONTEXT) == ()
    with pytest.raises(Refused):
        judge(log, AuditPolicy(own_nonceless=Treatment.REFUSE), CONTEXT)


@pytest.mark.req("AL-16")
def test_the_operator_says_what_a_newer_format_means() -> None:
    log = log_of(version=2)
    assert [found.reason for found in judge(log, AuditPolicy(), CONTEXT)] == ["audit-log-newer-format"]
    with pytest.raises(Refused, match="version 2"):
        judge(log, AuditPolicy(newer_format=Treatment.REFUSE), CONTEXT)


def test_hidden_entries_are_noted_and_may_be_refused() -> None:
    log = log_of(truncation=Truncation(nonced_duplicates=3, arbitrary=2))
    assert judge(log, AuditPolicy(), CONTEXT) == (Finding(Treatment.NOTE, "audit-log-truncated", "2 entries left out"),)
    with pytest.raises(Refused):
        judge(log, AuditPolicy(arbitrary_truncation=Treatment.REFUSE), CONTEXT)
    assert judge(log_of(truncation=Truncation(nonced_duplicates=3)), AuditPolicy(), CONTEXT) == ()


@pytest.mark.req("AL-15")
def test_ignoring_history_is_said_aloud() -> None:
    (found,) = judge(log_of(event(domain_id=OTHER)), AuditPolicy(unsafe_ignore_history=True), CONTEXT)
    assert found.reason == "audit-log-history-ignored"


def test_the_operator_reads_every_reason() -> None:
    with pytest.raises(Refused) as refused:
        judge(
            log_of(event(domain_id=OTHER), event(domain_id=OTHER, nonce=None, assertion="odd")), AuditPolicy(), CONTEXT
        )
    assert refused.value.detail.count(OTHER.hex()) == 4
    assert "audit-log-assertion" in refused.value.detail


@pytest.mark.req("AL-11", "AL-13")
def test_a_voucher_in_our_name_that_we_never_asked_for_is_told() -> None:
    log, known = log_of(event(), event(nonce="rogue")), CONTEXT._replace(own_nonces={"n", "older"})
    (finding,) = judge(log, AuditPolicy(), known)
    assert (finding.treatment, finding.reason) == (Treatment.NOTE, "audit-log-own-nonce-unknown")
    assert judge(log_of(event(), event(nonce=None)), AuditPolicy(own_nonceless=Treatment.IGNORE), known) == ()
    assert judge(log, AuditPolicy(own_nonce_unknown=Treatment.IGNORE), known) == ()
    with pytest.raises(Refused, match="audit-log-own-nonce-unknown"):
        judge(log, AuditPolicy(own_nonce_unknown=Treatment.REFUSE), known)


def test_nonces_are_looked_up_only_where_the_log_asks_for_it() -> None:
    assert not unexplained(log_of(), CONTEXT)
    assert not unexplained(log_of(event(nonce=None), event(domain_id=OTHER)), CONTEXT)
    assert unexplained(log_of(event()), CONTEXT)
