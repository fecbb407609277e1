"""What a pledge meets on a hostile link: rogue registrars, proxies in the middle, replayed and forged vouchers."""

import asyncio
import base64
import json
from datetime import timedelta

import pytest
from aiohttp import web
from cryptography import x509

from brski_common import issuing, tls
from brski_common.certificates import ID_KP_CMC_RA, Credential, domain_id, to_der
from brski_common.errors import Misconfigured
from brski_common.http_client import HttpClient
from brski_common.voucher import VoucherRequest
from brski_masa.parties import DevicePolicy
from brski_pledge import Offer, Outcome, events
from brski_registrar.lifecycle import State
from tests.support import foreign_server
from tests.support.forgeries import ca_with_key_id, pvr_of, request_in, rvr_of, serial_of, slug, voucher_for, voucher_in
from tests.support.plant import BRSKI, CMS, reason_of
from tests.support.rogues import MitmProxy, RogueRegistrar, Scene
from tests.support.world import NOW, Clock, Domain, Manufacturer, fresh, key_for, self_signed_registrar

ROGUE = Domain(name="Rogue Plant")
SIGNER_POLICY = "1.3.6.1.4.1.32473.1"  # of the arc for documentation (RFC 5612)


async def refuse(_: web.Request, __: bytes) -> web.StreamResponse:
    return foreign_server.plain(403, "no")


def reason_of_pledge(scene: Scene, device: Credential) -> str:
    """Why the pledge's last attempt failed."""
    return next(
        told.reason for told in reversed(scene.events[serial_of(device)]) if isinstance(told, events.AttemptFailed)
    )


async def voucher_from_rogue(
    scene: Scene, device: Credential, credential: Credential, **leaves: object
) -> tuple[Outcome, RogueRegistrar]:
    """Let a pledge meet a registrar that somehow has a voucher of its MASA with the right nonce, but for `leaves`."""
    signer, pinned = scene.factory.maker.voucher_signer, leaves.pop("pinned", credential.chain[-1])
    assert isinstance(pinned, x509.Certificate)
    forger = leaves.pop("signer", signer)
    assert isinstance(forger, Credential)

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        if not request.path.endswith("/requestvoucher"):
            return foreign_server.reply(200)
        nonce = request_in(body).nonce
        chosen = {"nonce": nonce} | leaves
        return foreign_server.reply(200, voucher_for(device, pinned=pinned, signer=forger, **chosen), CMS)  # type: ignore[arg-type] # leaves

    rogue = await scene.rogue(answer, credential)
    return await scene.onboard(device, rogue.port), rogue


# A rogue registrar and what its MASA allows


@pytest.mark.req("AT-01", "AL-14", "DS-05")
async def test_a_permissive_masa_lets_a_rogue_win_but_the_owner_sees_it_and_shuts_est(scene: Scene) -> None:
    rogue = await scene.rogue_plant()
    device = await scene.device(policy=DevicePolicy.AUDIT_ONLY)
    pledge = scene.pledge(device, rogue.server.port)
    outcome = await pledge.onboard()
    assert outcome.is_operational
    assert outcome.enrollment is not None
    assert outcome.enrollment.pinned == ROGUE.issuing.certificate, "the pledge joins whichever voucher holds"

    pledge.reset()
    assert not (await scene.onboard(device)).is_operational
    known = await scene.plant.device(serial_of(device))
    assert known.state is State.DENIED
    assert "audit-log-unexpected-domain" in known.reason
    assert domain_id(ROGUE.issuing.certificate).hex() in known.reason, "the operator reads who it was"
    await scene.untouched(device)
    await scene.still_works()


@pytest.mark.req("AT-01", "MA-11")
async def test_by_default_a_rogue_gets_no_voucher_and_the_pledge_goes_on_to_its_owner(scene: Scene) -> None:
    rogue = await scene.rogue_plant()
    device = await scene.device()
    outcome = await scene.onboard(device, rogue.server.port, scene.plant.server.port)
    assert outcome.is_operational
    assert outcome.enrollment is not None
    assert outcome.enrollment.pinned == scene.plant.domain.issuing.certificate
    assert [entry.reason for entry in await rogue.store.journal() if entry.reason] == ["masa-refused"]
    assert len(await scene.factory.log(serial_of(device))) == 1


