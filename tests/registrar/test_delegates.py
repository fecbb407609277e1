"""Two registrars in a row: one with the devices and no CA, one with the CA that takes it for an RA (RFC 7030, 3.7)."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from brski_common.certificates import (
    ID_KP_CLIENT_AUTH,
    ID_KP_CMC_RA,
    ID_KP_SERVER_AUTH,
    Credential,
    extended_key_usages,
    serial_number,
)
from brski_common.errors import Misconfigured
from brski_common.paths import build_path
from brski_registrar.delegates import Delegates
from brski_registrar.lifecycle import Event, State
from brski_registrar.operating import approve
from brski_registrar.records import Change
from brski_registrar.upstream import UpstreamAuthority
from tests.support.plant import EST, Line, Plant, certificate_in, csr_with, reason_of
from tests.support.world import Clock, Domain, fresh, key_for

DOMAIN = Domain()
RA = DOMAIN.registrar
NO_RA = DOMAIN.registrar_with(usages=(ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH))
CENTRE = DOMAIN.registrar_with(key=key_for("central registrar"))
OTHER_RA = DOMAIN.registrar_with(key=key_for("another site"))


@asynccontextmanager
async def chained(folder: Path, *ras: Credential) -> AsyncIterator[tuple[Plant, Plant]]:
    """The plant that has the devices, and the one that has the CA."""
    clock = Clock()
    for name in ("site", "centre"):
        (folder / name).mkdir()
    named = tuple(each.certificate for each in ras)
    async with Plant.open(folder / "centre", clock=clock, ras=named, credential=CENTRE) as centre:
        authority = UpstreamAuthority(centre.server.url, DOMAIN.anchors, RA, clock=clock)
        try:
            async with Plant.open(folder / "site", clock=clock, authority=authority) as site:
                yield site, centre
        finally:
            await authority.close()


async def told(line: Line, csr: bytes) -> tuple[int, str]:
    response = await line.enroll(csr)
    return response.status, "" if response.status == 200 else reason_of(response)


@pytest.mark.req("E-24")
async def test_a_device_of_one_registrar_gets_the_certificate_of_anothers_ca(tmp_path: Path) -> None:
    async with chained(tmp_path, RA) as (site, centre):
        async with site.vouched() as line:
            # The link to the device's session with the site cannot match that of the site with the centre.
            connected = await line.client.connect(site.server.url)
            bound = base64.b64encode(connected.channel_binding or b"").decode()
            response = await line.enroll(csr_with(line.serial, challenge=bound))
            assert response.status == 200, response.body
            certificate, serial = certificate_in(response.body), line.serial
        assert serial_number(certificate) == serial
        assert extended_key_usages(certificate) == {ID_KP_CLIENT_AUTH}
        build_path(certificate, DOMAIN.issuing.chain, DOMAIN.anchors, site.clock())
        assert (await site.device(serial)).state is State.ENROLLED
        assert await centre.store.find(serial) == ()
        (entry,) = await centre.store.journal()
        assert (entry.event, entry.serial_number) == ("certificate-delegated", serial)
        assert f"{certificate.serial_number:x} for Example Plant Registrar" in entry.detail


@pytest.mark.req("E-24", "E-16")
async def test_and_renews_it_there(tmp_path: Path) -> None:
    async with chained(tmp_path, RA) as (site, centre):
        async with site.vouched() as line:
            ldevid = await line.enrolled()
        site.clock.advance(86400 * 200)
        async with site.connect(ldevid) as line:
            builder = x509.CertificateSigningRequestBuilder().subject_name(ldevid.certificate.subject)
            csr = builder.sign(key_for("renewed"), hashes.SHA256()).public_bytes(Encoding.DER)
            response = await line.enroll(csr, "simplereenroll")
            assert response.status == 200, response.body
        renewed = certificate_in(response.body)
        assert renewed.subject == ldevid.certificate.subject
        assert renewed.not_valid_after_utc > ldevid.certificate.not_valid_after_utc
        assert len(await centre.store.journal()) == 2


@pytest.mark.req("E-24")
async def test_nobody_is_an_ra_unless_the_operator_names_him(tmp_path: Path) -> None:
    async with chained(tmp_path, OTHER_RA) as (site, centre):
        async with site.vouched() as line:
            assert await told(line, csr_with(line.serial)) == (403, "upstream-refused")
        for credential in (RA, NO_RA, CENTRE, DOMAIN.ldevid(fresh()), Domain(name="Elsewhere").registrar):
            async with centre.connect(credential) as line:
                assert (await told(line, csr_with("SN-1")))[0] == 404
                assert (await line.get(f"{EST}/csrattrs")).status == 404
                linked = csr_with("SN-1", challenge="bm90IG1pbmU=")
                assert await told(line, linked) == (403, "csr-not-linked"), "and nothing is waived"
        assert await centre.store.journal() == ()


@pytest.mark.req("E-24")
async def test_for_a_named_ra_the_link_is_waived_and_nothing_else(tmp_path: Path) -> None:
    async with chained(tmp_path, RA) as (_, centre), centre.connect(RA) as line:
        assert await told(line, csr_with("SN-1", challenge="bm90IG1pbmU=")) == (200, "")
        good = csr_with("SN-1")
        assert await told(line, good[:-3] + bytes([good[-3] ^ 1]) + good[-2:]) == (400, "csr-signature-invalid")
        ca = x509.BasicConstraints(ca=True, path_length=None)
        assert await told(line, csr_with("SN-1", extensions=((ca, False),))) == (403, "csr-asks-ca")
        usage = x509.ExtendedKeyUsage([ID_KP_CMC_RA])
        assert await told(line, csr_with("SN-1", extensions=((usage, False),))) == (403, "csr-usage-not-asked")
        names = x509.SubjectAlternativeName([x509.DNSName("registrar.example")])
        assert await told(line, csr_with("SN-1", extensions=((names, False),))) == (403, "csr-names-not-asked")
        strong = csr_with("SN-1", key=key_for("strong", "P-384"))
        assert await told(line, strong) == (403, "csr-key-kind-mismatch")
        for times in (0, 2):
            assert await told(line, csr_with(*["SN-1"] * times)) == (403, "csr-serial-number-missing")
        for operation in ("simplereenroll", "serverkeygen"):
            assert (await line.enroll(csr_with("SN-1"), operation)).status in {403, 404}
        assert len(await centre.store.journal()) == 1


@pytest.mark.req("E-24")
async def test_a_device_that_the_centre_has_shut_out_gets_nothing_through_an_ra(tmp_path: Path) -> None:
    async with Plant.open(tmp_path, ras=(OTHER_RA.certificate,)) as centre:
        async with centre.vouched() as line:
            serial = line.serial
        change = Change(events=(Event.BLOCK,), notes=(), now=centre.clock())
        await centre.store.advance(await centre.device(serial), change)
        async with centre.connect(OTHER_RA) as line:
            assert await told(line, csr_with(serial)) == (406, "device-blocked")
            assert await told(line, csr_with(fresh())) == (200, "")


@pytest.mark.req("E-24", "AL-14")
async def test_nor_one_whose_audit_log_speaks_against_it_whatever_came_after(tmp_path: Path) -> None:
    async with Plant.open(tmp_path, ras=(OTHER_RA.certificate,)) as centre, centre.vouched() as line:
        serial = line.serial
        centre.masa.remember(serial, b"\x66" * 20)
        await centre.service.recheck(await centre.device(serial))

        async def through_the_ra() -> tuple[int, str]:
            async with centre.connect(OTHER_RA) as ra:
                return await told(ra, csr_with(serial))

        assert await through_the_ra() == (403, "device-denied")
        assert (await line.request_voucher(line.pvr(nonce="once more"))).status == 200
        assert await through_the_ra() == (403, "device-denied")
        change = Change(events=(Event.BLOCK, Event.UNBLOCK), notes=(), now=centre.clock())
        await centre.store.advance(await centre.device(serial), change)
        assert await through_the_ra() == (403, "device-denied")
        await approve(centre.store, centre.policies, await centre.device(serial), by="operator", now=centre.clock())
        assert await through_the_ra() == (200, "")


@pytest.mark.req("E-24")
async def test_an_ra_whose_certificate_ended_is_none(tmp_path: Path) -> None:
    clock = Clock()
    short = DOMAIN.registrar_with(not_after=clock.now + timedelta(days=1))
    async with Plant.open(tmp_path, clock=clock, ras=(short.certificate,)) as centre, centre.connect(short) as line:
        assert await told(line, csr_with("SN-1")) == (200, "")
        clock.advance(86401)
        assert await told(line, csr_with("SN-1")) == (403, "certificate-expired")


@pytest.mark.parametrize("unfit", [NO_RA, DOMAIN.issuing, DOMAIN.root, DOMAIN.ldevid("SN-1")])
@pytest.mark.req("E-24")
def test_only_certificates_of_ras_can_be_named(unfit: Credential) -> None:
    with pytest.raises(Misconfigured, match="ra-certificate-unfit"):
        Delegates([RA.certificate, unfit.certificate])
