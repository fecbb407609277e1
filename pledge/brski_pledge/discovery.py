"""Which offer to try, and when: the pure part of discovery (RFC 8995, 4.1 and Appendix B).

The laws of this file:

1. An offer that was never tried goes first, in the order of its source; then the one tried least recently.
2. Each offer backs off by itself, doubling up to an hour; a link that comes up ends all back-offs.
3. Offers come from the network and are nobody's word: their number is bounded, an offer that failed makes room.
4. The cloud registrar has its turn only while nothing local can be tried (RFC 8995, 2.7).

The adapters that hear of offers are `mdns` and `dull`.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

MAX_OFFERS = 64
MAX_HOST_CHARACTERS = 255
FIRST_BACK_OFF = 5.0  # seconds before an offer that failed is tried again; doubles each time
FIRST_QUERY_INTERVAL = 1.0  # seconds between the first two rounds of queries; doubles each time (RFC 6762, 5.2)
MAX_BACK_OFF = 3600.0  # seconds (RFC 8995, 4.1)
JITTER = 0.1  # at most this share is taken off a back-off, so that devices of one plant do not return in step


class Source(IntEnum):
    """How an offer was learnt; a smaller number is tried sooner."""

    MDNS = 1
    GRASP = 2
    CONFIGURED = 3
    CLOUD = 4


@dataclass(frozen=True, slots=True)
class Offer:
    """A way to a registrar. `host` is an address, with its zone if it is link-local, or a name."""

    host: str
    port: int
    source: Source = field(default=Source.CONFIGURED, compare=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_cloud(self) -> bool:
        """Whether TLS to it is verified at once instead of provisional (RFC 8995, 2.7)."""
        return self.source is Source.CLOUD


@dataclass(slots=True)
class _Candidate:
    offer: Offer
    not_before: float
    order: int
    tried: float | None = None
    failures: int = 0
    active: bool = False


class Candidates:
    """The offers known so far. `now` is in seconds of one monotonic clock; `random` gives a number in [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._known: dict[Offer, _Candidate] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._known)

    def found(self, offer: Offer, now: float, *, not_before: float | None = None) -> bool:
        """Note an offer; True if it is new and there is room. Hearing of it again changes nothing."""
        if offer in self._known or not is_usable(offer) or not self._make_room():
            return False
        self._order += 1
        self._known[offer] = _Candidate(offer, now if not_before is None else not_before, self._order)
        return True

    def best(self, now: float) -> Offer | None:
        """The offer to try now, if there is one."""
        ready = [each for each in self._known.values() if not each.active and each.not_before <= now]
        if not ready:
            return None
        local = [each for each in ready if not each.offer.is_cloud]
        if not local and any(each.active and not each.offer.is_cloud for each in self._known.values()):
            return None
        return min(local or ready, key=_turn).offer

    def started(self, offer: Offer, now: float) -> None:
        """An attempt through `offer` begins."""
        candidate = self._known.get(offer)
        if candidate is not None:
            candidate.active, candidate.tried = True, now

    def failed(self, offer: Offer, now: float) -> float:
        """The attempt through `offer` is over; returns the seconds until it may be tried again."""
        candidate = self._known.get(offer)
        if candidate is None:
            return 0.0
        delay = min(MAX_BACK_OFF, FIRST_BACK_OFF * 2.0 ** min(candidate.failures, 16))
        delay *= 1 - JITTER * self._random()
        candidate.active, candidate.failures, candidate.not_before = False, candidate.failures + 1, now + delay
        return delay

    def dropped(self, offer: Offer, now: float) -> None:
        """The attempt gave way to another one (RFC 8995, 5.1): no failure, so no longer back-off."""
        candidate = self._known.get(offer)
        if candidate is not None:
            candidate.active, candidate.tried = False, now

    def wake(self, now: float) -> float | None:
        """When the next offer may be tried, if one waits for a time to come."""
        times = [each.not_before for each in self._known.values() if not each.active and each.not_before > now]
        return min(times, default=None)

    def forgive(self, now: float) -> None:
        """A link came up: end every back-off (RFC 8995, 4.1)."""
        for candidate in self._known.values():
            candidate.failures, candidate.not_before = 0, min(candidate.not_before, now)

    def all_failed(self) -> bool:
        """Whether every offer was tried and has failed since."""
        return all(each.failures and not each.active for each in self._known.values())

    def _make_room(self) -> bool:
        if len(self._known) < MAX_OFFERS:
            return True
        replaceable = [
            each
            for each in self._known.values()
            if each.failures and not each.active and each.offer.source < Source.CONFIGURED
        ]
        if replaceable:
            del self._known[max(replaceable, key=lambda each: each.failures).offer]
        return bool(replaceable)


class Queries:
    """When to send the next round of active queries: after 1, 2, 4 … 3600 s (RFC 8995, 4.1)."""

    def __init__(self, now: float) -> None:
        self.due, self._interval, self.is_fresh = now, FIRST_QUERY_INTERVAL, True

    def sent(self, now: float) -> None:
        """A round went out."""
        self.due, self._interval = now + self._interval, min(MAX_BACK_OFF, self._interval * 2)
        self.is_fresh = False

    def restart(self, now: float) -> None:
        """A link came up."""
        self.due, self._interval, self.is_fresh = now, FIRST_QUERY_INTERVAL, True


def is_usable(offer: Offer) -> bool:
    """Whether an offer can be connected to at all: a port, and a host that is an address or looks like a name."""
    if not 0 < offer.port < 65536 or not 0 < len(offer.host) <= MAX_HOST_CHARACTERS:
        return False
    if is_address(offer.host):
        return True
    return offer.host.isascii() and all(part.replace("-", "").isalnum() for part in offer.host.rstrip(".").split("."))


@lru_cache(maxsize=MAX_OFFERS)
def is_address(host: str) -> bool:
    """Whether `host` is an IP address, with or without a zone: then no SNI is sent (RFC 6066, 3)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_offer(text: str, source: Source = Source.CONFIGURED, *, port: int | None = None) -> Offer:
    """Read `host:port`, `[address]:port` or, with a default `port`, `host`; ValueError says what is allowed."""
    host, colon, number = text.strip().rpartition(":")
    if not colon or (":" in host and not host.endswith("]")) or number.endswith("]"):
        host, number = text.strip(), ""
    if not number and port is None:
        raise ValueError(f"{text[:80]!r}: host:port is wanted, an IPv6 address in brackets")
    if not number.isdecimal() and number:
        raise ValueError(f"{text[:80]!r}: the port is not a number")
    offer = Offer(host.removeprefix("[").removesuffix("]"), int(number or port or 0), source)
    if not is_usable(offer):
        raise ValueError(f"{text[:80]!r}: neither a name nor an address with a port from 1 to 65535")
    return offer


def _turn(candidate: _Candidate) -> tuple[bool, float, int, int]:
    tried = candidate.tried
    return (tried is not None, tried or 0.0, candidate.offer.source, candidate.order)
