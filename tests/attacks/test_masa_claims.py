"""Claims before the MASA that do not hold: forged, borrowed, confused and replayed."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from brski_common import artifact, issuing
from brski_common.artifact import Format
from brski_common.certificates import ID_KP_CMC_RA, Credential, domain_id, spki_sha256, subject_key_id, to_der
from brski_masa.audit import verify_chain
from brski_masa.parties import DevicePolicy, IdentityKind, Pin
from brski_masa.policy import Terms
from tests.support.forgeries import (
    NONCE,
    ca_with_key_id,
    honest_request,
    pvr_of,
    request_in,
    rvr_of,
    serial_of,
    slug,
    voucher_for,
    voucher_in,
)
from tests.support.rogues import Factory
from tests.support.world import NOW, Clock, Domain, Manufacturer, fresh, key_for

HONEST = Domain()
ROGUE = Domain(name="Rogue Plant")


# Claims that do not hold


@pytest.mark.req("AT-03", "MA-07", "MA-10")
async def test_a_stripped_nonce_is_missed(factory: Factory) -> None:
    device = await factory.device()
    pvr = pvr_of(device, HONEST.registrar)
    stripped = rvr_of(HONEST.registrar, serial_of(device), pvr=pvr, nonce=None)
    assert await factory.ask(stripped) == (403, "nonce-stripped")
    exchanged = rvr_of(HONEST.registrar, serial_of(device), pvr=pvr, nonce="YW5vdGhlciBub25jZSBvZiBvdXJz")
    assert await factory.ask(exchanged) == (403, "nonce-mismatch")
    without = rvr_of(ROGUE.registrar, serial_of(device), pvr=None, nonce=None)
    assert await factory.ask(without) == (403, "nonceless-not-authenticated")
    await factory.nothing_happened(device, HONEST.registrar)


@pytest.mark.req("AT-03", "AT-01")
async def test_an_audit_only_device_gives_strangers_no_nonceless_voucher(factory: Factory) -> None:
    device = await factory.device(owner=None, policy=DevicePolicy.AUDIT_ONLY)
    rogue = honest_request(device, ROGUE.registrar)
    assert await factory.ask(rvr_of(ROGUE.registrar, serial_of(device), pvr=None, nonce=None)) == (
        403,
        "nonceless-not-authenticated",
    )
    assert await factory.ask(rvr_of(ROGUE.registrar, serial_of(device), pvr=None)) == (
        403,
        "prior-signed-voucher-request-missing",
    )
    assert await factory.ask(rogue) == (200, "")


@pytest.mark.req("AT-12", "MA-02")
@pytest.mark.parametrize("who", ["ldevid", "web server", "idevid", "domain ca"])
async def test_only_a_registrar_signs_a_registrars_request(factory: Factory, who: str) -> None:
    device = await factory.device()
    signer = {
        "ldevid": HONEST.ldevid("SN-STOLEN"),
        "web server": HONEST.registrar_with(usages=(ExtendedKeyUsageOID.SERVER_AUTH,), key=key_for("web server")),
        "idevid": device,
        "domain ca": HONEST.issuing,
    }[who]
    body = rvr_of(signer, serial_of(device), pvr=pvr_of(device, signer))
    assert await factory.ask(body) == (403, "registrar-not-authorized")
    # The registrar's certificate beside the wrong signer's changes nothing: no signature covers that set.
    mixed = rvr_of(
        signer,
        serial_of(device),
        pvr=pvr_of(device, HONEST.registrar),
        certificates=(*signer.chain, *HONEST.registrar.chain),
    )
    assert (await factory.ask(mixed))[0] == 403
    await factory.nothing_happened(device, HONEST.registrar)


@pytest.mark.req("MA-04", "MA-05", "MA-06", "AT-05", "AT-16")
@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("the pledge's request is not signed by its device", "signature-invalid"),
        ("device A vouches for serial B", "serial-number-mismatch"),
        ("the registrar names serial B", "serial-number-mismatch"),
        ("a counterfeit maker of the same name", ""),
        ("an IDevID CA signs for a device", "idevid-is-ca"),
        ("a twin of another product line", "idevid-issuer-mismatch"),
    ],
)
async def test_the_pledges_request_is_always_verified(factory: Factory, case: str, reason: str) -> None:
    device, other = await factory.device(), await factory.device()
    registrar, serial = HONEST.registrar, serial_of(device)
    ca = factory.maker.idevid_ca
    counterfeit = Manufacturer(kind="P-384").idevid(serial)
    pvr, named, leaves = {
        "the pledge's request is not signed by its device": (forged(device, registrar), serial, {}),
        "device A vouches for serial B": (pvr_of(other, registrar, serial_number=serial), serial, {}),
        "the registrar names serial B": (pvr_of(other, registrar), serial, {}),
        "a counterfeit maker of the same name": (pvr_of(counterfeit, registrar), serial, {}),
        "an IDevID CA signs for a device": (signed_by(ca, device, registrar), serial, {}),
        "a twin of another product line": (pvr_of(device, registrar), serial, {"idevid_issuer": b"\x04\x02hi"}),
    }[case]
    body = rvr_of(registrar, named, pvr=pvr, **leaves)  # type: ignore[arg-type] # names of leaves
    status, said = await factory.ask(body)
    assert status == 403
    assert not reason or said == reason
    await factory.nothing_happened(device, HONEST.registrar)


def forged(device: Credential, registrar: Credential) -> bytes:
    """A request with the device's certificate, signed by a key of one's own."""
    return pvr_of(Credential(key_for("forger"), device.chain), registrar)


def signed_by(signer: Credential, device: Credential, registrar: Credential) -> bytes:
    request = request_in(pvr_of(device, registrar))
    return artifact.sign(request, Format.CMS, signer)


@pytest.mark.req("AT-20", "V-CMS-04")
async def test_a_voucher_or_request_in_the_wrong_place_is_not_taken(factory: Factory) -> None:
    device, registrar = await factory.device(), HONEST.registrar
    pvr = pvr_of(device, registrar)
    assert (await factory.ask(pvr))[0] == 403, "a pledge's request is none of a registrar"
    voucher = voucher_for(device, NONCE, registrar.chain[-1], factory.maker.voucher_signer)
    assert (await factory.ask(voucher))[0] in {400, 415}
    nested = rvr_of(registrar, serial_of(device), pvr=rvr_of(registrar, serial_of(device), pvr=pvr))
    assert (await factory.ask(nested))[0] == 403, "a registrar's request stands where the pledge's belongs"
    renewal = rvr_of(
        registrar, serial_of(device), pvr=voucher_for(device, NONCE, HONEST.issuing.certificate, registrar)
    )
    assert (await factory.ask(renewal))[0] == 403, "a voucher that somebody else signed renews nothing"
    await factory.nothing_happened(device, HONEST.registrar)


@pytest.mark.req("AT-22", "V-CMS-04")
@pytest.mark.parametrize("spoil", ["no signed attributes", "another content type", "another content"])
async def test_a_signature_over_something_else(factory: Factory, spoil: str) -> None:
    device = await factory.device()
    body = honest_request(device, HONEST.registrar)
    oid = bytes.fromhex("060b2a864886f70d0109100128")
    assert body.count(oid) == 2, "in eContentType and in the signed attribute"
    spoilt = {
        "no signed attributes": body.replace(
            bytes.fromhex("06092a864886f70d010903"), bytes.fromhex("06092a864886f70d010909")
        ),
        "another content type": body.replace(oid, oid[:-1] + b"\x29", 1),
        "another content": body.replace(serial_of(device).encode(), serial_of(device).encode()[::-1], 1),
    }[spoil]
    assert spoilt != body
    assert (await factory.ask(spoilt))[0] in {400, 403, 415}
    await factory.nothing_happened(device, HONEST.registrar)


# Confusion between customers, makers and product lines


@pytest.mark.req("AT-05", "MA-24")
async def test_a_customer_gets_nothing_for_another_customers_device(factory: Factory) -> None:
    other = Domain(name="Other Customer")
    await factory.owned_by(other, "Other Customer")
    device = await factory.device()
    assert await factory.ask(honest_request(device, other.registrar), other.registrar) == (
        403,
        "device-not-owned",
    )
    nonceless = rvr_of(other.registrar, serial_of(device), pvr=None, nonce=None)
    assert await factory.ask(nonceless, other.registrar) == (403, "nonceless-not-authenticated")
    # The owner's public certificates beside one's own do not make one the owner.
    dressed = rvr_of(
        other.registrar,
        serial_of(device),
        pvr=pvr_of(device, other.registrar),
        certificates=(*other.registrar.chain, *HONEST.registrar.chain),
    )
    assert await factory.ask(dressed, other.registrar) == (403, "device-not-owned")
    await factory.nothing_happened(device, HONEST.registrar)


@pytest.mark.req("MA-05", "AT-04")
async def test_a_foreign_tls_certificate_in_the_set_is_no_proximity(factory: Factory) -> None:
    device, other = await factory.device(), Domain(name="Other Customer")
    seen = pvr_of(device, other.registrar)
    body = rvr_of(
        HONEST.registrar,
        serial_of(device),
        pvr=seen,
        certificates=(*HONEST.registrar.chain, other.registrar.certificate),
    )
    assert await factory.ask(body) == (403, "proximity-mismatch")
    await factory.nothing_happened(device, HONEST.registrar)


@pytest.mark.req("AT-19", "MA-16")
async def test_two_product_lines_with_one_serial_number(factory: Factory) -> None:
    bulbs = line_of(factory.maker, "Light Bulbs")
    serial = fresh()
    centrifuge = await factory.device(serial)
    bulb = await factory.device(serial, owner="Bulb Buyer", issuer=bulbs, key=key_for("bulb"))
    buyer = Domain(name="Bulb Buyer")
    await factory.owned_by(buyer, "Bulb Buyer")
    # Whoever owns the bulb cannot have the centrifuge, with or without its request.
    assert await factory.ask(honest_request(centrifuge, buyer.registrar)) == (403, "device-not-owned")
    blind = rvr_of(buyer.registrar, serial, pvr=None, nonce=None)
    assert await factory.ask(blind) == (403, "serial-number-ambiguous")
    crossed = rvr_of(buyer.registrar, serial, pvr=pvr_of(bulb, buyer.registrar), idevid_issuer=issuer_of(centrifuge))
    assert await factory.ask(crossed) == (403, "idevid-issuer-mismatch")
    async with factory.client(None) as line:
        answer = await line.voucher(honest_request(bulb, buyer.registrar))
    assert voucher_in(answer.body).idevid_issuer == issuer_of(bulb), "the voucher says which of the two it is for"
    await factory.nothing_happened(centrifuge, HONEST.registrar, entries=1)


def line_of(maker: Manufacturer, name: str) -> Credential:
    """Another IDevID CA under the maker's root."""
    key = key_for(f"{name} CA")
    certificate = issuing.subordinate_ca(
        maker.root, key.public_key(), issuing.name(f"{name} CA"), now=NOW, lifetime=timedelta(days=3650)
    )
    return Credential(key, (certificate, *maker.root.chain))


