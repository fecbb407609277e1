"""Honest services and those who attack them, all over real TLS on loopback.

`Scene.open(folder)` starts a MASA, a registrar and, when asked, pledges: the products, with real databases in a
folder, a clock that stands still and ephemeral ports. The attackers are here too:

    Scene.rogue_plant        a plant of our own software with another domain, which admits everything
    RogueRegistrar           a server that speaks as its story wants; keeps what it was asked
    MitmProxy                ends the pledge's TLS with its own certificate and goes on to the real registrar
    Switch                   a TCP proxy that sends each connection elsewhere
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from aiohttp import web

from brski_common import tls
from brski_common.artifact import Format
from brski_common.certificates import Credential, PrivateKey
from brski_common.database import Database
from brski_common.http import Server, serve
from brski_common.http_client import HttpClient, HttpResponse
from brski_common.http_connection import Limits
from brski_common.paths import Anchors
from brski_masa.audit import Link, verify_chain
from brski_masa.http import AnswerMode, Front
from brski_masa.keyring import Signers
from brski_masa.limiting import Allowance
from brski_masa.parties import DevicePolicy, IdentityKind
from brski_masa.policy import Terms
from brski_masa.service import AuditTerms, Masa, RevocationChecker
from brski_masa.store import Store as MasaStore
from brski_masa.vouchering import Trust
from brski_pledge import Outcome, Pledge, PledgeSettings, enrolling
from brski_pledge.events import Event
from brski_registrar.ca import CertificateAuthority, LocalAuthority
from brski_registrar.est_service import EstService
from brski_registrar.http import site
from brski_registrar.masa_client import HttpMasaClient
from brski_registrar.policy import Admission, Admit
from brski_registrar.policy_store import PolicyStore, PolicyView
from brski_registrar.service import RegistrarService
from brski_registrar.store import MIGRATIONS, Store
from tests.support import foreign_server
from tests.support.forgeries import honest_request, serial_of, slug
from tests.support.masa_fake import MasaFake
from tests.support.plant import BRSKI, CMS, Line, Plant, record_of
from tests.support.world import Clock, Domain, Manufacturer, fresh

OWNER = "Example Plant"

Answer = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@dataclass
class Factory:
    """A maker's running MASA, and the devices it makes."""

    maker: Manufacturer
    clock: Clock
    store: MasaStore
    service: Masa
    server: Server

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        folder: Path,
        clock: Clock,
        maker: Manufacturer | None = None,
        *,
        terms: Terms | None = None,
        audit: AuditTerms | None = None,
        allowance: Allowance | None = None,
        answer: AnswerMode = "direct",
        revocation: RevocationChecker | None = None,
        limits: Limits | None = None,
    ) -> AsyncIterator[Self]:
        """Start a MASA with a database of its own."""
        maker = maker or Manufacturer()
        store = MasaStore.open(f"sqlite:///{folder}/masa-{maker.name.replace(' ', '-')}.sqlite")
        signers = Signers(maker.voucher_signer, maker.voucher_signer, frozenset(Format))
        trust = Trust(idevid_anchors=maker.idevid_anchors, voucher_anchors=maker.voucher_anchors)
        service = Masa(store, signers, trust, terms or Terms(), clock=clock, audit_terms=audit, revocation=revocation)
        front = Front(service, allowance or Allowance(0, 1, lambda: 0.0), answer=answer)
        try:
            server = await serve(front.site(), "127.0.0.1", 0, tls.server_context(maker.tls), limits=limits)
            try:
                yield cls(maker, clock, store, service, server)
            finally:
                await server.close(0.1)
        finally:
            await store.close()

    @property
    def authority(self) -> str:
        """What stands in IDevIDs."""
        return f"{self.server.host}:{self.server.port}"

    async def device(
        self,
        serial: str | None = None,
        *,
        owner: str | None = OWNER,
        policy: DevicePolicy | None = None,
        issuer: Credential | None = None,
        key: PrivateKey | None = None,
        **idevid: object,
    ) -> Credential:
        """A device on record here; with `owner=None` nobody's."""
        arguments = {"masa_url": self.authority, "issuer": issuer, "key": key} | idevid
        device = self.maker.idevid(serial or fresh(), **arguments)  # type: ignore[arg-type] # names of idevid's
        await self.store.register(device.certificate, self.clock(), owner=owner, policy=policy)
        return device

    async def owned_by(self, domain: Domain, name: str = OWNER) -> None:
        """Know a customer by the root of its domain."""
        await self.store.put_owner(name, self.clock())
        await self.store.add_certificate(name, IdentityKind.ANCHOR, domain.root.certificate)

    async def log(self, serial: str) -> list[Link]:
        """What the log has about a serial number, oldest first."""
        return list(reversed(await self.store.list_entries(serial=serial)))

    async def ask(self, body: bytes, credential: Credential | None = None) -> tuple[int, str]:
        """Status and reason of a voucher request."""
        async with self.client(credential) as line:
            answer = await line.voucher(body)
        return answer.status, "" if answer.status == 200 else slug(answer)

    async def nothing_happened(self, device: Credential, registrar: Credential, entries: int = 0) -> None:
        """Assert that no entry was written, and that the owner still gets his voucher."""
        assert len(await self.log(serial_of(device))) == entries
        assert await self.ask(honest_request(device, registrar, "YW5vdGhlciBub25jZSBvZiBvdXJz")) == (200, "")
        assert len(await self.log(serial_of(device))) == entries + 1
        verify_chain(await self.store.chain())

    @asynccontextmanager
    async def client(self, credential: Credential | None) -> AsyncIterator["MasaLine"]:
        """A connection to this MASA, with that TLS client certificate."""
        context = tls.client_context(credential, judge=lambda _: None)
        async with HttpClient(context) as client:
            yield MasaLine(self, client)


