"""A maker and a plant that are the same in every process to the last byte: fixed keys, serial numbers and clock.

`tests.support.world` makes fresh keys in each process. A fuzzer must not: its seed shall give the
same inputs tomorrow. ECDSA signs deterministically here (RFC 6979), Ed25519 and PKCS #1 do anyway.
"""

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric import utils as asymmetric
from cryptography.hazmat.primitives.serialization import Encoding, KeySerializationEncryption, PrivateFormat
from cryptography.utils import Buffer

from brski_common import der, issuing
from brski_common.certificates import (
    ID_KP_CLIENT_AUTH,
    ID_KP_CMC_RA,
    ID_KP_SERVER_AUTH,
    ID_ON_HARDWARE_MODULE_NAME,
    ID_PE_MASA_URL,
    Credential,
    PrivateKey,
)

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)

# Two primes of 1024 bits, drawn once. They protect nothing.
_P = int(
    "fc5811ac7d2933d53182568a821c0d640116c7bff810e179f2ae9de8f630bad2b2a240c3bf324d89a2dcf9e8292049d0"
    "24bb43bd6d863bdef21f1de736438bec1ee7d7cae6f708883a5be784e429feaf892a24cd25330acae533d8bea504773c"
    "19388be56619668e338965ba0c9d6890064be89fc817ae06eec36fdb6a6caf4b",
    16,
)
_Q = int(
    "def9406cd1de8f9e54cb349ee3d44748e0ca013819a3d7603c640f924c3706e52bc96785f85dde27c8e343bec94d264b"
    "e748b878db7e7ea41aa7171f38da08927cb5fba23b3a591e1cf6f97ae50746354cbaaadd5f67be09d9bef82562cd7d64"
    "affe122f907cc073d882481bf5f1897bd562c49926630a9710a5497ccbf6d391",
    16,
)


class FixedKey(ec.EllipticCurvePrivateKey):
    """An ECDSA key that gives the same signature for the same data each time."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        algorithm = signature_algorithm.algorithm
        assert isinstance(algorithm, hashes.HashAlgorithm | asymmetric.Prehashed)
        return self._key.sign(data, ec.ECDSA(algorithm, deterministic_signing=True))

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        return self._key.exchange(algorithm, peer_public_key)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._key.curve

    @property
    def key_size(self) -> int:
        return self._key.key_size

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        return self._key.private_numbers()

    def private_bytes(
        self,
        encoding: Encoding,
        format: PrivateFormat,  # noqa: A002 - pyca's name
        encryption_algorithm: KeySerializationEncryption,
    ) -> bytes:
        return self._key.private_bytes(encoding, format, encryption_algorithm)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


@cache
def key(owner: str, kind: str = "P-256") -> PrivateKey:
    """The key of a named owner, the same in every process."""
    digest = hashlib.sha512(f"{kind}/{owner}".encode()).digest()
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(digest[:32])
    if kind == "RSA-2048":
        return _rsa()
    curve: ec.EllipticCurve = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[kind]
    return FixedKey(ec.derive_private_key(int.from_bytes(digest) >> max(513 - curve.key_size, 0), curve))


def _rsa() -> rsa.RSAPrivateKey:
    exponent = 65537
    private = pow(exponent, -1, (_P - 1) * (_Q - 1))
    numbers = rsa.RSAPublicNumbers(exponent, _P * _Q)
    crt = (rsa.rsa_crt_dmp1(private, _P), rsa.rsa_crt_dmq1(private, _Q), rsa.rsa_crt_iqmp(_P, _Q))
    return rsa.RSAPrivateNumbers(_P, _Q, private, *crt, numbers).private_key()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What goes into a certificate besides names, key and dates."""

    ca: bool = False
    path_length: int | None = None
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    not_after: datetime = NOW + 3650 * DAY