def issuer_of(device: Credential) -> bytes:
    from brski_common.certificates import idevid_issuer

    return idevid_issuer(device.certificate)


# The domainID (RFC 8995, 11.2)


def plant_with_key_id(key_id: bytes, above: Credential | None = None) -> Credential:
    """A registrar under a CA that borrowed somebody's SubjectKeyIdentifier."""
    authority = ca_with_key_id("Borrowed Name CA", key_id, above)
    key = key_for("borrower's registrar")
    certificate = issuing.end_entity(
        authority,
        key.public_key(),
        issuing.name("Borrower's Registrar"),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=300),
        extended_key_usage=(ID_KP_CMC_RA, ExtendedKeyUsageOID.CLIENT_AUTH),
    )
    return Credential(key, (certificate, *authority.chain))


@pytest.mark.req("AT-18")
async def test_a_stranger_does_not_hide_behind_the_domain_id_of_another(factory: Factory) -> None:
    victim = HONEST.issuing.certificate
    device = await factory.device(policy=DevicePolicy.AUDIT_ONLY)
    borrower = plant_with_key_id(domain_id(victim))
    assert subject_key_id(borrower.chain[1]) == domain_id(victim)
    assert spki_sha256(borrower.chain[1]) != spki_sha256(victim)
    assert await factory.ask(honest_request(device, borrower)) == (403, "domain-id-not-derived")
    await factory.nothing_happened(device, HONEST.registrar)


