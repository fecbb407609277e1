"""IDevIDs: what a device is born with, and what is found wrong with one (RFC 8995, 2.3; IEEE 802.1AR-2018, 8)."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from brski_common import der, issuing, keys
from brski_common.certificates import (
    ID_PE_MASA_URL,
    HardwareModuleName,
    authority_key_id,
    hardware_module_name,
    load_certificate,
    load_pem,
    masa_url,
    serial_number,
    subject_key_id,
    to_der,
)
from brski_common.errors import BrskiError, Malformed, Misconfigured
from brski_masa import factory
from brski_masa.factory import Wishes, check_serial, folder_name, issue, key_of_csr
from brski_masa.linting import lint, lint_chain
from tests.masa.plant import MAKER
from tests.support.vectors import vector
from tests.support.world import NOW, key_for, make_key

WISHES = Wishes(serial_number="SN-1", masa_url="masa.example:9443", organization="Example Maker")
KEY = key_for("factory device")


def made(wishes: Wishes = WISHES) -> x509.Certificate:
    return load_certificate(to_der(issue(MAKER.idevid_ca, KEY.public_key(), wishes, NOW)))


@pytest.mark.req("ID-01", "ID-02", "ID-03", "ID-04", "ID-08", "ID-12", "AR-01", "AR-03", "AR-08")
def test_new_idevid_keeps_to_the_profile() -> None:
    certificate = made()
    assert lint(certificate) == []
    assert serial_number(certificate) == "SN-1"
    assert masa_url(certificate) == "masa.example:9443"
    assert certificate.not_valid_after_utc == issuing.NO_EXPIRY
    assert b"99991231235959Z" in to_der(certificate)
    assert authority_key_id(certificate) == subject_key_id(MAKER.idevid_ca.certificate)
    assert subject_key_id(certificate) is None
    extension = certificate.extensions.get_extension_for_oid(ID_PE_MASA_URL)
    assert not extension.critical
    assert extension.value.public_bytes() == b"\x16\x11masa.example:9443"


@pytest.mark.req("AR-07", "AR-08")
@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048"])
def test_suites_of_802_1ar(kind: keys.Kind) -> None:
    key = keys.generate(kind)
    certificate = issue(MAKER.idevid_ca, key.public_key(), WISHES, NOW)
    assert lint_chain(factory.chain_of(MAKER.idevid_ca, certificate)) == []


@pytest.mark.req("AR-05")
def test_hardware_module_name_round_trip() -> None:
    name = HardwareModuleName("1.3.6.1.4.1.6175.10.1", b"SN-1")
    certificate = made(Wishes(serial_number="SN-1", masa_url=None, hardware=name))
    assert hardware_module_name(certificate) == name


@pytest.mark.req("ID-01", "AR-01")
@pytest.mark.parametrize("serial", ["", " ", "a" * 65, "tab\t", "ümlaut", "star*", " x", "a@b"])
def test_serial_number_that_no_certificate_can_hold_is_refused(serial: str) -> None:
    with pytest.raises(Malformed, match="serial-number-malformed"):
        made(Wishes(serial_number=serial, masa_url=None))


@pytest.mark.req("ID-03", "ID-04")
@pytest.mark.parametrize("url", ["https://masa.example/", "masa.example/x", "", "a b", "masa.example:port", "ü"])
def test_masa_url_is_an_authority(url: str) -> None:
    with pytest.raises(Malformed, match="masa-url-malformed"):
        made(Wishes(serial_number="SN-1", masa_url=url))


def test_published_test_key_gets_no_idevid() -> None:
    key = load_pem_private_key(vector("rfc8995/pledge_idevid.key.pem"), None)
    with pytest.raises(Misconfigured, match="published-test-key"):
        issue(MAKER.idevid_ca, key.public_key(), WISHES, NOW)  # type: ignore[arg-type] # an EC key


@given(st.binary(max_size=300))
def test_any_csr_raises_only_our_errors(data: bytes) -> None:
    with pytest.raises(BrskiError):
        key_of_csr(data)
    with pytest.raises(BrskiError):
        key_of_csr(b"-----BEGIN CERTIFICATE REQUEST-----\n" + data + b"\n-----END CERTIFICATE REQUEST-----")


@given(st.text(max_size=70))
def test_serial_numbers_become_safe_file_names(text: str) -> None:
    try:
        check_serial(text)
    except Malformed:
        return
    assert "/" not in folder_name(text)
    assert not folder_name(text).startswith(".")


# Findings


def broken(**changes: object) -> x509.Certificate:
    """An IDevID that is wrong in one way."""
    arguments: dict[str, Any] = {
        "not_before": NOW,
        "not_after": issuing.NO_EXPIRY,
        "subject_key_identifier": False,
        "extensions": [(factory.masa_url_extension("masa.example"), False)],
    }
    arguments |= {"subject": issuing.name("x", serial_number="SN-1"), "key": KEY, **changes}
    subject, key = arguments.pop("subject"), arguments.pop("key")
    return issuing.end_entity(MAKER.idevid_ca, key.public_key(), subject, **arguments)


def url(value: bytes, critical: bool = False) -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.UnrecognizedExtension(ID_PE_MASA_URL, value), critical)]


TWO_SERIALS = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, each) for each in ("1", "2")])


@pytest.mark.parametrize(
    ("requirement", "level", "changes"),
    [
        pytest.param("ID-01", "error", {"subject": issuing.name("x")}, marks=pytest.mark.req("ID-01")),
        pytest.param("ID-01", "error", {"subject": TWO_SERIALS}, marks=pytest.mark.req("ID-01")),
        pytest.param("AR-01", "error", {"subject": x509.Name([])}, marks=pytest.mark.req("AR-01")),
        pytest.param("ID-03", "warning", {"extensions": []}, marks=pytest.mark.req("ID-03")),
        pytest.param("ID-03", "error", {"extensions": url(der.ia5_string("m"), True)}, marks=pytest.mark.req("ID-03")),
        pytest.param("ID-03", "error", {"extensions": url(der.utf8_string("m"))}, marks=pytest.mark.req("ID-03")),
        pytest.param("ID-03", "error", {"extensions": url(b"\x00")}, marks=pytest.mark.req("ID-03")),
        pytest.param(
            "ID-04", "warning", {"extensions": url(der.ia5_string("https://m/"))}, marks=pytest.mark.req("ID-04")
        ),
        pytest.param("ID-08", "warning", {"key_usage": issuing.signing_key_usage()}, marks=pytest.mark.req("ID-08")),
        pytest.param(
            "ID-08",
            "warning",
            {"extended_key_usage": [x509.ObjectIdentifier("1.3.6.1.5.5.7.3.2")]},
            marks=pytest.mark.req("ID-08"),
        ),
        pytest.param("ID-12", "warning", {"not_after": NOW + timedelta(days=9)}, marks=pytest.mark.req("ID-12")),
        pytest.param("AR-03", "warning", {"subject_key_identifier": True}, marks=pytest.mark.req("AR-03")),
        pytest.param(
            "AR-04",
            "error",
            {"key_usage": issuing.signing_key_usage(certificates=True)},
            marks=pytest.mark.req("AR-04"),
        ),
        pytest.param("AR-07", "warning", {"key": make_key("P-521")}, marks=pytest.mark.req("AR-07")),
        pytest.param(
            "AR-08",
            "warning",
            {"alternative_names": [x509.DNSName(f"{number}.a-long-name.example") for number in range(40)]},
            marks=pytest.mark.req("AR-08"),
        ),
    ],
)
def test_departures_are_found(requirement: str, level: str, changes: dict[str, Any]) -> None:
    found = lint(broken(**changes))
    assert (requirement, level) in {(each.requirement, each.level) for each in found}
    assert all(str(each).startswith(each.requirement) for each in found)


@pytest.mark.req("AR-04")
def test_key_usage_that_is_right_is_only_a_warning() -> None:
    assert {each.requirement for each in lint(broken(key_usage=issuing.signing_key_usage()))} == {"ID-08"}


@pytest.mark.req("AR-09")
def test_missing_or_wrong_chain_is_found() -> None:
    certificate = made()
    assert "AR-09" in {each.requirement for each in lint_chain([certificate])}
    assert "AR-09" in {each.requirement for each in lint_chain([certificate, MAKER.voucher_root.certificate])}


@pytest.mark.req("AR-03", "ID-03")
def test_idevid_of_rfc_8995_has_no_authority_key_identifier() -> None:
    found = lint(load_pem(vector("rfc8995/pledge_idevid.crt.pem"))[0])
    assert "AR-03" in {each.requirement for each in found if each.level == "error"}
    assert "ID-14" in {each.requirement for each in found}
