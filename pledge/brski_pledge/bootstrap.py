"""The machine of a whole onboarding, without any I/O: what to do next, and what has happened.

    machine = Bootstrap(around, now)
    action = machine.next(now)        what to do; Wait means: sleep until then, or until there is an input
    machine.feed(happened, now)       what came of it

The laws of this file:

1. `now` is an argument of every call. The machine has no clock, no socket and no thread.
2. `next` never blocks and never raises; any input is taken in any state, and what does not fit is ignored.
3. Attempts run side by side, each with its own number (`attempt`), its own nonce and its own back-off (RFC 8995, 4.1).
   The first whose voucher holds is the one; all others are closed then.
4. Only `Done` and `Failed` end it. `Failed` comes only if the settings say `once`: a device never gives up.
"""

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum

from brski_common.errors import BrskiError, PeerFailed, Refused
from brski_pledge import actions, events
from brski_pledge.actions import Action, Moment
from brski_pledge.attempt import Attempt
from brski_pledge.discovery import Candidates, Offer, Queries
from brski_pledge.line import Surroundings
from brski_pledge.phases import Phase
from brski_pledge.state import Enrollment

MAX_ATTEMPTS = 16  # conversations at once, the patiently waiting ones included


class State(Enum):
    """Where the device stands (RFC 8995, 2.1); its attempts have phases of their own."""

    DISCOVER = "discover"
    IMPRINTED = "imprinted"
    ENROLLED = "enrolled"
    GIVEN_UP = "given-up"


