"""A pledge that runs: the machine, its transports, its disk and its clock, in one event loop.

Only order lives here. What to do is said by `bootstrap`; what came of it is put into one queue.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cryptography.x509.oid import ObjectIdentifier

from brski_common.certificates import Credential, PrivateKey
from brski_common.errors import BrskiError, Misconfigured, Refused
from brski_common.paths import Anchors
from brski_pledge import actions, enrolling, events, vouchering
from brski_pledge.actions import Input, Moment
from brski_pledge.bootstrap import Bootstrap
from brski_pledge.discovery import Offer
from brski_pledge.events import Event
from brski_pledge.line import Surroundings
from brski_pledge.settings import PledgeSettings
from brski_pledge.state import Enrollment, Folder
from brski_pledge.transport import MakeTransport, Report, Transport

if TYPE_CHECKING:
    from brski_pledge.dull import Listener
    from brski_pledge.mdns import Browser

Clock = Callable[[], datetime]
Observer = Callable[[Event], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. `reason` and `detail` say who said no and why, or what did not work.

    `enrollment` is what counts afterwards, if anything.
    """

    state: Literal["operational", "refused", "failed"]
    reason: str | None = None
    detail: str = ""
    enrollment: Enrollment | None = field(default=None, repr=False)

    @property
    def is_operational(self) -> bool:
        """Whether the device has an identity in its domain."""
        return self.state == "operational"


