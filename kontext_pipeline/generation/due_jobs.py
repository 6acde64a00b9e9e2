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

_Heap = list[tuple[float, int, PendingJob]]


class DueJobs:
    """Pending jobs, each with the time when it is due. Thread-safe; several threads take jobs.

    Of two jobs that are due, one to poll comes before one whose image is to be fetched: its slot may be free.

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
        self._polls: _Heap = []
        self._fetches: _Heap = []
        self._busy = 0
        self._taken_at = float("-inf")
        self._closed = False

    def __len__(self) -> int:
        return len(self._polls) + len(self._fetches)

    @property
    def next_time(self) -> float | None:
        """The monotonic time when the next job is due; None where there is none."""
        return min((heap[0][0] for heap in (self._polls, self._fetches) if heap), default=None)

    @property
    def times(self) -> list[float]:
        """The monotonic times when the jobs are due, in ascending order."""
        return sorted(due for due, _, _ in self._polls + self._fetches)

    def add(self, pending: PendingJob, pause_s: float) -> bool:
        """Let a job be due in `pause_s` seconds. Return False where the queue is closed."""
        with self._idle:
            if self._closed:
                return False
            before = self.next_time
            due = self._clock() + pause_s
            heap = self._polls if pending.completed is None else self._fetches
            heapq.heappush(heap, (due, pending.sent.attempt, pending))
            if before is None or due < before:
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
                    self._busy += 1
                    self._taken_at = self._clock()
                    pending = self._pop()
                    if len(self) and not self._waited_for:
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
        due = self.next_time
        if due is None:
            return None
        if not asked and self._busy >= FEW_THREADS:
            due = max(due, self._taken_at + NETWORK_WAIT_S)
        return due - self._clock()

    def _pop(self) -> PendingJob:
        """Remove and return a job that is due: one to poll where there is one, as its slot may be free."""
        poll_first = self._polls and (self._polls[0][0] <= self._taken_at or not self._fetches)
        return heapq.heappop(self._polls if poll_first else self._fetches)[2]

    def reschedule(self, due_of: Callable[[float, PendingJob], float]) -> None:
        """Let each job that is to be polled be due at `due_of` its present time and the job."""
        with self._idle:
            self._polls = [(due_of(due, job), attempt, job) for due, attempt, job in self._polls]
            heapq.heapify(self._polls)
            self._wake_one()

    def close(self) -> list[PendingJob]:
        """Give out no job any more, end every wait, and return the jobs that were waiting."""
        with self._idle:
            self._closed = True
            dropped = [pending for _, _, pending in self._polls + self._fetches]
            self._polls.clear()
            self._fetches.clear()
            self._idle.notify_all()
            self._next_due.notify()
            return dropped

    def _wake_one(self) -> None:
        (self._next_due if self._waited_for else self._idle).notify()
