"""Fetch ahead: items wait here until their input picture was looked at, so that no slot waits for it.

Items pass in the order in which their pictures are there: a slow host holds up its own rows.
"""

import threading
from collections import deque
from typing import Final

from kontext_pipeline.generation.input_images import InputImages
from kontext_pipeline.generation.run_state import RunState
from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.generation.work_queue import WorkQueue

CAPACITY_BYTES: Final = 8 * 2**20
"""Memory of the items that wait, at most: some 4,000, or few whose pictures are data URIs."""
ITEM_BYTES: Final = 2048
"""Memory of an item without its input's URI."""


class InputStage:
    """The stage between the source of items and the queue. One thread runs it; the pictures have threads of their own."""

    def __init__(
        self, *, run: RunState, queue: WorkQueue, inputs: InputImages, capacity_bytes: int = CAPACITY_BYTES
    ) -> None:
        """Join the stage to the queue behind it."""
        self._run = run
        self._queue = queue
        self._inputs = inputs
        self._capacity = capacity_bytes
        self._condition = threading.Condition()
        self._ready: deque[WorkItem] = deque()
        self._count = self._bytes = 0
        self._closed = False

    def put(self, item: WorkItem) -> bool:
        """Add an item, as soon as there is room. Return False where the run is over."""
        with self._condition:
            self._condition.wait_for(lambda: self._bytes < self._capacity or self._closed)
            if self._closed:
                return False
            self._count += 1
            self._bytes += _bytes_of(item)
        if not self._inputs.prepare(item.request, lambda: self._is_ready(item)):
            self._is_ready(item)
        return True

    def work(self) -> None:
        """Pass items on until the stage is closed. The body of the stage's thread."""
        while (item := self._take()) is not None:
            if not self._queue.put(item):
                self._run.let_go()

    def fetching(self) -> int:
        """Return how many items wait for their input pictures."""
        with self._condition:
            return 0 if self._closed else self._count - len(self._ready)

    def close(self) -> int:
        """Pass nothing more on. Return the number of items that the stage dropped."""
        with self._condition:
            dropped = 0 if self._closed else self._count
            self._closed = True
            self._ready.clear()
            self._condition.notify_all()
            return dropped

    def _is_ready(self, item: WorkItem) -> None:
        with self._condition:
            self._ready.append(item)
            self._condition.notify_all()

    def _take(self) -> WorkItem | None:
        with self._condition:
            self._condition.wait_for(lambda: self._ready or self._closed)
            if self._closed:
                return None
            item = self._ready.popleft()
            self._count -= 1
            self._bytes -= _bytes_of(item)
            self._condition.notify_all()
            return item


def _bytes_of(item: WorkItem) -> int:
    return ITEM_BYTES + len(item.request.input_image or "")
