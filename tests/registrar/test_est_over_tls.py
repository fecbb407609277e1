"""EST over real TLS and HTTP: who gets a certificate, and who does not."""

import asyncio
import base64
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from brski_common import der, est
from brski_common.certificates import (
    ID_KP_CLIENT_AUTH,
    ID_KP_CMC_RA,
    Credential,
    PrivateKey,
    extended_key_usages,
    is_ca,
    serial_number,
)
from brski_common.paths import build_path
from brski_registrar.acp import Addressing
from brski_registrar.ca import LocalAuthority
from brski_registrar.lifecycle import Event, State
from brski_registrar.policy import Approval
from brski_registrar.records import Change
from tests.support.plant import EST, Plant, certificate_in, csr_with, reason_of
from tests.support.world import Clock, Domain, fresh, key_for

# The way of a good device


@pytest.mark.req("E-01", "E-11", "E-13", "EI-11", "EI-12", "TL-10", "E-04")
async def test_a_device_goes_from_voucher_to_certificate_on_one_connection(plant: Plant) -> None:
    async with plant.vouched() as line:
        response = await line.enroll()
        assert (response.status, response.headers["Content-Type"]) == (200, est.CERTS_ONLY)
        certificate = certificate_in(response.body)
        assert serial_number(certificate) == line.serial
        assert not is_ca(certificate)
        assert extended_key_usages(certificate) == {ID_KP_CLIENT_AUTH}
        build_path(certificate, plant.domain.issuing.chain, plant.domain.anchors, plant.clock())
        assert (await plant.device(line.serial)).state is State.ENROLLED


@pytest.mark.req("EI-07", "EI-08", "EI-10", "EI-11")
async def test_success_over_the_new_certificate_makes_it_operational(plant: Plant) -> None:
    async with plant.vouched() as line:
        ldevid, serial = await line.enrolled(), line.serial
    async with plant.connect(ldevid) as line:
        assert (await line.enroll_status(success=True)).status == 200
    assert (await plant.device(serial)).state is State.OPERATIONAL
    assert ("enroll-status", "matching-certificate") in await plant.told(serial)


@pytest.mark.req("EI-10")
async def test_success_over_the_idevid_is_written_down_as_not_matching(plant: Plant) -> None:
    async with plant.vouched() as line:
        await line.enrolled()
        assert (await line.enroll_status(success=True)).status == 200
        assert (await plant.device(line.serial)).state is State.ENROLLED
        assert ("enroll-status", "no-matching-certificate") in await plant.told(line.serial)


@pytest.mark.req("EI-09", "EI-10")
async def test_a_report_of_failure_is_kept_and_the_device_may_try_again(plant: Plant) -> None:
    async with plant.vouched() as line:
        await line.enrolled()
        assert (await line.enroll_status(success=False, reason="certificate-not-mine")).status == 200
        assert (await plant.device(line.serial)).state is State.UNENROLLED
        details = [entry.detail for entry in await plant.store.journal()]
        assert "certificate-not-mine" in details
        assert (await line.enroll()).status == 200


