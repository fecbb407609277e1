"""What the registrar's TLS and HTTP do, whoever comes: versions, SNI, persistence, channel bindings."""

import asyncio
import base64
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import AttributeOID, NameOID

from brski_common import csrplan, est, issuing, tls
from brski_common.certificates import Credential, subject_key_id
from brski_common.http_client import HttpClient
from brski_registrar.acp import Addressing
from brski_registrar.ca import LocalAuthority
from brski_registrar.lifecycle import State
from tests.support.plant import EST, Line, Plant, reason_of
from tests.support.waiting import until
from tests.support.world import Clock, Domain, fresh, key_for

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
@pytest.mark.req("TL-02", "E-03")
async def test_clients_of_tls_1_2_only_and_of_1_3_only(plant: Plant, version: ssl.TLSVersion) -> None:
    device = await plant.admitted()
    context = tls.client_context(device, judge=lambda _: None, minimum_version=version, maximum_version=version)
    async with HttpClient(context) as client:
        line = Line(plant, device, client)
        assert (await line.request_voucher()).status == 200
        assert (await line.status(success=True)).status == 200
        assert (await line.enroll()).status == 200


@pytest.mark.req("TL-02", "E-03", "OP-01")
async def test_what_openssls_own_python_client_sees(plant: Plant) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(plant.server.host, plant.server.port, ssl=context)
    tls_object: ssl.SSLObject = writer.get_extra_info("ssl_object")
    assert tls_object.version() == "TLSv1.3"
    writer.write(b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("NULL-SHA256:aNULL:eNULL:@SECLEVEL=0")
    old.maximum_version = TLS_1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(plant.server.host, plant.server.port, ssl=old)


@pytest.mark.parametrize("name", ["localhost", "masa.example", "x" * 60 + ".example"])
@pytest.mark.req("TL-16")
async def test_any_sni_changes_nothing(plant: Plant, name: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connect = asyncio.open_connection(plant.server.host, plant.server.port, ssl=context, server_hostname=name)
    _, writer = await connect
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert shown == plant.domain.registrar.certificate.public_bytes(serialization.Encoding.DER)
    writer.close()


@pytest.mark.req("TL-17", "TL-14", "MT-08", "AT-18")
def test_registrar_certificates_have_a_key_identifier_and_the_usages() -> None:
    from brski_common.certificates import (
        ID_KP_CLIENT_AUTH,
        ID_KP_CMC_RA,
        ID_KP_SERVER_AUTH,
        extended_key_usages,
    )
    from brski_registrar.founding import registrar_certificate

    domain = Domain()
    names = [x509.DNSName("registrar.example")]
    key = key_for("some registrar").public_key()
    certificate = registrar_certificate(domain.issuing, key, issuing.name("Plant"), names, Clock().now)
    assert subject_key_id(certificate) == x509.SubjectKeyIdentifier.from_public_key(key).digest
    assert extended_key_usages(certificate) == {ID_KP_CMC_RA, ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH}


@pytest.mark.req("TL-10", "TL-11")
async def test_a_device_may_come_back_on_another_connection_with_the_same_certificate(plant: Plant) -> None:
    device = await plant.admitted()
    for step in ("voucher", "status", "enroll"):
        async with plant.connect(device) as line:
            if step == "voucher":
                assert (await line.request_voucher()).status == 200
            elif step == "status":
                assert (await line.status(success=True)).status == 200
            else:
                assert (await line.enroll()).status == 200


@pytest.mark.req("VR-12")
async def test_the_connection_is_closed_after_401(plant: Plant) -> None:
    device = await plant.admitted()
    context = tls.client_context(device, judge=lambda _: None)
    async with HttpClient(context) as client:
        line = Line(plant, device, client)
        assert (await line.request_voucher(line.pvr(proximity_registrar_cert=b"x"))).status == 401
        assert not client._idle, "it could not be kept"
        await until(lambda: not plant.server._connections)


# Linking a certificate request to its connection


def linked(line: Line, password: bytes) -> bytes:
    key = key_for("linked")
    names = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, line.serial)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(names)
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, password)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
@pytest.mark.req("E-17", "D-9")
async def test_a_challenge_password_is_verified_whenever_there_is_one(plant: Plant, version: ssl.TLSVersion) -> None:
    bindings: list[bytes] = []
    device = await plant.admitted()
    side = tls.client_side(device, judge=lambda _: None, minimum_version=version, maximum_version=version)
    make = side.connection

    def remember(**arguments: Any) -> tls.TlsObject:  # noqa: ANN401 -- passed on as they are
        connection = make(**arguments)
        objects.append(connection)
        return connection

    objects: list[tls.TlsObject] = []
    side.connection = remember  # type: ignore[method-assign] # to get at the connection
    async with HttpClient(side) as client:
        line = Line(plant, device, client)
        await line.request_voucher()
        await line.status(success=True)
        kind = "tls-unique" if version is TLS_1_2 else "tls-exporter"
        binding = objects[0].get_channel_binding(kind)
        assert binding
        bindings.append(binding)
        for wrong in (b"", b"guess", base64.b64encode(b"x" * len(binding))):
            response = await line.enroll(linked(line, wrong))
            assert (response.status, reason_of(response)) == (403, "csr-not-linked")
        assert (await line.enroll(linked(line, base64.b64encode(binding)))).status == 200


