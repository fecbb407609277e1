"""What can be set for a registrar: `registrar.toml`, and BRSKI_REGISTRAR_… in the environment.

Only what the process needs to start. Whom the plant admits is in the database and changes while it runs (`policy`).
"""

from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from brski_common.csrwishes import KeyWish
from brski_common.errors import BrskiError
from brski_common.est import check_label
from brski_common.settings import DatabaseUrl, KeyUri, Section
from brski_registrar.acp import Addressing

ENV_PREFIX: Final = "BRSKI_REGISTRAR_"
DEFAULT_PORT: Final = 8443
MIN_FLOOD_SECONDS: Final = 60.0  # RFC 8995, 4.3

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class Listen(Section):
    """Where devices reach the registrar."""

    host: str = Field(default="127.0.0.1", description="Address to listen on: `::` for all, IPv6 and IPv4")
    port: Port = Field(default=DEFAULT_PORT, description="TCP port, announced by discovery; 0 takes any free one")
    connections: int = Field(default=1024, ge=1, le=65536, description="Open connections at once; further ones wait")
    request_seconds: Seconds = Field(default=15.0, description="For a whole request to arrive")
    idle_seconds: Seconds = Field(default=90.0, description="Between two requests; pledges pause up to 60 s")


class Identity(Section):
    """The registrar's own certificate, for TLS and for its voucher requests."""

    key: KeyUri = Field(description="Its private key; TLS needs a file, so no pkcs11: here")
    certificates: Path = Field(description="PEM: its certificate, the issuing CA, the root")


class Authority(Section):
    """The domain's certification authority: keys of its own, or an EST server elsewhere (`upstream`), never both."""

    key: KeyUri = Field(
        default="file:keys/issuing.key",
        description="Private key of the issuing CA: file:PATH or pkcs11:… (RFC 7512)",
    )
    certificates: Path = Field(
        default=Path("certificates/issuing.pem"), description="PEM: the issuing CA, then its root"
    )
    rollover: Path = Field(
        default=Path("certificates/rollover.pem"), description="PEM: where `ca next-root` puts what leads to a new root"
    )
    root_key: KeyUri | None = Field(
        default=None,
        description="Private key of the root, for `ca` commands only: keep it away from this machine otherwise",
    )
    upstream: str | None = Field(
        default=None,
        description="A CA elsewhere instead of `key`, `certificates`, `root_key`: its EST server, https://HOST[:PORT]",
    )
    upstream_anchors: Path | None = Field(
        default=None, description="PEM: the roots of the CA elsewhere, and that of its server's certificate"
    )
    upstream_label: str | None = Field(
        default=None, description="The CA's label there, if it has one (RFC 7030, 3.2.2)"
    )
    upstream_seconds: Seconds = Field(default=15.0, description="How long the CA elsewhere may take to answer")
    csr_key: str | None = Field(
        default=None,
        description="Kind of key asked of devices: P-256, P-384, RSA-3072, Ed25519 …; unset leaves it to them",
    )
    acp_domain: str | None = Field(default=None, description="Give every device a node name of this domain (RFC 8994)")
    acp_routing_subdomain: str = Field(default="", description="The rsub part of the node names")
    acp_registrar_id: str | None = Field(
        default=None,
        pattern="^[0-9a-fA-F]{12}$",
        description="48 bits as hex, unique among registrars, such as a MAC address",
    )

    @field_validator("csr_key")
    @classmethod
    def _known_kind(cls, kind: str | None) -> str | None:
        try:
            if kind is not None:
                KeyWish.of(kind)
        except BrskiError as error:
            raise ValueError("no such kind of key") from error
        return kind

    @field_validator("upstream")
    @classmethod
    def _origin(cls, url: str | None) -> str | None:
        if url is not None and not _is_origin(url):
            raise ValueError("wanted is https://HOST or https://HOST:PORT, without a path or credentials")
        return url

    @field_validator("upstream_label")
    @classmethod
    def _label(cls, label: str | None) -> str | None:
        try:
            return None if label is None else check_label(label)
        except BrskiError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        """Half a local CA, half of one elsewhere, and some of each: nobody can have meant that."""
        local = self.model_fields_set & {"key", "certificates", "root_key"}
        if self.upstream is None:
            if {"upstream_anchors", "upstream_label", "upstream_seconds"} & self.model_fields_set:
                raise ValueError("upstream is missing: the URL of the CA elsewhere")
            if not local >= {"key", "certificates"}:
                raise ValueError("key and certificates come together; or name a CA elsewhere as upstream")
        elif local:
            raise ValueError(f"upstream is another CA than that of {', '.join(sorted(local))}: take one away")
        elif self.upstream_anchors is None:
            raise ValueError("upstream needs upstream_anchors: no CA is trusted by its name alone")
        return self

    @model_validator(mode="after")
    def _addresses_need_both(self) -> Self:
        if (self.acp_domain is None) != (self.acp_registrar_id is None):
            raise ValueError("acp_domain and acp_registrar_id come together")
        return self

    @property
    def addressing(self) -> Addressing | None:
        """How ACP node names are made, None if none are."""
        if self.acp_domain is None:
            return None
        return Addressing(
            domain=self.acp_domain,
            registrar_id=int(self.acp_registrar_id or "0", 16),
            routing_subdomain=self.acp_routing_subdomain,
        )


