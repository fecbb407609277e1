"""What the MASA meets on the open Internet: curiosity, floods, and certificates that would steer its downloads."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from brski_common import auditlog, cms, issuing, paths
from brski_common.certificates import ID_KP_CMC_RA, Credential, Facts
from brski_masa.fetching import Fetcher
from brski_masa.limiting import Allowance
from brski_masa.revocation import Revocation
from brski_masa.service import AuditTerms
from brski_registrar.lifecycle import State
from tests.support.forgeries import NONCE, Canary, crl_of, honest_request, rvr_of, serial_of, voucher_for, voucher_in
from tests.support.plant import CMS
from tests.support.rogues import Factory, Scene
from tests.support.world import NOW, Clock, Domain, fresh, key_for, self_signed_registrar

HONEST = Domain()
ROGUE = Domain(name="Rogue Plant")


# Those who are curious


@pytest.mark.req("AT-14", "AL-04")
async def test_a_strangers_question_for_a_log_says_nothing_about_the_device(factory: Factory) -> None:
    device = await factory.device()
    assert await factory.ask(honest_request(device, HONEST.registrar)) == (200, "")
    said = set()
    async with factory.client(ROGUE.registrar) as line:
        for serial in (serial_of(device), "SN-NEVER-MADE"):
            answer = await line.audit_log(rvr_of(ROGUE.registrar, serial, pvr=None, nonce=None))
            said.add((answer.status, answer.body))
    assert len(said) == 1
    assert {status for status, _ in said} == {404}


@pytest.mark.req("AT-14", "AL-06")
async def test_links_to_logs_cannot_be_guessed_or_listed(tmp_path: Path) -> None:
    async with Factory.open(tmp_path, Clock(), answer="created", audit=AuditTerms()) as factory:
        await factory.owned_by(HONEST)
        device = await factory.device()
        body = honest_request(device, HONEST.registrar)
        async with factory.client(HONEST.registrar) as line:
            await line.voucher(body)
            made = [(await line.audit_log(body)).headers["Location"] for _ in range(3)]
            assert len(set(made)) == 3
            assert all(len(link.rsplit("/", 1)[1]) >= 43 for link in made), "256 bits in base64url"
        async with factory.client(None) as line:
            assert (await line.get(made[0])).status == 200
            for guess in (made[0][:-1] + "A", "/auditlog/", "/auditlog", "/auditlog/1", "/auditlog/" + "A" * 43):
                assert (await line.get(guess)).status == 404 or guess == made[0]
            factory.clock.advance(31 * 86400)
            assert (await line.get(made[0])).status == 404


@pytest.mark.req("AT-14", "AL-05")
async def test_a_former_owner_reads_his_device_and_no_other(factory: Factory) -> None:
    former = Domain(name="Former Owner")
    await factory.owned_by(former, "Former Owner")
    device, other = await factory.device(owner="Former Owner"), await factory.device()
    (record,) = await factory.store.find_devices(serial_of(device))
    body = rvr_of(former.registrar, serial_of(device), pvr=None, nonce=None)
    async with factory.client(former.registrar) as line:
        assert (await line.voucher(body)).status == 200
        await factory.store.assign(record.id, "Example Plant", factory.clock())
        assert (await line.voucher(body)).status == 403
        answer = await line.audit_log(body)
        assert len(auditlog.read(answer.body).events) == 1
        foreign = rvr_of(former.registrar, serial_of(other), pvr=None, nonce=None)
        assert (await line.audit_log(foreign)).status == 404


# Those who send a flood


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every signature that is verified from now on, CMS or certificate."""
    calls: list[str] = []
    verify, link = cms.verify, paths._check_link

    def counted(signed: cms.SignedData, signer: x509.Certificate | None = None) -> x509.Certificate:
        calls.append("cms")
        return verify(signed, signer)

    def counted_link(subject: Facts, issuer: Facts) -> None:
        calls.append("link")
        link(subject, issuer)

    monkeypatch.setattr(cms, "verify", counted)
    monkeypatch.setattr(paths, "_check_link", counted_link)
    return calls


@pytest.mark.req("AT-15")
async def test_cheap_refusals_cost_no_signature(factory: Factory, verified: list[str]) -> None:
    device = await factory.device()
    body = honest_request(device, HONEST.registrar)
    registrar = HONEST.registrar
    cheap = {
        "garbage": b"\x30\x82\xff\xff" * 100,
        "stale": rvr_of(registrar, serial_of(device), pvr=None, created_on=NOW - timedelta(days=9)),
        "no registrar": rvr_of(HONEST.ldevid("SN-1"), serial_of(device), pvr=None),
        "too large": body + bytes(200 * 1024),
        "a voucher": voucher_for(device, NONCE, registrar.chain[-1], registrar),
    }
    async with factory.client(None) as line:
        for name, each in cheap.items():
            answer = await line.voucher(each)
            assert 400 <= answer.status < 500, name
            assert verified == [], name
        assert (await line.post("requestvoucher", body, "text/plain")).status == 415
        assert (await line.post("requestvoucher", body, Accept="text/plain")).status == 406
        assert verified == []
        assert (await line.voucher(body)).status == 200
    assert verified.count("cms") == 2, "an honest request costs two: the registrar's and the pledge's"


