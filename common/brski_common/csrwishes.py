"""What can be asked of a certificate signing request: key, subject, extensions, hash.

The values that `csrattrs` reads from and writes into an EST server's CSR attributes response
(RFC 7030, 4.5.2; RFC 9908), and that `csr` follows and checks. Object identifiers are dotted text.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address

from brski_common import der
from brski_common.errors import Malformed
from brski_common.issuing import is_printable_string

RSA_BITS = range(2048, 8192 + 1)  # a server may not make its clients look for primes all day
MAX_NODE_NAME = 255  # characters

CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # noqa: S105 - the name of an attribute
MAC_ADDRESS = "1.3.6.1.1.1.1.22"
SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
ACP_NODE_NAME = "1.3.6.1.5.5.7.8.10"
SUBJECT_ATTRIBUTES = "2.5.4."  # the arc of X.520 attribute types

EC_PUBLIC_KEY = "1.2.840.10045.2.1"
RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
ED25519 = "1.3.101.112"

CURVES = {
    "P-256": "1.2.840.10045.3.1.7",
    "P-384": "1.3.132.0.34",
    "P-521": "1.3.132.0.35",
    "brainpoolP256r1": "1.3.36.3.3.2.8.1.1.7",
    "brainpoolP384r1": "1.3.36.3.3.2.8.1.1.11",
    "brainpoolP512r1": "1.3.36.3.3.2.8.1.1.13",
}
CURVE_NAMES = {oid: name for name, oid in CURVES.items()}

# Attribute types that RFC 5280, Appendix A.1 allows as PrintableString only.
_PRINTABLE_ONLY = frozenset({"2.5.4.5", "2.5.4.6", "2.5.4.46"})
_IP_ADDRESS_HOLE = b"\x87\x00"  # iPAddress without octets (RFC 9908, 3.4)
_DIRECTORY_NAME_HOLE = b"\xa4\x02\x30\x00"  # directoryName with the NULL-DN


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute with its values, each one whole DER element."""

    oid: str
    values: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyWish:
    """The kind of key asked for; an absent `curve` or `bits` leaves that to the client."""

    algorithm: str
    curve: str | None = None
    bits: int | None = None

    @classmethod
    def of(cls, kind: str) -> "KeyWish":
        """From a name such as "P-256", "RSA-3072", "RSA" or "Ed25519"; raises Malformed."""
        family, _, bits = kind.partition("-")
        if kind in CURVES:
            return cls(EC_PUBLIC_KEY, curve=CURVES[kind])
        if family == "RSA" and (not bits or (bits.isdecimal() and len(bits) <= 5)):
            return cls(RSA_ENCRYPTION, bits=rsa_bits(int(bits)) if bits else None)
        if kind == "Ed25519":
            return cls(ED25519)
        raise Malformed("key-kind-unknown", kind[:64])

    @property
    def kind(self) -> str | None:
        """The name `of` takes; None for an elliptic curve left open or unknown here."""
        if self.algorithm == RSA_ENCRYPTION:
            return f"RSA-{self.bits}" if self.bits else "RSA"
        return "Ed25519" if self.algorithm == ED25519 else CURVE_NAMES.get(self.curve or "")


@dataclass(frozen=True, slots=True)
class NameWish:
    """One attribute of the subject; without a value the client fills it in."""

    oid: str
    value: str | None = None
    tag: int = der.UTF8_STRING


@dataclass(frozen=True, slots=True)
class ExtensionWish:
    """One X.509 extension; without a value (the DER inside extnValue) the client fills it in."""

    oid: str
    value: bytes | None = None
    critical: bool = False

    @property
    def is_partial(self) -> bool:
        """Whether something is left for the client to fill in (RFC 9908, 3.4)."""
        return self.value is None or any(is_hole(name) for name in general_names(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the server asks for, in whichever style it said so.

    `subject` is None where nothing is asked of it, else one tuple per RDN. `hash` ("sha256" …) is for
    the request's own signature. `others` are OIDs of things to include, such as challengePassword or
    a subject attribute. These two can only be said in the legacy style, which a client that knows
    the template ignores once there is one.
    """

    subject: tuple[tuple[NameWish, ...], ...] | None = None
    key: KeyWish | None = None
    hash: str | None = None
    extensions: tuple[ExtensionWish, ...] = ()
    others: tuple[str, ...] = ()

    def extension(self, oid: str) -> ExtensionWish | None:
        """The wish for this extension, if there is one."""
        return next((wish for wish in self.extensions if wish.oid == oid), None)


def subject_wish(*attributes: tuple[str, str | None]) -> tuple[tuple[NameWish, ...], ...]:
    """A subject of single-valued RDNs from (OID, value) pairs; a value None is for the client to fill in."""
    return tuple((NameWish(oid, value, _tag(oid, value or "")),) for oid, value in attributes)


def _tag(oid: str, value: str) -> int:
    return der.PRINTABLE_STRING if oid in _PRINTABLE_ONLY and is_printable_string(value) else der.UTF8_STRING


def acp_name(domain: str, address: IPv6Address | None = None, routing_subdomain: str = "") -> str:
    """An acp-node-name, `rfc8994+<32 hex digits>+<rsub>@<domain>` (RFC 8994, 6.2.2)."""
    digits = "" if address is None else address.packed.hex()
    return f"rfc8994+{digits}+{routing_subdomain}@{domain}"


def acp_node_name(name: str, *, critical: bool = False) -> ExtensionWish:
    """The subjectAltName with an AcpNodeName otherName (RFC 8994, 6.2.2); raises Malformed."""
    if not name.startswith("rfc8994+") or name.count("@") != 1 or len(name) > MAX_NODE_NAME:
        raise Malformed("acp-node-name-malformed", ascii(name[:80]))
    other_name = der.explicit(0, der.oid(ACP_NODE_NAME), der.explicit(0, der.ia5_string(name)))
    return ExtensionWish(SUBJECT_ALTERNATIVE_NAME, der.sequence(other_name), critical)


def general_names(wish: ExtensionWish) -> tuple[bytes, ...]:
    """The names in a subjectAltName wish, each one DER element; none for any other extension. Raises Malformed."""
    if wish.oid != SUBJECT_ALTERNATIVE_NAME or wish.value is None:
        return ()
    return tuple(element.encoded for element in der.parse(wish.value).children())


def is_hole(name: bytes) -> bool:
    """Whether this GeneralName is one that the client is to fill in."""
    return name in (_IP_ADDRESS_HOLE, _DIRECTORY_NAME_HOLE)


def rsa_bits(bits: int) -> int:
    """`bits`, if a client can be asked for an RSA key of that size; raises Malformed."""
    if bits not in RSA_BITS:
        raise Malformed("csrattrs-key-size", f"RSA with {bits} bits, {RSA_BITS.start} to {RSA_BITS.stop - 1} are taken")
    return bits
