"""The voucher and the voucher request as values, and the one table of their leaves.

RFC 8366, 5.3 and RFC 8995, 3.4, with the leaves that draft-ietf-anima-rfc8366bis adds. Attribute
names are the YANG names with `_` for `-`. Binary leaves are bytes, times are aware datetimes.

A nonce is opaque text here, exactly as it stands on the JSON wire: RFC 8995's own examples carry
base64url without padding, and a voucher must repeat what the request said, not a re-encoding.
"""

import base64
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum, StrEnum, auto
from typing import Any, Self

NONCE_BYTES = 16  # RFC 8366, 5.3 asks for 8 to 32


class Assertion(StrEnum):
    """How the MASA came to believe that the device belongs to the domain (RFC 8366, 5.3)."""

    VERIFIED = "verified"
    LOGGED = "logged"
    PROXIMITY = "proximity"
    AGENT_PROXIMITY = "agent-proximity"


@dataclass(frozen=True, kw_only=True)  # without slots: see `of`
class VoucherData:
    """The leaves that a voucher and a voucher request share."""

    serial_number: str
    created_on: datetime | None = None
    expires_on: datetime | None = None
    assertion: Assertion | None = None
    idevid_issuer: bytes | None = None
    pinned_domain_cert: bytes | None = None
    pinned_domain_pubk: bytes | None = None
    pinned_domain_pubk_sha256: bytes | None = None
    domain_cert_revocation_checks: bool | None = None
    nonce: str | None = None
    last_renewal_date: datetime | None = None
    est_domain: str | None = None
    additional_configuration_url: str | None = None
    manufacturer_proprietary: bytes | None = None
    extensions: tuple[str | int, ...] | None = None

    @classmethod
    def of(cls, leaves: Mapping[str, Any]) -> Self:
        """Make one of the leaves that are there, the others being None in the class: a request has seven of 22."""
        made = cls.__new__(cls)
        made.__dict__.update(leaves)
        return made


@dataclass(frozen=True, kw_only=True)
class Voucher(VoucherData):
    """What a MASA says: this device belongs to that domain."""


# A sibling of Voucher, not its child: a request shall never pass for a voucher (RFC 8995, 5.6.1).
@dataclass(frozen=True, kw_only=True)
class VoucherRequest(VoucherData):
    """What a pledge asks of its registrar, and a registrar of the MASA."""

    prior_signed_voucher_request: bytes | None = None
    proximity_registrar_cert: bytes | None = None
    proximity_registrar_pubk: bytes | None = None
    proximity_registrar_pubk_sha256: bytes | None = None
    agent_signed_data: bytes | None = None
    agent_provided_proximity_registrar_cert: bytes | None = None
    agent_sign_cert: tuple[bytes, ...] | None = None


class Kind(Enum):
    """How a leaf's value is written."""

    TEXT = auto()
    TIME = auto()
    BINARY = auto()
    BINARY_LIST = auto()
    NONCE = auto()
    BOOLEAN = auto()
    ASSERTION = auto()
    NAMES = auto()


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf: its YANG name, what it holds, and its SID in a voucher and in a request (None where it has none)."""

    yang: str
    kind: Kind
    voucher_sid: int | None
    request_sid: int

    @property
    def attribute(self) -> str:
        """The Python name."""
        return self.yang.replace("-", "_")


VOUCHER_SID = 2451
REQUEST_SID = 2501
VOUCHER_NAME = "ietf-voucher:voucher"
REQUEST_NAME = "ietf-voucher-request:voucher"
# The module name of older drafts; still what the published PRM examples carry.
PRM_REQUEST_NAME = "ietf-voucher-request-prm:voucher"

# The order is the order on the wire. SIDs: draft-ietf-anima-rfc8366bis, 8.5 and 9.3.
LEAVES: tuple[Leaf, ...] = (
    # enumeration { verified | logged | proximity | agent-proximity }
    Leaf("assertion", Kind.ASSERTION, 2452, 2502),
    # yang:date-and-time
    Leaf("created-on", Kind.TIME, 2453, 2503),
    # yang:date-and-time
    Leaf("expires-on", Kind.TIME, 2455, 2505),
    # string, mandatory
    Leaf("serial-number", Kind.TEXT, 2462, 2514),
    # binary: the AuthorityKeyIdentifier extnValue of the IDevID
    Leaf("idevid-issuer", Kind.BINARY, 2456, 2506),
    # binary: a DER certificate
    Leaf("pinned-domain-cert", Kind.BINARY, 2459, 2509),
    # binary: a DER SubjectPublicKeyInfo
    Leaf("pinned-domain-pubk", Kind.BINARY, 2460, 2518),
    # binary: 32 bytes
    Leaf("pinned-domain-pubk-sha256", Kind.BINARY, 2461, 2519),
    # boolean
    Leaf("domain-cert-revocation-checks", Kind.BOOLEAN, 2454, 2504),
    # binary { length "8..32" }
    Leaf("nonce", Kind.NONCE, 2458, 2508),
    # yang:date-and-time
    Leaf("last-renewal-date", Kind.TIME, 2457, 2507),
    # string: where to enroll after a cloud registrar
    Leaf("est-domain", Kind.TEXT, 2464, 2521),
    # string: an https URI
    Leaf("additional-configuration-url", Kind.TEXT, 2463, 2520),
    # binary: the maker's own
    Leaf("manufacturer-proprietary", Kind.BINARY, 2465, 2523),
    # leaf-list of extension names or SIDs
    Leaf("extensions", Kind.NAMES, 2466, 2522),
    # binary: the whole signed request that came before
    Leaf("prior-signed-voucher-request", Kind.BINARY, None, 2510),
    # binary: a DER certificate, the first of the TLS server's chain
    Leaf("proximity-registrar-cert", Kind.BINARY, None, 2511),
    # binary: 32 bytes
    Leaf("proximity-registrar-pubk-sha256", Kind.BINARY, None, 2512),
    # binary: a DER SubjectPublicKeyInfo
    Leaf("proximity-registrar-pubk", Kind.BINARY, None, 2513),
    # binary: a DER certificate (draft-ietf-anima-brski-prm)
    Leaf("agent-provided-proximity-registrar-cert", Kind.BINARY, None, 2515),
    # binary by YANG, a list in the PRM text: both are read
    Leaf("agent-sign-cert", Kind.BINARY_LIST, None, 2516),
    # binary: a JWS of the registrar-agent
    Leaf("agent-signed-data", Kind.BINARY, None, 2517),
)

VOUCHER_LEAVES = tuple(leaf for leaf in LEAVES if leaf.voucher_sid is not None)


def new_nonce(random: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A fresh nonce, 16 random bytes as base64 (RFC 8995, 5.2): new for every attempt."""
    return base64.b64encode(random(NONCE_BYTES)).decode()


def leaves_of(kind: type[VoucherData]) -> tuple[Leaf, ...]:
    """The leaves that a voucher, or a voucher request, may carry."""
    return LEAVES if issubclass(kind, VoucherRequest) else VOUCHER_LEAVES


def top_name(kind: type[VoucherData]) -> str:
    """The one member that holds all others in JSON."""
    return REQUEST_NAME if issubclass(kind, VoucherRequest) else VOUCHER_NAME


def _table_holds_every_attribute() -> None:
    """The table and the dataclass are written side by side; a leaf in one only is a fault at import."""
    missing = {field.name for field in fields(VoucherRequest)} ^ {leaf.attribute for leaf in LEAVES}
    if missing:
        raise AttributeError(f"leaf table and dataclass differ: {sorted(missing)}")


_table_holds_every_attribute()
