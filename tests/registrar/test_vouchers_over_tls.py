"""requestvoucher and voucher_status over real TLS and HTTP: each rule kept and broken."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest

from brski_common import artifact, cms, cose, telemetry
from brski_common.artifact import Format
from brski_common.certificates import Credential, idevid_issuer, load_certificate, to_der, to_pem
from brski_common.errors import NotYet, PeerFailed, Refused, Unknown
from brski_common.paths import Anchors, build_path
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from brski_registrar.knocking import turned_away
from brski_registrar.lifecycle import State
from brski_registrar.policy import Admission, Admit, PinHint
from tests.registrar.conftest import Logged
from tests.support.plant import BRSKI, CMS, Line, Plant, reason_of
from tests.support.world import Manufacturer, fresh, key_for, self_signed_registrar


def request_in(raw: bytes) -> VoucherRequest:
    return artifact.parse_voucher_request(raw, Format.CMS).claimed


def voucher_in(raw: bytes, artifact_format: Format = Format.CMS) -> Voucher:
    return artifact.parse_voucher(raw, artifact_format).claimed


# A good device


@pytest.mark.req("RA-01", "RA-07", "HT-01", "HT-07", "TL-12", "EI-13")
async def test_an_admitted_device_gets_the_masas_voucher_byte_for_byte(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        response = await line.request_voucher()
        assert (response.status, response.media_type) == (200, CMS)
        stored = await plant.store.vouchers((await plant.device(line.serial)).id)
        assert [voucher.raw for voucher in stored] == [response.body]
        voucher = artifact.parse_voucher(response.body, Format.CMS).verify(plant.maker.voucher_anchors, plant.clock())
        assert (voucher.value.serial_number, voucher.value.nonce) == (line.serial, line.nonce)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048", "Ed25519"])
@pytest.mark.req("ID-08")
async def test_devices_of_every_key_kind_without_key_usage_are_served(tmp_path: Path, kind: str) -> None:
    async with Plant.open(tmp_path, kind=kind) as plant, plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 200


@pytest.mark.parametrize("artifact_format", list(Format))
@pytest.mark.req("RM-01", "RM-02", "CB-04", "CB-07", "D-11")
async def test_the_request_to_the_masa_has_the_format_of_the_pledges(plant: Plant, artifact_format: Format) -> None:
    async with plant.connect(await plant.admitted()) as line:
        body = line.pvr(artifact_format=artifact_format)
        response = await line.request_voucher(body, artifact_format.media_type)
    assert (response.status, response.media_type) == (200, artifact_format.media_type)
    assert [media_type for _, media_type in plant.masa.requests] == [artifact_format.media_type]
    if artifact_format is Format.COSE:
        assert not artifact.parse_voucher(response.body, artifact_format).certificates


@pytest.mark.req("RM-06", "RM-07", "RM-08", "RM-10", "RM-11", "RM-12", "RM-13", "BIS-01", "ID-02", "ID-10")
async def test_the_masa_is_asked_with_what_tls_authenticated(plant: Plant) -> None:
    device = await plant.admitted()
    assert device.certificate.serial_number != 0
    async with plant.connect(device) as line:
        body = line.pvr()
        await line.request_voucher(body)
        rvr = request_in(plant.masa.requests[0][0])
        assert rvr.serial_number == line.serial
        assert rvr.nonce == line.nonce
    assert rvr.created_on == plant.clock()
    assert rvr.idevid_issuer == idevid_issuer(device.certificate)
    assert rvr.idevid_issuer.hex().startswith("041830168014")
    assert rvr.prior_signed_voucher_request == body
    assert rvr.assertion is Assertion.PROXIMITY
    assert rvr.proximity_registrar_cert is None


@pytest.mark.parametrize("nonce", ["VOUFT-WwrEv0NuAQEHoV7Q", "62a2e7693d82fcda2624de58fb6722e5", "AAAA+/=="])
@pytest.mark.req("RM-07", "VR-15")
async def test_a_nonce_stays_the_text_it_is(plant: Plant, nonce: str) -> None:
    async with plant.connect(await plant.admitted()) as line:
        response = await line.request_voucher(line.pvr(nonce=nonce))
    assert voucher_in(response.body).nonce == nonce
    assert request_in(plant.masa.requests[0][0]).nonce == nonce


@pytest.mark.req("VR-10")
async def test_leaves_that_mean_nothing_in_a_request_change_nothing(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        odd = line.pvr(pinned_domain_cert=b"x", domain_cert_revocation_checks=True, last_renewal_date=plant.clock())
        assert (await line.request_voucher(odd)).status == 200
    rvr = request_in(plant.masa.requests[0][0])
    assert (rvr.pinned_domain_cert, rvr.domain_cert_revocation_checks, rvr.last_renewal_date) == (None, None, None)


@pytest.mark.parametrize(("hint", "count"), [("ee", 1), ("ca", 2), ("root", 3)])
@pytest.mark.req("RM-03", "RM-04", "RM-05")
async def test_the_operator_chooses_which_certificates_the_masa_may_pin(plant: Plant, hint: str, count: int) -> None:
    await plant.change_domain(pin_hint=PinHint(hint))
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 200
    shown = artifact.parse_voucher_request(plant.masa.requests[0][0], Format.CMS).certificates
    assert set(shown) == set(plant.domain.registrar.chain[:count])


@pytest.mark.req("D-7")
async def test_a_split_tls_key_is_shown_to_the_masa_too(tmp_path: Path) -> None:
    from tests.support.world import Domain

    other = Domain().registrar_with(key=key_for("another tls key"))
    async with Plant.open(tmp_path, tls_credential=other) as plant, plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 401
        body = line.pvr(proximity_registrar_cert=to_der(other.certificate))
        assert (await line.request_voucher(body)).status == 200
        assert other.certificate in artifact.parse_voucher_request(plant.masa.requests[0][0], Format.CMS).certificates


@pytest.mark.parametrize("hint", list(PinHint))
@pytest.mark.req("TL-13")
async def test_the_certificate_that_devices_see_leads_to_the_one_the_voucher_pins(plant: Plant, hint: PinHint) -> None:
    await plant.change_domain(pin_hint=hint)
    async with plant.connect(await plant.admitted()) as line:
        response = await line.request_voucher()
        assert response.peer is not None
        pinned = voucher_in(response.body).pinned_domain_cert
        assert pinned is not None
        anchors = Anchors([load_certificate(pinned)])
        shown = response.peer.chain
        assert build_path(shown[0], shown[1:], anchors, plant.clock(), leaf_may_be_anchor=True)


@pytest.mark.parametrize(("plain", "content_type"), [(False, cms.ID_CT_ANIMA_JSON_VOUCHER), (True, cms.ID_DATA)])
@pytest.mark.req("V-CMS-02", "D-2")
async def test_the_econtenttype_is_the_rfcs_unless_a_masa_knows_no_other(
    plant: Plant, plain: bool, content_type: str
) -> None:
    await plant.change_maker(plain_cms=plain)
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 200
    assert cms.parse(plant.masa.requests[0][0]).content_type == content_type


@pytest.mark.req("V-CMS-03")
async def test_a_request_in_the_older_cms_is_taken(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        body = artifact.sign(request_in(line.pvr()), Format.CMS, device_of(line), content_type=cms.ID_DATA)
        assert cms.parse(body).version == 1
        assert (await line.request_voucher(body)).status == 200
        flipped = body.replace(line.nonce.encode(), line.nonce[::-1].encode())
        assert (await line.request_voucher(flipped)).status == 403


def device_of(line: Line) -> Credential:
    assert line.credential is not None
    return line.credential


# Who is refused


@pytest.mark.req("TL-12", "RS-08")
async def test_a_client_without_certificate_is_refused(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as device, plant.connect(None) as line:
        response = await line.request_voucher(device.pvr())
    assert (response.status, reason_of(response)) == (401, "client-certificate-missing")


@pytest.mark.req("RA-02", "AT-16", "TL-12")
async def test_a_device_of_an_unknown_maker_is_not_found(plant: Plant) -> None:
    stranger = Manufacturer(name="Counterfeit Maker").idevid(fresh())
    async with plant.connect(stranger) as line:
        response = await line.request_voucher()
    assert (response.status, reason_of(response)) == (404, "manufacturer-unknown")
    (knock,) = await turned_away(plant.store.database)
    assert (knock.reason, knock.manufacturer, knock.is_known) == ("manufacturer-unknown", "Counterfeit Maker", False)
    assert await plant.store.journal() == ()


@pytest.mark.req("TL-12")
async def test_what_masas_tls_servers_chain_to_is_no_anchor_for_devices(plant: Plant) -> None:
    web = Manufacturer(name="Web PKI")
    await plant.change_maker(masa_tls_anchors=to_pem(web.root.certificate).decode())
    async with plant.connect(web.idevid(fresh())) as line:
        assert (await line.request_voucher()).status == 404


async def test_a_self_signed_client_is_not_found(plant: Plant) -> None:
    async with plant.connect(self_signed_registrar("Somebody")) as line:
        response = await line.post(f"{BRSKI}/requestvoucher", b"\x30\x00", CMS)
    assert response.status == 404


@pytest.mark.req("RA-04", "RA-08")
async def test_a_device_that_is_not_listed_is_refused_until_the_operator_lists_it(plant: Plant) -> None:
    device = plant.maker.idevid(serial := fresh())
    async with plant.connect(device) as line:
        response = await line.request_voucher()
        assert (response.status, reason_of(response)) == (403, "device-not-allowed")
        assert await plant.told(serial) == [("voucher-refused", "device-not-allowed")]
        await plant.policies.allow(Admission(manufacturer=plant.maker.name, serial_number=serial), plant.clock())
        assert (await line.request_voucher()).status == 200
    assert len(plant.masa.requests) == 1


@pytest.mark.req("RA-06", "HT-02")
async def test_a_maker_whose_devices_wait_for_the_operator(plant: Plant) -> None:
    await plant.change_maker(admit=Admit.ASK)
    async with plant.connect(plant.maker.idevid(serial := fresh())) as line:
        body = line.pvr()
        for _ in range(2):
            response = await line.request_voucher(body)
            assert (response.status, response.headers["Retry-After"]) == (202, "30")
        assert (await plant.device(serial)).state is State.HELD
        assert await plant.told(serial) == [("voucher-held", "waiting-for-operator")]
        await plant.policies.allow(Admission(manufacturer=plant.maker.name, serial_number=serial), plant.clock())
        assert (await line.request_voucher(body)).status == 200


@pytest.mark.req("RS-07", "RA-01")
async def test_all_devices_of_a_maker_come_in_only_if_the_operator_says_so(plant: Plant) -> None:
    await plant.change_maker(admit=Admit.ALL)
    async with plant.connect(plant.maker.idevid(fresh())) as line:
        assert (await line.request_voucher()).status == 200


@pytest.mark.req("RA-05")
async def test_a_blocked_device_is_not_acceptable(plant: Plant) -> None:
    from brski_registrar.lifecycle import Event
    from brski_registrar.records import Change

    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 200
        device = await plant.device(line.serial)
        await plant.store.advance(device, Change(events=(Event.BLOCK,), notes=(), now=plant.clock()))
        response = await line.request_voucher()
        assert (response.status, reason_of(response)) == (406, "device-blocked")
        assert (await line.request_voucher(line.pvr(nonce="another"))).status == 406
    assert len(plant.masa.requests) == 1


@pytest.mark.req("PX-06", "D-5")
async def test_requests_from_elsewhere_are_not_proximity(plant: Plant) -> None:
    await plant.change_domain(sources=("fd00::/8", "10.0.0.0/8"))
    async with plant.connect(await plant.admitted()) as line:
        response = await line.request_voucher()
        assert (response.status, reason_of(response)) == (403, "source-not-allowed")
        await plant.change_domain(sources=("127.0.0.0/8",))
        assert (await line.request_voucher()).status == 200


# What is wrong with a request


@pytest.mark.req("VR-12", "AT-04")
async def test_a_pledge_that_saw_another_registrar_gets_401_and_the_connection_ends(plant: Plant) -> None:
    between = self_signed_registrar("MITM")
    async with plant.connect(await plant.admitted()) as line:
        response = await line.request_voucher(line.pvr(proximity_registrar_cert=to_der(between.certificate)))
        assert (response.status, reason_of(response)) == (401, "proximity-mismatch")
        assert response.headers["Connection"] == "close"
        assert await plant.told(line.serial) == [("voucher-refused", "proximity-mismatch")]
    assert not plant.masa.requests


@pytest.mark.parametrize(
    "changes", [{"assertion": Assertion.LOGGED}, {"assertion": None}, {"proximity_registrar_cert": None}]
)
@pytest.mark.req("VR-12")
async def test_a_request_that_does_not_claim_proximity_is_refused(plant: Plant, changes: dict[str, object]) -> None:
    async with plant.connect(await plant.admitted()) as line:
        response = await line.request_voucher(line.pvr(**changes))  # type: ignore[arg-type] # names of leaves
        assert (response.status, reason_of(response)) == (401, "proximity-missing")


@pytest.mark.req("VR-11", "AT-05")
async def test_a_request_that_another_key_signed_is_refused(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        other = plant.maker.idevid(fresh())
        response = await line.request_voucher(line.pvr(signer=other))
        assert (response.status, reason_of(response)[:10]) == (403, "signature-"[:10])
    assert not plant.masa.requests


def recoded(line: Line, payload: dict[object, object]) -> bytes:
    """The request of a device whose CBOR has keys of its own choice."""
    return cose.sign(cbor2.dumps(payload), device_of(line), certificates=())


@pytest.mark.parametrize("keys", ["numbers", "names", "mixed", "absolute"])
@pytest.mark.req("CB-02")
async def test_a_constrained_request_may_have_its_keys_as_names_or_numbers(plant: Plant, keys: str) -> None:
    async with plant.connect(await plant.admitted()) as line:
        own = to_der(plant.domain.registrar.certificate)
        nonce = base64.b64decode(line.nonce)
        by_name = {"assertion": 2, "nonce": nonce, "proximity-registrar-cert": own, "serial-number": line.serial}
        sids = {"assertion": 2502, "nonce": 2508, "proximity-registrar-cert": 2511, "serial-number": 2514}
        by_number = {sids[name] - 2501: value for name, value in by_name.items()}
        mixed = {1: 2, "nonce": nonce, cbor2.CBORTag(47, 2511): own, 13: line.serial}
        payload: dict[object, object] = {
            "numbers": {2501: by_number},
            "names": {"ietf-voucher-request:voucher": by_name | {"assertion": "proximity"}},
            "mixed": {2501: mixed},
            "absolute": {2501: {cbor2.CBORTag(47, sids[name]): value for name, value in by_name.items()}},
        }[keys]  # type: ignore[assignment] # maps of several kinds
        response = await line.request_voucher(recoded(line, payload), Format.COSE.media_type)
        assert response.status == 200, response.body
        assert voucher_in(response.body, Format.COSE).nonce == line.nonce
        wrong = {2501: by_number | {13: "SN-OF-ANOTHER"}}
        response = await line.request_voucher(recoded(line, wrong), Format.COSE.media_type)  # type: ignore[arg-type] # as above
        assert (response.status, reason_of(response)) == (403, "serial-number-mismatch")


@pytest.mark.req("CB-05")
async def test_the_masa_gets_the_certificates_that_a_constrained_device_does_not_send(plant: Plant) -> None:
    device = await plant.admitted()
    async with plant.connect(device) as line:
        request = VoucherRequest(
            serial_number=line.serial,
            assertion=Assertion.PROXIMITY,
            nonce=line.nonce,
            proximity_registrar_cert=to_der(plant.domain.registrar.certificate),
        )
        body = artifact.sign(request, Format.COSE, device, certificates=())
        assert artifact.parse_voucher_request(body, Format.COSE).certificates == ()
        assert (await line.request_voucher(body, Format.COSE.media_type)).status == 200
        assert (await line.request_voucher(line.pvr(nonce="in CMS they come along"))).status == 200
    constrained, usual = (
        set(artifact.parse_voucher_request(raw, Format.of_media_type(media_type)).certificates)
        for raw, media_type in plant.masa.requests
    )
    assert constrained == {*plant.domain.registrar.chain, *device.chain}
    assert usual == set(plant.domain.registrar.chain)


@pytest.mark.req("CB-06", "VR-11")
async def test_certificates_inside_a_cose_request_authenticate_nobody(plant: Plant) -> None:
    other = plant.maker.idevid(fresh())
    async with plant.connect(await plant.admitted()) as line:
        body = line.pvr(signer=other, artifact_format=Format.COSE)
        assert other.certificate in artifact.parse_voucher_request(body, Format.COSE).certificates
        response = await line.request_voucher(body, Format.COSE.media_type)
        assert (response.status, reason_of(response)) == (403, "signature-invalid")


@pytest.mark.req("RM-09", "ID-10", "AT-05")
async def test_a_request_for_another_serial_number_is_refused(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        response = await line.request_voucher(line.pvr(serial_number="SN-OF-ANOTHER"))
        assert (response.status, reason_of(response)) == (403, "serial-number-mismatch")
        assert await plant.told(line.serial) == [("voucher-refused", "serial-number-mismatch")]


async def test_a_request_without_nonce_is_refused(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        response = await line.request_voucher(line.pvr(nonce=None))
        assert (response.status, reason_of(response)) == (403, "nonce-missing")


@pytest.mark.req("VR-13", "RA-03", "D-4")
async def test_media_types(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        body = line.pvr()
        assert (await line.post(f"{BRSKI}/requestvoucher", body, "application/voucher-xyz")).status == 415
        assert (await line.post(f"{BRSKI}/requestvoucher", body, "application/json")).status == 415
        assert (await line.request_voucher(body, CMS, Accept="application/voucher-xyz")).status == 406
        assert (await line.request_voucher(body, f"{CMS}; charset=binary", Accept="*/*")).status == 200


@pytest.mark.req("HT-10", "EI-13", "AT-10", "AT-22")
async def test_what_cannot_be_read_is_400(plant: Plant) -> None:
    import base64

    async with plant.connect(await plant.admitted()) as line:
        good = line.pvr()
        for body in (b"", b"\x30", b"not cms", good[:-1], base64.b64encode(good), b"\x30\x80" * 100):
            response = await line.request_voucher(body)
            assert response.status == 400, body[:20]
            assert b" " not in response.body
        voucher = artifact.sign(Voucher(serial_number=line.serial), Format.CMS, plant.maker.voucher_signer)
        assert (await line.request_voucher(voucher)).status == 400


async def test_a_body_too_large_is_413(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher(b"\x30" * 200_000)).status == 413


@pytest.mark.req("ID-13")
async def test_an_expired_idevid_is_refused_unless_its_maker_is_trusted_to_know(plant: Plant) -> None:
    from datetime import timedelta

    device = await plant.admitted(not_after=plant.clock() - timedelta(days=1))
    async with plant.connect(device) as line:
        response = await line.request_voucher()
        assert (response.status, reason_of(response)) == (403, "certificate-expired")
        await plant.change_maker(ignore_expired_idevid=True)
        assert (await line.request_voucher()).status == 200


async def test_old_paths_say_where_to_go(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        response = await line.post("/.well-known/est/requestvoucher", line.pvr(), CMS)
        assert (response.status, reason_of(response)[:13]) == (404, "path-obsolete")
        assert (await line.get("/.well-known/brski/requestvoucher")).status == 405


# The MASA


@pytest.mark.req("ID-11", "RS-13")
async def test_an_override_wins_over_the_idevid_and_stands_in_for_it(plant: Plant) -> None:
    from tests.support.masa_fake import MemoryMasa

    masa = plant.service._masa
    assert isinstance(masa, MemoryMasa)
    async with plant.connect(await plant.admitted()) as line:
        await line.request_voucher()
    assert masa.bases == ["https://masa.example:9443/.well-known/brski"]
    async with plant.connect(await plant.admitted(masa_url=None)) as line:
        response = await line.request_voucher()
        assert (response.status, reason_of(response)) == (403, "masa-url-missing")
        await plant.change_maker(masa_url="https://masa.reseller.example/brski/")
        assert (await line.request_voucher()).status == 200
    assert masa.bases[-1] == "https://masa.reseller.example/brski"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://masa.example:9443/x", "masa-url-not-https"),
        ("169.254.169.254:80", "masa-url-not-allowed"),
        ("masa.example:22", "masa-url-not-allowed"),
        ("masa.example:9443@evil.example", "masa-url-malformed"),
    ],
)
@pytest.mark.req("ID-05", "ID-07")
async def test_a_certificate_cannot_steer_the_registrar(plant: Plant, url: str, reason: str) -> None:
    async with plant.connect(await plant.admitted(masa_url=url)) as line:
        response = await line.request_voucher()
        assert response.status in {400, 403}
        assert reason_of(response) == reason
        assert await plant.told(line.serial) == [("voucher-refused", reason)]
    assert not plant.masa.requests


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (Refused("masa-refused", "secret text"), 403, "masa-refused"),
        (Unknown("masa-unknown-device", "secret text"), 404, "masa-unknown-device"),
        (Refused("masa-cannot-issue", "secret text"), 406, "masa-cannot-issue"),
        (PeerFailed("masa-failed", "secret text"), 502, "masa-failed"),
        (PeerFailed("peer-unreachable", "secret text"), 502, "masa-failed"),
        (PeerFailed("peer-timeout", "secret text"), 504, "masa-failed"),
        (PeerFailed("masa-login-refused", "secret text"), 502, "masa-failed"),
    ],
)
@pytest.mark.req("HT-08", "MT-05")
async def test_what_a_masa_refuses_is_passed_on_in_kind_without_its_words(
    plant: Plant, error: Exception, status: int, reason: str
) -> None:
    plant.masa.fails.append(error)  # type: ignore[arg-type] # every one of them is a BrskiError
    async with plant.connect(await plant.admitted()) as line:
        response = await line.request_voucher()
        assert (response.status, reason_of(response)) == (status, reason)
        device = await plant.device(line.serial)
        assert (device.state, "secret text" in device.reason) == (State.DECLINED, True)
        assert (await line.request_voucher()).status == 200


@pytest.mark.req("RA-06", "HT-02", "HT-08")
async def test_a_masa_that_is_away_may_mean_to_wait(plant: Plant) -> None:
    await plant.change_maker(wait_for_masa=True)
    plant.masa.fails += [PeerFailed("peer-unreachable"), NotYet("masa-not-ready", retry_after=7)]
    async with plant.connect(await plant.admitted()) as line:
        body = line.pvr()
        first, second, third = [await line.request_voucher(body) for _ in range(3)]
    assert [(each.status, each.headers.get("Retry-After")) for each in (first, second, third)] == [
        (202, "10"),
        (202, "7"),
        (200, None),
    ]
    assert len({raw for raw, _ in plant.masa.requests}) == 1, "the same question is the same bytes"


@pytest.mark.req("RM-15", "HT-02")
async def test_the_same_request_hits_the_masa_once(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line, plant.connect(line.credential) as second:
        body = line.pvr()
        answers = [await line.request_voucher(body) for _ in range(3)]
        answers += await asyncio.gather(*(each.request_voucher(body) for each in (line, second)))
        assert len({response.body for response in answers}) == 1
        assert len(plant.masa.requests) == 1
        await line.request_voucher(line.pvr(nonce="fresh"))
    assert len(plant.masa.requests) == 2


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"serial_number": "other"}, "voucher-serial-number-mismatch"),
        ({"nonce": "other"}, "voucher-nonce-mismatch"),
        ({"nonce": None}, "voucher-nonce-mismatch"),
        ({"idevid_issuer": b"other"}, "voucher-issuer-mismatch"),
        ({"pinned_domain_cert": None}, "voucher-pins-nothing"),
        ({"pinned_domain_cert": b"\x30\x00"}, "voucher-pin-unreadable"),
    ],
)
@pytest.mark.req("RM-16")
async def test_a_voucher_that_is_not_for_this_device_is_not_handed_on(
    plant: Plant, spoilt: dict[str, object], reason: str
) -> None:
    plant.masa.spoil = lambda voucher: replace(voucher, **spoilt)  # type: ignore[arg-type] # names of leaves
    async with plant.connect(await plant.admitted()) as line:
        response = await line.request_voucher()
        assert (response.status, reason_of(response)) == (502, "masa-failed")
        assert (await plant.device(line.serial)).reason.startswith(reason)


@pytest.mark.req("TL-13")
async def test_a_voucher_that_pins_another_plant_is_not_handed_on(plant: Plant) -> None:
    elsewhere = to_der(plant.maker.root.certificate)
    plant.masa.spoil = lambda voucher: replace(voucher, pinned_domain_cert=elsewhere)
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 502
        assert (await plant.device(line.serial)).reason.startswith("voucher-pins-foreign-domain")


async def test_a_voucher_is_verified_where_the_makers_voucher_anchors_are_known(plant: Plant) -> None:
    await plant.change_maker(voucher_anchors=to_pem(plant.maker.voucher_root.certificate).decode())
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 200
        plant.masa.signer = Manufacturer(name="Not The Masa").voucher_signer
        assert (await line.request_voucher(line.pvr(nonce="fresh"))).status == 502
        assert (await plant.device(line.serial)).reason.startswith("voucher-untrusted")


@pytest.mark.req("RM-16", "RS-10")
async def test_an_answer_that_cannot_be_read_is_handed_on_only_by_policy(plant: Plant) -> None:
    plant.masa.raw = b"a voucher of the future"
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.request_voucher()).status == 502
        await plant.change_maker(unsafe_opaque_vouchers=True)
        response = await line.request_voucher()
        assert (response.status, response.body) == (200, b"a voucher of the future")


# Voucher status and audit log


@pytest.mark.req("VS-05", "AL-01", "AL-12")
async def test_after_the_report_the_audit_log_is_asked_for_with_the_same_bytes(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        await line.request_voucher()
        assert (await line.status(success=True)).status == 200
        assert plant.masa.log_requests == plant.masa.requests
        assert (await plant.device(line.serial)).state is State.APPROVED
        assert await plant.told(line.serial) == [
            ("voucher-requested", ""),
            ("voucher-issued", ""),
            ("voucher-status", "success"),
            ("audit-log", "accepted"),
        ]


@pytest.mark.req("VS-05")
async def test_a_report_of_failure_is_final_until_the_next_voucher(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        await line.request_voucher()
        assert (await line.status(success=False, reason="voucher-nonce-mismatch")).status == 200
        device = await plant.device(line.serial)
        assert (device.state, device.reason) == (
            State.FAILED,
            "voucher rejected by the pledge: voucher-nonce-mismatch",
        )
        assert (await line.status(success=True)).status == 200
        assert (await plant.device(line.serial)).state is State.FAILED
        assert (await line.enroll(b"\x30\x00")).status == 400
        assert reason_of(await line.get("/.well-known/est/csrattrs")) == "voucher-rejected-by-pledge"
        assert not plant.masa.log_requests


@pytest.mark.req("VS-07", "VS-08")
async def test_a_newer_report_is_taken_and_an_operator_told(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    async with plant.connect(await plant.admitted()) as line:
        await line.request_voucher()
        report = b'{"version": "2", "status": true, "mood": "fine", "reason-context": {"temperature": 21}}'
        assert (await line.post(f"{BRSKI}/voucher_status", report, "application/json")).status == 200
        assert ("voucher-status", "newer-version") in await plant.told(line.serial)
        details = [entry.detail for entry in await plant.store.journal()]
    assert any("temperature" in detail and "mood" in detail for detail in details)
    assert "newer report" in capsys.readouterr().err


@pytest.mark.req("CB-08")
async def test_a_constrained_pledge_reports_in_cbor(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        await line.request_voucher()
        report = telemetry.write_cbor(telemetry.success())
        assert (await line.post(f"{BRSKI}/voucher_status", report, "application/cbor")).status == 200
        assert (await plant.device(line.serial)).state is State.APPROVED


async def test_reports_from_nowhere_are_not_found(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.status(success=True)).status == 404
        response = await line.post(f"{BRSKI}/voucher_status", b"{", "application/json")
        assert response.status == 400
        assert (await line.post(f"{BRSKI}/voucher_status", b"{}", "text/xml")).status == 415


@pytest.mark.req("TL-11", "AT-25")
async def test_another_certificate_of_the_same_device_does_not_go_on_with_its_voucher(plant: Plant) -> None:
    serial = fresh()
    first, second = await plant.admitted(serial), plant.maker.idevid(serial, key=key_for("second key"))
    async with plant.connect(first) as line:
        await line.request_voucher()
    async with plant.connect(second) as line:
        response = await line.status(success=True)
        assert (response.status, reason_of(response)) == (403, "client-certificate-changed")
        assert reason_of(await line.get("/.well-known/est/cacerts")) == "client-certificate-changed"
    assert (await plant.device(serial)).state is State.VOUCHERED


@pytest.mark.req("AL-13", "AL-14", "AT-01")
async def test_a_rogue_registrars_voucher_in_the_log_closes_est_and_tells_the_operator(
    plant: Plant, logged: Logged
) -> None:
    async with plant.connect(await plant.admitted()) as line:
        plant.masa.remember(line.serial, b"\x66" * 20)
        await line.request_voucher()
        await line.status(success=True)
        device = await plant.device(line.serial)
        assert device.state is State.DENIED
        assert device.reason.startswith("audit-log-unexpected-domain")
        assert "66" * 20 in device.reason
        for path in ("cacerts", "csrattrs"):
            response = await line.get(f"/.well-known/est/{path}")
            assert (response.status, reason_of(response)) == (403, "audit-log-refused")
    (told,) = [each for each in logged() if str(each.get("reason")).startswith("audit-log-unexpected-domain")]
    assert (told["event"], told["level"], told["state"]) == ("audit log refused", "warning", "denied")
    assert (told["serial_number"], told["peer"]) == (line.serial, "127.0.0.1")


@pytest.mark.req("AL-15")
async def test_history_is_ignored_only_by_configuration(plant: Plant) -> None:
    from brski_registrar.policy import AuditPolicy

    await plant.change_maker(audit=AuditPolicy(unsafe_ignore_history=True))
    async with plant.connect(await plant.admitted()) as line:
        plant.masa.remember(line.serial, b"\x66" * 20)
        await line.request_voucher()
        await line.status(success=True)
        assert (await plant.device(line.serial)).state is State.APPROVED
        assert ("audit-log", "audit-log-history-ignored") in await plant.told(line.serial)


async def test_a_log_that_cannot_be_read_now_keeps_est_shut_until_it_can(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        await line.request_voucher()
        plant.masa.log_fails += [PeerFailed("peer-unreachable"), PeerFailed("peer-unreachable")]
        assert (await line.status(success=True)).status == 200
        assert (await plant.device(line.serial)).state is State.IMPRINTED
        response = await line.get("/.well-known/est/cacerts")
        assert (response.status, response.headers["Retry-After"]) == (503, "10")
        assert (await line.get("/.well-known/est/cacerts")).status == 200
        assert (await plant.device(line.serial)).state is State.APPROVED


async def test_a_masa_that_knows_no_log_for_us_closes_est(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        await line.request_voucher()
        plant.masa.events.clear()
        await line.status(success=True)
        assert (await plant.device(line.serial)).reason.startswith("audit-log-missing")


@pytest.mark.req("VS-09")
async def test_a_device_that_never_reports_has_its_log_read_all_the_same(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        plant.masa.remember(line.serial, b"\x66" * 20)
        await line.request_voucher()
        assert await plant.service.check_silent() == 0
        plant.clock.advance(61)
        assert await plant.service.check_silent() == 1
        assert (await plant.device(line.serial)).state is State.DENIED
        assert ("voucher-status", "voucher-status-missing") in await plant.told(line.serial)


# Nonceless vouchers


@pytest.mark.req("RM-14", "RS-09")
async def test_a_voucher_fetched_beforehand_waits_for_its_device(plant: Plant) -> None:
    device = await plant.admitted(serial := fresh())
    await plant.service.prefetch(plant.maker.name, serial, certificate=device.certificate)
    asked = request_in(plant.masa.requests[0][0])
    assert (asked.nonce, asked.prior_signed_voucher_request, asked.serial_number) == (None, None, serial)
    plant.masa.fails.append(PeerFailed("peer-unreachable"))
    async with plant.connect(device) as line:
        response = await line.request_voucher()
        assert (response.status, voucher_in(response.body).nonce) == (200, None)
        await line.status(success=True)
        assert (await plant.device(serial)).state is State.APPROVED
    assert len(plant.masa.requests) == 1
