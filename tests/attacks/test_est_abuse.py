"""Certificates for the wrong device, too early, twice, or with powers: EST under attack."""

import asyncio
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from brski_common import est, issuing
from brski_common.certificates import ID_KP_CMC_RA, Credential, PrivateKey, is_ca
from brski_common.http_client import HttpResponse
from brski_registrar.lifecycle import State
from tests.support.forgeries import serial_of
from tests.support.plant import BRSKI, CMS, EST, Line, reason_of
from tests.support.rogues import Scene
from tests.support.world import Domain, Manufacturer, fresh, key_for, self_signed_registrar

Wish = tuple[x509.ExtensionType, bool]


def csr_for(
    subject: x509.Name,
    key: PrivateKey | None = None,
    extensions: Sequence[Wish] = (),
    *,
    signer: PrivateKey | None = None,
) -> bytes:
    """A certificate request as anybody can make it."""
    key = key or key_for("attacker's key")
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(key, issuing.signature_hash(key)).public_bytes(Encoding.DER)


def named(serial: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, serial, _ASN1Type.UTF8String)])


def certificate_in(response: HttpResponse) -> x509.Certificate:
    assert response.status == 200, response.body
    (certificate,) = est.parse_certs_only(est.decode_body(response.body))
    return certificate


async def count(scene: Scene, serial: str) -> int:
    """How many certificates were issued to devices with that serial number."""
    return sum([await scene.certificates(device.id) for device in await scene.plant.store.find(serial)])


async def reply(line: Line, body: bytes, operation: str = "simpleenroll") -> tuple[int, str]:
    response = await line.enroll(body, operation)
    return response.status, "" if response.status == 200 else reason_of(response)


# Too early, or after a failure


@pytest.mark.req("EI-12", "AL-14", "AT-24")
async def test_est_before_any_voucher(scene: Scene) -> None:
    device = await scene.device()
    async with scene.plant.connect(device) as line:
        for path in ("csrattrs", "cacerts"):
            response = await line.get(f"{EST}/{path}")
            assert (response.status, reason_of(response)) == (403, "voucher-not-requested")
        assert await reply(line, csr_for(named(line.serial))) == (403, "voucher-not-requested")
        assert (await line.enroll_status(success=True)).status == 404
    await scene.untouched(device)
    await scene.still_works(device)


@pytest.mark.req("VS-05", "EI-12")
async def test_a_pledge_that_rejected_its_voucher_gets_no_certificate(scene: Scene) -> None:
    device = await scene.device()
    async with scene.plant.connect(device) as line:
        assert (await line.request_voucher()).status == 200
        assert (await line.status(success=False)).status == 200
        assert await reply(line, csr_for(named(line.serial))) == (403, "voucher-rejected-by-pledge")
        assert (await line.status(success=True)).status == 200, "a second opinion is written down"
        assert await reply(line, csr_for(named(line.serial))) == (403, "voucher-rejected-by-pledge")
    assert (await scene.plant.device(serial_of(device))).state is State.FAILED
    await scene.untouched(device)
    await scene.still_works(device)


@pytest.mark.req("VS-07", "VS-08")
@pytest.mark.parametrize("version", [b"1", b'"1"', b"2", b'"01"'])
async def test_telemetry_with_any_kind_of_version_is_heard(scene: Scene, version: bytes) -> None:
    device = await scene.device()
    async with scene.plant.connect(device) as line:
        await line.request_voucher()
        body = b'{"version": %s, "status": false, "reason": "no"}' % version
        assert (await line.post(f"{BRSKI}/voucher_status", body, "application/json")).status == 200
        assert (await scene.plant.device(line.serial)).state is State.FAILED, "a failure must never get lost"


# Without an identity, or with the wrong one


async def strangers(scene: Scene) -> dict[str, Credential | None]:
    member = scene.plant.domain.ldevid(fresh())
    return {
        "nobody": None,
        "self-signed": self_signed_registrar("Somebody"),
        "another maker's": Manufacturer(name="Counterfeit Maker").idevid(fresh()),
        "a counterfeit of the maker's name": Manufacturer(kind="P-384").idevid(fresh()),
        "the maker's IDevID CA": scene.factory.maker.idevid_ca,
        "the MASA's TLS key": scene.factory.maker.tls,
        "the MASA's voucher signer": scene.factory.maker.voucher_signer,
        "an LDevID of our own CA that we never issued": member,
        "our registrar itself": scene.plant.domain.registrar,
        "another plant's LDevID": Domain(name="Other Plant").ldevid(fresh()),
    }


