"""What a registrar's voucher request must show before a voucher may be thought of (RFC 8995, 5.5).

The plan of all checks; the numbers are the RFC's sections and stand again in the code:

    5.5.2   The chain that came along names the domain. An unknown domain CA is an anchor for this request only.
    5.5.3   The signature holds, and the signer's chain holds together. (Revocation: `revocation`.)
    5.5.4   The signer is a registrar: id-kp-cmcRA. (Who it is to us: `policy`.)
    5.5.5   The pledge's own request inside
            a  is signed by an IDevID of this manufacturer,
            b  whose certificate has the serial number, and the issuer, that the registrar names,
            c  and the pledge saw a registrar of this very domain: proximity.
    5.5.6   Both requests carry the same nonce, or both carry none.

5.5.1 (renewal), the choice of the pin (5.5.2) and the authentication of the registrar (5.5.4) need to know
the device and its owner; they are decided in `policy`.

The laws of this file:

1. A request of the pledge that is there is always verified in full (RFC 8995, 7.4.2), whatever the policy.
2. What the registrar claims counts for nothing: its assertion, its pins and its renewal date are not looked at
   (RFC 8995, 3.4), the serial number is that of the certificate.
3. Cheap checks come first: an attacker pays more for a request than we do for refusing it (RFC 8995, 11.1).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509

from brski_common import artifact
from brski_common.artifact import Unverified, Verified
from brski_common.certificate_bytes import Name
from brski_common.certificates import (
    ID_KP_CMC_RA,
    Facts,
    common_name,
    facts_of,
    is_ca,
    load_certificate,
    serial_number,
    spki_sha256,
    to_der,
)
from brski_common.errors import Refused, UnsupportedFormat, Untrusted
from brski_common.paths import Anchors, find_path
from brski_common.published_keys import PUBLISHED_TEST_KEYS
from brski_common.voucher import Assertion, Voucher, VoucherRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the MASA goes by: the maker's anchors and a few strictness settings.

    `idevid_pool` holds the maker's own intermediate CAs, for a pledge that sends only its certificate.
    `request_max_age` bounds how far a registrar's created-on may be from our clock, either way. `maker_names` are
    the subjects of both, under which devices are.
    """

    idevid_anchors: Anchors
    voucher_anchors: Anchors
    idevid_pool: tuple[x509.Certificate, ...] = ()
    request_max_age: timedelta = timedelta(days=1)
    ignore_idevid_dates: bool = False
    unsafe_allow_published_keys: bool = False
    maker_names: frozenset[Name] = field(init=False)

    def __post_init__(self) -> None:
        authorities = (*self.idevid_anchors.certificates, *self.idevid_pool)
        object.__setattr__(self, "maker_names", frozenset(facts_of(authority).subject for authority in authorities))


class Examined(NamedTuple):
    """A registrar's request that passed the plan.

    `path` is the registrar's chain as it holds together, signer first. `pinnable` is the part of it that also
    leads to the certificate the pledge saw. `path_keys` are the SPKI SHA-256 of the path. `idevid` is None if no
    request of the pledge came along; else `idevid_key` is its SPKI SHA-256 and `idevid_issuers` are all forms of
    idevid-issuer that name its issuer.
    """

    rvr: Verified[VoucherRequest]
    serial_number: str
    nonce: str | None
    path: tuple[x509.Certificate, ...]
    pinnable: tuple[x509.Certificate, ...]
    path_keys: frozenset[bytes]
    idevid: x509.Certificate | None = None
    idevid_key: bytes = b""
    idevid_issuers: frozenset[bytes] = frozenset()
    proximity: bool = False
    renews: Voucher | None = None


def examine(rvr: Unverified[VoucherRequest], trust: Trust, now: datetime) -> Examined:
    """Go through the plan of this file; raises Malformed, UnsupportedFormat, Untrusted, Refused."""
    _check_fresh(rvr.claimed, trust, now)
    _check_a_registrar_came_along(rvr.facts)
    verified = rvr.verify_consistent(now, beside=_ours(rvr.facts, trust))  # 5.5.2, 5.5.3
    check_registrar(verified.facts[0])  # 5.5.4
    keys = frozenset([facts.spki_sha256 for facts in verified.facts])
    _refuse_published_keys(keys, trust)
    prior = verified.value.prior_signed_voucher_request
    if prior is None:
        return _without_pledge(verified, keys)
    try:
        pvr = artifact.parse_voucher_request(prior, rvr.format)
    except UnsupportedFormat as error:
        if error.reason != "voucher-kind-unexpected":
            raise
        return _examine_renewal(_without_pledge(verified, keys), artifact.parse_voucher(prior, rvr.format), trust)
    return _examine_prior(verified, keys, pvr, rvr.facts, trust, now)


