"""The order of work: a voucher for a good request, a log for its owner, and what is on disk by then."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import cbor2
import pytest
from sqlalchemy.exc import IntegrityError

from brski_common import artifact, auditlog, cose
from brski_common.artifact import Format
from brski_common.certificates import domain_id, idevid_issuer, load_certificate, spki_sha256
from brski_common.errors import BrskiError, Refused, Unknown, Untrusted
from brski_common.voucher import Assertion
from brski_masa.parties import DevicePolicy, IdentityKind, Requester
from brski_masa.policy import Terms
from brski_masa.service import AuditTerms
from tests.masa.plant import (
    MAKER,
    NONCE,
    OTHER_PLANT,
    PLANT,
    Desk,
    nonceless,
    open_desk,
    pvr,
    registrar_with_key_id,
    rvr,
    tls_client,
)
from tests.support.world import NOW, fresh

AUDIT_ONLY = Terms(unowned=DevicePolicy.AUDIT_ONLY)
FIRST_COME = Terms(unowned=DevicePolicy.FIRST_COME)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as made:
        yield made


async def refused(desk: Desk, request: bytes, reason: str, kind: type[BrskiError] = Refused, **more: object) -> None:
    """The request gets no voucher, for this reason, and leaves nothing in the log."""
    before = len(await desk.entries())
    with pytest.raises(kind) as caught:
        await desk.ask(request, **more)  # type: ignore[arg-type] # passed on
    assert caught.value.reason == reason
    assert len(await desk.entries()) == before


@pytest.mark.req("MA-08", "MA-14", "MA-15", "MA-22", "VA-01", "AL-11")
@pytest.mark.parametrize("form", Format)
async def test_owner_gets_a_proximity_voucher_with_the_verified_nonce(desk: Desk, form: Format) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    voucher = await desk.ask(rvr(device, form=form), form)
    assert voucher.assertion is Assertion.PROXIMITY
    assert voucher.nonce == NONCE
    assert voucher.serial_number == (await desk.entries())[-1].serial_number
    assert voucher.created_on == desk.clock()
    assert voucher.pinned_domain_cert is not None
    assert load_certificate(voucher.pinned_domain_cert) == PLANT.issuing.certificate
    assert (await desk.entries())[-1].domain_id == domain_id(PLANT.issuing.certificate)


@pytest.mark.req("MA-17", "VA-02", "VA-03", "MA-22")
async def test_voucher_holds_nothing_that_was_not_decided_here(tmp_path: Path) -> None:
    claimed: dict[str, Any] = {"last_renewal_date": NOW, "domain_cert_revocation_checks": True, "expires_on": NOW}
    async with open_desk(tmp_path) as desk:
        device = await desk.sell(MAKER.idevid(fresh()))
        voucher = await desk.ask(rvr(device, **claimed))
        assert voucher.last_renewal_date is None
        assert voucher.expires_on is None
        assert voucher.domain_cert_revocation_checks is None
    async with open_desk(
        tmp_path, database=f"sqlite:///{tmp_path}/second.db", terms=Terms(revocation_checks=False)
    ) as desk:
        await desk.sell(device)
        assert (await desk.ask(rvr(device, **claimed))).domain_cert_revocation_checks is False


@pytest.mark.req("MA-18", "MA-13", "V-CMS-06")
async def test_expired_voucher_is_renewed_for_the_owner_without_further_ado(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    first = await desk.ask(nonceless(device))
    desk.clock.advance(3600)
    again = await desk.ask(nonceless(device, created_on=desk.clock()))
    assert first.expires_on is not None
    assert again.expires_on is not None
    assert first.expires_on < desk.clock() < again.expires_on


@pytest.mark.req("MA-19", "MA-20", "AL-17")
async def test_every_voucher_is_in_the_log_before_it_leaves(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    await desk.ask(rvr(device))
    await desk.ask(rvr(device, created_on=desk.clock() + timedelta(seconds=1)))
    await desk.ask(nonceless(device))
    entries = await desk.entries()
    assert [entry.nonce for entry in entries] == [NONCE, NONCE, None]
    assert [entry.renewal for entry in entries] == [False, True, True]


@pytest.mark.req("MA-19")
async def test_no_voucher_without_its_entry(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    full = "CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    await desk.store.database.write(lambda connection: connection.exec_driver_sql(full))
    with pytest.raises(IntegrityError):
        await desk.masa.request_voucher(rvr(device), Format.CMS, [Format.CMS], desk.requester)


@pytest.mark.req("MT-07", "MA-11")
async def test_device_sold_to_another_domain_is_refused(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()), owner="Other Plant")
    await refused(desk, rvr(device), "device-not-owned")
    assert (await desk.ask(rvr(device, OTHER_PLANT))).assertion is Assertion.PROXIMITY


async def test_device_without_an_owner_is_refused_unless_the_maker_says_otherwise(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()), owner=None)
    await refused(desk, rvr(device), "device-without-owner")


@pytest.mark.req("MT-07", "MA-11", "RS-12")
async def test_audit_only_device_goes_to_any_domain_that_shows_proximity(tmp_path: Path) -> None:
    async with open_desk(tmp_path, terms=AUDIT_ONLY, customers=False) as desk:
        device = await desk.sell(MAKER.idevid(fresh()), owner=None)
        for domain in (PLANT, OTHER_PLANT):
            assert (await desk.ask(rvr(device, domain))).assertion is Assertion.PROXIMITY
        await refused(desk, rvr(device, prior=None), "prior-signed-voucher-request-missing")


@pytest.mark.req("RS-12")
async def test_first_come_device_stays_with_the_first_domain_until_released(tmp_path: Path) -> None:
    async with open_desk(tmp_path, terms=FIRST_COME, customers=False) as desk:
        device = await desk.sell(MAKER.idevid(fresh()), owner=None)
        await desk.ask(rvr(device))
        await refused(desk, rvr(device, OTHER_PLANT), "device-claimed")
        await desk.ask(rvr(device))
        found = (await desk.store.find_devices((await desk.entries())[0].serial_number))[0]
        await desk.store.assign(found.id, None, desk.clock())
        assert (await desk.ask(rvr(device, OTHER_PLANT))).assertion is Assertion.PROXIMITY
        await refused(desk, rvr(device), "device-claimed")


@pytest.mark.req("MA-10", "MA-16", "MA-18", "RS-11")
async def test_nonceless_voucher_only_for_the_authenticated_owner(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    voucher = await desk.ask(nonceless(device))
    assert voucher.nonce is None
    assert voucher.assertion is Assertion.VERIFIED
    assert voucher.expires_on == desk.clock() + timedelta(minutes=20)
    await refused(desk, nonceless(device, OTHER_PLANT), "nonceless-not-authenticated")


@pytest.mark.req("MA-10", "RS-11")
async def test_audit_only_does_not_open_the_door_for_nonceless_requests(tmp_path: Path) -> None:
    async with open_desk(tmp_path, terms=AUDIT_ONLY) as desk:
        device = await desk.sell(MAKER.idevid(fresh()), owner=None)
        await refused(desk, nonceless(device), "nonceless-not-authenticated")


@pytest.mark.req("AT-03", "MA-07")
async def test_stripped_nonce_is_refused_even_for_the_owner(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    await refused(desk, rvr(device, nonce=None), "nonce-stripped", Untrusted)


@pytest.mark.req("MA-24")
async def test_unknown_device_is_unknown(desk: Desk) -> None:
    await refused(desk, rvr(MAKER.idevid(fresh())), "device-unknown", Unknown)


async def test_other_key_with_a_registered_serial_number_is_refused(desk: Desk) -> None:
    serial = fresh()
    await desk.sell(MAKER.idevid(serial))
    twin = MAKER.idevid(serial, key=MAKER.idevid(fresh()).key)
    await refused(desk, rvr(twin), "idevid-not-registered", Untrusted)


@pytest.mark.req("MA-16", "BIS-03", "AT-19")
async def test_idevid_issuer_is_in_the_voucher_only_where_serial_numbers_repeat(desk: Desk) -> None:
    serial = fresh()
    bulb = await desk.sell(MAKER.idevid(serial))
    assert (await desk.ask(rvr(bulb))).idevid_issuer is None
    centrifuge = await desk.sell(MAKER.idevid(serial, issuer=MAKER.root))
    assert (await desk.ask(rvr(bulb))).idevid_issuer == idevid_issuer(bulb.certificate)
    assert (await desk.ask(rvr(centrifuge))).idevid_issuer == idevid_issuer(centrifuge.certificate)
    await refused(desk, nonceless(bulb, idevid_issuer=None), "serial-number-ambiguous", Untrusted)
    voucher = await desk.ask(nonceless(centrifuge))
    assert voucher.idevid_issuer == idevid_issuer(centrifuge.certificate)


async def test_blocked_device_gets_no_voucher_but_keeps_its_log(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    await desk.ask(rvr(device))
    found = await desk.store.list_devices()
    await desk.store.change_device(found[0].id, blocked="stolen")
    await refused(desk, rvr(device), "device-blocked")
    answer = await desk.masa.request_audit_log(rvr(device), Format.CMS, desk.requester)
    assert len(auditlog.read(answer.body).events) == 1


@pytest.mark.req("MA-13")
async def test_renewal_for_the_same_domain_is_automatic_and_logged(tmp_path: Path) -> None:
    async with open_desk(tmp_path, terms=AUDIT_ONLY, customers=False) as desk:
        device = await desk.sell(MAKER.idevid(fresh()), owner=None)
        await desk.ask(rvr(device))
        desk.masa._terms = Terms()  # the maker has closed the door meanwhile
        desk.clock.advance(3600)
        await desk.ask(rvr(device))
        await refused(desk, rvr(device, OTHER_PLANT), "device-without-owner")
        assert (await desk.entries())[-1].renewal


@pytest.mark.req("MA-13", "BIS-09")
async def test_old_voucher_in_place_of_the_pledges_request_renews_it(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    _, old = await desk.masa.request_voucher(nonceless(device), Format.CMS, [Format.CMS], desk.requester)
    desk.clock.advance(3600)
    renewed = await desk.ask(rvr(device, prior=old, nonce=None, created_on=desk.clock()))
    assert renewed.expires_on == desk.clock() + timedelta(minutes=20)
    stolen = rvr(device, OTHER_PLANT, prior=old, nonce=None, created_on=desk.clock())
    await refused(desk, stolen, "renewal-of-another-domain", Untrusted)


@pytest.mark.req("CB-03")
async def test_constrained_device_gets_numbers_for_names(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    request = rvr(device, form=Format.COSE)
    _, data = await desk.masa.request_voucher(request, Format.COSE, [Format.COSE], desk.requester)
    ((top, members),) = cbor2.loads(cose.parse(data).content).items()
    assert top == 2451
    assert {type(key) for key in members} == {int}


async def test_answer_comes_in_a_format_that_registrar_and_device_know(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    answer, data = await desk.masa.request_voucher(rvr(device), Format.CMS, [Format.COSE, Format.CMS], desk.requester)
    assert answer is Format.COSE
    artifact.parse_voucher(data, Format.COSE)
    await desk.store.change_device((await desk.store.list_devices())[0].id, formats="CMS")
    await refused(desk, rvr(device), "voucher-format-not-acceptable", wanted=[Format.JWS])


@pytest.mark.req("AT-18")
async def test_stranger_with_a_chosen_domain_id_is_refused(tmp_path: Path) -> None:
    async with open_desk(tmp_path, terms=AUDIT_ONLY) as desk:
        device = await desk.sell(MAKER.idevid(fresh()), owner=None)
        liar = registrar_with_key_id(domain_id(PLANT.issuing.certificate))
        await refused(desk, rvr(device, signer=liar, prior=pvr(device, liar.certificate)), "domain-id-not-derived")
        await desk.store.put_owner("Odd Plant", desk.clock())
        with pytest.raises(Refused, match="domain-id-taken"):
            await desk.store.add_certificate(
                "Odd Plant", IdentityKind.ANCHOR, registrar_with_key_id(domain_id(PLANT.root.certificate)).chain[1]
            )
        odd = registrar_with_key_id(b"our own numbering")
        await desk.store.add_certificate("Odd Plant", IdentityKind.ANCHOR, odd.chain[1])
        await desk.ask(rvr(device, signer=odd, prior=pvr(device, odd.certificate)))


@pytest.mark.req("D-8", "AL-11")
async def test_domain_without_a_key_identifier_is_logged_by_its_key(tmp_path: Path) -> None:
    async with open_desk(tmp_path, terms=AUDIT_ONLY, customers=False) as desk:
        device = await desk.sell(MAKER.idevid(fresh()), owner=None)
        lonely = registrar_with_key_id(None)
        await desk.ask(rvr(device, signer=lonely, prior=pvr(device, lonely.certificate)))
        assert (await desk.entries())[-1].domain_id == spki_sha256(lonely.chain[1])


# The audit log


@pytest.mark.req("AL-01", "AL-03")
async def test_same_request_gets_the_log_without_being_verified_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    request = rvr(device)
    await desk.ask(request)
    monkeypatch.setattr("brski_masa.vouchering.examine", None)
    answer = await desk.masa.request_audit_log(request, Format.CMS, desk.requester)
    log = auditlog.read(answer.body)
    assert [(event.nonce, event.assertion) for event in log.events] == [(NONCE, "proximity")]


@pytest.mark.req("AL-02", "AL-03")
async def test_new_request_for_the_log_is_verified_in_full(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    await desk.ask(rvr(device))
    fresh_request = rvr(device, prior=None, created_on=desk.clock() + timedelta(minutes=1))
    assert (await desk.masa.request_audit_log(fresh_request, Format.CMS, desk.requester)).body
    no_registrar = rvr(device, signer=PLANT.ldevid("x"))
    with pytest.raises(Untrusted, match="registrar-not-authorized"):
        await desk.masa.request_audit_log(no_registrar, Format.CMS, desk.requester)


@pytest.mark.req("AL-03")
async def test_request_replayed_by_another_tls_client_is_refused_by_default(tmp_path: Path) -> None:
    thief = tls_client(OTHER_PLANT.registrar)
    async with open_desk(tmp_path) as desk:
        device = await desk.sell(MAKER.idevid(fresh()))
        request = rvr(device)
        await desk.ask(request)
        with pytest.raises(Refused, match="request-replayed"):
            await desk.masa.request_audit_log(request, Format.CMS, thief)
        desk.masa._audit = AuditTerms(refuse_replays=False)
        assert (await desk.masa.request_audit_log(request, Format.CMS, thief)).body


@pytest.mark.req("AL-04", "AT-14")
async def test_log_of_a_device_is_not_found_for_who_never_owned_it(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    await desk.ask(rvr(device))
    for request in (rvr(device, OTHER_PLANT), rvr(MAKER.idevid(fresh()))):
        with pytest.raises(Unknown) as caught:
            await desk.masa.request_audit_log(request, Format.CMS, tls_client(OTHER_PLANT.registrar))
        assert caught.value.reason == "device-unknown"


@pytest.mark.req("AL-05")
async def test_former_owner_still_reads_the_log_and_sees_the_resale(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    await desk.ask(rvr(device))
    found = (await desk.store.list_devices())[0]
    await desk.store.assign(found.id, "Other Plant", desk.clock())
    await desk.ask(rvr(device, OTHER_PLANT))
    await refused(desk, rvr(device), "device-not-owned")
    for domain in (PLANT, OTHER_PLANT):
        request = rvr(device, domain, created_on=desk.clock() + timedelta(seconds=5))
        answer = await desk.masa.request_audit_log(request, Format.CMS, tls_client(domain.registrar))
        assert len(auditlog.read(answer.body).events) == 2


@pytest.mark.req("AL-05")
async def test_owner_who_never_asked_for_a_voucher_still_counts(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    found = (await desk.store.list_devices())[0]
    await desk.store.assign(found.id, "Other Plant", desk.clock())
    await desk.ask(rvr(device, OTHER_PLANT))
    answer = await desk.masa.request_audit_log(rvr(device), Format.CMS, desk.requester)
    assert len(auditlog.read(answer.body).events) == 1


@pytest.mark.req("AL-04", "AT-18")
async def test_copied_domain_id_does_not_open_the_log(desk: Desk) -> None:
    """The liar's CA has the SubjectKeyIdentifier that stands in the log, but not the key."""
    device = await desk.sell(MAKER.idevid(fresh()))
    await desk.ask(rvr(device))
    copied = domain_id(PLANT.issuing.certificate)
    assert (await desk.entries())[-1].domain_id == copied
    liar = registrar_with_key_id(copied)
    request = rvr(device, signer=liar, prior=pvr(device, liar.certificate))
    with pytest.raises(Unknown):
        await desk.masa.request_audit_log(request, Format.CMS, tls_client(liar))


