"""A plant with a running registrar: real TLS and HTTP on loopback, a real database, a MASA from `masa_fake`.

async with Plant.open(folder) as plant:
    device = await plant.admitted("SN-1")
    async with plant.connect(device) as line:
        voucher = await line.request_voucher()
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import AttributeOID, NameOID

from brski_common import artifact, csrattrs, csrplan, est, telemetry, tls
from brski_common.artifact import Format
from brski_common.certificates import Credential, PrivateKey, to_der, to_pem
from brski_common.csrattrs import CsrAttributes
from brski_common.database import Database
from brski_common.http import Server, serve
from brski_common.http_client import HttpClient, HttpResponse
from brski_common.http_connection import Limits
from brski_common.voucher import Assertion, VoucherRequest, new_nonce
from brski_registrar.ca import CertificateAuthority, LocalAuthority
from brski_registrar.delegates import Delegates
from brski_registrar.est_service import EstService
from brski_registrar.http import site
from brski_registrar.masa_client import MasaClient
from brski_registrar.policy import Admission, DomainPolicy
from brski_registrar.policy import Manufacturer as Record
from brski_registrar.policy_store import PolicyStore, PolicyView
from brski_registrar.records import Device
from brski_registrar.service import RegistrarService
from brski_registrar.store import MIGRATIONS, Store
from tests.support.masa_fake import MasaFake, MemoryMasa
from tests.support.world import Clock, Domain, Manufacturer, fresh, key_for

BRSKI = "/.well-known/brski"
EST = est.WELL_KNOWN
CMS = Format.CMS.media_type


def record_of(maker: Manufacturer, **changes: object) -> Record:
    """The operator's record of a maker, as strict as can be."""
    record = Record(
        name=maker.name,
        idevid_anchors=to_pem(maker.root.certificate).decode(),
        masa_tls_anchors=to_pem(maker.root.certificate).decode(),
        masa_hosts=("masa.example:9443",),
    )
    return replace(record, **changes)  # type: ignore[arg-type] # the caller names fields of the record


@dataclass
class Plant:
    """The registrar and what surrounds it."""

    clock: Clock
    domain: Domain
    maker: Manufacturer
    masa: MasaFake
    policies: PolicyStore
    service: RegistrarService
    est: EstService
    server: Server
    store: Store

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        folder: Path,
        *,
        url: str | None = None,
        kind: str = "P-256",
        masa: MasaClient | None = None,
        limits: Limits | None = None,
        masa_patience: float = 20.0,
        labels: tuple[str, ...] = (),
        authority: CertificateAuthority | None = None,
        credential: Credential | None = None,
        tls_credential: Credential | None = None,
        registrar_record: Mapping[str, object] | None = None,
        clock: Clock | None = None,
        ras: tuple[x509.Certificate, ...] = (),
    ) -> AsyncIterator["Plant"]:
        """Start a registrar that knows one maker, and none of its devices."""
        clock, domain, maker = clock or Clock(), Domain(kind=kind), Manufacturer(kind=kind)
        fake = MasaFake(maker.voucher_signer)
        async with Database.open(url or f"sqlite:///{folder}/registrar.sqlite", migrations=MIGRATIONS) as database:
            store, policies = Store(database), PolicyStore(database)
            await policies.put_manufacturer(record_of(maker, **(registrar_record or {})), clock())
            credential = credential or domain.registrar
            tls_credential = tls_credential or credential
            service = RegistrarService(
                store,
                PolicyView(policies, refresh_seconds=0),
                credential,
                masa or MemoryMasa(fake),
                clock=clock,
                tls_certificate=tls_credential.certificate,
                masa_patience=masa_patience,
            )
            authority = authority or LocalAuthority(domain.issuing, clock=clock, key_kind="P-256")
            est_service = EstService(service, dict.fromkeys(("", *labels), authority), Delegates(ras))
            context = tls.server_context(tls_credential)
            server = await serve(site(service, est_service), "127.0.0.1", 0, context, limits=limits)
            try:
                yield cls(clock, domain, maker, fake, policies, service, est_service, server, store)
            finally:
                await server.close()
                await service.close()

    async def admitted(self, serial: str | None = None, **idevid: object) -> Credential:
        """A device of the maker that is on the allow-list."""
        serial = serial or fresh()
        await self.policies.allow(Admission(manufacturer=self.maker.name, serial_number=serial), self.clock())
        return self.maker.idevid(serial, **idevid)  # type: ignore[arg-type] # the caller names arguments of idevid

    async def change_maker(self, **changes: object) -> None:
        """Change the maker's record."""
        await self.policies.put_manufacturer(record_of(self.maker, **changes), self.clock())

    async def change_domain(self, **changes: object) -> None:
        """Change what holds for every device."""
        record = replace(DomainPolicy(), **changes)  # type: ignore[arg-type] # the caller names fields of the record
        await self.policies.put_domain(record, self.clock())

    @asynccontextmanager
    async def connect(self, device: Credential | None) -> AsyncIterator["Line"]:
        """A device's connection, kept for the whole exchange."""
        context = tls.client_context(device, judge=lambda _: None)
        async with HttpClient(context) as client:
            yield Line(self, device, client)

    @asynccontextmanager
    async def vouched(self, serial: str | None = None) -> AsyncIterator["Line"]:
        """A device that has its voucher and said that it likes it: EST is open."""
        async with self.connect(await self.admitted(serial)) as line:
            assert (await line.request_voucher()).status == 200
            assert (await line.status(success=True)).status == 200
            yield line

    async def device(self, serial: str) -> Device:
        """The only device with that serial number."""
        (found,) = await self.store.find(serial)
        return found

    async def told(self, serial: str) -> list[tuple[str, str]]:
        """Event and reason of every line in the journal about a device."""
        return [(entry.event, entry.reason) for entry in await self.store.journal() if entry.serial_number == serial]


