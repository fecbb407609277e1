"""What a MASA's audit log says about a device, and whether it may go on (RFC 8995, 5.8.3).

`judge` goes through the log rule by rule, each with the treatment the operator chose for it. What is only noted comes
back; the first finding that is to be refused is raised, with all of them in its detail: the operator shall see why.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from brski_common.auditlog import AuditEvent, AuditLog
from brski_common.errors import Refused
from brski_registrar.policy import AuditPolicy, Treatment

MAX_FINDINGS: Final = 20  # in one report; a log may have thousands of entries


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the log that a rule is about. `reason` is a slug, `detail` is for the operator."""

    treatment: Treatment
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class Context(NamedTuple):
    """What the registrar knows besides: its own domainIDs, the nonce of its voucher, and when the device was bought.

    `own_nonces` are those of all vouchers that the device got here; None where nobody looked.
    """

    own_domains: Collection[bytes]
    nonce: str | None
    purchased_on: datetime | None = None
    own_nonces: Collection[str] | None = None


def judge(log: AuditLog, policy: AuditPolicy, context: Context) -> tuple[Finding, ...]:
    """The findings that are only noted; raises Refused `audit-log-…` if one is to be refused."""
    if policy.unsafe_ignore_history:
        return (Finding(Treatment.NOTE, "audit-log-history-ignored", f"{len(log.events)} entries, by configuration"),)
    found = [finding for finding in _findings(log, policy, context) if finding.treatment is not Treatment.IGNORE]
    refused = [finding for finding in found if finding.treatment is Treatment.REFUSE]
    if refused:
        raise Refused(refused[0].reason, "; ".join(map(str, refused[:MAX_FINDINGS])))
    return tuple(found[:MAX_FINDINGS])


def _findings(log: AuditLog, policy: AuditPolicy, context: Context) -> Iterator[Finding]:
    known = {bytes.fromhex(domain) for domain in policy.known_domains}
    for event in log.events:
        own = event.domain_id in context.own_domains
        yield from _about_domain(event, own, known, policy)
        yield from _about_event(event, policy, context)
        yield from _about_own_nonce(event, own, policy, context)
    if not any(event.domain_id in context.own_domains and event.nonce == context.nonce for event in log.events):
        detail = "our own voucher is not in it"
        yield Finding(policy.own_entry_missing, "audit-log-own-entry-missing", detail)
    if log.truncation.arbitrary:
        detail = f"{log.truncation.arbitrary} entries left out"
        yield Finding(policy.arbitrary_truncation, "audit-log-truncated", detail)
    if log.from_the_future or log.unknown:
        detail = f"version {log.version}, unknown members {', '.join(log.unknown) or '-'}"
        yield Finding(policy.newer_format, "audit-log-newer-format", detail)


def _about_domain(event: AuditEvent, own: bool, known: set[bytes], policy: AuditPolicy) -> Iterator[Finding]:
    """Whose the device was, and who could take it over with a voucher that never expires."""
    if not own and event.domain_id not in known:
        yield Finding(policy.unexpected_domain, "audit-log-unexpected-domain", _shown(event))
    if event.nonce is None:
        treatment = policy.own_nonceless if own else policy.foreign_nonceless
        yield Finding(treatment, "audit-log-nonceless", _shown(event))


def _about_own_nonce(event: AuditEvent, own: bool, policy: AuditPolicy, context: Context) -> Iterator[Finding]:
    """A voucher in our name that we never had: somebody has our identity, a MASA is lax, or an answer got lost."""
    if not own or event.nonce in {None, context.nonce} or context.own_nonces is None:
        return
    if event.nonce not in context.own_nonces:
        yield Finding(policy.own_nonce_unknown, "audit-log-own-nonce-unknown", _shown(event))


def unexplained(log: AuditLog, context: Context) -> bool:
    """Whether the log has vouchers for our own domain with another nonce, which earlier vouchers may explain."""
    return any(
        event.domain_id in context.own_domains and event.nonce not in {None, context.nonce} for event in log.events
    )


def _about_event(event: AuditEvent, policy: AuditPolicy, context: Context) -> Iterator[Finding]:
    if context.purchased_on is not None and event.date < context.purchased_on:
        yield Finding(policy.before_purchase, "audit-log-before-purchase", _shown(event))
    if event.assertion not in policy.assertions:
        yield Finding(policy.unexpected_assertion, "audit-log-assertion", _shown(event))


def _shown(event: AuditEvent) -> str:
    nonce = "nonceless" if event.nonce is None else "nonced"
    return f"{event.date.isoformat()} {event.domain_id.hex()} {event.assertion} {nonce}"
