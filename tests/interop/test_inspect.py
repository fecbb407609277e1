"""`brski inspect` on the specifications' own artefacts, good and bad, and on bytes that are none of them."""

import base64
import io
import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from brski_common import artifact, cms, der, signatures
from brski_common.artifact import Format
from brski_common.certificates import fingerprint, public_key_info, to_der, to_pem
from brski_common.errors import BrskiError, Malformed
from brski_common.paths import Anchors
from brski_common.signatures import Scheme
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from brski_interop.commands import app
from brski_interop.inspect_view import show
from brski_interop.inspection import Check, Report, inspect
from tests.support.vectors import vector, vector_path
from tests.support.world import NOW, Domain, Manufacturer, key_for

THEN = datetime(2021, 4, 14, tzinfo=UTC)  # the moment at which the certificates of RFC 8995 are valid
UNCHECKED = Check(Anchors(), NOW)


def read(path: str, *anchors: str, now: datetime = THEN) -> Report:
    trusted = Anchors(
        certificate for anchor in anchors for certificate in Anchors.from_pem(vector(anchor)).certificates
    )
    return inspect(vector(path), Check(trusted, now))


def text(report: Report, member: str) -> object:
    return report.content[member]


@pytest.mark.req("V-CMS-02", "V-CMS-03", "VR-15", "VR-16")
@pytest.mark.parametrize("form", ["der", "b64"])
def test_the_rfcs_pledge_request_is_valid_and_departs_where_the_manifest_says(form: str) -> None:
    report = read(f"rfc8995/pledge_voucher_request.cms.{form}", "rfc8995/vendor_ca.crt.pem")
    assert (report.kind, report.format, report.signature, report.trust) == (
        "voucher-request",
        "cms",
        "valid",
        "trusted",
    )
    assert text(report, "serial-number") == "00-D0-E5-F2-00-02"
    assert text(report, "nonce") == "-_XE9zK9q8Ll1qylMtLKeg"
    assert text(report, "created-on") == "2021-04-13T17:43:23.747-04:00"
    assert text(report, "assertion") == "proximity"
    ids = {finding.split()[0] for finding in report.findings}
    assert {"V-CMS-02", "VR-15", "OP-07"} <= ids
    assert ("VR-01" in ids) == (form == "b64")


@pytest.mark.req("RM-10", "RM-11")
def test_the_rfcs_registrar_request_carries_the_pledges_and_lacks_idevid_issuer() -> None:
    report = read("rfc8995/registrar_voucher_request_parboiled.cms.der", "rfc8995/registrar_ca.crt.pem")
    assert (report.kind, report.signature, report.trust) == ("voucher-request", "valid", "trusted")
    assert any(finding.startswith("RM-10") for finding in report.findings)
    assert report.prior is not None
    assert report.prior.signature == "valid"
    assert report.prior.content["proximity-registrar-cert"] is not None
    assert report.acceptable


def test_the_rfcs_voucher_is_logged_and_pins_the_registrar_itself() -> None:
    report = read("rfc8995/voucher.cms.der", "rfc8995/vendor_ca.crt.pem")
    assert (report.kind, report.signature, report.trust) == ("voucher", "valid", "trusted")
    assert text(report, "assertion") == "logged"
    registrar = Anchors.from_pem(vector("rfc8995/registrar.crt.pem")).certificates[0]
    assert base64.b64decode(str(text(report, "pinned-domain-cert"))) == to_der(registrar)


def test_a_voucher_of_another_maker_is_untrusted_though_its_signature_holds() -> None:
    report = read("rfc8995/voucher.cms.der", "rfc8995/registrar_ca.crt.pem")
    assert (report.signature, report.trust, report.acceptable) == ("valid", "untrusted", False)


def test_expired_certificates_are_untrusted_today() -> None:
    report = read("rfc8995/voucher.cms.der", "rfc8995/vendor_ca.crt.pem", now=NOW)
    assert report.trust == "untrusted"
    assert any("certificate-expired" in failure for failure in report.failures)