def _without_pledge(verified: Verified[VoucherRequest], keys: frozenset[bytes]) -> Examined:
    """All there is to know if no request of the pledge came along."""
    return Examined(
        rvr=verified,
        serial_number=verified.value.serial_number,
        nonce=verified.value.nonce,
        path=verified.path,
        pinnable=verified.path,
        path_keys=keys,
    )


def _ours(along: Iterable[Facts], trust: Trust) -> frozenset[x509.Certificate]:
    """The chain of a pledge, which its registrar may add (draft-ietf-anima-constrained-voucher, 7.2); by name only.

    A registrar under one of the maker's names, as in a test plant, keeps what it needs: the id-kp-cmcRA decides.
    """
    found = [facts for facts in along if facts.issuer in trust.maker_names]
    if _registrars(found):
        return frozenset()
    return frozenset([facts.certificate for facts in found])


def _registrars(certificates: Iterable[Facts]) -> list[Facts]:
    return [facts for facts in certificates if ID_KP_CMC_RA in facts.extended_key_usages]


def check_registrar(signer: Facts) -> None:
    """5.5.4: the domain made the signer a registrar (RFC 7030, 3.6.1); raises Untrusted."""
    if ID_KP_CMC_RA not in signer.extended_key_usages:
        name = common_name(signer.certificate)
        raise Untrusted("registrar-not-authorized", f"{name} has no extended key usage id-kp-cmcRA")


def _check_fresh(claimed: VoucherRequest, trust: Trust, now: datetime) -> None:
    """RFC 8995, 5.6: 403 for a stale request. created-on is a SHOULD, so its absence says nothing (5.5)."""
    made = claimed.created_on
    if made is not None and abs(now - made) > trust.request_max_age:
        raise Refused("request-stale", f"created on {made}, more than {trust.request_max_age} from {now}")


def _check_a_registrar_came_along(along: Iterable[Facts]) -> None:
    """Law 3: without any registrar's certificate no signature needs to be looked at."""
    if not _registrars(along):
        raise Untrusted("registrar-not-authorized", "no certificate with id-kp-cmcRA came along")


def _refuse_published_keys(keys: frozenset[bytes], trust: Trust) -> None:
    if not trust.unsafe_allow_published_keys and keys & PUBLISHED_TEST_KEYS:
        raise Untrusted("published-test-key", "the private key stands in a specification")


# 5.5.5 and 5.5.6


def _examine_prior(
    rvr: Verified[VoucherRequest],
    path_keys: frozenset[bytes],
    pvr: Unverified[VoucherRequest],
    along: Sequence[Facts],
    trust: Trust,
    now: datetime,
) -> Examined:
    _check_nonces(rvr.value, pvr.claimed)  # 5.5.6; cheap, and forging it below gains nothing
    facts = _verify_pledge(pvr, along, trust, None if trust.ignore_idevid_dates else now)  # 5.5.5 a
    idevid = facts.certificate
    idevid_key = facts.spki_sha256
    _refuse_published_keys(frozenset((idevid_key,)), trust)
    serial = serial_number(idevid)  # 5.5.5 b
    if rvr.value.serial_number != serial or pvr.claimed.serial_number != serial:
        raise Untrusted("serial-number-mismatch", f"the IDevID is of {serial}")
    issuer, forms = rvr.value.idevid_issuer, facts.issuer_forms
    if issuer is not None and issuer not in forms:
        raise Untrusted("idevid-issuer-mismatch", f"the IDevID of {serial} has another issuer")
    seen = _proximity_key(pvr.claimed)  # 5.5.5 c
    pinnable = rvr.path if seen in path_keys else _path_beside(seen, rvr, along, now)
    return Examined(
        rvr=rvr,
        serial_number=serial,
        nonce=rvr.value.nonce,
        path=rvr.path,
        pinnable=pinnable or rvr.path,
        path_keys=path_keys,
        idevid=idevid,
        idevid_key=idevid_key,
        idevid_issuers=forms,
        proximity=bool(pinnable),
    )