@pytest.mark.req("AT-01")
async def test_two_rogues_and_the_owner_at_once(scene: Scene) -> None:
    first, second = await scene.rogue(refuse), await scene.rogue_plant()
    device = await scene.device()
    ports = (first.port, second.server.port, scene.plant.server.port)
    assert (await scene.onboard(device, *ports)).is_operational
    nonces = {request_in(body).nonce for _, _, body in first.requests}
    (entry,) = await scene.factory.log(serial_of(device))
    assert entry.entry.nonce not in nonces, "each registrar sees a nonce of its own"


@pytest.mark.req("AT-02", "PV-05")
async def test_an_old_request_brings_a_voucher_that_no_longer_fits(scene: Scene) -> None:
    device = await scene.device(policy=DevicePolicy.AUDIT_ONLY)
    kept: list[bytes] = []
    masa_line = scene.factory.client(ROGUE.registrar)

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        if not request.path.endswith("/requestvoucher"):
            return foreign_server.reply(200)
        kept.append(body)
        if len(kept) == 1:
            return foreign_server.plain(503, "later")
        old = kept[0]
        async with masa_line as masa:
            bought = await masa.voucher(
                rvr_of(ROGUE.registrar, serial_of(device), pvr=old, nonce=request_in(old).nonce)
            )
        assert bought.status == 200, "the MASA cannot know that the pledge has gone on"
        return foreign_server.reply(200, bought.body, CMS)

    rogue = await scene.rogue(answer)
    for _ in range(2):
        assert not (await scene.onboard(device, rogue.port)).is_operational
    assert reason_of_pledge(scene, device) == "nonce-mismatch"
    assert not [path for path in rogue.paths if "/est/" in path]
    await scene.untouched(device)


@pytest.mark.req("AT-05", "PV-03")
async def test_a_voucher_for_another_device_is_worth_nothing(scene: Scene) -> None:
    device = await scene.device()
    outcome, rogue = await voucher_from_rogue(scene, device, ROGUE.registrar, serial_number="SN-OF-ANOTHER")
    assert outcome.reason == "serial-number-mismatch"
    assert [path for path in rogue.paths if "/est/" in path] == []
    await scene.still_works(device)


@pytest.mark.req("AT-19", "PV-04")
async def test_a_voucher_for_the_twin_of_another_product_line(scene: Scene) -> None:
    device = await scene.device()
    twin = Manufacturer(name="Light Bulbs").idevid(serial_of(device))
    issuer = twin.certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.public_bytes()
    outcome, _ = await voucher_from_rogue(
        scene, device, ROGUE.registrar, idevid_issuer=b"\x04" + bytes((len(issuer),)) + issuer
    )
    assert outcome.reason == "idevid-issuer-mismatch"
    await scene.still_works(device)


@pytest.mark.req("AT-06", "RS-01", "AL-13")
async def test_a_nonceless_voucher_of_the_former_owner_shows_in_the_log(scene: Scene) -> None:
    former = Domain(name="Former Owner")
    await scene.factory.owned_by(former, "Former Owner")
    device = await scene.factory.device(owner="Former Owner")
    async with scene.factory.client(former.registrar) as masa:
        kept = await masa.voucher(rvr_of(former.registrar, serial_of(device), pvr=None, nonce=None))
    assert kept.status == 200
    assert voucher_in(kept.body).expires_on is not None
    (record,) = await scene.factory.store.find_devices(serial_of(device))
    await scene.factory.store.assign(record.id, "Example Plant", scene.clock())
    await scene.admit(device)

    async def answer(request: web.Request, _: bytes) -> web.StreamResponse:
        voucher = request.path.endswith("/requestvoucher")
        return foreign_server.reply(200, kept.body, CMS) if voucher else foreign_server.plain(404, "no")

    assert not (await scene.onboard(device)).is_operational, "the new owner reads of it before anything else"
    assert "audit-log-unexpected-domain" in (await scene.plant.device(serial_of(device))).reason
    thief = await scene.rogue(answer, former.registrar)
    await scene.onboard(device, thief.port)
    assert "imprinted" in scene.steps(device), "in the factory state the voucher still works, while it is valid"
    late = await scene.onboard(device, thief.port, clock=lambda: NOW + timedelta(hours=1), folder="with-a-clock")
    assert late.reason == "voucher-expired"


