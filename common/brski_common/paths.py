"""Certification paths: who vouches for a certificate, down from a trust anchor.

The laws of this file (RFC 5280, 6; why it is our own: docs/adr/0004):

1. A path is found by trying issuers, anchors first; it never leaves the given pool and anchors.
2. A link holds if the names meet, the issuer is a CA allowed to sign certificates, and its key made
   the signature. A link that held is remembered, one that failed is not; so is a path, all but its dates.
3. Every certificate of the path, the anchor too, is checked against `now`. `now=None` means that
   no trusted clock exists: all dates are ignored, and only those (RFC 8995, 2.6.1).
4. A critical extension not known here ends the path, unless the caller tolerates it by name.
5. Work is bounded: an attacker chooses the pool.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

from brski_common import der
from brski_common.certificate_bytes import Name
from brski_common.certificates import (
    PYCA_ERRORS,
    Facts,
    common_name,
    extension,
    facts_of,
    load_pem,
    spki,
    without_duplicates,
)
from brski_common.errors import Untrusted

MAX_PATH_CERTIFICATES = 8
MAX_LINKS_TRIED = 32
MAX_POOL = 32
MAX_NAME_CHECKS = 4096  # names below a CA times subtrees in it: whoever brings his own CA chooses both
KNOWN_PATHS = 32  # those who come again, such as a registrar or a MASA; an entry keeps up to 40 certificates
VERIFIED_LINKS = 128  # a device's is met again within seconds or not at all; an entry keeps some 20 KiB
MIN_RSA_BITS = 2048
MAX_RSA_EXPONENT_BITS = 64  # a longer one only costs time: 5 ms a signature with 3072 bits, and 32 may be tried

_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_ECDSA = {  # by the signature algorithm as it stands in a certificate (RFC 5758, 3.2)
    der.sequence(der.oid("1.2.840.10045.4.3.2")): ec.ECDSA(hashes.SHA256()),
    der.sequence(der.oid("1.2.840.10045.4.3.3")): ec.ECDSA(hashes.SHA384()),
    der.sequence(der.oid("1.2.840.10045.4.3.4")): ec.ECDSA(hashes.SHA512()),
}
_KNOWN_CRITICAL = frozenset(
    (
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.NAME_CONSTRAINTS,
    )
)


class Anchors:
    """A trust-anchor database: what is trusted without a signature. Never changed; make a new one."""

    def __init__(self, certificates: Iterable[x509.Certificate] = ()) -> None:
        self.certificates = without_duplicates(certificates)
        self._by_subject: dict[Name, list[Facts]] = {}
        for facts in map(facts_of, self.certificates):
            self._by_subject.setdefault(facts.subject, []).append(facts)

    @classmethod
    def from_pem(cls, data: bytes) -> "Anchors":
        """The certificates of a PEM text as anchors; raises Malformed."""
        return cls(load_pem(data))

    @cached_property
    def keys(self) -> frozenset[bytes]:
        """The DER SubjectPublicKeyInfo of each."""
        return frozenset(map(spki, self.certificates))

    def __bool__(self) -> bool:
        return bool(self.certificates)

    def __contains__(self, certificate: x509.Certificate) -> bool:
        return certificate in self.certificates

    def named(self, subject: Name) -> Sequence[Facts]:
        """The anchors with that subject."""
        return self._by_subject.get(subject, ())


def build_path(
    leaf: x509.Certificate,
    pool: Iterable[x509.Certificate],
    anchors: Anchors,
    now: datetime | None,
    *,
    leaf_may_be_anchor: bool = False,
    tolerated_critical: frozenset[ObjectIdentifier] = frozenset(),
) -> tuple[x509.Certificate, ...]:
    """Find a path from `leaf` to an anchor, leaf first; raises Untrusted.

    `pool` holds untrusted certificates that may serve as intermediates. With `leaf_may_be_anchor`
    a leaf whose key is an anchor's key is its own path, as for a pinned end entity (RFC 8995, 5.6.2).
    """
    path = find_path(
        facts_of(leaf),
        [facts_of(certificate) for certificate in pool],
        anchors,
        now,
        leaf_may_be_anchor=leaf_may_be_anchor,
        tolerated_critical=tolerated_critical,
    )
    return tuple([facts.certificate for facts in path])


def find_path(
    leaf: Facts,
    pool: Iterable[Facts],
    anchors: Anchors,
    now: datetime | None,
    *,
    leaf_may_be_anchor: bool = False,
    tolerated_critical: frozenset[ObjectIdentifier] = frozenset(),
) -> tuple[Facts, ...]:
    """The same of certificates that are read already."""
    if leaf_may_be_anchor and leaf.spki in anchors.keys:
        _check_path((leaf,), now, tolerated_critical)
        return (leaf,)
    offered = tuple({facts.der: facts for facts in pool}.values())[:MAX_POOL]
    known = _known_paths(leaf, offered, anchors, tolerated_critical)
    for path in known:
        if now is None or _are_valid(path, now):
            return path
    path = _Search(offered, anchors, now, tolerated_critical).find(leaf)
    known[:] = [path]
    return path


def _are_valid(path: Iterable[Facts], now: datetime) -> bool:
    return not [facts for facts in path if not facts.not_before <= now <= facts.not_after]


@lru_cache(maxsize=KNOWN_PATHS)
def _known_paths(*_asked: object) -> list[tuple[Facts, ...]]:
    """Room for the path that was found when all this was asked; it holds whenever its certificates are valid."""
    return []


def check_path(
    path: Sequence[x509.Certificate],
    now: datetime | None,
    *,
    tolerated_critical: frozenset[ObjectIdentifier] = frozenset(),
) -> None:
    """Check each certificate of a linked path: dates, extensions, keys, path length, names; raises Untrusted."""
    _check_path([facts_of(certificate) for certificate in path], now, tolerated_critical)


def check_dates(certificate: x509.Certificate, now: datetime) -> None:
    """Check notBefore and notAfter against `now` (aware); raises Untrusted."""
    _check_dates(facts_of(certificate), now)


def check_link(subject: x509.Certificate, issuer: x509.Certificate) -> None:
    """Check that `issuer` is a CA that signed `subject`; raises Untrusted. A link that holds is remembered."""
    _check_link(facts_of(subject), facts_of(issuer))


class _Search:
    """A depth-first search for a path that passes `check`; the last reason why one failed is kept for the log."""

    def __init__(
        self, pool: Sequence[Facts], anchors: Anchors, now: datetime | None, tolerated: frozenset[ObjectIdentifier]
    ) -> None:
        self._pool = pool
        self._anchors = anchors
        self._now = now
        self._tolerated = tolerated
        self._tried = 0
        self._failure: Untrusted | None = None

    def find(self, leaf: Facts) -> tuple[Facts, ...]:
        path = self._extend((leaf,))
        if path is None:
            raise self._failure or Untrusted("path-not-found", "no issuer is known for the certificate")
        return path

    def _extend(self, path: tuple[Facts, ...]) -> tuple[Facts, ...] | None:
        last = path[-1]
        for anchor in self._anchors.named(last.issuer):
            # An anchor that was also sent as a part of the chain stands once.
            complete = path if last.der == anchor.der else (*path, anchor)
            if self._links(last, anchor) and self._passes(complete):
                return complete
        if len(path) == MAX_PATH_CERTIFICATES:
            return None
        for candidate in self._pool:
            if candidate.subject == last.issuer and _is_new(candidate, path) and self._links(last, candidate):
                found = self._extend((*path, candidate))
                if found is not None:
                    return found
        return None

    def _passes(self, path: Sequence[Facts]) -> bool:
        try:
            _check_path(path, self._now, self._tolerated)
        except Untrusted as failure:
            self._failure = failure
            return False
        return True

    def _links(self, subject: Facts, issuer: Facts) -> bool:
        self._tried += 1
        if self._tried > MAX_LINKS_TRIED:
            raise Untrusted("path-too-long", f"no path within {MAX_LINKS_TRIED} links")
        try:
            _check_link(subject, issuer)
        except Untrusted as failure:
            self._failure = failure
            return False
        return True


def _is_new(candidate: Facts, path: Iterable[Facts]) -> bool:
    """Whether a certificate is not in the path, which would go round in a circle."""
    return candidate.der not in [facts.der for facts in path]


@lru_cache(maxsize=VERIFIED_LINKS)
def _check_link(subject: Facts, issuer: Facts) -> None:
    if not issuer.is_ca:
        raise Untrusted("ca-not-allowed", f"{_name(issuer)} is not a CA")
    usage = issuer.value(x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise Untrusted("ca-not-allowed", f"{_name(issuer)} has a keyUsage without keyCertSign")
    if issuer.key_kind == "RSA":
        _check_rsa_key(issuer)
    try:
        _check_signature(subject, issuer)
    except InvalidSignature as error:
        raise Untrusted("certificate-signature-invalid", f"{_name(subject)}, {_name(issuer)}") from error
    except PYCA_ERRORS as error:
        raise Untrusted("path-not-found", str(error)) from error


def _check_signature(subject: Facts, issuer: Facts) -> None:
    certificate, ecdsa = subject.certificate, _ECDSA.get(subject.parts.algorithm)
    if ecdsa is not None and issuer.key_kind == "EC" and subject.parts.issuer == issuer.parts.subject:
        # All that pyca does below, but that it would read the issuer's key anew.
        key = cast("ec.EllipticCurvePublicKey", issuer.key)
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ecdsa)
        return
    if not isinstance(certificate.signature_hash_algorithm, (*_HASHES, type(None))):
        raise Untrusted("signature-algorithm-weak", _name(subject))
    certificate.verify_directly_issued_by(issuer.certificate)


def _check_path(path: Sequence[Facts], now: datetime | None, tolerated: frozenset[ObjectIdentifier]) -> None:
    for facts in path:
        if now is not None:
            _check_dates(facts, now)
        if not _KNOWN_CRITICAL.issuperset(facts.critical):
            _check_critical(facts, tolerated)
        if facts.key_kind == "RSA":
            _check_rsa_key(facts)
    for index, issuer in enumerate(path[1:], start=1):
        _check_path_length(issuer, path[:index])
        _check_name_constraints(issuer, path[:index])


def _name(facts: Facts) -> str:
    return common_name(facts.certificate)


def _check_dates(facts: Facts, now: datetime) -> None:
    if now < facts.not_before:
        raise Untrusted("certificate-not-yet-valid", f"{_name(facts)} from {facts.not_before}")
    if now > facts.not_after:
        raise Untrusted("certificate-expired", f"{_name(facts)} on {facts.not_after}")


def _check_critical(facts: Facts, tolerated: frozenset[ObjectIdentifier]) -> None:
    for oid in facts.critical:
        if oid not in _KNOWN_CRITICAL and oid not in tolerated:
            raise Untrusted("critical-extension-unknown", f"{oid.dotted_string} in {_name(facts)}")


def _check_rsa_key(facts: Facts) -> None:
    key = facts.key
    assert isinstance(key, rsa.RSAPublicKey)
    if key.key_size < MIN_RSA_BITS:
        raise Untrusted("key-too-weak", f"RSA {key.key_size} in {_name(facts)}")
    if key.public_numbers().e.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise Untrusted("key-unsupported", f"RSA with a long exponent in {_name(facts)}")


def _check_path_length(issuer: Facts, below: Sequence[Facts]) -> None:
    """RFC 5280, 4.2.1.9: self-issued certificates and the leaf do not count."""
    if not issuer.is_ca:
        raise Untrusted("ca-not-allowed", f"{_name(issuer)} is not a CA")
    if issuer.path_length is None:
        return
    between = len([facts for facts in below[1:] if not facts.is_self_issued])
    if between > issuer.path_length:
        raise Untrusted(
            "path-too-long", f"{_name(issuer)} allows {issuer.path_length} CAs below it, here are {between}"
        )


def _check_name_constraints(issuer: Facts, below: Sequence[Facts]) -> None:
    constraints = issuer.value(x509.NameConstraints)
    if constraints is None:
        return
    permitted, excluded = constraints.permitted_subtrees or (), constraints.excluded_subtrees or ()
    names = [name for facts in below for name in _names(facts.certificate)]
    if len(names) * (len(permitted) + len(excluded)) > MAX_NAME_CHECKS:
        raise Untrusted("name-constraints-too-many", f"{len(names)} names below {_name(issuer)}")
    for name in names:
        _check_name(name, permitted, excluded)


def _names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DirectoryName(certificate.subject)] if list(certificate.subject) else []
    return [*names, *(extension(certificate, x509.SubjectAlternativeName) or ())]


def _check_name(
    name: x509.GeneralName, permitted: Iterable[x509.GeneralName], excluded: Iterable[x509.GeneralName]
) -> None:
    kind = type(name)
    allowed = [tree for tree in permitted if type(tree) is kind]
    if allowed and not any(_within(name, tree) for tree in allowed):
        raise Untrusted("name-not-permitted", str(name.value))
    if any(type(tree) is kind and _within(name, tree) for tree in excluded):
        raise Untrusted("name-not-permitted", str(name.value))


def _within(name: x509.GeneralName, tree: x509.GeneralName) -> bool:
    """Whether a name lies in a subtree of its kind (RFC 5280, 4.2.1.10); a kind not read here is refused."""
    if isinstance(name, x509.DNSName):
        host, domain = name.value.lower(), str(tree.value).lower().lstrip(".")
        return not domain or host == domain or host.endswith("." + domain)
    if isinstance(name, x509.IPAddress):
        if not isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address):
            raise Untrusted("name-not-permitted", "an address range stands where an address belongs")
        return name.value in tree.value
    if isinstance(name, x509.DirectoryName):
        outer = list(tree.value.rdns)
        return list(name.value.rdns)[: len(outer)] == outer
    raise Untrusted("name-constraint-unsupported", type(name).__name__)


def verify_host(certificate: x509.Certificate, host: str) -> None:
    """Check that the certificate names `host`, a DNS name or an IP address (RFC 9525, 6); raises Untrusted.

    Only subjectAltName counts. A wildcard stands for exactly one left-most label.
    """
    names = extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        raise Untrusted("host-name-mismatch", f"no subjectAltName, wanted {host}")
    try:
        matched = ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        matched = any(_matches_dns(pattern, host) for pattern in names.get_values_for_type(x509.DNSName))
    if not matched:
        raise Untrusted("host-name-mismatch", f"the certificate is not for {host}")


def _matches_dns(pattern: str, host: str) -> bool:
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if not pattern.startswith("*."):
        return pattern == host
    label, _, rest = host.partition(".")
    return bool(label) and "." in rest and rest == pattern[2:]
