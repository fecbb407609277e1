"""Makes IDevIDs: the certificate a device is born with (IEEE 802.1AR-2018, 8; RFC 8995, 2.3).

Either for a key that the device made and keeps (a CSR), or, for a simulated device, with a key made here.
The profile: subject with one serialNumber (2.5.4.5), the MASA's authority in the MASA URL extension, no end
(99991231235959Z), AuthorityKeyIdentifier but no SubjectKeyIdentifier, no keyUsage or extendedKeyUsage. Of a CSR only
the key is taken: what the certificate says is the factory's word, not the device's.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from brski_common import der, issuing, keys, strictjson
from brski_common.certificates import (
    ID_ON_HARDWARE_MODULE_NAME,
    ID_PE_MASA_URL,
    Credential,
    HardwareModuleName,
    PrivateKey,
    fingerprint,
    idevid_issuer,
    masa_url,
    serial_number,
    to_pem,
)
from brski_common.csr import read_csr
from brski_common.errors import Malformed, Misconfigured
from brski_common.published_keys import refuse_published_key

MAX_SERIAL: Final = 64  # characters: RFC 5280, A.1, ub-serial-number
MAX_CSR_BYTES: Final = 64 * 1024

_PRINTABLE: Final = re.compile(rf"[A-Za-z0-9 '()+,\-./:=?]{{1,{MAX_SERIAL}}}")  # X.680, 41.4: PrintableString
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253})(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a new IDevID shall say. `hardware` puts a hardwareModuleName into the subjectAltName."""

    serial_number: str
    masa_url: str | None
    organization: str | None = None
    common_name: str | None = None
    hardware: HardwareModuleName | None = None
    not_after: datetime = issuing.NO_EXPIRY


def issue(
    issuer: Credential,
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey,
    wishes: Wishes,
    now: datetime,
) -> x509.Certificate:
    """Make one IDevID; raises Malformed for wishes that no IDevID can hold, Misconfigured `published-test-key`."""
    refuse_published_key(public_key)
    check_serial(wishes.serial_number)
    extensions: list[tuple[x509.ExtensionType, bool]] = []
    if wishes.masa_url is not None:
        extensions.append((masa_url_extension(wishes.masa_url), False))
    return issuing.end_entity(
        issuer,
        public_key,
        _subject(wishes),
        not_before=now - issuing.BACKDATE,
        not_after=wishes.not_after,
        alternative_names=() if wishes.hardware is None else (_hardware(wishes.hardware),),
        extensions=extensions,
        subject_key_identifier=False,
    )


def key_of_csr(data: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey:
    """The key of a PKCS#10 request, PEM or DER, whose holder signed it; raises Malformed, Untrusted, Refused."""
    if len(data) > MAX_CSR_BYTES:
        raise Malformed("csr-malformed", f"{len(data)} bytes, at most {MAX_CSR_BYTES}")
    key = read_csr(_without_armor(data)).public_key()
    if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        return key
    raise Malformed("csr-malformed", "no key of a kind that a device may have")


def check_serial(serial: str) -> str:
    """A serial number as X520SerialNumber takes it; raises Malformed."""
    if not _PRINTABLE.fullmatch(serial) or serial != serial.strip():
        raise Malformed(
            "serial-number-malformed", f"1 to {MAX_SERIAL} letters, digits and '()+,-./:=? (PrintableString)"
        )
    return serial


def check_masa_url(authority: str) -> str:
    """The authority of the MASA, host[:port]; raises Malformed for anything more (RFC 8995, 2.3.2)."""
    if not _AUTHORITY.fullmatch(authority):
        raise Malformed("masa-url-malformed", f"{authority[:80]}: host or host:port, nothing else")
    return authority


def masa_url_extension(authority: str) -> x509.UnrecognizedExtension:
    """The MASA URL extension, an IA5String (RFC 8995, 2.3.2)."""
    return x509.UnrecognizedExtension(ID_PE_MASA_URL, der.ia5_string(check_masa_url(authority)))


def folder_name(serial: str) -> str:
    """A file name for a serial number: whatever else than letters, digits, `-` and `_` becomes %XX."""
    return re.sub(r"[^A-Za-z0-9_-]", lambda match: f"%{ord(match[0]):02X}", serial)


@dataclass(frozen=True, slots=True)
class Made:
    """A new IDevID; `key` is None if the device keeps it."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey | None

    @property
    def certificate(self) -> x509.Certificate:
        """The IDevID itself."""
        return self.chain[0]


def check_folder(folder: Path) -> None:
    """Make the folder, and see that nothing in it would be overwritten; raises Misconfigured."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured("folder-not-writable", f"{folder}: {error.strerror}") from error
    if (folder / "idevid.pem").exists():
        raise Misconfigured("folder-in-use", f"{folder} holds an IDevID already")


def write(folder: Path, made: Made, owner: str | None) -> dict[str, str | None]:
    """Write idevid.pem, chain.pem, manifest.json and perhaps key.pem; the manifest; raises Misconfigured.

    chain.pem holds what a device stores and sends: its certificate and those of the CAs (IEEE 802.1AR-2018, 6).
    """
    manifest = _manifest(made, owner)
    try:
        (folder / "idevid.pem").write_bytes(to_pem(made.certificate))
        (folder / "chain.pem").write_bytes(to_pem(*made.chain))
        if made.key is not None:
            keys.save(folder / "key.pem", made.key)
        (folder / "manifest.json").write_bytes(strictjson.dumps(manifest) + b"\n")
    except OSError as error:
        raise Misconfigured("folder-not-writable", f"{folder}: {error.strerror}") from error
    return manifest | {"folder": str(folder.absolute())}


def _manifest(made: Made, owner: str | None) -> dict[str, str | None]:
    certificate = made.certificate
    return {
        "serial-number": serial_number(certificate),
        "idevid-issuer": base64.b64encode(idevid_issuer(certificate)).decode(),
        "masa-url": masa_url(certificate),
        "sha256": fingerprint(certificate).hex(),
        "owner": owner,
        "certificate": "idevid.pem",
        "chain": "chain.pem",
        "key": None if made.key is None else "key.pem",
    }


def _subject(wishes: Wishes) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.SERIAL_NUMBER, wishes.serial_number)]
    if wishes.organization is not None:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, wishes.organization))
    if wishes.common_name is not None:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, wishes.common_name))
    return x509.Name(attributes)


def _hardware(name: HardwareModuleName) -> x509.OtherName:
    value = der.sequence(der.oid(name.hw_type), der.octet_string(name.hw_serial_number))
    return x509.OtherName(ID_ON_HARDWARE_MODULE_NAME, value)


def _without_armor(data: bytes) -> bytes:
    match = re.search(rb"-----BEGIN [A-Z ]*CERTIFICATE REQUEST-----([^-]+)-----END", data)
    if match is None and b"PRIVATE KEY-----" in data:
        raise Malformed("csr-malformed", "this is a private key; a request (PKCS#10) that it signed is wanted")
    if match is None:
        return data
    try:
        return base64.b64decode(match[1])
    except ValueError as error:
        raise Malformed("csr-malformed", "the PEM is not base64") from error


def lifetime_without_end(now: datetime) -> timedelta:
    """From now to 9999: a CA must not end before the certificates it issued."""
    return issuing.NO_EXPIRY - now


def chain_of(issuer: Credential, certificate: x509.Certificate) -> tuple[x509.Certificate, ...]:
    """What the device stores: its certificate and all above it."""
    rest: Sequence[x509.Certificate] = issuer.chain
    return (certificate, *rest)