@pytest.mark.req("AT-27", "ST-02", "AT-06")
async def test_an_enrolled_device_answers_to_nobody(scene: Scene) -> None:
    device = await scene.device()
    await scene.still_works(device)
    rogue = await scene.rogue(refuse)
    pledge = scene.pledge(device, rogue.port)
    before = pledge.enrollment
    pledge.found(Offer("127.0.0.1", rogue.port))
    pledge.link_up()
    assert (await pledge.onboard()).is_operational
    assert rogue.requests == []
    assert before is not None
    assert pledge.enrollment is not None
    assert pledge.enrollment.credential.certificate == before.credential.certificate


# Somebody in the middle


@pytest.mark.req("AT-04", "VR-12")
async def test_a_proxy_that_ends_tls_has_no_client_certificate_to_show(scene: Scene) -> None:
    device, between = await scene.device(), self_signed_registrar("MITM")
    async with HttpClient(tls.client_context(None, judge=lambda _: None)) as client:
        mitm = MitmProxy(scene.plant.server.url, client)
        rogue = await scene.rogue(mitm.relay, between)
        assert not (await scene.onboard(device, rogue.port)).is_operational
    assert (mitm.answers[0].status, reason_of(mitm.answers[0])) == (401, "client-certificate-missing")
    await scene.untouched(device)
    await scene.still_works(device)


@pytest.mark.req("AT-04", "VR-12", "VR-06")
async def test_a_proxy_with_a_genuine_device_of_its_own_is_seen_by_the_registrar(scene: Scene) -> None:
    device, own, between = await scene.device(), await scene.device(), self_signed_registrar("MITM")
    async with HttpClient(tls.client_context(own, judge=lambda _: None)) as client:
        mitm = MitmProxy(scene.plant.server.url, client)
        rogue = await scene.rogue(mitm.relay, between)
        assert not (await scene.onboard(device, rogue.port)).is_operational
    assert (mitm.answers[0].status, reason_of(mitm.answers[0])) == (401, "proximity-mismatch")
    assert mitm.answers[0].headers["Connection"] == "close"
    assert await scene.factory.log(serial_of(device)) == []
    await scene.untouched(device)
    await scene.still_works(device)


@pytest.mark.req("AT-04", "MA-05")
async def test_a_registrar_that_overlooks_the_proxy_is_stopped_by_the_masa(scene: Scene) -> None:
    device, registrar = await scene.device(), scene.plant.domain.registrar
    pvr = pvr_of(device, self_signed_registrar("MITM"))
    async with scene.factory.client(registrar) as masa:
        answer = await masa.voucher(rvr_of(registrar, serial_of(device), pvr=pvr))
    assert (answer.status, slug(answer)) == (403, "proximity-mismatch")
    assert await scene.factory.log(serial_of(device)) == []


@pytest.mark.req("AT-23", "PV-10", "PV-11")
async def test_the_name_of_the_pinned_ca_without_its_key(scene: Scene) -> None:
    namesake = Domain(kind="P-384")
    honest = scene.plant.domain
    assert namesake.issuing.certificate.subject == honest.issuing.certificate.subject
    device = await scene.device()
    outcome, rogue = await voucher_from_rogue(scene, device, namesake.registrar, pinned=honest.issuing.certificate)
    assert outcome.reason == "registrar-not-pinned"
    assert rogue.paths == [f"{BRSKI}/requestvoucher", f"{BRSKI}/voucher_status"]
    await scene.still_works(device)


