"""The queue of the job poller: pending jobs by the time when they are to be asked for next."""

import heapq
import threading
from collections.abc import Callable
from typing import Final

from kontext_pipeline.generation.work import PendingJob

FEW_THREADS: Final = 2
"""Threads that ask for jobs without a look at each other."""
NETWORK_WAIT_S: Final = 0.01
"""Time without a new exchange after which all busy threads are taken to wait for the network, seconds."""


class DueJobs:
    """Pending jobs, each with the time when it is due. Thread-safe; several threads take jobs.

    Threads that compute take the interpreter from each other, which costs more than they gain. So a thread that has
    just asked for a job takes the next one at once, and an idle thread joins `FEW_THREADS` busy ones only when all of
    them wait for the network.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._clock = clock
        lock = threading.Lock()
        self._idle = threading.Condition(lock)
        # One thread waits here for the time of the next job: the others would all wake up with it.
        self._next_due = threading.Condition(lock)
        self._waited_for = False
        self._heap: list[tuple[float, int, PendingJob]] = []
        self._busy = 0
        self._taken_at = float("-inf")
        self._closed = False

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_time(self) -> float | None:
        """The monotonic time when the next job is due; None where there is none."""
        return self._heap[0][0] if self._heap else None

    @property
    def times(self) -> list[float]:
        """The monotonic times when the jobs are due, in ascending order."""
        return sorted(due for due, _, _ in self._heap)

    def add(self, pending: PendingJob, pause_s: float) -> bool:
        """Let a job be due in `pause_s` seconds. Return False where the queue is closed."""
        with self._idle:
            if self._closed:
                return False
            due = self._clock() + pause_s
            first = not self._heap or due < self._heap[0][0]
            heapq.heappush(self._heap, (due, pending.sent.attempt, pending))
            if first:
                self._wake_one()
            return True

    def take(self, *, asked: bool) -> PendingJob | None:
        """Return the next job that is due, as soon as one is; None where the queue is closed.

        `asked`: the thread has asked for the job that it took before.
        """
        with self._idle:
            self._busy -= asked
            while not self._closed:
                wait_s = self._wait_s(asked=asked)
                if wait_s is not None and wait_s <= 0:
                    pending = heapq.heappop(self._heap)[2]
                    self._busy += 1
                    self._taken_at = self._clock()
                    if self._heap and not self._waited_for:
                        self._idle.notify()
                    return pending
                asked = False
                if wait_s is None or self._waited_for:
                    self._idle.wait()
                    continue
                self._waited_for = True
                self._next_due.wait(wait_s)
                self._waited_for = False
            return None

    def _wait_s(self, *, asked: bool) -> float | None:
        """Return the seconds until a thread may take the next job; None where there is none."""
        if not self._heap:
            return None
        due = self._heap[0][0]
        if not asked and self._busy >= FEW_THREADS:
            due = max(due, self._taken_at + NETWORK_WAIT_S)
        return due - self._clock()

    def reschedule(self, due_of: Callable[[float, PendingJob], float]) -> None:
        """Let each job be due at `due_of` its present time and the job."""
        with self._idle:
            self._heap = [(due_of(due, job), attempt, job) for due, attempt, job in self._heap]
            heapq.heapify(self._heap)
            self._wake_one()

    def close(self) -> list[PendingJob]:
        """Give out no job any more, end every wait, and return the jobs that were waiting."""
        with self._idle:
            self._closed = True
            dropped = [pending for _, _, pending in self._heap]
            self._heap.clear()
            self._idle.notify_all()
            self._next_due.notify()
            return dropped

    def _wake_one(self) -> None:
        (self._next_due if self._waited_for else self._idle).notify()
