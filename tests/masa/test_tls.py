"""The service as it runs: real TLS on loopback, and what others make of its vouchers."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from brski_common import artifact, auditlog, cms, keys, tls
from brski_common.artifact import Format
from brski_common.certificates import Credential, Peer, load_pem
from brski_common.errors import PeerFailed
from brski_common.http import Server
from brski_common.http_client import HttpClient, HttpResponse
from brski_common.paths import Anchors, build_path
from brski_masa import factory, founding, serving
from brski_masa.parties import IdentityKind
from brski_masa.service import CONTENT_TYPES
from brski_masa.settings import Settings
from brski_masa.store import Store
from tests.masa.plant import nonceless, rvr
from tests.support.world import Domain

TODAY = datetime.now(UTC)
PLANT = Domain("Plant on TLS", now=TODAY)
CMS = Format.CMS.media_type


class Site:
    """A MASA founded by `init`, running on loopback, and a device of its own."""

    def __init__(self, folder: Path, settings: Settings, store: Store, server: Server) -> None:
        self.folder, self.settings, self.store, self.server = folder, settings, store, server
        self.anchors = {
            name: Anchors(keys.read_certificates(folder / "anchors" / f"{name}.pem"))
            for name in ("voucher", "tls", "manufacturer")
        }

    def device(self, serial: str, kind: keys.Kind = "P-256") -> Credential:
        maker = self.settings.maker
        assert maker.idevid_ca_key is not None
        assert maker.idevid_ca_chain is not None
        issuer = keys.load_credential(maker.idevid_ca_key, maker.idevid_ca_chain)
        key = keys.generate(kind)
        wishes = factory.Wishes(serial_number=serial, masa_url=maker.masa_url)
        return Credential(key, factory.chain_of(issuer, factory.issue(issuer, key.public_key(), wishes, TODAY)))

    async def sold(self, serial: str, kind: keys.Kind = "P-256") -> Credential:
        device = self.device(serial, kind)
        await self.store.register(device.certificate, TODAY, owner=PLANT.name)
        return device

    async def post(
        self, operation: str, body: bytes, credential: Credential | None, version: ssl.TLSVersion | None = None
    ) -> HttpResponse:
        def judge(peer: Peer) -> None:
            build_path(peer.certificate, peer.chain, self.anchors["tls"], TODAY)

        context = tls.client_context(
            credential,
            judge=judge,
            minimum_version=version or ssl.TLSVersion.TLSv1_2,
            maximum_version=version or ssl.TLSVersion.TLSv1_3,
        )
        async with HttpClient(context) as client:
            url = f"{self.server.url}/.well-known/brski/{operation}"
            return await client.request("POST", url, body=body, headers={"Content-Type": CMS})


@asynccontextmanager
async def open_site(folder: Path, kind: keys.Kind = "P-256") -> AsyncIterator[Site]:
    plan = founding.Plan(
        folder=folder, name="TLS Maker", host="127.0.0.1", port=0, masa_url="127.0.0.1:9443", kind=kind
    )
    founding.found(plan, TODAY)
    settings = serving.load_settings(folder / founding.SETTINGS_FILE)
    store = Store.open(settings.database)
    server = await serving.start(settings, store)
    try:
        await store.put_owner(PLANT.name, TODAY)
        await store.add_certificate(PLANT.name, IdentityKind.ANCHOR, PLANT.root.certificate)
        yield Site(folder, settings, store, server)
    finally:
        await server.close(0.1)
        await store.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path / "maker") as made:
        yield made


@pytest.mark.req("TL-03", "MA-23", "MT-06")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_voucher_and_log_over_each_version_of_tls(site: Site, version: ssl.TLSVersion) -> None:
    device = await site.sold("TLS-1")
    request = rvr(device, PLANT, created_on=TODAY)
    answer = await site.post("requestvoucher", request, PLANT.registrar, version)
    assert answer.status == 200, answer.body
    voucher = artifact.parse_voucher(answer.body, Format.CMS).verify(site.anchors["voucher"], TODAY).value
    assert voucher.serial_number == "TLS-1"
    log = await site.post("requestauditlog", request, PLANT.registrar, version)
    assert [event.nonce for event in auditlog.read(log.body).events] == [voucher.nonce]


@pytest.mark.req("MT-04", "MA-11")
async def test_registrar_without_a_tls_certificate_is_known_by_its_request(site: Site) -> None:
    device = await site.sold("TLS-2")
    answer = await site.post("requestvoucher", rvr(device, PLANT, created_on=TODAY), None)
    assert answer.status == 200


@pytest.mark.req("MT-04", "MA-10", "MT-06")
async def test_tls_client_certificate_on_record_authenticates_its_owner(site: Site) -> None:
    buyer, integrator = Domain("Buyer", now=TODAY), Domain("Integrator", now=TODAY)
    await site.store.put_owner("Buyer", TODAY)
    await site.store.add_certificate("Buyer", IdentityKind.TLS_CLIENT, buyer.registrar.certificate)
    device = site.device("TLS-3")
    await site.store.register(device.certificate, TODAY, owner="Buyer")
    request = nonceless(device, integrator, created_on=TODAY)
    assert (await site.post("requestvoucher", request, buyer.registrar)).status == 200
    assert (await site.post("requestvoucher", request, integrator.registrar)).status == 403
    assert (await site.post("requestvoucher", request, None)).status == 403


@pytest.mark.req("MT-04")
async def test_device_certificate_of_the_owners_ca_is_not_the_owner(site: Site) -> None:
    buyer, thief = Domain("Buyer", now=TODAY), Domain("Thief", now=TODAY)
    await site.store.put_owner("Buyer", TODAY)
    await site.store.add_certificate("Buyer", IdentityKind.TLS_CLIENT, buyer.root.certificate)
    device = site.device("TLS-4")
    await site.store.register(device.certificate, TODAY, owner="Buyer")
    request = nonceless(device, thief, created_on=TODAY)
    assert (await site.post("requestvoucher", request, buyer.registrar)).status == 200
    assert (await site.post("requestvoucher", request, buyer.ldevid("stolen"))).status == 403


@pytest.mark.req("AR-07")
@pytest.mark.parametrize("kind", ["P-384", "RSA-2048", "Ed25519"])
async def test_devices_and_masa_with_other_kinds_of_keys(tmp_path: Path, kind: keys.Kind) -> None:
    async with open_site(tmp_path / "maker", kind) as site:
        device = await site.sold("TLS-5", kind)
        answer = await site.post("requestvoucher", rvr(device, PLANT, created_on=TODAY), PLANT.registrar)
        assert answer.status == 200, answer.body
        artifact.parse_voucher(answer.body, Format.CMS).verify(site.anchors["voucher"], TODAY)


@pytest.mark.req("V-CMS-01", "V-CMS-02", "VA-05", "D-2")
@pytest.mark.parametrize("content_type", ["voucher", "data"])
async def test_openssl_verifies_what_the_masa_signs(site: Site, content_type: str, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the Debian package openssl")
    device = await site.sold("TLS-6")
    await site.store.change_device(1, content_type=CONTENT_TYPES[content_type])
    answer = await site.post("requestvoucher", rvr(device, PLANT, created_on=TODAY), PLANT.registrar)
    signed = cms.parse(answer.body, strict=True)
    assert signed.content_type == CONTENT_TYPES[content_type]
    (tmp_path / "voucher.vcj").write_bytes(answer.body)
    command = ["openssl", "cms", "-verify", "-inform", "DER", "-in", str(tmp_path / "voucher.vcj"), "-binary"]
    command += ["-CAfile", str(site.folder / "anchors" / "voucher.pem"), "-purpose", "any"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b'"serial-number":"TLS-6"' in done.stdout
    wrong = [*command[:-4], "-CAfile", str(site.folder / "anchors" / "manufacturer.pem"), "-purpose", "any"]
    refused = await asyncio.to_thread(subprocess.run, wrong, capture_output=True, check=False)
    assert refused.returncode != 0


@pytest.mark.req("MA-25", "AT-17")
async def test_nonceless_vouchers_are_signed_by_a_key_of_their_own(site: Site) -> None:
    device = await site.sold("TLS-7")
    signers = set()
    for request in (rvr(device, PLANT, created_on=TODAY), nonceless(device, PLANT, created_on=TODAY)):
        answer = await site.post("requestvoucher", request, PLANT.registrar)
        verified = artifact.parse_voucher(answer.body, Format.CMS).verify(site.anchors["voucher"], TODAY)
        signers.add(verified.signer)
        assert verified.path[-1] in load_pem((site.folder / "anchors" / "voucher.pem").read_bytes())
    assert len(signers) == 2


@pytest.mark.req("D-14", "PV-02")
async def test_devices_cannot_sign_vouchers(site: Site) -> None:
    from brski_common.errors import Untrusted
    from brski_common.voucher import Voucher

    device = await site.sold("TLS-8")
    forged = artifact.sign(Voucher(serial_number="TLS-9", created_on=TODAY), Format.CMS, device)
    with pytest.raises(Untrusted):
        artifact.parse_voucher(forged, Format.CMS).verify(site.anchors["voucher"], TODAY)


async def test_plain_http_and_old_tls_are_turned_away(site: Site) -> None:
    with pytest.raises((PeerFailed, OSError, ssl.SSLError)):
        async with HttpClient(None) as client:
            await client.request("GET", site.server.url.replace("https", "http"))
