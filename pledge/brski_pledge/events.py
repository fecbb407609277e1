"""What an onboarding tells its device: frozen events for lamps, displays and logs.

Each event has a `step`, a stable slug, and a `detail`, one line for people. No event holds a key,
and none holds a text that the other side could choose the length of.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Self

from cryptography import x509

from brski_common.certificates import common_name, fingerprint
from brski_common.telemetry import printable
from brski_pledge.vouchering import Imprint, checks_made

MAX_DETAIL = 300  # characters


@dataclass(frozen=True, slots=True)
class Event:
    """Something a device may show."""

    step: ClassVar[str] = "event"

    @property
    def detail(self) -> str:
        """One line for people."""
        return printable(self._detail(), MAX_DETAIL)

    def _detail(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Searching(Event):
    """A round of discovery was sent; the device listens all the time."""

    step: ClassVar[str] = "searching"


@dataclass(frozen=True, slots=True)
class CannotListen(Event):
    """A method of discovery does not work for now, as before a link is up; it is tried again."""

    step: ClassVar[str] = "cannot-listen"
    method: str
    explanation: str

    def _detail(self) -> str:
        return f"{self.method}: {self.explanation}"


@dataclass(frozen=True, slots=True)
class OfferFound(Event):
    """A join proxy or registrar was discovered."""

    step: ClassVar[str] = "offer-found"
    offer: str
    source: str

    def _detail(self) -> str:
        return f"{self.offer} by {self.source}"


@dataclass(frozen=True, slots=True)
class Connecting(Event):
    """An attempt through an offer begins."""

    step: ClassVar[str] = "connecting"
    offer: str

    def _detail(self) -> str:
        return self.offer


@dataclass(frozen=True, slots=True)
class RegistrarSeen(Event):
    """A registrar showed its certificate. While `provisional` nothing of it is trusted yet (RFC 8995, 5.1)."""

    step: ClassVar[str] = "registrar-seen"
    offer: str
    subject: str
    fingerprint: str
    provisional: bool = True

    @classmethod
    def of(cls, offer: str, certificate: x509.Certificate, *, provisional: bool) -> Self:
        """From the certificate it showed."""
        return cls(offer, common_name(certificate), fingerprint(certificate).hex(), provisional)

    def _detail(self) -> str:
        return f"{self.subject}, {'provisional' if self.provisional else 'verified'}, sha256 {self.fingerprint[:16]}…"


@dataclass(frozen=True, slots=True)
class VoucherRequested(Event):
    """The signed voucher request went out."""

    step: ClassVar[str] = "voucher-requested"
    offer: str
    serial_number: str

    def _detail(self) -> str:
        return f"for {self.serial_number}"


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """The registrar asks for patience (202): a lamp may blink (RFC 8995, 5.6)."""

    step: ClassVar[str] = "waiting"
    offer: str
    seconds: float
    what: str

    def _detail(self) -> str:
        return f"for the {self.what}, asking again in {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Redirected(Event):
    """The registrar named another one."""

    step: ClassVar[str] = "redirected"
    offer: str
    to: str

    def _detail(self) -> str:
        return f"to {self.to}"


@dataclass(frozen=True, slots=True)
class VoucherRefused(Event):
    """A voucher came and did not hold; `reason` is ours alone, the registrar is told less (RFC 8995, 5.7)."""

    step: ClassVar[str] = "voucher-refused"
    offer: str
    reason: str
    explanation: str

    def _detail(self) -> str:
        return f"{self.reason}: {self.explanation}" if self.explanation else self.reason


@dataclass(frozen=True, slots=True)
class Imprinted(Event):
    """The voucher and the registrar passed every check: the device knows its owner."""

    step: ClassVar[str] = "imprinted"
    offer: str
    domain: str
    assertion: str
    checks: tuple[str, ...]

    @classmethod
    def of(cls, offer: str, imprint: Imprint, now: datetime | None) -> Self:
        """From what was judged at `now`."""
        owner, assertion = common_name(imprint.pinned), imprint.voucher.value.assertion
        return cls(offer, owner, str(assertion), checks_made(imprint, now))

    def _detail(self) -> str:
        return f"owner {self.domain}, assertion {self.assertion}; checked {', '.join(self.checks)}"


@dataclass(frozen=True, slots=True)
class AnchorsReceived(Event):
    """The domain's CA certificates came; `subjects` are now the explicit anchors."""

    step: ClassVar[str] = "anchors-received"
    subjects: tuple[str, ...]

    def _detail(self) -> str:
        return ", ".join(self.subjects)


@dataclass(frozen=True, slots=True)
class KeyMade(Event):
    """A fresh key pair was made on this device."""

    step: ClassVar[str] = "key-made"
    kind: str

    def _detail(self) -> str:
        return f"{self.kind}, on this device"


@dataclass(frozen=True, slots=True)
class CertificateReceived(Event):
    """The domain's certificate for this device came and was checked."""

    step: ClassVar[str] = "certificate-received"
    subject: str
    issuer: str
    not_after: datetime

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """From the certificate."""
        return cls(common_name(certificate), name_of(certificate.issuer), certificate.not_valid_after_utc)

    def _detail(self) -> str:
        return f"{self.subject} from {self.issuer}, until {self.not_after:%Y-%m-%d}"


@dataclass(frozen=True, slots=True)
class EnrollmentSaved(Event):
    """Key, certificate and anchors are durable."""

    step: ClassVar[str] = "saved"


@dataclass(frozen=True, slots=True)
class Operational(Event):
    """All is done. `confirmed` tells whether the registrar heard of it over the new identity."""

    step: ClassVar[str] = "operational"
    confirmed: bool

    def _detail(self) -> str:
        return "confirmed with the LDevID" if self.confirmed else "the registrar could not be told"


@dataclass(frozen=True, slots=True)
class Renewed(Event):
    """The new LDevID took the place of the old one."""

    step: ClassVar[str] = "renewed"


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """An attempt is over; the same offer is tried again in `retry_in` seconds, others sooner."""

    step: ClassVar[str] = "attempt-failed"
    offer: str
    reason: str
    explanation: str
    retry_in: float

    def _detail(self) -> str:
        why = f"{self.reason}: {self.explanation}" if self.explanation else self.reason
        return f"{self.offer}: {why}"


@dataclass(frozen=True, slots=True)
class ResetDone(Event):
    """Back to the factory state: only the IDevID is left."""

    step: ClassVar[str] = "reset"


def name_of(name: x509.Name) -> str:
    """A subject or issuer as people read it: a serial number stands as `serialNumber=`, not under its OID."""
    return name.rfc4514_string({x509.NameOID.SERIAL_NUMBER: "serialNumber"})
