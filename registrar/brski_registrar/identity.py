"""Who is at the other end: a pledge of a maker that is known here (RFC 8995, 2.3 and 5.1).

The laws of this file:

1. A maker's anchors are his alone; they are no anchors for MASA servers, nor the other way round (RFC 8995, 2.5.3).
2. The serial number comes from the certificate that TLS authenticated (RFC 8995, 5.5), from nothing else.
3. Cheap checks come first: only makers whose anchors the chain names are asked.
4. A device that was recognised is known again, on its connection, for as long as the policy stands. Dates are checked
   each time, and nobody who was refused is remembered.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from brski_common.certificate_bytes import Name
from brski_common.certificates import (
    ID_KP_CLIENT_AUTH,
    Peer,
    common_name,
    extended_key_usages,
    extension,
    facts_of,
    fingerprint,
    hardware_module_name,
    idevid_issuer,
    is_ca,
    serial_number,
)
from brski_common.errors import Unknown, Untrusted
from brski_common.paths import Anchors, build_path
from brski_registrar.policy import Manufacturer, SerialField

MAX_SERIAL_NUMBER: Final = 64  # characters: what a subject can hold (RFC 5280, A.1)
REMEMBERED_PEERS: Final = 64  # connections at once that cost nothing more; a device's comes once

_CLIENT_USAGES: Final = frozenset({ID_KP_CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


class Pledge(NamedTuple):
    """A device that TLS authenticated by its IDevID. `issuer` is the idevid-issuer leaf of its vouchers."""

    manufacturer: Manufacturer
    certificate: x509.Certificate
    path: tuple[x509.Certificate, ...]
    serial_number: str
    issuer: bytes
    fingerprint: str  # SHA-256 of the certificate, hex
    not_before: datetime  # of the whole path
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Maker:
    """A manufacturer's record, its anchors parsed."""

    record: Manufacturer
    idevids: Anchors
    tls: Anchors
    vouchers: Anchors
    tolerated: frozenset[ObjectIdentifier]

    @classmethod
    def of(cls, record: Manufacturer) -> "Maker":
        """Parse a record; raises Malformed for PEM that is none, ValueError for an OID that is none."""
        return cls(
            record,
            idevids=_anchors(record.idevid_anchors),
            tls=_anchors(record.masa_tls_anchors),
            vouchers=_anchors(record.voucher_anchors),
            tolerated=frozenset(map(ObjectIdentifier, record.tolerated_critical)),
        )