@pytest.mark.req("AT-15")
async def test_an_address_that_sends_nonsense_is_slowed_down_before_it_is_read(
    tmp_path: Path, verified: list[str]
) -> None:
    seconds = [0.0]
    allowance = Allowance(60, 5, lambda: seconds[0])
    async with Factory.open(tmp_path, Clock(), allowance=allowance) as factory:
        await factory.owned_by(HONEST)
        device = await factory.device()
        body = honest_request(device, HONEST.registrar)
        async with factory.client(HONEST.registrar) as line:
            for _ in range(50):
                assert (await line.voucher(body)).status == 200, "good requests are never slowed down"
        verified.clear()
        async with factory.client(None) as line:
            # A header that names another address is nobody's address.
            answers = [
                await line.post("requestvoucher", b"\x30\x00", CMS, **{"X-Forwarded-For": f"192.0.2.{number}"})
                for number in range(8)
            ]
            assert [answer.status for answer in answers] == [400] * 5 + [429] * 3
            assert int(answers[-1].headers["Retry-After"]) >= 1
            assert (await line.voucher(body)).status == 429
            assert (await line.get("/auditlog/" + "A" * 43)).status == 429, "guesses count too"
        assert verified == []
        seconds[0] += 10
        async with factory.client(None) as line:
            assert (await line.voucher(body)).status == 200


@pytest.mark.req("AT-10", "AT-15")
async def test_a_crowd_of_certificates_with_one_name_costs_a_bounded_number_of_links(
    factory: Factory, verified: list[str]
) -> None:
    device = await factory.device()
    key = key_for("crowd")
    subject = issuing.name("Crowd CA")
    crowd = [
        issuing.root_ca(key_for(f"crowd {number % 4}"), subject, now=NOW, lifetime=timedelta(days=1))
        for number in range(60)
    ]
    leaf = issuing.end_entity(
        Credential(key_for("absent"), (crowd[0],)),
        key.public_key(),
        issuing.name("Crowd Registrar"),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=1),
        extended_key_usage=(ID_KP_CMC_RA,),
    )
    body = rvr_of(Credential(key, (leaf,)), serial_of(device), pvr=None, certificates=(leaf, *crowd))
    assert len(body) < 128 * 1024
    assert (await factory.ask(body))[0] == 403
    assert verified.count("link") <= 40
    too_many = rvr_of(Credential(key, (leaf,)), serial_of(device), pvr=None, certificates=(leaf, *crowd, *crowd[:20]))
    assert (await factory.ask(too_many))[0] in {400, 403}
    await factory.nothing_happened(device, HONEST.registrar)


# Those who would steer our downloads


def registrar_naming(*urls: str, how: str) -> Credential:
    """A registrar of the honest domain whose certificate names servers to ask."""
    names = [x509.UniformResourceIdentifier(url) for url in urls]
    points = x509.CRLDistributionPoints([x509.DistributionPoint([name], None, None, None) for name in names])
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(method, name)
            for name in names
            for method in (AuthorityInformationAccessOID.OCSP, AuthorityInformationAccessOID.CA_ISSUERS)
        ]
    )
    key = key_for("steering registrar")
    certificate = issuing.end_entity(
        HONEST.issuing,
        key.public_key(),
        issuing.name("Steering Registrar"),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=300),
        extended_key_usage=(ID_KP_CMC_RA,),
        extensions=((points if how == "crl" else access, False),),
    )
    return Credential(key, (certificate, *HONEST.issuing.chain))


STEERING = (
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://[::1]:{port}/",
    "http://0x7f000001:{port}/",
    "http://2130706433/",
    "http://0.0.0.0:{port}/",
    "http://127.1:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:10.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://user@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\r\nX: y/",
    "https://127.0.0.1:{port}/",
    "ldap://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/",
)


