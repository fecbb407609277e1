"""What the maker grants: to whom, with which assertion, which pin and until when.

`decide` goes through the rest of the plan of `vouchering`:

    5.6     The device is known, not blocked, and the key that signed is the one registered for it.
    5.5.4   Who is the registrar to us: the owner of the device, another customer, or nobody we know?
            A voucher without a nonce is for the owner only.
    P       The device's policy, below.
    5.5.1   A domain that had the last voucher of an unowned device gets a renewed one.
    5.5.5   The assertion: `proximity` if it was shown, `verified` for the owner, `logged` for the rest.
    5.5.2   The pin (D-6).
    5.6     The end of its validity.

The device's policy says who may have it:

    owner-only   the owner that the maker has on record, nobody else. The default for every device with an owner.
    refuse       nobody: the maker does not know to whom it was sold. The default for every device without an owner.
    first-come   an unowned device goes to the first domain that shows proximity, and stays there until it is
                 released (trust on first use on the side of the MASA; RFC 8995, 7.4.2).
    audit-only   any domain that shows proximity; the audit log is what warns the owner (RFC 8995, 5.5.4 and 11.4).

Whoever it is, the domainID that goes into the log must be derived from the pinned key, unless that very certificate
is on record: a domain that chose its SubjectKeyIdentifier, be it that of today's owner who means to keep a voucher
for later, could hide in the log behind another one's (RFC 8995, 11.2).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography import x509

from brski_common import der
from brski_common.artifact import Format
from brski_common.certificates import (
    Facts,
    domain_id,
    facts_of,
    is_ca,
    load_certificate,
    spki_sha256,
    subject_key_id,
)
from brski_common.errors import Refused, Unknown, Untrusted
from brski_common.voucher import Assertion
from brski_masa.parties import Device, DevicePolicy, Identity, IdentityKind, Owner, Pin, Requester, is_known
from brski_masa.vouchering import Examined

REMEMBERED_PINS: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The maker's settings on what to grant. The defaults are the strict ones."""

    owned: DevicePolicy = DevicePolicy.OWNER_ONLY
    unowned: DevicePolicy = DevicePolicy.REFUSE
    renewals: bool = True
    accepted: frozenset[IdentityKind] = frozenset((IdentityKind.ANCHOR, IdentityKind.TLS_CLIENT))
    authentication_always: bool = False
    proximity_mismatch_refused: bool = True
    strangers_need_proximity: bool = True
    pin: Pin = Pin.AUTO
    nonced_lifetime: timedelta | None = None
    nonceless_lifetime: timedelta = timedelta(minutes=20)
    revocation_checks: bool | None = None
    always_idevid_issuer: bool = False


class Decision(NamedTuple):
    """What is granted. `domain_id` is the pin's. `exclusive`: the device must still be free when the log is written."""

    assertion: Assertion
    pin: x509.Certificate
    domain_id: bytes
    owner: Owner | None
    renewal: bool = False
    exclusive: bool = False


# Which device


def pick_device(found: Sequence[Device], examined: Examined) -> Device:
    """The device among those with the serial number; raises Unknown, Untrusted (`serial-number-ambiguous`).

    Two product lines may use one serial number, so the issuer of the IDevID decides (draft-ietf-anima-rfc8366bis, 6.2).
    """
    if examined.idevid is not None:
        matching = [device for device in found if device.idevid_issuer in examined.idevid_issuers]
    elif (issuer := examined.rvr.value.idevid_issuer) is not None:
        matching = [device for device in found if issuer in _issuer_forms(device.idevid_issuer)]
    else:
        matching = list(found)
    if not matching:
        raise Unknown("device-unknown", f"no device {examined.serial_number} of that issuer is registered")
    if len(matching) > 1:
        raise Untrusted("serial-number-ambiguous", f"{len(matching)} devices have {examined.serial_number}")
    return matching[0]


def _issuer_forms(issuer: bytes) -> frozenset[bytes]:
    """The encodings of one idevid-issuer met in the wild; `04 18 30 16 80 14 …` is the right one."""
    usual = len(issuer) == 26 and issuer[:6] == bytes.fromhex("041830168014")
    return frozenset((issuer, issuer[2:], issuer[6:], issuer[4:])) if usual else frozenset((issuer,))


def check_device(device: Device, examined: Examined) -> None:
    """5.6: the device may have vouchers, and it was this device that asked; raises Refused, Untrusted."""
    if device.blocked is not None:
        raise Refused("device-blocked", device.blocked)
    check_key(device, examined)


