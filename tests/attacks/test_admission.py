"""Getting in under false colours: confused makers, look-alike serial numbers, steered and replayed requests."""

import asyncio
import unicodedata
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from brski_common import issuing
from brski_common.certificates import Credential, to_der, to_pem
from brski_registrar.lifecycle import State
from brski_registrar.policy import Admission, Admit
from tests.support.forgeries import Canary, pvr_of, request_in, serial_of, voucher_for
from tests.support.plant import BRSKI, CMS, Plant, reason_of, record_of
from tests.support.rogues import Factory, Scene
from tests.support.world import NOW, Manufacturer, fresh, key_for

MAKER_B = Manufacturer(name="Maker B")


async def add_maker(scene: Scene, maker: Manufacturer, masa: str, **changes: object) -> None:
    """Let a second maker's devices come; its MASA is at that one place."""
    await scene.plant.policies.put_manufacturer(record_of(maker, masa_hosts=(masa,), **changes), scene.clock())


async def list_serial(scene: Scene, maker: Manufacturer, serial: str) -> None:
    await scene.plant.policies.allow(Admission(manufacturer=maker.name, serial_number=serial), scene.clock())


async def ask(plant: Plant, device: Credential) -> tuple[int, str]:
    async with plant.connect(device) as line:
        response = await line.request_voucher()
    return response.status, "" if response.status == 200 else reason_of(response)


# One maker for another


@pytest.mark.req("AT-16", "TL-12", "RA-01")
async def test_a_device_of_one_maker_with_a_serial_number_of_the_other(scene: Scene) -> None:
    await add_maker(scene, MAKER_B, "127.0.0.1:1")
    wanted = fresh()
    await list_serial(scene, MAKER_B, wanted)
    # Genuine, of maker A, and named like the device of maker B that the plant waits for.
    impostor = await scene.factory.device(wanted)
    assert await ask(scene.plant, impostor) == (403, "device-not-allowed")
    # Maker A would have to sign as maker B: a CA of that name, under his own root.
    key = key_for("fake B CA")
    fake_ca = issuing.subordinate_ca(
        scene.factory.maker.root,
        key.public_key(),
        MAKER_B.idevid_ca.certificate.subject,
        now=NOW,
        lifetime=timedelta(days=365),
    )
    disguised = scene.factory.maker.idevid(wanted, issuer=Credential(key, (fake_ca, *MAKER_B.idevid_ca.chain)))
    assert await ask(scene.plant, disguised) in {(404, "manufacturer-unknown"), (403, "device-not-allowed")}
    both = Credential(disguised.key, (*disguised.chain, scene.factory.maker.root.certificate))
    assert await ask(scene.plant, both) in {(404, "manufacturer-unknown"), (403, "device-not-allowed")}
    assert await scene.plant.store.find(wanted) == ()
    await scene.still_works()


@pytest.mark.req("MT-02", "ID-11", "AT-16")
async def test_one_makers_masa_speaks_for_no_device_of_the_other(scene: Scene, tmp_path: Path) -> None:
    """Maker A's MASA is reached for a device of B: the URL rule, the TLS anchors and the pledge each say no."""
    serial, authority = fresh(), scene.factory.authority
    device = MAKER_B.idevid(serial, masa_url=authority)
    await list_serial(scene, MAKER_B, serial)
    await add_maker(scene, MAKER_B, "127.0.0.1:1")
    assert await ask(scene.plant, device) == (403, "masa-url-not-allowed")
    await add_maker(scene, MAKER_B, authority)
    assert await ask(scene.plant, device) == (502, "masa-failed")
    assert "masa-untrusted" in (await scene.plant.device(serial)).reason
    await add_maker(scene, MAKER_B, authority, masa_tls_anchors=to_pem(scene.factory.maker.root.certificate).decode())
    assert (await ask(scene.plant, device))[0] == 403, "and maker A's MASA knows no IDevID of B"
    assert await scene.factory.log(serial) == []
    pledge = scene.pledge(device, anchors=MAKER_B.voucher_anchors)
    assert not (await pledge.onboard()).is_operational
    await scene.still_works()


