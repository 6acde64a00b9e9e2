"""Jobs for which a run no longer waits, what they hold of the budgets, and the items that depend on them."""

import threading
from dataclasses import dataclass, field

from kontext_pipeline.generation.work import WorkItem


@dataclass(slots=True)
class _OverdueJob:
    price: int
    parked: list[WorkItem] = field(default_factory=list)


class OverdueJobs:
    """The overdue v2 jobs of one run, by fingerprint. Thread-safe.

    Their attempts stay open for a later run. Items that ask for the same request are parked: the run does
    not wait for them either, unless the job finishes while the run has other work.
    """

    def __init__(self) -> None:
        """Start without overdue jobs."""
        self._jobs: dict[str, _OverdueJob] = {}
        self._lock = threading.Lock()

    def add(self, fingerprint: str, price: int) -> None:
        """Add a job that holds `price` (millionths of a USD)."""
        with self._lock:
            self._jobs[fingerprint] = _OverdueJob(price)

    def park(self, item: WorkItem) -> bool:
        """Park an item whose job is overdue. Return False where it has no such job."""
        with self._lock:
            job = self._jobs.get(item.fingerprint)
            if job is not None:
                job.parked.append(item)
            return job is not None

    def remove(self, fingerprint: str) -> list[WorkItem]:
        """Remove a job that was collected after all. Return the items that were parked for it."""
        with self._lock:
            job = self._jobs.pop(fingerprint, None)
            return [] if job is None else job.parked

    def amount_held(self) -> int:
        """Return what the jobs hold of the budgets, in millionths of a USD."""
        with self._lock:
            return sum(job.price for job in self._jobs.values())