@pytest.mark.req("AT-16", "RS-08", "TL-12", "E-04")
async def test_who_is_no_device_of_a_known_maker_gets_nothing(scene: Scene) -> None:
    body = csr_for(named("SN-X"))
    before = len(await scene.plant.store.devices())
    for who, credential in (await strangers(scene)).items():
        async with scene.plant.connect(credential) as line:
            answers = [
                await line.post(f"{BRSKI}/requestvoucher", b"\x30\x00", CMS),
                await line.get(f"{EST}/csrattrs"),
                await line.enroll(body),
                await line.enroll(body, "simplereenroll"),
                await line.status(success=True),
                await line.enroll_status(success=True),
            ]
        # The MASA's TLS certificate hangs under the maker's root, but it names no device.
        assert {answer.status for answer in answers} <= {401, 403, 404}, who
        assert len({reason_of(answer) for answer in answers if answer.status != 404}) <= 2, who
    assert len(await scene.plant.store.devices()) == before
    await scene.still_works()


@pytest.mark.req("TL-12", "ID-02")
async def test_an_ldevid_in_use_is_no_idevid(scene: Scene) -> None:
    async with scene.vouched() as line:
        member = await line.enrolled()
    async with scene.plant.connect(member) as line:
        assert (await line.request_voucher()).status == 404
        assert await reply(line, csr_for(named(line.serial))) == (404, "manufacturer-unknown")


# What a request may not ask for


def key_usage(*, signs: bool) -> x509.KeyUsage:
    return issuing.signing_key_usage(certificates=signs)


POWERS: dict[str, tuple[Wish, ...]] = {
    "CA:TRUE": ((x509.BasicConstraints(ca=True, path_length=3), True),),
    "keyCertSign": ((key_usage(signs=True), True),),
    "registrar": ((x509.ExtendedKeyUsage([ID_KP_CMC_RA]), False),),
    "OCSP responder": ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False),),
    "any usage": ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False),),
    "code signing among harmless ones": (
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.CODE_SIGNING]), False),
    ),
    "the registrar's host name": ((x509.SubjectAlternativeName([x509.DNSName("localhost")]), False),),
    "an address": ((x509.SubjectAlternativeName([x509.RFC822Name("admin@plant.example")]), True),),
    "name constraints": ((x509.NameConstraints([x509.DNSName("plant.example")], None), True),),
    "inhibitAnyPolicy": ((x509.InhibitAnyPolicy(0), True),),
}


@pytest.mark.req("EI-05", "AT-24")
async def test_no_certificate_with_powers_or_other_names(scene: Scene) -> None:
    async with scene.vouched() as line:
        for name, extensions in POWERS.items():
            status, reason = await reply(line, csr_for(named(line.serial), extensions=extensions))
            assert (status, reason[:4]) == (403, "csr-"), name
        assert await count(scene, line.serial) == 0
        # What is left out without a word is not in the certificate either.
        quiet = [(x509.SubjectKeyIdentifier(b"chosen by the device"), False), (x509.PrecertPoison(), False)]
        certificate = certificate_in(await line.enroll(csr_for(named(line.serial), extensions=quiet)))
    assert not is_ca(certificate)
    assert {extension.oid._name for extension in certificate.extensions} == {
        "basicConstraints",
        "authorityKeyIdentifier",
        "subjectKeyIdentifier",
        "keyUsage",
        "extendedKeyUsage",
    }
    found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert found != b"chosen by the device"


@pytest.mark.req("AT-24", "EI-05")
async def test_no_certificate_with_another_devices_name(scene: Scene) -> None:
    other = await scene.device()
    async with scene.vouched() as line:
        own, foreign = line.serial, serial_of(other)
        names = {
            "another serial number": named(foreign),
            "both": x509.Name([*named(own), *named(foreign)]),
            "as common name": x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, foreign)]),
            "a host": x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registrar.plant.example")]),
            "in other letters": named(own.lower()),
            "with a blank": named(own + " "),
            "full width": named(own.replace("S", "\N{FULLWIDTH LATIN CAPITAL LETTER S}")),
        }
        for name, subject in names.items():
            status, reason = await reply(line, csr_for(subject))
            assert (status, reason) in {(403, "csr-serial-number-mismatch"), (403, "csr-subject-mismatch")}, name
        assert await count(scene, own) == await count(scene, foreign) == 0
        certificate = certificate_in(await line.enroll())
    assert [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)] == [own]


@pytest.mark.req("E-12", "AT-24")
async def test_no_certificate_for_a_key_one_does_not_have(scene: Scene) -> None:
    async with scene.vouched() as first, scene.vouched() as second:
        own = await first.csr()
        assert (await first.enroll(own)).status == 200
        assert await reply(second, own) == (403, "csr-serial-number-mismatch"), "a neighbour's request, replayed"
        tampered = own[:-3] + bytes((own[-3] ^ 1,)) + own[-2:]
        assert await reply(first, tampered) in {(400, "csr-signature-invalid"), (400, "csr-malformed")}
        assert await count(scene, second.serial) == 0
        assert await count(scene, first.serial) == 1


@pytest.mark.req("E-14", "AT-02")
async def test_a_replayed_request_brings_the_certificate_there_is(scene: Scene) -> None:
    async with scene.vouched() as line:
        body = await line.csr()
        first, second = await line.enroll(body), await line.enroll(body)
        assert certificate_in(first) == certificate_in(second)
        assert await count(scene, line.serial) == 1


