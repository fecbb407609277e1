"""Keys made by the registrar: off by default, enveloped for the device, read by OpenSSL."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from brski_common import der, est
from brski_common.certificates import Credential, public_key_info, to_pem
from brski_common.csrwishes import KeyWish
from brski_common.errors import Refused
from brski_registrar import serverkeys
from tests.support.plant import EST, Line, Plant, reason_of
from tests.support.world import Domain, Manufacturer, key_for

DOMAIN = Domain()
KEY_ID, SYMMETRIC = serverkeys.ASYMMETRIC_DECRYPT_KEY_ID, serverkeys.DECRYPT_KEY_ID
SIGNED_DATA = "1.2.840.113549.1.7.2"


def csr_naming(oid: str | None = None, value: bytes = b"") -> bytes:
    """A request whose key and signature do not count, with an attribute that names a key for the envelope."""
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key_for("ignored"), hashes.SHA256())
    version, subject, key = [each.encoded for each in der.parse(csr.tbs_certrequest_bytes).children()[:3]]
    named = b"" if oid is None else der.sequence(der.oid(oid), der.set_of(der.octet_string(value)))
    whole = der.parse(csr.public_bytes(serialization.Encoding.DER)).children()
    information = der.sequence(version, subject, key, der.explicit(0, named))
    return der.sequence(information, *(each.encoded for each in whole[1:]))


def key_id(credential: Credential) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(credential.certificate.public_key()).digest


async def ask(line: Line, csr: bytes) -> tuple[int, str, bytes, str]:
    response = await line.post(f"{EST}/serverkeygen", est.encode_body(csr), est.PKCS10)
    return response.status, reason_of(response), response.body, response.headers["Content-Type"]


def opened_by_openssl(envelope: bytes, device: Credential, folder: Path) -> bytes:
    """The key package that `openssl cms` finds in an envelope, after it verified the registrar's signature."""

    def file(name: str, content: bytes) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    def openssl(*arguments: str) -> bytes:
        return subprocess.run(["openssl", "cms", *arguments], check=True, capture_output=True).stdout

    private = device.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key, certificate = file("key.pem", private), file("cert.pem", to_pem(device.certificate))
    sealed = file("envelope.der", envelope)
    bare = openssl("-decrypt", "-binary", "-inform", "DER", "-in", sealed, "-inkey", key, "-recip", certificate)
    signed = file("signed.der", der.sequence(der.oid(SIGNED_DATA), der.explicit(0, bare)))
    root = file("root.pem", to_pem(DOMAIN.root.certificate))
    return openssl(
        "-verify", "-binary", "-inform", "DER", "-in", signed, "-CAfile", root, "-purpose", "any", "-no_check_time"
    )


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="Debian package openssl")


@needs_openssl
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA-2048"])
@pytest.mark.req("E-18")
def test_openssl_opens_the_envelope(kind: str, tmp_path: Path) -> None:
    maker = Manufacturer(name=f"Maker {kind}", kind=kind)
    # An identifier of a key is looked for in the certificate, so this one has it there.
    ski = x509.SubjectKeyIdentifier.from_public_key(key_for(f"Maker {kind} device SN", kind).public_key())
    device = maker.idevid("SN", extensions=[(ski, False)])
    key = ec.generate_private_key(ec.SECP256R1())
    envelope = serverkeys.enveloped(key, DOMAIN.registrar, device.certificate)
    assert serverkeys.plain(key) not in envelope
    (package,) = der.parse(opened_by_openssl(envelope, device, tmp_path)).children()
    assert package.encoded == serverkeys.plain(key)


@pytest.mark.parametrize(
    ("wish", "kind"),
    [
        (None, ec.EllipticCurvePrivateKey),
        (KeyWish.of("P-384"), ec.EllipticCurvePrivateKey),
        (KeyWish.of("RSA-2048"), rsa.RSAPrivateKey),
        (KeyWish.of("Ed25519"), ed25519.Ed25519PrivateKey),
    ],
)
def test_the_key_is_of_the_kind_that_was_asked_for(wish: KeyWish | None, kind: type) -> None:
    made = serverkeys.make(wish, x509.load_der_x509_csr(csr_naming()))
    assert isinstance(made.key, kind)
    assert made.csr.is_signature_valid
    assert "PrivateKey" not in repr(made)


