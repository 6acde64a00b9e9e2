"""v2 jobs: their states, the records that expire, and the files that outlive them.

A running job is a timer and a few hundred bytes; its picture is drawn when somebody asks for it.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kontext_pipeline.sandbox.renderer import Recipe
from kontext_pipeline.sandbox.request_log import Entry

State = Literal["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]

QUEUED_PART = 0.05
"""Part of a job's time that it spends QUEUED."""


@dataclass(slots=True, eq=False)
class Job:
    """One v2 request. Times are seconds of `time.monotonic`."""

    id: str
    key: str
    identity: str
    """What was asked for and how often before: the same in every run, as faults need it."""
    entry: Entry
    recipe: Recipe
    held: int
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
        """Where the job is now."""
        if self.ended is not None:
            return "FAILED" if self.error is not None else "COMPLETED"
        return "QUEUED" if time.monotonic() - self.started < self.queue_s else "PROCESSING"

    @property
    def queue_s(self) -> float:
        """Seconds spent QUEUED."""
        return self.total_s * QUEUED_PART

    @property
    def elapsed_s(self) -> float:
        """Seconds since the submission, until the end."""
        return (self.ended if self.ended is not None else time.monotonic()) - self.started


@dataclass(frozen=True, slots=True)
class Output:
    """A picture that can be asked for by name, until it expires."""

    recipe: Recipe
    identity: str
    expires: float


class JobTable:
    """Every record and output that has not expired."""

    def __init__(self, *, record_ttl_s: float, file_ttl_s: float) -> None:
        self._record_ttl_s = record_ttl_s
        self._file_ttl_s = file_ttl_s
        self._jobs: dict[str, Job] = {}
        self._ended: OrderedDict[str, Job] = OrderedDict()
        self._outputs: OrderedDict[str, Output] = OrderedDict()

    def add(self, job: Job, *, runs_s: float | None, at_end: Callable[[Job], None]) -> None:
        """Keep `job` and call `at_end` in `runs_s` seconds; None: it never ends."""
        self._purge()
        self._jobs[job.id] = job
        if runs_s is not None:
            job.timer = asyncio.get_running_loop().call_later(runs_s, self._end, job, at_end)

    def find(self, job_id: str, key: str) -> Job | None:
        """Return the job if it's `key`'s and its record hasn't expired."""
        job = self._jobs.get(job_id)
        if job is None or job.key != key or job.expired or self._is_over(job):
            return None
        return job

    def add_output(self, name: str, recipe: Recipe, identity: str) -> None:
        """Make a picture available by name."""
        self._purge()
        self._outputs[name] = Output(recipe, identity, time.monotonic() + self._file_ttl_s)

    def output(self, name: str) -> Output | None:
        """Return the output called `name` if it hasn't expired."""
        output = self._outputs.get(name)
        return output if output is not None and time.monotonic() < output.expires else None

    def drop_output(self, name: str) -> None:
        """Forget an output before its time."""
        self._outputs.pop(name, None)

    def running(self) -> list[Job]:
        """Return the jobs that haven't ended."""
        return [job for job in self._jobs.values() if job.ended is None]

    def close(self) -> None:
        """Stop every timer: what is running never ends."""
        for job in self._jobs.values():
            if job.timer is not None:
                job.timer.cancel()

    def _end(self, job: Job, at_end: Callable[[Job], None]) -> None:
        job.ended = time.monotonic()
        self._ended[job.id] = job
        at_end(job)

    def _is_over(self, job: Job) -> bool:
        return job.ended is not None and time.monotonic() > job.ended + self._record_ttl_s

    def _purge(self) -> None:
        while self._ended and self._is_over(next(iter(self._ended.values()))):
            job_id, _ = self._ended.popitem(last=False)
            self._jobs.pop(job_id, None)
        now = time.monotonic()
        while self._outputs and next(iter(self._outputs.values())).expires < now:
            self._outputs.popitem(last=False)