@pytest.mark.req("RM-16", "PV-01")
async def test_a_voucher_of_one_makers_masa_for_a_device_of_the_other_is_not_handed_on(
    scene: Scene, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    async with Factory.open(tmp_path / "b", scene.clock, MAKER_B) as other:
        await other.owned_by(scene.plant.domain)
        other.service._signers = scene.factory.service._signers  # maker B's MASA signs with a stolen key of A
        anchors = to_pem(MAKER_B.voucher_root.certificate).decode()
        await add_maker(scene, MAKER_B, other.authority, voucher_anchors=anchors)
        device = await other.device()
        await list_serial(scene, MAKER_B, serial_of(device))
        assert await ask(scene.plant, device) == (502, "masa-failed")
        assert "voucher-untrusted" in (await scene.plant.device(serial_of(device))).reason
        await add_maker(scene, MAKER_B, other.authority)
        pledge = scene.pledge(device, anchors=MAKER_B.voucher_anchors)
        assert (await pledge.onboard()).reason == "voucher-signer-unknown", (
            "the pledge itself does not believe it either"
        )


@pytest.mark.req("AT-16")
async def test_a_counterfeit_maker_reaches_neither_allow_list_nor_network(scene: Scene) -> None:
    async with Canary() as canary:
        place = f"127.0.0.1:{canary.port}"
        url = x509.UniformResourceIdentifier(f"http://{place}/")
        access = x509.AuthorityInformationAccess(
            [
                x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, url),
                x509.AccessDescription(AuthorityInformationAccessOID.OCSP, url),
            ]
        )
        points = x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)])
        fake, serial = Manufacturer(name="Example Maker", kind="P-384"), fresh()
        await list_serial(scene, scene.factory.maker, serial)
        device = fake.idevid(serial, masa_url=place, extensions=((access, False), (points, False)))
        assert await ask(scene.plant, device) == (404, "manufacturer-unknown")
        genuine = await scene.device(extensions=((access, False), (points, False)))
        assert (await ask(scene.plant, genuine))[0] == 200
        assert canary.touched == 0, "no address in a client's certificate is ever asked"
    assert await scene.plant.store.find(serial) == ()


@pytest.mark.req("ID-05", "ID-06", "ID-07", "AT-16")
@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:{port}",
        "https://127.0.0.1:{port}/x",
        "masa.example:9443@127.0.0.1:{port}",
        "https://masa.example:9443@127.0.0.1:{port}/",
        "http://127.0.0.1:{port}/",
        "masa.example:9443\\@127.0.0.1:{port}",
        "https://masa.example:9443\\.127.0.0.1:{port}/",
        "127.0.0.1:{port}#masa.example:9443",
        "127.0.0.1:{port}?masa.example:9443",
        "//127.0.0.1:{port}/",
        "file:///etc/passwd",
        "[::ffff:127.0.0.1]:{port}",
        "masa.example.:22",
        "xmasa.example:9443",
        "masa.example:9443%00.evil",
        " masa.example:9443",
        "",
    ],
)
async def test_a_genuine_idevid_steers_the_registrar_nowhere(scene: Scene, url: str) -> None:
    async with Canary() as canary:
        await scene.plant.policies.put_manufacturer(record_of(scene.factory.maker), scene.clock())
        device = await scene.device(masa_url=url.format(port=canary.port))
        status, reason = await ask(scene.plant, device)
        assert status in {400, 403}
        assert reason.startswith("masa-url-")
        assert canary.touched == 0


# Look-alike serial numbers


def look_alikes(serial: str) -> dict[str, str]:
    return {
        "lower case": serial.lower(),
        "blank behind": serial + " ",
        "blank before": " " + serial,
        "two blanks": serial.replace("-", " - "),
        "full width": serial.replace("S", "\N{FULLWIDTH LATIN CAPITAL LETTER S}"),
        "cyrillic": serial.replace("S", "\N{CYRILLIC CAPITAL LETTER DZE}"),
        "another hyphen": serial.replace("-", "\N{HYPHEN}"),
        "combining": unicodedata.normalize("NFD", serial.replace("N", "\N{LATIN CAPITAL LETTER N WITH TILDE}")),
        "prefix": serial[:-1],
        "longer": serial + "0",
        "SQL wildcard": "%",
        "SQL": "' OR '1'='1",
    }


