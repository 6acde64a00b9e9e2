"""The gateway's state, which all endpoints share, and what a reset starts anew."""

import asyncio
import random
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from kontext_pipeline.sandbox.account import Account
from kontext_pipeline.sandbox.api_models import LogEntry
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.faults import Endpoint, Fault, FaultPlan
from kontext_pipeline.sandbox.file_store import FileStore
from kontext_pipeline.sandbox.input_resolver import InputResolver
from kontext_pipeline.sandbox.job_table import JobTable
from kontext_pipeline.sandbox.renderer import PictureSpec, Renderer
from kontext_pipeline.sandbox.request_log import RequestLog
from kontext_pipeline.sandbox.responses import Refusal, from_fault

MAX_RECENT: Final = 12
"""Pictures on the landing page."""


@dataclass(frozen=True, slots=True)
class RecentPicture:
    """A picture that was billed lately."""

    name: str
    entry: LogEntry
    spec: PictureSpec


class Session:
    """Account, request log, jobs and faults. A reset begins a new one; jobs in flight stay with the old one."""

    def __init__(self, config: SandboxConfig, faults: Sequence[Fault]) -> None:
        self.account = Account(config)
        self.log = RequestLog()
        self.faults = FaultPlan(faults, config.seed)
        self.jobs = JobTable(record_ttl_s=config.record_ttl_s, file_ttl_s=config.file_ttl_s)
        self.recent: deque[RecentPicture] = deque(maxlen=MAX_RECENT)
        self._seen: Counter[tuple[str, str]] = Counter()

    def occurrence(self, api: str, identity: str) -> str:
        """Return an id for the nth time that a request arrives, the same in every run."""
        self._seen[api, identity] += 1
        return f"{api}|{identity}|{self._seen[api, identity]}"

    def bill(self, entry: LogEntry, held: int, spec: PictureSpec, occurrence: str) -> str:
        """Charge a finished generation, make its picture available, and return the picture's name."""
        self.account.charge(held)
        self.log.bill(entry, held)
        entry.state = "COMPLETED"
        name = f"{entry.request_id}.{spec.output_format}"
        self.jobs.add_output(name, spec, occurrence)
        self.recent.appendleft(RecentPicture(name, entry, spec))
        return name


class Gateway:
    """The state that all endpoints share."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.session = Session(config, config.faults)
        self.files = FileStore(max_bytes=config.store_bytes, ttl_s=config.file_ttl_s)
        self.renderer = Renderer(self.files, draw=config.draw, cache_bytes=config.cache_bytes)
        self.inputs = InputResolver(config, self.files)
        self.in_flight: set[asyncio.Task[Response]] = set()
        """v1 generations. The event loop itself keeps no reference to them."""
        self._ids = random.Random()  # noqa: S311 - ids must differ, not be secret

    def new_request_id(self) -> str:
        """Return a random UUID."""
        return str(uuid.UUID(int=self._ids.getrandbits(128), version=4))

    def reset(self) -> None:
        """Start a new session: full balance, empty log, no jobs, the configured faults."""
        self.session.jobs.close()
        self.session = Session(self.config, self.config.faults)

    def close(self) -> None:
        """Stop drawing and delete the stored files."""
        self.session.jobs.close()
        self.renderer.close()
        self.files.close()

    async def strike(
        self, session: Session, endpoint: Endpoint, identity: str, prompt: str = ""
    ) -> Fault | None:
        """Return the fault that strikes a GET or an upload, after the delay of slow ones.

        Raises:
            Refusal: the fault answers the request.
        """
        strike = session.faults.strike(endpoint, identity, prompt=prompt, posts=len(session.log.entries))
        if strike.delay_s:
            await asyncio.sleep(strike.delay_s / self.config.speed)
        if strike.fault is not None and strike.fault.refuses:
            raise Refusal(from_fault(strike.fault))
        return strike.fault