class Trust:
    """All makers of one state of the policy; never changed, make a new one."""

    def __init__(self, makers: Iterable[Maker] = ()) -> None:
        self.makers = {maker.record.name: maker for maker in makers}
        self._by_subject: dict[Name, list[Maker]] = {}
        for maker in self.makers.values():
            for subject in {facts_of(anchor).subject for anchor in maker.idevids.certificates}:
                self._by_subject.setdefault(subject, []).append(maker)
        self._recognised: OrderedDict[int, tuple[Peer, Pledge]] = OrderedDict()

    def pledge(self, peer: Peer | None, now: datetime) -> Pledge:
        """Who the TLS client is; raises Untrusted, or Unknown where no maker's anchors reach its certificate.

        1. It showed a certificate (RFC 8995, 5.1).
        2. A path leads from it to one of a maker's anchors.
        3. The certificate is an end entity's, and nothing in it forbids its use by a TLS client.
        4. It names the device (RFC 8995, 2.3.1).
        5. All certificates of the path are valid now, unless this maker's may be out of date (RFC 8995, 2.6.2).
        """
        if peer is None:  # 1
            raise Untrusted("client-certificate-missing", "a pledge authenticates itself by its IDevID")
        pledge = self._recognise(peer)  # 2, 3, 4
        if not pledge.not_before <= now <= pledge.not_after and not pledge.manufacturer.ignore_expired_idevid:  # 5
            # A CA may have two certificates, one of them out of date: look for a path that is valid now.
            maker = self.makers[pledge.manufacturer.name]
            build_path(peer.certificate, peer.chain[1:], maker.idevids, now, tolerated_critical=maker.tolerated)
        return pledge

    def _recognise(self, peer: Peer) -> Pledge:
        """A connection has one peer, which never changes: to compare objects is cheaper than to compare certificates.

        An entry holds its peer, so that no other can come to the same number.
        """
        known = self._recognised.get(id(peer))
        if known is not None and known[0] is peer:
            return known[1]
        pledge = self._identify(peer.chain)
        self._recognised[id(peer)] = peer, pledge
        if len(self._recognised) > REMEMBERED_PEERS:
            self._recognised.popitem(last=False)
        return pledge

    def _identify(self, chain: tuple[x509.Certificate, ...]) -> Pledge:
        leaf = chain[0]
        maker, path = self._path(chain)
        _check_leaf(leaf)
        dates = [facts_of(certificate) for certificate in path]
        return Pledge(
            maker.record,
            leaf,
            path,
            _serial_number(leaf, maker.record),
            idevid_issuer(leaf),
            fingerprint(leaf).hex(),
            max([each.not_before for each in dates]),
            min([each.not_after for each in dates]),
        )

    def _path(self, chain: Sequence[x509.Certificate]) -> tuple[Maker, tuple[x509.Certificate, ...]]:
        failure = None
        for maker in self._candidates(chain):
            try:
                return maker, build_path(chain[0], chain[1:], maker.idevids, None, tolerated_critical=maker.tolerated)
            except Untrusted as error:
                # The operator should see why a chain that names an anchor does not hold; the device need not.
                failure = Unknown("manufacturer-unknown", str(error))
        raise failure or Unknown("manufacturer-unknown", f"no anchor for {common_name(chain[0])}")

    def _candidates(self, chain: Sequence[x509.Certificate]) -> Iterable[Maker]:
        named: dict[str, Maker] = {}
        for certificate in chain:
            named |= {maker.record.name: maker for maker in self._by_subject.get(facts_of(certificate).issuer, ())}
        return named.values()


def _anchors(pem: str) -> Anchors:
    return Anchors.from_pem(pem.encode()) if pem.strip() else Anchors()


def _check_leaf(leaf: x509.Certificate) -> None:
    if is_ca(leaf):
        raise Untrusted("idevid-is-ca", common_name(leaf))
    usages = extended_key_usages(leaf)
    if usages and not usages & _CLIENT_USAGES:
        raise Untrusted("idevid-usage", f"{common_name(leaf)} is not for TLS clients")
    usage = extension(leaf, x509.KeyUsage)  # RFC 8995, 2.3: an IDevID should have no such restriction
    if usage is not None and not usage.digital_signature:
        raise Untrusted("idevid-usage", f"{common_name(leaf)} may not sign")


def _serial_number(leaf: x509.Certificate, record: Manufacturer) -> str:
    value = _READERS[record.serial_field](leaf)
    if not value or len(value) > MAX_SERIAL_NUMBER or not value.isprintable():
        raise Untrusted("serial-number-unusable", f"not 1 to {MAX_SERIAL_NUMBER} printable characters")
    return value


def _from_common_name(leaf: x509.Certificate) -> str:
    found = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(found) != 1:
        raise Untrusted("serial-number-missing", f"{len(found)} common names, and this maker's serial number is there")
    return str(found[0].value)


def _from_hardware_module_name(leaf: x509.Certificate) -> str:
    name = hardware_module_name(leaf)
    if name is None:
        raise Untrusted("serial-number-missing", "no hardwareModuleName, and this maker's serial number is there")
    try:
        return name.hw_serial_number.decode("ascii")
    except UnicodeDecodeError:
        return name.hw_serial_number.hex()


_READERS: Final = {
    SerialField.SERIAL_NUMBER: serial_number,
    SerialField.COMMON_NAME: _from_common_name,
    SerialField.HARDWARE_MODULE_NAME: _from_hardware_module_name,
}
