"""What a maker or an installer may decide about a pledge's behaviour. The command's file is read in `device`.

Everything has a default that is safe. What weakens a check has a name that says so, and none of it
can be reached over a network (RFC 8995, 7.2).
"""

from dataclasses import Field, dataclass, fields
from typing import Any

from brski_common.errors import Misconfigured
from brski_common.voucher import Assertion
from brski_pledge.discovery import Offer, Source, parse_offer

KEY_KINDS = ("P-256", "P-384", "RSA-2048", "RSA-3072", "Ed25519")
CLOUD_PORT = 443


@dataclass(frozen=True, slots=True, kw_only=True)
class PledgeSettings:
    """How a pledge behaves. Times are in seconds."""

    # discovery (RFC 8995, 4.1)
    mdns: bool = True
    mdns_interfaces: tuple[str, ...] = ()  # names or addresses; empty: every interface
    grasp: bool = False  # listen for AN_Proxy floods
    grasp_links: tuple[str, ...] = ()  # names of interfaces; empty: every one
    registrars: tuple[str, ...] = ()  # "host:port" of join proxies or registrars that are known beforehand
    cloud_registrar: str | None = None  # "host[:port]", reached by verified TLS (RFC 8995, 2.7)
    configured_after: float = 2.0  # head start of what is discovered over what is configured
    cloud_after: float = 30.0  # how long to look around before the cloud is asked

    # attempts (RFC 8995, 4.1 and 5.1)
    max_connections: int = 4
    attempt_spacing: float = 4.0  # RFC 8995, 4.1: 3 to 5 s between the starts of parallel attempts
    stall_after: float = 5.0  # RFC 8995, 5.1: without progress for so long the oldest connection gives way
    connect_timeout: float = 10.0
    response_timeout: float = 30.0
    retry_after: float | None = None  # a fixed wait after 202 instead of the registrar's (RFC 8995, 5.6)
    keep_asking: float = 4 * 24 * 3600.0  # how long 202 is answered by asking again (RFC 8995, 5.6)

    # giving up: a device never does, a person at a console may
    once: bool = False  # stop when every offer has failed once
    search_for: float = 15.0  # with `once`: how long to look for a first offer

    # what is accepted (RFC 8995, 5.6.1 and 7.2)
    assertions: tuple[str, ...] = ("verified", "logged", "proximity")
    nonceless_vouchers: bool = True
    voucher_signer_oid: str | None = None  # a policy or extended key usage that voucher signers must have
    compatible_content_type: bool = False  # sign requests as id-data, for registrars that know nothing else

    # enrolling
    ldevid_key: str = "P-256"
    est_label: str | None = None  # an EST label, /.well-known/est/<label>/ (RFC 7030, 3.2.2)
    renewal_registrar: str | None = None  # "host:port" that renews; unset: where the device was onboarded

    def __post_init__(self) -> None:
        _check(self)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The configured offers, the cloud last."""
        local = tuple(parse_offer(text) for text in self.registrars)
        return local if self.cloud_offer is None else (*local, self.cloud_offer)

    @property
    def cloud_offer(self) -> Offer | None:
        """`cloud_registrar` as an offer."""
        cloud = self.cloud_registrar
        return None if cloud is None else parse_offer(cloud, Source.CLOUD, port=CLOUD_PORT)

    @property
    def renewal_offer(self) -> Offer | None:
        """`renewal_registrar` as an offer."""
        return None if self.renewal_registrar is None else parse_offer(self.renewal_registrar)

    @property
    def accepted_assertions(self) -> frozenset[Assertion]:
        """`assertions` as values."""
        return frozenset(map(Assertion, self.assertions))


def _check(settings: PledgeSettings) -> None:
    for each in fields(PledgeSettings):
        _check_type(each, getattr(settings, each.name))
    demand(settings.ldevid_key in KEY_KINDS, "ldevid_key", f"one of {', '.join(KEY_KINDS)}")
    demand(settings.max_connections >= 1, "max_connections", "a number of at least 1")
    allowed = [each.value for each in Assertion]
    demand(
        bool(settings.assertions) and all(text in allowed for text in settings.assertions),
        "assertions",
        f"a list of {', '.join(allowed)}",
    )
    label = settings.est_label
    demand(label is None or label.replace("-", "").replace("_", "").isalnum(), "est_label", "letters, digits, - and _")
    oid = settings.voucher_signer_oid
    demand(oid is None or all(arc.isdecimal() for arc in oid.split(".")), "voucher_signer_oid", "a dotted OID")
    _check_addresses(settings)


def _check_addresses(settings: PledgeSettings) -> None:
    name = "cloud_registrar"
    try:
        _ = settings.cloud_offer
        name = "registrars"
        _ = settings.offers
        name = "renewal_registrar"
        _ = settings.renewal_offer
    except ValueError as error:
        raise Misconfigured("setting-invalid", f"{name}: {error}") from error


def _check_type(setting: "Field[Any]", value: object) -> None:
    default, name = setting.default, setting.name
    if default is None or value is None:
        numeric = name == "retry_after"
        demand(value is None or isinstance(value, (int, float) if numeric else str), name, "a text")
    elif isinstance(default, bool):
        demand(isinstance(value, bool), name, "true or false")
    elif isinstance(default, int | float):
        sound = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
        demand(sound, name, "a number of seconds or things, not negative")
    elif isinstance(default, tuple):
        sound = isinstance(value, tuple) and all(isinstance(each, str) for each in value)
        demand(sound, name, "a list of texts")
    else:
        demand(isinstance(value, str), name, "a text")


def demand(sound: bool, name: str, allowed: str) -> None:
    """Refuse a value that is not `sound`, saying what is allowed; raises Misconfigured."""
    if not sound:
        raise Misconfigured("setting-invalid", f"{name}: {allowed} is allowed")
