"""Signed vouchers and requests: nothing is Verified that its signer did not sign (RFC 8366, 5.4; RFC 8995, 5.6.1)."""

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common import artifact, cms, issuing
from brski_common.artifact import Format, parse_voucher, parse_voucher_request, sign
from brski_common.certificates import Credential
from brski_common.errors import BrskiError, Malformed, UnsupportedFormat, Untrusted
from brski_common.paths import Anchors
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from tests.support.world import NOW, Domain, Manufacturer

VOUCHER = Voucher(serial_number="SN-1", assertion=Assertion.PROXIMITY, created_on=NOW, nonce="AAAAAAAAAAA=")
REQUEST = VoucherRequest(serial_number="SN-1", assertion=Assertion.PROXIMITY, nonce="AAAAAAAAAAA=")
KINDS = ["P-256", "P-384", "RSA-2048", "Ed25519"]

formats = pytest.mark.parametrize("form", list(Format))


def maker_of(kind: str = "P-256") -> Manufacturer:
    return Manufacturer(name=f"Maker {kind}", kind=kind)


@formats
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "RSA-2048"])
def test_what_the_signer_signed_is_verified(form: Format, kind: str) -> None:
    maker = maker_of(kind)
    signed = sign(VOUCHER, form, maker.voucher_signer)
    verified = parse_voucher(signed, form).verify(maker.voucher_anchors, NOW)
    assert verified.value == VOUCHER
    assert verified.signer == maker.voucher_signer.certificate
    assert verified.path == maker.voucher_signer.chain
    assert verified.raw == signed


def test_rsa_signs_cms() -> None:
    maker = maker_of("RSA-2048")
    signed = sign(VOUCHER, Format.CMS, maker.voucher_signer)
    assert parse_voucher(signed, Format.CMS).verify(maker.voucher_anchors, NOW).value == VOUCHER


@formats
@pytest.mark.req("PV-01")
def test_a_stranger_with_a_chain_of_his_own_is_not_trusted(form: Format) -> None:
    signed = sign(VOUCHER, form, Manufacturer(name="Attacker").voucher_signer)
    with pytest.raises(Untrusted):
        parse_voucher(signed, form).verify(maker_of().voucher_anchors, NOW)


@formats
@pytest.mark.req("PV-17")
def test_a_request_replayed_as_a_voucher_is_refused_and_the_other_way_round(form: Format) -> None:
    signer = maker_of().voucher_signer
    with pytest.raises(UnsupportedFormat, match="voucher-kind-unexpected"):
        parse_voucher(sign(REQUEST, form, signer), form)
    with pytest.raises(UnsupportedFormat, match="voucher-kind-unexpected"):
        parse_voucher_request(sign(VOUCHER, form, signer), form)


@formats
@pytest.mark.req("VR-11")
def test_a_request_is_bound_to_one_certificate(form: Format) -> None:
    device, other = maker_of().idevid("SN-1"), maker_of().idevid("SN-2")
    parsed = parse_voucher_request(sign(REQUEST, form, device), form)
    assert parsed.verify_signed_by(device.certificate).signer == device.certificate
    with pytest.raises(Untrusted):
        parsed.verify_signed_by(other.certificate)


@formats
@pytest.mark.req("MA-01")
def test_a_registrars_chain_need_only_hold_together(form: Format) -> None:
    plant = Domain()
    parsed = parse_voucher_request(sign(REQUEST, form, plant.registrar), form)
    assert parsed.verify_consistent(NOW).path == plant.registrar.chain
    without_root = sign(REQUEST, form, plant.registrar, certificates=plant.registrar.chain[:2])
    assert parse_voucher_request(without_root, form).verify_consistent(NOW).path == plant.registrar.chain[:2]
    alone = sign(REQUEST, form, plant.registrar, certificates=plant.registrar.chain[:1])
    assert parse_voucher_request(alone, form).verify_consistent(NOW).path == plant.registrar.chain[:1]


@pytest.mark.req("MA-01")
def test_a_chain_that_does_not_hold_together_is_refused() -> None:
    plant, other = Domain(), Domain(name="Other Plant")
    mixed = sign(REQUEST, Format.CMS, plant.registrar, certificates=[plant.registrar.certificate, *other.issuing.chain])
    with pytest.raises(Untrusted):
        parse_voucher_request(mixed, Format.CMS).verify_consistent(NOW)


