"""Keys in a token: pyca's builders and signers take them, and a lost session is no lost key."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from brski_common import cms, keys, pkcs11
from brski_common.certificates import Credential, to_pem
from brski_common.errors import Misconfigured
from tests.support.softhsm import PIN, SoftHsm
from tests.support.world import NOW

pytestmark = pytest.mark.xdist_group("softhsm")

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Token")])


def ec_key(softhsm: SoftHsm, name: str = "registrar") -> pkcs11.EllipticCurveKey:
    key = keys.load(softhsm.uri(name))
    assert isinstance(key, pkcs11.EllipticCurveKey)
    return key


def rsa_key(softhsm: SoftHsm) -> pkcs11.RsaKey:
    key = keys.load(softhsm.uri("old"))
    assert isinstance(key, pkcs11.RsaKey)
    return key


def self_signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> x509.Certificate:
    builder = x509.CertificateBuilder(NAME, NAME, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize(("name", "curve"), [("registrar", "secp256r1"), ("ca", "secp384r1")])
def test_an_ec_key_signs_and_its_public_half_verifies(softhsm: SoftHsm, name: str, curve: str) -> None:
    key = ec_key(softhsm, name)
    assert (key.curve.name, key.key_size) == (curve, key.public_key().key_size)
    key.public_key().verify(key.sign(b"data", ec.ECDSA(hashes.SHA256())), b"data", ec.ECDSA(hashes.SHA256()))


def test_what_is_hashed_already_is_signed_as_it_is(softhsm: SoftHsm) -> None:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"data")
    key, old = ec_key(softhsm), rsa_key(softhsm)
    prehashed = Prehashed(hashes.SHA256())
    done = digest.finalize()
    key.public_key().verify(key.sign(done, ec.ECDSA(prehashed)), b"data", ec.ECDSA(hashes.SHA256()))
    old.public_key().verify(old.sign(done, padding.PKCS1v15(), prehashed), b"data", padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda found: found.name)
def test_an_rsa_key_signs_with_pkcs1_padding(softhsm: SoftHsm, algorithm: hashes.HashAlgorithm) -> None:
    key = rsa_key(softhsm)
    assert key.key_size == 2048
    signature = key.sign(b"data", padding.PKCS1v15(), algorithm)
    key.public_key().verify(signature, b"data", padding.PKCS1v15(), algorithm)


def test_an_rsa_key_refuses_other_paddings(softhsm: SoftHsm) -> None:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    with pytest.raises(UnsupportedAlgorithm, match=r"PKCS #1 v1\.5"):
        rsa_key(softhsm).sign(b"data", pss, hashes.SHA256())


@pytest.mark.parametrize("name", ["registrar", "ca", "old"])
def test_the_builders_take_a_key_in_a_token(softhsm: SoftHsm, name: str) -> None:
    key = keys.load(softhsm.uri(name))
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    certificate = self_signed(key)
    certificate.verify_directly_issued_by(certificate)
    request = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, hashes.SHA256())
    assert request.is_signature_valid
    revocations = x509.CertificateRevocationListBuilder(NAME, NOW, NOW + timedelta(days=1)).sign(key, hashes.SHA256())
    assert revocations.is_signature_valid(key.public_key())


@pytest.mark.parametrize("name", ["registrar", "old"])
def test_cms_is_signed_with_a_key_in_a_token(softhsm: SoftHsm, name: str) -> None:
    key = keys.load(softhsm.uri(name))
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    certificate = self_signed(key)
    signed = cms.parse(cms.sign(b"{}", Credential(key, (certificate,))))
    assert cms.verify(signed) == certificate


def test_the_key_itself_never_comes_out(softhsm: SoftHsm) -> None:
    for key in (ec_key(softhsm), rsa_key(softhsm)):
        with pytest.raises(UnsupportedAlgorithm, match="stays in its token"):
            key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        with pytest.raises(UnsupportedAlgorithm):
            key.private_numbers()
        assert copy.copy(key) is copy.deepcopy(key) is key
        assert PIN not in repr(key)


def test_a_session_that_is_lost_is_opened_again(softhsm: SoftHsm) -> None:
    key = ec_key(softhsm)
    key.sign(b"before", ec.ECDSA(hashes.SHA256()))
    softhsm.library().reinitialize()
    signature = key.sign(b"after", ec.ECDSA(hashes.SHA256()))
    key.public_key().verify(signature, b"after", ec.ECDSA(hashes.SHA256()))


def test_two_keys_of_a_token_share_its_session(softhsm: SoftHsm) -> None:
    first, second = ec_key(softhsm), ec_key(softhsm, "ca")
    for key in (first, second, first):
        key.public_key().verify(key.sign(b"data", ec.ECDSA(hashes.SHA256())), b"data", ec.ECDSA(hashes.SHA256()))


def test_many_threads_sign_with_one_key(softhsm: SoftHsm) -> None:
    key = ec_key(softhsm)
    start = threading.Barrier(4)

    def sign(number: int) -> None:
        start.wait()
        for step in range(25):
            data = b"%d/%d" % (number, step)
            key.public_key().verify(key.sign(data, ec.ECDSA(hashes.SHA256())), data, ec.ECDSA(hashes.SHA256()))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(sign, range(4)))


def test_a_key_is_found_by_its_id_alone(softhsm: SoftHsm) -> None:
    by_id = keys.load(softhsm.uri("registrar").replace("object=registrar", "id=%01;type=private"))
    assert by_id.public_key() == ec_key(softhsm).public_key()


def test_a_credential_of_the_token_is_checked_against_its_certificate(softhsm: SoftHsm, tmp_path: Path) -> None:
    (tmp_path / "right.pem").write_bytes(to_pem(self_signed(ec_key(softhsm))))
    (tmp_path / "wrong.pem").write_bytes(to_pem(self_signed(ec_key(softhsm, "ca"))))
    assert keys.load_credential(softhsm.uri("registrar"), tmp_path / "right.pem").certificate.subject == NAME
    with pytest.raises(Misconfigured, match="key-does-not-match") as caught:
        keys.load_credential(softhsm.uri("registrar", query=f"&pin-value={PIN}"), tmp_path / "wrong.pem")
    assert PIN not in str(caught.value)


def test_the_pin_comes_from_the_uri_a_file_or_the_callback(softhsm: SoftHsm) -> None:
    asked: list[str] = []

    def secret(what: str) -> str:
        asked.append(what)
        return PIN

    for query in (f"&pin-value={PIN}", None, ""):
        softhsm.library().reinitialize()  # nobody is logged in
        keys.load(softhsm.uri("registrar", query=query), secret)
    assert asked == ["pkcs11:token=brski-test;object=registrar"]


def test_a_wrong_pin_is_said_and_not_shown(softhsm: SoftHsm) -> None:
    softhsm.library().reinitialize()
    with pytest.raises(Misconfigured) as caught:
        keys.load(softhsm.uri("registrar", query="&pin-value=1234-wrong"))
    assert caught.value.reason == "pkcs11-pin-wrong"
    assert "1234-wrong" not in str(caught.value)


def test_a_missing_pin_is_said(softhsm: SoftHsm) -> None:
    softhsm.library().reinitialize()
    with pytest.raises(Misconfigured, match="pkcs11-pin-missing"):
        keys.load(softhsm.uri("registrar", query=""))
    with pytest.raises(Misconfigured, match="pkcs11-pin-missing"):
        keys.load(softhsm.uri("registrar", query="&pin-source=file:/nowhere/pin"))


def test_the_module_may_come_from_the_environment(softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"pkcs11:token={softhsm.token};object=ca?pin-value={PIN}"
    with pytest.raises(Misconfigured, match="BRSKI_PKCS11_MODULE"):
        keys.load(uri)
    monkeypatch.setenv("BRSKI_PKCS11_MODULE", softhsm.module)
    assert keys.load(uri).public_key() == ec_key(softhsm, "ca").public_key()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("object=registrar", "object=nobody", "pkcs11-key-missing"),
        ("token=brski-test", "token=other", "pkcs11-token-missing"),
        ("libsofthsm2.so", "nothing.so", "pkcs11-module-unusable"),
        ("object=", "colour=", "pkcs11-uri-malformed"),
        ("object=registrar", "type=private", "pkcs11-uri-malformed"),
        ("object=registrar", "object=registrar;type=public", "pkcs11-uri-malformed"),
        ("object=registrar", "object=registrar;object=ca", "pkcs11-uri-malformed"),
    ],
)
def test_a_uri_that_leads_nowhere_is_refused(softhsm: SoftHsm, old: str, new: str, reason: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        keys.load(softhsm.uri("registrar").replace(old, new))
    assert caught.value.reason == reason