@dataclass
class MasaLine:
    """Somebody's connection to a MASA."""

    factory: Factory
    client: HttpClient

    async def post(self, operation: str, body: bytes, media_type: str = CMS, **headers: str) -> HttpResponse:
        """POST to an operation below /.well-known/brski, or to a path."""
        path = operation if operation.startswith("/") else f"{BRSKI}/{operation}"
        fields = {"Content-Type": media_type} | headers
        return await self.client.request("POST", self.factory.server.url + path, body=body, headers=fields)

    async def get(self, path: str) -> HttpResponse:
        """GET."""
        return await self.client.request("GET", self.factory.server.url + path)

    async def voucher(self, body: bytes) -> HttpResponse:
        """Ask for a voucher."""
        return await self.post("requestvoucher", body)

    async def audit_log(self, body: bytes) -> HttpResponse:
        """Ask for a log."""
        return await self.post("requestauditlog", body)


@dataclass
class Scene:
    """A maker, a plant that bought its devices, and room for those who mean harm."""

    folder: Path
    clock: Clock
    factory: Factory
    plant: Plant
    stack: AsyncExitStack
    events: dict[str, list[Event]] = field(default_factory=dict)  # by serial number

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        folder: Path,
        *,
        terms: Terms | None = None,
        audit: AuditTerms | None = None,
        allowance: Allowance | None = None,
        answer: AnswerMode = "direct",
        revocation: RevocationChecker | None = None,
        limits: Limits | None = None,
    ) -> AsyncIterator[Self]:
        """Start MASA and registrar; the plant's root is on record as the owner's."""
        clock = Clock()
        async with AsyncExitStack() as stack:
            opened = Factory.open(
                folder,
                clock,
                terms=terms,
                audit=audit,
                allowance=allowance,
                answer=answer,
                revocation=revocation,
                limits=limits,
            )
            factory = await stack.enter_async_context(opened)
            domain = Domain()
            await factory.owned_by(domain)
            plant = await stack.enter_async_context(open_plant(folder, clock, domain, factory.maker, limits=limits))
            yield cls(folder, clock, factory, plant, stack)

    # Devices

    async def device(self, serial: str | None = None, **made: object) -> Credential:
        """A device that the plant bought and admits."""
        device = await self.factory.device(serial, **made)  # type: ignore[arg-type] # names of Factory.device's
        await self.admit(device)
        return device

    async def admit(self, device: Credential, plant: Plant | None = None) -> None:
        """Put a device on the allow-list."""
        plant = plant or self.plant
        entry = Admission(manufacturer=plant.maker.name, serial_number=serial_of(device))
        await plant.policies.allow(entry, self.clock())

    @asynccontextmanager
    async def vouched(self) -> AsyncIterator[Line]:
        """A device to which EST is open, its requests in the test's hand."""
        async with self.plant.connect(await self.device()) as line:
            assert (await line.request_voucher()).status == 200
            assert (await line.status(success=True)).status == 200
            yield line

    def pledge(
        self,
        device: Credential,
        *ports: int,
        clock: Callable[[], datetime] | None = None,
        anchors: Anchors | None = None,
        folder: str | None = None,
        make_key: Callable[[str], PrivateKey] = enrolling.make_key,
        **settings: object,
    ) -> Pledge:
        """The product with that IDevID; it tries the ports in turn, once, and writes into `events`."""
        offers = tuple(f"127.0.0.1:{port}" for port in ports or (self.plant.server.port,))
        chosen = {"mdns": False, "once": True, "attempt_spacing": 0.0, "registrars": offers} | settings
        told = self.events.setdefault(serial_of(device), [])
        return Pledge(
            PledgeSettings(**chosen),  # type: ignore[arg-type] # the caller names settings
            device,
            anchors or self.factory.maker.voucher_anchors,
            state=self.folder / (folder or f"pledge-{serial_of(device)}"),
            clock=clock,
            observer=told.append,
            make_key=make_key,
        )

    async def onboard(self, device: Credential, *ports: int, **how: object) -> Outcome:
        """Let a pledge try."""
        return await self.pledge(device, *ports, **how).onboard()  # type: ignore[arg-type] # names of pledge's

    def steps(self, device: Credential) -> list[str]:
        """What a pledge told of its onboarding."""
        return [event.step for event in self.events[serial_of(device)]]

    # Those who mean harm

    async def rogue_plant(self, domain: Domain | None = None) -> Plant:
        """Our own registrar in the wrong hands: another domain, every device of the maker welcome."""
        domain = domain or Domain(name="Rogue Plant")
        opened = open_plant(self.folder, self.clock, domain, self.factory.maker, admit=Admit.ALL)
        return await self.stack.enter_async_context(opened)

    async def rogue(self, answer: Answer, credential: Credential | None = None) -> "RogueRegistrar":
        """A server that answers as it likes, by default with a certificate of its own domain."""
        opened = RogueRegistrar.open(answer, credential or Domain(name="Rogue Plant").registrar)
        return await self.stack.enter_async_context(opened)

    async def switch(self, *ports: int) -> "Switch":
        """A proxy whose connections go to the ports in turn, the last one for all that follow."""
        return await self.stack.enter_async_context(Switch.open(ports))

    # Whether anything was damaged

    async def untouched(self, device: Credential) -> None:
        """Assert that a device got nothing: neither here, nor at its MASA, nor on its disk."""
        serial = serial_of(device)
        assert not [known for known in await self.plant.store.find(serial) if await self.certificates(known.id)]
        assert self.pledge(device).enrollment is None

    async def certificates(self, device_id: int) -> int:
        """How many certificates a device was issued."""
        return len(await self.plant.store.issued_to(device_id))

    async def still_works_through(self, port: int) -> None:
        """Assert that an honest onboarding goes through by way of a proxy."""
        outcome = await self.onboard(await self.device(), port)
        assert outcome.is_operational, f"{outcome.reason}: {outcome.detail}"

    async def still_works(self, device: Credential | None = None) -> None:
        """Assert that an honest onboarding goes through after whatever happened."""
        outcome = await self.onboard(device or await self.device())
        assert outcome.is_operational, f"{outcome.reason}: {outcome.detail}"


