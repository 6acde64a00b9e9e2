"""Collecting input pictures: threads that fetch what is wanted, each picture once, ahead of who needs it."""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Self

from kontext_pipeline.inputs.fetch_queue import FetchQueue
from kontext_pipeline.inputs.input_address import InputAddress
from kontext_pipeline.inputs.input_keeper import FoundInput, InputKeeper
from kontext_pipeline.inputs.input_problems import InputProblem
from kontext_pipeline.segmind.outcomes import Cause

THREADS: Final = 16
PER_HOST: Final = 4
"""Pictures that one host is asked for at a time."""
TRIES: Final = 3
FIRST_PAUSE_S: Final = 1.0
"""Pause before the second try, seconds; it doubles each time."""
TICK_S: Final = 0.5
"""Longest uninterrupted wait, seconds."""
DEAD_HOST: Final = 5
"""Pictures in a row that a host could not give, after which it is not asked any more."""

log = logging.getLogger(__name__)


class InputCollector:
    """The input pictures of one run. Any number of threads may ask for them. Use it in a `with` block."""

    def __init__(
        self,
        keeper: InputKeeper,
        *,
        threads: int = THREADS,
        per_host: int = PER_HOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`threads`: fetches at a time; `per_host`: those of one host. `clock`: monotonic seconds."""
        self.keeper = keeper
        self._queue = FetchQueue(per_host, clock=clock)
        self._most_threads = threads
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        # By `identity`: an address itself may be a picture of megabytes.
        self._outcomes: dict[str, FoundInput | Exception] = {}
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._tries: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def want(self, address: InputAddress, then: Callable[[], None]) -> None:
        """Call `then` once, from any thread, when `get` would return at once. After `close` it may never be called."""
        with self._lock:
            name = address.identity
            known = name in self._outcomes
            if not known and name in self._waiting:
                self._waiting[name].append(then)
                return
            if not known:
                self._waiting[name] = [then]
        if known:
            then()
            return
        self._queue.put(address)
        self._add_thread()

    def get(self, address: InputAddress) -> FoundInput:
        """Return the picture of an address; wait for it where it was not wanted before.

        Raises:
            InputProblem: there is no usable picture.
            InputStoreFull: the store can't be written.
        """
        self.wait(address)
        outcome = self._outcomes[address.identity]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def wait(self, address: InputAddress) -> None:
        """Wait until `get` would return at once.

        Raises:
            InputProblem: the collector was closed meanwhile.
        """
        known = threading.Event()
        self.want(address, known.set)
        while not known.wait(TICK_S):
            if self._closed:
                raise InputProblem(Cause.INPUT_UNREACHABLE, "the run ended before it was fetched")

    def close(self) -> None:
        """End the fetches and write the index.

        Raises:
            InputStoreFull: the index can't be written.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._queue.close()
        self.keeper.close()

    def _add_thread(self) -> None:
        with self._lock:
            if self._closed or len(self._threads) >= min(self._most_threads, len(self._waiting)):
                return
            thread = threading.Thread(target=self._work, name=f"inputs-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (address := self._queue.take()) is not None:
            try:
                self._collect(address)
            except Exception as error:  # noqa: BLE001  whoever asks for the picture gets it
                self._finish(address, error)
            finally:
                self._queue.done(address)

    def _collect(self, address: InputAddress) -> None:
        found = self.keeper.known(address)
        if found is not None:
            self._finish(address, found)
            return
        try:
            if self._failures[address.host] >= DEAD_HOST:
                words = f"{address.host} did not answer for {DEAD_HOST} pictures in a row and is not asked any more"
                raise InputProblem(Cause.INPUT_UNREACHABLE, words)
            found = self.keeper.look(address)
        except InputProblem as problem:
            if self._closed:
                # The end of the run ended the fetch: that says nothing about the picture.
                return
            if problem.transient:
                self._tries[address.identity] += 1
                if self._tries[address.identity] < TRIES:
                    self._queue.put(address, problem.retry_after_s or self._pause(self._tries[address.identity]))
                    return
                self._failures[address.host] += 1
            found = self.keeper.fall_back(address, problem)
        else:
            self._failures[address.host] = 0
        self._finish(address, found)

    @staticmethod
    def _pause(tries: int) -> float:
        return FIRST_PAUSE_S * 2.0 ** (tries - 1) * random.uniform(0.5, 1.0)  # noqa: S311  no secret

    def _finish(self, address: InputAddress, outcome: FoundInput | Exception) -> None:
        with self._lock:
            self._outcomes[address.identity] = outcome
            self._tries.pop(address.identity, None)
            waiting = self._waiting.pop(address.identity, [])
        for then in waiting:
            then()