@pytest.mark.req("AL-06")
async def test_link_to_a_log_shows_what_it_showed_when_it_was_made(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    request = rvr(device)
    await desk.ask(request)
    answer = await desk.masa.request_audit_log(request, Format.CMS, desk.requester)
    token = await desk.masa.new_link(answer.device_id)
    assert len(token) >= 43  # 256 bits
    await desk.ask(rvr(device, created_on=desk.clock() + timedelta(seconds=1)))
    assert await desk.masa.follow_link(token) == answer.body
    desk.clock.advance(31 * 86400)
    with pytest.raises(Unknown):
        await desk.masa.follow_link(token)


async def test_log_without_events_is_not_found(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    with pytest.raises(Unknown, match="audit-log-empty"):
        await desk.masa.request_audit_log(rvr(device), Format.CMS, desk.requester)


async def test_anonymous_tls_client_may_use_its_own_requests_only(desk: Desk) -> None:
    device = await desk.sell(MAKER.idevid(fresh()))
    request = rvr(device)
    await desk.ask(request, requester=Requester())
    assert (await desk.masa.request_audit_log(request, Format.CMS, Requester())).body


@pytest.mark.req("MA-25", "RS-11")
async def test_operator_issues_a_nonceless_voucher_offline(desk: Desk) -> None:
    await desk.sell(MAKER.idevid(fresh()))
    found = (await desk.store.find_devices((await desk.store.list_devices())[0].serial_number))[0]
    data = await desk.masa.issue_offline(
        found, PLANT.root.certificate, lifetime=timedelta(days=30), answer_format=Format.CMS
    )
    voucher = artifact.parse_voucher(data, Format.CMS).verify(MAKER.voucher_anchors, desk.clock()).value
    assert voucher.expires_on == desk.clock() + timedelta(days=30)
    assert (await desk.entries())[-1].requester == "operator"