@pytest.mark.req("AT-23", "AT-18")
async def test_the_key_identifier_of_the_pinned_ca_without_its_key(scene: Scene) -> None:
    honest = scene.plant.domain.issuing.certificate
    forged = ca_with_key_id("Example Plant Issuing CA", domain_id(honest))
    assert domain_id(forged.certificate) == domain_id(honest)
    certificate = issuing.end_entity(
        forged,
        (key := key_for("forged registrar")).public_key(),
        issuing.name("Example Plant Registrar"),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=1),
        extended_key_usage=(ID_KP_CMC_RA,),
    )
    device = await scene.device()
    credential = Credential(key, (certificate, *forged.chain))
    outcome, _ = await voucher_from_rogue(scene, device, credential, pinned=honest)
    assert outcome.reason == "registrar-not-pinned"


@pytest.mark.req("PV-16", "AT-12")
async def test_a_stolen_ldevid_of_the_domain_does_not_play_the_registrar(scene: Scene) -> None:
    thief, device = scene.plant.domain.ldevid("SN-STOLEN"), await scene.device()
    pinned = scene.plant.domain.issuing.certificate
    outcome, rogue = await voucher_from_rogue(scene, device, thief, pinned=pinned)
    assert outcome.reason == "registrar-not-authorised"
    assert not [path for path in rogue.paths if "/est/" in path]
    await scene.still_works(device)


@pytest.mark.req("AT-25", "TL-11")
async def test_a_registrar_that_changes_its_certificate_hears_no_more(scene: Scene) -> None:
    device, other = await scene.device(), await scene.rogue(refuse)
    switch = await scene.switch(scene.plant.server.port, other.port)
    outcome = await scene.onboard(device, switch.port)
    assert switch.count > 1, "the report comes over a second connection"
    assert other.requests == [], "nobody but the registrar of before hears it"
    assert outcome.is_operational
    assert outcome.enrollment is not None
    assert not outcome.enrollment.confirmed
    again = await scene.onboard(device)
    assert again.enrollment is not None


@pytest.mark.req("AT-25", "TL-11")
async def test_a_registrar_that_changes_before_enrolling_gets_no_certificate_request(scene: Scene) -> None:
    """The first connection ends after the voucher; what answers next is somebody else."""
    device, other = await scene.device(), await scene.rogue(refuse, Domain(name="Other Plant").registrar)
    pinned = scene.plant.domain.issuing.certificate

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        signer = scene.factory.maker.voucher_signer
        response = foreign_server.reply(200, voucher_for(device, request_in(body).nonce, pinned, signer), CMS)
        response.force_close()
        return response

    honest = await scene.rogue(answer, scene.plant.domain.registrar)
    switch = await scene.switch(honest.port, other.port)
    outcome = await scene.onboard(device, switch.port)
    assert outcome.reason == "registrar-certificate-changed"
    assert other.requests == []
    await scene.untouched(device)


# Vouchers that the wrong hands signed


@pytest.mark.req("PV-01")
@pytest.mark.parametrize("who", ["rogue registrar", "other maker's MASA", "domain CA", "itself"])
async def test_a_voucher_signed_by_anybody_else(scene: Scene, who: str) -> None:
    device = await scene.device()
    forger = {
        "rogue registrar": ROGUE.registrar,
        "other maker's MASA": Manufacturer(name="Maker B").voucher_signer,
        "domain CA": scene.plant.domain.issuing,
        "itself": device,
    }[who]
    outcome, rogue = await voucher_from_rogue(scene, device, ROGUE.registrar, signer=forger)
    assert outcome.reason in {"voucher-signer-unknown", "cms-signer-missing"}
    assert not [path for path in rogue.paths if "/est/" in path]
    await scene.untouched(device)


