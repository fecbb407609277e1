"""The numbered examination (RFC 8995, 5.5): each check accepts what is right and refuses what is wrong."""

import base64
from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography import x509

from brski_common import artifact, cose
from brski_common.artifact import Format
from brski_common.certificates import load_certificate, load_pem, serial_number, spki_sha256, to_der
from brski_common.encoding import read_json
from brski_common.errors import BrskiError, Malformed, Refused, UnsupportedFormat, Untrusted
from brski_common.paths import Anchors
from brski_common.voucher import Assertion, VoucherRequest
from brski_masa.vouchering import Examined, Trust, examine
from tests.masa.plant import MAKER, NONCE, OTHER_PLANT, PLANT, nonceless, pvr, registrar_under, rvr, trust
from tests.support.vectors import vector
from tests.support.world import NOW, Manufacturer, fresh, make_key, self_signed_registrar

DEVICE = MAKER.idevid("SN-EXAMINED")


def look(request: bytes, form: Format = Format.CMS, **changes: object) -> Examined:
    return examine(artifact.parse_voucher_request(request, form), trust(**changes), NOW)


def refuses(request: bytes, reason: str, kind: type[BrskiError] = Untrusted) -> None:
    with pytest.raises(kind) as caught:
        look(request)
    assert caught.value.reason == reason


@pytest.mark.req("MA-01", "MA-02", "MA-04", "MA-05", "MA-06", "MA-07")
@pytest.mark.parametrize("form", Format)
def test_good_request_passes_in_every_format(form: Format) -> None:
    seen = look(rvr(DEVICE, form=form), form)
    assert seen.proximity
    assert seen.serial_number == "SN-EXAMINED"
    assert seen.nonce == NONCE
    assert seen.path == (PLANT.registrar.certificate, PLANT.issuing.certificate, PLANT.root.certificate)


# 5.5.3


@pytest.mark.req("MA-01")
def test_request_with_a_changed_byte_is_refused() -> None:
    request = bytearray(rvr(DEVICE))
    request[request.index(b"ietf-voucher-request") + 60] ^= 1
    with pytest.raises(BrskiError):
        look(bytes(request))


@pytest.mark.req("MA-01")
def test_unknown_domain_is_a_temporary_anchor_but_must_hold_together() -> None:
    assert look(rvr(DEVICE, OTHER_PLANT)).path[-1] == OTHER_PLANT.root.certificate
    stranger = (PLANT.registrar.certificate, OTHER_PLANT.root.certificate)
    refuses(rvr(DEVICE, certificates=stranger), "path-not-found")


@pytest.mark.req("MA-01")
def test_expired_registrar_is_refused() -> None:
    old = PLANT.registrar_with(not_after=NOW - timedelta(hours=1))
    refuses(rvr(DEVICE, signer=old, prior=pvr(DEVICE, old.certificate)), "certificate-expired")


@pytest.mark.req("MA-01", "RM-03")
@pytest.mark.parametrize("length", [1, 2, 3])
def test_chain_may_stop_anywhere_above_the_registrar(length: int) -> None:
    seen = look(rvr(DEVICE, certificates=PLANT.registrar.chain[:length]))
    assert seen.path == PLANT.registrar.chain[:length]


@pytest.mark.req("MA-01", "RM-03")
@pytest.mark.parametrize("length", [1, 2, 3])
def test_chain_of_the_pledge_beside_it_does_not_confuse_the_registrars(length: int) -> None:
    chain = PLANT.registrar.chain[:length]
    assert look(rvr(DEVICE, certificates=(*DEVICE.chain, *chain))).path == chain


# 5.5.4


@pytest.mark.req("MA-02", "AT-12")
def test_signer_without_cmc_ra_is_refused() -> None:
    refuses(rvr(DEVICE, signer=PLANT.ldevid("thief")), "registrar-not-authorized")
    thief = PLANT.ldevid("thief")
    beside = (*thief.chain, PLANT.registrar.certificate)
    refuses(rvr(DEVICE, signer=thief, certificates=beside), "registrar-not-authorized")