@asynccontextmanager
async def open_plant(
    folder: Path,
    clock: Clock,
    domain: Domain,
    maker: Manufacturer,
    *,
    limits: Limits | None = None,
    admit: Admit = Admit.LISTED,
    authority: CertificateAuthority | None = None,
) -> AsyncIterator[Plant]:
    """A registrar that reaches its MASAs over HTTPS on this machine."""
    url = f"sqlite:///{folder}/{domain.name.replace(' ', '-')}.sqlite"
    async with Database.open(url, migrations=MIGRATIONS) as database:
        store, policies = Store(database), PolicyStore(database)
        await policies.put_manufacturer(record_of(maker, masa_hosts=("127.0.0.1:*",), admit=admit), clock())
        masa = HttpMasaClient(domain.registrar, clock=clock)
        view = PolicyView(policies, refresh_seconds=0)
        service = RegistrarService(store, view, domain.registrar, masa, clock=clock)
        est = EstService(service, {"": authority or LocalAuthority(domain.issuing, clock=clock, key_kind="P-256")})
        context = tls.server_context(domain.registrar)
        server = await serve(site(service, est), "127.0.0.1", 0, context, limits=limits)
        try:
            yield Plant(clock, domain, maker, MasaFake(maker.voucher_signer), policies, service, est, server, store)
        finally:
            await server.close(0.1)
            await service.close()


