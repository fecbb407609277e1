"""HTTP Basic and Digest, for registrars that have no other way to say whose they are (RFC 8995, 5.4).

The laws of this file:

1. A name alone says nothing: `authenticate` gives back a user only if the password was right.
2. What is stored is SHA-256 of `user:realm:password` (RFC 7616, 3.4.2), which Digest needs and Basic can be checked
   with. So passwords are made here, long and random (`new_password`), never chosen by people.
3. A Digest nonce is ours, signed, and lives NONCE_SECONDS; a response works once.
4. An unknown user costs the same time as a wrong password.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from brski_common.errors import Malformed, Refused

NONCE_SECONDS: Final = 300
MAX_RESPONSES_REMEMBERED: Final = 10_000
MAX_USER: Final = 128  # characters
PASSWORD_BYTES: Final = 24

_PARAMETER: Final = re.compile(r'([A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_NOBODY: Final = hashlib.sha256(b"nobody").hexdigest()

Lookup = Callable[[str], Awaitable[str | None]]


def new_password() -> str:
    """A password that cannot be guessed, for a person to copy once."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def verifier(user: str, realm: str, password: str) -> str:
    """What is stored of a password."""
    return hashlib.sha256(f"{user}:{realm}:{password}".encode()).hexdigest()


def check_user_name(user: str) -> str:
    """A user name fit for both schemes; raises Malformed."""
    if not user or len(user) > MAX_USER or ":" in user or not user.isprintable():
        raise Malformed("user-name-malformed", f"1 to {MAX_USER} printable characters without a colon")
    return user


class HttpAuthentication:
    """Checks `Authorization` fields and makes challenges. `clock` counts seconds."""

    def __init__(self, realm: str, schemes: Sequence[str], lookup: Lookup, clock: Callable[[], float]) -> None:
        self._realm = realm
        self._schemes = schemes
        self._lookup = lookup
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._used: OrderedDict[str, None] = OrderedDict()

    def challenges(self, *, stale: bool = False) -> list[str]:
        """The `WWW-Authenticate` fields of a 401."""
        made = []
        if "digest" in self._schemes:
            flag = ", stale=true" if stale else ""
            made.append(f'Digest realm="{self._realm}", qop="auth", algorithm=SHA-256, nonce="{self._nonce()}"{flag}')
        if "basic" in self._schemes:
            made.append(f'Basic realm="{self._realm}", charset="UTF-8"')
        return made

    async def authenticate(self, field: str, method: str, uri: str) -> str:
        """The user an `Authorization` field proves; raises Malformed, Refused `http-credentials-wrong`."""
        scheme, _, rest = field.partition(" ")
        if scheme.lower() == "basic" and "basic" in self._schemes:
            return await self._basic(rest.strip())
        if scheme.lower() == "digest" and "digest" in self._schemes:
            return await self._digest(_parameters(rest), method, uri)
        raise Refused("http-scheme-not-accepted", scheme[:32])

    async def _basic(self, token: str) -> str:
        try:
            text = base64.b64decode(token, validate=True).decode("utf-8")
        except ValueError as error:
            raise Malformed("http-credentials-malformed", "Basic") from error
        user, _, password = text.partition(":")
        check_user_name(user)
        stored = await self._lookup(user)
        made = verifier(user, self._realm, password)
        if not hmac.compare_digest(made, stored or _NOBODY):
            raise Refused("http-credentials-wrong", user)
        return user

    async def _digest(self, given: Mapping[str, str], method: str, uri: str) -> str:
        user = check_user_name(given.get("username", ""))
        self._check_frame(given, uri)
        stored = await self._lookup(user) or _NOBODY
        inner = _sha256(f"{method}:{uri}")
        made = _sha256(f"{stored}:{given['nonce']}:{given['nc']}:{given['cnonce']}:auth:{inner}")
        if not hmac.compare_digest(made.encode(), given.get("response", "").lower().encode("utf-8", "surrogatepass")):
            raise Refused("http-credentials-wrong", user)
        self._use_once(made)
        return user

    def _check_frame(self, given: Mapping[str, str], uri: str) -> None:
        """Everything about a Digest but its response."""
        if not {"nonce", "nc", "cnonce"} <= given.keys():
            raise Malformed("http-credentials-malformed", "Digest without nonce, nc or cnonce")
        if given.get("realm") != self._realm or given.get("uri") != uri or given.get("qop") != "auth":
            raise Refused("http-credentials-wrong", "Digest for another realm, URI or qop")
        if given.get("algorithm", "MD5").upper() != "SHA-256":
            raise Refused("http-scheme-not-accepted", "Digest without SHA-256")
        self._check_nonce(given["nonce"])

    def _nonce(self) -> str:
        made_at = f"{int(self._clock()):x}"
        return f"{made_at}-{self._seal(made_at)}"

    def _seal(self, made_at: str) -> str:
        return hmac.new(self._key, made_at.encode(), "sha256").hexdigest()[:32]

    def _check_nonce(self, nonce: str) -> None:
        made_at, _, seal = nonce.partition("-")
        if not nonce.isascii() or not hmac.compare_digest(self._seal(made_at), seal):
            raise Refused("http-nonce-stale", "not a nonce of this process")
        if int(self._clock()) - int(made_at, 16) > NONCE_SECONDS:
            raise Refused("http-nonce-stale", "too old")

    def _use_once(self, response: str) -> None:
        """A response is bound to nonce, nc and cnonce: the same one again is a replay."""
        if response in self._used:
            raise Refused("http-credentials-wrong", "this Digest was used before")
        self._used[response] = None
        if len(self._used) > MAX_RESPONSES_REMEMBERED:
            self._used.popitem(last=False)


def _parameters(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, quoted, token in _PARAMETER.findall(text):
        if name.lower() in found:
            raise Malformed("http-credentials-malformed", "a Digest parameter is there twice")
        found[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted else token
    return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