def lettered(maker: Manufacturer, serial: str, masa_url: str) -> Credential:
    """An IDevID whose serial number is a UTF8String."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.SERIAL_NUMBER, serial, _ASN1Type.UTF8String),
            x509.NameAttribute(NameOID.COMMON_NAME, "Device"),
        ]
    )
    return maker.idevid(serial, subject=subject, key=key_for(f"look-alike {serial}"), masa_url=masa_url)


@pytest.mark.req("RA-01", "RA-07")
async def test_the_allow_list_knows_no_look_alikes(scene: Scene) -> None:
    device = await scene.device()
    for name, serial in look_alikes(serial_of(device)).items():
        twin = lettered(scene.factory.maker, serial, scene.factory.authority)
        await scene.factory.store.register(twin.certificate, scene.clock(), owner="Example Plant")
        assert await ask(scene.plant, twin) == (403, "device-not-allowed"), name
    await scene.still_works(device)


@pytest.mark.req("ID-02")
@pytest.mark.parametrize("serial", ["SN\n1", "SN\x1b[2J", "SN\u202e1", "SN\u200b1", "x" * 65, "SN\u00a01"])
async def test_a_serial_number_that_could_lie_on_a_screen_is_not_taken(scene: Scene, serial: str) -> None:
    await scene.plant.policies.put_manufacturer(record_of(scene.factory.maker, admit=Admit.ALL), scene.clock())
    try:
        device = lettered(scene.factory.maker, serial, scene.factory.authority)
    except ValueError:
        pytest.skip("no certificate can be made with it")
    assert await ask(scene.plant, device) == (403, "serial-number-unusable")
    assert await scene.plant.store.devices() == ()


@pytest.mark.req("AT-05", "ID-02")
@pytest.mark.parametrize(
    "serial",
    ["'; DROP TABLE devices; --", 'SN"><script>', "../../etc/passwd", "SN %s {0} $(id)", "SN_1*", "ÅSN", "x" * 64],
)
async def test_odd_serial_numbers_are_only_text(scene: Scene, serial: str) -> None:
    device = lettered(scene.factory.maker, serial, scene.factory.authority)
    await scene.factory.store.register(device.certificate, scene.clock(), owner="Example Plant")
    await list_serial(scene, scene.factory.maker, serial)
    outcome = await scene.onboard(device, folder="odd")
    assert outcome.is_operational
    assert outcome.enrollment is not None
    subject = outcome.enrollment.credential.certificate.subject
    assert [each.value for each in subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)] == [serial]
    (known,) = await scene.plant.store.find(serial)
    assert known.state is State.OPERATIONAL
    await scene.still_works()


@pytest.mark.req("ID-01")
async def test_a_subject_with_two_serial_numbers_names_nobody(scene: Scene) -> None:
    honest = await scene.device()
    pair = [serial_of(honest), fresh()]
    subject = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, each) for each in pair])
    device = scene.factory.maker.idevid(pair[1], subject=subject, masa_url=scene.factory.authority)
    async with scene.plant.connect(device) as line:
        body = pvr_of(device, scene.plant.domain.registrar)
        response = await line.post(f"{BRSKI}/requestvoucher", body, CMS)
        assert (response.status, reason_of(response)) == (403, "serial-number-ambiguous")
    assert await scene.plant.store.devices() == ()


@pytest.mark.req("AT-19", "AR-02")
async def test_twins_of_two_makers_are_two_devices(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    async with Factory.open(tmp_path / "b", scene.clock, MAKER_B) as other:
        await other.owned_by(scene.plant.domain)
        await add_maker(scene, MAKER_B, other.authority)
        first = await scene.device()
        second = await other.device(serial_of(first))
        await list_serial(scene, MAKER_B, serial_of(first))
        assert (await scene.onboard(first)).is_operational
        async with scene.plant.connect(second) as line:
            assert reason_of(await line.get("/.well-known/est/csrattrs")) == "voucher-not-requested"
        pledge = scene.pledge(second, anchors=MAKER_B.voucher_anchors, folder="twin")
        assert (await pledge.onboard()).is_operational
        assert {device.manufacturer for device in await scene.plant.store.find(serial_of(first))} == {
            "Example Maker",
            "Maker B",
        }


# Requests of others, requests again, requests without end


@pytest.mark.req("AT-05", "VR-11", "RM-09")
async def test_a_request_that_was_overheard_is_of_no_use_to_another_device(scene: Scene) -> None:
    victim, thief = await scene.device(), await scene.device()
    registrar = scene.plant.domain.registrar
    overheard = pvr_of(victim, registrar)
    forged = pvr_of(thief, registrar, serial_number=serial_of(victim))
    async with scene.plant.connect(thief) as line:
        for body, reason in ((overheard, "signature-"), (forged, "serial-number-mismatch")):
            response = await line.post(f"{BRSKI}/requestvoucher", body, CMS)
            assert response.status == 403
            assert reason_of(response).startswith(reason)
    assert await scene.factory.log(serial_of(victim)) == []
    assert await scene.plant.store.find(serial_of(victim)) == ()
    await scene.still_works(victim)


@pytest.mark.req("RM-15", "AT-02")
async def test_a_storm_of_one_request_is_one_request_to_the_masa(scene: Scene) -> None:
    device = await scene.device()
    async with scene.plant.connect(device) as one, scene.plant.connect(device) as two:
        body = one.pvr()
        answers = await asyncio.gather(*(line.request_voucher(body) for line in [one, two] * 20))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(await scene.factory.log(serial_of(device))) == 1
    assert len(await scene.plant.store.vouchers((await scene.plant.device(serial_of(device))).id)) == 1
    await scene.still_works(device)


@pytest.mark.req("AT-05", "VS-05")
async def test_one_voucher_serves_one_device_once(scene: Scene) -> None:
    """The voucher of an onboarding, played to the same device after a reset, and to another one."""
    device, other = await scene.device(), await scene.device()
    await scene.still_works(device)
    (known,) = await scene.plant.store.find(serial_of(device))
    (voucher,) = await scene.plant.store.vouchers(known.id)
    for each in (device, other):
        from aiohttp import web

        from tests.support import foreign_server

        async def answer(request: web.Request, _: bytes) -> web.StreamResponse:
            return foreign_server.reply(200, voucher.raw, CMS)

        rogue = await scene.rogue(answer, scene.plant.domain.registrar)
        outcome = await scene.onboard(each, rogue.port, folder=f"again-{serial_of(each)}")
        assert outcome.reason in {"nonce-mismatch", "serial-number-mismatch"}
    assert len(await scene.factory.log(serial_of(device))) == 1


@pytest.mark.req("VR-12", "AT-04")
async def test_proximity_to_another_key_of_the_same_name_or_identifier(scene: Scene) -> None:
    device, registrar = await scene.device(), scene.plant.domain.registrar
    namesake = scene.plant.domain.registrar_with(key=key_for("namesake"))
    assert namesake.certificate.subject == registrar.certificate.subject
    async with scene.plant.connect(device) as line:
        leaves = (
            {"proximity_registrar_cert": to_der(namesake.certificate)},
            {"proximity_registrar_cert": to_der(registrar.chain[1])},
            {"proximity_registrar_cert": b""},
            {"proximity_registrar_pubk_sha256": bytes(32)},
            {"proximity_registrar_pubk": b"x"},
        )
        for each in leaves:
            body = line.pvr(**each)  # type: ignore[arg-type] # names of leaves
            response = await line.post(f"{BRSKI}/requestvoucher", body, CMS)
            assert response.status == 401, each
    assert await scene.factory.log(serial_of(device)) == []
    await scene.still_works(device)


@pytest.mark.req("AT-03", "VR-04")
async def test_a_request_without_a_nonce_goes_no_further(scene: Scene) -> None:
    device = await scene.device()
    async with scene.plant.connect(device) as line:
        for nonce in (None, ""):
            response = await line.post(f"{BRSKI}/requestvoucher", line.pvr(nonce=nonce), CMS)
            assert 400 <= response.status < 500
    assert await scene.factory.log(serial_of(device)) == []
    assert request_in(pvr_of(device, scene.plant.domain.registrar)).nonce


@pytest.mark.req("PV-17", "V-CMS-04")
async def test_a_voucher_is_no_request(scene: Scene) -> None:
    device = await scene.device()
    voucher = voucher_for(device, "nonce", scene.plant.domain.root.certificate, device)
    async with scene.plant.connect(device) as line:
        response = await line.post(f"{BRSKI}/requestvoucher", voucher, CMS)
        assert (response.status, reason_of(response)) == (400, "voucher-kind-unexpected")
    await scene.untouched(device)
