"""The slots: how many requests are in flight, and which reservation the next free slot sends."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from kontext_pipeline.generation.concurrency_limit import ConcurrencyLimit
from kontext_pipeline.generation.work import Reservation

NOTABLE_PAUSE_S: Final = 1.0
"""Smallest extension of a pause, in seconds, that is logged: the answers of one burst differ by less."""


class Slots:
    """The slots of one run and the reservations that wait for one. Thread-safe.

    A slot is taken from just before a POST until the answer has arrived (v1) or the job has finished (v2).
    """

    def __init__(
        self,
        concurrency: int,
        *,
        ahead: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`concurrency`: the number of slots. `ahead`: reservations that should wait beyond the free slots."""
        self._limit = ConcurrencyLimit(concurrency, clock=clock)
        self._ahead = ahead
        # Reservations are made in lots, so that several share a transaction.
        self._lot = max(1, ahead // 4)
        self._on_demand: Callable[[], None] = lambda: None
        self._clock = clock
        self._condition = threading.Condition()
        self._reservations: deque[Reservation] = deque()
        self._in_flight = 0
        self._paused_until = 0.0
        self._pause_reason = ""
        self._closed = False

    def call_when_wanted(self, callback: Callable[[], None]) -> None:
        """Call `callback`, which must return at once, whenever more reservations are wanted."""
        self._on_demand = callback

    @property
    def in_flight(self) -> int:
        """The number of slots that are taken."""
        return self._in_flight

    @property
    def pause_state(self) -> tuple[float, str]:
        """The monotonic time until which nothing is sent, and why; (0, "") where there is no pause."""
        with self._condition:
            if self._clock() >= self._paused_until:
                return 0.0, ""
            return self._paused_until, self._pause_reason

    @property
    def filling(self) -> bool:
        """Whether reservations are being sent because slots are free."""
        with self._condition:
            return bool(self._reservations) and not self._closed and self._may_send()

    def wanted(self) -> int:
        """Return how many more reservations should be made now."""
        with self._condition:
            return self._wanted()

    def _wanted(self) -> int:
        free = max(0, self._limit.allowed - self._in_flight)
        missing = free + self._ahead - len(self._reservations)
        return missing if missing >= self._lot else 0

    def put(self, reservation: Reservation, *, first: bool = False) -> bool:
        """Add a reservation; with `first`, before the others. Return False where the slots are closed."""
        with self._condition:
            if self._closed:
                return False
            if first:
                self._reservations.appendleft(reservation)
            else:
                self._reservations.append(reservation)
            self._condition.notify()
            return True

    def take(self) -> Reservation | None:
        """Return a reservation and take a slot, as soon as both are there; None where the slots are closed."""
        with self._condition:
            while not self._closed:
                pause_s = self._paused_until - self._clock()
                if self._reservations and self._may_send():
                    self._in_flight += 1
                    reservation = self._reservations.popleft()
                    wanted = self._wanted()
                    break
                self._condition.wait(pause_s if self._reservations and pause_s > 0 else None)
            else:
                return None
        if wanted:
            self._on_demand()
        return reservation

    def _may_send(self) -> bool:
        return self._in_flight < self._limit.allowed and self._clock() >= self._paused_until

    def occupy(self) -> None:
        """Take a slot for a job that an earlier run submitted, also beyond the limit."""
        with self._condition:
            self._in_flight += 1

    def release(self) -> None:
        """Give a slot back."""
        with self._condition:
            self._in_flight -= 1
            wanted = self._wanted()
            self._condition.notify()
        if wanted:
            self._on_demand()

    def pause(self, seconds: float, reason: str) -> bool:
        """Let no slot send for `seconds`. Return whether the pause became longer by `NOTABLE_PAUSE_S` or more."""
        with self._condition:
            now = self._clock()
            until = now + seconds
            longer_s = until - max(now, self._paused_until)
            if longer_s > 0:
                self._paused_until, self._pause_reason = until, reason
            return longer_s >= NOTABLE_PAUSE_S

    def decrease(self, pause_s: float) -> None:
        """Decrease the limit after a 429 that asks for a pause."""
        with self._condition:
            self._limit.decrease(pause_s)

    def increase(self) -> None:
        """Increase the limit after an image."""
        with self._condition:
            self._limit.increase()

    def lower(self, concurrency: int) -> None:
        """Let at most `concurrency` slots be taken from now on."""
        with self._condition:
            self._limit.lower(concurrency)

    def withdraw(self) -> list[Reservation]:
        """Remove and return the reservations that wait for a slot."""
        with self._condition:
            withdrawn = list(self._reservations)
            self._reservations.clear()
            return withdrawn

    def close(self) -> None:
        """Send nothing more: every thread in `take` gets None."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