class Bootstrap:
    """One onboarding; with `around.renewing` a renewal at the registrar of before, or a late confirmation."""

    def __init__(self, around: Surroundings, now: Moment, *, jitter: float = 0.0) -> None:
        self.state = State.DISCOVER
        self._around, self._settings = around, around.settings
        self._candidates = Candidates(lambda: jitter)
        self._attempts: dict[int, Attempt] = {}
        self._out: deque[Action] = deque()
        self._numbers = 0
        self._enrollment: Enrollment | None = None
        self._confirmed = False
        self._failure: BrskiError = PeerFailed("no-registrar-found", "nothing answered, and nothing is configured")
        self._begin(now)

    def next(self, now: Moment) -> Action:
        """What to do now."""
        if not self._out:
            self._run_timers(now)
        if self._out:
            return self._out.popleft()
        if self.state is State.DISCOVER or self.state is State.IMPRINTED:
            return actions.Wait(self._wake(now))
        return self._end()

    def feed(self, told: actions.Input, now: Moment) -> None:
        """Take in what happened."""
        match told:
            case actions.FactoryReset():
                self._reset(now)
            case actions.LinkUp():
                self._candidates.forgive(now.seconds)
                self._queries.restart(now.seconds)
            case actions.Found():
                self._found(told.offer, now)
            case actions.Tick():
                pass
            case _:
                self._pass_on(told.attempt, told, now)

    @property
    def phases(self) -> dict[int, Phase]:
        """The phase of each attempt under way, for displays and tests."""
        return {number: attempt.phase for number, attempt in self._attempts.items()}

    # Beginning and ending

    def _begin(self, now: Moment) -> None:
        self._began = now.seconds
        self._last_start = float("-inf")
        self._queries = Queries(now.seconds)
        self._searching = self._around.renewing is None and (self._settings.mdns or self._settings.grasp)
        renewing = self._around.renewing
        if renewing is not None:
            self._candidates.found(Offer(renewing.host, renewing.port), now.seconds)
            return
        offers = self._settings.offers
        for offer in offers:
            delay = self._settings.configured_after if self._searching else 0.0
            if offer.is_cloud and len(offers) + self._searching > 1:
                delay = self._settings.cloud_after
            self._candidates.found(offer, now.seconds, not_before=now.seconds + delay)

    def _end(self) -> Action:
        if self.state is State.ENROLLED:
            assert self._enrollment is not None
            return actions.Done(self._enrollment, confirmed=self._confirmed)
        return actions.Failed(self._failure.reason, self._failure.detail, isinstance(self._failure, Refused))

    def _reset(self, now: Moment) -> None:
        """A factory reset from any state leads back to Discover (RFC 8995, 2.1); a renewal is left with nothing."""
        self._out.clear()
        for attempt in self._attempts.values():
            attempt.close()
        self._attempts.clear()
        self._emit(actions.Erase())
        self._tell(events.ResetDone)
        if self._around.renewing is not None:
            self.state, self._failure = State.GIVEN_UP, Refused("factory-reset", "what was to be renewed is erased")
            return
        self.state, self._candidates = State.DISCOVER, Candidates(lambda: 0.0)
        self._begin(now)

    # Discovery

    def _found(self, offer: Offer, now: Moment) -> None:
        if self.state is State.DISCOVER and self._candidates.found(offer, now.seconds):
            self._tell(lambda: events.OfferFound(str(offer), offer.source.name.lower()))

    def _search(self, now: Moment) -> None:
        if self._searching and self._queries.due <= now.seconds:
            self._emit(actions.Discover(fresh=self._queries.is_fresh))
            self._queries.sent(now.seconds)
            self._tell(events.Searching)

    # Attempts

    def _run_timers(self, now: Moment) -> None:
        for attempt in [each for each in self._attempts.values() if each.is_due(now)]:
            if attempt.number in self._attempts and (not attempt.wants_line(now) or self._make_room(now, attempt)):
                attempt.due(now)
                self._settle(attempt, now)
        if self.state is State.DISCOVER:
            self._search(now)
            self._start_attempts(now)
            self._maybe_give_up(now)

    def _start_attempts(self, now: Moment) -> None:
        offer = self._candidates.best(now.seconds)
        # Starts beside attempts under way are 3 to 5 s apart (RFC 8995, 4.1); after a failure the next goes at once.
        spaced = not self._attempts or now.seconds >= self._last_start + self._settings.attempt_spacing
        if offer is not None and spaced and self._make_room(now):
            self._start(offer, now)

    def _make_room(self, now: Moment, own: Attempt | None = None) -> bool:
        """Whether one more connection may be opened; one that makes no progress gives way to it (RFC 8995, 5.1)."""
        others = [each for each in self._attempts.values() if each is not own]
        busy = [each for each in others if not each.is_patient]
        if len(busy) >= self._settings.max_connections:
            if now.seconds < self._stalls_at(busy):
                return False
            # "the pledge SHOULD drop the oldest connection and go on to a different proxy"
            self._drop(busy[0], now)
        elif len(others) >= MAX_ATTEMPTS and own is None:
            self._drop(others[0], now)
        patient = [each for each in self._attempts.values() if each.is_patient and each.is_connected]
        if len(busy) + len(patient) >= self._settings.max_connections and patient:
            patient[0].park()
        return True

    def _stalls_at(self, busy: Iterable[Attempt]) -> float:
        """When none of these has made progress for 5 seconds."""
        return max((each.progressed for each in busy), default=0.0) + self._settings.stall_after

    def _drop(self, attempt: Attempt, now: Moment) -> None:
        attempt.close()
        del self._attempts[attempt.number]
        self._candidates.dropped(attempt.offer, now.seconds)

    def _start(self, offer: Offer, now: Moment) -> None:
        self._numbers += 1
        self._last_start = now.seconds
        self._candidates.started(offer, now.seconds)
        first = self._first_phase()
        attempt = Attempt(self._numbers, offer, self._around, self._emit, first=first)
        self._attempts[attempt.number] = attempt
        self._tell(lambda: events.Connecting(str(offer)))
        attempt.start(now)

    def _first_phase(self) -> Phase:
        if self._around.only_confirm:
            return Phase.CONFIRM
        return Phase.ANCHORS if self._around.skips_voucher else Phase.IDENTIFY

    def _pass_on(self, number: int, told: actions.Input, now: Moment) -> None:
        attempt = self._attempts.get(number)
        if attempt is not None:
            attempt.feed(told, now)
            self._settle(attempt, now)

    def _settle(self, attempt: Attempt, now: Moment) -> None:
        """Draw the consequences of what an attempt has come to."""
        if attempt.number not in self._attempts:
            return
        if self.state is State.DISCOVER and attempt.is_imprinted and not attempt.is_over:
            self._imprinted(attempt, now)
        if attempt.phase is Phase.ENROLLED:
            self._enrolled(attempt)
        elif attempt.phase is Phase.FAILED:
            self._failed(attempt, now)

    def _imprinted(self, winner: Attempt, now: Moment) -> None:
        self.state = State.IMPRINTED
        for other in [each for each in self._attempts.values() if each is not winner]:
            self._drop(other, now)

    def _enrolled(self, attempt: Attempt) -> None:
        del self._attempts[attempt.number]
        self.state, self._enrollment, self._confirmed = State.ENROLLED, attempt.enrollment, attempt.confirmed
        renewed = self._around.renewing is not None and not self._around.only_confirm
        self._tell(events.Renewed if renewed else lambda: events.Operational(attempt.confirmed))

    def _failed(self, attempt: Attempt, now: Moment) -> None:
        """Back to Discover; this offer rests, the others do not (RFC 8995, 2.1 and 4.1)."""
        del self._attempts[attempt.number]
        self.state = State.DISCOVER
        failure = self._failure = attempt.failure or PeerFailed("attempt-ended")
        retry_in = self._candidates.failed(attempt.offer, now.seconds)
        self._tell(lambda: events.AttemptFailed(str(attempt.offer), failure.reason, failure.detail, retry_in))

    def _maybe_give_up(self, now: Moment) -> None:
        looked = not self._searching or now.seconds >= self._began + self._settings.search_for
        if not self._settings.once or self._attempts or not self._candidates.all_failed():
            return
        if looked or len(self._candidates):
            self.state = State.GIVEN_UP

    def _wake(self, now: Moment) -> float | None:
        """When `next` has something to do without any input."""
        attempts, times, wanting = self._attempts.values(), list[float](), False
        for attempt in attempts:
            timer = attempt.timer
            if timer is not None:
                times.append(timer)
                wanting = wanting or (timer <= now.seconds and attempt.wants_line(now))
        if self.state is State.DISCOVER:
            times += self._wake_of_discovery(now)
            wanting = wanting or self._candidates.best(now.seconds) is not None
        if wanting:
            times.append(self._last_start + self._settings.attempt_spacing)
            times.append(self._stalls_at(attempt for attempt in attempts if not attempt.is_patient))
        return min([time for time in times if time > now.seconds], default=None)

    def _wake_of_discovery(self, now: Moment) -> Iterable[float]:
        wake = self._candidates.wake(now.seconds)
        if wake is not None:
            yield wake
        if self._searching:
            yield self._queries.due
            if self._settings.once and not len(self._candidates):
                yield self._began + self._settings.search_for

    def _emit(self, action: Action) -> None:
        self._out.append(action)

    def _tell(self, make: Callable[[], events.Event]) -> None:
        if self._around.observed:
            self._emit(actions.Notify(make()))
