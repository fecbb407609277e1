"""Enrollment over Secure Transport on the wire: names, media types, bodies (RFC 7030, RFC 8951).

Bodies are base64 whatever Content-Transfer-Encoding says; that header is ignored (RFC 8951, 3.1;
RFC 8995, 6). Written they are one line and one LF, the one form that every client in the field
reads. Read they may be wrapped in any way, PEM, or plain DER: everything EST carries is an ASN.1
SEQUENCE, and its first octet 0x30 begins no base64 text of one, so there is nothing to confuse.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from brski_common.certificates import spki
from brski_common.cms import certs_only, parse_certs_only
from brski_common.csr import read_csr
from brski_common.errors import Malformed, Misconfigured, PeerFailed

__all__ = [
    "CERTS_ONLY",
    "CMC_REQUEST",
    "CMC_RESPONSE",
    "CSRATTRS",
    "MAX_REQUEST_BYTES",
    "MAX_RESPONSE_BYTES",
    "MULTIPART_MIXED",
    "PKCS7_MIME",
    "PKCS8",
    "PKCS10",
    "SERVER_GENERATED_KEY",
    "WELL_KNOWN",
    "Operation",
    "ServerKey",
    "certs_only",
    "check_label",
    "decode_body",
    "encode_body",
    "find_certificate",
    "parse_certs_only",
    "path",
    "read_csr",
    "read_server_key",
    "write_server_key",
]

WELL_KNOWN = "/.well-known/est"

# Content-Type values (RFC 7030, 3.2.4; RFC 8951, 3.2).
PKCS10 = "application/pkcs10"
PKCS7_MIME = "application/pkcs7-mime"
CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"
CMC_REQUEST = "application/pkcs7-mime; smime-type=CMC-request"
CMC_RESPONSE = "application/pkcs7-mime; smime-type=CMC-response"
SERVER_GENERATED_KEY = "application/pkcs7-mime; smime-type=server-generated-key"
PKCS8 = "application/pkcs8"
CSRATTRS = "application/csrattrs"
MULTIPART_MIXED = "multipart/mixed"

MAX_REQUEST_BYTES = 64 * 1024  # encoded; a request of ML-DSA-87 with its certificate names is 12 KiB
MAX_RESPONSE_BYTES = 1024 * 1024  # encoded
MAX_PART_HEADERS = 16
MAX_LABEL = 64  # characters


class Operation(StrEnum):
    """The operation names, which are path segments (RFC 7030, 3.2.2)."""

    CACERTS = "cacerts"
    SIMPLEENROLL = "simpleenroll"
    SIMPLEREENROLL = "simplereenroll"
    FULLCMC = "fullcmc"
    SERVERKEYGEN = "serverkeygen"
    CSRATTRS = "csrattrs"


# What drafts of RFC 8995 had under /.well-known/est, and some clients still call there.
_OLD_BRSKI_NAMES = frozenset({"requestvoucher", "voucher_status", "requestauditlog", "enrollstatus"})
_LABEL = re.compile(rf"[A-Za-z0-9_~-][A-Za-z0-9._~-]{{0,{MAX_LABEL - 1}}}")


def path(operation: Operation, label: str | None = None) -> str:
    """The path of an operation, for one CA where several are served; raises Misconfigured for a bad label."""
    return f"{WELL_KNOWN}/{operation}" if label is None else f"{WELL_KNOWN}/{check_label(label)}/{operation}"


def check_label(label: str) -> str:
    """The label, if it may name a CA in a path; never the name of an operation (RFC 7030, 3.2.2)."""
    if label.lower() in _OLD_BRSKI_NAMES | set(Operation) or not _LABEL.fullmatch(label):
        raise Misconfigured(
            "est-label-invalid",
            f"{label[: 2 * MAX_LABEL]!a}: allowed are 1 to {MAX_LABEL} of A-Z a-z 0-9 . _ ~ -, no dot first, "
            f"and none of {', '.join(sorted(_OLD_BRSKI_NAMES | set(Operation)))}",
        )
    return label


# Bodies

_WHITE_SPACE = b" \t\r\n"
_SEQUENCE_OCTET = b"\x30"
_PEM = re.compile(rb"\s*-----BEGIN ([A-Z0-9 ]{1,64})-----([^-]*)-----END \1-----\s*")


def encode_body(data: bytes) -> bytes:
    """DER as an EST body: one base64 line and one LF."""
    return base64.b64encode(data) + b"\n"


def decode_body(data: bytes, *, limit: int = MAX_RESPONSE_BYTES) -> bytes:
    """The DER in an EST body of at most `limit` bytes; raises Malformed."""
    if len(data) > limit:
        raise Malformed("body-too-large", f"{len(data)} bytes, at most {limit}")
    if data.startswith(_SEQUENCE_OCTET):
        return data
    armoured = _PEM.fullmatch(data)
    text = (armoured[2] if armoured else data).translate(None, _WHITE_SPACE)
    if not text:
        raise Malformed("body-empty")
    if len(text) % 4 or text.endswith(b"==="):  # Python lets some of it pass
        raise Malformed("body-not-base64", "wrong padding")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise Malformed("body-not-base64", str(error)) from error


def find_certificate(certificates: Iterable[x509.Certificate], public_key: PublicKeyTypes) -> x509.Certificate:
    """The certificate that was issued for a key: the newest one for it, whatever else the server sent along.

    A server sends only that one (RFC 7030, 4.2.3), but many send their chain too. Raises PeerFailed.
    """
    wanted = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    found = [certificate for certificate in certificates if spki(certificate) == wanted]
    if not found:
        raise PeerFailed("certificate-not-issued", "no certificate in the answer is for the key in the request")
    return max(found, key=lambda certificate: certificate.not_valid_before_utc)


# Server-side key generation

# Base64 has no hyphen, so no body can contain this.
_BOUNDARY = "est-server-key"
_BOUNDARY_FORM = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_PARAMETER = re.compile(r';\s*([A-Za-z0-9!#$&^_.+-]+)\s*=\s*(?:"([^"\\]*)"|([^\s;"]+))\s*')


@dataclass(frozen=True, slots=True)
class ServerKey:
    """What server-side key generation answers (RFC 7030, 4.4.2).

    `key` is PKCS #8, or where `is_encrypted` a CMS EnvelopedData around it; `certificates` is certs-only CMS.
    """

    key: bytes = field(repr=False)
    certificates: bytes
    is_encrypted: bool = False


def write_server_key(answer: ServerKey) -> tuple[str, bytes]:
    """Content-Type and body."""
    parts = ((SERVER_GENERATED_KEY if answer.is_encrypted else PKCS8, answer.key), (CERTS_ONLY, answer.certificates))
    body = b"".join(
        f"--{_BOUNDARY}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: base64\r\n\r\n".encode()
        + base64.b64encode(data)
        + b"\r\n"
        for kind, data in parts
    )
    return f"{MULTIPART_MIXED}; boundary={_BOUNDARY}", body + f"--{_BOUNDARY}--\r\n".encode()


def read_server_key(content_type: str, body: bytes) -> ServerKey:
    """Read the answer: exactly one key and one certs-only part, in either order; raises Malformed."""
    if len(body) > MAX_RESPONSE_BYTES:
        raise Malformed("body-too-large", f"{len(body)} bytes, at most {MAX_RESPONSE_BYTES}")
    kind, parameters = _media_type(content_type)
    boundary = parameters.get("boundary", "")
    if kind != MULTIPART_MIXED or not _BOUNDARY_FORM.fullmatch(boundary):
        raise Malformed("multipart-malformed", f"not {MULTIPART_MIXED} with a boundary")
    parts: dict[str, bytes] = {}
    for name, data in map(_part, _split(body, boundary.encode("ascii"))):
        if name in parts:
            raise Malformed("multipart-malformed", f"two parts are {name}")
        parts[name] = data
    keys = parts.keys() & {PKCS8, SERVER_GENERATED_KEY}
    if len(parts) != 2 or len(keys) != 1 or CERTS_ONLY not in parts:
        raise Malformed("multipart-malformed", f"parts {', '.join(sorted(parts))}, not one key and one certificate")
    (key,) = keys
    return ServerKey(parts[key], parts[CERTS_ONLY], is_encrypted=key == SERVER_GENERATED_KEY)


def _split(body: bytes, boundary: bytes) -> list[bytes]:
    """The parts between delimiter lines (RFC 2046, 5.1.1); preamble and epilogue are dropped."""
    delimiter = re.compile(rb"(?:\A|\r?\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r?\n|\Z)")
    found = list(delimiter.finditer(body))[:4]
    if len(found) != 3 or [match[1] for match in found] != [None, None, b"--"]:
        raise Malformed("multipart-malformed", "not two parts and an end")
    return [body[start.end() : end.start()] for start, end in pairwise(found)]


def _part(part: bytes) -> tuple[str, bytes]:
    """The kind of a part, as one of our constants where it is one, and its decoded body."""
    head, *rest = _END_OF_HEADERS.split(part, maxsplit=1)
    lines = head.split(b"\n")
    if not rest or len(lines) > MAX_PART_HEADERS:
        raise Malformed("multipart-malformed", "a part without headers or with too many")
    kinds = [
        value for name, _, value in (line.partition(b":") for line in lines) if name.strip().lower() == b"content-type"
    ]
    if len(kinds) != 1:
        raise Malformed("multipart-malformed", f"a part with {len(kinds)} Content-Types")
    kind, parameters = _media_type(kinds[0].decode("latin-1"))
    return _canonical(kind, parameters), decode_body(rest[0])


def _canonical(kind: str, parameters: Mapping[str, str]) -> str:
    if kind != PKCS7_MIME:
        return kind
    # RFC 7030 has certs-only; no parameter at all is met in the field and can mean nothing else.
    return f"{PKCS7_MIME}; smime-type={parameters.get('smime-type', 'certs-only').lower()}"


def _media_type(value: str) -> tuple[str, dict[str, str]]:
    """A media type in lower case and its parameters, names in lower case; raises Malformed."""
    kind, _, _ = value.partition(";")
    rest = value[len(kind) :].rstrip()
    parameters: dict[str, str] = {}
    at = 0
    while found := _PARAMETER.match(rest, at):
        parameters.setdefault(found[1].lower(), found[3] if found[2] is None else found[2])
        at = found.end()
    if rest[at:].strip(" \t;"):
        raise Malformed("media-type-malformed", ascii(value[:100]))
    return kind.strip().lower(), parameters