@dataclass
class Line:
    """A connection from a device, and the requests a pledge makes."""

    plant: Plant
    credential: Credential | None
    client: HttpClient
    nonce: str = field(default_factory=new_nonce)

    @property
    def serial(self) -> str:
        """The device's serial number."""
        assert self.credential is not None
        return str(self.credential.certificate.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)[0].value)

    def pvr(
        self, *, signer: Credential | None = None, artifact_format: Format = Format.CMS, **changes: object
    ) -> bytes:
        """A signed voucher request as a good pledge makes it, but for `changes`."""
        signer = signer or self.credential
        assert signer is not None
        request = VoucherRequest(
            serial_number=self.serial,
            created_on=self.plant.clock(),
            assertion=Assertion.PROXIMITY,
            nonce=self.nonce,
            proximity_registrar_cert=to_der(self.plant.domain.registrar.certificate),
        )
        request = replace(request, **changes)  # type: ignore[arg-type] # the caller names leaves
        return artifact.sign(request, artifact_format, signer)

    async def post(self, path: str, body: bytes, media_type: str | None = None, **headers: str) -> HttpResponse:
        """A POST with a media type."""
        fields = {} if media_type is None else {"Content-Type": media_type}
        return await self.client.request("POST", self.plant.server.url + path, body=body, headers=fields | headers)

    async def get(self, path: str) -> HttpResponse:
        """A GET."""
        return await self.client.request("GET", self.plant.server.url + path)

    async def request_voucher(self, body: bytes | None = None, media_type: str = CMS, **headers: str) -> HttpResponse:
        """Ask for a voucher, with a good request if no body is given."""
        body = self.pvr() if body is None else body
        return await self.post(f"{BRSKI}/requestvoucher", body, media_type, **{"Accept": media_type} | headers)

    async def status(self, *, success: bool, reason: str = "voucher-rejected") -> HttpResponse:
        """Report on the voucher."""
        report = telemetry.success() if success else telemetry.failure(reason)
        return await self.post(f"{BRSKI}/voucher_status", telemetry.write(report), "application/json")

    async def enroll_status(self, *, success: bool, reason: str = "no-certificate") -> HttpResponse:
        """Report on the certificate."""
        report = telemetry.success() if success else telemetry.failure(reason)
        return await self.post(f"{BRSKI}/enrollstatus", telemetry.write(report), "application/json")

    async def asked(self) -> CsrAttributes:
        """What the registrar wants in a certificate request."""
        response = await self.get(f"{EST}/csrattrs")
        assert response.status == 200, response.body
        return csrattrs.read(est.decode_body(response.body))

    async def csr(self, key: PrivateKey | None = None) -> bytes:
        """A certificate request just as asked for."""
        assert self.credential is not None
        plan = csrplan.fill(await self.asked(), self.credential.certificate.subject)
        csr = csrplan.compose(plan, key or key_for(f"{self.serial} ldevid"))
        return csr.public_bytes(serialization.Encoding.DER)

    async def enroll(self, csr: bytes | None = None, operation: str = "simpleenroll") -> HttpResponse:
        """Send a certificate request, a good one if none is given."""
        body = est.encode_body(await self.csr() if csr is None else csr)
        return await self.post(f"{EST}/{operation}", body, "application/pkcs10")

    async def enrolled(self) -> Credential:
        """The device's new credential."""
        response = await self.enroll()
        assert response.status == 200, response.body
        certificate = certificate_in(response.body)
        return Credential(key_for(f"{self.serial} ldevid"), (certificate, *self.plant.domain.issuing.chain))


def reason_of(response: HttpResponse) -> str:
    """The slug a refused device can log."""
    return response.body.decode().strip()


def csr_with(
    *names: str | tuple[x509.ObjectIdentifier, str],
    challenge: str | None = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    key: PrivateKey | None = None,
) -> bytes:
    """A certificate request with these attributes in its subject, a text being a serialNumber, and nothing asked for.

    `extensions` are those and whether each is critical.
    """
    pairs = [(NameOID.SERIAL_NUMBER, name) if isinstance(name, str) else name for name in names]
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if challenge is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    return builder.sign(key or key_for("csr"), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def certificate_in(body: bytes) -> x509.Certificate:
    """The one certificate of an answer."""
    (certificate,) = est.parse_certs_only(est.decode_body(body))
    return certificate
