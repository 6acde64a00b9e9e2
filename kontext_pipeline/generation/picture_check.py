"""The last check of pictures, off the way of requests: each is decoded whole before its batch counts as complete."""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Final

from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.ledger import Ledger, Status
from kontext_pipeline.generation.ledger.withdrawal import pictures_of, withdraw_picture
from kontext_pipeline.generation.work import WorkItem

GROUP: Final = 32
"""Pictures that are looked up in the ledger together."""
log: Final = logging.getLogger(__name__)


class PictureCheck(AbstractContextManager["PictureCheck"]):
    """Decodes pictures in a thread of its own. Thread-safe. Use it in a `with` block, or call `close`."""

    def __init__(self, ledger: Ledger, store: ImageStore) -> None:
        """Start without pictures."""
        self._database = ledger.database
        self._store = store
        self._lock = threading.Lock()
        self._waiting: defaultdict[str, list[str]] = defaultdict(list)
        self._begun: defaultdict[str, list[Future[None]]] = defaultdict(list)
        self._noted: defaultdict[str, set[str]] = defaultdict(set)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pictures")

    def add(self, item: WorkItem, status: Status) -> None:
        """Note the outcome of an item. May be called from any thread."""
        if status == "succeeded":
            with self._lock:
                self._noted[item.batch].add(item.fingerprint)
                self._waiting[item.batch].append(item.fingerprint)
                if len(self._waiting[item.batch]) >= GROUP:
                    self._begin(item.batch)

    def finish(self, batch: str, others: Iterable[str] = ()) -> None:
        """Wait until every picture of a batch that was noted is decoded, and those of the requests `others`, too.

        A damaged one was paid for and is of no use: it is set aside, its attempt is charged without a picture, and a
        later run asks for it again within `KONTEXT_UNKNOWN_RETRIES`.

        Raises:
            LedgerError: the ledger can't be read or written.
        """
        with self._lock:
            noted = self._noted.pop(batch, set())
            self._waiting[batch] += [one for one in others if one not in noted]
            self._begin(batch)
            begun = self._begun.pop(batch, [])
        for group in begun:
            group.result()

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread. Pictures that were not decoded yet are not checked."""
        self._thread.shutdown(cancel_futures=True)

    def _begin(self, batch: str) -> None:
        if fingerprints := self._waiting.pop(batch, []):
            self._begun[batch].append(self._thread.submit(self._check, batch, fingerprints))

    def _check(self, batch: str, fingerprints: Sequence[str]) -> None:
        for fingerprint, (path, sha256) in pictures_of(self._database, fingerprints).items():
            damage = self._store.damage(path)
            if damage is None:
                continue
            # The ledger first: where the process dies in between, the next run finds the file and checks it again.
            attempt = withdraw_picture(self._database, fingerprint, sha256, damage)
            kept = self._store.withdraw(path, fingerprint, attempt or 0)
            log.warning(
                "the picture %s is damaged (%s). It is charged, and kept as %s; a later run asks for it again",
                fingerprint[:12],
                damage,
                kept,
                extra={"batch": batch, "attempt": attempt},
            )
