"""Measures the quality of a run's pictures in a thread of its own, so that no request waits for a measure.

Whatever goes wrong is a warning: the pictures are there, and the next run measures what is missing.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final, Self

from upath import UPath

from kontext_pipeline.dataset.quality.dataset_measuring import Measured, measure_batches
from kontext_pipeline.dataset.quality.plug_ins import words_of
from kontext_pipeline.dataset.quality.thresholds import Thresholds
from kontext_pipeline.threads import NoThreadError, start_thread

log: Final = logging.getLogger(__name__)


STOP_WAIT_S: Final = 5.0
"""Longest wait at a stop for the pictures that are being measured, seconds."""


class QualityRun(AbstractContextManager["QualityRun"]):
    """Measures the batches that it is given, one after another. Any number of threads may give batches.

    Leaving the `with` block ends it: what is not measured by then is left to the next run.
    """

    def __init__(self, data_dir: UPath, thresholds: Thresholds) -> None:
        """Measure pictures of this data directory, also with the plug-ins that are installed."""
        self.measured = Measured()
        """What was measured so far; kept up to date."""
        self.wanted = 0
        """Batches that were given."""
        self._data_dir = data_dir
        self._thresholds = thresholds
        self._keys: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        try:
            # Now: during the run, the system may have room for no other thread.
            start_thread(self._work, "quality")
        except NoThreadError as error:
            log.warning("No picture is measured in this run: %s", error)
            self._over.set()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._keys.put(None)
        # A plug-in may take long; the thread ends with the process, and no file is ever half-written.
        self._over.wait(STOP_WAIT_S)

    def add(self, key: str) -> None:
        """Measure a batch, whose metadata table is written, when the batches before it are measured."""
        with self._lock:
            self.wanted += 1
        self._keys.put(key)

    def finish(self, keys: Iterable[str], *, meanwhile: Callable[["QualityRun"], object] = bool) -> None:
        """Measure these batches too, where they lack anything, and wait for the end. `meanwhile` is called now and then."""
        for key in keys:
            self.add(key)
        self._keys.put(None)
        while not self._over.wait(0.2):
            meanwhile(self)

    def _work(self) -> None:
        try:
            keys = iter(self._keys.get, None)
            measure_batches(self._data_dir, keys, self._thresholds, stopped=self._stopped.is_set, counts=self.measured)
        except Exception as error:
            log.warning("The quality tables are not up to date, the next run writes them: %s", words_of(error))
            log.debug("measuring has failed", exc_info=error)
        finally:
            self._over.set()