@formats
def test_a_signer_that_did_not_come_along_may_be_an_anchor(form: Format) -> None:
    signer = maker_of().voucher_signer
    parsed = parse_voucher(sign(VOUCHER, form, signer, certificates=()), form)
    assert parsed.verify(Anchors([signer.certificate]), NOW).path == (signer.certificate,)
    with pytest.raises(Untrusted):
        parsed.verify(Domain().anchors, NOW)


@pytest.mark.req("ST-05", "ST-06")
def test_the_signing_time_counts_only_with_a_trusted_clock() -> None:
    maker = maker_of()
    later = sign(VOUCHER, Format.CMS, maker.voucher_signer, signing_time=NOW + timedelta(hours=1))
    parsed = parse_voucher(later, Format.CMS)
    with pytest.raises(Untrusted, match="signing-time-in-future"):
        parsed.verify(maker.voucher_anchors, NOW)
    assert parsed.verify(maker.voucher_anchors, None).value == VOUCHER


@pytest.mark.req("ST-06")
def test_an_expired_signer_counts_only_with_a_trusted_clock() -> None:
    maker = maker_of()
    parsed = parse_voucher(sign(VOUCHER, Format.CMS, maker.voucher_signer), Format.CMS)
    late = maker.voucher_signer.certificate.not_valid_after_utc + timedelta(seconds=1)
    with pytest.raises(Untrusted, match="certificate-expired"):
        parsed.verify(maker.voucher_anchors, late)
    assert parsed.verify(maker.voucher_anchors, None).value == VOUCHER


@pytest.mark.req("V-CMS-02")
@pytest.mark.parametrize("content_type", [cms.ID_DATA, cms.ID_CT_ANIMA_JSON_VOUCHER])
def test_both_content_types_are_taken(content_type: str) -> None:
    maker = maker_of()
    signed = sign(VOUCHER, Format.CMS, maker.voucher_signer, content_type=content_type)
    assert parse_voucher(signed, Format.CMS).verify(maker.voucher_anchors, NOW).value == VOUCHER


@pytest.mark.req("VR-13")
@pytest.mark.parametrize("media_type", ["application/voucher-xyz", "", "application/json", "*/*"])
def test_an_unknown_media_type_is_no_format(media_type: str) -> None:
    with pytest.raises(UnsupportedFormat, match="media-type-unknown"):
        Format.of_media_type(media_type)


@pytest.mark.req("AT-10")
@formats
def test_an_oversize_artifact_is_not_parsed(form: Format) -> None:
    with pytest.raises(Malformed, match="artifact-too-large"):
        parse_voucher(b"\x30" * (artifact.MAX_ARTIFACT_BYTES + 1), form)


@given(st.sampled_from(Format), st.binary(max_size=300))
def test_any_bytes_raise_only_the_suites_errors(form: Format, data: bytes) -> None:
    with suppress(BrskiError):
        parse_voucher(data, form)


SIGNED = {form: sign(VOUCHER, form, Manufacturer().voucher_signer) for form in Format}


@given(st.sampled_from(Format), st.integers(0, 10**6), st.integers(1, 255))
def test_one_flipped_byte_never_verifies_as_something_else(form: Format, at: int, flip: int) -> None:
    broken = bytearray(SIGNED[form])
    broken[at % len(broken)] ^= flip
    try:
        verified = parse_voucher(bytes(broken), form).verify(Manufacturer().voucher_anchors, NOW)
    except BrskiError:
        return
    assert verified.value == VOUCHER
    assert verified.signer == Manufacturer().voucher_signer.certificate


def test_a_ca_key_reissued_under_another_name_is_not_the_anchor() -> None:
    maker = maker_of()
    impostor_name = issuing.name("Impostor Root")
    impostor = Credential(
        maker.voucher_root.key,
        (issuing.root_ca(maker.voucher_root.key, impostor_name, now=NOW, lifetime=timedelta(days=1)),),
    )
    parsed = parse_voucher(sign(VOUCHER, Format.CMS, maker.voucher_signer), Format.CMS)
    with pytest.raises(Untrusted):
        parsed.verify(Anchors([impostor.certificate]), NOW)
