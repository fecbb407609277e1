"""Keys that stay in a token: PKCS#11, named by URIs of RFC 7512.

    pkcs11:token=plant;object=registrar?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin

`load` returns objects of pyca's own kinds, so the certificate builders and the signers of this suite
take them like any key; only what needs the private key itself is refused. The laws of this file:

1. A module is used by one thread at a time, and each of its tokens through one session: a login
   belongs to the whole process (PKCS#11 3.0, 5.6).
2. A session that is lost (token pulled, HSM restarted) is opened anew, once for each signature.
3. The PIN is asked for whenever a session is opened, from `pin-value`, `pin-source` or the callback,
   and never tried twice: a token locks after a few wrong ones.

The module comes from `module-path`, else from the variable BRSKI_PKCS11_MODULE.
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, Self, TypeVar
from urllib.parse import unquote, unquote_to_bytes

import pkcs11
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.utils import Buffer
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from brski_common.errors import Misconfigured, PeerFailed

MODULE_VARIABLE: Final = "BRSKI_PKCS11_MODULE"
PATH_ATTRIBUTES: Final = ("token", "serial", "manufacturer", "model", "slot-id", "object", "id", "type")
QUERY_ATTRIBUTES: Final = ("module-path", "pin-source", "pin-value")
MAX_PIN_BYTES: Final = 1024

T = TypeVar("T")
Secret = Callable[[str], str]
Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

# ECParameters as they stand in a token: the DER of the curve's OID.
_CURVES: Final[dict[bytes, ec.EllipticCurve]] = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
    bytes.fromhex("06052b81040023"): ec.SECP521R1(),
}
# What precedes the digest in a PKCS #1 v1.5 signature (RFC 8017, 9.2).
_DIGEST_INFO: Final = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


def load(uri: str, secret: Secret | None = None) -> "EllipticCurveKey | RsaKey":
    """Find the private key that `uri` names, and its public key; raises Misconfigured with a `pkcs11-…` reason."""
    place = _Place.parse(uri)
    token = _Token.of(place, secret)
    try:
        public = token.run(lambda session: _public_key(session, place))
    except pkcs11.PKCS11Error as error:
        raise Misconfigured("pkcs11-unusable", f"{place}: {_words(error)}") from error
    handle = _Handle(token, place)
    return EllipticCurveKey(handle, public) if isinstance(public, ec.EllipticCurvePublicKey) else RsaKey(handle, public)


@dataclass(frozen=True, slots=True)
class _Place:
    """A parsed URI: which token and which key (`path`), and how to get in (`query`)."""

    path: dict[str, str]
    query: dict[str, str]

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read a PKCS#11 URI (RFC 7512, 2.3). What is not known is refused: it would have narrowed the search."""
        path, _, query = uri.removeprefix("pkcs11:").partition("?")
        place = cls(_attributes(path.split(";"), PATH_ATTRIBUTES), _attributes(query.split("&"), QUERY_ATTRIBUTES))
        if place.path.get("type", "private") != "private":
            raise Misconfigured("pkcs11-uri-malformed", f"{place}: a key to sign with has type=private")
        if not place.path.keys() & {"object", "id"}:
            raise Misconfigured("pkcs11-uri-malformed", f"{place}: the URI names no key (object or id)")
        return place

    def __str__(self) -> str:
        return "pkcs11:" + ";".join(f"{name}={value}" for name, value in self.path.items())

    @property
    def module(self) -> str:
        module = unquote(self.query.get("module-path", "")) or os.environ.get(MODULE_VARIABLE, "")
        if not module:
            raise Misconfigured("pkcs11-module-missing", f"{self}: set module-path in the URI, or {MODULE_VARIABLE}")
        return module

    @property
    def token(self) -> tuple[tuple[str, str], ...]:
        names = ("token", "serial", "manufacturer", "model", "slot-id")
        return tuple((name, unquote(self.path[name])) for name in names if name in self.path)

    @property
    def search(self) -> dict[Attribute, Any]:
        found: dict[Attribute, Any] = {}
        if "object" in self.path:
            found[Attribute.LABEL] = unquote(self.path["object"])
        if "id" in self.path:
            found[Attribute.ID] = unquote_to_bytes(self.path["id"])
        return found

    def pin(self, secret: Secret | None) -> str:
        if "pin-value" in self.query:
            return unquote(self.query["pin-value"])
        if "pin-source" in self.query:
            return _read_pin(Path(unquote(self.query["pin-source"]).removeprefix("file:")))
        if secret is None:
            raise Misconfigured("pkcs11-pin-missing", f"{self}: set pin-source in the URI")
        return secret(str(self))