class Pledge:
    """A device that has an IDevID and looks for its owner.

    `credential` is the IDevID with its chain, `anchors` are the maker's voucher anchors. `state` is
    a folder that survives reboots. `clock` gives the time of day if it can be trusted; without it no
    date is judged (RFC 8995, 2.6.1). `observer` is called with every event, in the event loop.
    `make_key` makes the LDevID's key; `transport` brings a TLS of the device's own (see `transport`).
    Raises Misconfigured or Untrusted for what could never be safe.
    """

    def __init__(
        self,
        settings: PledgeSettings,
        credential: Credential,
        anchors: Anchors,
        *,
        state: Path | Folder,
        clock: Clock | None = None,
        cloud_anchors: Anchors | None = None,
        observer: Observer | None = None,
        make_key: Callable[[str], PrivateKey] = enrolling.make_key,
        transport: MakeTransport | None = None,
    ) -> None:
        self.settings = settings
        self._device = vouchering.Device(credential, anchors, _policy(settings))
        vouchering.check_device(self._device)
        self._cloud_anchors = cloud_anchors or Anchors()
        if settings.cloud_registrar is not None and not self._cloud_anchors:
            raise Misconfigured("cloud-anchors-missing", "cloud_registrar needs anchors that vouch for it")
        self._folder = state if isinstance(state, Folder) else Folder(state)
        self._clock, self._observer, self._make_key, self._transport = clock, observer, make_key, transport
        self._inputs: asyncio.Queue[Input] | None = None

    @property
    def serial_number(self) -> str:
        """The product serial number in the IDevID."""
        return self._device.serial_number

    @property
    def enrollment(self) -> Enrollment | None:
        """What onboarding left on the disk, None in the factory state; raises Misconfigured if it is damaged."""
        return self._folder.load()

    async def onboard(self) -> Outcome:
        """Find the owner and enroll. Returns at once, without a packet, if that has happened (RFC 8995, 5).

        Without `once` in the settings this goes on until it succeeds; cancel it to stop.
        """
        enrollment = self._folder.load()
        self._folder.tidy()
        if enrollment is None:
            return await self._run(self._surroundings(self.settings))
        if not enrollment.confirmed:
            # Power was lost between enrolling and telling of it.
            around = self._surroundings(replace(self.settings, once=True))
            await self._run(replace(around, renewing=enrollment, only_confirm=True))
        return Outcome("operational", enrollment=self._folder.load())

    async def renew(self, *, rekey: bool = True) -> Outcome:
        """Get a new LDevID, with a fresh key unless told otherwise (RFC 7030, 4.2.2).

        It comes from `renewal_registrar` of the settings, else from where the device was onboarded, which may have been
        a join proxy. Any server will do that the domain's anchors vouch for and that has id-kp-cmcRA or the name it was
        asked under (RFC 7030, 3.6.1); the one that worked is remembered.
        A failure leaves the present LDevID in use. Raises Refused in the factory state.
        """
        enrollment = self._folder.load()
        if enrollment is None:
            raise Refused("not-enrolled", "there is nothing to renew: onboard first")
        around, server = self._surroundings(replace(self.settings, once=True)), self.settings.renewal_offer
        renewing = enrollment if server is None else replace(enrollment, host=server.host, port=server.port)
        outcome = await self._run(replace(around, renewing=renewing, rekey=rekey))
        return outcome if outcome.is_operational else replace(outcome, enrollment=enrollment)

    async def enroll_at(self, registrar: Offer, fingerprint: bytes) -> Outcome:
        """Enroll at an EST server without any voucher: for somebody at the device, never for the network.

        `fingerprint` is the SHA-256 of the server's certificate, compared by a person (RFC 8995, 7.2). Only in the
        factory state. It needs no server of the maker, so it works when there is none any more.
        """
        if self._folder.load() is not None:
            raise Refused("already-enrolled", "reset the device first")
        host = f"[{registrar.host}]" if ":" in registrar.host else registrar.host
        local = replace(self.settings, mdns=False, grasp=False, cloud_registrar=None, once=True)
        around = self._surroundings(replace(local, registrars=(f"{host}:{registrar.port}",)))
        return await self._run(replace(around, fingerprint=fingerprint))

    def reset(self) -> None:
        """Back to the factory state: erase the LDevID, its key and the anchors. The IDevID stays.

        During an onboarding that begins anew.
        """
        if self._inputs is None:
            self._folder.reset()
        else:
            self._inputs.put_nowait(actions.FactoryReset())

    def export(self) -> None:
        """Write `ldevid.pem`, `anchors.pem` and `voucher` into the state folder, for programs that want them so.

        The key is in `identity.pem` alone, with the chain: that file serves for both. Nothing happens in the factory
        state. Blocks; raises OSError, and Misconfigured for a damaged state.
        """
        enrollment = self._folder.load()
        if enrollment is not None:
            self._folder.export(enrollment)

    def link_up(self) -> None:
        """A network link came up: end all back-offs (RFC 8995, 4.1)."""
        if self._inputs is not None:
            self._inputs.put_nowait(actions.LinkUp())

    def found(self, offer: Offer) -> None:
        """A way to a registrar that the device learnt by means of its own."""
        if self._inputs is not None:
            self._inputs.put_nowait(actions.Found(offer))

    def _surroundings(self, settings: PledgeSettings) -> Surroundings:
        return Surroundings(self._device, settings, secrets.token_bytes, self._cloud_anchors)

    async def _run(self, around: Surroundings) -> Outcome:
        if self._inputs is not None:
            raise Refused("onboarding-under-way", "this device is being configured")
        self._inputs = asyncio.Queue()
        try:
            make, report = self._transport or _http_transport, self._inputs.put_nowait
            adapters = _Adapters(around.settings, make, report, self._tell)
            try:
                return await self._drive(around, adapters, self._inputs)
            finally:
                await adapters.close()
        finally:
            self._inputs = None

    async def _drive(self, around: Surroundings, adapters: "_Adapters", inputs: "asyncio.Queue[Input]") -> Outcome:
        machine = Bootstrap(around, self._now(), jitter=secrets.randbelow(1000) / 1000)
        while True:
            match machine.next(self._now()):
                case actions.Wait(until):
                    for told in await _inputs_until(inputs, until):
                        machine.feed(told, self._now())
                case actions.Done(enrollment, confirmed):
                    if confirmed and not enrollment.confirmed:
                        await asyncio.to_thread(self._folder.confirm)
                    return Outcome("operational", enrollment=self._folder.load())
                case actions.Failed(reason, detail, refused):
                    return Outcome("refused" if refused else "failed", reason, detail)
                case actions.Notify(event):
                    self._tell(event)
                case actions.Persist() | actions.MakeKey() | actions.Erase() as action:
                    told_back = await self._do(action)
                    if told_back is not None:
                        machine.feed(told_back, self._now())
                case action:
                    await adapters.carry_out(action)

    async def _do(self, action: actions.Persist | actions.MakeKey | actions.Erase) -> Input | None:
        """What the device does by itself; off the event loop, because disks, prime numbers and chips are slow."""
        try:
            match action:
                case actions.MakeKey(attempt, kind):
                    return actions.KeyMade(attempt, await self._key(kind))
                case actions.Persist(attempt, enrollment):
                    await asyncio.to_thread(self._folder.save, enrollment)
                    return actions.Saved(attempt)
                case actions.Erase():
                    await asyncio.to_thread(self._folder.reset)
                    return None
        except BrskiError as error:
            return None if isinstance(action, actions.Erase) else actions.NotDone(action.attempt, error.reason)
        except OSError as error:
            if isinstance(action, actions.Erase):
                raise
            return actions.NotDone(action.attempt, "disk-failed", error.strerror or "")

    async def _key(self, kind: str) -> PrivateKey:
        if self._make_key is enrolling.make_key and not kind.startswith("RSA"):
            return enrolling.make_key(kind)  # quicker than any thread
        return await asyncio.to_thread(self._make_key, kind)

    def _tell(self, event: Event) -> None:
        if self._observer is None:
            return
        try:
            self._observer(event)
        except Exception:  # a lamp that fails shall not keep a device from its owner
            _log.exception("the observer failed at %s", event.step)

    def _now(self) -> Moment:
        return Moment(time.monotonic(), None if self._clock is None else self._clock())


