"""The MASA's settings: one TOML file, every key of which BRSKI_MASA_… may override (`brski_common.settings`)."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from brski_common.settings import DatabaseUrl, KeyUri, Section
from brski_masa.parties import DevicePolicy, IdentityKind, Pin
from brski_masa.policy import Terms

ENVIRONMENT_PREFIX = "BRSKI_MASA_"

Minutes = Annotated[int, Field(ge=1, le=10 * 366 * 24 * 60)]


class Listen(Section):
    """Where the service listens."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=9443, ge=0, le=65535, description="TCP port, 0 for any free one")


class Tls(Section):
    """The MASA's TLS server credential."""

    key: KeyUri = Field(default="keys/tls.key.pem", description="the TLS key, a file: URI")
    chain: Path = Field(default=Path("keys/tls.chain.pem"), description="its certificate chain, leaf first")


class Maker(Section):
    """The device maker: whose IDevIDs are taken, and what makes new ones."""

    name: str = Field(default="Example Maker", description="the maker's name, in new IDevIDs")
    masa_url: str = Field(
        default="127.0.0.1:9443", description="what new IDevIDs say of the MASA: host[:port] only (RFC 8995, 2.3.2)"
    )
    anchors: Path = Field(
        default=Path("anchors/manufacturer.pem"), description="roots of the IDevIDs; several may follow"
    )
    idevid_ca_key: KeyUri | None = Field(
        default=None,
        description="the key of the CA that `idevid` issues with, file: or pkcs11:; the service does not need it",
    )
    idevid_ca_chain: Path | None = Field(default=None, description="that CA's certificate and those above it")
    ignore_expired_idevids: bool = Field(default=False, description="take requests signed by IDevIDs that have expired")
    unsafe_published_test_keys: bool = Field(
        default=False, description="UNSAFE, for tests only: trust keys whose private half stands in a specification"
    )


class Signing(Section):
    """The keys that sign vouchers."""

    key: KeyUri = Field(default="keys/voucher.key.pem", description="signs vouchers with a nonce, file: or pkcs11:")
    chain: Path = Field(
        default=Path("keys/voucher.chain.pem"), description="its chain up to the anchor that devices carry"
    )
    nonceless_key: KeyUri | None = Field(
        default=None, description="signs vouchers without a nonce; without it there are none (RFC 8995, 11.6.2.2)"
    )
    nonceless_chain: Path | None = Field(default=None, description="its chain")
    anchors: Path = Field(default=Path("anchors/voucher.pem"), description="what devices trust for vouchers")
    root_key: KeyUri | None = Field(
        default=None, description="the key above, for `key rotate`; keep it away from the running service"
    )
    cms_content_type: Literal["voucher", "data"] = Field(
        default="voucher",
        description="CMS content type: id-ct-animaJSONVoucher, or id-data for old devices (RFC 8366, 5.4)",
    )
    shared_anchor_policy: str | None = Field(
        default=None,
        description="if devices' voucher anchor is also an anchor of IDevIDs: the certificate policy OID that tells"
        " voucher signers from devices. Without it such a set-up is refused",
    )


class PolicySettings(Section):
    """What is granted to whom."""

    owned: DevicePolicy = Field(default=DevicePolicy.OWNER_ONLY, description="for devices with an owner on record")
    unowned: DevicePolicy = Field(default=DevicePolicy.REFUSE, description="for devices without one")
    renewals: bool = Field(
        default=True, description="renew a voucher for the domain that had the last one (RFC 8995, 5.5.1)"
    )
    proximity_mismatch_refused: bool = Field(
        default=True, description="refuse if the pledge saw another domain; false: an owner gets `verified` instead"
    )
    strangers_need_proximity: bool = Field(
        default=True, description="under first-come and audit-only: the pledge's signed request must be there"
    )
    pin: Pin = Field(
        default=Pin.AUTO, description="the certificate to pin; auto: lowest CA, without a nonce the highest"
    )
    nonced_minutes: Minutes | None = Field(
        default=None, description="expires-on for vouchers with a nonce; unset: none"
    )
    nonceless_minutes: Minutes = Field(
        default=20, description="expires-on for vouchers without a nonce (RFC 8995, 5.6)"
    )
    revocation_checks: bool | None = Field(
        default=None, description="domain-cert-revocation-checks in vouchers; unset: the leaf is left out"
    )
    always_idevid_issuer: bool = Field(
        default=False, description="put idevid-issuer into every voucher, not only where serial numbers repeat"
    )
    request_max_age_hours: float = Field(
        default=24.0, gt=0, le=24 * 366, description="how far the registrar's created-on may be from our clock"
    )

    def terms(self, authentication: "Authentication") -> Terms:
        """The settings as `policy` takes them."""
        return Terms(
            owned=self.owned,
            unowned=self.unowned,
            renewals=self.renewals,
            accepted=frozenset(authentication.accept),
            authentication_always=authentication.always,
            proximity_mismatch_refused=self.proximity_mismatch_refused,
            strangers_need_proximity=self.strangers_need_proximity,
            pin=self.pin,
            nonced_lifetime=None if self.nonced_minutes is None else timedelta(minutes=self.nonced_minutes),
            nonceless_lifetime=timedelta(minutes=self.nonceless_minutes),
            revocation_checks=self.revocation_checks,
            always_idevid_issuer=self.always_idevid_issuer,
        )