def _attributes(parts: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, parts):
        name, equals, value = part.partition("=")
        if name not in known or not equals or name in found:
            raise Misconfigured("pkcs11-uri-malformed", f"{name}: unknown or twice (allowed: {', '.join(known)})")
        found[name] = value
    return found


def _read_pin(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Misconfigured("pkcs11-pin-missing", f"{path}: {error.strerror}") from error
    if not 0 < len(data) <= MAX_PIN_BYTES:
        raise Misconfigured("pkcs11-pin-missing", f"{path}: a PIN has 1 to {MAX_PIN_BYTES} bytes")
    return data.decode(errors="replace").rstrip("\r\n")


class _Token:
    """One token and the session open there, shared by all its keys."""

    _known: dict[tuple[str, tuple[tuple[str, str], ...]], "_Token"] = {}  # noqa: RUF012 -- law 1: one of each per process
    _locks: dict[str, threading.RLock] = {}  # noqa: RUF012 -- one per module

    @classmethod
    def of(cls, place: _Place, secret: Secret | None) -> "_Token":
        token = cls._known.setdefault((place.module, place.token), cls(place, secret))
        token._place, token._secret = place, secret  # the newest way in holds
        return token

    def __init__(self, place: _Place, secret: Secret | None) -> None:
        self._place, self._secret = place, secret
        self._lock = self._locks.setdefault(place.module, threading.RLock())
        self._session: Any = None

    def run(self, action: Callable[[Any], T]) -> T:
        """Call `action` with the session; if that fails, once with a new one. Raises PKCS11Error, Misconfigured."""
        with self._lock:
            if self._session is not None:
                try:
                    return action(self._session)
                except pkcs11.PKCS11Error:
                    self._session = None
            self._session = self._open()
            return action(self._session)

    def _open(self) -> Any:  # noqa: ANN401 -- python-pkcs11 makes its classes at run time
        try:
            library = pkcs11.lib(self._place.module)
        except pkcs11.PKCS11Error as error:
            raise Misconfigured("pkcs11-module-unusable", f"{self._place.module}: {_words(error)}") from error
        found = self._find(library)
        if found is None:
            library.reinitialize()  # some modules look for tokens only then
            found = self._find(library)
        if found is None:
            raise Misconfigured("pkcs11-token-missing", f"{self._place}: the module has no such token")
        return self._log_in(found)

    def _find(self, library: Any) -> Any:  # noqa: ANN401 -- see above
        wanted = dict(self._place.token)
        for slot in library.get_slots(token_present=True):
            try:
                token = slot.get_token()
            except pkcs11.PKCS11Error:  # a slot whose token is unreadable is another token's slot
                continue
            if wanted.items() <= _names(slot, token).items():
                return token
        return None

    def _log_in(self, token: Any) -> Any:  # noqa: ANN401 -- see above
        try:
            return token.open(user_pin=self._place.pin(self._secret))
        except pkcs11.UserAlreadyLoggedIn:
            return token.open()
        except (
            pkcs11.PinIncorrect,
            pkcs11.PinLocked,
            pkcs11.PinExpired,
            pkcs11.PinLenRange,
            pkcs11.PinInvalid,
        ) as error:
            raise Misconfigured("pkcs11-pin-wrong", f"{self._place}: {_words(error)}") from None


def _names(slot: Any, token: Any) -> dict[str, str]:  # noqa: ANN401 -- see above
    """What a token says of itself, under the names of RFC 7512."""
    serial = token.serial.decode(errors="replace") if isinstance(token.serial, bytes) else str(token.serial)
    return {
        "token": token.label.rstrip(),
        "serial": serial.rstrip("\0 "),
        "manufacturer": token.manufacturer_id.rstrip(),
        "model": token.model.rstrip(),
        "slot-id": str(slot.slot_id),
    }


def _words(error: Exception) -> str:
    """python-pkcs11 mostly says what happened by the type."""
    return f"{type(error).__name__} {error}".rstrip()


def _private_key(session: Any, place: _Place) -> Any:  # noqa: ANN401 -- see above
    found = list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY} | place.search))
    if len(found) != 1:
        raise Misconfigured("pkcs11-key-missing", f"{place}: {len(found)} private keys of that name, wanted one")
    return found[0]


