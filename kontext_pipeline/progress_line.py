"""The progress of a run in one line: counts, money, and why requests wait. `Watcher` shows it now and then."""

import math
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from kontext_pipeline.threads import start_thread

if TYPE_CHECKING:
    from kontext_pipeline.generation.progress import Progress

T = TypeVar("T")


class Watcher(Generic[T]):
    """Shows a run's progress now and then while its `with` block runs, and once at the end of the block."""

    def __init__(self, show: Callable[[T], None], pauses: Iterable[float]) -> None:
        """`show` is called in a thread, after each of the endless `pauses` (seconds)."""
        self._show = show
        self._pauses = pauses
        self._read: Callable[[], T] | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, read: Callable[[], T]) -> None:
        """Show the run whose progress `read` returns: this is the `watch` of `Pipeline.run`."""
        self._read = read

    @property
    def progress(self) -> T | None:
        """The progress at this moment; None until the run starts."""
        return self._read() if self._read else None

    def __enter__(self) -> Self:
        self._thread = start_thread(self._run, "progress")
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._show_progress()

    def _run(self) -> None:
        for pause in self._pauses:
            if self._over.wait(pause):
                return
            self._show_progress()

    def _show_progress(self) -> None:
        if (progress := self.progress) is not None:
            self._show(progress)


def details(progress: "Progress") -> str:
    """Return failures, requests in flight and money."""
    # Imported here: the ledger's libraries take longer to load than a Dagster code location should.
    from kontext_pipeline.generation.ledger.money import usd

    unknown = f", {progress.unknown:,} unknown" if progress.unknown else ""
    possibly = f" (+{usd(progress.possibly_charged):,.2f} possibly)" if progress.possibly_charged else ""
    spent = f"{usd(progress.spent):,.2f} USD spent{possibly}"
    return f"{progress.failed:,} failed{unknown}, {progress.in_flight:,} in flight, {spent}"


def delays(progress: "Progress", now: float) -> str:
    """Return why requests wait, such as "paused 12 s: rate limit"; empty if none does. `now`: monotonic time, seconds."""
    reasons = []
    if progress.paused_until > now:
        reasons.append(f"paused {math.ceil(progress.paused_until - now):,} s: {progress.pause_reason}")
    if progress.fetching and not progress.in_flight:
        # Beside requests in flight it is no reason to wait: pictures are fetched ahead.
        reasons.append(f"{progress.fetching:,} waiting for their input pictures")
    waiting = progress.waiting
    if waiting:
        names = [reason if len(waiting) == 1 else f"{reason} ({count:,})" for reason, count in waiting.items()]
        reasons.append(f"{sum(waiting.values()):,} waiting to retry: {', '.join(names)}")
    return "; ".join(reasons)
