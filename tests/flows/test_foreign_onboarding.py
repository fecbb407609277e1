"""Whole onboardings by clients that have not a line of ours: openssl, `ssl`, `http.client`, curl, strongSwan."""

import base64
import json
import ssl
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.flows.conftest import DemoWorld
from tests.support.foreign import (
    BRSKI,
    EST,
    SECONDS,
    VOUCHER_TYPE,
    Answer,
    ForeignPledge,
    Session,
    certificates_in,
    openssl,
    program,
)

STATUS_OK = {"version": 1, "status": True}
TLS_VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["only TLS 1.2", "only TLS 1.3"]
)


def voucher_of(answer: Answer, pledge: ForeignPledge) -> dict[str, Any]:
    """The voucher's members after `openssl cms -verify`."""
    assert (answer.status, answer.media_type) == (200, VOUCHER_TYPE), answer.body
    return pledge.check_voucher(answer.body)


def check_pin(pinned_der: bytes, session: Session, folder: Path) -> None:
    """`openssl verify`: the chain the registrar showed leads to what the voucher pins (RFC 8995, 5.6.2)."""
    pinned, registrar = folder / "pinned.pem", folder / "registrar.pem"
    pinned.write_bytes(openssl("x509", "-inform", "DER", data=pinned_der))
    registrar.write_bytes(openssl("x509", "-inform", "DER", data=session.server_certificate))
    openssl("verify", "-partial_chain", "-purpose", "any", "-trusted", str(pinned), str(registrar))


def enroll(session: Session, pledge: ForeignPledge, subject: str | None = None) -> tuple[Path, Answer]:
    """Make a key and a request, and POST it to simpleenroll."""
    key, request = pledge.make_request(subject)
    return key, session.request("POST", f"{EST}/simpleenroll", request, Content_Type="application/pkcs10")


def join(world: DemoWorld, pledge: ForeignPledge, tls: ssl.TLSVersion | None = None) -> tuple[Path, Path]:
    """The whole of it; key and certificate of the LDevID."""
    with pledge.session(world.registrar, tls=tls) as session:
        voucher = voucher_of(pledge.request_voucher(session), pledge)
        assert voucher["serial-number"] == pledge.device["serial"]
        assert voucher["nonce"] == pledge.nonce
        assert voucher["assertion"] == "proximity"
        check_pin(base64.b64decode(voucher["pinned-domain-cert"]), session, pledge.folder)
        assert session.post_json(f"{BRSKI}/voucher_status", STATUS_OK).status == 200
        authorities = session.request("GET", f"{EST}/cacerts")
        assert (authorities.status, authorities.media_type) == (200, "application/pkcs7-mime")
        assert session.request("GET", f"{EST}/csrattrs").status in {200, 204}
        key, answer = enroll(session, pledge)
        assert (answer.status, answer.media_type) == (200, "application/pkcs7-mime"), answer.body
        assert tls is None or session.version == tls.name.replace("v1_", "v1.")
    certificate = pledge.save_certificate(answer)
    (pledge.folder / "cacerts.pem").write_bytes(certificates_in(authorities.body))
    trusted = ("-CAfile", world.anchors["domain_ca"], "-untrusted", str(pledge.folder / "cacerts.pem"))
    openssl("verify", *trusted, "-purpose", "sslclient", str(certificate))
    with Session(world.registrar, certificate, key) as session:
        assert session.post_json(f"{BRSKI}/enrollstatus", STATUS_OK).status == 200
    return key, certificate


@pytest.mark.req("VR-01", "MA-14", "MA-15", "HT-01", "EI-13", "E-09", "E-13")
def test_openssl_and_plain_tls_onboard_a_device(demo_world: DemoWorld, tmp_path: Path) -> None:
    pledge = demo_world.fresh_pledge(tmp_path)
    _, certificate = join(demo_world, pledge)
    subject = openssl("x509", "-in", str(certificate), "-noout", "-subject").decode()
    assert pledge.device["serial"] in subject