@pytest.mark.parametrize("name", ["pledge_voucher_request", "registrar_voucher_request_parboiled", "voucher"])
def test_a_flipped_byte_in_an_rfc_artefact_is_seen(name: str) -> None:
    data = bytearray(vector(f"rfc8995/{name}.cms.der"))
    data[-3] ^= 1  # the last bytes are the signature
    report = inspect(bytes(data), UNCHECKED)
    assert (report.signature, report.acceptable) == ("invalid", False)


def test_the_idevid_that_the_rfc_printed_does_not_verify() -> None:
    printed = read("rfc8995/pledge_idevid.AUTH48-xml-0x2aec41d4.crt.pem", "rfc8995/vendor_ca.crt.pem")
    good = read("rfc8995/pledge_idevid.crt.pem", "rfc8995/vendor_ca.crt.pem", now=datetime(2021, 5, 1, tzinfo=UTC))
    assert (printed.trust, printed.acceptable) == ("untrusted", False)
    assert (good.kind, good.trust, good.signature) == ("certificate", "trusted", "valid")
    assert text(good, "masa-url") == "highway-test.example.com:9443"
    assert {finding.split()[0] for finding in good.findings} >= {"AR-03", "ID-12", "OP-07"}


def test_a_registrar_certificate_with_cmc_ra_alone_departs() -> None:
    report = read("rfc8995/registrar.crt.pem", "rfc8995/registrar_ca.crt.pem")
    assert text(report, "extended-key-usage") == ["id-kp-cmcRA"]
    assert text(report, "domain-id") == "Oy6w2vS8ar8m/FtEHuzs7sl7LSD3pW9yTCgCecoIL3M="
    assert {finding.split()[0] for finding in report.findings} >= {"TL-14", "TL-17", "MT-08"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("jws-voucher/pvr.json", "voucher-request"),
        ("jws-voucher/rvr.json", "voucher-request"),
        ("jws-voucher/voucher.json", "voucher"),
        ("prm/pvr.json", "voucher-request"),
        ("prm/rvr.json", "voucher-request"),
        ("prm/voucher.json", "voucher"),
        ("prm/voucher-countersigned.json", "voucher"),
    ],
)
def test_the_jws_artefacts_verify(path: str, kind: str) -> None:
    report = read(path)
    assert (report.kind, report.format, report.signature) == (kind, "jws", "valid")


def test_the_jws_flow_holds_together_under_its_authorities() -> None:
    at = datetime(2025, 1, 15, tzinfo=UTC)
    assert read("jws-voucher/voucher.json", "jws-voucher/manufacturer_ca.crt.pem", now=at).trust == "trusted"
    rvr = read("jws-voucher/rvr.json", "jws-voucher/domain_ca.crt.pem", now=at)
    assert rvr.trust == "trusted"
    assert text(rvr, "idevid-issuer") == "BBgwFoAUlU7Vft0KvopLzyjGaNB2fcQyB/U="
    assert rvr.prior is not None
    assert rvr.prior.content["serial-number"] == "kit-987654321"


@pytest.mark.parametrize("form", ["cbor", "hex"])
def test_the_cose_artefacts(form: str) -> None:
    pvr = read(f"cbrski/pvr.{form}")
    assert (pvr.kind, pvr.format, pvr.signature) == ("voucher-request", "cose", "unchecked")
    assert text(pvr, "serial-number") == "JADA123456789"
    assert read(f"cbrski/pvr.{form}", "cbrski/pledge.pem").signature == "valid"
    rvr = read(f"cbrski/rvr.{form}")
    assert (rvr.signature, text(rvr, "created-on")) == ("valid", "2022-12-06T20:04:15.754Z")
    voucher = read(f"cbrski/voucher.{form}", "cbrski/masa_ca.pem", now=datetime(2023, 1, 1, tzinfo=UTC))
    assert (voucher.kind, voucher.signature, voucher.trust) == ("voucher", "valid", "trusted")


@pytest.mark.parametrize("name", ["pvr-nonsigned", "rvr-nonsigned", "voucher-nonsigned"])
def test_unsigned_voucher_data_says_so(name: str) -> None:
    report = read(f"cbrski/{name}.hex")
    assert (report.format, report.signature) == ("cbor", "absent")


