"""What a file is wrapped in: PEM, hex or base64 text; and what else stands in it.

The laws of this file:

1. Of a PEM file the first block that is no key is what is looked into; the certificates behind it are its company.
2. Nothing of a private key leaves this file. A pledge's state (`identity.pem`) begins with one.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cryptography import x509

from brski_common.certificates import load_certificate
from brski_common.errors import BrskiError, Malformed

# Base64 has no hyphen, so that a BEGIN without an END costs no search to the end of the file.
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 #]{1,64})-----([^-]*)-----END \1-----")
_HEX = re.compile(rb"[0-9A-Fa-f\s]+")
_CERTIFICATES = frozenset((b"CERTIFICATE", b"X509 CERTIFICATE"))
_SECRET = b"PRIVATE KEY-----"
_KEY_NOTE = "a private key stands in this file too: nothing of it is shown"
_STATE_NOTE = "this is the state of a pledge, its LDevID shown and its key not; `brski-pledge status` tells the rest"

Block = tuple[bytes, bytes]  # label and base64 text


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """The artefact, what it was wrapped in (None: nothing), the certificates behind it, and what there is to say."""

    data: bytes = field(repr=False)
    armour: str | None = None
    company: tuple[x509.Certificate, ...] = ()
    notes: tuple[str, ...] = ()


def unwrap(data: bytes) -> Unwrapped:
    """Take off PEM, hex or base64; raises Malformed `private-key` if there is nothing but that."""
    text = data.strip()
    blocks: list[Block] = _PEM.findall(text)
    if blocks or _SECRET in text:
        return _unwrap_pem(text, blocks)
    if not text or text[:1] == b"{":
        return Unwrapped(text)
    if _HEX.fullmatch(text):
        with suppress(ValueError):
            return Unwrapped(bytes.fromhex(text.decode()), "hex")
    if text.isascii():
        with suppress(Malformed):
            return Unwrapped(_base64(text), "base64")
    return Unwrapped(data)


def _unwrap_pem(text: bytes, blocks: Sequence[Block]) -> Unwrapped:
    shown = [block for block in blocks if not _is_about_a_key(block[0])]
    if not shown:
        raise Malformed("private-key", "this is a private key: nothing of it is shown")
    company, notes = _company(shown[1:])
    if _SECRET in text:
        notes = (_STATE_NOTE if _is_state(text) else _KEY_NOTE, *notes)
    return Unwrapped(_base64(shown[0][1]), "pem", company, notes)


def _is_about_a_key(label: bytes) -> bool:
    """Whether a block is a key, the curve that OpenSSL writes before one, or what a pledge's state holds beside it."""
    return label.endswith(b"PRIVATE KEY") or label == b"EC PARAMETERS" or label.startswith(b"BRSKI ")


def _is_state(text: bytes) -> bool:
    from brski_pledge.state import TITLE  # noqa: PLC0415 - the package of the pledge costs more than most inspections

    return text.startswith(TITLE)


def _company(blocks: Sequence[Block]) -> tuple[tuple[x509.Certificate, ...], tuple[str, ...]]:
    """The certificates among the blocks behind the first; what cannot be read is said, and spoils nothing."""
    certificates, notes = [], []
    for number, (label, text) in enumerate(blocks, start=2):
        if label not in _CERTIFICATES:
            continue
        try:
            certificates.append(load_certificate(_base64(text)))
        except BrskiError as error:
            notes.append(f"certificate {number} of this file cannot be read: {error}")
    return tuple(certificates), tuple(notes)


def _base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("base64-malformed", str(error)) from error
