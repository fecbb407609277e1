"""Decisions about vouchers that the tests over TLS do not walk through one by one."""

import hashlib
from dataclasses import replace

import pytest

from brski_common import artifact
from brski_common.artifact import Format
from brski_common.certificates import Peer, idevid_issuer, spki, spki_sha256, to_der
from brski_common.errors import BrskiError, PeerFailed, Refused, Untrusted
from brski_common.paths import Anchors
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from brski_registrar import vouchering
from brski_registrar.identity import Maker, Pledge, Trust
from brski_registrar.policy import PinHint
from tests.support.plant import record_of
from tests.support.world import NOW, Domain, Manufacturer, self_signed_registrar

MAKER, DOMAIN = Manufacturer(), Domain()
OWN = DOMAIN.registrar.certificate
REGISTRAR = vouchering.Own.of(DOMAIN.registrar, OWN)
RECORD = record_of(MAKER)


def pledge_of(serial: str, **idevid: object) -> Pledge:
    credential = MAKER.idevid(serial, **idevid)  # type: ignore[arg-type] # names of arguments
    return Trust([Maker.of(RECORD)]).pledge(Peer(credential.certificate, credential.chain), NOW)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("masa.example:9443", "https://masa.example:9443/.well-known/brski"),
        ("https://masa.example:9443/.well-known/brski", "https://masa.example:9443/.well-known/brski"),
        ("https://masa.example:9443/x/", "https://masa.example:9443/x"),
        ("https://masa.example:9443", "https://masa.example:9443/.well-known/brski"),
        ("https://masa.example:9443/", "https://masa.example:9443/.well-known/brski"),
        ("HTTPS://masa.example:9443/x", "https://masa.example:9443/x"),
    ],
)
@pytest.mark.req("ID-05", "ID-06")
def test_where_the_masa_is(text: str, base: str) -> None:
    assert vouchering.masa_address(pledge_of("SN", masa_url=text).certificate, RECORD) == base


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://masa.example:9443/x", "masa-url-not-https"),
        ("ldap://masa.example:9443", "masa-url-not-https"),
        ("masa.example:9443/x", "masa-url-not-https"),
        ("https://user@masa.example:9443/x", "masa-url-malformed"),
        ("https://masa.example:9443/x?y", "masa-url-malformed"),
        ("https://masa.example:9443/x#y", "masa-url-malformed"),
        ("https://", "masa-url-malformed"),
        ("masa.example:port", "masa-url-malformed"),
        ("masa.example:9443 evil", "masa-url-malformed"),
        ("https://[::1/x", "masa-url-malformed"),
        ("x" * 2000, "masa-url-malformed"),
        ("other.example:9443", "masa-url-not-allowed"),
        ("masa.example", "masa-url-not-allowed"),
    ],
)
@pytest.mark.req("ID-06", "ID-07")
def test_where_no_masa_is(text: str, reason: str) -> None:
    with pytest.raises(BrskiError) as refused:
        vouchering.masa_address(pledge_of("SN", masa_url=text).certificate, RECORD)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        ("masa.example", ["masa.example", "masa.example:443", "MASA.example."], ["masa.example:444", "x.masa.example"]),
        ("masa.example:9443", ["masa.example:9443"], ["masa.example", "masa.example:9444"]),
        ("masa.example:*", ["masa.example", "masa.example:1"], ["evilmasa.example"]),
        (
            "*.maker.example",
            ["a.maker.example", "a.b.maker.example"],
            ["maker.example", "xmaker.example", "a.maker.example:1"],
        ),
        ("[::1]:9443", ["[::1]:9443"], ["[::2]:9443"]),
    ],
)
@pytest.mark.req("ID-11")
def test_allow_rules(rule: str, allowed: list[str], refused: list[str]) -> None:
    record = record_of(MAKER, masa_hosts=(rule,))
    for text in allowed:
        assert vouchering.masa_address(pledge_of("SN", masa_url=text).certificate, record).startswith("https://")
    for text in refused:
        with pytest.raises(Refused, match="masa-url-not-allowed"):
            vouchering.masa_address(pledge_of("SN", masa_url=text).certificate, record)


def test_a_masa_that_was_allowed_is_so_by_these_rules_only() -> None:
    certificate = pledge_of("SN").certificate
    assert vouchering.masa_address(certificate, RECORD)
    for rules in ((), ("masa.example",)):
        with pytest.raises(Refused, match="masa-url-not-allowed"):
            vouchering.masa_address(certificate, replace(RECORD, masa_hosts=rules))
    assert vouchering.masa_address(certificate, RECORD)


def examined(**leaves: object) -> VoucherRequest:
    pledge = pledge_of("SN")
    request = VoucherRequest(serial_number="SN", nonce="n", assertion=Assertion.PROXIMITY)
    raw = artifact.sign(replace(request, **leaves), Format.CMS, MAKER.idevid("SN"))  # type: ignore[arg-type] # leaves
    return vouchering.examine(artifact.parse_voucher_request(raw, Format.CMS), pledge, REGISTRAR).value


