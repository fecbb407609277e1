"""What is taken from a certificate's bytes as they stand, where pyca's objects cost more than they tell.

The bytes are those of a certificate that pyca could read; nothing is judged here.
"""

from functools import lru_cache
from typing import NamedTuple

from cryptography import x509

from brski_common import der
from brski_common.der_spans import members, spans

REMEMBERED_NAMES = 128

Name = tuple[frozenset[tuple[str, str | bytes]], ...]  # for each RDN its attributes: the dotted type and the value

_VERSION = der.context(0)
_SEQUENCE = bytes((der.SEQUENCE,))
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
    fields = [place for tag, place in spans(encoded, tbs) if tag != _VERSION]
    wanted = [encoded[at:after] for at, _, after in fields[:6]]
    serial, algorithm, issuer, _, subject, key_info = wanted
    return Parts(serial, issuer, subject, key_info, algorithm if algorithm == encoded[outer[0] : outer[2]] else b"")


@lru_cache(maxsize=REMEMBERED_NAMES)
def name_of(encoded: bytes) -> Name:
    """A DER Name as a value; equal names that are written with different string types are equal.

    RDNs are compared as pyca compares them. Its own objects take a dozen calls for it, at every comparison.
    """
    rdns = x509.Name.from_bytes(encoded).rdns
    return tuple([frozenset([(each.oid.dotted_string, each.value) for each in rdn]) for rdn in rdns])


def is_canonical(info: bytes) -> bool:
    """Whether a SubjectPublicKeyInfo that pyca could read is as pyca would write it: its point not compressed, say."""
    return info.startswith(_KEY_HEADS.get(len(info), info + b"!"))