@TLS_VERSIONS
@pytest.mark.req("TL-01", "TL-02")
def test_a_client_with_one_tls_version_only_onboards(
    demo_world: DemoWorld, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    join(demo_world, demo_world.fresh_pledge(tmp_path), version)


@pytest.mark.req("PX-01")
def test_the_join_proxy_carries_a_whole_onboarding(demo_world: DemoWorld, tmp_path: Path) -> None:
    place = demo_world.document["join_proxy"]
    behind = DemoWorld(demo_world.document | {"registrar": {"url": f"https://{place['host']}:{place['port']}"}})
    join(behind, demo_world.fresh_pledge(tmp_path))


def test_the_new_certificate_renews_itself(demo_world: DemoWorld, tmp_path: Path) -> None:
    pledge = demo_world.fresh_pledge(tmp_path)
    key, certificate = join(demo_world, pledge)
    subject = openssl("x509", "-in", str(certificate), "-noout", "-subject", "-nameopt", "compat").decode()
    asked = openssl("x509", "-x509toreq", "-in", str(certificate), "-key", str(key))
    request = openssl("req", "-outform", "DER", data=asked)
    with Session(demo_world.registrar, certificate, key) as session:
        body = base64.b64encode(request) + b"\n"
        answer = session.request("POST", f"{EST}/simplereenroll", body, Content_Type="application/pkcs10")
    assert answer.status == 200, answer.body
    renewed = pledge.folder / "renewed.pem"
    renewed.write_bytes(certificates_in(answer.body))
    assert openssl("x509", "-in", str(renewed), "-noout", "-subject", "-nameopt", "compat").decode() == subject
    assert renewed.read_bytes() != certificate.read_bytes()


@pytest.mark.parametrize(
    ("role", "status", "reason"),
    [
        pytest.param("unknown-manufacturer", 404, "manufacturer-unknown", marks=pytest.mark.req("TL-12", "RA-02")),
        pytest.param("not-owned", 403, "", marks=pytest.mark.req("HT-08")),
        pytest.param("not-allowed", 403, "device-not-allowed", marks=pytest.mark.req("RA-01", "RA-04")),
    ],
)
def test_a_device_that_may_not_join_is_refused_with_a_reason(
    demo_world: DemoWorld, tmp_path: Path, role: str, status: int, reason: str
) -> None:
    pledge = demo_world.pledge(role, tmp_path)
    with pledge.session(demo_world.registrar) as session:
        answer = pledge.request_voucher(session)
        assert (answer.status, answer.media_type) == (status, "text/plain"), answer.body
        assert answer.body.decode().startswith(reason)
        assert answer.body.decode().strip()
    with pledge.session(demo_world.registrar) as session:
        _, answer = enroll(session, pledge)
        assert answer.status in {403, 404}


@pytest.mark.req("EI-12")
def test_no_certificate_before_a_voucher(demo_world: DemoWorld, tmp_path: Path) -> None:
    pledge = demo_world.fresh_pledge(tmp_path)
    with pledge.session(demo_world.registrar) as session:
        _, answer = enroll(session, pledge)
    assert answer.status == 403


@pytest.mark.req("VR-12")
def test_a_request_for_another_registrar_is_401_and_the_connection_ends(demo_world: DemoWorld, tmp_path: Path) -> None:
    pledge = demo_world.fresh_pledge(tmp_path)
    idevid = ssl.PEM_cert_to_DER_cert(Path(pledge.device["cert"]).read_text(encoding="ascii"))
    with pledge.session(demo_world.registrar) as session:
        answer = pledge.request_voucher(session, pledge.voucher_request(idevid))
        assert answer.status == 401
        assert answer.headers["connection"].lower() == "close"


@pytest.mark.req("EI-05", "AT-24")
def test_a_request_for_another_name_gets_no_certificate(demo_world: DemoWorld, tmp_path: Path) -> None:
    pledge = demo_world.fresh_pledge(tmp_path)
    with pledge.session(demo_world.registrar) as session:
        voucher_of(pledge.request_voucher(session), pledge)
        assert session.post_json(f"{BRSKI}/voucher_status", STATUS_OK).status == 200
        _, answer = enroll(session, pledge, "/serialNumber=SOMEBODY-ELSE")
    assert 400 <= answer.status < 500


def test_a_voucher_does_not_verify_under_another_anchor(demo_world: DemoWorld, tmp_path: Path) -> None:
    pledge = demo_world.fresh_pledge(tmp_path)
    with pledge.session(demo_world.registrar) as session:
        voucher = pledge.request_voucher(session).body
    other = ForeignPledge(pledge.device, pledge.anchors | {"masa_voucher": pledge.anchors["manufacturer"]}, tmp_path)
    with pytest.raises(AssertionError, match=r"[Vv]erif"):
        other.check_voucher(voucher)


@pytest.mark.req("E-08", "E-09", "E51-01")
def test_curl_reads_cacerts(demo_world: DemoWorld) -> None:
    command = [program("curl", "curl"), "--silent", "--fail", "--max-time", "20"]
    trusted = ["--cacert", demo_world.anchors["domain_ca"], f"{demo_world.registrar}{EST}/cacerts"]
    body = subprocess.run([*command, *trusted], capture_output=True, check=True, timeout=SECONDS).stdout
    assert b"Example Plant" in certificates_in(body)


@pytest.mark.req("E-08", "E-09", "E51-01")
def test_strongswan_reads_cacerts(demo_world: DemoWorld, tmp_path: Path) -> None:
    pki = program("pki", "strongswan-pki")
    usage = subprocess.run([pki, "--help"], capture_output=True, check=False, timeout=SECONDS)
    if b"--estca" not in usage.stdout + usage.stderr:
        pytest.skip("pki knows no --estca: install the Debian packages strongswan-pki and libstrongswan-extra-plugins")
    place = urlsplit(demo_world.registrar)
    command = [pki, "--estca", "--url", f"https://{place.hostname}:{place.port}", "--cacert"]
    out = tmp_path / "est-ca"
    done = subprocess.run(
        [*command, demo_world.anchors["domain_ca"], "--caout", str(out), "--outform", "pem"],
        capture_output=True,
        check=False,
        timeout=SECONDS,
    )
    words = (done.stdout + done.stderr).decode(errors="replace")
    if "unable to" in words and "fetch" in words and "capable fetcher" in words:
        pytest.skip("pki cannot fetch https: install the Debian package libstrongswan-extra-plugins")
    if "building CRED_CERTIFICATE - X509 failed" in words and "plugin 'openssl': failed to load" in words:
        pytest.skip("pki reads no elliptic curves: install the Debian package libstrongswan-standard-plugins")
    assert done.returncode == 0, words
    assert list(tmp_path.iterdir()), words


def test_the_voucher_has_the_members_rfc_8366_asks_for(demo_world: DemoWorld, tmp_path: Path) -> None:
    pledge = demo_world.fresh_pledge(tmp_path)
    with pledge.session(demo_world.registrar) as session:
        members = voucher_of(pledge.request_voucher(session), pledge)
    assert {"created-on", "assertion", "serial-number", "pinned-domain-cert", "nonce"} <= members.keys()
    assert "prior-signed-voucher-request" not in json.dumps(members)
