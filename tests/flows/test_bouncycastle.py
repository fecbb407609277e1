"""BouncyCastle at the other end: its CMS read by us, ours by it, and a device that it enrolls (RFC 8995, 5.9)."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from brski_common import artifact, cms
from brski_common.artifact import Format
from brski_common.certificates import Credential, load_pem, public_key_info, serial_number, to_pem
from brski_common.encoding import write_json
from brski_common.keys import load
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from tests.flows.conftest import DemoWorld
from tests.support.bouncycastle import BouncyPeer
from tests.support.foreign import BRSKI
from tests.support.world import NOW, Manufacturer

pytestmark = pytest.mark.xdist_group("bouncycastle")

KINDS = ["P-256", "P-384", "RSA-2048", "Ed25519"]


def save(credential: Credential, folder: Path) -> tuple[Path, Path]:
    """Key and chain as PEM files."""
    key, chain = folder / "key.pem", folder / "chain.pem"
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(credential.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    chain.write_bytes(to_pem(*credential.chain))
    return key, chain


@pytest.mark.req("VA-05", "V-CMS-02", "AR-07")
@pytest.mark.parametrize("content_type", [cms.ID_CT_ANIMA_JSON_VOUCHER, cms.ID_DATA])
@pytest.mark.parametrize("kind", KINDS)
def test_what_bouncycastle_signs_is_verified(
    bouncycastle: BouncyPeer, tmp_path: Path, kind: str, content_type: str
) -> None:
    device = Manufacturer(name=f"Maker {kind}", kind=kind).idevid("SN-1")
    key, chain = save(device, tmp_path)
    request = VoucherRequest(serial_number="SN-1", assertion=Assertion.PROXIMITY, nonce="AAAAAAAAAAA=")
    (tmp_path / "content").write_bytes(write_json(request))
    bouncycastle("sign", key, chain, content_type, tmp_path / "content", tmp_path / "signed")
    parsed = artifact.parse_voucher_request((tmp_path / "signed").read_bytes(), Format.CMS)
    assert parsed.verify_signed_by(device.certificate).value == request
    assert parsed.verify(Manufacturer(name=f"Maker {kind}", kind=kind).idevid_anchors, None).path == device.chain


@pytest.mark.req("V-CMS-01", "AR-07")
@pytest.mark.parametrize("kind", KINDS)
def test_bouncycastle_verifies_what_we_sign_and_refuses_a_flipped_byte(
    bouncycastle: BouncyPeer, tmp_path: Path, kind: str
) -> None:
    maker = Manufacturer(name=f"Maker {kind}", kind=kind)
    voucher = Voucher(serial_number="SN-1", assertion=Assertion.LOGGED, created_on=NOW)
    signed = artifact.sign(voucher, Format.CMS, maker.voucher_signer, signing_time=NOW)
    anchor, file = tmp_path / "anchor.pem", tmp_path / "signed"
    anchor.write_bytes(to_pem(maker.voucher_root.certificate))
    file.write_bytes(signed)
    assert bouncycastle("verify", anchor, file) == write_json(voucher)
    file.write_bytes(signed[:-1] + bytes([signed[-1] ^ 1]))
    assert bouncycastle.run("verify", anchor, file).returncode != 0


@pytest.mark.req("E-11", "E-13", "EI-06")
def test_bouncycastle_enrolls_a_device(bouncycastle: BouncyPeer, demo_world: DemoWorld, tmp_path: Path) -> None:
    pledge = demo_world.fresh_pledge(tmp_path)
    device = pledge.device
    with pledge.session(demo_world.registrar) as session:
        (tmp_path / "content").write_bytes(pledge.voucher_request_data(session.server_certificate))
        bouncycastle(
            "sign", device["key"], device["chain"], cms.ID_CT_ANIMA_JSON_VOUCHER, tmp_path / "content", tmp_path / "pvr"
        )
        answer = pledge.request_voucher(session, (tmp_path / "pvr").read_bytes())
        assert answer.status == 200, answer.body
        (tmp_path / "voucher").write_bytes(answer.body)
        assert session.post_json(f"{BRSKI}/voucher_status", {"version": 1, "status": True}).status == 200
    assert b'"ietf-voucher:voucher"' in bouncycastle("verify", pledge.anchors["masa_voucher"], tmp_path / "voucher")
    authority = demo_world.registrar.removeprefix("https://")
    subject = f"SERIALNUMBER={device['serial']}"
    files = (tmp_path / "ldevid.key", tmp_path / "ldevid.pem")
    said = bouncycastle(
        "enroll", authority, device["key"], device["chain"], subject, *files, pledge.anchors["domain_ca"]
    )
    assert b"csrattrs true" in said
    (ldevid,) = load_pem(files[1].read_bytes())
    own = load(f"file:{files[0]}")
    assert serial_number(ldevid) == device["serial"]
    assert public_key_info(ldevid.public_key()) == public_key_info(own.public_key())