def _verify_pledge(
    pvr: Unverified[VoucherRequest], along: Sequence[Facts], trust: Trust, now: datetime | None
) -> Facts:
    """5.5.5 a: the IDevID that signed, under the maker's anchors; raises Untrusted.

    A constrained pledge sends no certificate, its registrar adds the chain (draft-ietf-anima-constrained-voucher, 7.2).
    """
    pool = (*along, *map(facts_of, trust.idevid_pool))
    if pvr.certificates:
        return _not_a_ca(pvr.verify(trust.idevid_anchors, now, pool=pool).facts[0])
    for candidate in along:
        if _names_device(candidate.certificate, pvr.claimed.serial_number):
            signer = pvr.verify_signed_by(candidate.certificate).facts[0]
            find_path(signer, pool, trust.idevid_anchors, now)
            return _not_a_ca(signer)
    raise Untrusted("idevid-missing", "the certificate that signed the pledge's request did not come along")


def _not_a_ca(signer: Facts) -> Facts:
    """An IDevID CA is no device, though its key is under the maker's anchor too."""
    if signer.is_ca:
        raise Untrusted("idevid-is-ca", common_name(signer.certificate))
    return signer


def _names_device(certificate: x509.Certificate, serial: str) -> bool:
    try:
        return serial_number(certificate) == serial
    except Untrusted:
        return False


def _path_beside(
    seen: bytes | None, rvr: Verified[VoucherRequest], along: Sequence[Facts], now: datetime
) -> tuple[x509.Certificate, ...]:
    """5.5.5 c: the part of the registrar's path that vouches for a key outside of it; empty without proximity.

    A key in the path is enough. A TLS certificate beside the signer's must itself be a registrar's under a CA
    of the same path: anybody can put a foreign certificate into the set, which no signature covers.
    """
    if seen is None:
        return ()
    authorities = Anchors(certificate for certificate in rvr.path if is_ca(certificate))
    for candidate in along:
        if candidate.spki_sha256 == seen and ID_KP_CMC_RA in candidate.extended_key_usages:
            try:
                path = find_path(candidate, along, authorities, now)
            except Untrusted:
                continue
            return rvr.path[rvr.path.index(path[-1].certificate) :]
    return ()


def _proximity_key(pvr: VoucherRequest) -> bytes | None:
    """SHA-256 of the SPKI the pledge saw, in the order of draft-ietf-anima-rfc8366bis, 9; raises Malformed."""
    if pvr.proximity_registrar_pubk_sha256 is not None:
        return pvr.proximity_registrar_pubk_sha256
    if pvr.proximity_registrar_pubk is not None:
        return hashlib.sha256(pvr.proximity_registrar_pubk).digest()
    if pvr.proximity_registrar_cert is not None:
        return spki_sha256(load_certificate(pvr.proximity_registrar_cert))
    return None


def _check_nonces(rvr: VoucherRequest, pvr: VoucherRequest) -> None:
    """5.5.6. A nonce that only the pledge's request has was taken away on the way (RFC 8995, 11.4)."""
    if pvr.nonce is not None and rvr.nonce is None:
        raise Untrusted("nonce-stripped", "the pledge's request has a nonce, the registrar's has none")
    if pvr.nonce != rvr.nonce:
        raise Untrusted("nonce-mismatch", "the two requests have different nonces")


# Renewal with the old voucher (draft-ietf-anima-rfc8366bis, 10.1)


def _examine_renewal(examined: Examined, prior: Unverified[Voucher], trust: Trust) -> Examined:
    """The prior artifact is a voucher of ours for this device and this domain, perhaps expired."""
    old = prior.verify(trust.voucher_anchors, None).value
    if old.serial_number != examined.serial_number:
        raise Untrusted("serial-number-mismatch", f"the voucher to be renewed is for {old.serial_number}")
    if old.nonce != examined.nonce:
        raise Untrusted("nonce-mismatch", "the voucher to be renewed has another nonce")
    pinned = None if old.pinned_domain_cert is None else load_certificate(old.pinned_domain_cert)
    if pinned is None or spki_sha256(pinned) not in examined.path_keys:
        raise Untrusted("renewal-of-another-domain", "the voucher to be renewed pins another domain")
    return examined._replace(renews=old)


# The voucher


def compose(
    examined: Examined,
    *,
    assertion: Assertion,
    pin: x509.Certificate,
    created_on: datetime,
    expires_on: datetime | None,
    idevid_issuer: bytes | None = None,
    revocation_checks: bool | None = None,
) -> Voucher:
    """The voucher for a request that policy grants (RFC 8995, 5.6); nothing of the request is copied but its nonce."""
    return Voucher.of(
        {
            "created_on": created_on,
            "assertion": assertion,
            "serial_number": examined.serial_number,
            "nonce": examined.nonce,
            "pinned_domain_cert": to_der(pin),
            "expires_on": expires_on,
            "idevid_issuer": idevid_issuer,
            "domain_cert_revocation_checks": revocation_checks,
        }
    )