@pytest.mark.req("AT-20", "PV-02", "D-14")
async def test_another_devices_idevid_does_not_sign_vouchers_under_a_shared_root(scene: Scene) -> None:
    device, other = await scene.device(), await scene.device()
    shared = scene.factory.maker.idevid_anchors
    with pytest.raises(Misconfigured) as refused:
        scene.pledge(device, anchors=shared)
    assert refused.value.reason == "voucher-anchor-shared"

    async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
        if not request.path.endswith("/requestvoucher"):
            return foreign_server.reply(200)
        pinned = ROGUE.root.certificate
        return foreign_server.reply(200, voucher_for(device, request_in(body).nonce, pinned, other), CMS)

    rogue = await scene.rogue(answer)
    outcome = await scene.onboard(device, rogue.port, anchors=shared, voucher_signer_oid=SIGNER_POLICY)
    assert outcome.reason == "voucher-signer-not-authorised"
    nameless = scene.factory.maker.idevid(fresh(), masa_url=None)
    other = nameless  # an IDevID that does not say that it is one
    outcome = await scene.onboard(device, rogue.port, anchors=shared, voucher_signer_oid=SIGNER_POLICY)
    assert outcome.reason == "voucher-signer-not-authorised"


@pytest.mark.req("PV-17", "AT-22")
async def test_a_pledges_own_request_sent_back_is_no_voucher(scene: Scene) -> None:
    async def echo(_: web.Request, body: bytes) -> web.StreamResponse:
        return foreign_server.reply(200, body, CMS)

    device, rogue = await scene.device(), await scene.rogue(echo)
    assert (await scene.onboard(device, rogue.port)).reason == "voucher-kind-unexpected"
    await scene.untouched(device)


@pytest.mark.req("AT-26", "ST-05", "ST-06", "PV-06")
async def test_a_clock_that_was_turned_back_revives_no_old_voucher(scene: Scene) -> None:
    device, expired = await scene.device(), NOW - timedelta(hours=1)
    registrar, honest = scene.plant.domain.registrar, scene.plant.domain.issuing.certificate
    late = {"expires_on": expired, "created_on": NOW - timedelta(hours=2), "pinned": honest}

    async def outcome_with(clock: Clock | None, **leaves: object) -> str | None:
        rogue = await scene.rogue(refuse, registrar)

        async def answer(request: web.Request, body: bytes) -> web.StreamResponse:
            if not request.path.endswith("/requestvoucher"):
                return foreign_server.plain(404, "no")
            signer = scene.factory.maker.voucher_signer
            chosen = {"nonce": request_in(body).nonce} | late | leaves
            return foreign_server.reply(200, voucher_for(device, signer=signer, **chosen), CMS)  # type: ignore[arg-type] # leaves

        rogue.answer = answer
        folder = f"clock-{len(list(scene.folder.iterdir()))}"
        return (await scene.onboard(device, rogue.port, clock=clock, folder=folder)).reason

    assert await outcome_with(Clock(NOW)) == "voucher-expired"
    spoofed = Clock(NOW - timedelta(minutes=90))
    assert await outcome_with(spoofed, nonce="bm9uY2Utb2YteWVzdGVyZGF5") == "nonce-mismatch"
    assert await outcome_with(None, nonce="bm9uY2Utb2YteWVzdGVyZGF5") == "nonce-mismatch", "and so without a clock"
    await scene.untouched(device)


# Waiting, redirection, slowness


async def until(told: list[events.Event], kind: type[events.Event], task: "asyncio.Task[object]") -> events.Event:
    """The first event of a kind; the pledge's own event loop turns meanwhile."""
    async with asyncio.timeout(10):
        while not task.done():
            for event in told:
                if isinstance(event, kind):
                    return event
            await asyncio.sleep(0)
    raise AssertionError(f"no {kind.__name__} in {told}")


