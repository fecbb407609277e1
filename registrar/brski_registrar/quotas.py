"""How often one device may have something done for it. Pure: `now` is in seconds."""

from collections import OrderedDict
from typing import Final

MAX_REMEMBERED: Final = 4096  # devices; who was forgotten begins anew


class Quota:
    """At most `burst` at once and one more every `refill_seconds`, for each device by itself."""

    def __init__(self, burst: int, refill_seconds: float) -> None:
        self._refill, self._whole = refill_seconds, burst * refill_seconds
        self._full_at: OrderedDict[str, float] = OrderedDict()  # when all of its burst will be there again

    def take(self, device: str, now: float) -> float:
        """Take one; returns 0, or after how many seconds there will be one to take."""
        full_at = self._after(device, now)
        wait = full_at - now - self._whole
        if wait > 0:
            return wait
        self._full_at[device] = full_at
        self._full_at.move_to_end(device)
        if len(self._full_at) > MAX_REMEMBERED:
            self._full_at.popitem(last=False)
        return 0.0

    def wait(self, device: str, now: float) -> float:
        """What `take` would return; takes nothing."""
        return max(0.0, self._after(device, now) - now - self._whole)

    def _after(self, device: str, now: float) -> float:
        """When all would be there again if one were taken."""
        # A clock that was set back shall shut nobody out for longer than an empty bucket does.
        return min(max(self._full_at.get(device, now), now), now + self._whole) + self._refill
