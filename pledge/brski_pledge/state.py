"""What outlives a reboot: one file, which is at any moment either as before a change or as after it.

    STATE/identity.pem    all that counts: the LDevID's key and chain, and what else onboarding left; mode 0600

and, for other programs, what `export` writes:

    STATE/ldevid.pem      the LDevID and the CAs above it
    STATE/anchors.pem     the domain's CA certificates (RFC 7030, 4.1.3)
    STATE/voucher         the voucher as received

The laws of this file (docs/adr/0016):

1. `identity.pem` alone decides; without it the device is as from the factory. It is replaced by one rename, of a file
   that is complete and synced.
2. It begins with the digest of the rest. What is not as it was written is damage, never another state.
3. One byte of it changes in place, and is not synced: whether the registrar heard of the enrollment. If a power loss
   undoes that, the registrar is told a second time, which it does not mind.
4. A reset takes the name away first: no power loss can leave half an identity in use. A secret that counts no more is
   overwritten, at the latest at the next boot.
5. The exports hold no secret, decide nothing, and are written anew where they are not as they should be.
6. The IDevID is never here (IEEE 802.1AR-2018, 6).
"""

import base64
import errno
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from brski_common import strictjson
from brski_common.certificates import Credential, PrivateKey, load_certificate, public_key_info, spki, to_der, to_pem
from brski_common.errors import BrskiError, Misconfigured
from brski_pledge.disk import Disk, UnsafeFileError

IDENTITY = "identity.pem"
NEW, OLD = "identity.new", "identity.old"  # what is being written, what a reset has yet to overwrite
LDEVID, ANCHORS, VOUCHER = "ldevid.pem", "anchors.pem", "voucher"  # the exports
EXPORT_NEW = "export.new"  # the one that is being written

STATE_VERSION = 1
ROOM = 16 * 1024  # bytes that have to be free; with P-256 keys a state takes about 7 KiB
QUICK_SECONDS = 0.050  # for a state, once in a device's life; a dozen waits for Python's lock in a thread are in it
RENEW_AT = 2 / 3  # of a certificate's lifetime

_SECRETS, _EXPORTS = (NEW, OLD), (LDEVID, ANCHORS, VOUCHER, EXPORT_NEW)

TITLE, PEM_LINE = b"brski-pledge state", 64
KEY_LABEL, CERTIFICATE_LABEL = b"PRIVATE KEY", b"CERTIFICATE"  # the LDevID
ANCHOR_LABEL, PINNED_LABEL, REGISTRAR_LABEL = b"BRSKI ANCHOR", b"BRSKI PINNED", b"BRSKI REGISTRAR"
VOUCHER_LABEL, ABOUT_LABEL = b"BRSKI VOUCHER", b"BRSKI ENROLLMENT"
_TITLE = re.compile(rb"%s ([0-9]{1,9}), sha256 ([0-9a-f]{64}), reported ([01])" % TITLE)
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----\n([^-]*)\n-----END \1-----\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollment:
    """What onboarding leaves: who the device is in its domain, and whom it trusts there."""

    credential: Credential
    anchors: tuple[x509.Certificate, ...]
    voucher: bytes = field(repr=False)
    pinned: x509.Certificate
    registrar: x509.Certificate
    host: str
    port: int
    enrolled_on: datetime | None = None
    confirmed: bool = False
    folder: Path | None = None  # where it is kept, once it is

    @property
    def renew_at(self) -> datetime:
        """When to renew: two thirds into the certificate's life, long before it ends (RFC 8995, 9.1.3)."""
        certificate = self.credential.certificate
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return begin + (end - begin) * RENEW_AT


