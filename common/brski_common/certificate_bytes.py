"""What is taken from a certificate's bytes as they stand, where pyca's objects cost more than they tell.

The bytes are those of a certificate that pyca could read; nothing is judged here.
"""

from functools import lru_cache
from typing import NamedTuple

from cryptography import x509

from brski_common import der, oids
from brski_common.der_spans import Place, Span, members, spans
from brski_common.errors import Malformed

REMEMBERED_NAMES = 128

Name = tuple[frozenset[tuple[str, str | bytes]], ...]  # for each RDN its attributes: the dotted type and the value

_VERSION = der.context(0)
_SEQUENCE = bytes((der.SEQUENCE,))
_TEXTS = (der.UTF8_STRING, der.PRINTABLE_STRING)
_CERTIFICATE = bytes((der.SEQUENCE, der.SEQUENCE, der.BIT_STRING))
# How a SubjectPublicKeyInfo of that length begins: P-256 and P-384 with an uncompressed point, Ed25519.
_KEY_HEADS = {
    91: bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
    120: bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"),
    44: bytes.fromhex("302a300506032b6570032100"),
}


class Parts(NamedTuple):
    """Elements of a certificate as they stand in it. `algorithm` signed it, empty where it is named in two ways."""

    serial: bytes
    issuer: bytes
    subject: bytes
    key_info: bytes
    algorithm: bytes


def read(encoded: bytes) -> Parts:
    """Take a certificate apart."""
    #   TBSCertificate ::= SEQUENCE { version [0] DEFAULT v1, serialNumber, signature, issuer, validity, subject,
    #       subjectPublicKeyInfo, … }
    (certificate,) = members(encoded, (0, 0, len(encoded)), _SEQUENCE)
    tbs, outer, _ = members(encoded, certificate, _CERTIFICATE)
    fields = spans(encoded, tbs)
    first = 1 if fields[0][0] == _VERSION else 0
    wanted = [encoded[at:after] for _, (at, _, after) in fields[first : first + 6]]
    serial, algorithm, issuer, _, subject, key_info = wanted
    return Parts(serial, issuer, subject, key_info, algorithm if algorithm == encoded[outer[0] : outer[2]] else b"")


@lru_cache(maxsize=REMEMBERED_NAMES)
def name_of(encoded: bytes) -> Name:
    """A DER Name as a value; equal names that are written with different string types are equal.

    RDNs are compared as pyca compares them. Its own objects take a dozen calls for it, at every comparison.
    """
    try:
        return _usual_name(encoded)
    except (Malformed, UnicodeDecodeError):
        return _any_name(encoded)


def _any_name(encoded: bytes) -> Name:
    rdns = x509.Name.from_bytes(encoded).rdns
    return tuple([frozenset([(each.oid.dotted_string, each.value) for each in rdn]) for rdn in rdns])


def _usual_name(encoded: bytes) -> Name:
    """Read RDNs of one attribute that is a UTF8String or PrintableString, as nearly all are; else raises."""
    #   Name ::= SEQUENCE OF SET OF SEQUENCE { type OBJECT IDENTIFIER, value }
    rdns: list[frozenset[tuple[str, str | bytes]]] = []
    (name,) = members(encoded, (0, 0, len(encoded)), _SEQUENCE)
    for tag, rdn in spans(encoded, name):
        (attribute,) = members(encoded, rdn, _SEQUENCE)
        (oid, (_, at, after)), (kind, (_, start, stop)) = _pair(encoded, attribute)
        if tag != der.SET or oid != der.OBJECT_IDENTIFIER or kind not in _TEXTS:
            raise Malformed("name-not-usual", f"tag 0x{kind:02x}")
        rdns.append(frozenset(((oids.read(encoded[at:after]), encoded[start:stop].decode()),)))
    return tuple(rdns)


def _pair(encoded: bytes, attribute: Place) -> list[Span]:
    found = spans(encoded, attribute)
    if len(found) != 2:
        raise Malformed("name-not-usual", f"{len(found)} members in an attribute")
    return found


def is_canonical(info: bytes) -> bool:
    """Whether a SubjectPublicKeyInfo that pyca could read is as pyca would write it: its point not compressed, say."""
    return info.startswith(_KEY_HEADS.get(len(info), info + b"!"))
