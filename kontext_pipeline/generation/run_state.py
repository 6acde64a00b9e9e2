"""What all stages of one run share: whether the run goes on, how much work is in hand, and its figures."""

import errno
import logging
import threading
from collections import Counter
from collections.abc import Callable

from kontext_pipeline.errors import KontextError, PlanError
from kontext_pipeline.generation.image_store import StoreFull
from kontext_pipeline.generation.ledger import Status
from kontext_pipeline.generation.progress import Progress, Stop
from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.segmind.outcomes import Cause

log = logging.getLogger(__name__)


def stop_of(error: BaseException) -> Stop:
    """Return the stop that an error means: of the plan, of the disk, of the ledger, or a defect of ours, which is logged."""
    match error:
        case StoreFull():
            return Stop(Cause.DISK_FULL, str(error))
        case PlanError():
            return Stop(Cause.MANIFEST, str(error))
        case KontextError():
            return Stop(Cause.LEDGER, str(error))
        case OSError():
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            where = f"{error.filename}: " if error.filename else ""
            return Stop(
                Cause.DISK_FULL if full else Cause.FILES,
                f"{where}{error.strerror or error}. {'Make room' if full else 'Mend that'} and start again to continue: "
                "what was paid for is kept.",
            )
    log.error("a defect stops the run", exc_info=error)
    return Stop(Cause.FAULT, f"{type(error).__name__}: {error}")


class RunState:
    """The state of one run. Thread-safe.

    Work is in hand from the moment when the run takes an item, or an earlier run's job, until the run is
    through with it: it has its outcome, or it is left to a later run. A run ends when its source is
    exhausted, or it was stopped, and no work is in hand.
    """

    def __init__(self, on_outcome: Callable[[WorkItem, Status], None]) -> None:
        """`on_outcome` is called, from any thread, for each item that has its outcome."""
        self._on_outcome = on_outcome
        self._condition = threading.Condition()
        self._in_hand = 0
        self._source_exhausted = False
        self._stop: Stop | None = None
        self._error: BaseException | None = None
        self._stop_callbacks: list[Callable[[], None]] = []
        self._counts: Counter[str] = Counter()
        self._spent = 0
        self._possibly_charged = 0

    # --- whether the run goes on ----------------------------------------------------------------

    @property
    def stopped(self) -> Stop | None:
        """Why the run was stopped; None while it goes on or after it came to its end."""
        return self._stop

    @property
    def error(self) -> BaseException | None:
        """The error that the caller of the run gets: of the source of items, or a defect of ours."""
        return self._error

    def when_stopped(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, from the thread that stops the run."""
        self._stop_callbacks.append(callback)

    def stop(self, cause: Cause, message: str) -> None:
        """Send nothing more. The first call counts; later ones change nothing."""
        with self._condition:
            first = self._stop is None
            if first:
                self._stop = Stop(cause, message)
                self._condition.notify_all()
        if first:
            # INFO: the command line prints the message itself, and Dagster has it in the failure of the step.
            log.info("the run stops: %s", message, extra={"cause": cause})
            for callback in self._stop_callbacks:
                callback()

    def stop_for(self, error: Exception) -> None:
        """Stop because of an error: of the disk, of the ledger, or a defect of ours."""
        stop = stop_of(error)
        if stop.cause is Cause.FAULT:
            self._keep_error(error)
        self.stop(stop.cause, stop.message)

    def source_failed(self, error: BaseException) -> None:
        """Stop because the source of items raised `error`; the caller of the run gets it."""
        self._keep_error(error)
        stop = stop_of(error)
        self.stop(stop.cause, stop.message)

    def _keep_error(self, error: BaseException) -> None:
        with self._condition:
            self._error = self._error or error

    # --- work in hand ---------------------------------------------------------------------------

    def take_in_hand(self) -> None:
        """Count an item or a job that the run takes."""
        with self._condition:
            self._in_hand += 1

    def let_go(self, count: int = 1) -> None:
        """Count items or jobs that have their outcome or are left to a later run."""
        with self._condition:
            self._in_hand -= count
            if self._in_hand == 0:
                self._condition.notify_all()

    def source_exhausted(self) -> None:
        """Note that no more items will come."""
        with self._condition:
            self._source_exhausted = True
            self._condition.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the run has ended or was stopped; return whether one of both happened in time."""
        with self._condition:
            return self._condition.wait_for(self._ended_or_stopped, timeout_s)

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until no work is in hand; return whether that happened in time."""
        with self._condition:
            return self._condition.wait_for(lambda: self._in_hand == 0, timeout_s)

    def _ended_or_stopped(self) -> bool:
        return self._stop is not None or (self._source_exhausted and self._in_hand == 0)

    # --- figures --------------------------------------------------------------------------------

    def finish(self, item: WorkItem, status: Status, *, found: bool = False) -> None:
        """Record the outcome of an item. `found`: it had its outcome before this run sent anything."""
        with self._condition:
            self._counts["found" if found and status == "succeeded" else status] += 1
        self._on_outcome(item, status)
        self.let_go()

    def count_attempt(self) -> None:
        """Count a POST."""
        with self._condition:
            self._counts["attempts"] += 1

    def count_money(self, *, spent: int = 0, possibly_charged: int = 0) -> None:
        """Add amounts, in millionths of a USD, of an attempt that was settled."""
        with self._condition:
            self._spent += spent
            self._possibly_charged += possibly_charged

    def progress(self) -> Progress:
        """Return the figures that the run state knows; slots and queue know the others."""
        with self._condition:
            return Progress(
                succeeded=self._counts["succeeded"],
                found=self._counts["found"],
                failed=self._counts["failed"],
                unknown=self._counts["unknown"],
                attempts=self._counts["attempts"],
                spent=self._spent,
                possibly_charged=self._possibly_charged,
            )