class Database(Section):
    """Where devices, policy and journal are kept."""

    url: DatabaseUrl = Field(
        default="sqlite:///registrar.sqlite", description="sqlite:///FILE or postgresql://USER@HOST/NAME"
    )


class Discovery(Section):
    """How proxies and devices find this registrar. Everything is off until it is switched on."""

    mdns: bool = Field(default=False, description="Announce _brski-registrar._tcp by mDNS, for join proxies")
    proxy: bool = Field(default=False, description="Announce _brski-proxy._tcp too, for devices on the same link")
    grasp: bool = Field(
        default=False, description="Flood AN_join_registrar by GRASP, and AN_Proxy with `proxy` (RFC 8995, 4)"
    )
    interfaces: tuple[str, ...] = Field(
        default=(), description="Interface names or addresses to announce on; needed for any announcement"
    )
    name: str = Field(default="", description="Instance name; the host's name if empty")
    flood_seconds: float = Field(
        default=MIN_FLOOD_SECONDS, ge=MIN_FLOOD_SECONDS, le=86400, description="Between two GRASP floods, at least 60"
    )

    @property
    def is_on(self) -> bool:
        """Whether anything is to be announced."""
        return self.mdns or self.proxy or self.grasp


class Masa(Section):
    """How MASAs are asked. Which MASA a maker has is policy."""

    request_seconds: Seconds = Field(default=15.0, description="How long a MASA may take to answer")
    secrets: Path = Field(
        default=Path("secrets"), description="Folder with one file for each `login_secret` of the policy"
    )


class Est(Section):
    """Enrollment over Secure Transport."""

    labels: tuple[str, ...] = Field(default=(), description="CA labels that are accepted in EST paths")
    ras: Path | None = Field(
        default=None,
        description="PEM: certificates of registrars elsewhere, with id-kp-cmcRA, for whose devices this CA signs",
    )

    @field_validator("labels")
    @classmethod
    def _usable(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(map(check_label, labels))
        except BrskiError as error:
            raise ValueError(str(error)) from error


class Log(Section):
    """What the registrar tells on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least that is told")
    json_lines: bool = Field(default=False, description="One JSON object a line, for a log collector")


class Settings(Section):
    """All of it."""

    listen: Listen = Field(default=Listen(), description="Where devices reach the registrar")
    registrar: Identity = Field(description="The registrar's own certificate")
    ca: Authority = Field(description="The domain's certification authority")
    database: Database = Field(default=Database(), description="Where devices, policy and journal are kept")
    masa: Masa = Field(default=Masa(), description="How MASAs are asked; which MASA a maker has is policy")
    est: Est = Field(default=Est(), description="Enrollment over Secure Transport")
    discovery: Discovery = Field(default=Discovery(), description="How this registrar is found; off until switched on")
    log: Log = Field(default=Log(), description="What is told on standard error")


def _is_origin(url: str) -> bool:
    """Whether a text is https with a host, and nothing after that but a port."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return False
    plain = url.isascii() and url.isprintable() and " " not in url
    return plain and named and parts.scheme == "https" and parts.path in {"", "/"} and "?" not in url and "#" not in url


def is_link_local(address: str) -> bool:
    """Whether an address text, perhaps with a zone, is an IPv6 link-local one (RFC 4291, 2.5.6)."""
    try:
        return IPv6Address(address).is_link_local
    except ValueError:
        return False
