"""Threads that take tasks as they fall due, and are woken one at a time.

What the tasks are, and which comes first, is the caller's to say (`take`, `next_due`). Here is only how
threads wait: a wake-up that finds nothing to do costs as much as one that does, so whoever takes a task
summons the next thread, one of the idle ones (the sentry) watches for what is due at a time, and all the
others sleep until they are called.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Task = Callable[[], None]


FAR_S: Final = 0.05
"""A task that takes longer than this waits for something elsewhere, not for this machine's processor."""
_NEWEST: Final = 0.2
"""Weight of the newest task in the average of how long they take."""


@dataclass(slots=True)
class Lane:
    """One kind of task: a few at a time where they are work for this machine, many where they wait for another.

    A few threads that are never idle get more done than many that take the processor from each other. But a
    distant server, or a store on the network, is to be asked for many things at once.
    """

    few: int
    most: int
    active: int = 0
    _usual_s: float = 0.0
    _moved: float = 0.0

    def opens(self, few: int | None = None) -> float | None:
        """When the next may begin, on the monotonic clock; None where that depends on one's ending. `few`: other
        than usual.
        """
        if self.active < (self.most if self._usual_s > FAR_S else min(few or self.few, self.most)):
            return 0.0
        # One that got stuck does not hold up the others.
        return self._moved + FAR_S if self.active < self.most else None

    def begin(self) -> None:
        """One begins."""
        self.active += 1
        self._moved = time.monotonic()

    def end(self, taken_s: float) -> None:
        """One has ended that took so long."""
        self.active -= 1
        self._moved = time.monotonic()
        self._usual_s += _NEWEST * (taken_s - self._usual_s)


class Crew:
    """The threads. Everything but `start` and `close` is called with `lock` held."""

    def __init__(
        self,
        lock: threading.RLock,
        *,
        take: Callable[[float], Task | None],
        next_due: Callable[[], float | None],
        freed: Callable[[], None],
        failed: Callable[[Exception], None],
        most: int,
    ) -> None:
        """`take` gives what is due now (monotonic), `next_due` says when something will be: with the lock held
        both, and `freed` too, after each task. `failed` is told what a task raised. `most`: threads.
        """
        self._lock = lock
        self._take = take
        self._next_due = next_due
        self._freed = freed
        self._failed = failed
        self._most = most
        self._call = threading.Condition(lock)
        self._alarm = threading.Condition(lock)
        self._sentry_until: float | None = None
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._over = False
        self.busy = 0
        """Tasks that are being done."""

    def summon(self) -> None:
        """See that somebody takes what is due, or watches for it: wake a thread, or start one."""
        due = self._next_due()
        if due is None:
            return
        watched = self._sentry_until is not None
        if watched and due > time.monotonic():
            if due < (self._sentry_until or 0.0):
                self._alarm.notify()
        elif self._idle > watched:
            self._call.notify()
        elif watched:
            self._alarm.notify()
        elif len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=f"crew-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Let every thread end after its task."""
        with self._lock:
            self._over = True
            self._call.notify_all()
            self._alarm.notify_all()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception as error:  # noqa: BLE001  the caller's to judge; the others go on
                self._failed(error)
            finally:
                with self._lock:
                    self.busy -= 1
                    self._freed()

    def _next(self) -> Task | None:
        with self._lock:
            while not self._over:
                task = self._take(time.monotonic())
                if task is not None:
                    self.busy += 1
                    self.summon()
                    return task
                self._idle += 1
                due = self._next_due()
                if due is None or self._sentry_until is not None:
                    self._call.wait()
                else:
                    self._sentry_until = due
                    self._alarm.wait(max(0.0, due - time.monotonic()))
                    self._sentry_until = None
                self._idle -= 1
            return None