@pytest.mark.parametrize("form", ["cbor", "hex"])
def test_a_join_proxy_message(form: str) -> None:
    request, response = read(f"join-proxy/jpy-c1.request.{form}"), read(f"join-proxy/jpy-c1.response.{form}")
    assert (request.kind, request.content["content-length"], response.content["content-length"]) == ("jpy", 427, 60)
    assert request.content["header"] == response.content["header"]


@pytest.mark.parametrize("form", ["der", "hex"])
def test_the_est_artefacts(form: str) -> None:
    ca = read(f"rfc9148/cacerts.rsp.p7.{form}")
    assert (ca.kind, len(ca.certificates)) == ("certs-only", 1)
    request = read(f"rfc9148/enroll.csr.{form}")
    assert (request.kind, request.signature, request.content["serial-number"]) == ("csr", "valid", "Wt1234")
    assert "challengePassword" in str(request.content["attributes"])
    assert "1.3.6.1.4.1.6715.10.1" in str(request.content["alternative-names"])
    issued = read(f"rfc9148/enroll.rsp.p7.{form}")
    assert issued.certificates[0].not_valid_after_utc.year == 9999
    assert read(f"rfc9148/skg.csr.{form}").signature == "valid"
    assert read(f"rfc9148/skg.rsp.cert.p7.{form}").kind == "certs-only"
    assert read(f"rfc9148/csrattrs.{form}").kind == "csrattrs"


@pytest.mark.parametrize("form", ["b64", "der"])
@pytest.mark.parametrize(
    "name", ["realistic-acp", "rfc7030-example01", "harkins01", "harkins02", "harkins03", "potato-example"]
)
def test_the_csr_attributes(name: str, form: str) -> None:
    assert read(f"rfc9908-csrattrs/{name}.csrattr.{form}").kind == "csrattrs"


@pytest.mark.req("EI-04")
def test_the_acp_node_name_is_shown() -> None:
    report = read("rfc9908-csrattrs/realistic-acp.csrattr.der")
    assert "rfc8994+fd739fc23c3440112233445500000000+@acp.example.com" in json.dumps(report.content)


def test_the_file_called_template_is_an_ordinary_request() -> None:
    assert read("rfc9908-csrattrs/CSR-template.der").kind == "csr"


@pytest.mark.parametrize(
    "path", sorted(vector_path().rglob("*.key.pem")) or [Path("missing")], ids=lambda path: path.name
)
def test_a_private_key_is_never_shown(path: Path) -> None:
    with pytest.raises(Malformed, match="private-key"):
        inspect(vector(str(path.relative_to(vector_path()))) if path.is_absolute() else vector(str(path)), UNCHECKED)


def test_a_request_whose_possession_is_not_proven_is_invalid() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = bytearray(builder.sign(key_for("a"), hashes.SHA256()).public_bytes(serialization.Encoding.DER))
    signed[-2] ^= 1
    report = inspect(bytes(signed), UNCHECKED)
    assert (report.kind, report.signature, report.acceptable) == ("csr", "invalid", False)


def test_an_audit_log_is_shown() -> None:
    log = {
        "version": "1",
        "events": [
            {
                "date": "2019-05-15T17:25:55.644-04:00",
                "domainID": "BduJhdHPpfhQLyponf48JzXSGZ8=",
                "nonce": "VOUFT-WwrEv0NuAQEHoV7Q",
                "assertion": "proximity",
                "truncated": "0",
            }
        ],
    }
    report = inspect(json.dumps(log).encode(), UNCHECKED)
    assert (report.kind, report.format, report.signature) == ("auditlog", "json", "absent")
    assert "BduJhdHPpfhQLyponf48JzXSGZ8=" in json.dumps(report.content)