def _public_key(session: Any, place: _Place) -> Public:  # noqa: ANN401 -- see above
    """The public half: of a public key object, else of a certificate, with the private key's id."""
    session.generate_random(64)  # python-pkcs11 complains on stderr if a search is what finds a session dead
    private = _private_key(session, place)
    same = {Attribute.ID: private[Attribute.ID]} if private[Attribute.ID] else place.search
    for found in session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY} | same):
        return _read_public_key(found, place)
    for found in session.get_objects({Attribute.CLASS: ObjectClass.CERTIFICATE} | same):
        public = x509.load_der_x509_certificate(found[Attribute.VALUE]).public_key()
        if isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            return public
    raise Misconfigured("pkcs11-public-key-missing", f"{place}: neither a public key nor a certificate beside it")


def _read_public_key(found: Any, place: _Place) -> Public:  # noqa: ANN401 -- see above
    if found[Attribute.KEY_TYPE] is KeyType.RSA:
        exponent, modulus = (
            int.from_bytes(found[name], "big") for name in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS)
        )
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    curve = _CURVES.get(bytes(found[Attribute.EC_PARAMS])) if found[Attribute.KEY_TYPE] is KeyType.EC else None
    if curve is None:
        raise Misconfigured("pkcs11-key-kind-unsupported", f"{place}: a key is EC P-256, P-384 or P-521, or RSA")
    # Some modules wrap the point in an OCTET STRING, as they should, and some do not.
    length = 2 * ((curve.key_size + 7) // 8) + 1
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, bytes(found[Attribute.EC_POINT])[-length:])


class _Handle:
    """What signs: a key found anew in whatever session is open."""

    def __init__(self, token: _Token, place: _Place) -> None:
        self._token, self._place = token, place
        self._found: tuple[Any, Any] = (None, None)  # the session, and the key in it

    def __str__(self) -> str:
        return str(self._place)

    def sign(self, data: bytes, mechanism: Mechanism) -> bytes:
        def act(session: Any) -> bytes:  # noqa: ANN401 -- see above
            if self._found[0] is not session:
                self._found = session, _private_key(session, self._place)
            return bytes(self._found[1].sign(data, mechanism=mechanism))

        try:
            return self._token.run(act)
        except pkcs11.PKCS11Error as error:
            raise PeerFailed("pkcs11-failed", f"{self._place}: {_words(error)}") from error


class _StaysInToken:
    """What the keys of a token have in common: a name, and no way out."""

    _handle: _Handle

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._handle}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def private_bytes(self, *_arguments: object, **_named: object) -> NoReturn:
        """Not possible."""
        raise UnsupportedAlgorithm(f"the private key stays in its token: {self._handle}")

    private_numbers = exchange = decrypt = private_bytes


class EllipticCurveKey(_StaysInToken, ec.EllipticCurvePrivateKey):
    """An EC key in a token; signs with ECDSA."""

    def __init__(self, handle: _Handle, public: ec.EllipticCurvePublicKey) -> None:
        self._handle, self._public = handle, public

    @property
    def curve(self) -> ec.EllipticCurve:
        """The key's curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half, an ordinary pyca key."""
        return self._public

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign `data`; returns the DER Ecdsa-Sig-Value. Raises PeerFailed `pkcs11-failed`."""
        digest, _name = _digest(data, signature_algorithm.algorithm)
        pair = self._handle.sign(digest, Mechanism.ECDSA)
        half = len(pair) // 2
        return encode_dss_signature(int.from_bytes(pair[:half], "big"), int.from_bytes(pair[half:], "big"))


class RsaKey(_StaysInToken, rsa.RSAPrivateKey):
    """An RSA key in a token; signs with PKCS #1 v1.5."""

    def __init__(self, handle: _Handle, public: rsa.RSAPublicKey) -> None:
        self._handle, self._public = handle, public

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._public.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """The public half, an ordinary pyca key."""
        return self._public

    def sign(self, data: Buffer, padding: padding.AsymmetricPadding, algorithm: object) -> bytes:
        """Sign `data`, with PKCS #1 v1.5 padding only. Raises PeerFailed `pkcs11-failed`."""
        digest, name = _digest(data, algorithm)
        if padding.name != "EMSA-PKCS1-v1_5" or name not in _DIGEST_INFO:
            raise UnsupportedAlgorithm(f"{padding.name} with {name}: a token signs with PKCS #1 v1.5 and SHA-2")
        return self._handle.sign(_DIGEST_INFO[name] + digest, Mechanism.RSA_PKCS)


def _digest(data: Buffer, algorithm: object) -> tuple[bytes, str]:
    """Hash here: the token signs a digest, and one path serves data and what is hashed already."""
    if isinstance(algorithm, Prehashed):
        return bytes(data), algorithm._algorithm.name  # pyca names the hash nowhere else
    if not isinstance(algorithm, hashes.HashAlgorithm):
        raise UnsupportedAlgorithm(f"{algorithm} is no hash")
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize(), algorithm.name
