"""The MASA's order of work; every rule is in `vouchering`, `policy`, `audit` and `revocation`.

A voucher: examine → find the device → decide → ask for revocation → compose → **write the log, durably** → sign → send.
A log: recognise the request, or examine it → was the requester ever an owner? → present.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from cryptography import x509

from brski_common import artifact, auditlog, cms
from brski_common.artifact import Format
from brski_common.certificates import domain_id, spki_sha256, to_der
from brski_common.errors import Refused, Unknown
from brski_common.logs import logger
from brski_common.voucher import Assertion, Voucher
from brski_masa import audit, policy, vouchering
from brski_masa.audit import Entry
from brski_masa.keyring import Signers
from brski_masa.parties import Device, Identity, Requester, is_known
from brski_masa.policy import Decision, Terms
from brski_masa.store import Store
from brski_masa.vouchering import Examined, Trust

MAX_REMEMBERED: Final = 4096  # requests whose log is likely to be asked for
TOKEN_BYTES: Final = 32  # of an audit-log link: 256 bits (RFC 8995, 5.8)
CONTENT_TYPES: Final = {"voucher": cms.ID_CT_ANIMA_JSON_VOUCHER, "data": cms.ID_DATA}

log = logger("masa")


class RevocationChecker(Protocol):
    """What `revocation` offers to this file."""

    def names_servers(self, path: Sequence[x509.Certificate]) -> bool:
        """Whether there is anything to ask."""

    async def check(self, path: Sequence[x509.Certificate], now: datetime) -> datetime | None:
        """Until when nothing in the path is revoked; raises Refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditTerms:
    """How logs are shown."""

    full_events: int = 128
    always_abridge: bool = False
    refuse_replays: bool = True
    request_max_age: timedelta = timedelta(days=30)
    link_lifetime: timedelta = timedelta(days=30)


class _Seen(NamedTuple):
    device_id: int
    requester: str


class AuditAnswer(NamedTuple):
    """A log in JSON, and the device it is of."""

    body: bytes
    device_id: int