@pytest.mark.req("AT-18")
@pytest.mark.parametrize("kind", [IdentityKind.ANCHOR, IdentityKind.TLS_CLIENT])
async def test_nor_does_a_customer_who_is_known(factory: Factory, kind: IdentityKind) -> None:
    """One's own root is on record; a CA beneath it carries the victim's domainID and would be pinned."""
    victim = HONEST.issuing.certificate
    mallory = Domain(name="Known Customer")
    borrower = plant_with_key_id(domain_id(victim), mallory.root)
    await factory.store.put_owner("Known Customer", factory.clock())
    known = mallory.root.certificate if kind is IdentityKind.ANCHOR else borrower.certificate
    await factory.store.add_certificate("Known Customer", kind, known)
    device = await factory.device(policy=DevicePolicy.AUDIT_ONLY)
    status, said = await factory.ask(honest_request(device, borrower), borrower)
    assert (status, said) == (403, "domain-id-not-derived")
    await factory.nothing_happened(device, HONEST.registrar)


@pytest.mark.req("AT-18", "AT-06")
async def test_nor_does_a_seller_who_keeps_a_nonceless_voucher(factory: Factory) -> None:
    """The owner of today, under the domainID of the buyer of tomorrow, who would take the entry for his own."""
    victim = HONEST.issuing.certificate
    seller = Domain(name="Seller")
    await factory.owned_by(seller, "Seller")
    device = await factory.device(owner="Seller")
    borrower = plant_with_key_id(domain_id(victim), seller.root)
    await factory.store.put_owner("Seller", factory.clock(), pin=Pin.LOWEST_CA)
    nonceless = rvr_of(borrower, serial_of(device), pvr=None, nonce=None)
    status, said = await factory.ask(nonceless, borrower)
    assert (status, said) == (403, "domain-id-not-derived")
    assert await factory.log(serial_of(device)) == []