# What a plant may ask of certificate requests


@pytest.mark.req("EI-04", "EI-05", "E-19", "E-22")
async def test_acp_node_names_are_asked_for_and_insisted_on(tmp_path: Path) -> None:
    addressing = Addressing(domain="acp.example.com", registrar_id=0x0200_0000_0001)
    authority = LocalAuthority(Domain().issuing, clock=Clock(), key_kind="P-256", addressing=addressing)
    async with Plant.open(tmp_path, authority=authority) as plant, plant.vouched() as line:
        bare = csrplan.compose(csrplan.Plan(subject=x509.Name([])), key_for("acp"))
        response = await line.enroll(bare.public_bytes(serialization.Encoding.DER))
        assert (response.status, reason_of(response)) == (403, "csr-extension-missing")
        asked = await line.asked()
        other = csrplan.fill(asked, x509.Name([]))
        (wish,) = other.extensions
        assert wish.value is not None
        changed = replace(wish, value=wish.value.replace(b"acp.example.com", b"evl.example.com"))
        forged = csrplan.compose(replace(other, extensions=(changed,)), key_for("acp"))
        response = await line.enroll(forged.public_bytes(serialization.Encoding.DER))
        assert (response.status, reason_of(response)) == (403, "csr-extension-mismatch")
        response = await line.enroll()
        (certificate,) = est.parse_certs_only(est.decode_body(response.body))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert b"@acp.example.com" in names.get_values_for_type(x509.OtherName)[0].value


# The operator, later


@pytest.mark.req("AL-02", "AL-14")
async def test_a_log_that_turns_bad_later_shuts_the_device_out(plant: Plant) -> None:
    async with plant.vouched() as line:
        ldevid = await line.enrolled()
        device = await plant.service.recheck(await plant.device(line.serial))
        assert device.state is State.ENROLLED
        plant.masa.remember(line.serial, b"\x66" * 20)
        device = await plant.service.recheck(device)
        assert (device.state, device.reason.partition(":")[0]) == (State.DENIED, "audit-log-unexpected-domain")
        assert (await line.get(f"{EST}/cacerts")).status == 403
    async with plant.connect(ldevid) as new:
        names = x509.CertificateSigningRequestBuilder().subject_name(ldevid.certificate.subject)
        csr = names.sign(ldevid.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        assert (await new.enroll(csr, "simplereenroll")).status == 403


@pytest.mark.req("BIS-09", "RM-14")
async def test_a_waiting_voucher_is_renewed_by_showing_it(plant: Plant) -> None:
    from brski_common import artifact
    from brski_common.artifact import Format

    device = await plant.admitted(serial := fresh())
    await plant.service.prefetch(plant.maker.name, serial, certificate=device.certificate)
    first = await plant.policies.admission(plant.maker.name, serial)
    await plant.service.prefetch(plant.maker.name, serial, certificate=device.certificate, renew=True)
    second = await plant.policies.admission(plant.maker.name, serial)
    assert first is not None
    assert second is not None
    rvr = artifact.parse_voucher_request(plant.masa.requests[-1][0], Format.CMS).claimed
    assert rvr.prior_signed_voucher_request == first.voucher
    assert second.voucher != first.voucher


async def test_a_prefetched_voucher_of_another_format_stays_where_it_is(plant: Plant) -> None:
    from brski_common.artifact import Format

    device = await plant.admitted(serial := fresh())
    await plant.service.prefetch(plant.maker.name, serial, certificate=device.certificate)
    async with plant.connect(device) as line:
        body = line.pvr(artifact_format=Format.JWS)
        response = await line.request_voucher(body, Format.JWS.media_type)
        assert (response.status, reason_of(response)) == (403, "prefetched-voucher-unusable")


# Serial numbers that several lines share


@pytest.mark.req("AT-19")
async def test_equal_serial_numbers_of_two_lines_are_two_devices(plant: Plant) -> None:
    other_ca = Credential(
        key_for("second line"),
        (
            issuing.subordinate_ca(
                plant.maker.root,
                key_for("second line").public_key(),
                issuing.name("Second Line CA"),
                now=plant.clock() - (plant.clock() - plant.clock().replace(year=2020)),
                lifetime=plant.clock() - plant.clock().replace(year=2000),
            ),
            *plant.maker.root.chain,
        ),
    )
    first = await plant.admitted(serial := fresh())
    second = plant.maker.idevid(serial, issuer=other_ca, key=key_for("second device"))
    for device in (first, second):
        async with plant.connect(device) as line:
            assert (await line.request_voucher()).status == 200
    assert len(await plant.store.find(serial)) == 2