# 5.5.5


@pytest.mark.req("MA-04", "MA-05")
def test_pledge_request_of_another_maker_is_refused() -> None:
    counterfeit = Manufacturer("Counterfeit Maker").idevid("SN-EXAMINED")
    refuses(rvr(counterfeit), "path-not-found")


@pytest.mark.req("MA-04")
def test_pledge_request_with_a_broken_signature_is_refused_even_with_everything_else_right() -> None:
    inside = bytearray(pvr(DEVICE, PLANT.registrar.certificate))
    inside[inside.index(b'"nonce":"') + 10] ^= 1
    with pytest.raises(BrskiError):
        look(rvr(DEVICE, prior=bytes(inside), nonce=None))
    with pytest.raises(BrskiError):
        look(rvr(DEVICE, prior=b"not a request"))


@pytest.mark.req("MA-04")
def test_pledge_request_signed_by_a_ca_of_the_maker_is_no_devices() -> None:
    fake = artifact.sign(VoucherRequest(serial_number="SN-EXAMINED", nonce=NONCE), Format.CMS, MAKER.idevid_ca)
    refuses(rvr(DEVICE, prior=fake), "idevid-is-ca")


@pytest.mark.req("MA-06")
def test_device_a_cannot_ask_for_serial_number_b() -> None:
    other = MAKER.idevid(fresh())
    inside = pvr(other, PLANT.registrar.certificate, serial_number="SN-EXAMINED")
    refuses(rvr(DEVICE, prior=inside), "serial-number-mismatch")
    refuses(rvr(DEVICE, serial_number="SN-OTHER"), "serial-number-mismatch")


@pytest.mark.req("MA-06", "MA-16", "ID-02")
def test_serial_number_is_the_subjects_not_the_certificates() -> None:
    assert serial_number(DEVICE.certificate) != str(DEVICE.certificate.serial_number)
    refuses(rvr(DEVICE, serial_number=str(DEVICE.certificate.serial_number)), "serial-number-mismatch")


def test_idevid_issuer_must_name_the_issuer_of_the_idevid() -> None:
    refuses(rvr(DEVICE, idevid_issuer=b"another issuer"), "idevid-issuer-mismatch")
    assert look(rvr(DEVICE, idevid_issuer=None)).proximity


@pytest.mark.req("MA-05", "MA-08")
def test_pledge_that_saw_another_registrar_shows_no_proximity() -> None:
    assert not look(rvr(DEVICE, prior=pvr(DEVICE, OTHER_PLANT.registrar.certificate))).proximity
    assert not look(rvr(DEVICE, prior=pvr(DEVICE, None))).proximity


@pytest.mark.req("MA-05", "AT-01")
def test_foreign_registrar_in_the_bag_gives_no_proximity() -> None:
    """Whoever intercepts a pledge's request adds the victim's certificate to his own: it is not of his domain."""
    victim = PLANT.registrar.certificate
    bag = (*OTHER_PLANT.registrar.chain, victim, PLANT.issuing.certificate)
    request = rvr(DEVICE, OTHER_PLANT, prior=pvr(DEVICE, victim), certificates=bag)
    assert not look(request).proximity


@pytest.mark.req("MA-05", "D-7")
def test_second_registrar_of_the_same_domain_may_be_what_the_pledge_saw() -> None:
    front = registrar_under(PLANT.issuing)
    bag = (*PLANT.registrar.chain, front.certificate)
    seen = look(rvr(DEVICE, prior=pvr(DEVICE, front.certificate), certificates=bag))
    assert seen.proximity
    assert seen.pinnable == (PLANT.issuing.certificate, PLANT.root.certificate)
    device_cert = PLANT.ldevid("x").certificate
    without = look(rvr(DEVICE, prior=pvr(DEVICE, device_cert), certificates=(*PLANT.registrar.chain, device_cert)))
    assert not without.proximity


