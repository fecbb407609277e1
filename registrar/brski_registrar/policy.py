"""What the operator has decided: whom the plant admits, and how it treats their makers.

Records only, and the decisions that need nothing else. They live in the database as JSON documents, so that the
command line and the console change them while the registrar runs. Everything is denied that no record allows
(RFC 8995, 7.3: less secure modes are never the default); the names of what loosens that are meant to be noticed.
"""

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from brski_common.errors import Misconfigured, NotYet, Refused

ASK_AGAIN_SECONDS: Final = 30.0  # while an operator thinks
SOURCE_NOT_ALLOWED: Final = "source-not-allowed"
MAX_DOCUMENT_BYTES: Final = 256 * 1024

_STRICT: Final = ConfigDict(extra="forbid")


class Admit(StrEnum):
    """Which devices of a maker may join (RFC 8995, 5.3 and 7.3)."""

    LISTED = "listed"  # those on the allow-list
    ASK = "ask"  # those on the allow-list; the others wait until the operator has put them there
    ALL = "all"  # every device of this maker


class SerialField(StrEnum):
    """Where this maker writes the serial number (RFC 8995, 2.3.1)."""

    SERIAL_NUMBER = "serialNumber"  # 2.5.4.5, as the RFC has it
    COMMON_NAME = "commonName"
    HARDWARE_MODULE_NAME = "hardwareModuleName"  # hwSerialNum of the subjectAltName, as text or else as hex digits


class Login(StrEnum):
    """How the registrar shows a MASA who it is (RFC 8995, 5.4)."""

    TLS = "tls"  # with its own certificate as TLS client
    NONE = "none"
    BASIC = "basic"
    DIGEST = "digest"


class Treatment(StrEnum):
    """What a finding in an audit log leads to (RFC 8995, 5.8.3)."""

    REFUSE = "refuse"  # no EST for the device
    NOTE = "note"  # a line in the journal
    IGNORE = "ignore"


class PinHint(StrEnum):
    """Which of its certificates the registrar shows to a MASA, that is, may be pinned (RFC 8995, 5.5)."""

    EE = "ee"
    CA = "ca"  # the end entity and the CA that issued it
    ROOT = "root"  # the whole chain; which of it is pinned is then the MASA's choice


class Approval(StrEnum):
    """Who approves a certificate request (RFC 7030, 4.2.3)."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPolicy:
    """How a maker's audit logs are judged (RFC 8995, 5.8.3). `known_domains` are hex domainIDs of earlier owners."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    known_domains: tuple[str, ...] = ()
    unexpected_domain: Treatment = Treatment.REFUSE
    foreign_nonceless: Treatment = Treatment.REFUSE  # somebody else's, in a known domain too: he may reset the device
    own_nonceless: Treatment = Treatment.NOTE
    own_nonce_unknown: Treatment = Treatment.NOTE  # in our name, with a nonce that no voucher here ever had
    before_purchase: Treatment = Treatment.REFUSE
    assertions: tuple[str, ...] = ("verified", "logged", "proximity", "agent-proximity")
    unexpected_assertion: Treatment = Treatment.REFUSE
    own_entry_missing: Treatment = Treatment.REFUSE
    arbitrary_truncation: Treatment = Treatment.NOTE
    newer_format: Treatment = Treatment.NOTE  # "no information will be removed" (RFC 8995, 5.8.1)
    log_refused: Treatment = Treatment.REFUSE  # the MASA knows no log for us
    log_unreachable: Treatment = (
        Treatment.REFUSE
    )  # EST stays shut until the log was read; a site without Internet notes
    unsafe_ignore_history: bool = False  # RFC 8995, 5.8.3: only with hardware-assisted network endpoint assessment


