"""The domain's certification authority, as the service sees it, and the local one.

The laws of this file:

1. A CA decides nothing about a device: `issue` is told by a profile what to certify (`enrolling`), and the local one
   takes from the request nothing but the key. One elsewhere (`upstream`) reads the request: see `relaying`.
2. Serial numbers are random; no certificate outlives any CA above it, nor is it older than its issuer.
3. While the root's key changes, everybody who knows either root can get to the other (RFC 7030, 4.1.3; RFC 4210, 4.4).
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Protocol, cast

from cryptography import x509

from brski_common import csrattrs, issuing
from brski_common.certificates import (
    Credential,
    PublicKey,
    load_certificate,
    public_key_info,
    to_der,
    without_duplicates,
)
from brski_common.csr import public_key
from brski_common.csrattrs import CsrAttributes
from brski_common.csrwishes import KeyWish, Wishes, acp_node_name, subject_wish
from brski_common.errors import Misconfigured
from brski_registrar.acp import Addressing
from brski_registrar.enrolling import Profile
from brski_registrar.records import Device

SERIAL_NUMBER: Final = "2.5.4.5"
KEY_USAGE: Final = issuing.signing_key_usage()  # of every certificate for a device
SHORTEST_LIFETIME: Final = timedelta(hours=1)  # of a certificate; below, the CA itself needs to be renewed


class CertificateAuthority(Protocol):
    """A CA: the local one here, an EST server elsewhere (`upstream`)."""

    async def ca_certs(self) -> tuple[x509.Certificate, ...]:
        """What /cacerts hands out: from the issuing CA to the root, then those of a change of root."""
        ...

    async def csr_attributes(self, device: Device | None) -> CsrAttributes:
        """What a device is to put into its certificate request; without one, what every device is (for an RA)."""
        ...

    async def issue(self, csr: x509.CertificateSigningRequest, profile: Profile) -> x509.Certificate:
        """Certify the request's key; raises Misconfigured, Refused, PeerFailed or NotYet."""
        ...


class LocalAuthority:
    """The domain's own issuing CA. The chain of `issuer` ends with the root; `rollover` are the certificates of law 3.

    `in_thread` is for a key in a token, which may take its time. `key_kind` (`KeyWish.of`) and `addressing` are asked
    of every device.
    """

    def __init__(
        self,
        issuer: Credential,
        *,
        clock: Callable[[], datetime],
        rollover: Sequence[x509.Certificate] = (),
        key_kind: str | None = None,
        addressing: Addressing | None = None,
        in_thread: bool = False,
    ) -> None:
        self._issuer, self._clock, self._in_thread = issuer, clock, in_thread
        self._certificates = without_duplicates((*issuer.chain, *rollover))
        self._not_before = issuer.certificate.not_valid_before_utc
        self._not_after = min(certificate.not_valid_after_utc for certificate in issuer.chain)
        self._key = KeyWish.of(key_kind) if key_kind else None
        self._addressing = addressing

    @property
    def issuer(self) -> x509.Certificate:
        """The certificate of the issuing CA."""
        return self._issuer.certificate

    async def ca_certs(self) -> tuple[x509.Certificate, ...]:
        """See `CertificateAuthority`."""
        return self._certificates

    async def csr_attributes(self, device: Device | None) -> CsrAttributes:
        """See `CertificateAuthority`: its serial number as subject, and what the settings add."""
        if device is None:
            return csrattrs.ask(Wishes(key=self._key))
        return csrattrs.ask(own_wishes(device, self._key, self._addressing))

    async def issue(self, csr: x509.CertificateSigningRequest, profile: Profile) -> x509.Certificate:
        """See `CertificateAuthority`; raises Misconfigured `ca-expired` when the CA is at its end."""
        if self._not_after < self._clock() + SHORTEST_LIFETIME:
            raise Misconfigured("ca-expired", f"the domain CA ends at {self._not_after.isoformat()}; renew it first")
        if self._in_thread:
            return await asyncio.to_thread(self._sign, csr, profile)
        return self._sign(csr, profile)

    def _sign(self, csr: x509.CertificateSigningRequest, profile: Profile) -> x509.Certificate:
        issued = issuing.end_entity(
            self._issuer,
            cast("PublicKey", public_key(csr)),  # `read_csr` admits only keys that can sign
            profile.subject,
            not_before=max(profile.not_before, self._not_before),
            not_after=min(profile.not_after, self._not_after),
            extended_key_usage=profile.extended_key_usage,
            alternative_names=profile.alternative_names,
            key_usage=KEY_USAGE,
        )
        # It is read here, where others read theirs: the device comes back with it at once, and TLS then knows it.
        return load_certificate(to_der(issued))


def own_wishes(device: Device, key: KeyWish | None, addressing: Addressing | None) -> Wishes:
    """What a registrar wants of every request, whoever its CA is: the serial number, and what the settings add."""
    wishes = Wishes(subject=subject_wish((SERIAL_NUMBER, device.serial_number)), key=key)
    if addressing is None:
        return wishes
    return replace(wishes, extensions=(acp_node_name(addressing.node_name(device.id)),))


def cross_certify(old: Credential, new: Credential, *, now: datetime) -> tuple[x509.Certificate, x509.Certificate]:
    """NewWithOld and OldWithNew for a change of the root's key (RFC 4210, 4.4; RFC 7030, 4.1.3).

    They end with the sooner of the two roots, and allow one CA beneath the root they certify.
    """
    if public_key_info(old.key.public_key()) == public_key_info(new.key.public_key()):
        raise Misconfigured("key-not-new", "a change of root needs another key")
    return _crossed(new, by=old, now=now), _crossed(old, by=new, now=now)


def _crossed(subject: Credential, *, by: Credential, now: datetime) -> x509.Certificate:
    return issuing.subordinate_ca(
        by,
        subject.key.public_key(),
        subject.certificate.subject,
        now=now,
        lifetime=subject.certificate.not_valid_after_utc - now,
        path_length=1,
    )
