"""How many requests may be in flight: as many as the setting says, and fewer where the account allows fewer.

After a burst of 429s the places are cut once, by a factor; with every picture a part of what was cut comes
back (additive increase, multiplicative decrease), so that they hover below what the account allows.
"""

import time
from typing import Final

CUT: Final = 0.7
"""What is left of the places in flight after a burst of 429s."""
REGAINED_IN: Final = 3
"""Round trips in which they are regained, by as many in each."""


class ConcurrencyLimit:
    """The places of one run. Not for several threads at once."""

    def __init__(self, most: int) -> None:
        """`most`: what the setting allows."""
        self._most = most
        self._limit = float(most)
        self._growth = 1.0
        self._cut_until = float("-inf")

    @property
    def allowed(self) -> int:
        """How many there are now."""
        return int(self._limit)

    def cut(self, pause_s: float) -> None:
        """A 429 came that asks for a pause; others of the same burst ask for the same one."""
        now = time.monotonic()
        if now < self._cut_until:
            return
        self._cut_until = now + pause_s
        before, self._limit = self._limit, max(1.0, self._limit * CUT)
        self._growth = max(1.0, (before - self._limit) / REGAINED_IN)

    def regain(self) -> None:
        """A picture came."""
        self._limit = min(self._most, self._limit + self._growth / self._limit)
