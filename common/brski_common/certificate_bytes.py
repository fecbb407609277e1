"""What is taken from a certificate's bytes as they stand, where pyca's objects cost more than they tell.

The bytes are those of a certificate that pyca could read; nothing is judged here.
"""

from functools import lru_cache

from cryptography import x509

from brski_common import der
from brski_common.der_spans import spans

REMEMBERED_NAMES = 128

Name = tuple[frozenset[tuple[str, str | bytes]], ...]  # for each RDN its attributes: the dotted type and the value

_VERSION = der.context(0)
# How a SubjectPublicKeyInfo of that length begins: P-256 and P-384 with an uncompressed point, Ed25519.
_KEY_HEADS = {
    91: bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
    120: bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"),
    44: bytes.fromhex("302a300506032b6570032100"),
}


def members(encoded: bytes) -> list[bytes]:
    """Serial number, issuer, subject and subjectPublicKeyInfo of a certificate, as they stand in it."""
    #   TBSCertificate ::= SEQUENCE { version [0] DEFAULT v1, serialNumber, signature, issuer, validity, subject,
    #       subjectPublicKeyInfo, … }
    ((_, _, body, stop),) = spans(encoded, 0, len(encoded))
    _, _, body, stop = spans(encoded, body, stop)[0]
    fields = spans(encoded, body, stop)
    first = 1 if fields[0][0] == _VERSION else 0
    wanted = fields[first], fields[first + 2], fields[first + 4], fields[first + 5]
    return [encoded[start:end] for _, start, _, end in wanted]


@lru_cache(maxsize=REMEMBERED_NAMES)
def name_of(encoded: bytes) -> Name:
    """A DER Name as a value; equal names that are written with different string types are equal.

    RDNs are compared as pyca compares them. Its own objects take a dozen calls for it, at every comparison.
    """
    rdns = x509.Name.from_bytes(encoded).rdns
    return tuple([frozenset([(each.oid.dotted_string, each.value) for each in rdn]) for rdn in rdns])


def is_canonical(info: bytes) -> bool:
    """Whether a SubjectPublicKeyInfo that pyca could read is what pyca would write: no compressed point, no spare NULL."""
    return info.startswith(_KEY_HEADS.get(len(info), info + b"!"))