@pytest.mark.req("AT-08", "HT-03")
@pytest.mark.parametrize(
    "wish", ["999999", "99999999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "-5", "1e9", ""]
)
async def test_nobody_makes_a_pledge_wait_for_more_than_a_minute(scene: Scene, wish: str) -> None:
    async def patience(_: web.Request, __: bytes) -> web.StreamResponse:
        return foreign_server.reply(202, b"", None, {"Retry-After": wish})

    device, rogue = await scene.device(), await scene.rogue(patience)
    pledge = scene.pledge(device, rogue.port, clock=scene.clock)
    task: asyncio.Task[object] = asyncio.ensure_future(pledge.onboard())
    try:
        waiting = await until(scene.events[serial_of(device)], events.Waiting, task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert isinstance(waiting, events.Waiting)
    assert 1 <= waiting.seconds <= 60
    await scene.still_works(device)


@pytest.mark.req("AT-08", "DS-05")
@pytest.mark.parametrize("wish", ["999999", "Mon, 01 Jan 2020 00:00:00 +999999999999999999999", "9" * 4500])
async def test_a_rogue_that_asks_for_patience_does_not_hold_up_the_owner(scene: Scene, wish: str) -> None:
    async def patience(_: web.Request, __: bytes) -> web.StreamResponse:
        return foreign_server.reply(202, b"", None, {"Retry-After": wish})

    device, rogue = await scene.device(), await scene.rogue(patience)
    assert (await scene.onboard(device, rogue.port, scene.plant.server.port)).is_operational


@pytest.mark.req("AT-07", "TL-08", "TL-09")
@pytest.mark.parametrize("connections", [4, 1])
async def test_a_registrar_that_never_answers_gives_way(scene: Scene, connections: int) -> None:
    async def never(_: web.Request, __: bytes) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    device, rogue = await scene.device(), await scene.rogue(never)
    outcome = await scene.onboard(
        device, rogue.port, scene.plant.server.port, max_connections=connections, stall_after=0.3
    )
    assert outcome.is_operational
    assert len(rogue.requests) == 1


@pytest.mark.req("AT-09", "HT-06")
async def test_two_registrars_that_send_a_pledge_to_and_fro(scene: Scene) -> None:
    ports: list[int] = []

    async def elsewhere(request: web.Request, _: bytes) -> web.StreamResponse:
        other = next(port for port in ports if port != request.url.port)
        return foreign_server.reply(307, b"", None, {"Location": f"https://127.0.0.1:{other}{request.path}"})

    device, first, second = await scene.device(), await scene.rogue(elsewhere), await scene.rogue(elsewhere)
    ports += [first.port, second.port]
    outcome = await scene.onboard(device, first.port)
    assert outcome.reason == "redirect-loop"
    assert (len(first.requests), len(second.requests)) == (1, 1), "one other origin, and no more"
    await scene.still_works(device)


@pytest.mark.req("AT-09", "HT-06")
@pytest.mark.parametrize(
    "location",
    [
        "/.well-known/brski/requestvoucher",
        "http://127.0.0.1:1/.well-known/brski/requestvoucher",
        "ftp://127.0.0.1/",
        "https://user:password@127.0.0.1/",
        "https://127.0.0.1:99999/",
        "https://[::1",
        "//",
        "https://" + "a" * 2000,
    ],
)
async def test_redirections_that_lead_nowhere_end_the_attempt(scene: Scene, location: str) -> None:
    async def elsewhere(_: web.Request, __: bytes) -> web.StreamResponse:
        return foreign_server.reply(307, b"", None, {"Location": location})

    device, rogue = await scene.device(), await scene.rogue(elsewhere)
    outcome = await scene.onboard(device, rogue.port)
    assert not outcome.is_operational
    assert 1 <= len(rogue.requests) <= 5
    await scene.untouched(device)


# Malformed answers (AT-10), and what a rogue learns (AT-11, AT-21)

BODIES = {
    "nothing": b"",
    "garbage": bytes(range(256)) * 8,
    "too much": b"\x30" * 400_000,
    "endless BER": b"\x30\x80" * 20_000,
    "huge length": b"\x30\x84\xff\xff\xff\xff\x00",
    "text": b"<html>" + b"login " * 100,
}


@pytest.mark.req("AT-10", "TL-07")
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_what_is_no_voucher_fails_cleanly(scene: Scene, body: bytes) -> None:
    async def answer(_: web.Request, __: bytes) -> web.StreamResponse:
        return foreign_server.reply(200, body, CMS)

    device, rogue = await scene.device(), await scene.rogue(answer)
    assert not (await scene.onboard(device, rogue.port)).is_operational
    assert not [path for path in rogue.paths if "/est/" in path]
    await scene.still_works(device)


JSON = {
    "duplicate member": b'{"ietf-voucher:voucher":{"serial-number":"%s","serial-number":"%s"}}',
    "deep nesting": b'{"ietf-voucher:voucher":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "NaN": b'{"ietf-voucher:voucher":{"serial-number":NaN}}',
    "two vouchers": b'{"ietf-voucher:voucher":{},"ietf-voucher:voucher":{}}',
    "long number": b'{"ietf-voucher:voucher":{"serial-number":' + b"9" * 50_000 + b"}}",
}


@pytest.mark.req("AT-10")
@pytest.mark.parametrize("content", JSON.values(), ids=JSON.keys())
async def test_a_well_signed_envelope_with_bad_json_inside(scene: Scene, content: bytes) -> None:
    from brski_common import cms

    device = await scene.device()
    signed = cms.sign(content.replace(b"%s", serial_of(device).encode()), scene.factory.maker.voucher_signer)

    async def answer(_: web.Request, __: bytes) -> web.StreamResponse:
        return foreign_server.reply(200, signed, CMS)

    rogue = await scene.rogue(answer)
    outcome = await scene.onboard(device, rogue.port)
    assert outcome.reason is not None
    assert outcome.reason.startswith(("json-", "voucher-"))
    await scene.untouched(device)


@pytest.mark.req("AT-10", "TL-07")
@pytest.mark.parametrize(
    "headers", [{"X-Much": "x" * 9000}, {f"X-{number}": "y" for number in range(200)}, {"Content-Encoding": "gzip"}]
)
async def test_headers_have_bounds_too(scene: Scene, headers: dict[str, str]) -> None:
    async def answer(_: web.Request, __: bytes) -> web.StreamResponse:
        return foreign_server.reply(200, b"x", CMS, headers)

    device, rogue = await scene.device(), await scene.rogue(answer)
    outcome = await scene.onboard(device, rogue.port)
    assert outcome.reason in {"response-malformed", "response-compressed", "peer-disconnected"}
    await scene.untouched(device)


@pytest.mark.req("AT-11", "VR-04", "DS-09")
async def test_clones_of_one_device_never_repeat_a_nonce(scene: Scene) -> None:
    device, rogue = await scene.device(), await scene.rogue(refuse)
    for clone in range(6):
        await scene.onboard(device, rogue.port, folder=f"clone-{clone}")
    nonces = [request_in(body).nonce for _, _, body in rogue.requests if body]
    assert len(nonces) == len(set(nonces)) >= 6
    assert all(nonce is not None and len(base64.b64decode(nonce)) >= 16 for nonce in nonces)


@pytest.mark.req("AT-21", "VS-03")
async def test_a_rogue_learns_nothing_from_the_reason(scene: Scene) -> None:
    heard = set()
    signers = (ROGUE.registrar, scene.factory.maker.voucher_signer)
    for signer, leaves in zip(signers, ({}, {"serial_number": "SN-OF-ANOTHER"}), strict=True):
        device = await scene.device()
        _, rogue = await voucher_from_rogue(scene, device, ROGUE.registrar, signer=signer, **leaves)
        (report,) = [json.loads(body) for _, path, body in rogue.requests if path.endswith("/voucher_status")]
        assert report["status"] is False
        heard.add(json.dumps(report, sort_keys=True))
        assert serial_of(device) not in json.dumps(report)
    assert len(heard) == 1, "whatever was wrong with the voucher, the report is the same"


@pytest.mark.req("AT-21", "VR-09")
async def test_a_rogue_sees_no_more_in_a_request_than_it_has_to(scene: Scene) -> None:
    device, rogue = await scene.device(), await scene.rogue(refuse)
    await scene.onboard(device, rogue.port)
    (body,) = [body for _, path, body in rogue.requests if path.endswith("/requestvoucher")]
    request = request_in(body)
    told = {name for name in VoucherRequest.__dataclass_fields__ if getattr(request, name) is not None}
    assert told == {"assertion", "serial_number", "nonce", "proximity_registrar_cert"}
    assert request.proximity_registrar_cert == to_der(rogue.credential.certificate)