@dataclass(frozen=True, slots=True, kw_only=True)
class Manufacturer:
    """A maker whose devices may come. Anchors are PEM texts; `login_secret` names a secret, it never is one."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    idevid_anchors: str
    masa_tls_anchors: str = ""
    voucher_anchors: str = ""  # optional: the pledge verifies the voucher anyway
    masa_hosts: tuple[str, ...] = ()  # "masa.example", "masa.example:9443", "*.maker.example", "masa.example:*"
    masa_url: str = ""  # instead of what the IDevID says (RFC 8995, 2.8)
    login: Login = Login.TLS
    login_user: str = ""
    login_secret: str = ""
    admit: Admit = Admit.LISTED
    serial_field: SerialField = SerialField.SERIAL_NUMBER
    ignore_expired_idevid: bool = False  # RFC 8995, 2.6.2
    tolerated_critical: tuple[str, ...] = ()  # OIDs of critical extensions that its certificates have
    plain_cms: bool = False  # requests with eContentType id-data, for a MASA that knows no other
    wait_for_masa: bool = False  # 202 instead of an error while the MASA cannot be reached
    unsafe_opaque_vouchers: bool = False  # hand on what cannot be read here (RFC 8995, 5.6 and 7.3)
    audit: AuditPolicy = AuditPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainPolicy:
    """What holds for every device. `sources` are networks (CIDR) that requests may come from, all if empty."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    sources: tuple[str, ...] = ()
    pin_hint: PinHint = PinHint.ROOT
    approval: Approval = Approval.AUTOMATIC
    organization: str = ""  # the O of certificates issued here
    certificate_days: int = 365
    require_voucher_status: bool = False  # EST only after a report of success, not just after the audit log
    serverkeygen: bool = False  # the device should make its key itself
    unsafe_plain_server_keys: bool = False  # server-made keys without encryption of their own (RFC 7030, 4.4.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """An entry of the allow-list: one device of a maker. A pre-fetched voucher may wait here for it."""

    manufacturer: str
    serial_number: str
    purchased_on: datetime | None = None
    note: str = ""
    voucher: bytes | None = None
    voucher_type: str = ""


Record = TypeVar("Record", Manufacturer, DomainPolicy)
_ADAPTERS: Final = {kind: TypeAdapter(kind) for kind in (Manufacturer, DomainPolicy)}


def write_record(record: Manufacturer | DomainPolicy) -> str:
    """A record as the JSON document that is stored."""
    return _ADAPTERS[type(record)].dump_json(record).decode()


def read_record(kind: type[Record], document: str) -> Record:
    """Read a stored document; raises Misconfigured, which names the member and what is allowed."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise Misconfigured("policy-malformed", f"longer than {MAX_DOCUMENT_BYTES} bytes")
    try:
        record = _ADAPTERS[kind].validate_json(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Misconfigured("policy-malformed", f"{kind.__name__} {place}: {first['msg']}") from error
    assert isinstance(record, kind)
    return record


def admit(manufacturer: Manufacturer, admission: Admission | None) -> None:
    """Decide whether a device may join; raises Refused, or NotYet while the operator has to decide."""
    if admission is not None or manufacturer.admit is Admit.ALL:
        return
    if manufacturer.admit is Admit.ASK:
        raise NotYet("waiting-for-operator", "the device is not on the allow-list yet", ASK_AGAIN_SECONDS)
    raise Refused("device-not-allowed", f"{manufacturer.name} allows only what is listed")


def check_source(policy: DomainPolicy, address: str | None) -> None:
    """Raise Refused unless a request from `address` may be taken for one from this plant.

    Proximity means that the registrar hears a pledge through its own proxies only (RFC 8995, 3 and 9).
    """
    if not policy.sources:
        return
    try:
        source = _source(address)
        inside = any(source in ipaddress.ip_network(network, strict=False) for network in policy.sources)
    except ValueError:
        inside = False
    if not inside:
        raise Refused(SOURCE_NOT_ALLOWED, f"{address} is in none of {', '.join(policy.sources)}")


def sources_with(policy: DomainPolicy, address: str) -> tuple[str, ...]:
    """The networks that would let in what was refused by `check_source`; empty if none would, or none has to."""
    try:
        check_source(policy, address)
    except Refused:
        with suppress(ValueError):
            return (*policy.sources, str(ipaddress.ip_network(_source(address))))
    return ()


def _source(address: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of a peer, without its zone; raises ValueError."""
    source = ipaddress.ip_address((address or "").partition("%")[0])
    # A socket that listens on `::` calls 192.0.2.1 ::ffff:192.0.2.1.
    return getattr(source, "ipv4_mapped", None) or source
