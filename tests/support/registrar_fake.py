"""A registrar in memory, with a MASA and a domain CA in its pocket, and the stage on which a pledge's machine meets it.

`FakeRegistrar.answer` is the whole registrar: a request in, an answer out. Every step can be replaced
by a script. `Stage` runs `Bootstrap` against any number of them with a clock that jumps from one
appointment to the next; nothing sleeps. `serve` puts the same registrar on a real socket.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from brski_common import artifact, csrattrs, est, issuing, telemetry, tls
from brski_common.artifact import Format
from brski_common.certificates import ID_KP_CLIENT_AUTH, Credential, Peer, PrivateKey, to_der
from brski_common.csrwishes import Wishes
from brski_common.errors import BrskiError
from brski_common.paths import Anchors
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from brski_pledge import actions, enrolling, vouchering
from brski_pledge.actions import Action, Moment
from brski_pledge.bootstrap import Bootstrap
from brski_pledge.discovery import Offer
from brski_pledge.events import Event
from brski_pledge.line import Surroundings
from brski_pledge.phases import Phase
from brski_pledge.settings import PledgeSettings
from brski_pledge.state import Enrollment
from tests.support import foreign_server
from tests.support.world import NOW, Domain, Manufacturer, key_for

BRSKI = "/.well-known/brski/"
EST = "/.well-known/est/"


@dataclass(frozen=True)
class Answer:
    """What the registrar says. `close` ends the connection after it."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False


@dataclass(frozen=True)
class Silence:
    """No answer at all."""


@dataclass(frozen=True)
class HangUp:
    """The connection ends instead of an answer."""

    reason: str = "peer-disconnected"


Reply = Answer | Silence | HangUp
Script = Callable[["FakeRegistrar", actions.Send], Reply]


@dataclass
class FakeRegistrar:
    """A registrar, its MASA and its CA. Change what a story needs before or while it runs."""

    maker: Manufacturer = field(default_factory=Manufacturer)
    domain: Domain = field(default_factory=Domain)
    credential: Credential | None = None  # of its TLS server
    change_voucher: Callable[[Voucher], Voucher] = lambda voucher: voucher
    voucher_signer: Credential | None = None
    voucher_bytes: Callable[[bytes], bytes] = lambda data: data
    wishes: Wishes | None = None
    scripts: dict[str, list[Reply | Script]] = field(default_factory=dict)
    always: dict[str, Reply | Script] = field(default_factory=dict)
    reachable: bool = True
    seen: list[actions.Send] = field(default_factory=list)
    clients: list[Credential] = field(default_factory=list)  # one for each connection
    issue: Callable[[x509.Certificate], x509.Certificate] = lambda certificate: certificate

    @property
    def peer(self) -> Peer:
        """How it shows itself in TLS."""
        chain = (self.credential or self.domain.registrar).chain
        return Peer(chain[0], chain)

    def script(self, operation: str, *replies: Reply | Script) -> None:
        """The next answers to `operation`; afterwards it behaves again."""
        self.scripts.setdefault(operation, []).extend(replies)

    def answer(self, send: actions.Send) -> Reply:
        """The whole registrar."""
        self.seen.append(send)
        operation = send.path.rpartition("/")[2]
        planned = self.scripts.get(operation)
        chosen = planned.pop(0) if planned else self.always.get(operation)
        if chosen is None:
            return self.behave(operation, send)
        return chosen(self, send) if callable(chosen) else chosen

    def behave(self, operation: str, send: actions.Send) -> Reply:
        """What a registrar does."""
        handlers: dict[str, Callable[[actions.Send], Answer]] = {
            "requestvoucher": self._voucher,
            "voucher_status": lambda _: Answer(),
            "enrollstatus": lambda _: Answer(),
            "cacerts": lambda _: _certs_only([self.domain.root.certificate, self.domain.issuing.certificate]),
            "csrattrs": self._attributes,
            "simpleenroll": self._enroll,
            "simplereenroll": self._enroll,
        }
        handler = handlers.get(operation)
        return handler(send) if handler else Answer(404)

    def asked(self, operation: str) -> list[actions.Send]:
        """The requests for one operation."""
        return [send for send in self.seen if send.path.rpartition("/")[2] == operation]

    def reports(self, operation: str) -> list[telemetry.Telemetry]:
        """The telemetry of one kind."""
        return [telemetry.read(send.body) for send in self.asked(operation)]

    def requests(self) -> list[VoucherRequest]:
        """The voucher requests as claimed."""
        return [artifact.parse_voucher_request(s.body, Format.CMS).claimed for s in self.asked("requestvoucher")]

    def voucher_for(self, request: VoucherRequest) -> Voucher:
        """The voucher that an honest MASA gives."""
        return Voucher(
            assertion=Assertion.PROXIMITY,
            created_on=NOW,
            serial_number=request.serial_number,
            nonce=request.nonce,
            pinned_domain_cert=to_der(self.domain.root.certificate),
            domain_cert_revocation_checks=False,
        )

    def _voucher(self, send: actions.Send) -> Answer:
        request = artifact.parse_voucher_request(send.body, Format.CMS).claimed
        voucher = self.change_voucher(self.voucher_for(request))
        signed = artifact.sign(voucher, Format.CMS, self.voucher_signer or self.maker.voucher_signer)
        return Answer(200, self.voucher_bytes(signed), {"Content-Type": Format.CMS.media_type})

    def _attributes(self, _send: actions.Send) -> Answer:
        if self.wishes is None:
            return Answer(204)
        body = est.encode_body(csrattrs.write(csrattrs.ask(self.wishes)))
        return Answer(200, body, {"Content-Type": est.CSRATTRS})

    def _enroll(self, send: actions.Send) -> Answer:
        request = est.read_csr(est.decode_body(send.body))
        key = request.public_key()
        certificate = issuing.end_entity(
            self.domain.issuing,
            key,  # type: ignore[arg-type] # `read_csr` lets only such keys through
            request.subject,
            not_before=NOW - timedelta(minutes=1),
            not_after=NOW + timedelta(days=365),
            extended_key_usage=(ID_KP_CLIENT_AUTH,),
            extensions=[(each.value, each.critical) for each in request.extensions],
        )
        return _certs_only([self.issue(certificate)])