class Authentication(Section):
    """How a registrar may show which owner it belongs to (RFC 8995, 5.4 and 5.5.4)."""

    accept: tuple[IdentityKind, ...] = Field(
        default=(IdentityKind.ANCHOR, IdentityKind.TLS_CLIENT),
        description="anchor: the CA or key that signed the request; tls-client: the TLS client certificate;"
        " http-user: HTTP Basic or Digest",
    )
    always: bool = Field(default=False, description="serve nobody who is not authenticated, whatever a device's policy")
    http_schemes: tuple[Literal["digest", "basic"], ...] = Field(
        default=("digest", "basic"), min_length=1, description="with http-user: the schemes that are offered"
    )
    realm: str = Field(
        default="BRSKI MASA", pattern=r"^[ !#-\[\]-~]{1,64}$", description="the realm; passwords are bound to it"
    )


class AuditLogSettings(Section):
    """What registrars see of the log."""

    answer: Literal["direct", "direct-with-location", "created"] = Field(
        default="direct",
        description="200 with the log; the same with a Location for later; or 201 with only a Location",
    )
    link_days: int = Field(default=30, ge=1, le=3660, description="how long such a Location works")
    full_events: int = Field(
        default=128, ge=1, le=1000, description="up to so many events a log is complete (RFC 8995, 5.8.1)"
    )
    always_abridge: bool = Field(default=False, description="abridge also shorter logs")
    replay: Literal["refuse", "verify"] = Field(
        default="refuse",
        description="a request that another TLS client sent before: refuse it, or verify it like a new one",
    )
    request_max_age_days: float = Field(
        default=30.0, gt=0, le=3660, description="how old a request for the log may be; registrars repeat old ones"
    )


class RevocationSettings(Section):
    """Revocation checks of the registrar's chain (RFC 8995, 5.5.3)."""

    check: bool = Field(default=True, description="ask the CRL or OCSP servers that a registrar's certificates name")
    unreachable: Literal["refuse", "allow"] = Field(default="refuse", description="what to do if none of them answers")
    hosts: tuple[str, ...] = Field(
        default=(),
        description="host or host:port of servers that may be asked although their addresses are private; others"
        " are asked only at public addresses, on port 80",
    )
    only_hosts: bool = Field(default=False, description="ask no server but those of `hosts`")
    seconds: float = Field(default=5.0, gt=0, le=30, description="time for one download")


class LimitSettings(Section):
    """Bounds against floods (RFC 8995, 11.1)."""

    refusals_per_minute: float = Field(
        default=60.0,
        ge=0,
        le=100_000,
        description="refused requests of one address (IPv6: /64) in the long run; 0: no limit",
    )
    burst: int = Field(default=120, ge=1, le=1_000_000, description="refused requests of one address at once")
    connections: int = Field(default=1024, ge=1, le=65536, description="open TLS connections")


class LogSettings(Section):
    """The service's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severe events shown")
    json_lines: bool = Field(default=False, description="one JSON object per line")


class Settings(Section):
    """Everything."""

    database: DatabaseUrl = Field(
        default="sqlite:///masa.db", description="sqlite:///FILE or postgresql://USER@HOST/NAME"
    )
    listen: Listen = Field(default_factory=Listen, description="Where the service listens.")
    tls: Tls = Field(default_factory=Tls, description="The TLS server credential.")
    maker: Maker = Field(default_factory=Maker, description="The device maker.")
    signing: Signing = Field(default_factory=Signing, description="The keys that sign vouchers.")
    policy: PolicySettings = Field(default_factory=PolicySettings, description="What is granted to whom.")
    authentication: Authentication = Field(
        default_factory=Authentication, description="How registrars show whose they are."
    )
    audit_log: AuditLogSettings = Field(default_factory=AuditLogSettings, description="What registrars see of the log.")
    revocation: RevocationSettings = Field(
        default_factory=RevocationSettings, description="Revocation checks of registrars."
    )
    limits: LimitSettings = Field(default_factory=LimitSettings, description="Bounds against floods.")
    log: LogSettings = Field(default_factory=LogSettings, description="The service's own log.")

    @model_validator(mode="before")
    @classmethod
    def _every_table(cls, values: object) -> object:
        """A table that is left out is read as an empty one, so that its default paths are relative to the file too."""
        if not isinstance(values, Mapping):
            return values
        tables = [name for name, field in cls.model_fields.items() if field.default_factory is not None]
        return {name: {} for name in tables} | dict(values)

    @model_validator(mode="after")
    def _nonceless_is_complete(self) -> "Settings":
        if (self.signing.nonceless_key is None) != (self.signing.nonceless_chain is None):
            raise ValueError("signing.nonceless_key and signing.nonceless_chain belong together")
        if (self.maker.idevid_ca_key is None) != (self.maker.idevid_ca_chain is None):
            raise ValueError("maker.idevid_ca_key and maker.idevid_ca_chain belong together")
        return self
