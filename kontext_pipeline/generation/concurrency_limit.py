"""How many requests may be in flight: the setting, or fewer where the account allows fewer.

The limit decreases once for each burst of 429 answers, by a factor, and increases with each image
(additive increase, multiplicative decrease). So the run stays just below the account's limit.
"""

import time
from collections.abc import Callable
from typing import Final

DECREASE_FACTOR: Final = 0.7
"""Share of the limit that remains after a burst of 429 answers."""
RECOVERY_ROUND_TRIPS: Final = 3
"""Round trips of all slots after which the limit is back at its earlier value."""


class ConcurrencyLimit:
    """The limit of one run. The caller serializes the calls."""

    def __init__(self, maximum: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`maximum`: the setting. `clock`: monotonic seconds."""
        self._maximum = maximum
        self._clock = clock
        self._limit = float(maximum)
        self._increase = 1.0
        self._burst_until = float("-inf")

    @property
    def allowed(self) -> int:
        """The number of requests that may be in flight now."""
        return int(self._limit)

    def decrease(self, pause_s: float) -> bool:
        """Decrease the limit after a 429 that asks for a pause. Return False for a 429 of the same burst."""
        now = self._clock()
        if now < self._burst_until:
            return False
        self._burst_until = now + pause_s
        before, self._limit = self._limit, max(1.0, self._limit * DECREASE_FACTOR)
        self._increase = max(1.0, (before - self._limit) / RECOVERY_ROUND_TRIPS)
        return True

    def increase(self) -> None:
        """Increase the limit after an image."""
        self._limit = min(self._maximum, self._limit + self._increase / self._limit)

    def lower(self, maximum: int) -> None:
        """Never allow more than `maximum` from now on."""
        self._maximum = min(self._maximum, maximum)
        self._limit = min(self._limit, self._maximum)