def _certs_only(certificates: Sequence[x509.Certificate]) -> Answer:
    return Answer(200, est.encode_body(est.certs_only(certificates)), {"Content-Type": est.CERTS_ONLY})


@dataclass
class Stage:
    """A pledge's machine among registrars, under a clock that jumps."""

    settings: PledgeSettings = field(default_factory=lambda: PledgeSettings(mdns=False))
    maker: Manufacturer = field(default_factory=Manufacturer)
    serial: str = "SN-1"
    trusted_clock: bool = True
    registrars: dict[tuple[str, int], FakeRegistrar] = field(default_factory=dict)
    idevid: Credential | None = None
    anchors: Anchors | None = None
    cloud_anchors: Anchors = field(default_factory=Anchors)
    renewing: Enrollment | None = None
    rekey: bool = True
    only_confirm: bool = False
    fingerprint: bytes | None = None
    observed: bool = True
    save: Callable[[Enrollment], actions.Input | None] = lambda _: None
    lists: dict[str, bytes] = field(default_factory=dict)
    fetches: bool = True
    seconds: float = 0.0
    history: list[tuple[float, Action]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open: dict[int, FakeRegistrar] = {}
        self._made = 0
        self.idevid = self.idevid or self.maker.idevid(self.serial)

    def add(self, host: str = "192.0.2.1", port: int = 8443, **kwargs: Any) -> FakeRegistrar:  # noqa: ANN401 -- as FakeRegistrar takes them
        """Put a registrar behind an address; it has to be offered as well."""
        registrar = FakeRegistrar(maker=self.maker, **kwargs)
        self.registrars[host, port] = registrar
        return registrar

    @property
    def device(self) -> vouchering.Device:
        """The device on this stage."""
        policy = vouchering.VoucherPolicy(
            assertions=self.settings.accepted_assertions,
            nonceless=self.settings.nonceless_vouchers,
            signer_oid=x509.ObjectIdentifier(self.settings.voucher_signer_oid)
            if self.settings.voucher_signer_oid
            else None,
        )
        assert self.idevid is not None
        return vouchering.Device(self.idevid, self.anchors or self.maker.voucher_anchors, policy)

    def machine(self) -> Bootstrap:
        """The machine, made when first asked for."""
        if not hasattr(self, "_machine"):
            around = Surroundings(
                self.device,
                self.settings,
                self._random,
                self.cloud_anchors,
                renewing=self.renewing,
                rekey=self.rekey,
                only_confirm=self.only_confirm,
                fingerprint=self.fingerprint,
                observed=self.observed,
            )
            self._machine = Bootstrap(around, self.now)
        return self._machine

    @property
    def now(self) -> Moment:
        """The present."""
        return Moment(self.seconds, NOW + timedelta(seconds=self.seconds) if self.trusted_clock else None)

    def find(self, host: str = "192.0.2.1", port: int = 8443, source: Any = None) -> None:  # noqa: ANN401 -- a Source or none
        """Let the pledge discover an offer."""
        self.tell(actions.Found(Offer(host, port) if source is None else Offer(host, port, source)))

    def tell(self, told: actions.Input) -> None:
        """Feed the machine."""
        self.machine().feed(told, self.now)
        self._note_phases()

    def run(self, seconds: float = 600.0) -> Action:
        """Run until it ends, nothing is left to wait for, or `seconds` have gone by; returns the last action."""
        end, machine = self.seconds + seconds, self.machine()
        for action in self._actions(machine):
            self._note_phases()
            if isinstance(action, actions.Done | actions.Failed):
                return action
            if isinstance(action, actions.Wait):
                if action.until is None or action.until > end:
                    self.seconds = end if action.until is not None else self.seconds
                    return action
                self.seconds = action.until
            for told in self.carry_out(action):
                self.tell(told)
        raise AssertionError("the machine never rests")

    def carry_out(self, action: Action) -> Iterator[actions.Input]:
        """What the world answers to an action."""
        match action:
            case actions.Notify(event):
                self.events.append(event)
            case actions.Connect():
                yield from self._connect(action)
            case actions.Send() if action.attempt in self._open:
                yield from self._reply(action)
            case actions.CloseConnection(attempt):
                self._open.pop(attempt, None)
            case actions.MakeKey(attempt, kind):
                yield actions.KeyMade(attempt, self._key(kind))
            case actions.Persist(attempt, enrollment):
                yield self.save(enrollment) or actions.Saved(attempt)
            case actions.FetchRevocationLists(attempt, urls) if self.fetches:
                yield actions.RevocationLists(attempt, {url: self.lists[url] for url in urls if url in self.lists})

    def did(self, kind: type[Any]) -> list[Any]:
        """The actions of one kind so far."""
        return [action for _, action in self.history if isinstance(action, kind)]

    def times(self, kind: type[Any]) -> list[float]:
        """When actions of one kind came."""
        return [seconds for seconds, action in self.history if isinstance(action, kind)]

    def steps(self) -> list[str]:
        """The steps the observer was told."""
        return [event.step for event in self.events]

    def told(self, kind: type[Any]) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def _actions(self, machine: Bootstrap, limit: int = 20_000) -> Iterator[Action]:
        for _ in range(limit):
            action = machine.next(self.now)
            self.history.append((self.seconds, action))
            yield action

    def _connect(self, action: actions.Connect) -> Iterator[actions.Input]:
        registrar = self.registrars.get((action.host, action.port))
        if registrar is None or not registrar.reachable:
            if registrar is None:
                yield actions.Lost(action.attempt, "peer-unreachable")
            return
        try:
            action.judge(registrar.peer)
        except BrskiError as error:
            yield actions.Lost(action.attempt, error.reason, error.detail)
            return
        registrar.clients.append(action.credential)
        self._open[action.attempt] = registrar
        yield actions.Connected(action.attempt, registrar.peer)

    def _reply(self, action: actions.Send) -> Iterator[actions.Input]:
        registrar = self._open[action.attempt]
        match registrar.answer(action):
            case Answer() as answer:
                yield actions.Response(action.attempt, answer.status, answer.headers, answer.body)
                if answer.close and self._open.pop(action.attempt, None) is not None:
                    yield actions.Lost(action.attempt, "connection-gone")
            case HangUp(reason):
                self._open.pop(action.attempt, None)
                yield actions.Lost(action.attempt, reason)
            case Silence():
                return

    def _key(self, kind: str) -> PrivateKey:
        self._made += 1
        if kind == "P-256":
            return key_for(f"stage key {self._made} {'first' if self.renewing is None else 'next'}")
        return enrolling.make_key(kind)

    def _random(self, size: int) -> bytes:
        self._nonces = getattr(self, "_nonces", 0) + 1
        return self._nonces.to_bytes(size, "big")

    def _note_phases(self) -> None:
        for phase in self.machine().phases.values():
            if not self.phases or self.phases[-1] is not phase:
                self.phases.append(phase)


async def serve(
    registrar: FakeRegistrar,
    credential: Credential | None = None,
    *,
    host: str = "127.0.0.1",
    version: ssl.TLSVersion | None = None,
) -> foreign_server.ForeignServer:
    """The same registrar on a real socket of the loopback; close it with `await server.close()`."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        client = foreign_server.peer(request)
        if client is not None:
            registrar.clients.append(Credential(ec.generate_private_key(ec.SECP256R1()), client.chain))
        send = actions.Send(0, request.method, request.path, dict(request.headers), body)
        reply = registrar.answer(send)
        assert isinstance(reply, Answer)
        response = web.Response(status=reply.status, body=reply.body, headers=dict(reply.headers))
        if reply.close:
            response.force_close()
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    shown = credential or registrar.credential or registrar.domain.registrar
    context = tls.server_context(
        shown, minimum_version=version or ssl.TLSVersion.TLSv1_2, maximum_version=version or ssl.TLSVersion.TLSv1_3
    )
    return await foreign_server.serve(app, host, 0, context)


def folder_of(path: Path) -> dict[str, bytes]:
    """Every file under a folder, by its relative path."""
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def with_pin(certificate: x509.Certificate) -> Callable[[Voucher], Voucher]:
    """A change that pins another certificate."""
    return lambda voucher: replace(voucher, pinned_domain_cert=to_der(certificate))
