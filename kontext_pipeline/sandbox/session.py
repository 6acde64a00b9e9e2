"""A session: everything that a reset starts anew. Account, request log, faults, jobs and their pictures."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from kontext_pipeline.sandbox.account import Account
from kontext_pipeline.sandbox.api_models import LogEntry, State
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.faults import Fault, FaultPlan
from kontext_pipeline.sandbox.renderer import PictureSpec
from kontext_pipeline.sandbox.request_log import RequestLog

QUEUED_SHARE: Final = 0.05
"""The share of a job's time in which it is QUEUED."""


@dataclass(slots=True, eq=False)
class Job:
    """One generation, of v1 or v2. Its price is held. Times are seconds of `time.monotonic`."""

    session: "Session"
    entry: LogEntry
    key: str
    occurrence: str
    """Which request it is, and for which time: the same in every run."""
    spec: PictureSpec
    fault: Fault | None
    total_s: float
    """How long it takes."""
    held: int
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    error: str | None = None
    remaining_credits: float = 0.0
    expired: bool = False

    @property
    def state(self) -> State:
        """The state in which the job is now."""
        if self.ended is not None:
            return "FAILED" if self.error is not None else "COMPLETED"
        return "QUEUED" if self.elapsed_s < self.total_s * QUEUED_SHARE else "PROCESSING"

    @property
    def elapsed_s(self) -> float:
        """Seconds from the submission to now or to the end."""
        return (self.ended if self.ended is not None else time.monotonic()) - self.started

    @property
    def file_name(self) -> str:
        """The name of its picture."""
        return f"{self.entry.request_id}.{self.spec.output_format}"

    def complete(self) -> None:
        """Charge the finished generation and make its picture available."""
        self.ended = time.monotonic()
        self.session.account.charge(self.held)
        self.session.log.bill(self.entry, self.held)
        self.entry.state = "COMPLETED"
        self.remaining_credits = self.session.account.remaining
        self.session.outputs.add(self.file_name, self)

    def release(self, state: Literal["FAILED", "ABANDONED"]) -> None:
        """End a generation that is not billed."""
        if self.entry.state == "RUNNING":
            self.ended = time.monotonic()
            self.session.account.release(self.held)
            self.entry.state = state


class ExpiringTable:
    """Jobs by name for a limited time after their end. Running jobs stay."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._jobs: dict[str, Job] = {}

    def add(self, name: str, job: Job) -> None:
        """Add a job, and drop the oldest ones if they have expired."""
        while self._jobs and self.find(oldest := next(iter(self._jobs))) is None:
            del self._jobs[oldest]
        self._jobs[name] = job

    def find(self, name: str) -> Job | None:
        """Return the job with this name if it has not expired."""
        job = self._jobs.get(name)
        over = job is not None and job.ended is not None and time.monotonic() > job.ended + self._ttl_s
        return None if over else job

    def drop(self, name: str) -> None:
        """Forget a job before its time."""
        self._jobs.pop(name, None)

    def newest_first(self) -> list[Job]:
        """Return all jobs."""
        return list(reversed(self._jobs.values()))


class Session:
    """Account, request log, faults and jobs. Jobs in flight stay with the session in which they began."""

    def __init__(self, config: SandboxConfig, faults: Sequence[Fault]) -> None:
        self.account = Account(config)
        self.log = RequestLog()
        self.faults = FaultPlan(faults, config.seed)
        self.records = ExpiringTable(config.record_ttl_s)
        """v2 jobs by request id."""
        self.outputs = ExpiringTable(config.file_ttl_s)
        """Completed jobs by the name of their picture. The picture is drawn when it is requested."""
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._seen: Counter[tuple[str, str]] = Counter()

    def occurrence(self, api: str, identity: str) -> str:
        """Return an id for the nth time that a request arrives, the same in every run."""
        self._seen[api, identity] += 1
        return f"{api}|{identity}|{self._seen[api, identity]}"

    def start(self, job: Job) -> None:
        """Start a v2 job: a timer ends it."""
        request_id = job.entry.request_id
        self.records.add(request_id, job)
        if job.fault is None or job.fault.kind != "hang":
            self._timers[request_id] = asyncio.get_running_loop().call_later(job.total_s, self._end, job)

    def _end(self, job: Job) -> None:
        del self._timers[job.entry.request_id]
        if job.fault is not None and job.fault.kind == "failed":
            job.error = "The model failed to generate an image"
            job.release("FAILED")
        else:
            job.complete()

    def close(self) -> None:
        """Cancel every timer: running jobs never end."""
        for timer in self._timers.values():
            timer.cancel()
