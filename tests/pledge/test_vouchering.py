"""Every check between an unknown registrar and an owner, accepted and refused (RFC 8995, 5.6.1 and 5.6.2)."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from brski_common import artifact, cms, encoding, issuing
from brski_common.artifact import Format
from brski_common.certificates import (
    ID_KP_CLIENT_AUTH,
    ID_KP_SERVER_AUTH,
    Credential,
    Peer,
    idevid_issuer,
    idevid_issuer_forms,
    load_pem,
    spki,
    spki_sha256,
    to_der,
)
from brski_common.errors import BrskiError, Malformed, Misconfigured, Refused, UnsupportedFormat, Untrusted
from brski_common.paths import Anchors
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from brski_pledge import vouchering
from brski_pledge.vouchering import Device, Imprint, Revocation, VoucherPolicy
from tests.support.vectors import vector
from tests.support.world import NOW, YEARS, Domain, Manufacturer, key_for, self_signed_registrar

NONCE = "AAAAAAAAAAAAAAAAAAAAAA=="
MEDIA_TYPE = Format.CMS.media_type
SIGNER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.32473.1.1")

MAKER = Manufacturer()
DOMAIN = Domain()


def device(**policy: object) -> Device:
    return Device(MAKER.idevid("SN-1"), MAKER.voucher_anchors, VoucherPolicy(**policy))  # type: ignore[arg-type] # as VoucherPolicy takes them


def voucher(**changes: object) -> Voucher:
    fields: dict[str, object] = {
        "assertion": Assertion.PROXIMITY,
        "created_on": NOW,
        "serial_number": "SN-1",
        "nonce": NONCE,
        "pinned_domain_cert": to_der(DOMAIN.root.certificate),
    }
    return Voucher(**(fields | changes))  # type: ignore[arg-type] # as Voucher takes them


def signed(value: Voucher, signer: Credential | None = None, *, signing_time: datetime | None = None) -> bytes:
    return artifact.sign(value, Format.CMS, signer or MAKER.voucher_signer, signing_time=signing_time)


def check(
    body: bytes, *, own: Device | None = None, nonce: str = NONCE, now: datetime | None = NOW, kind: str = MEDIA_TYPE
) -> artifact.Verified[Voucher]:
    return vouchering.check_voucher(own or device(), body, kind, nonce, now)


def peer(credential: Credential = DOMAIN.registrar) -> Peer:
    return Peer(credential.certificate, credential.chain)


def judge(value: Voucher, at: Peer | None = None, now: datetime | None = NOW) -> Imprint:
    return vouchering.judge_registrar(check(signed(value), now=now), at or peer(), now)


def refused(reason: str, work: Callable[[], object], kind: type[BrskiError] = Untrusted) -> None:
    with pytest.raises(kind) as caught:
        work()
    assert caught.value.reason == reason


# The request


@pytest.mark.req("VR-03", "VR-05", "VR-06", "VR-07", "VR-09", "BIS-02", "ID-14")
def test_the_request_says_who_asks_and_whom_it_saw() -> None:
    idevid = MAKER.idevid("SN-1")
    body = vouchering.compose(Device(idevid, MAKER.voucher_anchors, VoucherPolicy()), peer(), NONCE, None)
    parsed = artifact.parse_voucher_request(body, Format.CMS)
    request = parsed.verify(MAKER.idevid_anchors, NOW).value
    assert request == VoucherRequest(
        assertion=Assertion.PROXIMITY,
        serial_number="SN-1",
        nonce=NONCE,
        proximity_registrar_cert=to_der(DOMAIN.registrar.certificate),
    )
    assert set(parsed.certificates) == set(idevid.chain)
    parsed.verify_signed_by(idevid.certificate)


@pytest.mark.req("VR-08")
def test_the_request_has_a_time_only_if_the_device_has_a_clock() -> None:
    timed = artifact.parse_voucher_request(vouchering.compose(device(), peer(), NONCE, NOW), Format.CMS)
    assert timed.claimed.created_on == NOW
    timeless = artifact.parse_voucher_request(vouchering.compose(device(), peer(), NONCE, None), Format.CMS)
    assert timeless.claimed.created_on is None


@pytest.mark.req("ID-02")
def test_the_serial_number_is_the_one_of_the_subject() -> None:
    assert device().serial_number == "SN-1" != str(MAKER.idevid("SN-1").certificate.serial_number)


@pytest.mark.req("V-CMS-02", "D-2")
def test_the_content_type_is_that_of_the_standard_unless_a_peer_needs_the_old_one() -> None:
    assert cms.parse(vouchering.compose(device(), peer(), NONCE, NOW)).content_type == cms.ID_CT_ANIMA_JSON_VOUCHER
    old = vouchering.compose(device(), peer(), NONCE, NOW, content_type=cms.ID_DATA)
    assert cms.parse(old).content_type == cms.ID_DATA


# 1. Kind and format


@pytest.mark.req("PV-17")
def test_the_devices_own_request_is_no_voucher() -> None:
    own = vouchering.compose(device(), peer(), NONCE, NOW)
    refused("voucher-kind-unexpected", lambda: check(own), UnsupportedFormat)


def test_a_request_signed_by_the_masa_itself_is_no_voucher_either() -> None:
    request = VoucherRequest(serial_number="SN-1", nonce=NONCE, assertion=Assertion.PROXIMITY)
    body = artifact.sign(request, Format.CMS, MAKER.voucher_signer)
    refused("voucher-kind-unexpected", lambda: check(body), UnsupportedFormat)


@pytest.mark.parametrize("kind", ["application/json", "application/voucher-jws+json", "", "text/html"])
def test_only_the_format_that_was_asked_for_is_read(kind: str) -> None:
    with pytest.raises(UnsupportedFormat):
        check(signed(voucher()), kind=kind)


# 2. Signature


def test_a_good_voucher_is_believed() -> None:
    verified = check(signed(voucher()))
    assert verified.value.serial_number == "SN-1"
    assert verified.path[-1] == MAKER.voucher_root.certificate


@pytest.mark.req("PV-01")
def test_certificates_that_came_along_are_no_anchors() -> None:
    attacker = Manufacturer("Evil Maker")
    refused("voucher-signer-unknown", lambda: check(signed(voucher(), attacker.voucher_signer)))


@pytest.mark.req("PV-01")
def test_a_signer_with_the_right_names_but_other_keys_is_refused() -> None:
    twin = Manufacturer(MAKER.name, kind="P-384")
    refused("voucher-signer-unknown", lambda: check(signed(voucher(), twin.voucher_signer)))


def test_the_anchor_itself_may_be_the_signer() -> None:
    signer = MAKER.voucher_signer
    own = Device(MAKER.idevid("SN-1"), Anchors([signer.certificate]), VoucherPolicy())
    alone = Credential(signer.key, (signer.certificate,))
    assert check(signed(voucher(), alone), own=own).signer == signer.certificate


@pytest.mark.req("OP-07", "AT-17", "RS-13")
def test_after_an_update_of_the_anchors_a_leaked_key_signs_nothing() -> None:
    """The firmware update removes the anchor of the key that leaked (RFC 8995, 11.6.2.2)."""
    leaked, successor = MAKER.voucher_signer, Manufacturer("Example Maker, next").voucher_signer
    body = signed(voucher(), leaked)
    check(body)
    updated = Device(MAKER.idevid("SN-1"), Anchors([successor.chain[-1]]), VoucherPolicy())
    refused("voucher-signer-unknown", lambda: check(body, own=updated))
    check(signed(voucher(), successor), own=updated)


@pytest.mark.req("AT-22")
def test_a_changed_voucher_is_refused() -> None:
    body = bytearray(signed(voucher()))
    body[body.index(b"SN-1") + 3] ^= 1
    with pytest.raises(Untrusted):
        check(bytes(body))


# 3. Who may sign


@pytest.mark.req("PV-02", "AT-20", "D-14")
def test_another_devices_idevid_signs_no_voucher() -> None:
    own = Device(MAKER.idevid("SN-1"), MAKER.idevid_anchors, VoucherPolicy(signer_oid=SIGNER_OID))
    other = MAKER.idevid("SN-2")
    refused("voucher-signer-not-authorised", lambda: check(signed(voucher(), other), own=own))


def _signer_under_device_root(*extensions: tuple[x509.ExtensionType, bool]) -> Credential:
    key = key_for("voucher signer under the device root")
    certificate = issuing.end_entity(
        MAKER.root,
        key.public_key(),
        issuing.name("Signer"),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + YEARS,
        extensions=extensions,
    )
    return Credential(key, (certificate, *MAKER.root.chain))


@pytest.mark.req("PV-02", "D-14")
@pytest.mark.parametrize(
    "marker",
    [
        x509.ExtendedKeyUsage([SIGNER_OID]),
        x509.CertificatePolicies([x509.PolicyInformation(SIGNER_OID, None)]),
    ],
)
def test_under_a_shared_root_a_marked_signer_is_accepted(marker: x509.ExtensionType) -> None:
    own = Device(MAKER.idevid("SN-1"), MAKER.idevid_anchors, VoucherPolicy(signer_oid=SIGNER_OID))
    vouchering.check_device(own)
    check(signed(voucher(), _signer_under_device_root((marker, False))), own=own)


@pytest.mark.req("PV-02")
def test_under_a_shared_root_an_unmarked_signer_is_refused() -> None:
    own = Device(MAKER.idevid("SN-1"), MAKER.idevid_anchors, VoucherPolicy(signer_oid=SIGNER_OID))
    refused("voucher-signer-not-authorised", lambda: check(signed(voucher(), _signer_under_device_root()), own=own))


@pytest.mark.req("PV-02", "D-14")
def test_a_shared_root_without_a_marker_is_refused_before_any_packet() -> None:
    shared = Device(MAKER.idevid("SN-1"), MAKER.idevid_anchors, VoucherPolicy())
    refused("voucher-anchor-shared", lambda: vouchering.check_device(shared), Misconfigured)
    vouchering.check_device(device())


def test_a_device_without_anchors_is_refused() -> None:
    bare = Device(MAKER.idevid("SN-1"), Anchors(), VoucherPolicy())
    refused("voucher-anchors-missing", lambda: vouchering.check_device(bare), Misconfigured)


# 4. to 8. Content


@pytest.mark.req("PV-03", "AT-05")
def test_a_voucher_for_another_device_is_refused() -> None:
    refused("serial-number-mismatch", lambda: check(signed(voucher(serial_number="SN-2"))))


@pytest.mark.req("PV-04", "AT-19")
def test_a_voucher_for_a_device_of_another_issuer_with_our_serial_number_is_refused() -> None:
    stranger = idevid_issuer(Manufacturer("Other Line").idevid("SN-1").certificate)
    refused("idevid-issuer-mismatch", lambda: check(signed(voucher(idevid_issuer=stranger))))


@pytest.mark.req("PV-04")
def test_our_own_issuer_is_recognised_in_all_its_spellings() -> None:
    for form in idevid_issuer_forms(MAKER.idevid("SN-1").certificate):
        check(signed(voucher(idevid_issuer=form)))


@pytest.mark.req("PV-05", "ST-07", "AT-02")
def test_a_voucher_with_another_nonce_is_refused() -> None:
    refused("nonce-mismatch", lambda: check(signed(voucher()), nonce="BBBBBBBBBBBBBBBBBBBBBB=="))


@pytest.mark.req("PV-05", "RS-01", "D-3")
def test_a_voucher_without_nonce_is_accepted_unless_the_maker_forbids_it() -> None:
    body = signed(voucher(nonce=None))
    check(body)
    refused("nonceless-voucher", lambda: check(body, own=device(nonceless=False)), Refused)
    check(signed(voucher()), own=device(nonceless=False))


@pytest.mark.req("VA-03")
def test_nonce_and_expiry_may_both_be_there() -> None:
    check(signed(voucher(expires_on=NOW + timedelta(minutes=20))))


@pytest.mark.req("PV-06", "ST-06", "AT-26")
def test_with_a_trusted_clock_an_expired_voucher_is_refused() -> None:
    body = signed(voucher(expires_on=NOW - timedelta(seconds=1)))
    refused("voucher-expired", lambda: check(body))
    check(body, now=None)


@pytest.mark.req("ST-06")
def test_with_a_trusted_clock_a_voucher_from_the_future_is_refused() -> None:
    body = signed(voucher(created_on=NOW + timedelta(hours=1)))
    refused("voucher-from-the-future", lambda: check(body))
    check(body, now=None)
    late = signed(voucher(), signing_time=NOW + timedelta(hours=1))
    refused("signing-time-in-future", lambda: check(late))
    check(late, now=None)


@pytest.mark.req("ST-05")
def test_without_a_trusted_clock_no_date_counts() -> None:
    long_ago = datetime(1999, 1, 1, tzinfo=UTC)
    value = voucher(created_on=NOW + timedelta(days=999), expires_on=long_ago)
    expired = DOMAIN.registrar_with(not_after=NOW - timedelta(hours=1))
    imprint = vouchering.judge_registrar(check(signed(value), now=None), peer(expired), None)
    assert imprint.registrar == expired.certificate


@pytest.mark.req("ST-06")
def test_with_a_trusted_clock_an_expired_registrar_is_refused() -> None:
    expired = DOMAIN.registrar_with(not_after=NOW - timedelta(hours=1))
    refused("certificate-expired", lambda: judge(voucher(), peer(expired)))


@pytest.mark.req("PV-07")
@pytest.mark.parametrize("assertion", [Assertion.LOGGED, Assertion.VERIFIED, Assertion.PROXIMITY])
def test_the_assertion_is_one_that_the_device_takes(assertion: Assertion) -> None:
    body = signed(voucher(assertion=assertion))
    check(body)
    only_proximity = device(assertions=frozenset((Assertion.PROXIMITY,)))
    if assertion is Assertion.PROXIMITY:
        check(body, own=only_proximity)
    else:
        refused("assertion-not-accepted", lambda: check(body, own=only_proximity), Refused)


def test_a_voucher_without_assertion_is_refused() -> None:
    refused("assertion-not-accepted", lambda: check(signed(voucher(assertion=None))), Refused)


@pytest.mark.req("PV-09")
def test_fields_nobody_knows_are_ignored() -> None:
    content = encoding.write_json(voucher()).replace(b'"nonce"', b'"mood":"sunny","nonce"')
    assert check(cms.sign(content, MAKER.voucher_signer)).value == voucher()


@pytest.mark.req("VA-02")
def test_the_renewal_date_is_ignored() -> None:
    check(signed(voucher(last_renewal_date=NOW - timedelta(days=1), expires_on=NOW + timedelta(days=1))))


# 9. to 11. The registrar


@pytest.mark.req("PV-08")
def test_a_voucher_that_pins_nothing_fails_gently() -> None:
    refused("pinned-domain-cert-missing", lambda: judge(voucher(pinned_domain_cert=None)))


def test_a_pin_that_is_no_certificate_fails_gently() -> None:
    refused("pinned-domain-cert-malformed", lambda: judge(voucher(pinned_domain_cert=b"0\x03abc")))


@pytest.mark.req("PV-10", "PV-15", "TL-05")
@pytest.mark.parametrize(("index", "length"), [(0, 1), (1, 2), (2, 3)])
def test_the_pin_may_be_anywhere_in_the_chain(index: int, length: int) -> None:
    pin = DOMAIN.registrar.chain[index]
    imprint = judge(voucher(pinned_domain_cert=to_der(pin)))
    assert len(imprint.path) == length
    assert imprint.pinned == pin


@pytest.mark.req("PV-10", "TL-06")
def test_a_self_signed_registrar_is_accepted_if_it_is_pinned() -> None:
    lonely = self_signed_registrar()
    imprint = judge(voucher(pinned_domain_cert=to_der(lonely.certificate)), peer(lonely))
    assert imprint.path == (lonely.certificate,)
    refused("registrar-not-pinned", lambda: judge(voucher(), peer(lonely)))


@pytest.mark.req("PV-10")
def test_the_root_may_be_pinned_without_being_sent() -> None:
    short = Peer(DOMAIN.registrar.certificate, DOMAIN.registrar.chain[:2])
    judge(voucher(), short)


@pytest.mark.req("TL-05")
def test_without_the_intermediate_there_is_no_path_to_the_pinned_root() -> None:
    refused(
        "registrar-not-pinned", lambda: judge(voucher(), Peer(DOMAIN.registrar.certificate, DOMAIN.registrar.chain[:1]))
    )


@pytest.mark.req("PV-10")
def test_the_key_counts_not_the_certificate_around_it() -> None:
    """A CA certificate renewed with the same key is as good as the one pinned."""
    renewed = issuing.root_ca(DOMAIN.root.key, DOMAIN.root.certificate.subject, now=NOW, lifetime=YEARS)
    judge(voucher(pinned_domain_cert=to_der(renewed)))


@pytest.mark.req("PV-10", "PV-11", "PV-15")
def test_a_registrar_of_another_domain_is_refused() -> None:
    refused("registrar-not-pinned", lambda: judge(voucher(), peer(Domain("Other Plant").registrar)))


@pytest.mark.req("AT-23")
def test_a_ca_with_the_pinned_name_and_another_key_is_no_match() -> None:
    twin = Domain(DOMAIN.name, kind="P-384")
    refused("registrar-not-pinned", lambda: judge(voucher(), peer(twin.registrar)))


@pytest.mark.req("PV-16")
@pytest.mark.parametrize("usages", [(ID_KP_CLIENT_AUTH,), (ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH), ()])
def test_an_ldevid_of_the_same_ca_is_no_registrar(usages: tuple[x509.ObjectIdentifier, ...]) -> None:
    posing = DOMAIN.registrar_with(key=key_for("posing ldevid"), usages=usages)
    refused("registrar-not-authorised", lambda: judge(voucher(), peer(posing)))


def test_a_pinned_end_entity_needs_no_usage() -> None:
    plain = DOMAIN.registrar_with(key=key_for("plain registrar"), usages=(ID_KP_SERVER_AUTH,))
    judge(voucher(pinned_domain_cert=to_der(plain.certificate)), peer(plain))


@pytest.mark.req("BIS-04", "BIS-11")
def test_a_pinned_public_key_is_found_in_the_chain() -> None:
    issuing_ca = DOMAIN.issuing.certificate
    by_key = voucher(pinned_domain_cert=None, pinned_domain_pubk=spki(issuing_ca))
    assert judge(by_key).pinned == issuing_ca
    by_hash = voucher(pinned_domain_cert=None, pinned_domain_pubk_sha256=spki_sha256(issuing_ca))
    assert judge(by_hash).pinned == issuing_ca
    stranger = voucher(pinned_domain_cert=None, pinned_domain_pubk=spki(Domain("Other Plant").root.certificate))
    refused("registrar-not-pinned", lambda: judge(stranger))


@pytest.mark.req("BIS-04", "D-1")
def test_of_several_pins_the_certificate_counts_as_in_our_request() -> None:
    other = Domain("Other Plant").root.certificate
    mixed = voucher(pinned_domain_pubk=spki(other), pinned_domain_pubk_sha256=spki_sha256(other))
    assert judge(mixed).pinned == DOMAIN.root.certificate


@pytest.mark.req("BIS-04")
def test_of_several_pins_without_a_nonce_the_shortest_counts_first() -> None:
    ours, other = DOMAIN.issuing.certificate, Domain("Other Plant").root.certificate
    by_hash = {"pinned_domain_pubk_sha256": spki_sha256(ours), "pinned_domain_pubk": spki(other)}
    assert judge(voucher(nonce=None, pinned_domain_cert=to_der(other), **by_hash)).pinned == ours
    by_key = {"pinned_domain_pubk": spki(ours), "pinned_domain_cert": to_der(other)}
    assert judge(voucher(nonce=None, **by_key)).pinned == ours
    assert judge(voucher(nonce=None)).pinned == DOMAIN.root.certificate
    foreign = voucher(nonce=None, pinned_domain_pubk_sha256=spki_sha256(other))
    refused("registrar-not-pinned", lambda: judge(foreign))


@pytest.mark.req("BIS-04")
def test_a_key_in_a_chain_that_does_not_hold_together_is_no_match() -> None:
    other = Domain("Other Plant")
    mixed = Peer(DOMAIN.registrar.certificate, (DOMAIN.registrar.certificate, other.issuing.certificate))
    value = voucher(pinned_domain_cert=None, pinned_domain_pubk=spki(other.issuing.certificate))
    with pytest.raises(Untrusted):
        judge(value, mixed)


@pytest.mark.parametrize(
    ("flag", "expected"), [(True, Revocation.REQUIRED), (False, Revocation.FORBIDDEN), (None, Revocation.USUAL)]
)
@pytest.mark.req("PV-14")
def test_the_voucher_says_whether_revocation_is_checked(flag: bool | None, expected: Revocation) -> None:
    assert judge(voucher(domain_cert_revocation_checks=flag)).revocation is expected


def test_a_log_reads_what_was_checked() -> None:
    imprint = judge(voucher())
    assert "nonce" in vouchering.checks_made(imprint, NOW)
    assert any("no dates" in text for text in vouchering.checks_made(imprint, None))
    assert not [text for text in vouchering.checks_made(imprint, None) if "," in text], "they are listed with commas"


# Input from elsewhere


@pytest.mark.req("V-CMS-03", "VR-15", "VR-16")
def test_the_voucher_of_rfc_8995_holds_for_its_own_pledge_and_registrar() -> None:
    """Its anchor also issued the IDevID, as in 2021 nobody minded; `check_device` would refuse the device."""
    now = datetime(2021, 4, 14, tzinfo=UTC)
    (idevid,) = load_pem(vector("rfc8995/pledge_idevid.crt.pem"))
    (registrar,) = load_pem(vector("rfc8995/registrar.crt.pem"))
    own = Device(
        Credential(key_for("unused"), (idevid,)), Anchors.from_pem(vector("rfc8995/vendor_ca.crt.pem")), VoucherPolicy()
    )
    sent = artifact.parse_voucher_request(vector("rfc8995/pledge_voucher_request.cms.der"), Format.CMS).claimed
    body = vector("rfc8995/voucher.cms.der")
    verified = vouchering.check_voucher(own, body, MEDIA_TYPE, sent.nonce, now)
    imprint = vouchering.judge_registrar(verified, Peer(registrar, (registrar,)), now)
    assert imprint.path == (registrar,)
    with pytest.raises(Untrusted):
        vouchering.check_voucher(own, body, MEDIA_TYPE, "another", now)
    with pytest.raises(Untrusted):
        vouchering.check_voucher(own, body, MEDIA_TYPE, sent.nonce, NOW + timedelta(days=3650))


@pytest.mark.req("AT-10", "TL-07")
@pytest.mark.parametrize("junk", [b"", b"\x30\x80", b"{}", b"0\x84\xff\xff\xff\xff", b"\x30" * 5000, b"A" * 300_000])
def test_junk_is_a_clean_failure(junk: bytes) -> None:
    with pytest.raises((Malformed, UnsupportedFormat)):
        check(junk)


@pytest.mark.req("AT-10")
def test_doubled_members_are_refused() -> None:
    content = encoding.write_json(voucher()).replace(b'"nonce"', b'"serial-number":"SN-2","nonce"')
    with pytest.raises(Malformed):
        check(cms.sign(content, MAKER.voucher_signer))
