"""Where keys meet algorithms: the one list of what may sign here, for CMS, JWS and COSE alike.

ECDSA on P-256, P-384 and P-521, RSA from 2048 bits, Ed25519; SHA-256 and longer. Nothing else is
taken, whatever an envelope says. Keys are told apart by pyca's abstract classes, never by their
concrete type, so that an object standing for a key in a PKCS#11 token signs like any other.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from brski_common.certificates import PYCA_ERRORS, KeyKind, PrivateKey, PublicKey, facts_of, key_kind
from brski_common.errors import Malformed, Untrusted

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192  # longer keys only cost time

Digest = Literal["sha256", "sha384", "sha512"]

_HASHES: dict[Digest, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_ECDSA = {name: ec.ECDSA(algorithm) for name, algorithm in _HASHES.items()}
_PKCS1 = padding.PKCS1v15()
_CURVE_DIGESTS: dict[str, Digest] = {"secp256r1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}

digests: dict[Digest, Callable[..., "hashlib._Hash"]] = {
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a signature is made. `curve` binds ECDSA to one; `pss_salt` (bytes) makes it RSASSA-PSS."""

    key: KeyKind
    digest: Digest
    curve: str | None = None
    pss_salt: int | None = None


def scheme_for(certificate: x509.Certificate) -> Scheme:
    """The scheme the key of this certificate signs with here; raises Untrusted for a key that may not sign."""
    match usable_key(certificate):
        case ec.EllipticCurvePublicKey() as point:
            return Scheme("EC", _CURVE_DIGESTS[point.curve.name], point.curve.name)
        case rsa.RSAPublicKey():
            return Scheme("RSA", "sha256")
        case _:
            return Scheme("Ed25519", "sha512")


def usable_key(certificate: x509.Certificate) -> PublicKey:
    """The certificate's key, if its kind and strength are taken here; raises Untrusted."""
    try:
        facts = facts_of(certificate)
    except PYCA_ERRORS as error:
        raise Untrusted("key-unsupported", str(error)) from error
    key: Any = facts.key
    if facts.key_kind == "RSA" and key.key_size < MIN_RSA_BITS:
        raise Untrusted("key-too-weak", f"RSA with {key.key_size} bits, at least {MIN_RSA_BITS}")
    if not _is_usable(key, facts.key_kind):
        raise Untrusted("key-unsupported", f"neither P-256, P-384, P-521, RSA nor Ed25519: {type(key).__name__}")
    usable: PublicKey = key
    return usable


def _is_usable(key: Any, kind: KeyKind | None) -> bool:  # noqa: ANN401 -- `kind` says which
    if kind == "EC":
        return key.curve.name in _CURVE_DIGESTS
    return key.key_size <= MAX_RSA_BITS if kind == "RSA" else kind is not None


def sign(key: PrivateKey, data: bytes, scheme: Scheme) -> bytes:
    """A signature over `data`; ECDSA as DER."""
    kind = key_kind(type(key))
    signing: Any = key  # `kind` says which
    signature: bytes
    if kind == "EC":
        signature = signing.sign(data, _ECDSA[scheme.digest])
    elif kind == "RSA":
        signature = signing.sign(data, _PKCS1, _HASHES[scheme.digest])
    else:
        signature = signing.sign(data)
    return signature


def verify(certificate: x509.Certificate, signature: bytes, data: bytes, scheme: Scheme) -> None:
    """Raises Untrusted unless the key of `certificate` made this signature over `data` in this scheme."""
    try:
        _verify(usable_key(certificate), signature, data, scheme)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        raise Untrusted("signature-invalid", str(error)) from error


def _verify(key: PublicKey, signature: bytes, data: bytes, scheme: Scheme) -> None:
    kind = key_kind(type(key))
    verifying: Any = key  # `kind` says which
    if kind == "EC":
        _match(scheme, "EC", scheme.curve is None or scheme.curve == verifying.curve.name)
        verifying.verify(signature, data, _ECDSA[scheme.digest])
    elif kind == "RSA":
        _match(scheme, "RSA")
        verifying.verify(signature, data, _padding(scheme), _HASHES[scheme.digest])
    else:
        _match(scheme, "Ed25519")
        verifying.verify(signature, data)


def _match(scheme: Scheme, kind: KeyKind, curve_fits: bool = True) -> None:
    if scheme.key != kind or not curve_fits:
        raise Untrusted("signature-algorithm-mismatch", f"{scheme.key} {scheme.curve or ''} claimed, the key is {kind}")


def _padding(scheme: Scheme) -> padding.PKCS1v15 | padding.PSS:
    if scheme.pss_salt is None:
        return _PKCS1
    return padding.PSS(padding.MGF1(_HASHES[scheme.digest]), scheme.pss_salt)


def to_raw(signature: bytes, scheme: Scheme) -> bytes:
    """A signature as JOSE and COSE carry it: ECDSA as r||s, each as long as the curve's order (RFC 7518, 3.4)."""
    if scheme.key != "EC":
        return signature
    size = _SCALAR_BYTES[scheme.digest]
    r, s = utils.decode_dss_signature(signature)
    return r.to_bytes(size) + s.to_bytes(size)


def from_raw(signature: bytes, scheme: Scheme) -> bytes:
    """The reverse of `to_raw`; raises Malformed for r||s of another length."""
    if scheme.key != "EC":
        return signature
    size = _SCALAR_BYTES[scheme.digest]
    if len(signature) != 2 * size:
        raise Malformed("signature-length", f"{len(signature)} bytes, not {2 * size}")
    return utils.encode_dss_signature(int.from_bytes(signature[:size]), int.from_bytes(signature[size:]))


# JOSE and COSE tie each digest to one curve.
_SCALAR_BYTES: dict[Digest, int] = {"sha256": 32, "sha384": 48, "sha512": 66}
