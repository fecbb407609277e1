"""Who is concerned: devices, their owners, and whoever asks.

An owner is recognised by identities that the maker has on record (RFC 8995, 5.4 and 5.5.4). By key, always: names
and key identifiers are chosen by who makes a certificate.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from cryptography import x509

from brski_common.artifact import Format
from brski_common.certificates import ID_KP_CMC_RA, Peer, extended_key_usages, facts_of, load_certificate, spki_sha256
from brski_common.errors import Untrusted
from brski_common.paths import check_dates, check_link
from brski_masa.vouchering import Examined


class DevicePolicy(StrEnum):
    """Who may have a device; the module's docstring says what each means."""

    OWNER_ONLY = "owner-only"
    REFUSE = "refuse"
    FIRST_COME = "first-come"
    AUDIT_ONLY = "audit-only"


class Pin(StrEnum):
    """Which certificate of the registrar's chain goes into the voucher (RFC 8995, 5.5.2; D-6)."""

    AUTO = "auto"
    LOWEST_CA = "lowest-ca"
    HIGHEST_CA = "highest-ca"
    END_ENTITY = "end-entity"


class IdentityKind(StrEnum):
    """How a registrar shows which customer it belongs to (RFC 8995, 5.4 and 5.5.4)."""

    ANCHOR = "anchor"  # the key of a CA or registrar certificate in the chain of its voucher request
    TLS_CLIENT = "tls-client"  # the key of a certificate in its TLS client chain
    HTTP_USER = "http-user"  # a user name with a password, HTTP Basic or Digest


class Identity(NamedTuple):
    """One way to recognise an owner. `value` is a key's SHA-256 in hex, or a user name."""

    owner_id: int
    kind: IdentityKind
    value: str
    certificate: bytes | None = None


class Owner(NamedTuple):
    """A customer: who buys devices and runs registrars."""

    id: int
    name: str
    identities: tuple[Identity, ...] = ()
    pin: Pin = Pin.AUTO
    nonceless: bool = True


class Device(NamedTuple):
    """A device as the registry has it, with its current owner.

    `last_pinned_key` is the key (SPKI SHA-256) that its newest voucher since the last change of ownership pins.
    `formats` are the voucher formats it can read, empty if any.
    """

    id: int
    serial_number: str
    idevid_issuer: bytes
    spki_sha256: bytes
    owner: Owner | None = None
    policy: DevicePolicy | None = None
    blocked: str | None = None
    last_pinned_key: bytes | None = None
    formats: tuple[Format, ...] = ()
    content_type: str | None = None


class Requester(NamedTuple):
    """Who asks, as far as the connection shows it. `user` is a name whose password was right."""

    peer: Peer | None = None
    user: str | None = None
    address: str = ""

    @property
    def label(self) -> str:
        """What tells two requesters apart in the records: the TLS client's key, else the user, else nothing."""
        if self.peer is not None:
            return f"tls:{spki_sha256(self.peer.certificate).hex()}"
        return f"http:{self.user}" if self.user is not None else "anonymous"


# Recognising


def is_known(
    identities: Iterable[Identity],
    examined: Examined,
    requester: Requester,
    accepted: frozenset[IdentityKind],
    now: datetime,
) -> bool:
    """Whether the requester showed one of these identities, in a way that is accepted (5.5.4)."""
    return any(identity.kind in accepted and _shows(identity, examined, requester, now) for identity in identities)


def _shows(identity: Identity, examined: Examined, requester: Requester, now: datetime) -> bool:
    if identity.kind is IdentityKind.ANCHOR:
        return _leads_to(examined.path, examined.path_keys, identity)
    if identity.kind is IdentityKind.HTTP_USER:
        return requester.user is not None and requester.user == identity.value
    return requester.peer is not None and _is_client(requester.peer, identity, now)


def _is_client(peer: Peer, identity: Identity, now: datetime) -> bool:
    """The TLS client itself is on record, or it is a registrar under a CA on record.

    Not just anybody under that CA: every device of the customer has a certificate of it.
    """
    try:
        check_dates(peer.certificate, now)
    except Untrusted:
        return False
    if spki_sha256(peer.certificate).hex() == identity.value:
        return True
    if ID_KP_CMC_RA not in extended_key_usages(peer.certificate):
        return False
    chain = linked(peer.chain)
    return _leads_to(chain, frozenset(map(spki_sha256, chain)), identity)


def _leads_to(path: Sequence[x509.Certificate], keys: frozenset[bytes], identity: Identity) -> bool:
    """Whether the path holds the identity's key, or ends right under its certificate."""
    if bytes.fromhex(identity.value) in keys:
        return True
    if identity.certificate is None or not path:
        return False
    anchor = load_certificate(identity.certificate)
    if facts_of(anchor).subject != facts_of(path[-1]).issuer:
        return False
    try:
        check_link(path[-1], anchor)
    except Untrusted:
        return False
    return True


def linked(chain: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """The part of a TLS chain, from the leaf on, in which each certificate is signed by the next."""
    for index in range(1, len(chain)):
        try:
            check_link(chain[index - 1], chain[index])
        except Untrusted:
            return tuple(chain[:index])
    return tuple(chain)