def credential(
    owner: str, issuer: Credential | None = None, *, kind: str = "P-256", serial: str = "", profile: Profile
) -> Credential:
    """A certificate with its chain; without `issuer` self-signed."""
    own = key(owner, kind)
    attributes = {"serial_number": serial} if serial else {"organization_name": "Example"}
    subject = issuing.name(owner, **attributes)
    signer = issuer.key if issuer else own
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(own.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(owner.encode()).digest()[:16]) | 1)
        .not_valid_before(NOW - 365 * DAY)
        .not_valid_after(profile.not_after)
        .add_extension(x509.BasicConstraints(profile.ca, profile.path_length), critical=True)
        .add_extension(issuing.signing_key_usage(certificates=profile.ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for value, critical in profile.extensions:
        builder = builder.add_extension(value, critical)
    certificate = builder.sign(signer, issuing.signature_hash(signer))
    return Credential(own, (certificate, *(issuer.chain if issuer else ())))


@cache
def maker(kind: str = "P-256") -> dict[str, Credential]:
    """A manufacturer: `root`, `ca`, `idevid`, `masa` (the voucher signer, under `voucher_root`)."""
    root = credential(f"Maker Root {kind}", kind=kind, profile=Profile(ca=True))
    ca = credential(f"IDevID CA {kind}", root, kind=kind, profile=Profile(ca=True, path_length=0))
    module = der.sequence(der.oid("1.3.6.1.4.1.6715.10.1"), der.octet_string(b"\x01\x02\x03\x04"))
    device = (
        (x509.UnrecognizedExtension(ID_PE_MASA_URL, der.ia5_string("masa.example:9443")), False),
        (x509.SubjectAlternativeName([x509.OtherName(ID_ON_HARDWARE_MODULE_NAME, module)]), False),
    )
    idevid = credential(
        f"Device {kind}",
        ca,
        kind=kind,
        serial="SN-00001",
        profile=Profile(extensions=device, not_after=issuing.NO_EXPIRY),
    )
    voucher_root = credential(f"Voucher Root {kind}", kind=kind, profile=Profile(ca=True))
    masa = credential(f"Voucher Signer {kind}", voucher_root, kind=kind, profile=Profile())
    return {"root": root, "ca": ca, "idevid": idevid, "voucher_root": voucher_root, "masa": masa}


@cache
def plant(kind: str = "P-256") -> dict[str, Credential]:
    """A domain: `root` (which constrains names), `ca`, `registrar`, `ldevid`."""
    constraints = x509.NameConstraints(
        [x509.DNSName("example"), x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_network("127.0.0.0/8"))],
        [x509.DNSName("evil.example"), x509.DirectoryName(issuing.name("Evil"))],
    )
    policies = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), ["cps"])])
    root = credential(
        f"Plant Root {kind}", kind=kind, profile=Profile(ca=True, extensions=((constraints, True), (policies, False)))
    )
    ca = credential(f"Plant CA {kind}", root, kind=kind, profile=Profile(ca=True, path_length=0))
    hosts = [
        *(x509.DNSName("registrar.example"), x509.DNSName("*.plant.example")),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        *(x509.DirectoryName(issuing.name("Registrar")), x509.UniformResourceIdentifier("https://r.example/")),
    ]
    usages = x509.ExtendedKeyUsage([ID_KP_CMC_RA, ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH])
    names = (x509.SubjectAlternativeName(hosts[:3]), False)
    registrar = credential(f"Registrar {kind}", ca, kind=kind, profile=Profile(extensions=((usages, False), names)))
    many = Profile(extensions=((x509.SubjectAlternativeName(hosts), False),))
    ldevid = credential(f"LDevID {kind}", ca, kind=kind, serial="SN-00001", profile=many)
    return {"root": root, "ca": ca, "registrar": registrar, "ldevid": ldevid}


@cache
def oddities() -> tuple[Credential, ...]:
    """Leaves without a path, each for another reason: too many CAs, names that cannot be judged, too many names."""
    root = credential("Odd Root", kind="Ed25519", profile=Profile(ca=True, path_length=1))
    first = credential("Odd CA 1", root, kind="Ed25519", profile=Profile(ca=True))
    second = credential("Odd CA 2", first, kind="Ed25519", profile=Profile(ca=True))
    mail = x509.NameConstraints(None, [x509.RFC822Name("example.com")])
    judge = credential("Odd CA 3", root, kind="Ed25519", profile=Profile(ca=True, extensions=((mail, True),)))
    many = x509.NameConstraints([x509.DNSName("a")] * 500, None)
    crowd = credential("Odd CA 4", root, kind="Ed25519", profile=Profile(ca=True, extensions=((many, True),)))
    address = x509.SubjectAlternativeName([x509.RFC822Name("a@example.com")])
    hosts = x509.SubjectAlternativeName([x509.DNSName("a")] * 500)
    return (
        credential("Too Deep", second, kind="Ed25519", profile=Profile()),
        credential("Not Judged", judge, kind="Ed25519", profile=Profile(extensions=((address, False),))),
        credential("Too Many", crowd, kind="Ed25519", profile=Profile(extensions=((hosts, False),))),
    )
