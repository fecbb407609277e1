"""The registrar's order of work: who is asked what, when, and what is written down before anybody hears of it.

Protocol rules are in the decisions (`identity`, `policy`, `vouchering`, `auditing`, `enrolling`, `lifecycle`); here is
only their order. Vouchers are here, certificates in `est_service`.

    request_voucher   identify ▸ examine ▸ admit ▸ REQUESTED ▸ MASA ▸ accept ▸ VOUCHERED ▸ relay
    voucher_status    identify ▸ audit log ▸ judge ▸ IMPRINTED and APPROVED, or DENIED, or FAILED
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509

from brski_common import artifact, logs
from brski_common.artifact import Format, Verified
from brski_common.certificates import Credential, Peer, idevid_issuer, load_certificate
from brski_common.errors import BrskiError, Misconfigured, NotYet, PeerFailed, Refused, Unknown, Untrusted
from brski_common.telemetry import Telemetry
from brski_common.voucher import Voucher, VoucherRequest
from brski_registrar import knocking, lifecycle, vouchering
from brski_registrar.flights import Flights
from brski_registrar.identity import Maker, Pledge
from brski_registrar.judging import Judge
from brski_registrar.knocking import Knocking
from brski_registrar.lifecycle import LOG_PENDING, Event, State
from brski_registrar.masa_client import MasaClient
from brski_registrar.policy import Admission, PinHint, admit, check_source
from brski_registrar.policy_store import Policy, PolicyView
from brski_registrar.quotas import Quota
from brski_registrar.records import Asked, Change, Device, Note
from brski_registrar.store import Store
from brski_registrar.vouchering import Own

MASA_PATIENCE_SECONDS: Final = 20.0  # before a pledge is told to come again, where its maker's record says so
MASA_RETRY_SECONDS: Final = 10.0
STATUS_PATIENCE: Final = timedelta(seconds=60)  # for a pledge to say what it thinks of its voucher
WATCH_SECONDS: Final = knocking.KNOCK_WRITE_SECONDS  # what waits to be written is not kept from the operator
# What a device may cost in a row, and how soon again: a good one asks once, and where a MASA is late every 10 s.
QUESTIONS_AT_ONCE: Final = 8  # voucher requests that a MASA, or a voucher that was fetched before, answers
QUESTION_SECONDS: Final = 10.0
LINES_AT_ONCE: Final = 20  # in the journal, of what changes nothing: refusals, and reports that come again
LINE_SECONDS: Final = 60.0

# Faults of a MASA that may be gone in a minute.
_PASSING: Final = frozenset({"peer-unreachable", "peer-timeout", "peer-name-not-found", "peer-disconnected"})
# States in which the voucher that answered a request is still the answer to it.
_STILL_GOOD: Final = frozenset({State.VOUCHERED, State.IMPRINTED, State.APPROVED})

log = logs.logger("registrar")


class Attempt(NamedTuple):
    """A pledge's voucher request under way."""

    policy: Policy
    pledge: Pledge
    raw: bytes
    format: Format
    digest: str  # SHA-256 of raw, hex
    address: str
    now: datetime

    def repeats(self, device: Device) -> bool:
        """Whether this is the request that the device's record came from."""
        return (device.pvr_sha256, device.fingerprint) == (self.digest, self.pledge.fingerprint)

    def asked(self, masa: str = "", nonce: str | None = None, rvr: bytes | None = None) -> Asked:
        """What was asked for, for the device's record."""
        return Asked(self.format.media_type, self.digest, nonce, masa, rvr)

    def change(self, events: tuple[Event, ...], *notes: Note, reason: str = "") -> Change:
        """What became of it."""
        return Change(events=events, notes=notes, now=self.now, reason=reason, address=self.address)


