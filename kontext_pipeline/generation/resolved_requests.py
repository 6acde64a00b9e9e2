"""The queue between the resolvers and the reserver: requests that wait to be reserved."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from kontext_pipeline.generation.work import ResolvedRequest


class ResolvedRequests:
    """A bounded queue with many producers and one consumer, which takes several requests at once. Thread-safe."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: requests that may wait before `offer` blocks."""
        self._capacity = capacity
        lock = threading.Lock()
        # Two conditions of one lock: room for a request must not wake every thread that offers one.
        self._ready = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._waiting: deque[ResolvedRequest] = deque()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[ResolvedRequest]:
        return iter(tuple(self._waiting))

    def offer(self, request: ResolvedRequest) -> bool:
        """Add a request, as soon as there is room. Return False where the queue is closed."""
        with self._room:
            self._room.wait_for(lambda: len(self._waiting) < self._capacity or self._closed)
            if not self._closed:
                self._waiting.append(request)
                self._ready.notify()
            return not self._closed

    def take(self, count: int) -> list[ResolvedRequest]:
        """Remove and return the first requests, at most `count`."""
        with self._room:
            taken = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
            self._room.notify(len(taken))
            return taken

    def put_back(self, requests: Sequence[ResolvedRequest]) -> None:
        """Add requests again, before the others and in their order."""
        with self._room:
            self._waiting.extendleft(reversed(requests))

    def wait(self, pause_s: Callable[[], float | None]) -> bool:
        """Wait until there is a request and `pause_s` returns 0 or less. Return False where the queue is closed.

        `pause_s` returns the seconds until the consumer can use a request, None where nobody knows. It is called
        again after `wake`, after an `offer`, and after those seconds.
        """
        with self._ready:
            while not self._closed:
                seconds = pause_s() if self._waiting else None
                if seconds is not None and seconds <= 0:
                    return True
                self._ready.wait(seconds)
            return False

    def wake(self) -> None:
        """Let the thread in `wait` look again."""
        with self._ready:
            self._ready.notify()

    def close(self) -> None:
        """Accept no request any more, and end every wait."""
        with self._room:
            self._closed = True
            self._ready.notify()
            self._room.notify_all()
