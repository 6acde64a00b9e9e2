"""v2 jobs: their states, their records, which expire, and their pictures, which stay longer.

A running job is a timer and a few hundred bytes. Its picture is drawn when it is requested.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kontext_pipeline.sandbox.api_models import State
from kontext_pipeline.sandbox.renderer import PictureSpec

QUEUED_SHARE: Final = 0.05
"""The share of a job's time in which it is QUEUED."""


@dataclass(slots=True, eq=False)
class Job:
    """One v2 request. Times are seconds of `time.monotonic`."""

    id: str
    key: str
    occurrence: str
    """Which request it is, and for which time: the same in every run."""
    spec: PictureSpec
    started: float
    total_s: float
    ended: float | None = None
    error: str | None = None
    cost: float = 0.0
    remaining_credits: float = 0.0
    expired: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def state(self) -> State:
        """The state in which the job is now."""
        if self.ended is not None:
            return "FAILED" if self.error is not None else "COMPLETED"
        return "QUEUED" if self.elapsed_s < self.queue_s else "PROCESSING"

    @property
    def queue_s(self) -> float:
        """Seconds in which it is QUEUED."""
        return self.total_s * QUEUED_SHARE

    @property
    def elapsed_s(self) -> float:
        """Seconds from the submission to now or to the end."""
        return (self.ended if self.ended is not None else time.monotonic()) - self.started


@dataclass(frozen=True, slots=True)
class Output:
    """A picture that can be requested by name until it expires."""

    spec: PictureSpec
    occurrence: str
    expires: float


class JobTable:
    """The records and pictures that have not expired."""

    def __init__(self, *, record_ttl_s: float, file_ttl_s: float) -> None:
        self._record_ttl_s = record_ttl_s
        self._file_ttl_s = file_ttl_s
        self._running: dict[str, Job] = {}
        self._ended: dict[str, Job] = {}
        self._outputs: dict[str, Output] = {}

    def add(self, job: Job, *, runs_s: float | None, at_end: Callable[[Job], None]) -> None:
        """Add `job`, and call `at_end` in `runs_s` seconds. None: the job never ends."""
        self._running[job.id] = job
        if runs_s is not None:
            job.timer = asyncio.get_running_loop().call_later(runs_s, self._end, job, at_end)

    def find(self, job_id: str, key: str) -> Job | None:
        """Return the job if `key` submitted it and its record has not expired."""
        job = self._running.get(job_id) or self._ended.get(job_id)
        return None if job is None or job.key != key or job.expired or self._is_over(job) else job

    def add_output(self, name: str, spec: PictureSpec, occurrence: str) -> None:
        """Make a picture available by name."""
        # Both tables are in the order in which their entries expire.
        while self._outputs and self.output(oldest := next(iter(self._outputs))) is None:
            del self._outputs[oldest]
        self._outputs[name] = Output(spec, occurrence, time.monotonic() + self._file_ttl_s)

    def output(self, name: str) -> Output | None:
        """Return the picture called `name` if it has not expired."""
        output = self._outputs.get(name)
        return output if output is not None and time.monotonic() < output.expires else None

    def drop_output(self, name: str) -> None:
        """Forget a picture before its time."""
        self._outputs.pop(name, None)

    def running(self) -> list[Job]:
        """Return the jobs that have not ended."""
        return list(self._running.values())

    def close(self) -> None:
        """Cancel every timer: running jobs never end."""
        for job in self._running.values():
            if job.timer is not None:
                job.timer.cancel()

    def _end(self, job: Job, at_end: Callable[[Job], None]) -> None:
        job.ended = time.monotonic()
        while self._ended and self._is_over(next(iter(self._ended.values()))):
            del self._ended[next(iter(self._ended))]
        self._ended[job.id] = self._running.pop(job.id)
        at_end(job)

    def _is_over(self, job: Job) -> bool:
        return job.ended is not None and time.monotonic() > job.ended + self._record_ttl_s
