"""The world of the tests: a maker, a plant and a clock that can be set.

Keys cost time, so each process makes a few and hands them out again; nothing depends on their values.
"""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from brski_common import der, issuing
from brski_common.certificates import (
    ID_KP_CLIENT_AUTH,
    ID_KP_CMC_RA,
    ID_KP_SERVER_AUTH,
    ID_PE_MASA_URL,
    Credential,
    PrivateKey,
    to_pem,
)
from brski_common.paths import Anchors

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
YEARS = timedelta(days=3650)
LOOPBACK = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))

_fresh = count()


def make_key(kind: str = "P-256") -> PrivateKey:
    """A new private key."""
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind.startswith("RSA-"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind[4:]))
    return ec.generate_private_key({"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[kind])


@cache
def key_for(owner: str, kind: str = "P-256") -> PrivateKey:
    """The key of a named owner: the same for the whole run of one process."""
    del owner
    return make_key(kind)


@dataclass
class Clock:
    """A clock that stands until somebody moves it."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move on by `seconds`."""
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Manufacturer:
    """A device maker: a root, an IDevID CA under it, and a voucher signer with a root of its own (D-14)."""

    name: str = "Example Maker"
    kind: str = "P-256"
    now: datetime = NOW

    @property
    @cache  # noqa: B019 - equal makers and plants are one and the same for the whole run
    def root(self) -> Credential:
        """The root of the maker's devices."""
        return _root(f"{self.name} Root CA", self.kind, self.now)

    @property
    @cache  # noqa: B019 - equal makers and plants are one and the same for the whole run
    def idevid_ca(self) -> Credential:
        """The CA that issues IDevIDs."""
        return _sub(self.root, f"{self.name} IDevID CA", self.kind, self.now)

    @property
    @cache  # noqa: B019 - equal makers and plants are one and the same for the whole run
    def voucher_root(self) -> Credential:
        """The root that devices carry as their voucher anchor."""
        return _root(f"{self.name} Voucher Root", self.kind, self.now)

    @property
    @cache  # noqa: B019 - equal makers and plants are one and the same for the whole run
    def voucher_signer(self) -> Credential:
        """The MASA's voucher signing credential."""
        subject = issuing.name(f"{self.name} Voucher Signer")
        key = key_for(f"{self.name} voucher signer", self.kind)
        certificate = issuing.end_entity(
            self.voucher_root,
            key.public_key(),
            subject,
            not_before=self.now - timedelta(days=1),
            not_after=self.now + YEARS,
            key_usage=issuing.signing_key_usage(),
        )
        return Credential(key, (certificate, *self.voucher_root.chain))

    @property
    @cache  # noqa: B019 - equal makers and plants are one and the same for the whole run
    def tls(self) -> Credential:
        """The MASA's TLS credential for loopback."""
        return self.tls_for(*LOOPBACK)

    def tls_for(self, *names: x509.GeneralName) -> Credential:
        """A MASA TLS credential for the given names, under the maker's root."""
        key = key_for(f"{self.name} tls")
        certificate = issuing.end_entity(
            self.root,
            key.public_key(),
            issuing.name(f"{self.name} MASA"),
            not_before=self.now - timedelta(days=1),
            not_after=self.now + YEARS,
            extended_key_usage=(ID_KP_SERVER_AUTH,),
            alternative_names=names,
        )
        return Credential(key, (certificate, *self.root.chain))

    def idevid(
        self,
        serial: str,
        *,
        masa_url: str | None = "masa.example:9443",
        not_after: datetime = issuing.NO_EXPIRY,
        key: PrivateKey | None = None,
        subject: x509.Name | None = None,
        issuer: Credential | None = None,
        extensions: issuing.Extensions = (),
    ) -> Credential:
        """A device's IDevID with its chain. Override what the story needs."""
        key = key or key_for(f"{self.name} device {serial}", self.kind)
        issuer = issuer or self.idevid_ca
        masa = [] if masa_url is None else [(masa_url_extension(masa_url), False)]
        certificate = issuing.end_entity(
            issuer,
            key.public_key(),
            subject or issuing.name(f"Device {serial}", serial_number=serial),
            not_before=self.now - timedelta(days=30),
            not_after=not_after,
            extensions=[*masa, *extensions],
            subject_key_identifier=False,
        )
        return Credential(key, (certificate, *issuer.chain))

    @property
    def idevid_anchors(self) -> Anchors:
        """What a registrar and the MASA trust for IDevIDs."""
        return Anchors([self.root.certificate])

    @property
    def voucher_anchors(self) -> Anchors:
        """What a pledge trusts for vouchers."""
        return Anchors([self.voucher_root.certificate])

    @property
    def tls_anchors(self) -> Anchors:
        """What a registrar trusts for the MASA's TLS server."""
        return Anchors([self.root.certificate])


@dataclass(frozen=True)
class Domain:
    """A plant: root → issuing CA → registrar and LDevIDs."""

    name: str = "Example Plant"
    kind: str = "P-256"
    now: datetime = NOW

    @property
    @cache  # noqa: B019 - equal makers and plants are one and the same for the whole run
    def root(self) -> Credential:
        """The domain's root CA."""
        return _root(f"{self.name} Root CA", self.kind, self.now)

    @property
    @cache  # noqa: B019 - equal makers and plants are one and the same for the whole run
    def issuing(self) -> Credential:
        """The CA that issues the registrar's certificate and LDevIDs."""
        return _sub(self.root, f"{self.name} Issuing CA", self.kind, self.now)

    @property
    @cache  # noqa: B019 - equal makers and plants are one and the same for the whole run
    def registrar(self) -> Credential:
        """The registrar's credential for loopback."""
        return self.registrar_with()

    def registrar_with(
        self,
        *,
        key: PrivateKey | None = None,
        usages: tuple[x509.ObjectIdentifier, ...] = (ID_KP_CMC_RA, ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH),
        names: tuple[x509.GeneralName, ...] = LOOPBACK,
        not_after: datetime | None = None,
    ) -> Credential:
        """A registrar credential; override what the story needs."""
        key = key or key_for(f"{self.name} registrar", self.kind)
        certificate = issuing.end_entity(
            self.issuing,
            key.public_key(),
            issuing.name(f"{self.name} Registrar"),
            not_before=self.now - timedelta(days=1),
            not_after=not_after or self.now + YEARS / 2,
            extended_key_usage=usages,
            alternative_names=names,
            key_usage=issuing.signing_key_usage(),
        )
        return Credential(key, (certificate, *self.issuing.chain))

    def ldevid(self, serial: str) -> Credential:
        """A device's LDevID in this domain."""
        key = key_for(f"{self.name} ldevid {serial}")
        certificate = issuing.end_entity(
            self.issuing,
            key.public_key(),
            issuing.name(f"Device {serial}", serial_number=serial),
            not_before=self.now - timedelta(days=1),
            not_after=self.now + timedelta(days=365),
            extended_key_usage=(ID_KP_CLIENT_AUTH,),
        )
        return Credential(key, (certificate, *self.issuing.chain))

    @property
    def anchors(self) -> Anchors:
        """The domain's root as an anchor."""
        return Anchors([self.root.certificate])


def masa_url_extension(text: str) -> x509.UnrecognizedExtension:
    """The MASA URL extension with `text` as IA5String."""
    return x509.UnrecognizedExtension(ID_PE_MASA_URL, der.ia5_string(text))


def self_signed_registrar(name: str = "Lonely Registrar", now: datetime = NOW) -> Credential:
    """A registrar without any CA: its own certificate, its own anchor (RFC 8995, 5.1)."""
    key = key_for(name)
    itself = Credential(key, (issuing.root_ca(key, issuing.name(name), now=now, lifetime=YEARS),))
    certificate = issuing.end_entity(
        itself,
        key.public_key(),
        issuing.name(name),
        not_before=now - timedelta(days=1),
        not_after=now + YEARS,
        extended_key_usage=(ID_KP_CMC_RA, ID_KP_SERVER_AUTH),
        alternative_names=LOOPBACK,
    )
    return Credential(key, (certificate,))


def pem_of(*credentials: Credential) -> bytes:
    """The leaf certificates of the credentials as PEM."""
    return to_pem(*(credential.certificate for credential in credentials))


def fresh(prefix: str = "SN") -> str:
    """A serial number that no other test of this process has."""
    return f"{prefix}-{next(_fresh):05d}"


def _root(common_name: str, kind: str, now: datetime) -> Credential:
    key = key_for(common_name, kind)
    subject = issuing.name(common_name, organization_name=common_name.rsplit(" ", 2)[0])
    # The anchor is older than anything under it, so that a story may look back.
    return Credential(key, (issuing.root_ca(key, subject, now=now - YEARS / 10, lifetime=3 * YEARS),))


def _sub(issuer: Credential, common_name: str, kind: str, now: datetime) -> Credential:
    key = key_for(common_name, kind)
    subject = issuing.name(common_name, organization_name=common_name.rsplit(" ", 2)[0])
    certificate = issuing.subordinate_ca(
        issuer, key.public_key(), subject, now=now - YEARS / 10, lifetime=2 * YEARS, path_length=0
    )
    return Credential(key, (certificate, *issuer.chain))