class RogueRegistrar:
    """A TLS server on loopback whose every answer is the story's; `requests` has method, path and body."""

    def __init__(self, answer: Answer, credential: Credential) -> None:
        self.answer, self.credential = answer, credential
        self.requests: list[tuple[str, str, bytes]] = []
        self.server: foreign_server.ForeignServer

    @classmethod
    @asynccontextmanager
    async def open(cls, answer: Answer, credential: Credential) -> AsyncIterator[Self]:
        """Listen."""
        rogue, app = cls(answer, credential), web.Application()
        app.router.add_route("*", "/{path:.*}", rogue._handle)
        rogue.server = await foreign_server.serve(app, "127.0.0.1", 0, tls.server_context(credential))
        try:
            yield rogue
        finally:
            await rogue.server.close(0.1)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server.port)

    @property
    def paths(self) -> list[str]:
        """What it was asked for."""
        return [path for _, path, _ in self.requests]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.method, request.path, body))
        return await self.answer(request, body)


class MitmProxy:
    """Ends the pledge's TLS and repeats everything to the real registrar, with a client certificate it happens to have.

    Give its `relay` to `Scene.rogue`. `tamper` may change a body on its way up or down.
    """

    def __init__(
        self,
        url: str,
        client: HttpClient,
        *,
        tamper_up: Callable[[bytes], bytes] = bytes,
        tamper_down: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self._url, self._client, self._up, self._down = url, client, tamper_up, tamper_down
        self.answers: list[HttpResponse] = []

    async def relay(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """Pass one request on."""
        kept = {name: request.headers[name] for name in ("Content-Type", "Accept") if name in request.headers}
        answer = await self._client.request(request.method, self._url + request.path, body=self._up(body), headers=kept)
        self.answers.append(answer)
        return foreign_server.reply(answer.status, self._down(answer.body), answer.headers.get("Content-Type"))


class Switch:
    """A TCP proxy: the n-th connection goes to the n-th port, further ones to the last."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports, self.count = ports, 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    @classmethod
    @asynccontextmanager
    async def open(cls, ports: Sequence[int]) -> AsyncIterator[Self]:
        """Listen on loopback."""
        switch = cls(ports)
        switch._server = await asyncio.start_server(switch._accept, "127.0.0.1", 0)
        try:
            yield switch
        finally:
            switch._server.close()
            for task in tuple(switch._tasks):
                task.cancel()
            await asyncio.gather(*switch._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.sockets[0].getsockname()[1])

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self._ports[min(self.count, len(self._ports) - 1)]
        self.count += 1
        task = asyncio.ensure_future(self._join(reader, writer, port))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        upstream, upwriter = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(_pump(reader, upwriter), _pump(upstream, writer))
        finally:
            upwriter.close()
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(16 * 1024):
            writer.write(data)
            await writer.drain()
        writer.close()