@pytest.mark.req("AT-18")
async def test_two_customers_on_record_never_share_a_domain_id(factory: Factory) -> None:
    from brski_common.errors import Refused

    forged_ca = ca_with_key_id("Borrowed Name CA", domain_id(HONEST.root.certificate))
    await factory.store.put_owner("Mallory", factory.clock())
    with pytest.raises(Refused) as refused:
        await factory.store.add_certificate("Mallory", IdentityKind.ANCHOR, forged_ca.certificate)
    assert refused.value.reason == "domain-id-taken"


# Replays


@pytest.mark.req("AT-02", "AL-03", "RM-15")
async def test_a_replayed_request_only_ever_pins_the_domain_that_signed_it(factory: Factory) -> None:
    device = await factory.device()
    body = honest_request(device, HONEST.registrar)
    assert await factory.ask(body, HONEST.registrar) == (200, "")
    async with factory.client(ROGUE.registrar) as line:
        again = await line.voucher(body)
    assert again.status == 200
    voucher = voucher_in(again.body)
    assert voucher.pinned_domain_cert == to_der(HONEST.issuing.certificate)
    entries = [link.entry for link in await factory.log(serial_of(device))]
    assert len(entries) == 2, "and the replay is in the log, with another sender"
    assert len({entry.requester for entry in entries}) == 2


@pytest.mark.req("AL-03", "AT-14")
async def test_a_replayed_request_for_the_log_is_refused(factory: Factory) -> None:
    device = await factory.device()
    body = honest_request(device, HONEST.registrar)
    async with factory.client(HONEST.registrar) as line:
        assert (await line.voucher(body)).status == 200
        assert (await line.audit_log(body)).status == 200
    for thief in (ROGUE.registrar, None):
        async with factory.client(thief) as line:
            answer = await line.audit_log(body)
            assert (answer.status, slug(answer)) == (403, "request-replayed")


@pytest.mark.req("AT-02")
async def test_a_request_from_last_week_is_stale(factory: Factory) -> None:
    device = await factory.device()
    old = rvr_of(HONEST.registrar, serial_of(device), pvr=pvr_of(device, HONEST.registrar), created_on=NOW)
    factory.clock.advance(7 * 86400)
    assert await factory.ask(old) == (403, "request-stale")
    factory.clock.now = NOW - timedelta(days=3)
    assert await factory.ask(old) == (403, "request-stale"), "nor one from the future"
    factory.clock.now = NOW
    await factory.nothing_happened(device, HONEST.registrar)


async def test_a_hundred_identical_requests_at_once_are_a_hundred_entries_in_one_chain(factory: Factory) -> None:
    device = await factory.device()
    body = honest_request(device, HONEST.registrar)
    async with factory.client(HONEST.registrar) as line:
        answers = await asyncio.gather(*(line.voucher(body) for _ in range(30)))
    assert {answer.status for answer in answers} == {200}
    assert len(await factory.log(serial_of(device))) == 30
    assert verify_chain(await factory.store.chain())[0] == 30


@pytest.mark.req("MT-07")
async def test_of_two_domains_at_once_only_one_claims_a_device(tmp_path: Path) -> None:
    async with Factory.open(tmp_path, Clock(), terms=Terms(unowned=DevicePolicy.FIRST_COME)) as factory:
        device = await factory.device(owner=None)
        bodies = [honest_request(device, Domain(name=f"Racer {number}").registrar) for number in range(8)]
        async with factory.client(None) as line:
            answers = await asyncio.gather(*(line.voucher(body) for body in bodies))
        assert sorted(answer.status for answer in answers) == [200] + [403] * 7
        assert len(await factory.log(serial_of(device))) == 1