def check_key(device: Device, examined: Examined) -> None:
    """What signed the pledge's request is the key registered for the device; raises Untrusted."""
    if examined.idevid is not None and examined.idevid_key != device.spki_sha256:
        raise Untrusted("idevid-not-registered", f"{device.serial_number} is registered with another key")


# The decision


def effective_policy(device: Device, terms: Terms) -> DevicePolicy:
    """The device's own policy, or the default for a device with or without an owner."""
    if device.policy is not None:
        return device.policy
    return terms.unowned if device.owner is None else terms.owned


def needs_customers(device: Device, examined: Examined, terms: Terms) -> bool:
    """Whether it matters if the requester is a customer other than the owner (so that the store is asked)."""
    if terms.authentication_always:
        return True
    strangers = effective_policy(device, terms) in (DevicePolicy.FIRST_COME, DevicePolicy.AUDIT_ONLY)
    return strangers and not all(map(domain_id_is_derived, examined.pinnable))


def decide(
    examined: Examined,
    device: Device,
    requester: Requester,
    terms: Terms,
    now: datetime,
    *,
    customers: Sequence[Identity] = (),
) -> Decision:
    """Grant a voucher or raise Refused, Unknown, Untrusted; the plan stands at the head of the file."""
    check_device(device, examined)  # 5.6
    owner = device.owner
    is_owner = owner is not None and is_known(owner.identities, examined, requester, terms.accepted, now)  # 5.5.4
    is_customer = is_owner or is_known(customers, examined, requester, terms.accepted, now)
    if terms.authentication_always and not is_customer:
        raise Refused("registrar-not-authenticated", f"for {device.serial_number}")
    if examined.nonce is None:
        _check_nonceless(device, is_owner)
    if not examined.proximity:
        _check_without_proximity(examined, is_owner, terms)
    renewal = device.last_pinned_key is not None and device.last_pinned_key in examined.path_keys  # 5.5.1
    exclusive = _check_policy(device, effective_policy(device, terms), is_owner, renewal and terms.renewals)  # P
    pin = choose_pin(examined, owner if is_owner else None, terms)  # 5.5.2
    if not domain_id_is_derived(pin) and not _is_on_record(pin, [*customers, *(owner.identities if owner else ())]):
        raise Refused("domain-id-not-derived", "the pinned SubjectKeyIdentifier is no hash of its key, nor on record")
    return Decision(
        assertion=choose_assertion(examined, is_owner),  # 5.5.5
        pin=pin,
        domain_id=domain_id(pin),
        owner=owner if is_owner else None,
        renewal=renewal,
        exclusive=exclusive,
    )


def _check_nonceless(device: Device, is_owner: bool) -> None:
    """RFC 8995, 5.5.4 and 7.4.1: a voucher that can be used at any time goes to the owner, who has to show it."""
    if not is_owner:
        raise Refused("nonceless-not-authenticated", f"for {device.serial_number}")
    if device.owner is not None and not device.owner.nonceless:
        raise Refused("nonceless-not-allowed", f"for {device.owner.name}")


def _check_without_proximity(examined: Examined, is_owner: bool, terms: Terms) -> None:
    """The pledge's request is missing, or it saw another domain."""
    if examined.idevid is not None and terms.proximity_mismatch_refused:
        # RFC 8995, 5.5.5: "the prior-signed-voucher-request MUST include a proximity-registrar-cert that is consistent"
        raise Untrusted("proximity-mismatch", "the pledge saw no registrar of this domain")
    if terms.strangers_need_proximity and not is_owner and examined.renews is None:
        reason = "proximity-mismatch" if examined.idevid is not None else "prior-signed-voucher-request-missing"
        raise Refused(reason, "a stranger has to show that the pledge is with it")


def _check_policy(device: Device, policy: DevicePolicy, is_owner: bool, renewal: bool) -> bool:
    """Whether the policy lets this requester have the device, and whether it must be the only one; raises Refused."""
    if is_owner:
        return False
    if policy is DevicePolicy.OWNER_ONLY:
        raise Refused("device-not-owned", f"{device.serial_number} is not on record as this registrar's")
    if policy is DevicePolicy.AUDIT_ONLY:
        return False
    if renewal:
        return policy is DevicePolicy.FIRST_COME
    if policy is DevicePolicy.REFUSE:
        raise Refused("device-without-owner", f"{device.serial_number} has no owner on record")
    if device.last_pinned_key is not None:
        raise Refused("device-claimed", f"{device.serial_number} was claimed by another domain")
    return True