class Folder:
    """The state of one device. Every method blocks; raises OSError where the disk fails."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path, self._disk = path.absolute(), disk or Disk()
        # Joining paths costs more than what is done with them.
        self._identity, self._new, self._above = self.path / IDENTITY, self.path / NEW, self.path.parent

    def load(self) -> Enrollment | None:
        """What is kept, None in the factory state; raises Misconfigured if what is kept cannot be read.

        A damaged state is never taken for the factory state: that would start BRSKI on a configured
        device (RFC 8995, 5). Nor is one that the disk does not give, or that another may have put there or taken away.
        """
        where = self._identity
        try:
            self._disk.check_folder(self.path)
            return _read(self._disk.read_secret(where), self.path)
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise Misconfigured("state-unusable", f"{self.path}: this has to be a folder") from error
        except UnsafeFileError as error:
            raise _unsafe(error, where) from error
        except OSError as error:
            reason = "state-damaged" if error.errno == errno.EFBIG else "state-unreadable"
            raise Misconfigured(reason, f"{where}: {error.strerror}") from error
        except (BrskiError, ValueError, LookupError, TypeError, UnsupportedAlgorithm) as error:
            raise Misconfigured("state-damaged", f"{where}: {error}") from error

    def try_out(self) -> None:
        """Find out whether a state can be kept here, before anybody is asked for one.

        Makes the folder, and writes and removes a file as large as a state may be. Raises Misconfigured, which names
        the path.
        """
        try:
            self._disk.make_folder(self.path)
            self._disk.check_folder(self.path)
            self._erase(_SECRETS, self._disk.names(self.path))
            try:
                # Not synced: what is removed at once seldom gets as far as the flash, and so wears nothing.
                self._disk.write(self._new, bytes(ROOM), durable=False)
            finally:
                self._disk.remove(self._new)
        except UnsafeFileError as error:
            raise _unsafe(error, self._new) from error
        except OSError as error:
            raise Misconfigured("state-unusable", f"{error.filename or self.path}: {error.strerror}") from error

    def save(self, enrollment: Enrollment) -> Enrollment:
        """Keep `enrollment` instead of whatever was kept; when this returns no power loss can undo it.

        Raises Misconfigured, and changes nothing, if the key is not that of the certificate, or if others may write
        into the folder.
        """
        begun, identity, disk = time.monotonic(), _write(enrollment), self._disk
        disk.make_folder(self.path)
        try:
            disk.check_folder(self.path)
        except UnsafeFileError as error:
            raise _unsafe(error, self.path) from error
        names = disk.names(self.path)
        self._erase(_SECRETS, names)
        try:
            disk.write(self._new, identity, durable=True)
        except OSError:
            with suppress(OSError):  # half a secret, on a disk that may be full: the first error is the one to tell
                self._erase((NEW,), (NEW,))
            raise
        disk.replace(self._new, self._identity)
        disk.sync(self._above)
        if LDEVID in names:
            with suppress(OSError):  # what counts is kept; the next `export` tries again
                self.export(enrollment)
        disk.save_seconds = time.monotonic() - begun
        return replace(enrollment, folder=self.path)

    @property
    def is_quick(self) -> bool:
        """Whether the disk was so fast with the last state that one more is no burden to an event loop."""
        return self._disk.save_seconds <= QUICK_SECONDS

    def confirm(self) -> None:
        """Note that the registrar heard of the enrollment (RFC 8995, 5.9.4), if there is one."""
        with suppress(FileNotFoundError):
            self._disk.write_byte(self._identity, _REPORTED_AT, b"1")

    def export(self, enrollment: Enrollment) -> None:
        """Write the certificates and the voucher for other programs; these never see half a file, and no secret.

        What counts is kept, whatever comes of this. An OSError leaves nothing unfinished behind.
        """
        chain, anchors, names = enrollment.credential.chain, enrollment.anchors, self._disk.names(self.path)
        for name, data in ((LDEVID, to_pem(*chain)), (ANCHORS, to_pem(*anchors)), (VOUCHER, enrollment.voucher)):
            path, new = self.path / name, self.path / EXPORT_NEW
            if name not in names or self._content(path) != data:
                try:
                    self._disk.write(new, data, durable=True)
                    self._disk.rename(new, path)
                except OSError:
                    with suppress(OSError):
                        self._disk.remove(new)
                    raise

    def reset(self) -> None:
        """Back to the factory state: the LDevID, its key and all anchors are erased (IEEE 802.1AR-2018, 6)."""
        names = self._disk.names(self.path)
        self._erase(_SECRETS, names)
        if IDENTITY in names:
            self._disk.rename(self._identity, self.path / OLD)
            self._disk.sync(self.path)
        self._erase(_EXPORTS, names)
        self.tidy()

    @property
    def is_bare(self) -> bool:
        """Whether a reset has nothing to erase here."""
        return {IDENTITY, *_SECRETS, *_EXPORTS}.isdisjoint(self._disk.names(self.path))

    def strangers(self) -> Sequence[Path]:
        """What a reset would erase here although nothing says that a pledge wrote it, as in a folder of another kind.

        A damaged state is not among it as long as anything is left by which to know it.
        """
        names = self._disk.names(self.path)
        if IDENTITY in names:
            return () if _is_ours(self._content(self._identity)) else (self._identity,)
        return () if OLD in names else tuple(self.path / name for name in _EXPORTS if name in names)

    def tidy(self) -> None:
        """Erase what counts no more, and what a power loss left unfinished."""
        names = self._disk.names(self.path)
        if OLD in names and IDENTITY not in names:
            # A reset was cut short. Without its mark, these names may be another program's files.
            self._erase(_EXPORTS, names)
        self._erase(_SECRETS, names)

    def _erase(self, unwanted: Iterable[str], names: Sequence[str]) -> None:
        found = [name for name in unwanted if name in names]
        for name in found:
            if name in _SECRETS and not (IDENTITY in names and self._is_in_use(name)):
                # Flash keeps old blocks all the same; encrypt the file system where that matters.
                self._disk.blank(self.path / name)
            self._disk.remove(self.path / name)
        if found:
            self._disk.sync(self.path)

    def _is_in_use(self, name: str) -> bool:
        """Whether this may be a second name of the identity, after a rename that a power loss tore apart."""
        return self._content(self.path / name) == self._content(self._identity)

    def _content(self, path: Path) -> bytes | None:
        """What a file holds; None if that is more than a pledge ever wrote."""
        try:
            return self._disk.read(path)
        except OSError as error:
            if error.errno == errno.EFBIG:
                return None
            raise


# The bytes: blocks as in PEM (RFC 7468), of which other programs read the key and the chain


def _write(enrollment: Enrollment) -> bytes:
    """`identity.pem`; raises Misconfigured if the key is not that of the certificate."""
    credential, time = enrollment.credential, enrollment.enrolled_on
    _check_key(credential.key, credential.certificate)
    about: dict[str, strictjson.JsonValue] = {
        "host": enrollment.host,
        "port": enrollment.port,
        "enrolled-on": None if time is None else time.isoformat(),
    }
    content = b"".join(
        (
            _block(KEY_LABEL, credential.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())),
            *(_block(CERTIFICATE_LABEL, to_der(each)) for each in credential.chain),
            *(_block(ANCHOR_LABEL, to_der(each)) for each in enrollment.anchors),
            _block(PINNED_LABEL, to_der(enrollment.pinned)),
            _block(REGISTRAR_LABEL, to_der(enrollment.registrar)),
            _block(VOUCHER_LABEL, enrollment.voucher),
            _block(ABOUT_LABEL, strictjson.dumps(about)),
        )
    )
    return _title(content, confirmed=enrollment.confirmed) + content


def _read(data: bytes, folder: Path) -> Enrollment:
    """The reverse of `_write`; raises ValueError and others if that is not what wrote `data`."""
    title, _, content = data.partition(b"\n")
    confirmed, blocks = _check_title(title, content), _blocks(content)
    [key], [pinned], [registrar] = blocks[KEY_LABEL], blocks[PINNED_LABEL], blocks[REGISTRAR_LABEL]
    [voucher], [about] = blocks[VOUCHER_LABEL], map(strictjson.load_object, blocks[ABOUT_LABEL])
    host, port, enrolled_on = about["host"], about["port"], about["enrolled-on"]
    if not isinstance(host, str) or not isinstance(port, int):
        raise TypeError("host or port")
    return Enrollment(
        credential=_credential(key, blocks[CERTIFICATE_LABEL]),
        anchors=tuple(map(load_certificate, blocks[ANCHOR_LABEL])),
        voucher=voucher,
        pinned=load_certificate(pinned),
        registrar=load_certificate(registrar),
        host=host,
        port=port,
        enrolled_on=datetime.fromisoformat(enrolled_on) if isinstance(enrolled_on, str) else None,
        confirmed=confirmed,
        folder=folder,
    )


def _unsafe(error: UnsafeFileError, where: Path) -> Misconfigured:
    return Misconfigured("state-unsafe", f"{error.filename or where}: {error.strerror}")


def _is_ours(data: bytes | None) -> bool:
    """Whether a pledge wrote this, whatever happened to it since; what is empty or zeros holds nothing to lose."""
    return data is not None and (TITLE in data or b"-----BEGIN BRSKI " in data or not any(data))


def _title(content: bytes, *, confirmed: bool) -> bytes:
    digest = sha256(content).hexdigest().encode()
    return b"%s %d, sha256 %s, reported %d\n" % (TITLE, STATE_VERSION, digest, confirmed)


_REPORTED_AT = len(_title(b"", confirmed=False)) - 2


def _check_title(title: bytes, content: bytes) -> bool:
    """Whether the registrar heard of it; raises ValueError for what is not as it was written."""
    found = _TITLE.fullmatch(title)
    if found is None:
        raise ValueError("this is no state of a pledge")
    if int(found[1]) != STATE_VERSION:
        raise ValueError(f"version {int(found[1])} is not known")
    if found[2].decode() != sha256(content).hexdigest():
        raise ValueError("it is not as it was written")
    return found[3] == b"1"


def _blocks(content: bytes) -> Mapping[bytes, list[bytes]]:
    """The blocks by their labels, in order."""
    blocks = defaultdict[bytes, list[bytes]](list)
    for label, text in _BLOCK.findall(content):
        blocks[label].append(base64.b64decode(text))
    return blocks


def _block(label: bytes, data: bytes) -> bytes:
    text = base64.b64encode(data)
    lines = b"\n".join([text[at : at + PEM_LINE] for at in range(0, len(text), PEM_LINE)])
    return b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (label, lines, label)


def _credential(key_der: bytes, chain: Sequence[bytes]) -> Credential:
    key, certificates = load_der_private_key(key_der, password=None), tuple(map(load_certificate, chain))
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise TypeError("a key of a kind not used here")
    _check_key(key, certificates[0])
    return Credential(key, certificates)


def _check_key(key: PrivateKey, certificate: x509.Certificate) -> None:
    if public_key_info(key.public_key()) != spki(certificate):
        raise Misconfigured("key-not-of-certificate", "the private key is not that of the first certificate")
