"""An IDevID key that never leaves its TPM, HSM or secure element, used through a callback.

`CallbackKey` is a pyca private key whose `sign` asks the device. It signs voucher requests (and
anything else pyca's builders take a key for). What it cannot do is TLS client authentication over the
built-in transport: pyOpenSSL wants the key's bytes, its OpenSSL loads no providers or engines, and the
private-key callback of BoringSSL does not exist in OpenSSL. A device whose key cannot be read gives
`Pledge` a `transport` of its own, over a TLS library that can reach the key (see the README).
"""

from collections.abc import Callable
from typing import NoReturn, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.utils import Buffer

SignDigest = Callable[[bytes], bytes]


class CallbackKey(ec.EllipticCurvePrivateKey):
    """An EC key behind `sign_digest`, which takes a digest and returns r and s, each as long as the curve, joined.

    That raw form is what secure elements and PKCS #11 tokens return. The callback may block: a
    signature is needed once for each attempt to join. What it raises comes out of `sign`.
    """

    def __init__(self, public_key: ec.EllipticCurvePublicKey, sign_digest: SignDigest) -> None:
        self._public, self._sign_digest = public_key, sign_digest

    def __repr__(self) -> str:
        return f"<CallbackKey {self.curve.name}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    @property
    def curve(self) -> ec.EllipticCurve:
        """The key's curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve."""
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign `data`; the DER Ecdsa-Sig-Value. Raises ValueError if the callback returns something else."""
        pair = self._sign_digest(_digest(data, signature_algorithm.algorithm))
        half = (self.key_size + 7) // 8
        if len(pair) != 2 * half:
            raise ValueError(f"sign_digest returned {len(pair)} bytes, r and s of {half} bytes each are wanted")
        return encode_dss_signature(int.from_bytes(pair[:half], "big"), int.from_bytes(pair[half:], "big"))

    def private_bytes(self, *_arguments: object, **_named: object) -> NoReturn:
        """Not possible: that is the point."""
        raise UnsupportedAlgorithm("the private key stays where it is")

    private_numbers = exchange = private_bytes


def _digest(data: Buffer, algorithm: object) -> bytes:
    if isinstance(algorithm, Prehashed):
        return bytes(data)
    if not isinstance(algorithm, hashes.HashAlgorithm):
        raise UnsupportedAlgorithm(f"{algorithm} is no hash")
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()
