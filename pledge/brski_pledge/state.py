"""What outlives a reboot: one folder, which is at any moment either as before a change or as after it.

    STATE/current                  the name of the generation that counts; without it the device is as from the factory
    STATE/generation-000001/
        ldevid.pem                 the LDevID and the CAs above it
        key.pem                    its private key, PKCS #8, mode 0600
        anchors.pem                the domain's CA certificates (RFC 7030, 4.1.3)
        voucher                    the voucher as received
        pinned.pem                 what the voucher pinned
        registrar.pem              the registrar's certificate
        enrollment.json            where the registrar is, when it happened
        confirmed                  there once the registrar heard of it

The laws of this file:

1. A generation is written completely and synced, file by file and folder by folder, before `current` names it.
2. `current` changes by one rename. Whatever it does not name is rubbish and is erased at the next chance.
3. A reset removes `current` first: no power loss can leave half an identity in use.
4. The IDevID is never here (IEEE 802.1AR-2018, 6).
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from brski_common import strictjson
from brski_common.certificates import Credential, PrivateKey, load_pem, public_key_info, spki, to_pem
from brski_common.errors import BrskiError, Misconfigured

CURRENT = "current"
NEXT = "current.new"
GENERATION = "generation-"
LDEVID, KEY, ANCHORS, VOUCHER = "ldevid.pem", "key.pem", "anchors.pem", "voucher"
PINNED, REGISTRAR, ENROLLMENT, CONFIRMED = "pinned.pem", "registrar.pem", "enrollment.json", "confirmed"

SECRET, PRIVATE_FOLDER = 0o600, 0o700
MAX_FILE_BYTES = 1024 * 1024
STATE_VERSION = 1
RENEW_AT = 2 / 3  # of a certificate's lifetime


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


class Disk:
    """The few things a state folder does to a file system. Each returns when it is done, `sync` when it is durable."""

    def names(self, folder: Path) -> list[str]:
        """What a folder holds, sorted; empty if there is no such folder."""
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def read(self, path: Path) -> bytes:
        """A whole file; raises OSError."""
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)

    def make_folder(self, path: Path) -> None:
        """Make a folder that only its owner may enter, with its parents, unless it is there."""
        path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        """Write a file that only its owner may read."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SECRET)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)

    def sync(self, path: Path) -> None:
        """Make the content of a file, or the names in a folder, durable."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over whatever `target` is."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file, or an empty folder; nothing happens if it is gone."""
        with suppress(FileNotFoundError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


class Folder:
    """The state of one device. Every method blocks; raises OSError where the disk fails."""

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path, self._disk = path.absolute(), disk or Disk()

    def load(self) -> Enrollment | None:
        """What is kept, None in the factory state; raises Misconfigured if what is kept cannot be read.

        A damaged state is never taken for the factory state: that would start BRSKI on a configured
        device (RFC 8995, 5).
        """
        generation = self._current()
        if generation is None:
            return None
        try:
            return self._load(generation)
        except (BrskiError, OSError, ValueError, KeyError, TypeError, UnsupportedAlgorithm) as error:
            raise Misconfigured("state-damaged", f"{generation}: {error}; `brski-pledge reset` begins anew") from error

    def save(self, enrollment: Enrollment) -> Enrollment:
        """Keep `enrollment` instead of whatever was kept; when this returns no power loss can undo it.

        Raises Misconfigured, and changes nothing, if the key is not that of the certificate.
        """
        disk, generation = self._disk, self.path / self._next_name()
        disk.make_folder(self.path)
        disk.make_folder(generation)
        files = dict(_files(enrollment))
        for name, data in files.items():
            disk.write(generation / name, data)
        # All is written before the first sync, which a journal then makes nearly the only one that takes time.
        for path in (*(generation / name for name in files), generation, self.path, self.path.parent):
            disk.sync(path)
        readable = self._load(generation)  # raises before it counts
        disk.write(self.path / NEXT, generation.name.encode())
        disk.sync(self.path / NEXT)
        disk.replace(self.path / NEXT, self.path / CURRENT)
        disk.sync(self.path)
        self.tidy()
        return readable

    def confirm(self) -> None:
        """Note that the registrar heard of the enrollment (RFC 8995, 5.9.4)."""
        generation = self._current()
        if generation is not None:
            self._disk.write(generation / CONFIRMED, b"")
            self._disk.sync(generation / CONFIRMED)
            self._disk.sync(generation)

    def reset(self) -> None:
        """Back to the factory state: the LDevID, its key and all anchors are erased (IEEE 802.1AR-2018, 6)."""
        if self._disk.names(self.path):
            self._disk.remove(self.path / CURRENT)
            self._disk.sync(self.path)
            self.tidy()

    def tidy(self) -> None:
        """Erase what no longer counts: old generations, and whatever a power loss left unfinished."""
        current = self._current()
        names = self._disk.names(self.path)
        rubbish = [name for name in names if name.startswith(GENERATION) and (not current or name != current.name)]
        for name in rubbish:
            self._erase(self.path / name)
        if NEXT in names:
            self._disk.remove(self.path / NEXT)
        if rubbish or NEXT in names:
            self._disk.sync(self.path)

    def _erase(self, generation: Path) -> None:
        names = self._disk.names(generation)
        if KEY in names:
            # Flash keeps old blocks all the same; encrypt the file system where that matters.
            self._disk.write(generation / KEY, b"\0" * len(self._disk.read(generation / KEY)))
            self._disk.sync(generation / KEY)
        for name in names:
            self._disk.remove(generation / name)
        self._disk.remove(generation)

    def _current(self) -> Path | None:
        if CURRENT not in self._disk.names(self.path):
            return None
        name = self._disk.read(self.path / CURRENT).decode("ascii", "replace").strip()
        if not name.removeprefix(GENERATION).isdecimal():
            raise Misconfigured("state-damaged", f"{self.path / CURRENT}; `brski-pledge reset` begins anew")
        return self.path / name

    def _next_name(self) -> str:
        used = [name.removeprefix(GENERATION) for name in self._disk.names(self.path) if name.startswith(GENERATION)]
        return f"{GENERATION}{max((int(number) for number in used if number.isdecimal()), default=0) + 1:06}"

    def _load(self, generation: Path) -> Enrollment:
        names = self._disk.names(generation)
        files = {name: self._disk.read(generation / name) for name in names}
        about = strictjson.load_object(files[ENROLLMENT])
        if about.get("version") != STATE_VERSION:
            raise ValueError(f"version {about.get('version')} is not known")
        host, port, enrolled_on = about["host"], about["port"], about["enrolled-on"]
        if not isinstance(host, str) or not isinstance(port, int):
            raise TypeError("host or port")
        return Enrollment(
            credential=_credential(files[KEY], files[LDEVID]),
            anchors=load_pem(files[ANCHORS]),
            voucher=files[VOUCHER],
            pinned=load_pem(files[PINNED])[0],
            registrar=load_pem(files[REGISTRAR])[0],
            host=host,
            port=port,
            enrolled_on=datetime.fromisoformat(enrolled_on) if isinstance(enrolled_on, str) else None,
            confirmed=CONFIRMED in names,
            folder=generation,
        )


def _files(enrollment: Enrollment) -> Iterable[tuple[str, bytes]]:
    credential, time = enrollment.credential, enrollment.enrolled_on
    about: dict[str, strictjson.JsonValue] = {
        "version": STATE_VERSION,
        "host": enrollment.host,
        "port": enrollment.port,
        "enrolled-on": None if time is None else time.isoformat(),
    }
    yield KEY, credential.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    yield LDEVID, to_pem(*credential.chain)
    yield ANCHORS, to_pem(*enrollment.anchors)
    yield VOUCHER, enrollment.voucher
    yield PINNED, to_pem(enrollment.pinned)
    yield REGISTRAR, to_pem(enrollment.registrar)
    yield ENROLLMENT, strictjson.dumps(about)
    if enrollment.confirmed:
        yield CONFIRMED, b""


def _credential(key_pem: bytes, chain_pem: bytes) -> Credential:
    key = load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise TypeError("a key of a kind not used here")
    return credential_of(key, chain_pem)


def credential_of(key: PrivateKey, chain_pem: bytes) -> Credential:
    """A key and the PEM of its chain, checked to belong together; raises Misconfigured, Malformed."""
    chain = load_pem(chain_pem)
    if public_key_info(key.public_key()) != spki(chain[0]):
        raise Misconfigured("key-not-of-certificate", "the private key is not that of the first certificate")
    return Credential(key, chain)
