"""The stages of a run, joined as the loop joins them but without its threads: a test takes each step itself.

The ledger and the image store are real, the clock stands still, and the client answers what the test prepared.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Row, event, text
from upath import UPath

from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.input_images import InputImages
from kontext_pipeline.generation.job_poller import JobPoller
from kontext_pipeline.generation.ledger import Ledger, ReservationTerms, Reserved, Status
from kontext_pipeline.generation.ledger.report import spending_differs
from kontext_pipeline.generation.ledger.uploads import RememberedUploads
from kontext_pipeline.generation.options import Options
from kontext_pipeline.generation.orphan_reaper import OrphanReaper
from kontext_pipeline.generation.overdue_jobs import OverdueJobs
from kontext_pipeline.generation.reserver import Reserver
from kontext_pipeline.generation.resolver import Resolver
from kontext_pipeline.generation.retries import RetryPolicy
from kontext_pipeline.generation.run_state import RunState
from kontext_pipeline.generation.sender import Sender
from kontext_pipeline.generation.settler import Settler
from kontext_pipeline.generation.shared_pause import SharedPause
from kontext_pipeline.generation.slots import Slots
from kontext_pipeline.generation.work import (
    PendingJob,
    Reservation,
    ResolvedRequest,
    SentRequest,
    WorkItem,
)
from kontext_pipeline.generation.work_queue import WorkQueue
from kontext_pipeline.segmind.answers import Answer, Job
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Call, Outcome
from kontext_pipeline.segmind.request import GenerationRequest
from tests.generation.clock import FakeClock
from tests.generation.scripted_client import ScriptedClient
from tests.inputs.collecting import collector

BACKEND = "sandbox"
PRICE = 100_000
UPLOADS = "https://uploads.example"
# In memory where there is such a folder: the order of things is tested here, not the disk.
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None


def fingerprint(number: int) -> str:
    return f"{number:064x}"


def answer(outcome: Outcome, call: Call = Call.GENERATE, **fields: Any) -> Answer:
    return Answer(call=call, outcome=outcome, **fields)


def job(number: int) -> Job:
    return Job(f"job-{number}", f"https://api.example/{number}/status", f"https://api.example/{number}")


class Stages:
    """One run. `options` are those of `Options`; `ahead` is as for `Slots`."""

    def __init__(self, folder: Path, *, ahead: int = 0, capacity: int = 64, **options: Any) -> None:
        self.folder = folder
        self.options = Options(**{"concurrency": 4, "retries": RetryPolicy(base_s=1.0, jitter=0.0), **options})
        self.clock = FakeClock()
        self.client = ScriptedClient()
        client = cast(SegmindClient, self.client)
        self.events: list[str] = []
        """Names of the methods that `trace` watches, in the order of their calls."""
        self.outcomes: list[tuple[int, Status]] = []
        self.exits = ExitStack()
        self.ledger = self.open_ledger("run")
        self.store = ImageStore(UPath(folder / "data"), rescue=folder / "rescue")
        ledger, store, clock, retries = self.ledger, self.store, self.clock, self.options.retries
        self.run = run = RunState(lambda item, status: self.outcomes.append((int(item.fingerprint, 16), status)))
        self.queue = queue = WorkQueue(64, clock=clock)
        self.slots = slots = Slots(self.options.concurrency, ahead=ahead, clock=clock)
        self.pause = pause = SharedPause(ledger, slots, clock=clock)
        self.overdue = overdue = OverdueJobs()
        self.reserver = reserver = Reserver(
            run=run,
            queue=queue,
            slots=slots,
            pause=pause,
            ledger=ledger,
            store=store,
            options=self.options,
            price=PRICE,
            overdue=overdue,
            capacity=capacity,
            clock=clock,
        )
        self.settler = settler = Settler(
            run=run,
            queue=queue,
            slots=slots,
            pause=pause,
            reserver=reserver,
            ledger=ledger,
            store=store,
            retries=retries,
            capacity=64,
        )
        self.jobs = jobs = JobPoller(
            run=run,
            queue=queue,
            slots=slots,
            settler=settler,
            ledger=ledger,
            store=store,
            client=client,
            options=self.options,
            overdue=overdue,
            clock=clock,
        )
        self.collector = self.exits.enter_context(collector(UPath(folder / "data")))
        self.inputs = InputImages(client, self.collector, remembered=RememberedUploads(ledger.database, UPLOADS))
        self.resolver = Resolver(
            run=run,
            queue=queue,
            reserver=reserver,
            settler=settler,
            overdue=overdue,
            ledger=ledger,
            store=store,
            inputs=self.inputs,
        )
        self.sender = Sender(
            run=run,
            slots=slots,
            pause=pause,
            reserver=reserver,
            settler=settler,
            jobs=jobs,
            ledger=ledger,
            store=store,
            client=client,
            api_version=self.options.api_version,
        )
        self.reaper = OrphanReaper(run=run, jobs=jobs, ledger=ledger, store=store)
        run.when_stopped(self.stop_sending)

    def stop_sending(self) -> None:
        """Do what the loop does when the run stops."""
        self.run.let_go(self.queue.close())
        self.slots.close()
        self.reserver.close()

    def open_ledger(self, run_id: str) -> Ledger:
        """Open the ledger as a claimant: this run, or another one."""
        ledger = Ledger(f"sqlite:///{self.folder / 'ledger.db'}", backend=BACKEND)
        self.exits.callback(ledger.close)
        ledger.register(run_id=run_id, lease_s=3600)
        return ledger

    def close(self) -> None:
        differences = spending_differs(self.ledger.database)
        self.exits.close()
        assert differences == []

    # --- work -----------------------------------------------------------------------------------

    def item(self, number: int, **request: Any) -> WorkItem:
        """Take an item in hand."""
        self.run.take_in_hand()
        return WorkItem(
            fingerprint(number),
            "batch",
            GenerationRequest(prompt=f"row {number}", seed=number, **request),
        )

    def offer(self, *items: WorkItem) -> None:
        """Give items to the reserver, as resolved requests."""
        for item in items:
            assert self.reserver.offer(ResolvedRequest(item, None))

    def reservation(self, item: WorkItem) -> Reservation:
        """Return an item's reservation, for which no slot is taken."""
        self.offer(item)
        self.reserver.step()
        (reservation,) = self.slots.withdraw()
        return reservation

    def sent(self, item: WorkItem) -> SentRequest:
        """Return the record of a POST for an item, which has a slot."""
        reservation = self.reservation(item)
        self.slots.occupy()
        self.ledger.lease.sending(reservation.attempt)
        return SentRequest.now(reservation)

    def take_due(self) -> list[int]:
        """Return the numbers of the items that the queue gives out now."""
        numbers = []
        self.queue.retry(sentinel := self.item(0), 0.0, "")
        while (item := self.queue.take()) not in (None, sentinel):
            assert item is not None
            numbers.append(int(item.fingerprint, 16))
        self.run.let_go()
        return numbers

    # --- jobs -----------------------------------------------------------------------------------

    def submit(self, number: int) -> SentRequest:
        """Submit the job of an item, as the sender does."""
        sent = self.sent(self.item(number))
        self.jobs.watch(sent, job(number))
        return sent

    @property
    def next_ask_s(self) -> float | None:
        """The seconds until a job is asked for; None where no job waits."""
        due = self.jobs._due.next_time
        return None if due is None else due - self.clock()

    def take_job(self) -> PendingJob:
        """Turn the clock to the time when the next job is due, and take it as a thread of the poller does."""
        assert self.next_ask_s is not None, "no job waits"
        self.clock.forward(max(0.0, self.next_ask_s))
        # The same thread as before, so that no other one is busy.
        pending = self.jobs._due.take(asked=self.jobs._due._busy > 0)
        assert pending is not None
        return pending

    def ask(self) -> None:
        """Ask for the next job when it is due, and settle the image that it may have brought."""
        self.jobs.ask(self.take_job())
        self.settler.close(1)
        self.settler.work()

    def poll(self, *outcomes: Outcome | Answer) -> None:
        """Let the next jobs that are due be polled with these outcomes."""
        self.client.on(Call.POLL, *outcomes)
        for _ in outcomes:
            self.ask()

    def fetch(self, *outcomes: Outcome | Answer) -> None:
        """Let the next jobs that are due be fetched with these outcomes."""
        self.client.on(Call.FETCH, *outcomes)
        for _ in outcomes:
            self.ask()

    # --- what came of it ------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no work is in hand."""
        return self.run.wait_until_idle(0)

    @property
    def stop_cause(self) -> str | None:
        return None if self.run.stopped is None else self.run.stopped.cause

    def attempts(self) -> list[Row[Any]]:
        """The attempts in the ledger, in order."""
        with self.ledger.database.read() as connection:
            return list(connection.execute(text("SELECT * FROM attempts ORDER BY id")))

    def states(self) -> list[str]:
        """The state of each attempt; of one that was not sent, its outcome."""
        return [row.outcome if row.outcome == "not_sent" else row.state for row in self.attempts()]

    def row(self, number: int) -> Row[Any]:
        """The row of a request in the ledger."""
        with self.ledger.database.read() as connection:
            return connection.execute(
                text("SELECT * FROM generations WHERE fingerprint = :name"), {"name": fingerprint(number)}
            ).one()

    def generation(self, number: int) -> tuple[str, bool, bool]:
        """The status of a request in the ledger, whether it may be tried again, and whether this run claims it."""
        row = self.row(number)
        assert row.claimant in (None, self.ledger.lease.id)
        return row.status, bool(row.retryable), row.claimant is not None

    def held(self) -> tuple[int, int, int]:
        """What counts against the caps: the sums charged, unknown and open."""
        with self.ledger.database.read() as connection:
            sums = "COALESCE(SUM(charged), 0), COALESCE(SUM(unknown), 0), COALESCE(SUM(open), 0)"
            return tuple(connection.execute(text(f"SELECT {sums} FROM spending")).one())

    def trace(self, owner: object, *names: str) -> None:
        """Add the name of each of these methods to `events` when it is called."""
        for name in names:
            setattr(owner, name, self._traced(name, getattr(owner, name)))

    def _traced(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def traced(*values: Any, **named: Any) -> Any:
            self.events.append(name)
            return method(*values, **named)

        return traced

    def commits(self) -> list[object]:
        """Return a list that grows by each transaction of the ledger from now on."""
        commits: list[object] = []
        event.listen(self.ledger.database.engine, "commit", commits.append)
        return commits

    def other_attempt(self, ledger: Ledger, number: int) -> int:
        """Let another claimant reserve and send a request. Return its attempt."""
        (result,) = ledger.reserve([(fingerprint(number), "other batch")], ReservationTerms("v2", PRICE))
        assert isinstance(result, Reserved)
        ledger.lease.sending(result.attempt)
        return result.attempt


StagesMaker = Callable[..., Stages]


@pytest.fixture(scope="session")
def empty_ledger() -> Iterator[Path]:
    """A ledger without rows, to be copied: creating the tables takes half a second."""
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        path = Path(folder, "ledger.db")
        Ledger(f"sqlite:///{path}", backend=BACKEND).close()
        yield path


@pytest.fixture
def stages(empty_ledger: Path) -> Iterator[StagesMaker]:
    """Make the stages of one run."""
    with ExitStack() as exits:

        def make(**options: Any) -> Stages:
            folder = Path(exits.enter_context(tempfile.TemporaryDirectory(dir=FAST)))
            shutil.copy(empty_ledger, folder / "ledger.db")
            made = Stages(folder, **options)
            exits.callback(made.close)
            return made

        yield make
