"""The pause after a 429: it holds for the slots of this run and for every process on the ledger."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from kontext_pipeline.generation.ledger import Ledger
from kontext_pipeline.generation.slots import Slots

KNOWN_WITHIN_S: Final = 0.5
"""Longest time, in seconds, for which a pause that another process has asked for may be unknown here."""
DEFAULT_PAUSE_S: Final = 5.0
"""Pause after a 429 that doesn't say when the limit resets, seconds."""
SHORTEST_PAUSE_S: Final = 0.1
"""Pause after a 429 that says the limit resets now, seconds: the provider's clock is coarse."""

log = logging.getLogger(__name__)


class SharedPause:
    """Pauses of one account. Thread-safe."""

    def __init__(self, ledger: Ledger, slots: Slots, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`ledger` is what the processes share; `slots` are this run's. `clock`: monotonic seconds."""
        self._ledger = ledger
        self._slots = slots
        self._clock = clock
        self._lock = threading.Lock()
        self._checked_at = float("-inf")

    def begin(self, told_s: float | None) -> None:
        """Pause after a 429, here and elsewhere, and decrease the limit. `told_s`: the pause it asks for."""
        pause_s = DEFAULT_PAUSE_S if told_s is None else max(told_s, SHORTEST_PAUSE_S)
        self.note(pause_s)
        self._ledger.pause(pause_s)
        self._slots.decrease(pause_s)

    def note(self, seconds: float) -> None:
        """Pause the slots of this run."""
        if self._slots.pause(seconds, "rate limit"):
            log.info("paused %.1f s: the account's rate limit", seconds)

    def ruled_out(self) -> None:
        """Note that the ledger has just shown that there is no pause."""
        self._checked_at = self._clock()

    def is_on(self) -> bool:
        """Return whether there is a pause now. Asks the ledger where the answer is not recent."""
        # Threads that come meanwhile wait for what the first one reads.
        with self._lock:
            if self._clock() - self._checked_at > KNOWN_WITHIN_S:
                seconds = self._ledger.paused_for()
                if seconds:
                    self.note(seconds)
                self._checked_at = self._clock()
        return self._slots.pause_state[0] > 0