@pytest.mark.req("BIS-05")
def test_proximity_attributes_are_considered_in_order() -> None:
    ours, theirs = PLANT.registrar.certificate, OTHER_PLANT.registrar.certificate
    assert look(rvr(DEVICE, prior=pvr(DEVICE, theirs, proximity_registrar_pubk_sha256=spki_sha256(ours)))).proximity
    public = x509.Certificate.public_key(ours)
    from brski_common.certificates import public_key_info

    assert look(rvr(DEVICE, prior=pvr(DEVICE, theirs, proximity_registrar_pubk=public_key_info(public)))).proximity
    assert not look(rvr(DEVICE, prior=pvr(DEVICE, ours, proximity_registrar_pubk_sha256=bytes(32)))).proximity


def test_self_signed_registrar_is_its_own_domain() -> None:
    lonely = self_signed_registrar()
    seen = look(rvr(DEVICE, signer=lonely, prior=pvr(DEVICE, lonely.certificate)))
    assert seen.proximity
    assert seen.path == (lonely.certificate,)


@pytest.mark.req("MA-04")
def test_constrained_pledge_without_certificates_is_found_in_the_registrars_bag() -> None:
    inside = artifact.sign(
        VoucherRequest(
            serial_number="SN-EXAMINED", nonce=NONCE, proximity_registrar_cert=to_der(PLANT.registrar.certificate)
        ),
        Format.COSE,
        DEVICE,
        certificates=(),
    )
    bag = (*PLANT.registrar.chain, DEVICE.certificate)
    request = rvr(DEVICE, prior=inside, form=Format.COSE, certificates=bag)
    assert look(request, Format.COSE).proximity
    missing = rvr(DEVICE, prior=inside, form=Format.COSE)
    with pytest.raises(Untrusted, match="idevid-missing"):
        look(missing, Format.COSE)


@pytest.mark.req("CB-03")
@pytest.mark.parametrize("keys", ["numbers", "names", "mixed"])
def test_constrained_request_may_have_its_keys_as_names_or_numbers(keys: str) -> None:
    inside = pvr(DEVICE, PLANT.registrar.certificate, Format.COSE)
    nonce = base64.b64decode(NONCE)
    payload = {
        "numbers": {2501: {1: 2, 7: nonce, 9: inside, 13: "SN-EXAMINED"}},
        "names": {
            "ietf-voucher-request:voucher": {
                "assertion": "proximity",
                "nonce": nonce,
                "prior-signed-voucher-request": inside,
                "serial-number": "SN-EXAMINED",
            }
        },
        "mixed": {2501: {"assertion": 2, cbor2.CBORTag(47, 2508): nonce, 9: inside, "serial-number": "SN-EXAMINED"}},
    }[keys]
    request = cose.sign(cbor2.dumps(payload), PLANT.registrar)
    seen = look(request, Format.COSE)
    assert (seen.proximity, seen.serial_number, seen.nonce) == (True, "SN-EXAMINED", NONCE)


@pytest.mark.req("CB-25")
def test_constrained_request_without_its_algorithm_under_the_signature_is_refused() -> None:
    tag = cbor2.loads(rvr(DEVICE, form=Format.COSE))
    protected, unprotected, payload, signature = tag.value
    header = cbor2.loads(protected)
    algorithm = header.pop(1)
    for bare, beside in ((header, unprotected), (header, unprotected | {1: algorithm})):
        changed = cbor2.CBORTag(18, [cbor2.dumps(bare) if bare else b"", beside, payload, signature])
        with pytest.raises(BrskiError, match="cose-algorithm"):
            look(cbor2.dumps(changed), Format.COSE)


def test_expired_idevid_is_refused_unless_the_maker_says_otherwise() -> None:
    old = MAKER.idevid("SN-OLD", not_after=NOW - timedelta(days=1))
    refuses(rvr(old), "certificate-expired")
    assert look(rvr(old), ignore_idevid_dates=True).proximity


# 5.5.6


@pytest.mark.req("MA-07", "AT-02")
def test_nonces_must_be_equal() -> None:
    refuses(rvr(DEVICE, nonce="YW5vdGhlciBub25jZQ=="), "nonce-mismatch")
    refuses(rvr(DEVICE, pledge={"nonce": None}), "nonce-mismatch")


