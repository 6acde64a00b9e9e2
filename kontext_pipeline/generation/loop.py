"""The generation loop: keeps the allowed number of requests in flight until every one has its outcome.

A request holds one of `concurrency` places from just before its POST until its answer is in (v1) or its job is
done (v2). So that no place is ever empty, drafts lie ready: requests whose attempt is in the ledger already. The
thread that takes an answer in sends the next draft at once; storing and settling the answer, and
preparing more drafts, come after that, in few threads at a time. v1 needs a thread for each place, as each
waits on its own connection; v2 needs some for any number of jobs.

Threads (`crew`) take what is due, in this order: a draft for which there is a place, a v2 job to ask for, a
request to prepare, an answer to store and settle.

Nothing here decides what an answer means (`segmind.outcomes`), what to do about it (`retries`) or what it
costs (`ledger`).
"""

import contextlib
import gc
import heapq
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

from kontext_pipeline.errors import KontextError, LedgerError
from kontext_pipeline.generation.concurrency import ConcurrencyLimit
from kontext_pipeline.generation.crew import Crew, Lane, Task
from kontext_pipeline.generation.image_store import ImageStore, StoreFull
from kontext_pipeline.generation.input_images import InputImages, InputUnavailable
from kontext_pipeline.generation.ledger import (
    AlreadySettled,
    ClaimedElsewhere,
    Ledger,
    Orphan,
    OverBudget,
    Reserved,
    ReserveResult,
    RetryLater,
    Settlement,
    Status,
)
from kontext_pipeline.generation.ledger.money import Cap, micros
from kontext_pipeline.generation.polling import PollSchedule
from kontext_pipeline.generation.retries import RETRY_ACTIONS, RetryAction, RetryPolicy
from kontext_pipeline.generation.work import (
    PendingJob,
    Reservation,
    ResolvedRequest,
    Sent,
    WorkItem,
    settlement_of,
)
from kontext_pipeline.segmind.answers import Answer, Job
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.model import LIST_PRICE_USD
from kontext_pipeline.segmind.outcomes import Call, Charge, Outcome

ASK_AGAIN_S: Final = 0.5
"""How soon to look again at what another run holds: a request, or the last of a budget. Seconds."""
ROWS_AHEAD: Final = 64
"""Requests that are read ahead of need, at the least."""
DRAFTS: Final = 64
"""Requests that are ready to be sent, at the most: enough for a burst of answers."""
BESIDE: Final = 32
"""Threads beyond those that wait for an answer, for preparing and for settling: half of them for either."""
JOB_THREADS: Final = 64
"""Threads that submit v2 jobs and ask for them, half of them for either: each call is short."""
LULL_S: Final = 0.005
"""Answers are settled when none has come for so long, seconds: they come in bursts, and what keeps the places full
comes first."""
LONGEST_BURST_S: Final = 0.2
"""Seconds after which an answer is settled all the same."""
SETTLING_AT_LEISURE: Final = 3
"""Answers that are settled at a time where nothing waits to be sent."""
BACKLOG: Final = 256
"""Answers that wait to be settled before no more is sent; twice the places in flight, if that is more."""
PAUSE_SEEN_S: Final = 0.5
"""How old the knowledge may be that no other process has met the account's limit, seconds."""
FETCHES: Final = 8
"""Times a finished job's file may turn out to be no picture before that is believed; asking is free."""
LONGEST_FETCH_PAUSE_S: Final = 10.0
"""Longest pause between two tries to fetch a picture that is ready."""
OUTAGE_ROWS: Final = 10
"""Rows in a row that used up their tries on server errors, after which the provider is taken to be down."""
DEFAULT_PAUSE_S: Final = 5.0
"""Pause after a 429 that doesn't say when the limit resets."""
SHORTEST_PAUSE_S: Final = 0.1
"""Pause after a 429 that says it resets now: clocks tick coarsely."""
LAST_WORDS_S: Final = 5.0
"""How long calls that are being cut off may take to settle what they know."""


_Write = Literal["opening", "recording", "closing"]
"""What may be on its way to the ledger: a draft, a v2 job, a picture's attempt."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """How a run goes about it. Times in seconds."""

    api_version: Literal["v1", "v2"] = "v1"
    concurrency: int = 8
    rpm: float | None = None
    caps: Sequence[Cap] = ()
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    retry_failed: bool = False
    job_timeout_s: float = 600.0
    drain_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a run ended early: a short machine name, and a sentence for the user."""

    cause: str
    message: str


