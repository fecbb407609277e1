"""`brski inspect` on files as people have them: chains, states, keys, manifests; and on dates that have passed."""

import base64
import io
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from rich.console import Console
from typer.testing import CliRunner

from brski_common import artifact
from brski_common.artifact import Format
from brski_common.certificates import Credential, domain_id, fingerprint, to_der, to_pem
from brski_common.errors import Malformed
from brski_common.paths import Anchors
from brski_common.voucher import Assertion, Voucher
from brski_interop.commands import app
from brski_interop.inspect_view import show
from brski_interop.inspection import Check, Report, inspect
from brski_pledge.state import IDENTITY, Enrollment, Folder
from tests.support.world import NOW, Domain, Manufacturer

UNCHECKED = Check(Anchors(), NOW)


# Files with more than one thing in them


def test_the_cas_that_follow_a_certificate_lead_to_the_anchor() -> None:
    device = Manufacturer().idevid("SN-1")
    chain = to_pem(*device.chain)
    report = inspect(chain, Check(Manufacturer().idevid_anchors, NOW))
    assert (report.kind, report.format, report.signature, report.trust) == ("certificate", "der", "valid", "trusted")
    alone = inspect(to_pem(device.certificate), Check(Manufacturer().idevid_anchors, NOW))
    assert (alone.trust, alone.notes) == ("untrusted", ())
    assert inspect(chain, Check(Domain().anchors, NOW)).trust == "untrusted"


def test_it_is_said_whose_certificates_follow() -> None:
    device = Manufacturer().idevid("SN-1")
    (note,) = inspect(to_pem(*device.chain), UNCHECKED).notes
    assert note.startswith(f"{len(device.chain) - 1} more certificate")
    assert device.chain[1].subject.rfc4514_string() in note
    (note,) = inspect(to_pem(*[device.certificate] * 20), UNCHECKED).notes
    assert note.startswith("19 more certificates follow")
    assert note.endswith("; …")


def test_a_certificate_that_cannot_be_read_spoils_not_the_others() -> None:
    device = Manufacturer().idevid("SN-1")
    broken = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    data = to_pem(device.certificate) + broken + to_pem(*device.chain[1:])
    report = inspect(data, Check(Manufacturer().idevid_anchors, NOW))
    assert report.trust == "trusted"
    assert report.notes[0].startswith("certificate 2 of this file cannot be read: certificate-malformed")


def panel(report: Report) -> str:
    out = io.StringIO()
    show(report, Console(file=out, width=200))
    return out.getvalue()


def kept(folder: Path) -> Credential:
    """What a pledge of the domain keeps in `folder`."""
    ldevid = Domain().ldevid("SN-1")
    Folder(folder).save(
        Enrollment(
            credential=ldevid,
            anchors=Domain().anchors.certificates,
            voucher=dated(),
            pinned=Domain().root.certificate,
            registrar=Domain().registrar.certificate,
            host="127.0.0.1",
            port=8443,
        )
    )
    return ldevid


def test_a_pledges_state_is_named_and_its_certificate_shown_but_not_its_key(tmp_path: Path) -> None:
    ldevid = kept(tmp_path)
    data = (tmp_path / IDENTITY).read_bytes()
    report = inspect(data, Check(Domain().anchors, NOW))
    assert (report.kind, report.trust) == ("certificate", "trusted")
    assert report.content["fingerprint-sha256"] == fingerprint(ldevid.certificate).hex()
    assert "state of a pledge" in report.notes[0]
    assert "`brski-pledge status`" in report.notes[0]
    secret = data.split(b"-----\n")[1].split(b"\n-----")[0].decode()
    shown = panel(report) + json.dumps(report.as_json()) + repr(report)
    assert not any(line in shown for line in secret.splitlines())


def test_a_key_beside_a_certificate_is_mentioned_and_not_shown() -> None:
    device = Manufacturer().idevid("SN-1")
    key = device.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    report = inspect(key + to_pem(device.certificate), UNCHECKED)
    assert report.notes == ("a private key stands in this file too: nothing of it is shown",)
    assert report.as_json()["notes"] == list(report.notes)
    with pytest.raises(Malformed, match="private-key"):
        inspect(key, UNCHECKED)


def test_people_read_the_standards_words_and_both_forms_of_a_domain_id() -> None:
    root = Domain().root.certificate
    report = inspect(to_pem(root), UNCHECKED)
    assert report.content["key-usage"] == ["keyCertSign", "cRLSign"]
    shown = panel(report)
    assert "Certificate · PEM" in shown
    assert "Certificate · DER" in panel(inspect(to_der(root), UNCHECKED))
    assert str(report.content["domain-id"]) in shown
    assert domain_id(root).hex() in shown