@pytest.fixture(scope="module")
def voucher() -> bytes:
    pinned = to_der(Domain().root.certificate)
    model = Voucher(
        serial_number="SN-1",
        assertion=Assertion.LOGGED,
        created_on=NOW,
        nonce="AAAAAAAAAAA=",
        pinned_domain_cert=pinned,
    )
    return artifact.sign(model, Format.CMS, Manufacturer().voucher_signer, signing_time=NOW)


def test_a_voucher_of_ours_has_nothing_to_find(voucher: bytes) -> None:
    report = inspect(voucher, Check(Manufacturer().voucher_anchors, NOW))
    assert (report.trust, report.findings, report.acceptable) == ("trusted", (), True)


@pytest.mark.parametrize(
    ("model", "ids"),
    [
        (Voucher(serial_number="A"), {"VA-01", "MA-18"}),
        (Voucher(serial_number="A", last_renewal_date=NOW, nonce="AAAAAAAAAAA="), {"VA-01", "VA-02"}),
        (Voucher(serial_number="A", pinned_domain_cert=b"no", nonce="AAAA"), {"VA-01", "VR-15"}),
        (VoucherRequest(serial_number="A"), {"VR-04", "VR-05"}),
        (VoucherRequest(serial_number="A", pinned_domain_cert=b"x", last_renewal_date=NOW), {"VR-10"}),
        (
            VoucherRequest(serial_number="A", prior_signed_voucher_request=b"{}", proximity_registrar_cert=b"x"),
            {"RM-06", "RM-10", "RM-12"},
        ),
    ],
)
def test_each_departure_is_named_by_its_requirement(model: Voucher | VoucherRequest, ids: set[str]) -> None:
    if isinstance(model, VoucherRequest) and model.prior_signed_voucher_request:
        inner = artifact.sign(
            VoucherRequest(serial_number="B", nonce="AAAAAAAAAAA="), Format.CMS, Manufacturer().idevid("B")
        )
        model = VoucherRequest(serial_number="A", prior_signed_voucher_request=inner, proximity_registrar_cert=b"x")
        ids = ids | {"RM-07", "RM-09"}
    signed = artifact.sign(model, Format.CMS, Manufacturer().idevid("A"))
    found = {finding.split()[0] for finding in inspect(signed, UNCHECKED).findings}
    assert ids <= found


def test_an_incomplete_chain_is_a_matter_of_trust_not_of_signature(voucher: bytes) -> None:
    del voucher
    signer = Manufacturer().voucher_signer
    lonely = artifact.sign(Voucher(serial_number="A"), Format.CMS, signer, certificates=(signer.certificate,))
    assert inspect(lonely, UNCHECKED).signature == "valid"
    assert inspect(lonely, Check(Manufacturer().voucher_anchors, NOW)).trust == "trusted"
    assert inspect(lonely, Check(Domain().anchors, NOW)).trust == "untrusted"


@given(st.binary(max_size=400))
def test_any_bytes_raise_only_the_suites_errors(data: bytes) -> None:
    with suppress(BrskiError):  # an empty SEQUENCE, for one, is a sound csrattrs answer
        inspect(b"\x30" + data, UNCHECKED)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_raises_only_the_suites_errors_and_never_changes_what_is_trusted(at: int, flip: int) -> None:
    signed = cms_voucher()
    broken = bytearray(signed)
    broken[at % len(broken)] ^= flip
    try:
        report = inspect(bytes(broken), Check(Manufacturer().voucher_anchors, NOW))
    except BrskiError:
        return
    if report.trust == "trusted":
        assert report.content == {"serial-number": "SN-1"}


def cms_voucher() -> bytes:
    return artifact.sign(Voucher(serial_number="SN-1"), Format.CMS, Manufacturer().voucher_signer)


# The command


def run(*arguments: str, data: bytes | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["inspect", *arguments], input=data)
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_the_contracts_object(tmp_path: Path, voucher: bytes) -> None:
    anchor = tmp_path / "anchor.pem"
    anchor.write_bytes(to_pem(Manufacturer().voucher_root.certificate))
    file = tmp_path / "voucher.vcj"
    file.write_bytes(voucher)
    code, out, _ = run(str(file), "--anchor", str(anchor), "--at", "2026-11-21T12:00:00Z", "--json")
    shown = json.loads(out)
    assert code == 0
    assert set(shown) == {"kind", "format", "content", "signature", "signer", "trust", "findings"}
    assert (shown["kind"], shown["trust"], shown["content"]["serial-number"]) == ("voucher", "trusted", "SN-1")


