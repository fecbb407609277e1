"""COSE_Sign1: the envelope of constrained vouchers (RFC 9052; draft-ietf-anima-constrained-voucher).

The laws of this file:
1. Tag 18 and an `alg` in the protected header, or nothing: an algorithm outside the signature is
   refused (RFC 9052, 4.4), and so are detached content and critical headers we do not know.
2. The signature covers the protected header and the content. The unprotected header, and so the
   certificates in it, is anybody's: whoever calls `verify` must go on to a path or to a
   certificate already known.
3. A registrar takes certificates out of the unprotected header, and changes nothing else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cbor2
from cryptography import x509

from brski_common import signatures, strictcbor
from brski_common.certificates import Credential, load_certificate, to_der
from brski_common.errors import Malformed, UnsupportedFormat, Untrusted
from brski_common.signatures import Scheme
from brski_common.strictcbor import CborValue

TAG_SIGN1 = 18
ALG, CRIT = 1, 2
X5BAG, X5CHAIN = 32, 33  # RFC 9360, 2

MAX_CERTIFICATES = 32
REMEMBERED_HEADERS = 64

# COSE algorithm -> scheme (RFC 9053, 2); the last three name curve and digest in full (RFC 9864, 2).
_SCHEMES: dict[int, Scheme] = {
    -7: Scheme("EC", "sha256", "secp256r1"),
    -35: Scheme("EC", "sha384", "secp384r1"),
    -36: Scheme("EC", "sha512", "secp521r1"),
    -8: Scheme("Ed25519", "sha512"),
    -9: Scheme("EC", "sha256", "secp256r1"),
    -51: Scheme("EC", "sha384", "secp384r1"),
    -19: Scheme("Ed25519", "sha512"),
}
_WRITTEN = {scheme: number for number, scheme in reversed(_SCHEMES.items())}
_UNDERSTOOD = frozenset((ALG, CRIT, X5BAG, X5CHAIN))


@dataclass(frozen=True, slots=True)
class Sign1:
    """A COSE_Sign1 as received, nothing verified.

    `protected` is the serialised header the signature is over, `headers` its members. `certificates`
    are those of x5bag and x5chain; `leads` tells that the first of them is the signer's (x5chain).
    """

    protected: bytes
    headers: Mapping[CborValue, CborValue]
    unprotected: Mapping[CborValue, CborValue]
    content: bytes
    signature: bytes
    certificates: tuple[x509.Certificate, ...]
    leads: bool


def parse(data: bytes) -> Sign1:
    """Read a tagged COSE_Sign1; raises Malformed, UnsupportedFormat."""
    #   COSE_Sign1 = #6.18([protected: bstr .cbor header_map, unprotected: header_map, payload: bstr / nil, signature])
    protected, unprotected, content, signature = _members(data)
    headers = _headers(protected)
    if headers.keys() & unprotected.keys():
        raise Malformed("cose-duplicate-header", "a header is both protected and unprotected")
    _check_critical(headers, unprotected)
    chain, bag = ([*_certificates(headers, label), *_certificates(unprotected, label)] for label in (X5CHAIN, X5BAG))
    if len(chain) + len(bag) > MAX_CERTIFICATES:
        raise Malformed("cose-too-many-certificates", f"{len(chain) + len(bag)}, at most {MAX_CERTIFICATES}")
    certificates = tuple(map(load_certificate, chain + bag))
    return Sign1(protected, headers, unprotected, content, signature, certificates, bool(chain))


def verify(signed: Sign1, signer: x509.Certificate | None = None) -> x509.Certificate:
    """Verify the signature and return its signer's certificate; raises Untrusted.

    1. The protected header names an algorithm taken here.
    2. The key of `signer`, or of the first of x5chain, or of one of x5bag, made the signature
       over the Sig_structure with that algorithm (RFC 9052, 4.4).
    """
    scheme = _scheme(signed.headers)  # 1
    data = _sig_structure(signed.protected, signed.content)
    signature = signatures.from_raw(signed.signature, scheme)
    failure = Untrusted("cose-signer-missing", "no certificate came along")
    for certificate in _candidates(signed, signer):  # 2
        try:
            signatures.verify(certificate, signature, data, scheme)
        except Untrusted as error:
            failure = error
        else:
            return certificate
    raise failure


def sign(
    content: bytes,
    credential: Credential,
    *,
    certificates: Sequence[x509.Certificate] | None = None,
) -> bytes:
    """A tagged COSE_Sign1 around `content`.

    `certificates`, by default the credential's chain, go as x5bag into the unprotected header; a pledge
    sends none (draft-ietf-anima-constrained-voucher, 9.2). Raises Untrusted for a key that may not sign here.
    """
    scheme = signatures.scheme_for(credential.certificate)
    protected = _protected(scheme)
    signature = signatures.sign(credential.key, _sig_structure(protected, content), scheme)
    along = credential.chain if certificates is None else certificates
    return _write(protected, _x5bag(along), content, signatures.to_raw(signature, scheme))


def strip_unprotected_certificates(data: bytes) -> bytes:
    """The same message without x5bag and x5chain in its unprotected header, as a registrar hands it on.

    The signature stays good, for it does not cover them. A message without any comes back as it is.
    """
    protected, unprotected, content, signature = _members(data)
    kept = {label: value for label, value in unprotected.items() if label not in (X5BAG, X5CHAIN)}
    return data if len(kept) == len(unprotected) else _write(protected, kept, content, signature)


def _members(data: bytes) -> tuple[bytes, Mapping[CborValue, CborValue], bytes, bytes]:
    top = strictcbor.loads(data)
    if not isinstance(top, cbor2.CBORTag) or top.tag != TAG_SIGN1:
        raise UnsupportedFormat("cose-not-sign1", "the item has no tag 18")
    match top.value:
        case [bytes() as protected, Mapping() as unprotected, bytes() as content, bytes() as signature]:
            return protected, unprotected, content, signature
        case [bytes(), Mapping(), None, bytes()]:
            raise UnsupportedFormat("cose-detached", "the COSE_Sign1 has no payload")
    raise Malformed("cose-malformed", "not the four members of a COSE_Sign1")


def _headers(protected: bytes) -> Mapping[CborValue, CborValue]:
    headers = strictcbor.loads(protected) if protected else {}
    if not isinstance(headers, Mapping):
        raise Malformed("cose-malformed", "the protected header is no map")
    return headers


def _scheme(headers: Mapping[CborValue, CborValue]) -> Scheme:
    if ALG not in headers:
        raise Untrusted("cose-algorithm-missing", "no alg in the protected header")
    algorithm = headers[ALG]
    if not isinstance(algorithm, int) or algorithm not in _SCHEMES:
        raise Untrusted("cose-algorithm-unsupported", repr(algorithm)[:80])
    return _SCHEMES[algorithm]


def _check_critical(headers: Mapping[CborValue, CborValue], unprotected: Mapping[CborValue, CborValue]) -> None:
    """RFC 9052, 3.1: `crit` is protected, not empty, names headers that are there, and we must know them all."""
    if CRIT in unprotected:
        raise Malformed("cose-critical-header", "crit is not protected")
    if CRIT not in headers:
        return
    critical = headers[CRIT]
    if not isinstance(critical, list) or not critical or not all(type(label) in (int, str) for label in critical):
        raise Malformed("cose-critical-header", "crit is no list of labels")
    if any(label not in _UNDERSTOOD or label not in headers for label in critical):
        raise UnsupportedFormat("cose-critical-header", repr(critical)[:80])


def _certificates(headers: Mapping[CborValue, CborValue], label: int) -> list[bytes]:
    #   COSE_X509 = bstr / [ 2*certs: bstr ]
    value = headers.get(label, [])
    found = value if isinstance(value, list) else [value]
    certificates = [certificate for certificate in found if isinstance(certificate, bytes)]
    if len(certificates) != len(found):
        raise Malformed("cose-certificate-kind", f"header {label} holds something else than byte strings")
    return certificates


def _candidates(signed: Sign1, signer: x509.Certificate | None) -> Sequence[x509.Certificate]:
    if signer is not None:
        return (signer,)
    return signed.certificates[:1] if signed.leads else signed.certificates


def _sig_structure(protected: bytes, content: bytes) -> bytes:
    return cbor2.dumps(["Signature1", protected, b"", content])


@lru_cache(maxsize=REMEMBERED_HEADERS)
def _protected(scheme: Scheme) -> bytes:
    if scheme not in _WRITTEN:
        raise Untrusted("key-unsupported", f"COSE has no algorithm here for {scheme.key}")
    return cbor2.dumps({ALG: _WRITTEN[scheme]})


def _x5bag(certificates: Sequence[x509.Certificate]) -> dict[CborValue, CborValue]:
    """RFC 9360, 2: one certificate stands bare, several in an array."""
    if not certificates:
        return {}
    encoded: list[CborValue] = [to_der(certificate) for certificate in certificates]
    return {X5BAG: encoded if len(encoded) > 1 else encoded[0]}


def _write(protected: bytes, unprotected: Mapping[CborValue, CborValue], content: bytes, signature: bytes) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(TAG_SIGN1, [protected, unprotected, content, signature]))
