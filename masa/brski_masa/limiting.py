"""How much nonsense one address may send (RFC 8995, 11.1).

Only refused requests count: a registrar with good requests is never slowed down, however busy it is. An address
that used up its allowance gets 429 before a byte of its next request is looked at, and earns it back with time.
Nothing here grows without bound: the addresses that were quiet longest are forgotten first.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from brski_common.errors import NotYet

MAX_ADDRESSES: Final = 10_000
IPV6_PREFIX: Final = 64  # one customer's network, within which addresses are free


class Allowance:
    """A token bucket for each address: `burst` refusals at once, `per_minute` in the long run; 0 means no limit."""

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._clock = clock
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise NotYet `too-many-refusals` if the address has nothing left."""
        if not self._per_second or not self._spent:
            return
        key = _network(address)
        if key not in self._spent:
            return
        missing = self._current(key) - self._burst
        if missing >= 0:
            raise NotYet("too-many-refusals", address, retry_after=(missing + 1) / self._per_second)

    def spend(self, address: str) -> None:
        """Count one refused request."""
        if not self._per_second:
            return
        key = _network(address)
        spent = self._current(key) if key in self._spent else 0.0
        self._spent[key] = (min(spent + 1, self._burst + 1), self._clock())
        self._spent.move_to_end(key)
        if len(self._spent) > MAX_ADDRESSES:
            self._spent.popitem(last=False)

    def _current(self, key: str) -> float:
        spent, since = self._spent[key]
        return max(0.0, spent - (self._clock() - since) * self._per_second)


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and not parsed.ipv4_mapped:
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
    return str(parsed)