@pytest.mark.req("AT-13", "MA-03")
@pytest.mark.parametrize("how", ["crl", "ocsp"])
async def test_a_registrars_certificate_steers_the_masa_nowhere(tmp_path: Path, how: str) -> None:
    impatient = Fetcher(hosts=frozenset(), only_hosts=False, seconds=0.5)
    checker = Revocation(impatient.fetch)
    async with Canary() as canary, Factory.open(tmp_path, Clock(), revocation=checker) as factory:
        await factory.owned_by(HONEST)
        for url in STEERING:
            device, registrar = await factory.device(), registrar_naming(url.format(port=canary.port), how=how)
            answer = await factory.ask(honest_request(device, registrar))
            # What names no server that could be asked is not asked about; everything else is refused.
            assert answer == (403, "revocation-unknown") or not url.startswith(("http", "ldap")), url
            assert canary.touched == 0, url
            await factory.nothing_happened(device, HONEST.registrar, entries=int(answer[0] == 200))


@pytest.mark.req("AT-13")
async def test_a_name_that_resolves_to_the_inside_is_not_asked() -> None:
    from brski_common.errors import PeerFailed

    fetcher = Fetcher(hosts=frozenset(), only_hosts=False, seconds=1.0)
    with pytest.raises(PeerFailed) as refused:
        await fetcher.fetch("http://localhost/", None)
    assert refused.value.reason == "revocation-url-refused"


@pytest.mark.req("AT-13", "MA-03")
async def test_a_revoked_registrar_gets_no_voucher(tmp_path: Path) -> None:
    registrar = registrar_naming("http://crl.example/", how="crl")
    revoked = (
        x509.RevokedCertificateBuilder()
        .serial_number(registrar.certificate.serial_number)
        .revocation_date(NOW - timedelta(hours=1))
        .build()
    )
    crl = crl_of(HONEST.issuing, revoked)
    forged_crl = crl_of(ROGUE.issuing)

    async def fetch(_: str, __: bytes | None) -> bytes:
        return served[0]

    served = [crl]
    async with Factory.open(tmp_path, Clock(), revocation=Revocation(fetch=fetch)) as factory:
        await factory.owned_by(HONEST)
        device = await factory.device()
        assert await factory.ask(honest_request(device, registrar)) == (403, "registrar-revoked")
        assert await factory.log(serial_of(device)) == []
    (tmp_path / "second").mkdir()
    async with Factory.open(tmp_path / "second", Clock(), revocation=Revocation(fetch=fetch)) as factory:
        await factory.owned_by(HONEST)
        device, served[0] = await factory.device(), forged_crl
        assert await factory.ask(honest_request(device, registrar)) == (403, "revocation-unknown")


# Those who steal keys


@pytest.mark.req("AT-17", "MA-25")
async def test_a_masa_without_a_nonceless_key_has_no_nonceless_vouchers_to_lose(tmp_path: Path) -> None:
    async with Factory.open(tmp_path, Clock()) as factory:
        await factory.owned_by(HONEST)
        device = await factory.device()
        factory.service._signers = replace(factory.service._signers, nonceless=None)
        body = rvr_of(HONEST.registrar, serial_of(device), pvr=None, nonce=None)
        status, _ = await factory.ask(body)
        assert status >= 400
        assert await factory.log(serial_of(device)) == [], "nothing is logged that is not issued"
        assert await factory.ask(honest_request(device, HONEST.registrar)) == (200, "")


@pytest.mark.req("AT-17", "PV-06", "MA-18")
async def test_what_a_stolen_nonceless_voucher_is_worth_ends_soon(scene: Scene) -> None:
    device = await scene.device()
    async with scene.factory.client(HONEST.registrar) as line:
        answer = await line.voucher(rvr_of(HONEST.registrar, serial_of(device), pvr=None, nonce=None))
    expires_on = voucher_in(answer.body).expires_on
    assert expires_on is not None
    assert expires_on <= NOW + timedelta(minutes=20)
    assert (await scene.onboard(device)).is_operational, "one's own nonceless entry does not shut the owner out"
    assert (await scene.plant.device(serial_of(device))).state is State.OPERATIONAL


@pytest.mark.req("AT-12")
async def test_a_registrar_nobody_knows_and_a_device_nobody_made(factory: Factory) -> None:
    lonely = self_signed_registrar()
    unmade = factory.maker.idevid(fresh())
    assert await factory.ask(honest_request(unmade, lonely)) == (404, "device-unknown")
    assert await factory.store.list_entries() == []


# Those who would make it wait


@pytest.mark.req("MA-23")
async def test_the_masa_never_waits_for_a_person(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> str:
        raise AssertionError("somebody was asked something")

    for name in ("builtins.input", "getpass.getpass"):
        monkeypatch.setattr(name, ask)
    device, unowned = await factory.device(), await factory.device(owner=None)
    assert await factory.ask(honest_request(device, HONEST.registrar)) == (200, "")
    assert await factory.ask(honest_request(unowned, HONEST.registrar)) == (403, "device-without-owner")
    assert await factory.ask(rvr_of(HONEST.registrar, serial_of(device), pvr=None, nonce=None)) == (200, "")