# Renewal


@pytest.mark.req("E-16", "AT-24")
async def test_nobody_renews_with_or_for_another_device(scene: Scene) -> None:
    async with scene.vouched() as first:
        one = await first.enrolled()
        async with scene.plant.connect(one) as renewing:
            assert (await renewing.enroll_status(success=True)).status == 200
    async with scene.vouched() as second:
        other = await second.enrolled()
    before = await count(scene, serial_of(one))
    for credential in (other, None, scene.plant.domain.ldevid(serial_of(one))):
        async with scene.plant.connect(credential) as line:
            status, _ = await reply(line, csr_for(one.certificate.subject), "simplereenroll")
            assert status in {401, 403}
    async with scene.plant.connect(one) as line:
        for extensions in POWERS.values():
            status, reason = await reply(
                line, csr_for(one.certificate.subject, extensions=extensions), "simplereenroll"
            )
            assert (status, reason[:4]) == (403, "csr-")
        assert await reply(line, csr_for(other.certificate.subject), "simplereenroll") == (403, "csr-subject-changed")
    async with first.plant.connect(first.credential) as line:
        assert await reply(line, csr_for(one.certificate.subject), "simplereenroll") == (
            403,
            "client-certificate-unknown",
        )
        assert await reply(line, csr_for(one.certificate.subject)) == (403, "already-enrolled")
    assert await count(scene, serial_of(one)) == before


@pytest.mark.req("E-16", "AT-13")
async def test_a_revoked_or_expired_certificate_renews_nothing(scene: Scene) -> None:
    from brski_common.certificates import fingerprint

    async with scene.vouched() as line:
        member = await line.enrolled()
    await scene.plant.store.revoke(fingerprint(member.certificate).hex(), scene.clock())
    body = csr_for(member.certificate.subject)
    async with scene.plant.connect(member) as line:
        assert await reply(line, body, "simplereenroll") == (403, "certificate-revoked")
        assert (await line.enroll_status(success=True)).status == 403
    async with scene.vouched() as line:
        other = await line.enrolled()
    scene.clock.advance(400 * 86400)
    async with scene.plant.connect(other) as line:
        response = await reply(line, csr_for(other.certificate.subject), "simplereenroll")
        assert response == (403, "certificate-expired")


@pytest.mark.req("EI-10", "EI-11")
async def test_a_report_about_somebody_elses_certificate(scene: Scene) -> None:
    async with scene.vouched() as first:
        await first.enrolled()
        other = await scene.device()
        for success in (True, False):
            async with scene.plant.connect(other) as line:
                assert (await line.enroll_status(success=success)).status == 404
            # Over the IDevID a report of success is only written down (RFC 8995, 5.9.4).
            assert (await first.enroll_status(success=True)).status == 200
            assert (await scene.plant.device(first.serial)).state is State.ENROLLED


# At the same time


@pytest.mark.req("AT-25", "EI-15")
async def test_two_enrollments_at_once_leave_nothing_off_the_record(scene: Scene) -> None:
    async with scene.vouched() as line:
        assert line.credential is not None
        async with scene.plant.connect(line.credential) as second:
            bodies = [csr_for(named(line.serial), key_for(f"race {number}")) for number in range(6)]
            answers = await asyncio.gather(
                *(each.enroll(body) for each, body in zip([line, second] * 3, bodies, strict=True))
            )
        given = {certificate_in(answer) for answer in answers if answer.status == 200}
        assert given
        (device,) = await scene.plant.store.find(line.serial)
        recorded = {
            x509.load_der_x509_certificate(issued.der) for issued in await scene.plant.store.issued_to(device.id)
        }
        assert given == recorded, "every certificate that is out can be found, and revoked"


@pytest.mark.req("RM-15", "DS-09")
async def test_two_requests_of_one_device_at_once_do_not_mix_up_their_vouchers(scene: Scene) -> None:
    """A device tries two proxies at once, each with a nonce of its own (RFC 8995, 4.1); both lead here."""
    device = await scene.device()
    async with scene.plant.connect(device) as one, scene.plant.connect(device) as two:
        for _ in range(5):
            scene.plant.clock.advance(60)
            one.nonce, two.nonce = (f"nonce-{fresh()}-padding" for _ in range(2))
            bodies = one.pvr(), two.pvr()
            answers = await asyncio.gather(one.request_voucher(bodies[0]), two.request_voucher(bodies[1]))
            for line, body, answer in zip((one, two), bodies, answers, strict=True):
                if answer.status != 200:
                    continue  # the other request came between: this attempt is over, the device tries again
                assert f'"nonce":"{line.nonce}"'.encode() in answer.body
                again = await line.request_voucher(body)
                assert again.status != 200 or f'"nonce":"{line.nonce}"'.encode() in again.body
        assert 200 in {answer.status for answer in answers}
    await scene.still_works(device)