@dataclass(slots=True)
class Progress:
    """Where a run stands. Counts are requests (distinct pictures); amounts are millionths of a USD."""

    succeeded: int = 0
    """Pictures made by this run."""
    found: int = 0
    """Pictures that turned out to be there: made by another run, or found in the store."""
    failed: int = 0
    unknown: int = 0
    in_flight: int = 0
    spent: int = 0
    possibly_charged: int = 0
    attempts: int = 0
    latest_error: str = ""


class GenerationLoop:
    """One run. Call `run` once; read `progress` and `stopped` from any thread at any time."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: ImageStore,
        client: SegmindClient,
        options: Options,
        on_outcome: Callable[[WorkItem, Status], None] = lambda _wish, _status: None,
    ) -> None:
        """`ledger` has been entered. `on_outcome` is called from the loop's threads for each item that is
        through (succeeded, failed or unknown); it must be quick.
        """
        self._ledger = ledger
        self._store = store
        self._client = client
        self._options = options
        self._on_outcome = on_outcome
        self._inputs = InputImages(client)
        self._polls = PollSchedule()
        self.progress = Progress()
        self.stopped: Stop | None = None

        self._ahead = max(ROWS_AHEAD, 2 * options.concurrency)
        self._price = micros(LIST_PRICE_USD)
        self._places = ConcurrencyLimit(options.concurrency)
        self._exhausted_in_a_row = 0

        # Ahead of need only where a crash can tell what was sent, and not under a rate limit, which counts
        # requests at the moment when they are sent.
        self._drafts_wanted = (
            min(options.concurrency, DRAFTS) if ledger.lease.tells_sent and not options.rpm else 0
        )
        lock = threading.RLock()
        self._state = threading.Condition(lock)
        v1 = options.api_version == "v1"
        self._crew = Crew(
            lock,
            take=self._take,
            next_due=self._next_due,
            freed=self._freed,
            failed=self._failed,
            most=BESIDE + (options.concurrency if v1 else JOB_THREADS),
        )
        places = options.concurrency
        self._sending = Lane(places, places) if v1 else Lane(1, JOB_THREADS // 2)
        self._polling = Lane(1, JOB_THREADS // 2)
        self._preparing = Lane(1, BESIDE // 2)
        self._settling = Lane(1, BESIDE // 2)
        self._backlog = max(BACKLOG, 2 * places)
        self._turn = threading.Lock() if options.rpm else contextlib.nullcontext()
        self._halt = threading.Event()
        self._cut = threading.Event()
        self._ready: deque[WorkItem] = deque()
        self._paused: list[tuple[float, int, WorkItem]] = []
        self._drafts: deque[Reservation] = deque()
        self._jobs: list[tuple[float, int, PendingJob]] = []
        self._landed_at = 0.0
        self._answered: deque[tuple[float, Task]] = deque()
        self._ticket = itertools.count()
        self._overdue: dict[str, int] = {}
        self._parked: dict[str, list[WorkItem]] = {}
        self._source_done = False
        self._source_error: BaseException | None = None
        self._writing: Counter[_Write] = Counter()
        self._paused_until = 0.0
        self._ask_again_at = 0.0
        self._pause_seen = 0.0
        self._looking = threading.Lock()

    # --- the run, as its caller sees it ---------------------------------------------------------

    def run(self, work_items: Iterable[WorkItem]) -> None:
        """See every item through, or stop early and say why in `stopped`.

        An interruption (Ctrl-C, or an exception that a signal handler raises in this thread) stops
        submitting, collects what is in flight for `drain_s`, settles, and is then raised again; a second
        one cuts that short. Whatever is not settled then, the next run reads from the ledger.

        Raises:
            KontextError: the source of work_items failed.
        """
        self._price = max(self._price, self._ledger.highest_charge())
        # What is there now is there to stay: the collector, which walks over it again and again, need not.
        gc.collect()
        gc.freeze()
        every_s = min(2.0, self._ledger.lease.lease_s / 2)
        feeder = threading.Thread(target=self._feed, args=(work_items,), name="feeder", daemon=True)
        undertaker = threading.Thread(
            target=self._watch_the_dead, args=(every_s,), name="undertaker", daemon=True
        )
        try:
            self._take_over()
            feeder.start()
            undertaker.start()
            self._wait(None)
            if self.stopped is not None:
                self._wait(self._options.drain_s)
                self._cut_off()
        except BaseException as interruption:
            self.stop("interrupted", "stopped on request. Start it again to go on.")
            try:
                self._wait(self._options.drain_s)
            finally:
                self._cut_off()
            raise interruption
        finally:
            self._halt.set()
            self._cut.set()
            self._crew.close()
            gc.unfreeze()
            # It may be about to adopt more; whoever leaves the ledger after this leaves that as well.
            if undertaker.ident is not None:
                undertaker.join(LAST_WORDS_S)
        if self._source_error is not None:
            raise self._source_error

    def stop(self, cause: str, message: str) -> None:
        """Send nothing more. The first reason given is the one that counts."""
        with self._state:
            if self.stopped is None:
                self.stopped = Stop(cause, message)
            self._halt.set()
            self._state.notify_all()
            # What was about to be sent is taken back.
            self._crew.summon()

    def _stop_for(self, error: KontextError) -> None:
        self.stop("disk_full" if isinstance(error, StoreFull) else "ledger", str(error))

    def _failed(self, error: Exception) -> None:
        """A task has failed."""
        if isinstance(error, KontextError):
            self._stop_for(error)
        else:
            # A fault of ours.
            self.stop("fault", f"{type(error).__name__}: {error}")
            self._source_error = self._source_error or error

    def _freed(self) -> None:
        if self._done(draining=False):
            self._state.notify_all()

    def _wait(self, seconds: float | None) -> None:
        """RetryLater until all is done, or the run is stopped (`seconds` None), or nothing is in flight any more."""
        until = None if seconds is None else time.monotonic() + seconds
        with self._state:
            while not self._done(draining=until is not None):
                if until is None and self.stopped is not None:
                    return
                left = 1.0 if until is None else until - time.monotonic()
                if left <= 0:
                    return
                # Bounded, because an untimed wait on some platforms keeps signals from being handled.
                self._state.wait(min(left, 1.0))

    def _done(self, *, draining: bool) -> bool:
        at_rest = not (self._crew.busy or self._writing.total() or self._answered or self._drafts)
        through = at_rest and len(self._jobs) <= len(self._overdue)
        if draining or self.stopped is not None:
            return through
        return through and self._source_done and not self._ready and not self._paused

    def _cut_off(self) -> None:
        with self._state:
            if self._done(draining=True):
                return
            self._cut.set()
            self.progress.in_flight -= sum(not flight.landed for _, _, flight in self._jobs)
            self._jobs.clear()
        self._client.close()
        self._wait(LAST_WORDS_S)

    # --- what is due ----------------------------------------------------------------------------

    def _feed(self, work_items: Iterable[WorkItem]) -> None:
        try:
            for item in work_items:
                with self._state:
                    while len(self._ready) >= self._ahead and self.stopped is None:
                        self._state.wait()
                    if self.stopped is not None:
                        return
                    self._ready.append(item)
                    self._crew.summon()
        except BaseException as error:  # noqa: BLE001  raised again in run()
            self._source_error = error
            self.stop("manifest", str(error))
        finally:
            with self._state:
                self._source_done = True
                self._state.notify_all()

    def _take(self, now: float) -> Task | None:
        for due, take in self._kinds():
            if due is not None and due <= now:
                return take()
        return None

    def _next_due(self) -> float | None:
        """When the next task is due, on the monotonic clock; None where there is none."""
        return min((due for due, _ in self._kinds() if due is not None), default=None)

    def _kinds(self) -> Iterator[tuple[float | None, Callable[[], Task]]]:
        """Each kind of task, what comes first first: when one is due, and what takes it."""
        yield self._draft_due(), self._take_draft
        yield _both(self._jobs[0][0] if self._jobs else None, self._polling.opens()), self._take_job
        yield self._wish_due(), self._take_wish
        yield self._answer_due(), self._take_answer

    def _draft_due(self) -> float | None:
        if not self._drafts:
            return None
        return self._place_due() if self.stopped is None else 0.0

    def _place_due(self) -> float | None:
        """When there is a place in flight for another request."""
        backlog = len(self._answered) + self._writing["recording"] + self._writing["closing"]
        if self.progress.in_flight >= self._places.allowed or backlog >= self._backlog:
            return None
        return _both(self._paused_until, self._sending.opens())

    def _wish_due(self) -> float | None:
        if self.stopped is not None or not (self._ready or self._paused):
            return None
        since = 0.0 if self._ready else self._paused[0][0]
        if not self._drafts_wanted:
            opens = self._place_due()
        else:
            free = max(0, self._places.allowed - self.progress.in_flight)
            if (
                len(self._drafts) + self._writing["opening"] + self._preparing.active
                >= self._drafts_wanted + free
            ):
                return None
            # Where there is a draft for each empty place there is time to do it by and by, and while there are some
            # more, in the lulls between bursts of answers.
            missing = min(free - len(self._drafts), self._preparing.most)
            opens = 0.0 if self._preparing.active < missing else self._preparing.opens()
            if -missing > self._drafts_wanted // 4:
                opens = _both(opens, self._landed_at + LULL_S)
        return _both(max(since, self._ask_again_at), opens)

    def _answer_due(self) -> float | None:
        if not self._answered:
            return None
        if self._source_done and not (self._ready or self._drafts):
            # Nothing more is to be sent that it could hold up.
            return self._settling.opens(few=SETTLING_AT_LEISURE)
        came, _ = self._answered[0]
        # They must not pile up.
        urgent = self._drafts and len(self._answered) < self._backlog // 4
        opens = self._settling.opens(few=1 if urgent else SETTLING_AT_LEISURE)
        return _both(min(self._landed_at + LULL_S, came + LONGEST_BURST_S), opens)

    def _take_draft(self) -> Task:
        draft = self._drafts.popleft()
        if self.stopped is not None:
            return lambda: self._withdraw(draft)
        self.progress.in_flight += 1
        return self._on(self._sending, lambda: self._send(draft))

    def _take_job(self) -> Task:
        flight = heapq.heappop(self._jobs)[2]
        return self._on(self._polling, lambda: self._ask(flight))

    def _take_wish(self) -> Task:
        if self._paused and (not self._ready or self._paused[0][0] <= time.monotonic()):
            item = heapq.heappop(self._paused)[2]
        else:
            item = self._ready.popleft()
            if len(self._ready) == self._ahead // 2:
                self._state.notify_all()
        if self._drafts_wanted:
            return self._on(self._preparing, lambda: self._prepare(item))
        self.progress.in_flight += 1
        return self._on(self._sending, lambda: self._prepare_and_send(item))

    def _take_answer(self) -> Task:
        return self._on(self._settling, self._answered.popleft()[1])

    def _on(self, lane: Lane, work: Task) -> Task:
        """Give a task its turn in a lane."""
        lane.begin()

        def task() -> None:
            started = time.monotonic()
            try:
                work()
            finally:
                with self._state:
                    lane.end(time.monotonic() - started)

        return task

    def _land(self) -> None:
        """Give a place in flight back."""
        with self._state:
            self.progress.in_flight -= 1
            self._landed_at = time.monotonic()

    def _again(self, item: WorkItem, pause_s: float) -> None:
        with self._state:
            heapq.heappush(self._paused, (time.monotonic() + pause_s, next(self._ticket), item))
            self._crew.summon()

    def _later(self, flight: PendingJob, pause_s: float) -> None:
        with self._state:
            if not self._cut.is_set():
                heapq.heappush(self._jobs, (time.monotonic() + pause_s, next(self._ticket), flight))
            self._crew.summon()

    # --- from item to answer --------------------------------------------------------------------

    def _prepare(self, item: WorkItem) -> None:
        """Make a request ready to be sent, ahead of need."""
        found = self._look(item)
        if found is None:
            return
        price, day = self._price, _today()
        # With drafts in hand there is time for the commit to be shared.
        opening = self._ask_ledger(item, price, patient=len(self._drafts) > 0)
        self._when_written("opening", opening, lambda opened: self._prepared(found, price, day, opened))

    def _prepared(self, found: ResolvedRequest, price: int, day: int, opening: ReserveResult) -> None:
        match opening:
            case RetryLater(seconds):
                self._note_pause(seconds)
                self._put_back(found.item, seconds)
            case OverBudget() as capped if self._may_yet_fit(capped):
                self._put_back(found.item, ASK_AGAIN_S)
            case _:
                attempt = self._heed(found.item, opening)
                if attempt is not None:
                    with self._state:
                        self._drafts.append(Reservation(found, attempt, price, day))
                        # It was opened, so nobody had asked for a pause.
                        self._pause_seen = time.monotonic()

    def _put_back(self, item: WorkItem, pause_s: float) -> None:
        """Prepare this one first, and none before that: what it was told holds for all."""
        with self._state:
            self._ready.appendleft(item)
            self._ask_again_at = max(self._ask_again_at, time.monotonic() + pause_s)

    def _prepare_and_send(self, item: WorkItem) -> None:
        """Make a request ready and send it in the place that it has taken already."""
        draft = None
        try:
            found = self._look(item)
            draft = None if found is None else self._open(found)
        finally:
            if draft is None:
                self._land()
        if draft is not None:
            self._send(draft)

    def _look(self, item: WorkItem) -> ResolvedRequest | None:
        """See whether a request needs to be sent, and that its input picture is where the API can see it."""
        if self._is_parked(item):
            return None
        stored = self._store.find(item.fingerprint)
        if stored is not None:
            self._ledger.adopt_picture(item.fingerprint, item.batch, stored)
            self._through(item, "succeeded", found=True)
            return None
        try:
            return ResolvedRequest(item, self._inputs.uri(item.request))
        except InputUnavailable as error:
            return ResolvedRequest(item, None, error.answer)

    def _ask_ledger(self, item: WorkItem, price: int, *, patient: bool = False) -> Future[ReserveResult]:
        self._store.check_room(max(1, self.progress.in_flight))
        options = self._options
        return self._ledger.reserve(
            item.fingerprint,
            item.batch,
            api_version=options.api_version,
            price=price,
            caps=options.caps,
            rpm=options.rpm,
            unknown_retries=options.retries.unknown_retries,
            retry_failed=options.retry_failed,
            patient=patient,
        )

    def _open(self, found: ResolvedRequest) -> Reservation | None:
        """RetryLater for the attempt that allows the POST; None where there is to be none."""
        with self._turn:
            while not self._halt.is_set():
                price, day = self._price, _today()
                match self._ask_ledger(found.item, price).result():
                    case RetryLater(seconds):
                        self._halt.wait(seconds)
                    case OverBudget() as capped if self._may_yet_fit(capped):
                        self._halt.wait(ASK_AGAIN_S)
                    case opening:
                        attempt = self._heed(found.item, opening)
                        return None if attempt is None else Reservation(found, attempt, price, day)
        return None

    def _may_yet_fit(self, capped: OverBudget) -> bool:
        """Whether what open attempts hold of a cap may come back while this run goes on."""
        return capped.recoverable > sum(self._overdue.values())

    def _heed(self, item: WorkItem, opening: ReserveResult) -> int | None:
        """Return the attempt that was opened, or see to it that there is to be none."""
        match opening:
            case Reserved(attempt):
                return attempt
            case AlreadySettled(status):
                self._through(item, status, found=True)
            case ClaimedElsewhere():
                self._again(item, ASK_AGAIN_S)
            case OverBudget(cap):
                self.stop(
                    "budget",
                    f"the budget of {cap} leaves no room for another picture. Raise it and start again to go on.",
                )
        return None

    def _send(self, draft: Reservation) -> None:
        """POST a draft. Its place is given back when the answer is in, or the job done; a picture is for another
        thread to store.
        """
        item, landed = draft.item, False
        try:
            if not self._may_go(draft):
                return
            if draft.found.unavailable is not None:
                unsent = Sent(draft.attempt, item.fingerprint, item, draft.price)
                self._conclude(unsent, draft.found.unavailable)
                return
            sent = Sent(draft.attempt, item.fingerprint, item, draft.price, time.time_ns() // 1000)
            self._ledger.lease.sending(sent.attempt)
            with self._state:
                self.progress.attempts += 1
            body = item.request.body(draft.found.uri)
            if self._options.api_version == "v1":
                answer = self._client.generate(body, self._store.spool, item.fingerprint)
            else:
                answer = self._client.submit(body)
                if answer.job is not None and answer.outcome is Outcome.ACCEPTED:
                    landed = True
                    self._watch_job(sent, answer.job)
                    return
            if answer.picture is None:
                # At once, and in the place that it had: it may be a reason to send nothing more.
                self._conclude(sent, answer)
            else:
                self._note_price(answer)
                self._answer(lambda: self._conclude(sent, answer))
        finally:
            if not landed:
                self._land()

    def _answer(self, settle: Task) -> None:
        """Leave a picture to another thread."""
        with self._state:
            self._answered.append((time.monotonic(), settle))

    def _may_go(self, draft: Reservation) -> bool:
        """Whether nothing has happened since the draft was made that forbids sending it; else see to it."""
        self._store.check_room(self.progress.in_flight)
        self._ledger.database.check_room()
        if self._drafts_wanted:
            self._look_for_pause()
        # What is held for it must be what it may cost, and count against the caps of the day when it is spent.
        holds = draft.price >= self._price and draft.day == _today()
        if self._halt.is_set() or not holds or not self._ledger.lease.is_fresh():
            # Stale may also be who was asleep for so long that another run may have taken it over.
            self._withdraw(draft)
            return False
        with self._state:
            if time.monotonic() < self._paused_until:
                self._drafts.appendleft(draft)
                return False
        return True

    def _look_for_pause(self) -> None:
        """Make sure that a pause which another process has asked for is known here."""
        # Whoever comes meanwhile waits for what the first one finds.
        with self._looking:
            if time.monotonic() - self._pause_seen > PAUSE_SEEN_S:
                self._note_pause(self._ledger.paused_for())
                self._pause_seen = time.monotonic()

    def _withdraw(self, draft: Reservation) -> None:
        """Take back what was not sent."""
        self._ledger.withdraw(draft.attempt)
        self._again(draft.item, 0.0)

    def _note_pause(self, seconds: float) -> None:
        with self._state:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _is_parked(self, item: WorkItem) -> bool:
        """Whether the request waits, without holding the run up, for a job that is overdue."""
        with self._state:
            parked = item.fingerprint in self._overdue
            if parked:
                self._parked.setdefault(item.fingerprint, []).append(item)
        return parked

    # --- v2 jobs --------------------------------------------------------------------------------

    def _watch_job(self, sent: Sent, job: Job) -> None:
        """Write a new job down, then ask for it until it is done."""
        assert sent.at is not None, "it was sent just now"
        flight = PendingJob(sent, job, time.monotonic())
        recorded = self._ledger.record_job(sent.attempt, job.to_json(), job.request_id, sent.at)
        # Not polled before it is on the disk, but all the same where that failed: then only this process can
        # collect it.
        recorded.add_done_callback(lambda _: self._later(flight, self._polls.next_poll(0.0, len(self._jobs))))
        self._when_written("recording", recorded, lambda _: None)

    def _when_written(self, what: _Write, written: Future[T], work: Callable[[T], None]) -> None:
        """Do `work` with the result of a write once it is on the disk; until then the run is not done."""
        with self._state:
            self._writing[what] += 1

        def done(written: Future[T]) -> None:
            try:
                work(written.result())
            except Exception as error:  # noqa: BLE001  nobody else would hear of it
                self._failed(error)
            finally:
                with self._state:
                    self._writing[what] -= 1
                    self._freed()
                    self._crew.summon()

        written.add_done_callback(done)

    def _ask(self, flight: PendingJob) -> None:
        if flight.completed is not None:
            self._fetch(flight, flight.completed)
            return
        asked = time.monotonic() - flight.submitted
        answer = self._client.poll(flight.job)
        age = time.monotonic() - flight.submitted
        match answer.outcome:
            case Outcome.COMPLETED:
                if flight.sent.item is not None:
                    # Of a job that an earlier run submitted, nobody knows how long it took.
                    flight.took = self._polls.found(asked, flight.waiting)
                    self._learn(flight, answer)
                flight.failures = 0
                completed = flight.completed = time.monotonic()
                self._answer(lambda: self._fetch(flight, completed))
                self._land_flight(flight)
            case Outcome.REJECTED | Outcome.EXPIRED:
                self._collect(flight, answer)
            case Outcome.STOPPED:
                self.stop(answer.cause, _account_message(answer))
                self._leave_out_there(flight, age)
            case _ if age > self._options.job_timeout_s:
                self._leave_out_there(flight, age)
            case Outcome.PENDING:
                flight.failures = 0
                flight.waiting = asked
                self._later(flight, self._polls.next_poll(age, len(self._jobs)))
            case _:
                flight.failures += 1
                self._later(flight, answer.retry_after_s or self._options.retries.pause(flight.failures))

    def _learn(self, flight: PendingJob, answer: Answer) -> None:
        """Heed what a job's end tells of how long the others will take."""
        if flight.took is not None and answer.total_time_s is not None:
            self._polls.told(flight.took, answer.total_time_s)
        if not self._polls.moved():
            return
        usual_s = self._polls.usual_s

        def due_then(due: float, flight: PendingJob) -> float:
            if flight.failures or flight.completed is not None or flight.sent.item is None:
                return due
            forecast = flight.submitted + usual_s
            return min(due, forecast) if flight.waiting else forecast

        with self._state:
            self._jobs = [(due_then(due, flight), ticket, flight) for due, ticket, flight in self._jobs]
            heapq.heapify(self._jobs)
            self._crew.summon()

    def _fetch(self, flight: PendingJob, completed: float) -> None:
        answer = self._client.fetch(flight.job, self._store.spool, flight.sent.fingerprint)
        if answer.outcome is Outcome.SUCCEEDED:
            self._learn(flight, answer)
        flight.unusable += answer.outcome is Outcome.UNUSABLE
        final = answer.outcome in (Outcome.SUCCEEDED, Outcome.REJECTED, Outcome.EXPIRED)
        if final or flight.unusable >= FETCHES:
            self._collect(flight, answer)
            return
        if answer.remains is not None:
            answer.remains.unlink(missing_ok=True)
        if answer.outcome is Outcome.STOPPED:
            self.stop(answer.cause, _account_message(answer))
        age = time.monotonic() - completed
        if answer.outcome is Outcome.STOPPED or age > self._options.job_timeout_s:
            self._leave_out_there(flight, age)
            return
        flight.failures += 1
        pause = answer.retry_after_s or self._options.retries.pause(flight.failures)
        self._later(flight, min(pause, LONGEST_FETCH_PAUSE_S))

    def _collect(self, flight: PendingJob, answer: Answer) -> None:
        """A job has come to its end."""
        self._land_flight(flight)
        self._conclude(flight.sent, answer)
        with self._state:
            self._overdue.pop(flight.sent.fingerprint, None)
            for item in self._parked.pop(flight.sent.fingerprint, ()):
                heapq.heappush(self._paused, (time.monotonic(), next(self._ticket), item))

    def _leave_out_there(self, flight: PendingJob, age_s: float) -> None:
        """RetryLater for a job no longer. It is asked for now and then while the run has other things to do,
        as its record won't be kept for ever; its attempt stays open for a later run to collect.
        """
        self._land_flight(flight)
        with self._state:
            self._overdue[flight.sent.fingerprint] = flight.sent.price
            self.progress.latest_error = (
                f"job {flight.job.request_id} is still out there; a later run collects it"
            )
        self._later(flight, max(self._polls.next_poll(age_s, len(self._jobs)), self._options.retries.base_s))

    def _land_flight(self, flight: PendingJob) -> None:
        with self._state:
            if not flight.landed:
                flight.landed = True
                self._land()
                self._crew.summon()

    # --- from answer to outcome -----------------------------------------------------------------

    def _conclude(self, sent: Sent, answer: Answer) -> None:
        self._note_price(answer)
        closing = settlement_of(sent, answer)
        if answer.picture is not None:
            self._keep(sent, answer, closing)
            return
        item = sent.item
        if answer.remains is not None:
            self._store.set_aside(answer.remains, sent.fingerprint, sent.attempt)
        remedy = RETRY_ACTIONS[answer.outcome]
        if item is not None and remedy in (RetryAction.RETRY, RetryAction.RECONNECT):
            item.failures += 1
        retries = self._options.retries
        exhausted = item is None or item.failures > retries.server_error_retries
        status: Status = "pending"
        if remedy is RetryAction.FAIL or (remedy is RetryAction.RETRY and exhausted):
            status = "failed"
        elif remedy in (RetryAction.RETRY_UNKNOWN, RetryAction.LEAVE):
            status = "unknown"
        kept = self._ledger.settle(
            sent.attempt,
            closing,
            status=status,
            # A job that failed, or a file that wasn't there, may fare better another day.
            retryable=remedy is not RetryAction.FAIL or answer.call in (Call.UPLOAD, Call.POLL, Call.FETCH),
            keep_claim=item is not None
            and status != "failed"
            and remedy not in (RetryAction.STOP, RetryAction.LEAVE),
            unknown_retries=retries.unknown_retries,
        )
        self._count(sent, answer, closing)
        if answer.spilled:
            self.stop(
                "disk_full", f"{self._store.spool} can't be written. Make room and start again to go on."
            )
        match remedy:
            case RetryAction.STOP:
                self.stop(answer.cause, _account_message(answer))
            case RetryAction.WAIT:
                told = answer.retry_after_s
                self._slow_down(DEFAULT_PAUSE_S if told is None else max(told, SHORTEST_PAUSE_S))
                if item is not None:
                    self._again(item, 0.0)
            case RetryAction.RECONNECT if exhausted:
                self.stop("unreachable", f"the API can't be reached: {answer.error}. Start again to go on.")
            case RetryAction.FAIL:
                self._through(item, "failed")
            case RetryAction.RETRY if exhausted:
                self._through(item, "failed")
                self._note_exhausted(answer)
            case RetryAction.LEAVE:
                self._through(item, "unknown")
            case RetryAction.RETRY_UNKNOWN if not kept:
                self._through(item, "unknown")
            case _ if item is not None:
                failures = max(1, item.failures)
                self._again(item, answer.retry_after_s or retries.pause(failures))

    def _keep(self, sent: Sent, answer: Answer, closing: Settlement) -> None:
        assert answer.picture is not None
        try:
            stored = self._store.keep(sent.fingerprint, answer.picture)
        except StoreFull as error:
            self.stop("disk_full", str(error))
            self._ledger.settle(sent.attempt, closing, status="pending")
            self._count(sent, answer, closing)
            return
        closed = self._ledger.settle_with_picture(sent.attempt, closing, stored)
        self._when_written("closing", closed, lambda _: self._kept(sent, answer, closing))
        if answer.spilled:
            self.stop(
                "disk_full", f"{self._store.spool} can't be written. Make room and start again to go on."
            )

    def _kept(self, sent: Sent, answer: Answer, closing: Settlement) -> None:
        """A picture is there and its attempt settled."""
        self._count(sent, answer, closing)
        self._through(sent.item, "succeeded")
        with self._state:
            self._exhausted_in_a_row = 0
            self._places.regain()

    def _count(self, sent: Sent, answer: Answer, closing: Settlement) -> None:
        with self._state:
            self.progress.spent += closing.cost
            self.progress.possibly_charged += sent.price if closing.state == "unknown" else 0
            if answer.error:
                self.progress.latest_error = answer.error

    def _note_price(self, answer: Answer) -> None:
        """Ask for more room from here on, if one costs more than is known: also for what is ready to be sent."""
        if answer.charge is Charge.YES and answer.cost_usd is not None:
            with self._state:
                self._price = max(self._price, micros(answer.cost_usd))

    def _through(self, item: WorkItem | None, status: Status, *, found: bool = False) -> None:
        if item is None:
            return
        with self._state:
            if status == "succeeded":
                self.progress.found += found
                self.progress.succeeded += not found
            elif status == "failed":
                self.progress.failed += 1
            else:
                self.progress.unknown += 1
        self._on_outcome(item, status)

    def _slow_down(self, pause_s: float) -> None:
        """The account's limit is reached: everybody pauses, and this run cuts itself once a burst."""
        self._note_pause(pause_s)
        self._ledger.pause(pause_s)
        with self._state:
            self._places.cut(pause_s)

    def _note_exhausted(self, answer: Answer) -> None:
        with self._state:
            self._exhausted_in_a_row += 1
            outage = self._exhausted_in_a_row >= OUTAGE_ROWS
        if outage:
            self.stop(
                "outage",
                f"{OUTAGE_ROWS} rows one after another used up their tries on server errors (last: {answer.status_code} "
                f"{answer.error}). The provider seems to be down; start again later to go on.",
            )

    # --- what earlier runs left behind ----------------------------------------------------------

    def _watch_the_dead(self, every_s: float) -> None:
        while not self._halt.wait(every_s):
            try:
                self._take_over()
            except LedgerError:
                # Nobody waits for this: the next time will do, or the next request to be opened will say.
                continue
            except KontextError as error:
                self._stop_for(error)

    def _take_over(self) -> None:
        try:
            for orphan in self._ledger.reclaim_orphans():
                self._settle_orphan(orphan)
        except StoreFull as error:
            self._stop_for(error)

    def _settle_orphan(self, orphan: Orphan) -> None:
        stored = None if orphan.accounted_for else self._store.recover(orphan.fingerprint)
        if stored is not None:
            # The run died between storing the picture and settling it: it was paid for, at the list
            # price as far as anybody knows.
            closing = Settlement("charged", "succeeded", cost=orphan.price, cost_estimated=True)
            self._ledger.settle(orphan.attempt, closing, status="succeeded", picture=stored, retryable=False)
        elif orphan.job is not None:
            age = max(0.0, time.time() - orphan.started_at.timestamp())
            flight = PendingJob(
                Sent(orphan.attempt, orphan.fingerprint, None, orphan.price),
                Job.from_json(orphan.job),
                time.monotonic() - min(age, self._options.job_timeout_s / 2),
            )
            with self._state:
                self.progress.in_flight += 1
                heapq.heappush(self._jobs, (time.monotonic(), next(self._ticket), flight))
                self._crew.summon()
        else:
            closing = Settlement(
                "unknown",
                Outcome.LOST.value,
                cause="run_died",
                error="the run ended before the answer came; it may have been charged",
            )
            self._ledger.settle(orphan.attempt, closing, status="unknown")
            with self._state:
                self.progress.possibly_charged += orphan.price


def _today() -> int:
    """The UTC day, counted from 1970."""
    return int(time.time() // 86_400)


def _both(due: float | None, other: float | None) -> float | None:
    """The moment when both are due."""
    return None if due is None or other is None else max(due, other)


_ACCOUNT_HELP: Final = {
    "bad_key": "Check SEGMIND_API_KEY.",
    "no_permission": "This key may not use the model: check the account's permissions.",
    "no_such_model": "Check SEGMIND_BASE_URL.",
    "insufficient_credits": "Top up the account.",
    "spend_limit": "Raise the team's spend limit.",
    "model_retired": "The provider has retired the model.",
    "redirected": "Check SEGMIND_BASE_URL: redirects are not followed, as the key would go along.",
}


def _account_message(answer: Answer) -> str:
    said = f"the API answered {answer.status_code}"
    words = f" ({answer.error})" if answer.error else ""
    help_ = _ACCOUNT_HELP.get(answer.cause, "")
    return f"{said}{words}. {help_} Nothing more is sent; start again to go on.".replace("  ", " ")