@pytest.mark.req("AT-03")
def test_stripped_nonce_is_seen() -> None:
    refuses(rvr(DEVICE, nonce=None), "nonce-stripped")


# What the registrar claims


@pytest.mark.req("MA-09", "VR-10")
def test_claims_of_the_registrar_change_nothing() -> None:
    claimed = rvr(
        DEVICE,
        assertion=Assertion.VERIFIED,
        pinned_domain_cert=to_der(OTHER_PLANT.root.certificate),
        last_renewal_date=NOW,
        domain_cert_revocation_checks=True,
    )
    seen, plain = look(claimed), look(rvr(DEVICE))
    assert (seen.path, seen.proximity, seen.pinnable) == (plain.path, plain.proximity, plain.pinnable)


@pytest.mark.req("MA-24")
@pytest.mark.parametrize("hours", [-25, 25])
def test_stale_request_is_refused(hours: int) -> None:
    refuses(rvr(DEVICE, created_on=NOW + timedelta(hours=hours)), "request-stale", Refused)
    look(rvr(DEVICE, created_on=NOW + timedelta(hours=hours / 25 * 23)))
    look(rvr(DEVICE, created_on=None))


def test_request_without_the_pledges_is_examined_too() -> None:
    seen = look(nonceless(DEVICE))
    assert (seen.idevid, seen.proximity, seen.nonce) == (None, False, None)


def test_voucher_of_another_maker_renews_nothing() -> None:
    from brski_common.voucher import Voucher

    foreign = Voucher(serial_number="SN-EXAMINED", pinned_domain_cert=to_der(PLANT.root.certificate))
    prior = artifact.sign(foreign, Format.CMS, Manufacturer("Counterfeit Maker").voucher_signer)
    refuses(rvr(DEVICE, prior=prior, nonce=None), "path-not-found")


def test_prior_request_in_another_envelope_is_not_guessed_at() -> None:
    inside = pvr(DEVICE, PLANT.registrar.certificate, Format.JWS)
    with pytest.raises((Malformed, UnsupportedFormat)):
        look(rvr(DEVICE, prior=inside))


# Specification vectors


def _published(**changes: object) -> Trust:
    anchors = Anchors(load_pem(vector("rfc8995/vendor_ca.crt.pem")))
    return trust(idevid_anchors=anchors, idevid_pool=(), **changes)


@pytest.mark.req("MA-05", "V-CMS-02", "V-CMS-03")
def test_request_of_rfc_8995_appendix_c_passes_at_its_time() -> None:
    request = artifact.parse_voucher_request(vector("rfc8995/registrar_voucher_request_parboiled.cms.der"), Format.CMS)
    now = datetime(2021, 4, 14, tzinfo=UTC)
    seen = examine(request, _published(unsafe_allow_published_keys=True), now)
    assert seen.serial_number == "00-D0-E5-F2-00-02"
    assert seen.proximity
    assert seen.nonce == "-_XE9zK9q8Ll1qylMtLKeg"
    with pytest.raises(Untrusted, match="published-test-key"):
        examine(request, _published(), now)


@pytest.mark.req("MA-05", "MA-08")
def test_request_of_the_jws_draft_holds_but_shows_no_proximity() -> None:
    request = artifact.parse_voucher_request(vector("jws-voucher/rvr.json"), Format.JWS)
    anchors = Anchors(load_pem(vector("jws-voucher/manufacturer_ca.crt.pem")))
    believed = trust(idevid_anchors=anchors, idevid_pool=(), unsafe_allow_published_keys=True)
    made = request.claimed.created_on
    assert made is not None
    assert not examine(request, believed, made).proximity


def test_published_voucher_request_reads_as_one() -> None:
    payload = read_json(vector("rfc8995/registrar_voucher_request_parboiled.payload.json"))
    assert isinstance(payload, VoucherRequest)


def test_pledge_certificate_is_parsed_once() -> None:
    assert load_certificate(to_der(DEVICE.certificate)) is load_certificate(to_der(DEVICE.certificate))
    assert make_key() is not make_key()