def test_no_key_of_an_unknown_kind_and_no_envelope_for_a_key_that_cannot_open_it() -> None:
    with pytest.raises(Refused, match="serverkeygen-kind-unknown"):
        serverkeys.make(KeyWish.of("brainpoolP256r1"), x509.load_der_x509_csr(csr_naming()))
    device = Manufacturer(name="Edwards", kind="Ed25519").idevid("SN")
    with pytest.raises(Refused, match="serverkeygen-key-unusable"):
        serverkeys.enveloped(ec.generate_private_key(ec.SECP256R1()), DOMAIN.registrar, device.certificate)


@pytest.mark.req("E-18")
async def test_no_key_is_made_unless_the_operator_wants_it(plant: Plant) -> None:
    async with plant.vouched() as line:
        assert (await ask(line, csr_naming()))[:2] == (403, "serverkeygen-not-offered")
        await plant.change_domain(serverkeygen=True)
        assert (await ask(line, csr_naming()))[:2] == (403, "serverkeygen-envelope-required")


@needs_openssl
@pytest.mark.req("E-18")
async def test_a_device_gets_a_key_in_an_envelope(plant: Plant) -> None:
    await plant.change_domain(serverkeygen=True)
    async with plant.vouched() as line:
        assert line.credential is not None
        csr = csr_naming(KEY_ID, key_id(line.credential))
        status, _, body, content_type = await ask(line, csr)
        assert status == 200
        answer = est.read_server_key(content_type, body)
        (certificate,) = est.parse_certs_only(answer.certificates)
        assert answer.is_encrypted
        assert public_key_info(certificate.public_key()) != public_key_info(key_for("ignored").public_key())
        assert [entry.event for entry in await plant.store.journal()][-1] == "certificate-enroll"


@pytest.mark.parametrize(
    ("oid", "reason"), [(KEY_ID, "serverkeygen-key-unknown"), (SYMMETRIC, "serverkeygen-key-unknown")]
)
@pytest.mark.req("E-18")
async def test_an_envelope_for_an_unknown_key_is_an_error(plant: Plant, oid: str, reason: str) -> None:
    await plant.change_domain(serverkeygen=True, unsafe_plain_server_keys=True)
    async with plant.vouched() as line:
        assert (await ask(line, csr_naming(oid, b"x" * 20)))[:2] == (403, reason)
        assert (await plant.told(line.serial))[-1] == ("enroll-refused", reason)


@pytest.mark.req("E-18", "EC-09")
async def test_a_key_in_the_clear_only_by_a_loud_option(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    await plant.change_domain(serverkeygen=True, unsafe_plain_server_keys=True)
    async with plant.vouched() as line:
        status, _, body, content_type = await ask(line, csr_naming())
        assert status == 200
        answer = est.read_server_key(content_type, body)
        key = serialization.load_der_private_key(answer.key, None)
        (certificate,) = est.parse_certs_only(answer.certificates)
        assert public_key_info(key.public_key()) == public_key_info(certificate.public_key())  # type: ignore[arg-type] # of the kinds that are made
        assert answer.key.hex() not in caplog.text + repr(answer)
        assert all(answer.key not in (entry.detail.encode()) for entry in await plant.store.journal())


@pytest.mark.req("E-18", "EI-12")
async def test_nobody_gets_a_key_without_a_voucher(plant: Plant) -> None:
    await plant.change_domain(serverkeygen=True, unsafe_plain_server_keys=True)
    async with plant.connect(await plant.admitted()) as line:
        assert (await ask(line, csr_naming()))[:2] == (403, "voucher-not-requested")
