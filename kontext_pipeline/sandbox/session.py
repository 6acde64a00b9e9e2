"""The state that all endpoints share: the gateway, its session, and the jobs of the session."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from starlette.responses import Response

from kontext_pipeline.sandbox.account import MICRO, Account
from kontext_pipeline.sandbox.api_models import State
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.faults import Endpoint, Fault, FaultPlan
from kontext_pipeline.sandbox.input_resolver import InputResolver
from kontext_pipeline.sandbox.renderer import PictureSpec, Renderer
from kontext_pipeline.sandbox.request_log import LogEntry
from kontext_pipeline.sandbox.responses import Refusal, from_fault

QUEUED_SHARE: Final = 0.05
"""The share of a job's time in which it is QUEUED."""


@dataclass(slots=True, eq=False)
class Job:
    """One generation, of v1 or v2. Times are seconds of `time.monotonic`."""

    session: "Session"
    entry: LogEntry
    key: str
    occurrence: str
    """Which request it is, and for which time: the same in every run."""
    spec: PictureSpec
    fault: Fault | None
    total_s: float
    """How long it takes."""
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    error: str | None = None
    remaining_credits: float = 0.0
    expired: bool = False

    @property
    def fault_kind(self) -> str | None:
        """The kind of the fault that strikes it."""
        return None if self.fault is None else self.fault.kind

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

    def end(self, state: Literal["COMPLETED", "FAILED", "ABANDONED"]) -> None:
        """End the generation. A completed one is billed and its picture can be requested."""
        if self.ended is not None:
            return
        account = self.session.account
        self.ended, self.entry.state, self.entry.billed = time.monotonic(), state, state == "COMPLETED"
        account.settle(billed=self.entry.billed)
        self.remaining_credits = account.balance / MICRO
        if self.entry.billed:
            self.entry.cost = account.price / MICRO
            self.session.outputs.add(self.file_name, self)


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
    """Everything that a reset starts anew. Jobs in flight stay with the session in which they began."""

    def __init__(self, config: SandboxConfig) -> None:
        self.account = Account.model_validate(config)
        self.log: list[LogEntry] = []
        self.faults = FaultPlan(config.faults, config.seed)
        self.records = ExpiringTable(config.record_ttl_s)
        """v2 jobs by request id."""
        self.outputs = ExpiringTable(config.file_ttl_s)
        """Completed jobs by the name of their picture. The picture is drawn when it is requested."""
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._seen: Counter[tuple[str, str]] = Counter()

    def occurrence(self, api: str, identity: str) -> str:
        """Return an id for the nth time that a request arrives, the same in every run."""
        self._seen[api, identity] += 1
        return f"{api}|{identity}|{self._seen[api, identity]}"

    def start(self, job: Job) -> None:
        """Start a v2 job: a timer ends it, unless it hangs."""
        self.records.add(job.entry.request_id, job)
        if job.fault_kind != "hang":
            self._timers[job] = asyncio.get_running_loop().call_later(job.total_s, self._end, job)

    def _end(self, job: Job) -> None:
        del self._timers[job]
        if job.fault_kind == "failed":
            job.error = "The model failed to generate an image"
        job.end("COMPLETED" if job.error is None else "FAILED")

    def close(self) -> None:
        """Cancel every timer: running jobs never end."""
        for timer in self._timers.values():
            timer.cancel()


class Gateway:
    """The state that all endpoints share."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.session = Session(config)
        self.inputs = InputResolver(config)
        self.renderer = Renderer(self.inputs, draw=config.draw)
        self.in_flight: set[asyncio.Task[Response]] = set()
        """v1 generations. The event loop itself keeps no reference to them."""
        self.started = time.time()
        self.strangers = 0
        """Requests without an accepted key whose bodies are being read."""

    def reset(self) -> None:
        """Start a new session: full balance, empty log, no jobs, the configured faults."""
        self.session.close()
        self.session = Session(self.config)

    def close(self) -> None:
        """Stop drawing and delete the stored files."""
        self.session.close()
        self.renderer.close()
        self.inputs.close()

    async def strike(self, session: Session, endpoint: Endpoint, identity: str, prompt: str = "") -> str | None:
        """Return the kind of the fault that strikes a GET or an upload, after the delay of slow ones.

        Raises:
            Refusal: the fault answers the request.
        """
        slow, fault = session.faults.strike(endpoint, identity, prompt=prompt, posts=len(session.log))
        if slow:
            await asyncio.sleep(sum(one.seconds for one in slow) / self.config.speed)
        if fault is not None and fault.refuses:
            raise Refusal(from_fault(fault))
        return None if fault is None else fault.kind
