"""EST for pledges that are admitted, and for devices that renew (RFC 7030; RFC 8995, 5.9): the order of work.

simple_enroll     identify ▸ authorise ▸ check ▸ (approve) ▸ issue ▸ ENROLLED ▸ hand out
                  for an RA: check ▸ issue ▸ journal ▸ hand out (`delegates`)
simple_reenroll   look up the certificate in use ▸ check ▸ issue ▸ record ▸ hand out
enroll_status     OPERATIONAL, or UNENROLLED
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from brski_common import est
from brski_common.certificates import Peer, common_name, load_certificate
from brski_common.csr import check_csr
from brski_common.csrattrs import CsrAttributes
from brski_common.errors import BrskiError, NotYet, PeerFailed, Refused, Unknown, Untrusted
from brski_common.paths import check_dates
from brski_common.telemetry import Telemetry
from brski_registrar import enrolling, lifecycle, serverkeys
from brski_registrar.ca import CertificateAuthority
from brski_registrar.delegates import Delegates
from brski_registrar.identity import Pledge
from brski_registrar.lifecycle import Event, State
from brski_registrar.policy_store import Policy
from brski_registrar.quotas import Quota
from brski_registrar.recent import Recent
from brski_registrar.records import Change, Device, Note
from brski_registrar.service import RegistrarService, address_of, report_notes

LOG_RETRY_SECONDS: Final = 10.0
# What a device may have certified in a row, and how soon again: a good one asks once, and after a failure once more.
CERTIFICATES_AT_ONCE: Final = 8
CERTIFICATE_SECONDS: Final = 300.0
DEFAULT_LABEL: Final = ""


class _Order(NamedTuple):
    """A certificate that an admitted pledge asks for."""

    authority: CertificateAuthority
    policy: Policy
    pledge: Pledge
    device: Device
    asked: CsrAttributes
    csr_hash: str  # of the request as it came: what an operator clears, and a lost answer is found by
    peer: Peer | None


class _AtCa(NamedTuple):
    """A request on its way to a CA. `work` begins the journal's words about it."""

    authority: CertificateAuthority
    device: Device
    csr_hash: str
    work: str
    peer: Peer | None


