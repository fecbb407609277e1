"""Keys that cannot be taken out: what a PKCS#11 object looks like to the suite, without a token.

They offer `sign` and `public_key`, which is all a token can do; everything else fails as it would there.
"""

from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.utils import Buffer

from brski_common.certificates import Credential


def _only_signs(*_: object, **__: object) -> NoReturn:
    raise NotImplementedError("the key stays in its token")


class TokenEcKey(ec.EllipticCurvePrivateKey):
    """An EC key in a token."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Let the token sign."""
        return self._key.sign(data, signature_algorithm)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._key.public_key()

    curve = key_size = property(_only_signs)
    exchange = private_numbers = private_bytes = __copy__ = __deepcopy__ = _only_signs


class TokenRsaKey(rsa.RSAPrivateKey):
    """An RSA key in a token."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key

    def sign(
        self, data: Buffer, padding: AsymmetricPadding, algorithm: Prehashed | hashes.HashAlgorithm | NoDigestInfo
    ) -> bytes:
        """Let the token sign."""
        return self._key.sign(bytes(data), padding, algorithm)

    def public_key(self) -> rsa.RSAPublicKey:
        """The public half."""
        return self._key.public_key()

    key_size = property(_only_signs)
    decrypt = private_numbers = private_bytes = __copy__ = __deepcopy__ = _only_signs


def in_token(credential: Credential) -> Credential:
    """The same credential with its key in a token."""
    if isinstance(credential.key, ec.EllipticCurvePrivateKey):
        return Credential(TokenEcKey(credential.key), credential.chain)
    assert isinstance(credential.key, rsa.RSAPrivateKey)
    return Credential(TokenRsaKey(credential.key), credential.chain)
