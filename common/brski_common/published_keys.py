"""Keys whose private half anybody can read in a specification: nobody may be trusted because of them.

Only hashes stand here: SHA-256 of the DER SubjectPublicKeyInfo.
"""

import hashlib
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from brski_common.certificates import PublicKey
from brski_common.errors import Misconfigured

PUBLISHED_TEST_KEYS: Final = frozenset(
    map(
        bytes.fromhex,
        (
            # RFC 8995, C.1: manufacturer CA, MASA, owner CA, registrar, pledge
            "8c77bf892a24f5b06fc914c085efd10e36b0d37a61f0c48868d02e6ccc36d35d",
            "8291c7534b666d25a0525ed22f8d7218f1074061058793399059b580cf45968a",
            "310ec5b23d3aa723602cddb4f4597910079e4d435b5553ca2c98f28b0a9c6a51",
            "3b2eb0daf4bc6abf26fc5b441eececeec97b2d20f7a56f724c280279ca082f73",
            "c211bfe591bea4e460bfc686ece9c676819ae730395aecb451f4c9f024e9ad23",
            # draft-ietf-anima-constrained-voucher, C: domain CA, MASA, MASA CA, pledge, registrar
            "d01e3f4aaf29e5d5ab05ee0ea1316700a3812234d16a59fefec4d3c6fe97e0b1",
            "631c0427f322855955ec78bfc49c5d5e767ae5aa8a8eb47525aeceed5d6f1595",
            "35144edf8d07aff9b31a12e213472fe59099a52bdd7da8966d90bead7fb7d2fe",
            "ab1ba62219978138606d6ed571cb5b87b341b6c1cadb04b4963a9245c73da296",
            "39bc09797383bfd7dcb42d3762b5a2d77b340cdecfc49e3a47e48b077e0f3a91",
            # draft-ietf-anima-jws-voucher, A: MASA, pledge, registrar
            "49dd1e5ffd625a36853c2a5ce706359c85b16cb7f398dd5ec8777c3b8638d066",
            "73a0b829905e7261c7425040e5b6b62a498f2c4600d426eb89e53de6aa5985c3",
            "acf28384ba8a7b37147cad188af6e0f486ecde95866aba8c5c762d3afa85cd36",
            # RFC 9148, A.4: the key that the server made
            "deb0db5014e9a34bdbd9075945019f74834ccdcd4a0c6f81eabd093c38d1492e",
        ),
    )
)


def refuse_published_key(public_key: PublicKey) -> None:
    """Raise Misconfigured `published-test-key` if the private half of this key stands in a specification."""
    digest = hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    if digest in PUBLISHED_TEST_KEYS:
        raise Misconfigured(
            "published-test-key", f"everybody has the private key of {digest.hex()}: it stands in a specification"
        )
