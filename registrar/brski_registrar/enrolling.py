"""Certificates for admitted devices: who may ask, what is asked of them, what they get (RFC 8995, 5.9; RFC 7030).

The laws of this file:

1. EST is open to a pledge whose voucher and audit log are in order, on the very IDevID certificate that its voucher
   was asked with, and to nobody else (RFC 8995, 5 and 5.8.3).
2. A certificate names the device that TLS authenticated, in the words of the profile. Nothing is copied from a
   request but the key, and the names that the registrar asked for.
3. A request that asks for what is not the device's is refused all the same (RFC 8995, 5.9.2): somebody tries something.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, ObjectIdentifier

from brski_common.certificates import ID_KP_CLIENT_AUTH
from brski_common.csr import challenge_password, change_subject_name, check_renewal, check_wishes, subject_of
from brski_common.csrattrs import CsrAttributes
from brski_common.csrwishes import SUBJECT_ALTERNATIVE_NAME, Wishes
from brski_common.errors import NotYet, Refused, Untrusted
from brski_common.issuing import BACKDATE, name
from brski_registrar.identity import MAX_SERIAL_NUMBER, Pledge
from brski_registrar.lifecycle import EST_OPEN, LOG_PENDING, State
from brski_registrar.policy import Approval, DomainPolicy
from brski_registrar.records import Device

ASK_AGAIN_SECONDS: Final = 30.0

# What a device may ask its certificate to be good for without being refused; it gets what the profile holds.
_HARMLESS_USAGES: Final = frozenset({ID_KP_CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH})
HARMLESS_EXTENSIONS: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
)


class Profile(NamedTuple):
    """What a certificate is to say, whatever the request said. `not_after` is a wish: no CA outlives itself.

    A CA elsewhere reads the request itself. For it there is what was asked for, and the device's IDevID, whose name it
    may use (`relaying`); `asked` is None for a renewal, which repeats what was certified before.
    """

    subject: x509.Name
    not_before: datetime
    not_after: datetime
    alternative_names: tuple[x509.GeneralName, ...] = ()
    extended_key_usage: tuple[ObjectIdentifier, ...] = (ID_KP_CLIENT_AUTH,)
    asked: CsrAttributes | None = None
    idevid: x509.Certificate | None = None


def authorise(device: Device | None, pledge: Pledge, policy: DomainPolicy) -> bool:
    """Whether EST is open for this pledge now, False if the audit log must be judged first; raises Refused.

    1. It asked for a voucher here.
    2. It is the same certificate now as then (RFC 8995, 5).
    3. It got the voucher, did not report that it rejected it, and nothing speaks against it.
    """
    if device is None:  # 1
        raise Refused("voucher-not-requested", "EST before any voucher")
    if device.fingerprint != pledge.fingerprint:  # 2
        raise Refused("client-certificate-changed", "another certificate than that of the voucher request")
    if device.state in EST_OPEN:  # 3
        return True
    if device.state is State.VOUCHERED and policy.require_voucher_status:
        raise Refused("voucher-status-missing", "the pledge has not said whether it accepted the voucher")
    if device.state in LOG_PENDING:
        return False
    if device.state in _CLOSED:
        raise Refused(_CLOSED[device.state], device.reason)
    # Why the last voucher request failed was told then, and is another matter.
    raise Refused("voucher-missing", f"the device is {device.state}: it has to ask for a voucher first")


_CLOSED: Final = {
    State.FAILED: "voucher-rejected-by-pledge",
    State.DENIED: "audit-log-refused",
    State.BLOCKED: "device-blocked",
    State.SUSPENDED: "device-blocked",
    State.OPERATIONAL: "already-enrolled",
}


def check(csr: x509.CertificateSigningRequest, asked: CsrAttributes, pledge: Pledge) -> None:
    """Judge a certificate request of a pledge; raises Refused `csr-…`.

    1. Key, hash and extensions are what was asked for (RFC 8995, 5.9.2).
    2. Its subject claims nothing but this device.
    3. It asks for no powers and no other names.
    """
    # The subject is judged by what it claims, not by its form: clients that know no csrattrs put more or less there.
    wishes = asked.wishes
    check_wishes(wishes if wishes.subject is None else Wishes(key=wishes.key, extensions=wishes.extensions), csr)  # 1
    _check_subject(subject_of(csr), pledge)  # 2
    _check_powers(csr, asks_names=wishes.extension(SUBJECT_ALTERNATIVE_NAME) is not None)  # 3


def check_linked(csr: x509.CertificateSigningRequest, binding: Callable[[], bytes | None]) -> None:
    """A challengePassword that came, asked for or not, is the base64 of this connection's binding (RFC 7030, 3.5).

    `binding` is tls-unique, or in TLS 1.3, which has none, tls-exporter (RFC 9266); it is only made where somebody
    asks for it. Raises Malformed, Untrusted.
    """
    said = challenge_password(csr)
    if said is None:
        return
    expected = base64.b64encode(binding() or b"").decode()
    if not expected or not hmac.compare_digest(said.encode(), expected.encode()):
        raise Untrusted("csr-not-linked", "its challengePassword belongs to another TLS connection")


def _check_subject(subject: x509.Name, pledge: Pledge) -> None:
    serials = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
    if any(serial != pledge.serial_number for serial in serials):
        raise Refused("csr-serial-number-mismatch", f"{serials} asked for by {pledge.serial_number}")
    if serials:
        return
    own = {str(each.value) for each in pledge.certificate.subject} | {pledge.serial_number}
    foreign = [str(each.value) for each in subject if str(each.value) not in own]
    if foreign:
        raise Refused("csr-subject-mismatch", f"{subject.rfc4514_string()} does not name {pledge.serial_number}")


def _check_powers(csr: x509.CertificateSigningRequest, *, asks_names: bool) -> None:
    for extension in csr.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise Refused("csr-asks-ca", "the request is for a CA certificate")
        if isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign):
            raise Refused("csr-asks-ca", "the request is for a key that signs certificates")
        if isinstance(value, x509.ExtendedKeyUsage) and not set(value) <= _HARMLESS_USAGES:
            raise Refused("csr-usage-not-asked", ", ".join(usage.dotted_string for usage in value))
        if isinstance(value, x509.SubjectAlternativeName) and not asks_names:
            raise Refused("csr-names-not-asked", "a subjectAltName that was not asked for")
        known = extension.oid in HARMLESS_EXTENSIONS or extension.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        if extension.critical and not known:
            raise Refused("csr-extension-not-asked", extension.oid.dotted_string)


def profile(
    pledge: Pledge, csr: x509.CertificateSigningRequest, asked: CsrAttributes, policy: DomainPolicy, now: datetime
) -> Profile:
    """The certificate for an admitted pledge; its alternative names only if they were asked for, and then as asked."""
    wanted = asked.wishes.extension(SUBJECT_ALTERNATIVE_NAME) is not None
    return Profile(
        subject=_subject(pledge.serial_number, policy),
        not_before=now - BACKDATE,
        not_after=now + timedelta(days=policy.certificate_days),
        alternative_names=alternative_names(csr) if wanted else (),
        asked=asked,
        idevid=pledge.certificate,
    )


def delegated(csr: x509.CertificateSigningRequest, policy: DomainPolicy, now: datetime) -> Profile:
    """The certificate for a device that an RA speaks for (RFC 7030, 3.7), new or renewed; raises Refused `csr-…`.

    The request says which device it is, by one serial number in its subject; it asks for no powers and no names.
    """
    serials = [str(each.value) for each in csr.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
    if len(serials) != 1 or not 0 < len(serials[0]) <= MAX_SERIAL_NUMBER or not serials[0].isprintable():
        raise Refused("csr-serial-number-missing", f"{serials} where the serial number of one device is wanted")
    _check_powers(csr, asks_names=False)
    return Profile(
        subject=_subject(serials[0], policy),
        not_before=now - BACKDATE,
        not_after=now + timedelta(days=policy.certificate_days),
    )


def _subject(serial_number: str, policy: DomainPolicy) -> x509.Name:
    organization = {"organization_name": policy.organization} if policy.organization else {}
    return name(serial_number, **organization, serial_number=serial_number)


def renewal(
    csr: x509.CertificateSigningRequest, current: x509.Certificate, policy: DomainPolicy, now: datetime
) -> Profile:
    """The certificate that follows `current` (RFC 7030, 4.2.2): the same names, or Refused."""
    check_renewal(csr, current)
    if change_subject_name(csr) is not None:
        raise Refused("csr-change-of-name", "a device does not choose its name here")
    _check_powers(csr, asks_names=True)
    return Profile(
        subject=current.subject,
        not_before=now - BACKDATE,
        not_after=now + timedelta(days=policy.certificate_days),
        alternative_names=alternative_names(current),
        extended_key_usage=_usages(current),
    )


def check_approved(device: Device, csr_hash: str, policy: DomainPolicy) -> None:
    """Raise NotYet unless this very request may be certified without the operator, or he has cleared it."""
    if policy.approval is Approval.AUTOMATIC:
        return
    if device.state is State.CLEARED and device.csr_sha256 == csr_hash:
        return
    raise NotYet("waiting-for-operator", "the certificate request has to be approved", ASK_AGAIN_SECONDS)


def request_hash(csr: x509.CertificateSigningRequest) -> str:
    """What two requests have in common that ask for the same: SHA-256 of the information that is signed, hex."""
    return hashlib.sha256(csr.tbs_certrequest_bytes).hexdigest()


def alternative_names(holder: x509.CertificateSigningRequest | x509.Certificate) -> tuple[x509.GeneralName, ...]:
    """The names in a subjectAltName."""
    try:
        return tuple(holder.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _usages(certificate: x509.Certificate) -> tuple[ObjectIdentifier, ...]:
    try:
        return tuple(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return ()
