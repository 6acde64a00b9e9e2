"""Runs of the generation loop to be started, killed, stopped and compared: in this process or in one of their own.

A `RunSpec` says everything about a run. `perform` does it here; `start` does it in a process that can
be killed by its id. `Ledgerbook` reads back what the ledger then says, beside the server's own books.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import text
from upath import UPath

from kontext_pipeline.cli import _limit_memory
from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.input_images import InputImages
from kontext_pipeline.generation.ledger import Ledger
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.money import Cap, micros
from kontext_pipeline.generation.ledger.report import BackendBooks, read_books, spending_differs
from kontext_pipeline.generation.loop import GenerationLoop
from kontext_pipeline.generation.options import Options
from kontext_pipeline.generation.retries import RetryPolicy
from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.images import inspect
from kontext_pipeline.segmind.request import GenerationRequest
from tests.inputs.collecting import collector
from tests.sandbox.running import TEST_KEY, Sandbox

BACKEND = "sandbox"


@dataclass(frozen=True)
class RunSpec:
    """A run. `rows` are numbers; a number is one picture, in whichever run it occurs. USD and seconds."""

    url: str
    ledger: str
    data_dir: str
    rows: Sequence[int]
    api_version: Literal["v1", "v2"] = "v1"
    concurrency: int = 8
    rpm: float | None = None
    caps: Sequence[tuple[float, Literal["run", "day", "month", "all"]]] = ()
    unknown_retries: int = 1
    server_error_retries: int = 6
    lease_s: float = 60.0
    drain_s: float = 30.0
    answer_timeout_s: float = 30.0
    job_timeout_s: float = 60.0
    clock_ahead_s: float = 0.0
    """How wrong this process's wall clock is."""
    clock_jump_s: float = 0.0
    """How much further ahead the clock is from the moment on that the file `clock_file` exists."""
    clock_file: str = ""
    run_id: str = "run"
    batch: str = "batch"
    rescue: str | None = None
    input_image: str | None = None
    input_sha256: str | None = None
    files: int = 0
    """Files that a run in its own process may have open; 0: as many as this one."""
    memory: int = 0
    """Address space that a run in its own process may add, bytes; 0: without limit."""
    result: str = ""
    """File for the report of a run in its own process."""


@dataclass
class Result:
    """What a run said of itself."""

    stopped: str | None = None
    message: str = ""
    interrupted: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    most_slots: int = 0
    """Requests that might be in flight at its end."""


def request_of(spec: RunSpec, row: int) -> GenerationRequest:
    return GenerationRequest(
        prompt=f"row {row}", seed=row, input_image=spec.input_image, input_sha256=spec.input_sha256
    )


def work_items(spec: RunSpec) -> Iterator[WorkItem]:
    for row in spec.rows:
        request = request_of(spec, row)
        yield WorkItem(request.fingerprint(BACKEND), spec.batch, request)


def fingerprint_of(row: int) -> str:
    return GenerationRequest(prompt=f"row {row}", seed=row).fingerprint(BACKEND)


class Stopped(BaseException):
    """What the signal handler of a run in its own process raises, as a supervisor's does."""


def perform(spec: RunSpec, *, source: Iterator[WorkItem] | None = None, client: SegmindClient | None = None) -> Result:
    """Do the run here."""
    result = Result()
    ledger = Ledger(spec.ledger, backend=BACKEND)
    rescue = Path(spec.rescue) if spec.rescue else None
    client = client or SegmindClient(
        api_key=TEST_KEY,
        base_url=spec.url,
        answer_timeout_s=spec.answer_timeout_s,
        connect_timeout_s=5,
        pool_size=spec.concurrency + 16,
        spill=rescue,
    )
    started = time.monotonic()
    inputs = collector(UPath(spec.data_dir))
    try:
        store = ImageStore(UPath(spec.data_dir), rescue=rescue)
        ledger.register(run_id=spec.run_id, lease_s=spec.lease_s)
        loop = GenerationLoop(
            ledger=ledger,
            store=store,
            client=client,
            inputs=InputImages(client, inputs),
            options=Options(
                api_version=spec.api_version,
                concurrency=spec.concurrency,
                rpm=spec.rpm,
                caps=[Cap(micros(limit), scope) for limit, scope in spec.caps],
                retries=RetryPolicy(
                    server_error_retries=spec.server_error_retries,
                    unknown_retries=spec.unknown_retries,
                    base_s=0.02,
                    cap_s=0.2,
                ),
                job_timeout_s=spec.job_timeout_s,
                drain_s=spec.drain_s,
            ),
            on_outcome=lambda item, status: result.outcomes.update({item.fingerprint: status}),
        )
        try:
            loop.run(work_items(spec) if source is None else source)
        except (KeyboardInterrupt, Stopped):
            result.interrupted = True
        result.most_slots = loop._slots._limit.allowed
        result.progress = dataclasses.asdict(loop.progress)
        if loop.stopped is not None:
            result.stopped, result.message = loop.stopped.cause, loop.stopped.message
    finally:
        ledger.close()
        client.close()
        inputs.close()
    result.seconds = time.monotonic() - started
    return result


def _child(spec: RunSpec) -> None:
    def stop(_signal: int, _frame: object) -> None:
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if spec.clock_ahead_s or spec.clock_file:
        now, now_ns = time.time, time.time_ns
        time.time = lambda: now() + _ahead_s(spec)
        time.time_ns = lambda: now_ns() + round(_ahead_s(spec) * 1e9)
    if spec.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (spec.files, spec.files))
    if spec.memory:
        _limit_memory()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + spec.memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    result = perform(spec)
    Path(spec.result).write_text(json.dumps(dataclasses.asdict(result)))