class EstService:
    """The EST operations; `authorities` are the CAs by their label, the default one under the empty label."""

    def __init__(
        self,
        registrar: RegistrarService,
        authorities: Mapping[str, CertificateAuthority],
        delegates: Delegates | None = None,
    ) -> None:
        self._registrar, self._authorities = registrar, authorities
        self._delegates = delegates or Delegates()
        self._store = registrar.store
        self._certificates = Quota(CERTIFICATES_AT_ONCE, CERTIFICATE_SECONDS)
        self._asked: Recent[tuple[str, int], CsrAttributes] = Recent(time.monotonic)

    @property
    def labels(self) -> frozenset[str]:
        """The labels that may stand in a path (RFC 7030, 3.2.2)."""
        return frozenset(self._authorities) - {DEFAULT_LABEL}

    def is_ra(self, peer: Peer | None) -> bool:
        """Whether a client is an RA that speaks for devices (RFC 7030, 3.7); raises Untrusted for one out of date."""
        return bool(self._delegates) and self._delegates.include(peer, self._registrar.clock())

    async def ca_certificates(self, peer: Peer | None, label: str = DEFAULT_LABEL) -> tuple[x509.Certificate, ...]:
        """The CA certificates: public (RFC 7030, 4.1.2), but no EST action for a pledge that is not admitted."""
        if peer is not None:
            await self._refuse_unadmitted(peer)
        return await self._authority(label).ca_certs()

    async def csr_attributes(self, peer: Peer | None, label: str = DEFAULT_LABEL) -> CsrAttributes:
        """What this device is to ask for; raises as `simple_enroll`."""
        authority = self._authority(label)
        if self.is_ra(peer):
            return await authority.csr_attributes(None)
        try:
            _, _, device = await self._admitted(peer)
        except Unknown:
            # No maker's device: perhaps one that renews.
            member = await self._member(peer)
            if member is None:
                raise
            device = member[1]
        asked = await authority.csr_attributes(device)
        self._asked.put((label, device.id), asked)
        return asked

    async def simple_enroll(
        self, csr: x509.CertificateSigningRequest, peer: Peer | None, label: str = DEFAULT_LABEL
    ) -> x509.Certificate:
        """The certificate of an admitted pledge; raises Untrusted, Unknown, Refused, NotYet."""
        if peer is not None and self.is_ra(peer):
            return await self._delegated(csr, peer, self._authority(label))
        order = await self._order(csr, peer, label)
        if order.device.state is State.ENROLLED:
            issued = await self._store.issued_for(order.device.id, order.csr_hash)
            if issued is not None:
                return load_certificate(issued.der)  # the answer was lost on its way
        return await self._fill(order, csr)

    async def server_key(
        self, csr: x509.CertificateSigningRequest, peer: Peer | None, label: str = DEFAULT_LABEL
    ) -> est.ServerKey:
        """A key made here, and its certificate (RFC 7030, 4.4); raises as `simple_enroll`. The key is not kept."""
        order = await self._order(csr, peer, label)
        device = order.pledge.certificate
        try:
            is_enveloped = serverkeys.check_offered(csr, device, order.policy.domain)
            made = await asyncio.to_thread(serverkeys.make, order.asked.wishes.key, csr)
        except BrskiError as error:
            await self._note(order.device, Note("enroll-refused", error.reason, error.detail), peer)
            raise
        try:
            certificate = await self._fill(order, made.csr)
        except NotYet as error:
            if error.reason != "upstream-pending":
                raise
            # The device would come again with the same request, but the key of this one is not kept.
            raise Refused("serverkeygen-cannot-wait", str(error)) from error
        signer = self._registrar.credential
        key = serverkeys.enveloped(made.key, signer, device) if is_enveloped else serverkeys.plain(made.key)
        return est.ServerKey(key, est.certs_only((certificate,)), is_enveloped)

    async def simple_reenroll(
        self, csr: x509.CertificateSigningRequest, peer: Peer | None, label: str = DEFAULT_LABEL
    ) -> x509.Certificate:
        """The certificate that follows the one TLS authenticated (RFC 7030, 4.2.2); raises as `simple_enroll`."""
        authority = self._authority(label)
        member = await self._member(peer)
        if member is None:
            raise Untrusted("client-certificate-unknown", "a renewal comes with the certificate that is renewed")
        current, device = member
        policy, now = await self._registrar.policies.current(), self._registrar.clock()
        try:
            wanted = enrolling.renewal(csr, current, policy.domain, now)
        except BrskiError as error:
            await self._note(device, Note("renew-refused", error.reason, error.detail), peer)
            raise
        csr_hash = enrolling.request_hash(csr)
        with_ca = _AtCa(authority, device, csr_hash, "renew", peer)
        certificate = await self._issue(with_ca, csr, wanted, now)
        await self._record(device, certificate, csr_hash, Event.RENEW, peer, renews=current)
        return certificate

    async def enroll_status(self, report: Telemetry, peer: Peer | None) -> None:
        """Take a report on the certificate (RFC 8995, 5.9.4); raises Untrusted, Unknown, Refused.

        Only the certificate in use shows that the device has it: a report of success without it is written down.
        """
        notes = report_notes("enroll-status", report)
        member = await self._member(peer)
        if member is not None:
            notes = (*notes, Note("enroll-status", "matching-certificate", "over the certificate that was issued"))
            await self._report(member[1], Event.OPERATE if report.status else Event.ENROLL_FAIL, notes, peer)
            return
        _, pledge = await self._registrar.pledge(peer)
        device = await self._store.device(pledge)
        if device is None or device.fingerprint != pledge.fingerprint:
            raise Unknown("enroll-not-requested", "a report on a certificate that was never asked for here")
        notes = (*notes, Note("enroll-status", "no-matching-certificate", "over the IDevID"))
        await self._report(device, None if report.status else Event.ENROLL_FAIL, notes, peer)

    async def _delegated(
        self, csr: x509.CertificateSigningRequest, peer: Peer, authority: CertificateAuthority
    ) -> x509.Certificate:
        policy, now = await self._registrar.policies.current(), self._registrar.clock()
        check_csr(await authority.csr_attributes(None), csr)
        profile = enrolling.delegated(csr, policy.domain, now)
        serial = str(profile.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)[0].value)
        for device in await self._store.find(serial):
            lifecycle.check_renewable(device.standing, device.reason)
        certificate = await authority.issue(csr, profile)
        detail = f"serial {certificate.serial_number:x} for {common_name(peer.certificate)}"
        await self._store.note_of(serial, Note("certificate-delegated", "", detail), address_of(peer), now)
        return certificate

    async def _order(self, csr: x509.CertificateSigningRequest, peer: Peer | None, label: str) -> "_Order":
        authority = self._authority(label)
        policy, pledge, device = await self._admitted(peer)
        # What is checked is what was asked for, if it was just now.
        asked = self._asked.get((label, device.id)) or await authority.csr_attributes(device)
        return _Order(authority, policy, pledge, device, asked, enrolling.request_hash(csr), peer)

    async def _fill(self, order: "_Order", csr: x509.CertificateSigningRequest) -> x509.Certificate:
        try:
            enrolling.check(csr, order.asked, order.pledge)
            enrolling.check_approved(order.device, order.csr_hash, order.policy.domain)
        except NotYet as error:
            await self._hold(order.device, order.csr_hash, error, address_of(order.peer))
            raise
        except BrskiError as error:
            await self._note(order.device, Note("enroll-refused", error.reason, error.detail), order.peer)
            raise
        now = self._registrar.clock()
        profile = enrolling.profile(order.pledge, csr, order.asked, order.policy.domain, now)
        with_ca = _AtCa(order.authority, order.device, order.csr_hash, "enroll", order.peer)
        certificate = await self._issue(with_ca, csr, profile, now)
        await self._record(order.device, certificate, order.csr_hash, Event.ENROLL, order.peer)
        return certificate

    async def _issue(
        self, at: "_AtCa", csr: x509.CertificateSigningRequest, profile: enrolling.Profile, now: datetime
    ) -> x509.Certificate:
        """Have a request certified. What a CA elsewhere has against it is written down; of waiting, the beginning.

        Each certificate costs the CA a signature, and a record that is kept for good: NotYet for too many.
        """
        holder, second = at.device.fingerprint, now.timestamp()
        if wait := self._certificates.wait(holder, second):
            raise NotYet("too-many-certificates", f"more than {CERTIFICATES_AT_ONCE} of this device at once", wait)
        try:
            certificate = await at.authority.issue(csr, profile)
        except NotYet as error:
            if at.device.csr_sha256 != at.csr_hash:
                note = Note(f"{at.work}-held", error.reason, error.detail)
                await self._note(at.device, note, at.peer, csr_sha256=at.csr_hash)
            raise
        except (Refused, PeerFailed) as error:
            await self._note(at.device, Note(f"{at.work}-refused", error.reason, error.detail), at.peer)
            raise
        self._certificates.take(holder, second)
        return certificate

    async def _admitted(self, peer: Peer | None) -> tuple[Policy, Pledge, Device]:
        """The pledge and its device, EST being open for it; reads the audit log first if nobody has yet."""
        policy, pledge = await self._registrar.pledge(peer)
        return policy, pledge, await self._open_for(policy, pledge, address_of(peer))

    async def _open_for(self, policy: Policy, pledge: Pledge, address: str) -> Device:
        device = await self._store.device(pledge)
        if not enrolling.authorise(device, pledge, policy.domain):
            assert device is not None
            device = await self._settled(policy, pledge, device, address)
        assert device is not None
        return device

    async def _settled(self, policy: Policy, pledge: Pledge, device: Device, address: str) -> Device:
        note = Note("voucher-status", "voucher-status-missing") if device.state is State.VOUCHERED else None
        device = await self._registrar.settle(policy, device, (), (note,) if note else (), address)
        if not enrolling.authorise(device, pledge, policy.domain):
            raise NotYet("audit-log-pending", "the MASA's audit log could not be read yet", LOG_RETRY_SECONDS)
        return device

    async def _refuse_unadmitted(self, peer: Peer) -> None:
        policy = await self._registrar.policies.current()
        try:
            pledge = policy.trust.pledge(peer, self._registrar.clock())
        except BrskiError:
            return  # no pledge, but anybody: what he gets is public
        await self._open_for(policy, pledge, address_of(peer))

    async def _member(self, peer: Peer | None) -> tuple[x509.Certificate, Device] | None:
        """The certificate in use and its device, None without one that was issued here; raises Untrusted, Refused.

        TLS proved the key; that we issued this very certificate says more than any path.
        """
        found = await self._store.issued(peer.certificate) if peer is not None else None
        if peer is None or found is None:
            return None
        issued, device = found
        check_dates(peer.certificate, self._registrar.clock())
        if issued.revoked_at is not None:
            raise Refused("certificate-revoked", f"on {issued.revoked_at.isoformat()}")
        lifecycle.check_renewable(device.standing, device.reason)
        return peer.certificate, device

    def _authority(self, label: str) -> CertificateAuthority:
        try:
            return self._authorities[label]
        except KeyError:
            raise Unknown("label-unknown", ascii(label[:100])) from None

    async def _hold(self, device: Device, csr_hash: str, error: NotYet, address: str) -> None:
        if device.state is State.AWAITING and device.csr_sha256 == csr_hash:
            return  # written down the first time
        note = Note("enroll-held", error.reason, error.detail)
        now = self._registrar.clock()
        change = Change(events=(Event.AWAIT,), notes=(note,), now=now, address=address, csr_sha256=csr_hash)
        await self._store.advance(device, change)

    async def _record(
        self,
        device: Device,
        certificate: x509.Certificate,
        csr_hash: str,
        event: Event,
        peer: Peer | None,
        *,
        renews: x509.Certificate | None = None,
    ) -> None:
        note = Note(f"certificate-{event}", "", f"serial {certificate.serial_number:x}")
        now, address = self._registrar.clock(), address_of(peer)
        change = Change(events=(event,), notes=(note,), now=now, address=address, csr_sha256=csr_hash)
        await self._store.certificate(device, certificate, change, renews=renews)

    async def _note(self, device: Device, note: Note, peer: Peer | None, csr_sha256: str | None = None) -> None:
        if not self._registrar.may_note(device):
            return
        change = Change(
            events=(),
            notes=(note,),
            now=self._registrar.clock(),
            reason=device.reason,
            address=address_of(peer),
            csr_sha256=csr_sha256,
        )
        await self._store.advance(device, change)

    async def _report(self, device: Device, event: Event | None, notes: tuple[Note, ...], peer: Peer | None) -> None:
        """Write a report down, and let it count if it is in order."""
        after = None if event is None else lifecycle.TABLE.get((device.state, event))
        counts = after is not None
        if after in {None, device.state} and not self._registrar.may_note(device):
            return
        change = Change(
            events=(event,) if event is not None and counts else (),
            notes=notes
            if counts or event is None
            else (*notes, Note("enroll-status", "out-of-order", device.state.told)),
            now=self._registrar.clock(),
            reason="" if counts else device.reason,
            address=address_of(peer),
        )
        await self._store.advance(device, change)
