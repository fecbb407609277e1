"""JWS in its general JSON serialisation: vouchers of the JWS and PRM drafts (RFC 7515; draft-ietf-anima-jws-voucher).

The laws of this file:
1. Only the protected header counts: algorithm, certificates and `crit` outside it are refused or ignored.
2. Algorithms are the table below; `none` and the HMACs are not in it.
3. A signature covers its protected header (with x5c) and the content. It says nothing about trust:
   whoever calls `verify` must go on to a path or to a certificate already known.
4. A document may bear several signatures over one content (draft-ietf-anima-brski-prm, 7.4): each is
   verified by itself, and `verify` without a signer refuses to choose.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

from brski_common import signatures, strictjson
from brski_common.certificates import Credential, load_certificate, to_der
from brski_common.errors import Malformed, UnsupportedFormat, Untrusted
from brski_common.signatures import Scheme
from brski_common.strictjson import JsonValue

TYPE_VOUCHER = "voucher-jws+json"

MAX_SIGNATURES = 4
MAX_CERTIFICATES = 32  # in one x5c
REMEMBERED_HEADERS = 64

# JWS algorithm -> scheme (RFC 7518, 3.1; RFC 8037, 3.1); "Ed25519" is the full name of EdDSA here (RFC 9864, 2.2).
_SCHEMES: dict[str, Scheme] = {
    "ES256": Scheme("EC", "sha256", "secp256r1"),
    "ES384": Scheme("EC", "sha384", "secp384r1"),
    "ES512": Scheme("EC", "sha512", "secp521r1"),
    "EdDSA": Scheme("Ed25519", "sha512"),
    "RS256": Scheme("RSA", "sha256"),
    "Ed25519": Scheme("Ed25519", "sha512"),
}
_WRITTEN = {scheme: name for name, scheme in reversed(_SCHEMES.items())}
_REGISTERED = frozenset(("alg", "jku", "jwk", "kid", "x5u", "x5c", "x5t", "x5t#S256", "typ", "cty", "crit"))


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature, not yet verified: `protected` is the header as transmitted, `certificates` the x5c, leaf first."""

    protected: str
    headers: Mapping[str, JsonValue]
    signature: bytes
    certificates: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class SignedJson:
    """A JWS as received, nothing verified. `payload` is the content as transmitted."""

    payload: str
    content: bytes
    signatures: tuple[Signature, ...]

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The certificates of all signatures."""
        return tuple(certificate for signature in self.signatures for certificate in signature.certificates)


def parse(data: bytes, *, typ: str | None = TYPE_VOUCHER, understood: frozenset[str] = frozenset()) -> SignedJson:
    """Read a JWS; raises Malformed, UnsupportedFormat.

    `typ` is what the header of that name must say where it is there; None takes any (RFC 7515, 4.1.9).
    `understood` are the critical headers the caller looks at: PRM's enrollment objects have `created-on`.
    """
    document = strictjson.load_object(data)
    entries = document.get("signatures")
    if not isinstance(entries, list) or "signature" in document:
        raise UnsupportedFormat("jws-not-general", "not the general JSON serialisation")
    if not 1 <= len(entries) <= MAX_SIGNATURES:
        raise Malformed("jws-signature-count", f"{len(entries)} signatures, 1 to {MAX_SIGNATURES} are taken")
    payload = _text(document, "payload")
    return SignedJson(payload, _decode(payload), tuple(_signature(entry, typ, understood) for entry in entries))


def verify(signed: SignedJson, signer: x509.Certificate | None = None) -> x509.Certificate:
    """Verify a signature and return its signer's certificate; raises Untrusted.

    With `signer` one of the signatures must be by its key. Without, there must be only one signature,
    by the key of the first certificate in its x5c.
    """
    if signer is None:
        if len(signed.signatures) != 1:
            raise Untrusted("jws-signer-ambiguous", f"{len(signed.signatures)} signatures")
        return verify_signature(signed, signed.signatures[0])
    failure = Untrusted("jws-signer-missing")
    for signature in signed.signatures:
        try:
            return verify_signature(signed, signature, signer)
        except Untrusted as error:
            failure = error
    raise failure


def verify_each(signed: SignedJson) -> tuple[x509.Certificate, ...]:
    """Verify every signature by the first certificate of its own x5c, and return these; raises Untrusted."""
    return tuple(verify_signature(signed, signature) for signature in signed.signatures)


def verify_signature(
    signed: SignedJson, signature: Signature, signer: x509.Certificate | None = None
) -> x509.Certificate:
    """Verify this one signature by the key of `signer`, or of the first certificate of its x5c; raises Untrusted."""
    algorithm = signature.headers.get("alg")
    scheme = _SCHEMES.get(algorithm) if isinstance(algorithm, str) else None
    if scheme is None:
        raise Untrusted("jws-algorithm-unsupported", repr(algorithm)[:80])
    if signer is None and not signature.certificates:
        raise Untrusted("jws-signer-missing", "no x5c in the protected header")
    certificate = signer if signer is not None else signature.certificates[0]
    data = f"{signature.protected}.{signed.payload}".encode("ascii")  # RFC 7515, 5.2
    signatures.verify(certificate, signatures.from_raw(signature.signature, scheme), data, scheme)
    return certificate


def sign(
    content: bytes,
    credential: Credential,
    *,
    typ: str | None = TYPE_VOUCHER,
    certificates: Sequence[x509.Certificate] | None = None,
) -> bytes:
    """A JWS around `content` with one signature.

    `certificates`, by default the credential's chain, are its x5c and begin with the signer's. Raises
    Untrusted for a key that may not sign here.
    """
    payload = _encode(content)
    return strictjson.dumps({"payload": payload, "signatures": [_sign(payload, credential, typ, certificates)]})


def countersign(
    data: bytes,
    credential: Credential,
    *,
    typ: str | None = TYPE_VOUCHER,
    certificates: Sequence[x509.Certificate] | None = None,
) -> bytes:
    """The same JWS with one more signature, as a registrar signs a voucher in PRM.

    Content and earlier signatures stay as they were transmitted. Raises Malformed, UnsupportedFormat.
    """
    signed = parse(data, typ=typ)
    if len(signed.signatures) >= MAX_SIGNATURES:
        raise Malformed("jws-signature-count", f"there are {MAX_SIGNATURES} signatures already")
    present = [
        {"protected": signature.protected, "signature": _encode(signature.signature)} for signature in signed.signatures
    ]
    added = _sign(signed.payload, credential, typ, certificates)
    return strictjson.dumps({"payload": signed.payload, "signatures": [*present, added]})


def _signature(entry: JsonValue, typ: str | None, understood: frozenset[str]) -> Signature:
    if not isinstance(entry, Mapping):
        raise Malformed("jws-malformed", "a signature is no object")
    protected = _text(entry, "protected")
    headers = strictjson.load_object(_decode(protected))
    unprotected = entry.get("header", {})
    if not isinstance(unprotected, Mapping) or unprotected.keys() & headers.keys():  # RFC 7515, 7.2.1
        raise Malformed("jws-duplicate-header", "a header is both protected and unprotected")
    _check_critical(headers, unprotected, understood)
    _check_type(headers, typ)
    return Signature(protected, headers, _decode(_text(entry, "signature")), _certificates(headers))


def _check_critical(
    headers: Mapping[str, JsonValue], unprotected: Mapping[str, JsonValue], understood: frozenset[str]
) -> None:
    """RFC 7515, 4.1.11: `crit` is protected, not empty, names headers that are there, and we must know them all."""
    if "crit" in unprotected:
        raise Malformed("jws-critical-header", "crit is not protected")
    if "crit" not in headers:
        return
    critical = headers["crit"]
    names = [name for name in critical if isinstance(name, str)] if isinstance(critical, list) else []
    if not isinstance(critical, list) or not names or len(set(names)) != len(critical) or _REGISTERED & set(names):
        raise Malformed("jws-critical-header", "crit is no list of distinct extension names")
    if any(name not in understood or name not in headers for name in names):
        raise UnsupportedFormat("jws-critical-header", repr(names)[:80])


def _check_type(headers: Mapping[str, JsonValue], typ: str | None) -> None:
    if typ is None or "typ" not in headers:
        return
    found = headers["typ"]
    if not isinstance(found, str) or found.lower().removeprefix("application/") != typ:
        raise UnsupportedFormat("jws-type", repr(found)[:80])


def _certificates(headers: Mapping[str, JsonValue]) -> tuple[x509.Certificate, ...]:
    found = headers.get("x5c", [])
    if not isinstance(found, list) or len(found) > MAX_CERTIFICATES or ("x5c" in headers and not found):
        raise Malformed("jws-x5c", f"x5c is no list of 1 to {MAX_CERTIFICATES} certificates")
    return tuple(_certificate(entry) for entry in found)


def _certificate(entry: JsonValue) -> x509.Certificate:
    # RFC 7515, 4.1.6: base64, not base64url
    try:
        return load_certificate(base64.b64decode(entry if isinstance(entry, str) else "!", validate=True))
    except (binascii.Error, ValueError) as error:
        raise Malformed("jws-x5c", "a certificate is not base64") from error


def _sign(
    payload: str, credential: Credential, typ: str | None, certificates: Sequence[x509.Certificate] | None
) -> dict[str, JsonValue]:
    scheme = signatures.scheme_for(credential.certificate)
    protected = _protected(scheme, typ, credential.chain if certificates is None else tuple(certificates))
    signature = signatures.sign(credential.key, f"{protected}.{payload}".encode("ascii"), scheme)
    return {"protected": protected, "signature": _encode(signatures.to_raw(signature, scheme))}


@lru_cache(maxsize=REMEMBERED_HEADERS)
def _protected(scheme: Scheme, typ: str | None, certificates: tuple[x509.Certificate, ...]) -> str:
    headers: dict[str, JsonValue] = {"alg": _WRITTEN[scheme]}
    if typ is not None:
        headers["typ"] = typ
    if certificates:
        headers["x5c"] = [base64.b64encode(to_der(certificate)).decode() for certificate in certificates]
    return _encode(strictjson.dumps(headers))


def _text(members: Mapping[str, JsonValue], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise Malformed("jws-malformed", f"{name} is no text")
    return value


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Read base64url without padding (RFC 7515, 2), in the one spelling it has; raises Malformed."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("jws-base64url", str(error)) from error
    if _encode(data) != text:
        raise Malformed("jws-base64url", "not the canonical spelling")
    return data