def _ahead_s(spec: RunSpec) -> float:
    jumped = spec.clock_file and os.path.exists(spec.clock_file)  # noqa: PTH110 (many times a second)
    return spec.clock_ahead_s + (spec.clock_jump_s if jumped else 0.0)


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.generation.runs"])


class Run:
    """A run in a process of its own."""

    def __init__(self, spec: RunSpec, folder: Path) -> None:
        self.spec = dataclasses.replace(spec, result=str(folder / f"result-{time.monotonic_ns()}.json"))
        self.process = _context.Process(target=_child, args=(self.spec,), daemon=True)
        self.process.start()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def wait(self, timeout_s: float = 60.0) -> Result:
        """Wait for its end and return its report."""
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.kill()
            raise AssertionError(f"the run did not end within {timeout_s:g} s")
        assert self.process.exitcode == 0, f"the run ended with {self.process.exitcode}"
        return Result(**json.loads(Path(self.spec.result).read_text()))

    @property
    def alive(self) -> bool:
        return self.process.is_alive()


def wait_for_posts(sandbox: Sandbox, posts: int, timeout_s: float = 20.0) -> None:
    """Wait until the server was sent so many requests in all."""
    deadline = time.monotonic() + timeout_s
    while posts_so_far(sandbox) < posts:
        assert time.monotonic() < deadline, f"the server was not sent {posts} requests"
        time.sleep(0.005)


def hold_up(sandbox: Sandbox, seconds: float) -> None:
    """Make generations take so many seconds longer. `set_faults()` ends that for those that begin later."""
    sandbox.set_faults({"kind": "slow", "seconds": seconds * sandbox.config.speed})


def posts_so_far(sandbox: Sandbox) -> int:
    return int(sandbox.books(after=10**9)["totals"]["posts"])


@contextlib.contextmanager
def running(*specs: RunSpec, folder: Path) -> Iterator[list[Run]]:
    """Start runs in processes of their own; none outlives the block."""
    runs = [Run(spec, folder) for spec in specs]
    try:
        yield runs
    finally:
        for run in runs:
            if run.alive:
                run.signal(signal.SIGCONT)
                run.kill()


@dataclass
class Attempt:
    """An attempt as the ledger has it."""

    id: int
    fingerprint: str
    state: str
    outcome: str | None
    cause: str | None
    price: int
    cost: int
    run_id: str
    job: str | None


class Ledgerbook:
    """What a ledger says when nobody is at work on it, beside what the server billed."""

    def __init__(self, url: str, sandbox: Sandbox) -> None:
        self.url = url
        self.sandbox = sandbox
        self.server = sandbox.wait_idle()
        database = Database(url)
        try:
            with database.read() as connection:
                self.attempts = [
                    Attempt(*row)
                    for row in connection.execute(
                        text(
                            "SELECT id, fingerprint, state, outcome, cause, price, cost, run_id, job FROM attempts "
                            "WHERE COALESCE(outcome, '') <> 'not_sent'"
                        )
                    )
                ]
                self.statuses: dict[str, str] = {
                    row.fingerprint: row.status
                    for row in connection.execute(text("SELECT fingerprint, status FROM generations"))
                }
            self.off = spending_differs(database)
            self.books: BackendBooks | None = next(iter(read_books(database).backends), None)
        finally:
            database.close()

    def count(self, state: str) -> int:
        return sum(attempt.state == state for attempt in self.attempts)

    @property
    def billed(self) -> int:
        return int(self.server["totals"]["billed"])

    @property
    def billed_micros(self) -> int:
        return micros(sum(entry["cost"] for entry in self.server["entries"] if entry["billed"]))

    @property
    def charged_micros(self) -> int:
        return sum(attempt.cost for attempt in self.attempts if attempt.state == "charged")

    def billed_per_row(self) -> Counter[str]:
        """How often each prompt was billed."""
        return Counter(entry["prompt"] for entry in self.server["entries"] if entry["billed"])

    def posts_per_row(self) -> Counter[str]:
        """How often each prompt was asked for."""
        return Counter(entry["prompt"] for entry in self.server["entries"])

    @property
    def unsent(self) -> int:
        """Attempts whose POST never reached the server: a process died, or was stopped, just before it."""
        return len(self.attempts) - len(self.server["entries"])

    def check(self) -> None:
        """What must hold whatever happened: every bill is in the ledger, and its sums are right."""
        assert self.off == []
        assert self.count("open") == 0
        received = Counter(entry["prompt"] for entry in self.server["entries"])
        billed = self.billed_per_row()
        mine: dict[str, list[Attempt]] = {}
        for attempt in self.attempts:
            mine.setdefault(attempt.fingerprint, []).append(attempt)
        for prompt, times in received.items():
            attempts = mine[fingerprint_of(int(prompt.removeprefix("row ")))]
            charged = sum(attempt.state == "charged" for attempt in attempts)
            unknown = sum(attempt.state == "unknown" for attempt in attempts)
            assert times <= len(attempts), f"{prompt}: {times} POSTs, {len(attempts)} attempts"
            assert charged <= billed[prompt] <= charged + unknown, f"{prompt}: {billed[prompt]} billed, {attempts}"

    def pictures(self, data_dir: str) -> set[str]:
        """Fingerprints of the whole pictures in the store."""
        found = set()
        for path in Path(data_dir, "images").glob("[0-9a-f][0-9a-f]/*"):
            inspect(path)
            found.add(path.stem)
        return found