@pytest.mark.req("BIS-05", "VR-12")
def test_proximity_may_be_shown_by_key_and_the_strongest_statement_counts() -> None:
    good_cert, bad_cert = to_der(OWN), to_der(self_signed_registrar().certificate)
    examined(proximity_registrar_pubk=spki(OWN))
    examined(proximity_registrar_pubk_sha256=spki_sha256(OWN))
    examined(proximity_registrar_pubk_sha256=spki_sha256(OWN), proximity_registrar_cert=bad_cert)
    for leaves in (
        {"proximity_registrar_pubk_sha256": b"x" * 32, "proximity_registrar_cert": good_cert},
        {"proximity_registrar_pubk": b"x", "proximity_registrar_cert": good_cert},
        {"proximity_registrar_cert": bad_cert},
    ):
        with pytest.raises(Untrusted, match="proximity-mismatch"):
            examined(**leaves)


@pytest.mark.req("VR-16")
def test_created_on_of_the_pledge_is_not_the_registrars_business() -> None:
    examined(proximity_registrar_cert=to_der(OWN), created_on=NOW.replace(year=2001))


@pytest.mark.req("RM-10", "BIS-01")
def test_an_idevid_without_aki_is_named_by_its_own_key() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    key = MAKER.idevid("SN").key
    builder = x509.CertificateBuilder().subject_name(MAKER.idevid("SN").certificate.subject)
    builder = builder.issuer_name(MAKER.idevid_ca.certificate.subject).public_key(key.public_key()).serial_number(5)
    bare = (
        builder.not_valid_before(NOW).not_valid_after(NOW.replace(year=2030)).sign(MAKER.idevid_ca.key, hashes.SHA256())
    )
    expected = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    assert idevid_issuer(bare) == bytes.fromhex("041830168014") + expected


RVR = VoucherRequest(serial_number="SN", nonce="n", idevid_issuer=b"issuer")
VOUCHER = Voucher(serial_number="SN", nonce="n", pinned_domain_cert=to_der(DOMAIN.issuing.certificate))


def with_leaves(voucher: Voucher, **leaves: object) -> Voucher:
    return replace(voucher, **leaves)  # type: ignore[arg-type] # names of leaves


def accepted(voucher: Voucher) -> Voucher | None:
    raw = artifact.sign(voucher, Format.CMS, MAKER.voucher_signer)
    return vouchering.accept(raw, Format.CMS, RVR, RECORD, Anchors(), REGISTRAR, NOW)


def test_a_voucher_may_pin_any_of_our_certificates_or_keys() -> None:
    for certificate in DOMAIN.registrar.chain:
        for leaves in (
            {"pinned_domain_cert": to_der(certificate)},
            {"pinned_domain_cert": None, "pinned_domain_pubk": spki(certificate)},
            {"pinned_domain_cert": None, "pinned_domain_pubk_sha256": hashlib.sha256(spki(certificate)).digest()},
        ):
            assert accepted(with_leaves(VOUCHER, **leaves)) is not None


def test_a_pinned_certificate_may_be_another_one_for_a_key_of_ours() -> None:
    old = DOMAIN.registrar_with(not_after=NOW)
    assert to_der(old.certificate) not in REGISTRAR.chain
    assert accepted(with_leaves(VOUCHER, pinned_domain_cert=to_der(old.certificate))) is not None
    with pytest.raises(PeerFailed, match="voucher-pin-unreadable"):
        accepted(with_leaves(VOUCHER, pinned_domain_cert=b"no certificate"))


@pytest.mark.parametrize(
    "leaves",
    [
        {"pinned_domain_pubk": b"x"},
        {"pinned_domain_pubk_sha256": b"x" * 32},
        {"pinned_domain_cert": to_der(MAKER.root.certificate)},
    ],
)
def test_a_voucher_that_pins_somebody_else_is_not_ours(leaves: dict[str, bytes]) -> None:
    with pytest.raises(PeerFailed, match="voucher-pins-foreign-domain"):
        accepted(with_leaves(VOUCHER, **{"pinned_domain_cert": None, **leaves}))


@pytest.mark.req("AT-19")
def test_a_voucher_for_the_same_number_of_another_line_is_not_ours() -> None:
    assert accepted(replace(VOUCHER, idevid_issuer=b"issuer")) is not None
    with pytest.raises(PeerFailed, match="voucher-issuer-mismatch"):
        accepted(replace(VOUCHER, idevid_issuer=b"another line"))


@pytest.mark.req("RS-09", "AT-19")
def test_a_prefetched_voucher_is_for_one_device_only() -> None:
    pledge = pledge_of("SN")
    nonceless = replace(VOUCHER, nonce=None)
    vouchering.check_prefetched(nonceless, pledge)
    vouchering.check_prefetched(replace(nonceless, idevid_issuer=pledge.issuer), pledge)
    for wrong in (
        VOUCHER,
        replace(nonceless, serial_number="other"),
        replace(nonceless, idevid_issuer=b"another line"),
    ):
        with pytest.raises(Refused, match="prefetched-voucher-unusable"):
            vouchering.check_prefetched(wrong, pledge)


@pytest.mark.req("RM-03", "RM-04", "D-7")
def test_the_signer_is_always_shown() -> None:
    chain = DOMAIN.registrar.chain
    other = self_signed_registrar().certificate
    for hint, shown in ((PinHint.EE, chain[:1]), (PinHint.CA, chain[:2]), (PinHint.ROOT, chain)):
        assert vouchering.certificates_shown(REGISTRAR, hint) == shown
    assert vouchering.certificates_shown(vouchering.Own.of(DOMAIN.registrar, other), PinHint.EE) == (OWN, other)
    pledges = pledge_of("SN").path
    assert vouchering.certificates_shown(REGISTRAR, PinHint.EE, (OWN, *pledges)) == (OWN, *pledges)
