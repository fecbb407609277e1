"""Private keys: where they are kept, how they are made, which are refused.

A key is named by a URI: `file:PATH` (PEM, PKCS#8 or SEC 1, perhaps encrypted) or `pkcs11:…`
(RFC 7512, see `pkcs11`). What comes back is a pyca key object, whatever holds the key.
The laws of this file:

1. A secret is asked for with a callback when it is needed, and kept nowhere.
2. A key file is born with mode 0600, complete, and on disk before its name exists.
3. A key file that others may write to is refused. One that everybody may read is used with a warning:
   containers mount secrets so.
4. No error holds a secret: neither a PIN out of a URI nor a byte of a key.
"""

import logging
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from brski_common.certificates import Credential, PrivateKey, load_pem, public_key_info
from brski_common.errors import Malformed, Misconfigured
from brski_common.published_keys import refuse_published_key

Kind = Literal["P-256", "P-384", "RSA-2048", "Ed25519"]
Secret = Callable[[str], str]  # asks for the secret of what the text names

MAX_KEY_FILE_BYTES: Final = 64 * 1024
MIN_RSA_BITS: Final = 2048
KEY_FILE_MODE: Final = 0o600
CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")

_log = logging.getLogger(__name__)


def load(uri: str, secret: Secret | None = None) -> PrivateKey:
    """Load the key that `uri` names, asking `secret` for a passphrase or PIN where one is needed.

    Raises Misconfigured with a `key-…` or `pkcs11-…` reason.
    """
    if uri.startswith("pkcs11:"):
        from brski_common import pkcs11  # noqa: PLC0415 - only who uses a token needs python-pkcs11

        return pkcs11.load(uri, secret)
    return _load_file(_path(uri), secret)


def generate(kind: Kind) -> PrivateKey:
    """Make a new key."""
    if kind == "P-256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "P-384":
        return ec.generate_private_key(ec.SECP384R1())
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def save(path: Path, key: PrivateKey, passphrase: str | None = None) -> None:
    """Write the key as PKCS#8 PEM, encrypted if there is a passphrase; replaces the file at once or not at all."""
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    )
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def write_private(path: Path, data: bytes) -> None:
    """Replace the file's content atomically and durably, readable by its owner alone; raises OSError."""
    # mkstemp makes the file with mode 0600, whatever the umask.
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    _sync_folder(path.parent)


def load_credential(
    key_uri: str, *chain_paths: Path, secret: Secret | None = None, allow_published: bool = False
) -> Credential:
    """Load a key and its certificate chain, leaf first, out of PEM files read one after the other.

    A certificate that comes twice counts once. `allow_published` admits the test keys of the
    specifications, for tests only.
    Raises Misconfigured `key-does-not-match`, `chain-out-of-order`, `published-test-key`,
    `certificates-unreadable` and those of `load`.
    """
    key = load(key_uri, secret)
    chain = tuple(dict.fromkeys(certificate for path in chain_paths for certificate in read_certificates(path)))
    named = f"{redact(key_uri)} and {', '.join(map(str, chain_paths))}"
    if not chain or public_key_info(chain[0].public_key()) != public_key_info(key.public_key()):
        raise Misconfigured("key-does-not-match", f"{named}: the first certificate is not that of the key")
    for below, above in pairwise(chain):
        if below.issuer != above.subject:
            raise Misconfigured("chain-out-of-order", f"{named}: each certificate's issuer comes right after it")
    if not allow_published:
        refuse_published_key(key.public_key())
    return Credential(key, chain)


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Read every certificate of a PEM file; raises Misconfigured `certificates-unreadable`."""
    try:
        return load_pem(path.read_bytes())
    except OSError as error:
        raise Misconfigured("certificates-unreadable", f"{path}: {error.strerror}") from error
    except Malformed as error:
        raise Misconfigured("certificates-unreadable", f"{path}: {error.detail}") from error


def redact(uri: str) -> str:
    """The URI as it may be shown: a `pkcs11:` URI without its query, where the PIN may be."""
    return uri.partition("?")[0] if uri.startswith("pkcs11:") else uri


def _path(uri: str) -> Path:
    """`file:relative`, `file:/absolute`, `file:///absolute` (RFC 8089), or a bare path."""
    if not uri.startswith("file:"):
        return Path(uri)
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment:
        raise Misconfigured("key-uri-unknown", f"{uri}: a key is file:PATH or pkcs11:… (RFC 7512)")
    return Path(unquote(parts.path))


def _load_file(path: Path, secret: Secret | None) -> PrivateKey:
    data = _read_private(path)
    try:
        return _checked(load_pem_private_key(data, None), path)
    except TypeError:  # pyca's way to say that the key is encrypted
        return _decrypt(path, data, secret)
    except (ValueError, UnsupportedAlgorithm):
        # pyca's words are about its parser; what the operator can do stands here.
        raise Misconfigured("key-unreadable", f"{path}: not a PEM private key (PKCS#8 or SEC 1)") from None


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise Misconfigured("key-unreadable", f"{path}: {error.strerror}") from error
    if len(data) > MAX_KEY_FILE_BYTES:
        raise Misconfigured("key-unreadable", f"{path}: more than {MAX_KEY_FILE_BYTES} bytes")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Misconfigured("key-file-writable", f"{path}: others may write to it; use chmod 600")
    if mode & stat.S_IROTH:
        _log.warning("everybody may read the key file %s; use chmod 600", path)
    return data


def _decrypt(path: Path, data: bytes, secret: Secret | None) -> PrivateKey:
    if secret is None:
        raise Misconfigured("key-passphrase-missing", f"{path}: the key is encrypted")
    try:
        return _checked(load_pem_private_key(data, secret(str(path)).encode()), path)
    except (ValueError, UnsupportedAlgorithm):
        raise Misconfigured("key-passphrase-wrong", f"{path}: the passphrase does not open the key") from None


def _checked(key: object, path: Path) -> PrivateKey:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return key
    raise Misconfigured(
        "key-kind-unsupported", f"{path}: a key is EC P-256, P-384 or P-521, Ed25519, or RSA of {MIN_RSA_BITS} bits"
    )


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: the folder has its own page to write."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