class Masa:
    """The service; `http` is its face."""

    def __init__(
        self,
        store: Store,
        signers: Signers,
        trust: Trust,
        terms: Terms,
        *,
        clock: Callable[[], datetime],
        audit_terms: AuditTerms | None = None,
        revocation: RevocationChecker | None = None,
        content_type: str = CONTENT_TYPES["voucher"],
    ) -> None:
        self.store = store
        self._signers = signers
        self._trust = trust
        self._terms = terms
        self._clock = clock
        self._audit = audit_terms or AuditTerms()
        self._audit_trust = replace(trust, request_max_age=self._audit.request_max_age)
        self._revocation = revocation
        self._content_type = content_type
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    # Vouchers

    async def request_voucher(
        self, raw: bytes, request_format: Format, wanted: Sequence[Format], requester: Requester
    ) -> tuple[Format, bytes]:
        """A signed voucher for a registrar's request, in the first of the wanted formats that fits (RFC 8995, 5.5).

        Raises what the examination and the policy raise; nothing is written then.
        """
        now = self._clock()
        rvr = artifact.parse_voucher_request(raw, request_format)
        examined = vouchering.examine(rvr, self._trust, now)
        device = policy.pick_device(found := await self.store.find_devices(examined.serial_number), examined)
        needed = policy.needs_customers(device, examined, self._terms)
        customers = await self._customers(examined, requester) if needed else ()
        decision = policy.decide(examined, device, requester, self._terms, now, customers=customers)
        answer_format = policy.choose_format(device, wanted, self._signers.formats)
        known_until = await self._check_revocation(examined, now)
        voucher = self._compose(examined, device, decision, now, known_until, ambiguous=len(found) > 1)
        request, label = hashlib.sha256(raw).digest(), requester.label
        await self._record(voucher, device, decision, request, label)
        self._remember(request, _Seen(device.id, label))
        return answer_format, self._sign(voucher, answer_format, device)

    async def issue_offline(
        self, device: Device, pin: x509.Certificate, *, lifetime: timedelta | None, answer_format: Format
    ) -> bytes:
        """A voucher without a nonce, on the maker's own word (RFC 8995, 7.4.1); it is logged like any other."""
        if device.blocked is not None:
            raise Refused("device-blocked", device.blocked)
        now = self._clock()
        twins = await self.store.find_devices(device.serial_number)
        expiry = min(now + (lifetime or self._terms.nonceless_lifetime), pin.not_valid_after_utc)
        voucher = Voucher(
            serial_number=device.serial_number,
            created_on=now,
            assertion=Assertion.VERIFIED,
            pinned_domain_cert=to_der(pin),
            expires_on=expiry,
            idevid_issuer=device.idevid_issuer if len(twins) > 1 else None,
            domain_cert_revocation_checks=self._terms.revocation_checks,
        )
        decision = Decision(assertion=Assertion.VERIFIED, pin=pin, domain_id=domain_id(pin), owner=device.owner)
        self._signers.credential(None)
        await self._record(voucher, device, decision, hashlib.sha256(to_der(pin)).digest(), "operator")
        return self._sign(voucher, answer_format, device)

    async def _customers(self, examined: Examined, requester: Requester) -> Sequence[Identity]:
        """Owners of other devices as whom the requester may be known; asked for only where it matters."""
        chain = requester.peer.chain if requester.peer is not None else ()
        keys = examined.path_keys | frozenset(map(spki_sha256, chain))
        issuers = {certificate.issuer for certificate in (examined.path[-1], *chain[-1:])}
        return await self.store.find_identities(keys, issuers, requester.user)

    async def _check_revocation(self, examined: Examined, now: datetime) -> datetime | None:
        """5.5.3, once it is known that the request would be granted: it is us who do the network's work for it."""
        if self._revocation is None or not self._revocation.names_servers(examined.path):
            return None
        return await self._revocation.check(examined.path, now)

    def _compose(
        self,
        examined: Examined,
        device: Device,
        decision: Decision,
        now: datetime,
        known_until: datetime | None,
        *,
        ambiguous: bool,
    ) -> Voucher:
        self._signers.credential(examined.nonce)  # a missing key must show before the log is written
        return vouchering.compose(
            examined,
            assertion=decision.assertion,
            pin=decision.pin,
            created_on=now,
            expires_on=policy.choose_expiry(
                examined, decision.pin, self._terms, now, revocation_known_until=known_until
            ),
            # Only where the serial number alone could mean another device (draft-ietf-anima-rfc8366bis, 6.2).
            idevid_issuer=device.idevid_issuer if ambiguous or self._terms.always_idevid_issuer else None,
            revocation_checks=self._terms.revocation_checks,
        )

    async def _record(
        self, voucher: Voucher, device: Device, decision: Decision, request: bytes, requester: str
    ) -> None:
        """Write the entry; when this returns it is on disk (RFC 8995, 5.6: every voucher, always)."""
        assert voucher.created_on is not None
        entry = Entry(
            device_id=device.id,
            serial_number=device.serial_number,
            idevid_issuer=device.idevid_issuer,
            date=voucher.created_on,
            domain_id=decision.domain_id,
            pinned_key=spki_sha256(decision.pin),
            nonce=voucher.nonce,
            assertion=decision.assertion,
            expires_on=voucher.expires_on,
            owner=None if decision.owner is None else decision.owner.name,
            request=request,
            requester=requester,
            renewal=decision.renewal,
        )
        claims = frozenset((entry.pinned_key, device.last_pinned_key or entry.pinned_key))
        number = await self.store.append(entry, claims=claims if decision.exclusive else None)
        log.info(
            "voucher issued",
            number=number,
            serial_number=device.serial_number,
            assertion=str(decision.assertion),
            domain_id=entry.domain_id.hex(),
            owner=entry.owner,
            nonceless=voucher.nonce is None,
            renewal=decision.renewal,
        )

    def _sign(self, voucher: Voucher, answer_format: Format, device: Device) -> bytes:
        credential = self._signers.credential(voucher.nonce)
        content_type = device.content_type or self._content_type
        return artifact.sign(voucher, answer_format, credential, content_type=content_type)

    # The audit log

    async def request_audit_log(self, raw: bytes, request_format: Format, requester: Requester) -> AuditAnswer:
        """The log of the device that a registrar's request names (RFC 8995, 5.8); raises Unknown for a stranger."""
        request = hashlib.sha256(raw).digest()
        seen = self._seen.get(request)
        if seen is not None and seen.requester == requester.label:  # verified a moment ago, byte for byte
            return await self._present(seen.device_id)
        now = self._clock()
        rvr = artifact.parse_voucher_request(raw, request_format)
        examined = vouchering.examine(rvr, self._audit_trust, now)
        device = policy.pick_device(await self.store.find_devices(examined.serial_number), examined)
        policy.check_key(device, examined)
        entries, unread = await self.store.entries_of(device.id)
        await self._check_may_read(device, entries, examined, requester, now)
        self._check_replay(entries, request, requester)
        return AuditAnswer(self._write(entries, unread), device.id)

    async def new_link(self, device_id: int) -> str:
        """An unguessable token for the log as it is now (RFC 8995, 5.8)."""
        token, now = secrets.token_urlsafe(TOKEN_BYTES), self._clock()
        await self.store.add_link(token, device_id, now, now + self._audit.link_lifetime)
        return token

    async def follow_link(self, token: str) -> bytes:
        """The log a link shows: the same bytes whenever it is asked for; raises Unknown."""
        device_id, up_to = await self.store.follow_link(token, self._clock())
        return (await self._present(device_id, up_to)).body

    async def _check_may_read(
        self, device: Device, entries: Sequence[Entry], examined: Examined, requester: Requester, now: datetime
    ) -> None:
        """5.8: owners now or once; to others the device does not exist, so that nobody can list our customers."""
        known = device.owner.identities if device.owner is not None else ()
        if is_known(known, examined, requester, self._terms.accepted, now):
            return
        if audit.is_owner_in_log(entries, examined.path_keys):
            return
        former = await self.store.former_identities(device.id)
        if not is_known(former, examined, requester, self._terms.accepted, now):
            raise Unknown("device-unknown", f"the requester never owned {device.serial_number}")

    def _check_replay(self, entries: Sequence[Entry], request: bytes, requester: Requester) -> None:
        """A request is no secret of the one who made it: whoever carried it could send it again."""
        if not self._audit.refuse_replays:
            return
        senders = {entry.requester for entry in entries if entry.request == request}
        if senders and requester.label not in senders:
            raise Refused("request-replayed", f"the request came first from {', '.join(senders)}")

    async def _present(self, device_id: int, up_to: int | None = None) -> AuditAnswer:
        entries, unread = await self.store.entries_of(device_id, up_to)
        return AuditAnswer(self._write(entries, unread), device_id)

    def _write(self, entries: Sequence[Entry], unread: int) -> bytes:
        terms = self._audit
        return auditlog.write(
            audit.present(entries, limit=terms.full_events, always_abridge=terms.always_abridge, unread=unread)
        )

    def _remember(self, request: bytes, seen: _Seen) -> None:
        self._seen[request] = seen
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