class _Adapters:
    """The transport and the ears of one run."""

    def __init__(self, settings: PledgeSettings, make: MakeTransport, report: Report, tell: Observer) -> None:
        self._settings, self._report, self._tell = settings, report, tell
        self._transport = make(report)
        self._browser: Browser | None = None
        self._listener: Listener | None = None

    async def carry_out(self, action: actions.Action) -> None:
        """Begin what the machine asks of the network."""
        match action:
            case actions.Connect():
                self._transport.connect(action)
            case actions.Send():
                self._transport.send(action)
            case actions.CloseConnection(attempt):
                self._transport.close(attempt)
            case actions.FetchRevocationLists():
                self._transport.fetch(action)
            case actions.Discover(fresh):
                await self._discover(fresh=fresh)

    async def close(self) -> None:
        """End everything."""
        await self._transport.aclose()
        await self._close_ears()

    async def _discover(self, *, fresh: bool) -> None:
        if fresh:
            await self._close_ears()
        if self._settings.mdns:
            await self._try("mDNS", self._ask_by_mdns)
        if self._settings.grasp:
            await self._try("GRASP", self._listen_for_floods)

    async def _try(self, method: str, work: Callable[[], Awaitable[None]]) -> None:
        """A device may well look around before any link is up: then the next round tries again."""
        try:
            await work()
        except (OSError, BrskiError, RuntimeError) as error:
            self._tell(events.CannotListen(method, str(error)))

    async def _ask_by_mdns(self) -> None:
        from brski_pledge.mdns import Browser  # noqa: PLC0415 -- zeroconf is not imported before it is needed

        self._browser = self._browser or Browser(self._found, self._settings.mdns_interfaces)
        self._browser.query()

    async def _listen_for_floods(self) -> None:
        from brski_pledge.dull import Listener  # noqa: PLC0415 -- off by default

        if self._listener is None:
            listener = Listener(self._found, self._settings.grasp_links)
            await listener.start()
            self._listener = listener

    async def _close_ears(self) -> None:
        browser, listener, self._browser, self._listener = self._browser, self._listener, None, None
        if listener is not None:
            listener.close()
        if browser is not None:
            await browser.close()

    def _found(self, offer: Offer) -> None:
        self._report(actions.Found(offer))


def _http_transport(report: Report) -> Transport:
    from brski_pledge import http  # noqa: PLC0415 -- aiohttp is not imported before it is needed

    return http.Transport(report)


async def _inputs_until(inputs: "asyncio.Queue[Input]", until: float | None) -> list[Input]:
    """Wait for an input, not beyond `until`; all that are there."""
    told: list[Input] = []
    with suppress(TimeoutError):
        async with asyncio.timeout_at(None if until is None else _loop_time(until)):
            told.append(await inputs.get())
    while not inputs.empty():
        told.append(inputs.get_nowait())
    return told


def _loop_time(seconds: float) -> float:
    """The event loop's clock and `time.monotonic` need not be the same one."""
    return asyncio.get_running_loop().time() + max(0.0, seconds - time.monotonic())


def _policy(settings: PledgeSettings) -> vouchering.VoucherPolicy:
    oid = settings.voucher_signer_oid
    return vouchering.VoucherPolicy(
        assertions=settings.accepted_assertions,
        nonceless=settings.nonceless_vouchers,
        signer_oid=None if oid is None else ObjectIdentifier(oid),
    )
