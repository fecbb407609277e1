"""What was seen or written a moment ago, so that it need not be read again at once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

RECENT_SECONDS: Final = 1.0  # how long another process's change may go unnoticed
MAX_RECENT: Final = 256

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A bounded memory whose entries fade after RECENT_SECONDS, and are let go within as much again, by the next `put`.

    `monotonic` is a clock in seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._next_sweep = 0.0

    def put(self, key: K, value: V) -> None:
        """Remember a value in place of an older one."""
        now = self._monotonic()
        self._entries.pop(key, None)
        self._entries[key] = value, now + RECENT_SECONDS
        if len(self._entries) > MAX_RECENT:
            self._entries.popitem(last=False)
        if now >= self._next_sweep:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        """Let go of what has faded; the oldest comes first."""
        self._next_sweep = now + RECENT_SECONDS
        while next(iter(self._entries.values()))[1] <= now:
            self._entries.popitem(last=False)

    def get(self, key: K) -> V | None:
        """The value, None if there is none or it has faded."""
        entry = self._entries.get(key)
        return entry[0] if entry is not None and entry[1] > self._monotonic() else None

    def forget(self, key: K) -> None:
        """Drop a value."""
        self._entries.pop(key, None)
