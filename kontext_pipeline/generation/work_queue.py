"""The items that wait to be sent: new ones in the manifest's order, retried ones when their pause is over."""

import heapq
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from kontext_pipeline.generation.work import WorkItem

ASK_AGAIN_S: Final = 0.5
"""Seconds before the run asks again for a request, or for the rest of a budget, that another run holds."""
CLAIMED_ELSEWHERE: Final = "claimed by another run"
"""Why an item waits that another run is at work on."""


@dataclass(order=True, slots=True)
class _Waiting:
    due: float
    number: int
    item: WorkItem = field(compare=False)
    reason: str = field(compare=False)


class WorkQueue:
    """A bounded queue of new items, and the items that wait to be tried again. Thread-safe."""

    def __init__(self, capacity: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`capacity`: new items that `put` accepts before it blocks. `clock`: monotonic seconds."""
        self._capacity = capacity
        self._clock = clock
        lock = threading.Lock()
        self._room = threading.Condition(lock)
        self._due = threading.Condition(lock)
        self._new: deque[WorkItem] = deque()
        self._waiting: list[_Waiting] = []
        self._numbers = itertools.count()
        self._closed = False

    def put(self, item: WorkItem) -> bool:
        """Add a new item, as soon as there is room. Return False where the queue is closed."""
        with self._room:
            self._room.wait_for(lambda: len(self._new) < self._capacity or self._closed)
            if not self._closed:
                self._new.append(item)
                self._due.notify()
            return not self._closed

    def retry(self, item: WorkItem, pause_s: float, reason: str) -> bool:
        """Add an item that is due again in `pause_s` seconds. Return False where the queue is closed."""
        with self._due:
            if not self._closed:
                entry = _Waiting(self._clock() + pause_s, next(self._numbers), item, reason)
                heapq.heappush(self._waiting, entry)
                self._due.notify()
            return not self._closed

    def take(self) -> WorkItem | None:
        """Return the next item, as soon as one is due; None where the queue is closed."""
        with self._due:
            while not self._closed:
                item = self._next_due()
                if item is not None:
                    return item
                self._due.wait(self._waiting[0].due - self._clock() if self._waiting else None)
            return None

    def _next_due(self) -> WorkItem | None:
        if self._waiting and self._waiting[0].due <= self._clock():
            return heapq.heappop(self._waiting).item
        if not self._new:
            return None
        self._room.notify()
        return self._new.popleft()

    def waiting(self) -> dict[str, int]:
        """Return how many items wait to be tried again, by reason."""
        with self._due:
            return dict(Counter(entry.reason for entry in self._waiting))

    def close(self) -> int:
        """Accept and give out nothing more. Return the number of items that the queue dropped."""
        with self._due:
            dropped = len(self._new) + len(self._waiting)
            self._closed = True
            self._new.clear()
            self._waiting.clear()
            self._due.notify_all()
            self._room.notify_all()
            return dropped
