"""A key that cannot be read: what it signs, and a whole onboarding over a transport of the device's own."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from brski_common import tls
from brski_common.certificates import Credential, PrivateKey
from brski_common.errors import BrskiError, Misconfigured
from brski_pledge import CallbackKey, Pledge, PledgeSettings, Transport, actions
from brski_pledge.transport import Report
from tests.support.registrar_fake import Answer, FakeRegistrar
from tests.support.world import Manufacturer, key_for

MAKER = Manufacturer()


@dataclass
class SecureElement:
    """A chip that signs digests and keeps its key."""

    curve: str = "P-256"
    asked: list[bytes] = field(default_factory=list)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        public = self._key.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        return public

    def sign_digest(self, digest: bytes) -> bytes:
        self.asked.append(digest)
        key = self._key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        algorithm = hashes.SHA384() if self.curve == "P-384" else hashes.SHA256()
        size = (key.key_size + 7) // 8
        pair = decode_dss_signature(key.sign(digest, ec.ECDSA(Prehashed(algorithm))))
        return b"".join(number.to_bytes(size, "big") for number in pair)

    @property
    def _key(self) -> PrivateKey:
        return key_for("secure element", self.curve)


def hidden(curve: str = "P-256") -> CallbackKey:
    chip = SecureElement(curve)
    return CallbackKey(chip.public_key(), chip.sign_digest)


@pytest.mark.parametrize(("curve", "algorithm"), [("P-256", hashes.SHA256()), ("P-384", hashes.SHA384())])
def test_what_the_chip_signs_verifies(curve: str, algorithm: hashes.HashAlgorithm) -> None:
    key = hidden(curve)
    key.public_key().verify(key.sign(b"data", ec.ECDSA(algorithm)), b"data", ec.ECDSA(algorithm))
    digest = hashes.Hash(algorithm)
    digest.update(b"data")
    signature = key.sign(digest.finalize(), ec.ECDSA(Prehashed(algorithm)))
    key.public_key().verify(signature, b"data", ec.ECDSA(algorithm))


def test_the_key_has_no_bytes() -> None:
    key = hidden()
    with pytest.raises(UnsupportedAlgorithm):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(UnsupportedAlgorithm):
        key.private_numbers()
    assert repr(key) == "<CallbackKey secp256r1>"
    assert copy.deepcopy(key) is copy.copy(key) is key


def test_a_chip_that_returns_something_else_is_said_so() -> None:
    key = CallbackKey(SecureElement().public_key(), lambda _: b"short")
    with pytest.raises(ValueError, match="5 bytes"):
        key.sign(b"", ec.ECDSA(hashes.SHA256()))


def test_the_built_in_transport_says_that_it_needs_the_bytes() -> None:
    credential = Credential(hidden(), MAKER.idevid("SN-1", key=hidden()).chain)
    with pytest.raises(Misconfigured, match="tls-key-not-usable"):
        tls.client_context(credential, judge=lambda _: None)


class InMemory:
    """A device's own transport: here, straight into the registrar."""

    def __init__(self, registrar: FakeRegistrar, report: Report) -> None:
        self._registrar, self._report = registrar, report

    def connect(self, action: actions.Connect) -> None:
        try:
            action.judge(self._registrar.peer)
        except BrskiError as error:
            self._report(actions.Lost(action.attempt, error.reason, error.detail))
        else:
            self._registrar.clients.append(action.credential)
            self._report(actions.Connected(action.attempt, self._registrar.peer))

    def send(self, action: actions.Send) -> None:
        answer = self._registrar.answer(action)
        assert isinstance(answer, Answer)
        self._report(actions.Response(action.attempt, answer.status, answer.headers, answer.body))

    def fetch(self, action: actions.FetchRevocationLists) -> None:
        self._report(actions.RevocationLists(action.attempt, {}))

    def close(self, attempt: int) -> None:
        pass

    async def aclose(self) -> None:
        pass


@pytest.mark.req("AR-06", "VR-03")
async def test_a_device_whose_key_cannot_be_read_onboards_over_its_own_transport(tmp_path: Path) -> None:
    key = hidden()
    registrar = FakeRegistrar(maker=MAKER)

    def transport(report: Report) -> Transport:
        return InMemory(registrar, report)

    settings = PledgeSettings(mdns=False, registrars=("registrar.example:443",), once=True)
    idevid = MAKER.idevid("SN-1", key=key)
    pledge = Pledge(settings, idevid, MAKER.voucher_anchors, state=tmp_path, transport=transport)
    outcome = await pledge.onboard()
    assert outcome.is_operational
    assert registrar.clients[0].key is key
