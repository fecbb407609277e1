"""Fetch a device's audit log and say what follows from it (RFC 8995, 5.8): the order of it, `auditing` decides."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from brski_common.artifact import Format
from brski_common.certificates import Credential, domain_id
from brski_common.errors import Misconfigured, NotYet, PeerFailed, Refused, Unknown
from brski_registrar import auditing, vouchering
from brski_registrar.auditing import Context, Finding
from brski_registrar.identity import Maker
from brski_registrar.lifecycle import Event
from brski_registrar.masa_client import MasaClient
from brski_registrar.policy import Treatment
from brski_registrar.policy_store import Policy, PolicyStore
from brski_registrar.records import Device, Note
from brski_registrar.store import Store


class Verdict(NamedTuple):
    """What the log came to: an event for the device's lifecycle (None: not known yet), and lines for the journal."""

    event: Event | None
    notes: tuple[Note, ...]
    reason: str = ""


class Judge:
    """Reads audit logs for a registrar."""

    def __init__(self, masa: MasaClient, store: Store, policies: PolicyStore, credential: Credential) -> None:
        self._masa, self._store, self._policies, self._credential = masa, store, policies, credential
        # The MASA may have pinned any certificate of our chain (RFC 8995, 5.8.2).
        self._own_domains = frozenset(map(domain_id, credential.chain))

    async def verdict(self, policy: Policy, device: Device, now: datetime) -> Verdict:
        """Fetch and judge; never raises for what a MASA does or a log says."""
        maker = policy.trust.makers.get(device.manufacturer)
        if maker is None:
            return Verdict(Event.LOG_REFUSE, (Note("audit-log", "manufacturer-unknown"),), "manufacturer-unknown")
        try:
            findings = await self._findings(maker, device, now)
        except Refused as refusal:
            return Verdict(Event.LOG_REFUSE, (Note("audit-log", refusal.reason, refusal.detail),), str(refusal))
        except (PeerFailed, NotYet, Misconfigured) as error:
            return Verdict(None, (Note("audit-log", "audit-log-pending", str(error)),), "audit-log-pending")
        return Verdict(Event.LOG_ACCEPT, (Note("audit-log", "accepted"), *_notes(findings)))

    async def _findings(self, maker: Maker, device: Device, now: datetime) -> Iterable[Finding]:
        rules = maker.record.audit
        if rules.unsafe_ignore_history:
            return (Finding(Treatment.NOTE, "audit-log-history-ignored", "by configuration"),)
        admission = await self._policies.admission(device.manufacturer, device.serial_number)
        try:
            log = await self._masa.request_audit_log(
                maker, device.masa, self._request(maker, device, now), device.media_type
            )
        except (Unknown, Refused) as error:
            return _treated(rules.log_refused, "audit-log-missing", error.detail)
        except (PeerFailed, NotYet) as error:
            if rules.log_unreachable is Treatment.REFUSE:
                raise
            return _treated(rules.log_unreachable, "audit-log-unreachable", str(error))
        purchased_on = admission.purchased_on if admission else None
        context = Context(own_domains=self._own_domains, nonce=device.nonce, purchased_on=purchased_on)
        if auditing.unexplained(log, context):
            context = context._replace(own_nonces=await self._store.nonces(device.id))
        return auditing.judge(log, rules, context)

    def _request(self, maker: Maker, device: Device, now: datetime) -> bytes:
        """The very request that the voucher came from (RFC 8995, 5.8), or a new one for a pre-fetched voucher."""
        if device.rvr is not None:
            return device.rvr
        rvr = vouchering.compose_nonceless(device.serial_number, bytes.fromhex(device.issuer), now)
        return vouchering.sign(
            rvr, Format.of_media_type(device.media_type), self._credential, maker.record, self._credential.chain
        )


def _treated(treatment: Treatment, reason: str, detail: str) -> Iterable[Finding]:
    if treatment is Treatment.REFUSE:
        raise Refused(reason, detail)
    return (Finding(treatment, reason, detail),) if treatment is Treatment.NOTE else ()


def _notes(findings: Iterable[Finding]) -> tuple[Note, ...]:
    return tuple(Note("audit-log", finding.reason, finding.detail) for finding in findings)
