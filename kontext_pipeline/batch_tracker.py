"""Batches of a run: which requests of each still need a picture, and which batches are finished."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import pyarrow as pa

from kontext_pipeline.generation.ledger import Status
from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.planning.estimate import Settled
from kontext_pipeline.planning.plan import Plan, requests_of
from kontext_pipeline.threads import no_thread

log: Final = logging.getLogger(__name__)


class BatchTracker:
    """Gives a run its work items, and writes a batch's table when the last of its items has its outcome.

    A thread writes the tables, so that no request waits for them.
    """

    def __init__(
        self,
        plan: Plan,
        keys: Sequence[str],
        *,
        read_settled: Callable[[], Settled],
        write_table: Callable[[str], None],
        on_finished: Callable[[str], None] = lambda _key: None,
    ) -> None:
        """`keys`: the batches to generate. `write_table` is given a batch's key.

        `on_finished` is given the key of each finished batch after its table was written. It must not take long: the
        next table waits for it.

        Raises:
            NoThreadError: the thread can't be started.
        """
        self.finished: list[str] = []
        """Batches of which every request has its outcome."""
        self._plan = plan
        self._keys = list(keys)
        self._read_settled = read_settled
        self._write_table = write_table
        self._on_finished = on_finished
        self._lock = threading.Lock()
        self._left: Counter[str] = Counter()
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tables")
        try:
            # Starts its thread now: later, the system may have room for none.
            self._writer.submit(dict)
        except RuntimeError as error:
            raise no_thread(error) from None
        self._writes: dict[str, Future[None]] = {}

    @property
    def left(self) -> int:
        """Work items that were handed out and have no outcome."""
        return self._left.total()

    def work_items(self) -> Iterator[WorkItem]:
        """Yield every request that has no outcome yet, batch after batch, once per batch."""
        nothing_to_do = []
        # Read now, not earlier: before it takes the first item, a run settles requests that dead runs left.
        settled = self._read_settled()
        for key in self._keys:
            items = self._items_of(key, settled)
            with self._lock:
                self._left[key] = len(items)
                if not items:
                    self.finished.append(key)
                    nothing_to_do.append(key)
            yield from items
        # Their tables are written last: requests should not wait for them.
        for key in nothing_to_do:
            self._write(key)

    def has_outcome(self, item: WorkItem, _status: Status) -> None:
        """Count an item's outcome. May be called from any thread."""
        with self._lock:
            self._left[item.batch] -= 1
            if self._left[item.batch]:
                return
            self.finished.append(item.batch)
        log.debug("Every request of the batch has its outcome.", extra={"batch": item.batch})
        self._write(item.batch)

    def close(self) -> None:
        """Write the tables that are not written yet, also of unfinished batches.

        Raises:
            Exception: the first one that writing a table has raised.
        """
        self._writer.shutdown()
        finished = set(self.finished)
        for key in self._keys:
            if key not in self._writes or self._writes[key].exception():
                (self._write_finished if key in finished else self._write_table)(key)
        for write in self._writes.values():
            write.result()

    def _items_of(self, key: str, settled: Settled) -> list[WorkItem]:
        batch = self._plan.batch_table(key)
        fingerprints = batch["fingerprint"].to_pylist()
        succeeded, given_up = settled(fingerprints)
        left = [one not in succeeded and one not in given_up for one in fingerprints]
        if not any(left):
            return []
        # Rows of a batch may share a request.
        requests = dict(requests_of(batch.filter(pa.array(left))))
        return [WorkItem(fingerprint, key, request) for fingerprint, request in requests.items()]

    def _write(self, key: str) -> None:
        self._writes[key] = self._writer.submit(self._write_finished, key)

    def _write_finished(self, key: str) -> None:
        self._write_table(key)
        self._on_finished(key)