def test_people_see_whose_certificate_it_is_and_little_of_other_binaries() -> None:
    pinned = Domain().root.certificate
    request = VoucherRequest(
        serial_number="SN-1",
        proximity_registrar_cert=to_der(pinned),
        agent_sign_cert=(to_der(pinned), b"no certificate, but long enough to be cut off"),
        idevid_issuer=bytes(100),
    )
    out = io.StringIO()
    report = inspect(artifact.sign(request, Format.CMS, Manufacturer().idevid("SN-1")), UNCHECKED)
    show(report, Console(file=out, width=200))
    lines = {words[1]: " ".join(words[2:-1]) for line in out.getvalue().splitlines() if len(words := line.split()) > 2}
    named = f"{pinned.subject.rfc4514_string()}, sha256 {fingerprint(pinned).hex()[:16]}…"
    assert lines["proximity-registrar-cert"] == named
    assert lines["agent-sign-cert"].startswith(f"{named}; bm8gY2VydGlm")
    assert lines["idevid-issuer"] == f"{'A' * 40}… (136 characters)"
    assert report.content["proximity-registrar-cert"] == base64.b64encode(to_der(pinned)).decode()


def test_the_command_reads_standard_input_and_shows_people_a_panel(voucher: bytes) -> None:
    code, out, _ = run("-", data=voucher)
    assert code == 0
    assert "Voucher · CMS" in out
    assert "serial-number" in out


def test_a_bad_signature_is_exit_one(voucher: bytes) -> None:
    code, out, _ = run("-", "--json", data=voucher[:-2] + bytes([voucher[-2] ^ 1]) + voucher[-1:])
    assert (code, json.loads(out)["signature"]) == (1, "invalid")


@pytest.mark.parametrize("data", [b"", b"hello", b"{}", b"\x30\x03", b"\xd2\x84", b"\x00\x01\x02"])
def test_what_cannot_be_read_is_exit_one_with_one_line(data: bytes) -> None:
    code, out, err = run("-", "--json", data=data)
    assert code == 1
    assert set(json.loads(out)) == {"error"}
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_missing_file_and_a_missing_argument() -> None:
    code, _, err = run("/nonexistent/voucher.vcj")
    assert (code, err.count("\n")) == (1, 1)
    assert run()[0] == 2


def test_the_content_type_option_of_the_signer_is_found(voucher: bytes) -> None:
    del voucher
    signed = artifact.sign(
        Voucher(serial_number="A"), Format.CMS, Manufacturer().voucher_signer, content_type=cms.ID_DATA
    )
    assert any(finding.startswith("V-CMS-02") for finding in inspect(signed, UNCHECKED).findings)


def test_a_request_with_several_values_of_one_attribute_is_shown() -> None:
    key = key_for("several values", "Ed25519")
    attribute = der.sequence(der.oid("1.3.6.1.1.1.1.22"), der.set_of(der.oid("1.2.3"), der.oid("1.2.4")))
    information = der.sequence(
        der.integer(0), der.sequence(), public_key_info(key.public_key()), der.explicit(0, attribute)
    )
    signature = signatures.sign(key, information, Scheme("Ed25519", "sha512"))
    request = der.sequence(information, der.sequence(der.oid("1.3.101.112")), der.bit_string(signature))
    report = inspect(request, UNCHECKED)
    assert (report.kind, report.signature, report.content["attributes"]) == ("csr", "valid", ["macAddress"])


def test_a_file_of_pem_beginnings_costs_no_more_than_it_is_long() -> None:
    started = time.process_time()
    with pytest.raises(Malformed):
        inspect(b"-----BEGIN CERTIFICATE-----" * 30_000, UNCHECKED)
    assert time.process_time() - started < 5  # seconds; to search each to the end of the file takes minutes
