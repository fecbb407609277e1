"""What carries out a machine's actions: transport, disk, key, ears and timer of one device, in one event loop.

The laws of this file:

1. An input makes the machine go on at once, within the call that reports it, until it waits.
2. What may block is done in a thread, and what takes turns in a task; until then further inputs wait. A disk that was
   quick the last time is not expected to block.
3. No decision is made here. `bootstrap` says what to do.
"""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from brski_common.certificates import PrivateKey
from brski_common.errors import BrskiError, Misconfigured
from brski_pledge import actions, enrolling, events
from brski_pledge.actions import Action, Input, Moment
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


@dataclass(frozen=True, slots=True)
class Means:
    """What the device has to carry out actions with."""

    folder: Folder
    clock: Clock | None
    observer: Observer | None
    make_key: Callable[[str], PrivateKey]
    transport: MakeTransport | None

    def now(self) -> Moment:
        """The present."""
        return Moment(time.monotonic(), None if self.clock is None else self.clock())

    def tell(self, event: Event) -> None:
        """Tell the observer."""
        if self.observer is None:
            return
        try:
            self.observer(event)
        except Exception:  # a lamp that fails shall not keep a device from its owner
            _log.exception("the observer failed at %s", event.step)


class Driver:
    """One run of the machine, from its first action to its last."""

    def __init__(self, around: Surroundings, means: Means) -> None:
        self._means, self._loop = means, asyncio.get_running_loop()
        self._machine = Bootstrap(around, means.now(), jitter=secrets.randbelow(1000) / 1000)
        self._transport = (means.transport or _http_transport)(self.report)
        self._ears = _Ears(around.settings, self.report, means.tell)
        self._ended: asyncio.Future[Outcome] = self._loop.create_future()
        self._inputs = deque[Input]()
        self._is_busy = self._has_disk_failed = False
        self._work: asyncio.Task[Input | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._kept = around.renewing

    async def run(self) -> Outcome:
        """Run it; cancel this to stop."""
        try:
            self._go_on()
            return await self._ended
        finally:
            await self._close()

    def report(self, told: Input) -> None:
        """Something happened. To be called within the event loop."""
        self._inputs.append(told)
        self._go_on()

    def _go_on(self) -> None:
        if self._is_busy or self._ended.done():
            return
        self._is_busy = True
        try:
            self._advance(self._means.now())
        except Exception as error:  # `run` raises it: whoever reported an input is not to blame
            self._ended.set_exception(error)
        finally:
            self._is_busy = self._work is not None

    def _advance(self, now: Moment) -> None:
        machine, inputs = self._machine, self._inputs
        while self._work is None and not self._ended.done():
            if inputs:
                machine.feed(inputs.popleft(), now)
            action = machine.next(now)
            if not isinstance(action, actions.Wait):
                self._carry_out(action, now)
            elif not inputs:
                self._wait(action.until)
                return

    def _carry_out(self, action: Action, now: Moment) -> None:
        match action:
            case actions.Notify(event):
                self._means.tell(event)
            case actions.Send():
                self._transport.send(action)
            case actions.Connect():
                self._connect(action)
            case actions.CloseConnection(attempt):
                self._transport.close(attempt)
            case actions.FetchRevocationLists():
                self._transport.fetch(action)
            case actions.Persist() | actions.MakeKey() | actions.Erase() | actions.Discover():
                self._begin(action, now)
            case actions.Done(enrollment, confirmed):
                self._ended.set_result(self._operational(enrollment, confirmed=confirmed))
            case actions.Failed(reason, detail, refused):
                self._ended.set_result(Outcome("refused" if refused else "failed", reason, detail))

    def _connect(self, action: actions.Connect) -> None:
        """Nobody is asked for one more voucher while the disk that did not keep the last one would not keep it."""
        if self._has_disk_failed:
            try:
                self._means.folder.try_out()
            except Misconfigured as error:
                self._inputs.append(actions.Lost(action.attempt, error.reason, error.detail))
                return
        self._has_disk_failed = False
        self._transport.connect(action)

    def _operational(self, enrollment: Enrollment, *, confirmed: bool) -> Outcome:
        kept = self._kept or enrollment
        if confirmed and not enrollment.confirmed:
            with suppress(OSError):  # then the registrar is told a second time, at the next boot
                self._means.folder.confirm()
                kept = replace(kept, confirmed=True)
        return Outcome("operational", enrollment=kept)

    # What the device does by itself

    def _begin(self, action: actions.Persist | actions.MakeKey | actions.Erase | actions.Discover, now: Moment) -> None:
        """Do it here where that takes less time than a thread to begin, else there."""
        if isinstance(action, actions.MakeKey) and self._makes_at_once(action.kind):
            self._machine.feed(actions.KeyMade(action.attempt, self._means.make_key(action.kind)), now)
        elif isinstance(action, actions.Persist) and self._means.folder.is_quick:
            self._machine.feed(self._save(action), now)
        else:
            self._work = self._loop.create_task(self._do(action))
            self._work.add_done_callback(self._done)

    def _makes_at_once(self, kind: str) -> bool:
        return self._means.make_key is enrolling.make_key and not kind.startswith("RSA")

    async def _do(self, action: actions.Persist | actions.MakeKey | actions.Erase | actions.Discover) -> Input | None:
        """In a thread where disks, prime numbers and chips may be slow; what to tell the machine of it."""
        try:
            match action:
                case actions.MakeKey(attempt, kind):
                    return actions.KeyMade(attempt, await asyncio.to_thread(self._means.make_key, kind))
                case actions.Persist():
                    return await asyncio.to_thread(self._save, action)
                case actions.Erase():
                    await asyncio.to_thread(self._means.folder.reset)
                case actions.Discover(fresh):
                    await self._ears.open(fresh=fresh)
        except (BrskiError, OSError) as error:
            if not isinstance(action, actions.MakeKey):
                raise
            return self._not_done(action, error)
        return None

    def _save(self, action: actions.Persist) -> Input:
        try:
            self._kept = self._means.folder.save(action.enrollment)
        except (BrskiError, OSError) as error:
            return self._not_done(action, error)
        return actions.Saved(action.attempt)

    def _not_done(self, action: actions.Persist | actions.MakeKey, error: BrskiError | OSError) -> Input:
        if isinstance(error, BrskiError):
            return actions.NotDone(action.attempt, error.reason)
        self._has_disk_failed = True
        where = error.filename or self._means.folder.path
        return actions.NotDone(action.attempt, "disk-failed", f"{where}: {error.strerror}")

    def _done(self, work: asyncio.Task[Input | None]) -> None:
        self._work, self._is_busy = None, False
        if work.cancelled() or self._ended.done():
            return
        error = work.exception()
        if error is not None:
            self._ended.set_exception(error)
            return
        told = work.result()
        if told is not None:
            self._inputs.appendleft(told)
        self._go_on()

    # Time, and the end

    def _wait(self, until: float | None) -> None:
        """Have the machine go on at `until`. A timer that rings before that does no harm, so it may stay."""
        if until is None:
            return
        # The event loop's clock and `time.monotonic` need not be the same one.
        at = self._loop.time() + max(0.0, until - time.monotonic())
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._go_on()

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait({self._work})
        await self._transport.aclose()
        await self._ears.close()


class _Ears:
    """What hears of proxies by itself."""

    def __init__(self, settings: PledgeSettings, report: Report, tell: Observer) -> None:
        self._settings, self._report, self._tell = settings, report, tell
        self._browser: Browser | None = None
        self._listener: Listener | None = None

    async def open(self, *, fresh: bool) -> None:
        """Ask around, listening from now on; `fresh`: on the links as they are now."""
        if fresh:
            await self.close()
        if self._settings.mdns:
            await self._try("mDNS", self._ask_by_mdns)
        if self._settings.grasp:
            await self._try("GRASP", self._listen_for_floods)

    async def close(self) -> None:
        """Hear no more."""
        browser, listener, self._browser, self._listener = self._browser, self._listener, None, None
        if listener is not None:
            listener.close()
        if browser is not None:
            await browser.close()

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

    def _found(self, offer: Offer) -> None:
        self._report(actions.Found(offer))


def _http_transport(report: Report) -> Transport:
    from brski_pledge import http  # noqa: PLC0415 -- aiohttp is not imported before it is needed

    return http.Transport(report)