def test_a_voucher_in_text_is_titled_so() -> None:
    voucher = dated()
    assert "Voucher · CMS in base64" in panel(inspect(base64.b64encode(voucher), UNCHECKED))
    assert "Voucher · CMS in hex" in panel(inspect(voucher.hex().encode(), UNCHECKED))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"serial-number": "1", "idevid-issuer": "A", "certificate": "a", "chain": "b"}, "this is the manifest that"),
        ({"url": "x", "pledges": []}, r"this JSON \(url, pledges\) is no voucher"),
        ({"\x1b[2J": {}}, r"this JSON \(\ufffd\[2J\) is no voucher"),
        ({}, r"this JSON \(empty\) is no voucher"),
    ],
)
def test_json_of_another_kind_is_said_to_be_that(document: dict[str, object], words: str) -> None:
    with pytest.raises(Malformed, match=f"artefact-unknown: {words}"):
        inspect(json.dumps(document).encode(), UNCHECKED)


# Dates


def dated(created_on: datetime = NOW, expires_on: datetime = NOW + timedelta(days=1)) -> bytes:
    model = Voucher(
        serial_number="SN-1",
        assertion=Assertion.LOGGED,
        pinned_domain_cert=to_der(Domain().root.certificate),
        created_on=created_on,
        expires_on=expires_on,
    )
    return artifact.sign(model, Format.CMS, Manufacturer().voucher_signer, signing_time=NOW)


@pytest.mark.req("PV-06")
def test_a_voucher_that_expired_is_found_and_no_longer_trusted() -> None:
    anchors, later = Manufacturer().voucher_anchors, NOW + timedelta(days=1, seconds=1)
    assert inspect(dated(), Check(anchors, NOW + timedelta(days=1))).trust == "trusted"
    report = inspect(dated(), Check(anchors, later))
    assert (report.signature, report.trust, report.acceptable) == ("valid", "untrusted", False)
    assert [finding.split()[0] for finding in report.findings] == ["PV-06"]
    assert report.failures[0].startswith("voucher-out-of-date")


@pytest.mark.req("PV-06")
def test_without_anchors_nothing_is_distrusted_and_the_expiry_is_only_found() -> None:
    report = inspect(dated(), Check(Anchors(), NOW + timedelta(days=2)))
    assert (report.trust, report.acceptable) == ("unchecked", True)
    assert report.findings[0].startswith("PV-06 the voucher expired: expires-on is ")


@pytest.mark.req("ST-06")
def test_a_voucher_from_the_future_is_found_unless_two_clocks_explain_it() -> None:
    anchors, hour = Manufacturer().voucher_anchors, timedelta(hours=1)
    assert inspect(dated(created_on=NOW + timedelta(minutes=4)), Check(anchors, NOW)).trust == "trusted"
    report = inspect(dated(created_on=NOW + hour), Check(anchors, NOW))
    assert (report.trust, report.findings[0].split()[0]) == ("untrusted", "ST-06")


# The command


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["inspect", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_an_expired_voucher_is_exit_one_where_trust_was_asked_for(tmp_path: Path) -> None:
    voucher, anchor = tmp_path / "SN.vcj", tmp_path / "voucher.pem"
    voucher.write_bytes(dated())
    anchor.write_bytes(to_pem(Manufacturer().voucher_root.certificate))
    asked = (str(voucher), "--anchor", str(anchor), "--at")
    assert run(*asked, NOW.isoformat())[0] == 0
    code, out, _ = run(*asked, (NOW + timedelta(days=2)).isoformat())
    assert code == 1
    assert "PV-06" in out


def test_the_file_that_is_missing_is_the_one_that_is_named(tmp_path: Path) -> None:
    voucher, anchor, missing = tmp_path / "SN.vcj", tmp_path / "voucher.pem", tmp_path / "nope.pem"
    voucher.write_bytes(dated())
    anchor.write_bytes(to_pem(Manufacturer().voucher_root.certificate))
    words = f"brski: file-unreadable: {missing}: No such file or directory\n"
    assert run(str(voucher), "--anchor", str(missing)) == (1, "", words)
    assert run(str(voucher), "--anchor", str(anchor), "--anchor", str(missing)) == (1, "", words)
    assert run(str(missing), "--anchor", str(anchor)) == (1, "", words)
    anchor.write_bytes(b"nothing")
    assert str(anchor) in run(str(voucher), "--anchor", str(anchor))[2]