def choose_assertion(examined: Examined, is_owner: bool) -> Assertion:
    """5.5.5: what was shown, never what was claimed (RFC 8995, 3.4)."""
    if examined.proximity:
        return Assertion.PROXIMITY
    return Assertion.VERIFIED if is_owner else Assertion.LOGGED


def choose_pin(examined: Examined, owner: Owner | None, terms: Terms) -> x509.Certificate:
    """5.5.2, D-6: the lowest CA for a voucher with a nonce, the highest for one without; the EE only if alone."""
    mode = terms.pin if owner is None or owner.pin is Pin.AUTO else owner.pin
    if mode is Pin.AUTO:
        mode = Pin.HIGHEST_CA if examined.nonce is None else Pin.LOWEST_CA
    if mode is Pin.END_ENTITY:
        return examined.pinnable[0]
    if mode is Pin.LOWEST_CA:
        return next(filter(is_ca, examined.pinnable), examined.pinnable[0])
    authorities = _up_to_anchors([each for each in examined.pinnable if is_ca(each)], owner)
    return authorities[-1] if authorities else examined.pinnable[0]


def _up_to_anchors(authorities: list[x509.Certificate], owner: Owner | None) -> list[x509.Certificate]:
    """Not higher than what the owner has on record: above it may stand a CA of many customers."""
    known = (
        {identity.value for identity in owner.identities if identity.kind is IdentityKind.ANCHOR} if owner else set()
    )
    marks = [index for index, authority in enumerate(authorities) if spki_sha256(authority).hex() in known]
    return authorities[: marks[-1] + 1] if marks else authorities


def choose_expiry(
    examined: Examined,
    pin: x509.Certificate,
    terms: Terms,
    now: datetime,
    *,
    revocation_known_until: datetime | None = None,
    lifetime: timedelta | None = None,
) -> datetime | None:
    """5.6: the end of a voucher, always of one without a nonce.

    Not after the configured lifetime (an operator's `lifetime` wins), the registrar's certificate, the next
    CRL, or the pinned certificate (RFC 8366, 5.3).
    """
    wanted = lifetime or (terms.nonceless_lifetime if examined.nonce is None else terms.nonced_lifetime)
    if wanted is None:
        return None
    ends = [now + wanted, examined.path[0].not_valid_after_utc, pin.not_valid_after_utc]
    return min(ends if revocation_known_until is None else [*ends, revocation_known_until])


def _is_on_record(pin: x509.Certificate, identities: Iterable[Identity]) -> bool:
    """Whether the maker knows this key under this domainID; those on record never share one (`registry`)."""
    value = spki_sha256(pin).hex()
    known = [each.certificate for each in identities if each.value == value and each.certificate is not None]
    return any(domain_id(load_certificate(each)) == domain_id(pin) for each in known)


def domain_id_is_derived(certificate: x509.Certificate) -> bool:
    """Whether the domainID follows from the key: no SubjectKeyIdentifier, or one of RFC 5280, 4.2.1.2 or RFC 7093."""
    return _is_derived(facts_of(certificate))


@lru_cache(maxsize=REMEMBERED_PINS)
def _is_derived(facts: Facts) -> bool:
    key_id = subject_key_id(facts.certificate)
    if key_id is None:
        return True
    usual = x509.SubjectKeyIdentifier.from_public_key(facts.key).digest
    return key_id == usual or key_id in _long_key_ids(facts.spki)


def _long_key_ids(info: bytes) -> set[bytes]:
    """RFC 7093, 2: longer hashes, of the key or of its whole information, uncut or cut."""
    bits = der.parse(info).children()[1].content[1:]  # the BIT STRING without its count of unused bits
    long = {hasher(data).digest() for hasher in _HASHERS for data in (bits, info)}
    return long | {digest[:20] for digest in long}


_HASHERS = (hashlib.sha256, hashlib.sha384, hashlib.sha512)


def choose_format(device: Device, wanted: Sequence[Format], offered: frozenset[Format]) -> Format:
    """The first format that the registrar takes, we can sign and the device can read; raises Refused (406)."""
    for each in wanted:
        if each in offered and (not device.formats or each in device.formats):
            return each
    raise Refused("voucher-format-not-acceptable", f"wanted {[each.name for each in wanted]}")
