"""Keys that the registrar makes for a device (RFC 7030, 4.4): off unless the operator wants it, and never kept here.

A device should make its key itself; this is for those that cannot. The key leaves in a CMS EnvelopedData, for the
certificate that TLS authenticated, around a CMS SignedData of the registrar, around an AsymmetricKeyPackage (RFC 7030,
4.4.2; RFC 5958). Without that envelope, under TLS alone, it leaves only by an option with a loud name.

EC keys agree on a key by ephemeral-static ECDH (RFC 5753, 3.1.1), RSA keys transport one by OAEP (RFC 4056).
Whatever kind of key was asked for, the key in the request and its signature are ignored (RFC 7030, 4.4.1).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric import padding as asymmetric_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from brski_common import cms, der
from brski_common.certificates import Credential, PrivateKey, public_key_info, subject_key_id
from brski_common.csr import attributes
from brski_common.csrwishes import CURVE_NAMES, EC_PUBLIC_KEY, ED25519, RSA_ENCRYPTION, KeyWish
from brski_common.errors import Refused
from brski_common.issuing import signature_hash
from brski_registrar.policy import DomainPolicy

DECRYPT_KEY_ID: Final = "1.2.840.113549.1.9.16.2.37"
ASYMMETRIC_DECRYPT_KEY_ID: Final = "1.2.840.113549.1.9.16.2.54"
KEY_PACKAGE: Final = "2.16.840.1.101.2.1.2.78.5"
DEFAULT_RSA_BITS: Final = 3072
AES_KEY_BYTES: Final = 32
AES_BLOCK_BYTES: Final = 16

_ENVELOPED_DATA, _SIGNED_DATA = "1.2.840.113549.1.7.3", "1.2.840.113549.1.7.2"
_AES256_CBC, _AES256_WRAP = "2.16.840.1.101.3.4.1.42", "2.16.840.1.101.3.4.1.45"
_ECDH_SHA256KDF: Final = "1.3.132.1.11.1"  # dhSinglePass-stdDH-sha256kdf-scheme (RFC 5753, 7.1.4)
_RSAES_OAEP, _MGF1, _SHA256 = "1.2.840.113549.1.1.7", "1.2.840.113549.1.1.8", "2.16.840.1.101.3.4.2.1"
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key, and the request that has it certified."""

    key: PrivateKey = field(repr=False)
    csr: x509.CertificateSigningRequest


def check_offered(csr: x509.CertificateSigningRequest, device: x509.Certificate, policy: DomainPolicy) -> bool:
    """Whether the key is to leave in an envelope; raises Refused.

    1. The plant offers such keys at all.
    2. The envelope that was asked for is one we can close: for the key of the device's own certificate.
    3. Without an envelope only where the operator said so.
    """
    if not policy.serverkeygen:  # 1
        raise Refused("serverkeygen-not-offered", "a device makes its key itself here")
    asked = {attribute.oid: attribute.values for attribute in attributes(csr)}
    if DECRYPT_KEY_ID in asked:  # 2
        raise Refused("serverkeygen-key-unknown", "no symmetric key is shared with any device")
    if ASYMMETRIC_DECRYPT_KEY_ID in asked:
        _check_key_id(asked[ASYMMETRIC_DECRYPT_KEY_ID], device)
        return True
    if not policy.unsafe_plain_server_keys:  # 3
        raise Refused("serverkeygen-envelope-required", "the request has no AsymmetricDecryptKeyIdentifier")
    return False


def make(wish: KeyWish | None, csr: x509.CertificateSigningRequest) -> MadeKey:
    """A new key of the kind that was asked for, and `csr` made over for it; raises Refused for other kinds."""
    key = _new_key(wish)
    builder = x509.CertificateSigningRequestBuilder().subject_name(csr.subject)
    for extension in csr.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return MadeKey(key, builder.sign(key, signature_hash(key)))