async def test_reports_on_certificates_from_nowhere(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        assert (await line.enroll_status(success=True)).status == 404
    async with plant.connect(None) as line:
        assert (await line.enroll_status(success=True)).status == 401


async def test_a_lost_answer_is_given_again(plant: Plant) -> None:
    async with plant.vouched() as line:
        csr = await line.csr()
        first, second = await line.enroll(csr), await line.enroll(csr)
        assert first.body == second.body
        third = await line.enroll(await line.csr(key_for("another")))
        assert (third.status, third.body == first.body) == (200, False)
        device = await plant.device(line.serial)
        assert len(await plant.store.issued_to(device.id)) == 2


async def test_a_device_without_a_report_on_its_voucher_enrolls_after_its_log_was_read(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        await line.request_voucher()
        assert (await line.enroll()).status == 200
        assert len(plant.masa.log_requests) == 1
        assert ("voucher-status", "voucher-status-missing") in await plant.told(line.serial)


async def test_a_plant_may_insist_on_the_report(plant: Plant) -> None:
    await plant.change_domain(require_voucher_status=True)
    async with plant.connect(await plant.admitted()) as line:
        await line.request_voucher()
        response = await line.enroll(csr_with())
        assert (response.status, reason_of(response)) == (403, "voucher-status-missing")
        await line.status(success=True)
        assert (await line.enroll()).status == 200


# Who is refused


@pytest.mark.req("EI-12", "AT-24")
async def test_no_voucher_no_certificate(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        response = await line.enroll(csr_with())
        assert (response.status, reason_of(response)) == (403, "voucher-not-requested")
        for path in ("cacerts", "csrattrs"):
            assert (await line.get(f"{EST}/{path}")).status == 403


@pytest.mark.req("EI-12")
async def test_a_voucher_that_the_masa_refused_opens_nothing(plant: Plant) -> None:
    from brski_common.errors import Refused

    plant.masa.fails.append(Refused("masa-refused"))
    async with plant.connect(await plant.admitted()) as line:
        await line.request_voucher()
        response = await line.enroll(csr_with())
        assert (response.status, reason_of(response)) == (403, "voucher-missing")


@pytest.mark.req("E-04", "E-20", "EI-12")
async def test_nobody_else_gets_a_certificate(plant: Plant) -> None:
    self_signed = Domain(name="Somebody Else").root
    for credential, status in ((None, 401), (self_signed, 404), (plant.domain.registrar, 404)):
        async with plant.connect(credential) as line:
            assert (await line.enroll(csr_with())).status == status
            assert (await line.get(f"{EST}/csrattrs")).status == status
            assert (await line.enroll(csr_with(), "simplereenroll")).status in {401, 403}


@pytest.mark.req("AL-14")
async def test_refusal_by_the_audit_log_closes_every_operation(plant: Plant) -> None:
    async with plant.connect(await plant.admitted()) as line:
        plant.masa.remember(line.serial, b"\x66" * 20)
        await line.request_voucher()
        await line.status(success=True)
        responses = [await line.enroll(csr_with()), await line.get(f"{EST}/cacerts"), await line.get(f"{EST}/csrattrs")]
        assert {(each.status, reason_of(each)) for each in responses} == {(403, "audit-log-refused")}
        device = await plant.device(line.serial)
        change = Change(events=(Event.OVERRULE,), notes=(), now=plant.clock(), reason="bought second hand")
        await plant.store.advance(device, change)
        assert (await line.enroll()).status == 200


async def test_a_device_in_operation_does_not_enroll_on_its_idevid(plant: Plant) -> None:
    async with plant.vouched() as line:
        ldevid = await line.enrolled()
        async with plant.connect(ldevid) as new:
            await new.enroll_status(success=True)
        response = await line.enroll(csr_with())
        assert (response.status, reason_of(response)) == (403, "already-enrolled")


async def test_blocking_between_voucher_and_certificate_counts(plant: Plant) -> None:
    async with plant.vouched() as line:
        device = await plant.device(line.serial)
        await plant.store.advance(device, Change(events=(Event.BLOCK,), notes=(), now=plant.clock()))
        assert (await line.enroll(csr_with())).status == 406
        assert await plant.store.issued_to(device.id) == ()


# Certificate requests


SUBJECT = (NameOID.SERIAL_NUMBER, "SN")


@pytest.mark.parametrize(
    ("attributes", "extensions", "reason"),
    [
        ([(NameOID.SERIAL_NUMBER, "SN-OF-ANOTHER")], (), "csr-serial-number-mismatch"),
        ([(NameOID.COMMON_NAME, "another device")], (), "csr-subject-mismatch"),
        ([], ((x509.BasicConstraints(ca=True, path_length=None), True),), "csr-asks-ca"),
        ([], ((x509.ExtendedKeyUsage([ID_KP_CMC_RA]), False),), "csr-usage-not-asked"),
        ([], ((x509.SubjectAlternativeName([x509.DNSName("registrar.example")]), False),), "csr-names-not-asked"),
        ([], ((x509.PolicyConstraints(0, None), True),), "csr-extension-not-asked"),
    ],
)
@pytest.mark.req("AT-24", "EI-05")
async def test_a_request_for_what_is_not_the_devices_is_refused(
    plant: Plant,
    attributes: list[tuple[x509.ObjectIdentifier, str]],
    extensions: tuple[tuple[x509.ExtensionType, bool], ...],
    reason: str,
) -> None:
    async with plant.vouched() as line:
        response = await line.enroll(csr_with(*attributes, extensions=extensions))
        assert (response.status, reason_of(response)) == (403, reason)
        assert (await plant.told(line.serial))[-1] == ("enroll-refused", reason)
        assert (await line.enroll()).status == 200


@pytest.mark.req("EI-05", "E-22")
async def test_a_key_of_another_kind_than_was_asked_for_is_refused(plant: Plant) -> None:
    async with plant.vouched() as line:
        response = await line.enroll(csr_with(key=key_for("rsa", "RSA-2048")))
        assert (response.status, reason_of(response)) == (403, "csr-key-kind-mismatch")


@pytest.mark.parametrize("subject", [[], [(NameOID.COMMON_NAME, "own serial")], [(NameOID.ORGANIZATION_NAME, "x")]])
@pytest.mark.req("AT-24")
async def test_the_certificate_names_the_device_whatever_the_request_says(
    plant: Plant, subject: list[tuple[x509.ObjectIdentifier, str]]
) -> None:
    async with plant.vouched() as line:
        attributes = [(oid, line.serial if value == "own serial" else value) for oid, value in subject]
        if attributes and attributes[0][0] == NameOID.ORGANIZATION_NAME:
            attributes.append((NameOID.SERIAL_NUMBER, line.serial))
        certificate = certificate_in((await line.enroll(csr_with(*attributes))).body)
        assert [str(each.value) for each in certificate.subject] == [line.serial, line.serial]


@pytest.mark.req("E-12", "E-15", "E51-03", "HT-10")
async def test_a_broken_request_is_400(plant: Plant) -> None:
    async with plant.vouched() as line:
        good = await line.csr()
        flipped = good[:-5] + bytes([good[-5] ^ 1]) + good[-4:]
        response = await line.enroll(flipped)
        assert (response.status, reason_of(response)) == (400, "csr-signature-invalid")
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        for body in (b"", b"!!!", b"AAAA", base64.b64encode(b"\x30\x03\x02\x01\x01")):
            assert (await line.post(f"{EST}/simpleenroll", body, "application/pkcs10")).status == 400
        assert (await line.post(f"{EST}/simpleenroll", base64.b64encode(good), "text/plain")).status == 415


CLIENT_STYLES: dict[str, Callable[[bytes], tuple[bytes, dict[str, str]]]] = {
    "curl": lambda b64: (b64 + b"\n", {}),
    "libest": lambda b64: (b"\n".join(b64[at : at + 64] for at in range(0, len(b64), 64)) + b"\n", {}),
    "globalsign": lambda b64: (b64, {"Content-Transfer-Encoding": "base64"}),
    "BouncyCastle": lambda b64: (b"\r\n".join(b64[at : at + 76] for at in range(0, len(b64), 76)) + b"\r\n", {}),
    "strongSwan": lambda b64: (b64, {"Content-Transfer-Encoding": "binary"}),
}


@pytest.mark.parametrize("client", list(CLIENT_STYLES))
@pytest.mark.req("E51-01", "E51-02", "EI-14")
async def test_the_bodies_of_every_client_are_read(plant: Plant, client: str) -> None:
    async with plant.vouched() as line:
        body, headers = CLIENT_STYLES[client](base64.b64encode(await line.csr()))
        response = await line.post(f"{EST}/simpleenroll", body, "application/pkcs10", **headers)
        assert response.status == 200


@pytest.mark.req("E51-01", "E-09", "E-19")
async def test_answers_are_one_base64_line_and_one_lf(plant: Plant) -> None:
    async with plant.vouched() as line:
        for path in ("cacerts", "csrattrs"):
            response = await line.get(f"{EST}/{path}")
            assert response.body.count(b"\n") == 1
            assert response.body.endswith(b"\n")
            assert response.headers["Content-Length"] == str(len(response.body))
            base64.b64decode(response.body[:-1], validate=True)


@pytest.mark.req("E-08", "E-09", "E-03")
async def test_anybody_may_read_the_ca_certificates(plant: Plant) -> None:
    for credential in (None, plant.domain.ldevid(fresh()), Domain(name="Elsewhere").root):
        async with plant.connect(credential) as line:
            response = await line.get(f"{EST}/cacerts")
            assert (response.status, response.headers["Content-Type"]) == (200, est.CERTS_ONLY)
            assert set(est.parse_certs_only(est.decode_body(response.body))) == set(plant.domain.issuing.chain)


async def test_new_ca_certificates_are_handed_out_at_once(tmp_path: Path) -> None:
    class Changing(LocalAuthority):
        now = Domain().issuing.chain

        async def ca_certs(self) -> tuple[x509.Certificate, ...]:
            return self.now

    authority = Changing(Domain().issuing, clock=Clock())
    async with Plant.open(tmp_path, authority=authority) as plant, plant.connect(None) as line:
        for chain in (Domain().issuing.chain, Domain(name="Next").issuing.chain, Domain().issuing.chain):
            authority.now = chain
            response = await line.get(f"{EST}/cacerts")
            assert set(est.parse_certs_only(est.decode_body(response.body))) == set(chain)


async def test_a_maker_that_is_removed_is_unknown_on_an_open_connection_too(plant: Plant) -> None:
    async with plant.vouched() as line:
        assert (await line.get(f"{EST}/csrattrs")).status == 200
        await plant.policies.remove_manufacturer(plant.maker.name)
        assert (await line.get(f"{EST}/csrattrs")).status == 404
        assert (await line.enroll(csr_with())).status == 404


@pytest.mark.req("D-10", "CA-01", "CA-02", "E-19", "E-22", "E51-04", "D-9")
async def test_the_registrar_asks_in_the_older_form_and_by_template(tmp_path: Path) -> None:
    addressing = Addressing(domain="acp.example.com", registrar_id=0x0200_0000_0001)
    authority = LocalAuthority(Domain().issuing, clock=Clock(), key_kind="P-256", addressing=addressing)
    async with Plant.open(tmp_path, authority=authority) as plant, plant.vouched() as line:
        response = await line.get(f"{EST}/csrattrs")
    assert (response.status, response.headers["Content-Type"]) == (200, est.CSRATTRS)
    items = {child.children()[0].oid(): child.children()[1].children() for child in _items(response.body)}
    assert len(items) == len(list(_items(response.body))), "each kind of attribute once"
    (curve,) = items["1.2.840.10045.2.1"]
    assert curve.oid() == "1.2.840.10045.3.1.7"
    (extensions,) = items["1.2.840.113549.1.9.14"]
    assert [each.children()[0].oid() for each in extensions.children()] == ["2.5.29.17"]
    (template,) = items["1.2.840.113549.1.9.16.2.61"]
    assert der.oid("2.5.4.5") in template.encoded
    assert "1.2.840.113549.1.9.7" not in items, "no challengePassword"


def _items(body: bytes) -> list[der.Element]:
    """The Attributes of a CsrAttrs, bare OIDs left out."""
    return [each for each in der.parse(est.decode_body(body)).children() if each.tag == der.SEQUENCE]


@pytest.mark.req("E-02")
async def test_a_label_names_a_ca(tmp_path: Path) -> None:
    async with Plant.open(tmp_path, labels=("line-4",)) as plant, plant.vouched() as line:
        assert (await line.get(f"{EST}/line-4/cacerts")).status == 200
        assert (await line.get(f"{EST}/line-4/csrattrs")).status == 200
        assert (await line.get(f"{EST}/line-5/cacerts")).status == 404
        assert (await line.enroll(operation="line-4/simpleenroll")).status == 200


# Approval by hand


@pytest.mark.req("E-14")
async def test_a_request_waits_for_the_operator_and_is_repeated_on_another_connection(plant: Plant) -> None:
    await plant.change_domain(approval=Approval.MANUAL)
    async with plant.vouched() as line:
        csr = await line.csr()
        for _ in range(2):
            response = await line.enroll(csr)
            assert (response.status, response.headers["Retry-After"]) == (202, "30")
        device = await plant.device(line.serial)
        assert device.state is State.AWAITING
        assert (await plant.told(line.serial)).count(("enroll-held", "waiting-for-operator")) == 1
        await plant.store.advance(device, Change(events=(Event.CLEAR,), notes=(), now=plant.clock()))
        assert (await line.enroll(await line.csr(key_for("another")))).status == 202, "another request was not approved"
        assert (await line.enroll(csr)).status == 202
        await plant.store.advance(device, Change(events=(Event.CLEAR,), notes=(), now=plant.clock()))
    async with plant.connect(line.credential) as again:
        assert (await again.enroll(csr)).status == 200


@pytest.mark.req("E-14")
async def test_what_waits_is_approved_once_approval_is_automatic(plant: Plant) -> None:
    await plant.change_domain(approval=Approval.MANUAL)
    async with plant.vouched() as line:
        csr = await line.csr()
        assert (await line.enroll(csr)).status == 202
        await plant.change_domain(approval=Approval.AUTOMATIC)
        assert (await line.enroll(csr)).status == 200
        assert (await plant.device(line.serial)).state is State.ENROLLED


# Renewal


def renewal_of(ldevid: Credential, key: PrivateKey) -> bytes:
    names = [(each.oid, str(each.value)) for each in ldevid.certificate.subject]
    return csr_with(*names, key=key)


@pytest.mark.parametrize("rekey", [False, True])
@pytest.mark.req("E-16", "OP-06", "E-01")
async def test_a_device_renews_with_its_key_or_another(plant: Plant, rekey: bool) -> None:
    async with plant.vouched() as line:
        ldevid = await line.enrolled()
    async with plant.connect(ldevid) as line:
        plant.clock.advance(86400 * 300)
        key = key_for("next key") if rekey else ldevid.key
        response = await line.enroll(renewal_of(ldevid, key), "simplereenroll")
        certificate = certificate_in(response.body)
        assert certificate.subject == ldevid.certificate.subject
        assert certificate.not_valid_after_utc > ldevid.certificate.not_valid_after_utc + timedelta(days=299)
    async with plant.connect(Credential(key, (certificate,))) as line:
        assert (await line.get(f"{EST}/csrattrs")).status == 200
        assert (await plant.device(line.serial)).state is State.OPERATIONAL


@pytest.mark.req("E-16")
async def test_a_renewal_does_not_change_names(plant: Plant) -> None:
    async with plant.vouched() as line:
        ldevid = await line.enrolled()
    async with plant.connect(ldevid) as line:
        for csr in (
            csr_with((NameOID.SERIAL_NUMBER, "SN-OF-ANOTHER")),
            csr_with((NameOID.SERIAL_NUMBER, line.serial)),
        ):
            response = await line.enroll(csr, "simplereenroll")
            assert (response.status, reason_of(response)) == (403, "csr-subject-changed")
        other_name = x509.SubjectAlternativeName([x509.DNSName("x.example")])
        names = [(each.oid, str(each.value)) for each in ldevid.certificate.subject]
        csr = csr_with(*names, extensions=((other_name, False),), key=ldevid.key)
        response = await line.enroll(csr, "simplereenroll")
        assert (response.status, reason_of(response)) == (403, "csr-alternative-names-changed")


@pytest.mark.req("E-16", "E-04")
async def test_only_a_certificate_in_use_renews(plant: Plant) -> None:
    async with plant.vouched() as line:
        ldevid = await line.enrolled()
        body = renewal_of(ldevid, ldevid.key)
        assert (await line.enroll(body, "simplereenroll")).status == 403, "not on the IDevID"
    foreign = plant.domain.ldevid(line.serial)
    async with plant.connect(foreign) as line:
        assert (await line.enroll(body, "simplereenroll")).status == 403, "same CA and name, but never issued here"
    async with plant.connect(ldevid) as line:
        await plant.store.revoke(
            next(iter(await plant.store.issued_to((await plant.device(line.serial)).id))).fingerprint, plant.clock()
        )
        response = await line.enroll(body, "simplereenroll")
        assert (response.status, reason_of(response)) == (403, "certificate-revoked")


async def test_an_expired_certificate_does_not_renew(plant: Plant) -> None:
    async with plant.vouched() as line:
        ldevid = await line.enrolled()
    plant.clock.advance(86400 * 366)
    async with plant.connect(ldevid) as line:
        response = await line.enroll(renewal_of(ldevid, ldevid.key), "simplereenroll")
        assert (response.status, reason_of(response)) == (403, "certificate-expired")


async def test_a_blocked_device_does_not_renew(plant: Plant) -> None:
    async with plant.vouched() as line:
        ldevid = await line.enrolled()
    async with plant.connect(ldevid) as line:
        device = await plant.device(line.serial)
        await plant.store.advance(device, Change(events=(Event.BLOCK,), notes=(), now=plant.clock()))
        response = await line.enroll(renewal_of(ldevid, ldevid.key), "simplereenroll")
        assert (response.status, reason_of(response)) == (406, "device-blocked")


async def test_a_device_in_use_does_not_renew_while_it_is_blocked_and_gets_no_est_by_its_idevid_then_or_later(
    plant: Plant,
) -> None:
    async with plant.vouched() as first:
        ldevid = await first.enrolled()
        async with plant.connect(ldevid) as line:
            await line.enroll_status(success=True)
            for event, status, told in ((Event.BLOCK, 406, "device-blocked"), (Event.UNBLOCK, 200, "already-enrolled")):
                device = await plant.device(first.serial)
                await plant.store.advance(device, Change(events=(event,), notes=(), now=plant.clock()))
                assert (await line.enroll(renewal_of(ldevid, ldevid.key), "simplereenroll")).status == status
                assert reason_of(await first.enroll(csr_with())) == told
        assert (await plant.device(first.serial)).state is State.OPERATIONAL


async def test_a_device_that_was_reset_starts_over(plant: Plant) -> None:
    async with plant.vouched() as line:
        ldevid = await line.enrolled()
        async with plant.connect(ldevid) as new:
            await new.enroll_status(success=True)
        assert (await line.request_voucher(line.pvr(nonce="after the reset"))).status == 200
        await line.status(success=True)
        assert (await line.enroll(await line.csr(key_for("after the reset")))).status == 200


async def test_eight_devices_at_once(plant: Plant) -> None:
    async def onboard() -> None:
        async with plant.vouched() as line:
            ldevid = await line.enrolled()
        async with plant.connect(ldevid) as line:
            assert (await line.enroll_status(success=True)).status == 200

    await asyncio.gather(*(onboard() for _ in range(8)))
    assert {device.state for device in await plant.store.devices()} == {State.OPERATIONAL}
