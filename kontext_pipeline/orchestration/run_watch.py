"""Watches the run of a step that spends money, and stops the step where nobody wants its pictures any more.

An executor tells a step of a termination by an interrupt, but not every executor does, and a run process that was killed
tells nothing. The step therefore looks for itself.
"""

import contextlib
import logging
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from dagster import DagsterRunStatus

from kontext_pipeline.threads import start_thread

if TYPE_CHECKING:
    from dagster import DagsterInstance

log: Final = logging.getLogger(__name__)

INTERVAL_S: Final = 2.0
"""Time between two looks, seconds."""
ENDED: Final = {
    DagsterRunStatus.CANCELING: "is terminated",
    DagsterRunStatus.CANCELED: "was terminated",
    DagsterRunStatus.FAILURE: "was marked as failed",
    DagsterRunStatus.SUCCESS: "was marked as successful",
}


class RunWatch:
    """Tells whether a run still wants what one of its steps does."""

    def __init__(self, instance: "DagsterInstance", run_id: str) -> None:
        """Watch the run `run_id` from the process of one of its steps."""
        self._instance = instance
        self._run_id = run_id
        # The run process, under the multiprocess executor; the code server, where the run process is the step's own.
        self._parent = multiprocessing.parent_process()

    def end(self) -> str | None:
        """Return why the step must send nothing more; None while the run goes on."""
        if self._parent is not None and not self._parent.is_alive():
            return f"The process {self._parent.pid} that started this step is gone."
        try:
            run = self._instance.get_run_by_id(self._run_id)
        except Exception as error:
            log.debug("the run's status can't be read", exc_info=error)
            return None
        if run is None:
            return f"The run {self._run_id} was deleted."
        return f"The run {ended}." if (ended := ENDED.get(run.status)) else None

    @contextlib.contextmanager
    def stopping(self, stop: Callable[[str], None]) -> Iterator[None]:
        """Look at intervals while the block runs, and call `stop` once, with the reason, from a thread."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(INTERVAL_S):
                if (reason := self.end()) is not None:
                    stop(f"{reason} Materialize again to continue.")
                    return

        thread = start_thread(watch, "run-watch")
        try:
            yield
        finally:
            over.set()
            thread.join()