def plain(key: PrivateKey) -> bytes:
    """PKCS #8, in the clear."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def enveloped(key: PrivateKey, signer: Credential, device: x509.Certificate, random: Random = os.urandom) -> bytes:
    """The key for the eyes of `device` only: a CMS EnvelopedData (RFC 5652, 6)."""
    package = der.sequence(plain(key))
    signed = der.parse(cms.sign(package, signer, content_type=KEY_PACKAGE))
    content = signed.children()[1].children()[0].encoded  # EnvelopedData holds the bare SignedData
    secret, start = random(AES_KEY_BYTES), random(AES_BLOCK_BYTES)
    pad = padding.PKCS7(8 * AES_BLOCK_BYTES).padder()
    encryptor = Cipher(algorithms.AES(secret), modes.CBC(start)).encryptor()
    sealed = encryptor.update(pad.update(content) + pad.finalize()) + encryptor.finalize()
    algorithm = der.sequence(der.oid(_AES256_CBC), der.octet_string(start))
    encrypted = der.sequence(der.oid(_SIGNED_DATA), algorithm, der.implicit(0, der.octet_string(sealed)))
    recipient, version = _recipient(device, secret)
    enveloped_data = der.sequence(der.integer(version), der.set_of(recipient), encrypted)
    return der.sequence(der.oid(_ENVELOPED_DATA), der.explicit(0, enveloped_data))


def _new_key(wish: KeyWish | None) -> PrivateKey:
    if wish is None or (wish.algorithm == EC_PUBLIC_KEY and wish.curve is None):
        return ec.generate_private_key(ec.SECP256R1())
    if wish.algorithm == EC_PUBLIC_KEY and (curve := _CURVES.get(CURVE_NAMES.get(wish.curve or "", ""))):
        return ec.generate_private_key(curve())
    if wish.algorithm == RSA_ENCRYPTION:
        return rsa.generate_private_key(public_exponent=65537, key_size=wish.bits or DEFAULT_RSA_BITS)
    if wish.algorithm == ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    raise Refused("serverkeygen-kind-unknown", f"{wish.algorithm} {wish.curve}")


def _check_key_id(values: tuple[bytes, ...], device: x509.Certificate) -> None:
    known = {_key_id(device), x509.SubjectKeyIdentifier.from_public_key(device.public_key()).digest}
    if len(values) != 1 or der.parse(values[0]).tag != der.OCTET_STRING or der.parse(values[0]).octets() not in known:
        raise Refused("serverkeygen-key-unknown", "the envelope is to be for another key than that of the certificate")


def _key_id(device: x509.Certificate) -> bytes:
    return subject_key_id(device) or x509.SubjectKeyIdentifier.from_public_key(device.public_key()).digest


def _recipient(device: x509.Certificate, secret: bytes) -> tuple[bytes, int]:
    """The RecipientInfo, and the version that EnvelopedData has with it (RFC 5652, 6.1)."""
    public = device.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        return _agreed(device, public, secret), 2
    if isinstance(public, rsa.RSAPublicKey):
        return _transported(device, public, secret), 2
    raise Refused("serverkeygen-key-unusable", f"nothing can be encrypted for a {type(public).__name__}")


def _agreed(device: x509.Certificate, public: ec.EllipticCurvePublicKey, secret: bytes) -> bytes:
    #   KeyAgreeRecipientInfo ::= SEQUENCE { version 3, originator [0] EXPLICIT OriginatorIdentifierOrKey,
    #       ukm [1] OPTIONAL, keyEncryptionAlgorithm, recipientEncryptedKeys }
    ephemeral = ec.generate_private_key(public.curve)
    wrap = der.sequence(der.oid(_AES256_WRAP))
    # ECC-CMS-SharedInfo (RFC 5753, 7.2): the algorithm, and the length of its key in bits
    shared_info = der.sequence(wrap, der.explicit(2, der.octet_string((8 * AES_KEY_BYTES).to_bytes(4, "big"))))
    kdf = X963KDF(hashes.SHA256(), AES_KEY_BYTES, shared_info)
    wrapping_key = kdf.derive(ephemeral.exchange(ec.ECDH(), public))
    originator = der.implicit(1, der.sequence(*(each.encoded for each in _spki_members(ephemeral.public_key()))))
    recipient = der.implicit(0, der.sequence(der.octet_string(_key_id(device))))
    keys = der.sequence(der.sequence(recipient, der.octet_string(aes_key_wrap(wrapping_key, secret))))
    algorithm = der.sequence(der.oid(_ECDH_SHA256KDF), wrap)
    return der.implicit(1, der.sequence(der.integer(3), der.explicit(0, originator), algorithm, keys))


def _spki_members(public: ec.EllipticCurvePublicKey) -> list[der.Element]:
    return der.parse(public_key_info(public)).children()


def _transported(device: x509.Certificate, public: rsa.RSAPublicKey, secret: bytes) -> bytes:
    #   KeyTransRecipientInfo ::= SEQUENCE { version, rid, keyEncryptionAlgorithm, encryptedKey }
    oaep = asymmetric_padding.OAEP(asymmetric_padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    sha256 = der.sequence(der.oid(_SHA256), der.NULL)
    parameters = der.sequence(der.explicit(0, sha256), der.explicit(1, der.sequence(der.oid(_MGF1), sha256)))
    recipient = der.implicit(0, der.octet_string(_key_id(device)))
    algorithm = der.sequence(der.oid(_RSAES_OAEP), parameters)
    return der.sequence(der.integer(2), recipient, algorithm, der.octet_string(public.encrypt(secret, oaep)))
