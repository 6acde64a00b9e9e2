"""Which address is fetched next: a few of each host at a time, hosts in turn, and failed ones after their pause."""

import heapq
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from kontext_pipeline.inputs.input_address import InputAddress


class FetchQueue:
    """A queue in which the addresses of one host never hold up those of another. Thread-safe."""

    def __init__(self, per_host: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_host`: addresses of one host that are taken and not `done`, at most. `clock`: monotonic seconds."""
        self._per_host = per_host
        self._clock = clock
        self._condition = threading.Condition()
        self._waiting: dict[str, deque[InputAddress]] = {}
        """By host, in turn: the first host with room is next, and goes to the end."""
        self._paused: list[tuple[float, int, InputAddress]] = []
        self._numbers = itertools.count()
        self._taken: Counter[str] = Counter()
        self._closed = False

    def put(self, address: InputAddress, pause_s: float = 0.0) -> None:
        """Add an address, to be taken in `pause_s` seconds at the earliest."""
        with self._condition:
            if pause_s > 0:
                heapq.heappush(self._paused, (self._clock() + pause_s, next(self._numbers), address))
            else:
                self._waiting.setdefault(address.host, deque()).append(address)
            self._condition.notify()

    def take(self) -> InputAddress | None:
        """Return the next address, as soon as there is one; None where the queue is closed. Call `done` for it."""
        with self._condition:
            while not self._closed:
                while self._paused and self._paused[0][0] <= self._clock():
                    address = heapq.heappop(self._paused)[2]
                    self._waiting.setdefault(address.host, deque()).append(address)
                host = next((host for host in self._waiting if self._taken[host] < self._per_host), None)
                if host is not None:
                    return self._next_of(host)
                self._condition.wait(self._paused[0][0] - self._clock() if self._paused else None)
            return None

    def done(self, address: InputAddress) -> None:
        """Note that an address is not fetched any more."""
        with self._condition:
            self._taken[address.host] -= 1
            self._condition.notify()

    def close(self) -> None:
        """Give out nothing more."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _next_of(self, host: str) -> InputAddress:
        waiting = self._waiting.pop(host)
        address = waiting.popleft()
        if waiting:
            self._waiting[host] = waiting
        self._taken[host] += 1
        return address
