"""HTTP authentication as a client: Basic (RFC 7617) and Digest (RFC 7616), for MASAs that want it (RFC 8995, 5.4).

Digest takes SHA-256 and, because older servers know nothing else, MD5; of the protections only `auth`. A password
never goes out in the clear but in Basic, which an operator has to ask for by name, and then inside TLS.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from brski_common.errors import PeerFailed

MAX_CHALLENGE: Final = 2048  # characters
CNONCE_BYTES: Final = 16

_HASHES: Final[Mapping[str, Callable[[bytes], "hashlib._Hash"]]] = {
    "SHA-256": hashlib.sha256,
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False),
}
_PARAMETER: Final = re.compile(r'([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*(?:,|$)')
_SENDABLE: Final = re.compile(r"[\t -\x7e\x80-\xff]*")  # what goes back in a header; half a surrogate cannot
_SCHEME: Final = re.compile(r"(?:^|,)\s*Digest\s+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A Digest challenge that can be answered here."""

    realm: str
    nonce: str
    algorithm: str
    opaque: str | None


def basic(user: str, password: str) -> str:
    """The Authorization header's value."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def read_challenge(header: str) -> Challenge:
    """The best Digest challenge in a WWW-Authenticate header; raises PeerFailed `masa-login-unsupported`."""
    usable = [challenge for text in _digests(header[:MAX_CHALLENGE]) if (challenge := _challenge(text)) is not None]
    if not usable:
        raise PeerFailed("masa-login-unsupported", "the MASA offers no Digest authentication that is known here")
    return min(usable, key=lambda challenge: list(_HASHES).index(challenge.algorithm))


def digest(
    challenge: Challenge,
    user: str,
    password: str,
    method: str,
    uri: str,
    count: int,
    random: Callable[[int], str] = secrets.token_hex,
) -> str:
    """The Authorization header's value for one request; `count` is how often this nonce was used, from 1."""
    cnonce, nc = random(CNONCE_BYTES), f"{count:08x}"

    def hashed(text: str) -> str:
        return _HASHES[challenge.algorithm](text.encode()).hexdigest()

    secret, request = hashed(f"{user}:{challenge.realm}:{password}"), hashed(f"{method}:{uri}")
    response = hashed(f"{secret}:{challenge.nonce}:{nc}:{cnonce}:auth:{request}")
    quoted = {"username": user, "realm": challenge.realm, "nonce": challenge.nonce, "uri": uri, "cnonce": cnonce}
    if challenge.opaque is not None:
        quoted["opaque"] = challenge.opaque
    fields = [f'{name}="{_escaped(value)}"' for name, value in quoted.items()]
    return "Digest " + ", ".join(
        [*fields, f"algorithm={challenge.algorithm}, qop=auth, nc={nc}", f'response="{response}"']
    )


def _digests(header: str) -> list[str]:
    return _SCHEME.split(header)[1:]


def _challenge(text: str) -> Challenge | None:
    parameters: dict[str, str] = {}
    at = 0
    while found := _PARAMETER.match(text, at):
        value = found[3] if found[2] is None else re.sub(r"\\(.)", r"\1", found[2])
        parameters.setdefault(found[1].lower(), value)
        at = found.end() + len(text[found.end() :]) - len(text[found.end() :].lstrip())
    algorithm = parameters.get("algorithm", "MD5").upper()
    qop = [each.strip() for each in parameters.get("qop", "").split(",")]
    if algorithm not in _HASHES or "auth" not in qop or not {"realm", "nonce"} <= parameters.keys():
        return None
    if not all(_SENDABLE.fullmatch(parameters.get(name, "")) for name in ("realm", "nonce", "opaque")):
        return None
    return Challenge(parameters["realm"], parameters["nonce"], algorithm, parameters.get("opaque"))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')