class RegistrarService:
    """Vouchers for pledges. `credential` signs requests to MASAs; TLS has the same unless `tls_certificate` differs."""

    def __init__(
        self,
        store: Store,
        policies: PolicyView,
        credential: Credential,
        masa: MasaClient,
        *,
        clock: Callable[[], datetime],
        tls_certificate: x509.Certificate | None = None,
        masa_patience: float = MASA_PATIENCE_SECONDS,
    ) -> None:
        self.store, self.policies, self.clock = store, policies, clock
        self.knocking = Knocking(store.database, time.monotonic)
        self.credential, self._masa, self._patience = credential, masa, masa_patience
        self._own = Own.of(credential, tls_certificate or credential.certificate)
        self._judge = Judge(masa, store, policies.store, credential)
        self._flights = Flights()
        self._questions = Quota(QUESTIONS_AT_ONCE, QUESTION_SECONDS)
        self._lines = Quota(LINES_AT_ONCE, LINE_SECONDS)

    async def close(self) -> None:
        """Let go of MASAs; store and database belong to the caller."""
        await self._flights.close()
        await self.knocking.write(at_once=True)
        await self._masa.close()

    async def pledge(self, peer: Peer | None) -> tuple[Policy, Pledge]:
        """The policy now, and the device at the other end; raises Untrusted, Unknown."""
        policy = await self.policies.current()
        pledge = policy.trust.pledge(peer, self.clock())
        # One task serves one connection, so whatever it logs from now on is about this device.
        logs.bind(serial_number=pledge.serial_number, manufacturer=pledge.manufacturer.name)
        return policy, pledge

    # Vouchers

    async def request_voucher(self, raw: bytes, artifact_format: Format, peer: Peer | None) -> bytes:
        """The MASA's voucher for this pledge (RFC 8995, 5.2 to 5.6).

        Raises Malformed, UnsupportedFormat, Untrusted, Unknown, Refused, NotYet, PeerFailed.
        """
        try:
            policy, pledge = await self.pledge(peer)
        except (Untrusted, Unknown) as error:
            if peer is not None:
                knock = knocking.of_stranger(peer.certificate, error, address_of(peer), self.clock())
                await self.knocking.heard(knock)
            raise
        digest = hashlib.sha256(raw).hexdigest()
        attempt = Attempt(policy, pledge, raw, artifact_format, digest, address_of(peer), self.clock())
        return await self._flights.join(
            (pledge.fingerprint, digest),
            lambda: self._journaled(attempt),
            patience=self._patience if pledge.manufacturer.wait_for_masa else None,
            retry_after=MASA_RETRY_SECONDS,
        )

    async def _journaled(self, attempt: Attempt) -> bytes:
        try:
            return await self._vouch(attempt)
        except NotYet:
            raise
        except BrskiError as error:
            await self._refused(attempt, error)
            raise

    async def _refused(self, attempt: Attempt, error: BrskiError) -> None:
        """Write down that a known maker's device was refused, however often it comes."""
        device, now = await self.store.device(attempt.pledge), self.clock()
        if _is_hidden(device, error, attempt.now):
            await self.knocking.heard(knocking.of_pledge(attempt.pledge, error, attempt.address, now))
        if not self._lines.take(attempt.pledge.fingerprint, now.timestamp()):
            note = Note("voucher-refused", error.reason, error.detail)
            await self.store.note(attempt.pledge, device, note, attempt.address, now)

    async def _vouch(self, attempt: Attempt) -> bytes:
        check_source(attempt.policy.domain, attempt.address)
        unverified = artifact.parse_voucher_request(attempt.raw, attempt.format)
        pvr = vouchering.examine(unverified, attempt.pledge, self._own)
        device, admission = await self._look_up(attempt.pledge)
        lifecycle.step(device.state if device else State.NEW, Event.REQUEST)
        before = device if device is not None and attempt.repeats(device) else None
        if before is not None and before.state in _STILL_GOOD:
            stored = await self.store.voucher_for(before.id, attempt.digest)
            if stored is not None:
                return vouchering.relay(stored.raw, attempt.format)
        await self._admit(attempt, admission, before)
        wait = self._questions.take(attempt.pledge.fingerprint, attempt.now.timestamp())
        if wait:
            # Each answer costs a maker's MASA a signature, and a line in a log that is kept for good (RFC 8995, 5.6).
            raise NotYet("too-many-voucher-requests", f"more than {QUESTIONS_AT_ONCE} of this device at once", wait)
        if admission is not None and admission.voucher is not None:
            return await self._deliver_prefetched(attempt, admission, admission.voucher)
        return await self._ask_masa(attempt, pvr, before)

    async def _look_up(self, pledge: Pledge) -> tuple[Device | None, Admission | None]:
        device, admission = await self.store.look_up(pledge)
        self.policies.store.saw(pledge.manufacturer.name, pledge.serial_number, admission)
        return device, admission

    async def _admit(self, attempt: Attempt, admission: Admission | None, before: Device | None) -> None:
        try:
            admit(attempt.pledge.manufacturer, admission)
        except NotYet as error:
            is_new = before is None or before.state is not State.HELD  # written once, not each time it asks again
            if is_new and not self._lines.take(attempt.pledge.fingerprint, attempt.now.timestamp()):
                note = Note("voucher-held", error.reason, error.detail)
                await self.store.request(attempt.pledge, attempt.asked(), attempt.change((Event.HOLD,), note))
            raise

    async def _deliver_prefetched(self, attempt: Attempt, admission: Admission, raw: bytes) -> bytes:
        """A voucher that was fetched before the device came (RFC 8995, 7.3)."""
        if admission.voucher_type != attempt.format.media_type:
            raise Refused("prefetched-voucher-unusable", f"it is {admission.voucher_type}")
        voucher = artifact.parse_voucher(raw, attempt.format).claimed
        vouchering.check_prefetched(voucher, attempt.pledge)
        base = vouchering.masa_address(attempt.pledge.certificate, attempt.pledge.manufacturer)
        change = attempt.change((Event.REQUEST, Event.VOUCHER), Note("voucher-issued", "prefetched"))
        await self.store.request(attempt.pledge, attempt.asked(base), change, raw, str(voucher.assertion or ""))
        return vouchering.relay(raw, attempt.format)

    async def _ask_masa(self, attempt: Attempt, pvr: Verified[VoucherRequest], before: Device | None) -> bytes:
        """Ask, and write down in one unit what was asked and what came of it, before the pledge hears of it."""
        maker = attempt.policy.trust.makers[attempt.pledge.manufacturer.name]
        base = vouchering.masa_address(attempt.pledge.certificate, maker.record)
        rvr = vouchering.compose(attempt.pledge, pvr, attempt.now)
        signed = self._signed(attempt, rvr, before)
        asked = attempt.asked(base, rvr.nonce, signed)
        requested = Note("voucher-requested", "", base)
        try:
            raw, assertion = await self._fetch(attempt, maker, base, rvr, signed)
        except NotYet:
            if before is None or before.state is not State.REQUESTED:
                await self.store.request(attempt.pledge, asked, attempt.change((Event.REQUEST,), requested))
            raise
        except (PeerFailed, Refused, Unknown, Misconfigured) as error:
            change = attempt.change((Event.REQUEST, Event.DECLINE), requested, reason=str(error))
            await self.store.request(attempt.pledge, asked, change)
            raise
        issued = Note("voucher-issued", "", assertion or "not readable here")
        change = attempt.change((Event.REQUEST, Event.VOUCHER), requested, issued)
        await self.store.request(attempt.pledge, asked, change, raw, assertion)
        return vouchering.relay(raw, attempt.format)

    def _signed(self, attempt: Attempt, rvr: VoucherRequest, before: Device | None) -> bytes:
        if before is not None and before.rvr is not None:
            # The same question again is the same bytes again: the MASA may answer it from memory (RFC 8995, 5.6).
            return before.rvr
        pledges = attempt.pledge.path if attempt.format is Format.COSE else ()
        shown = vouchering.certificates_shown(self._own, attempt.policy.domain.pin_hint, pledges)
        return vouchering.sign(rvr, attempt.format, self.credential, attempt.pledge.manufacturer, shown)

    async def _fetch(
        self, attempt: Attempt, maker: Maker, base: str, rvr: VoucherRequest, signed: bytes
    ) -> tuple[bytes, str]:
        """The MASA's voucher and the assertion in it."""
        media_type = attempt.format.media_type
        try:
            raw = await self._masa.request_voucher(maker, base, signed, media_type, media_type)
        except PeerFailed as error:
            if maker.record.wait_for_masa and error.reason in _PASSING:
                raise NotYet("masa-not-ready", str(error), MASA_RETRY_SECONDS) from error
            raise
        own, anchors = self._own, maker.vouchers
        voucher = vouchering.accept(raw, attempt.format, rvr, maker.record, anchors, own, self.clock())
        return raw, "" if voucher is None else str(voucher.assertion or "")

    async def prefetch(
        self,
        manufacturer: str,
        serial_number: str,
        *,
        certificate: x509.Certificate | None = None,
        renew: bool = False,
        artifact_format: Format = Format.CMS,
    ) -> Voucher | None:
        """Fetch a nonceless voucher for a device that comes later, perhaps when no MASA can be reached (RFC 8995, 7.3).

        `certificate` is its IDevID where that is known, as from a delivery note; it names the MASA and the issuer. For
        a device that was here it is the one in its record. The voucher waits with the device's entry on the allow-list.
        `renew` shows the MASA the voucher that waits already (draft-ietf-anima-rfc8366bis, 10.1). Raises Unknown for a
        maker that is not, and as `request_voucher`.
        """
        policy, now = await self.policies.current(), self.clock()
        maker = policy.trust.makers.get(manufacturer)
        if maker is None:
            raise Unknown("manufacturer-unknown", manufacturer)
        certificate = certificate or await self._remembered_idevid(manufacturer, serial_number)
        base = vouchering.masa_address(certificate, maker.record)
        issuer = None if certificate is None else idevid_issuer(certificate)
        store = self.policies.store
        entry = await store.admission(manufacturer, serial_number) or Admission(
            manufacturer=manufacturer, serial_number=serial_number
        )
        rvr = vouchering.compose_nonceless(serial_number, issuer, now, renewed=entry.voucher if renew else None)
        shown = vouchering.certificates_shown(self._own, PinHint.ROOT)
        signed = vouchering.sign(rvr, artifact_format, self.credential, maker.record, shown)
        media_type = artifact_format.media_type
        raw = await self._masa.request_voucher(maker, base, signed, media_type, media_type)
        voucher = vouchering.accept(raw, artifact_format, rvr, maker.record, maker.vouchers, self._own, now)
        await store.allow(replace(entry, voucher=raw, voucher_type=media_type), now)
        return voucher

    async def _remembered_idevid(self, manufacturer: str, serial_number: str) -> x509.Certificate | None:
        """The IDevID that a device had in TLS when it was here; None if it was not, or several share its number."""
        known = [each for each in await self.store.find(serial_number) if each.manufacturer == manufacturer]
        return load_certificate(known[0].certificate) if len(known) == 1 and known[0].certificate else None

    # Voucher status and the audit log

    async def voucher_status(self, report: Telemetry, peer: Peer | None) -> None:
        """Take a pledge's report on its voucher, then fetch and judge the audit log (RFC 8995, 5.7 and 5.8).

        Raises Untrusted, Unknown, Refused. A report that comes out of order is written down and changes
        nothing.
        """
        policy, pledge = await self.pledge(peer)
        device = await self.store.device(pledge)
        if device is None:
            raise Unknown("voucher-not-requested", "a report on a voucher that was never asked for here")
        if device.fingerprint != pledge.fingerprint:
            raise Refused("client-certificate-changed", "another certificate than that of the voucher request")
        notes = report_notes("voucher-status", report)
        event = Event.IMPRINT if report.status else Event.FAIL
        after = lifecycle.TABLE.get((device.state, event))
        if after in {None, device.state} and not self.may_note(device):
            return
        if after is None:
            await self._out_of_order(device, notes, address_of(peer))
        elif report.status and device.state in LOG_PENDING:
            await self.settle(policy, device, (event,), notes, address_of(peer))
        else:
            reason = "" if report.status else f"voucher rejected by the pledge: {report.reason or 'no reason given'}"
            await self._advance(device, (event,), notes, reason, address_of(peer))

    async def settle(
        self, policy: Policy, device: Device, events: tuple[Event, ...], notes: tuple[Note, ...], address: str
    ) -> Device:
        """Read the audit log of a device and let the verdict follow `events`."""
        verdict = await self._judge.verdict(policy, device, self.clock())
        events = events if verdict.event is None else (*events, verdict.event)
        return await self._advance(device, events, (*notes, *verdict.notes), verdict.reason, address)

    def may_note(self, device: Device) -> bool:
        """Whether a line that changes nothing may be written about a device: it stays for good."""
        return not self._lines.take(device.fingerprint, self.clock().timestamp())

    async def recheck(self, device: Device) -> Device:
        """Read a device's audit log again, at any time (RFC 8995, 5.8): what speaks against the device counts."""
        policy = await self.policies.current()
        verdict = await self._judge.verdict(policy, device, self.clock())
        refused = verdict.event is Event.LOG_REFUSE
        events = (Event.LOG_REFUSE,) if refused else ()
        return await self._advance(device, events, verdict.notes, verdict.reason if refused else device.reason, "")

    async def check_silent(self) -> int:
        """Read the audit logs of devices that never reported on their voucher (RFC 8995, 11); how many there were."""
        policy = await self.policies.current()
        silent = await self.store.silent_since(self.clock() - STATUS_PATIENCE)
        for device in silent:
            note = Note("voucher-status", "voucher-status-missing", "the audit log is read all the same")
            await self.settle(policy, device, (), (note,), "")
        return len(silent)

    async def watch(self) -> None:
        """Look after silent devices and unwritten knocks for as long as the registrar runs."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.knocking.write()
            try:
                await self.check_silent()
            except BrskiError as error:
                log.warning("cannot look after silent devices", reason=error.reason, detail=error.detail)

    async def _advance(
        self, device: Device, events: tuple[Event, ...], notes: tuple[Note, ...], reason: str, address: str
    ) -> Device:
        change = Change(events=events, notes=notes, now=self.clock(), reason=reason, address=address)
        return await self.store.advance(device, change)

    async def _out_of_order(self, device: Device, notes: tuple[Note, ...], address: str) -> None:
        odd = Note("voucher-status", "out-of-order", f"while {device.state.told}: nothing changes")
        await self._advance(device, (), (*notes, odd), device.reason, address)


def _is_hidden(device: Device | None, error: BrskiError, asked_at: datetime) -> bool:
    """Whether `device list` does not show this refusal: it does what became the device's state, and a block."""
    return device is None or (device.changed_at != asked_at and error.reason != "device-blocked")


def report_notes(event: str, report: Telemetry) -> tuple[Note, ...]:
    """A status report for the journal, with everything it said (RFC 8995, 5.7)."""
    said = [report.reason or "", "" if report.reason_context is None else ascii(report.reason_context)]
    if report.unknown:
        said.append(f"unknown members: {', '.join(report.unknown)}")
    notes = [Note(event, "success" if report.status else "failure", " ".join(text for text in said if text))]
    if report.from_the_future:
        log.warning("newer report: look at the journal", report=event, version=report.version)
        notes.append(Note(event, "newer-version", f"version {report.version}"))
    return tuple(notes)


def address_of(peer: Peer | None) -> str:
    """Where a peer's connection comes from, for the journal."""
    return peer.address or "" if peer is not None else ""
