"""The generation loop: keeps the allowed number of requests in flight until every one has its outcome.

Threads take what is due, in this order: a v2 job to ask for, a request whose pause is over, a new request
from the source. A request holds one of `concurrency` places from just before its POST until its answer is
in (v1) or its job is done (v2); storing, settling and pausing hold none, so the places stay full. v1 needs
a thread for each place, as each waits on its own connection; v2 needs a few for any number of jobs.

Nothing here decides what an answer means (`segmind.outcomes`), what to do about it (`retries`) or what it
costs (`ledger`).
"""

import contextlib
import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from kontext_pipeline.errors import KontextError, LedgerError
from kontext_pipeline.generation.inputs import InputImages, InputUnavailable
from kontext_pipeline.generation.ledger import (
    Cap,
    Capped,
    Closing,
    Ledger,
    Opened,
    Orphan,
    Settled,
    Status,
    Taken,
    Wait,
    micros,
)
from kontext_pipeline.generation.polling import PollSchedule
from kontext_pipeline.generation.retries import REMEDIES, Remedy, RetryPolicy
from kontext_pipeline.generation.store import ImageStore, StoreFull
from kontext_pipeline.segmind.answers import Answer, Job
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.model import LIST_PRICE_USD
from kontext_pipeline.segmind.outcomes import Call, Charge, Outcome
from kontext_pipeline.segmind.request import GenerationRequest

ASK_AGAIN_S: Final = 0.5
"""How soon to look again at what another run holds: a request, or the last of a budget. Seconds."""
ROWS_AHEAD: Final = 64
"""Requests that are read ahead of need, at the least."""
STORING_THREADS: Final = 16
"""Threads beyond the places in flight, for answers that are being stored."""
JOB_THREADS: Final = 32
"""Threads that serve v2 jobs: each call is short."""
SUBMITTERS: Final = 24
"""Of these, the most that may be at new requests: those wait for the rate and for budgets, and jobs that
are out there must be asked for meanwhile."""
FETCHES: Final = 8
"""Times a finished job's file may turn out to be no picture before that is believed; asking is free."""
LONGEST_FETCH_PAUSE_S: Final = 10.0
"""Longest pause between two tries to fetch a picture that is ready."""
OUTAGE_ROWS: Final = 10
"""Rows in a row that used up their tries on server errors, after which the provider is taken to be down."""
DEFAULT_PAUSE_S: Final = 5.0
"""Pause after a 429 that doesn't say when the limit resets."""
CUT: Final = 0.7
"""What is left of the places in flight after a burst of 429s."""
REGAINED_IN: Final = 3
"""Round trips in which they are regained, by as many in each."""
SHORTEST_PAUSE_S: Final = 0.1
"""Pause after a 429 that says it resets now: clocks tick coarsely."""
LAST_WORDS_S: Final = 5.0
"""How long calls that are being cut off may take to settle what they know."""


@dataclass(slots=True)
class Wish:
    """One request on its way through the loop."""

    fingerprint: str
    batch: str
    request: GenerationRequest
    failures: int = 0
    """Tries in this run that ended without a picture and without blame on the request."""


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


@dataclass(slots=True)
class _Flight:
    """A v2 job out there. `wish` is None for one that an earlier run left behind."""

    attempt: int
    fingerprint: str
    job: Job
    submitted: float
    wish: Wish | None
    price: int
    failures: int = 0
    unusable: int = 0
    completed: float | None = None
    """When its picture was ready to be fetched."""
    landed: bool = False
    """It holds no place in flight any more."""


class GenerationLoop:
    """One run. Call `run` once; read `progress` and `stopped` from any thread at any time."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: ImageStore,
        client: SegmindClient,
        options: Options,
        on_outcome: Callable[[Wish, Status], None] = lambda _wish, _status: None,
    ) -> None:
        """`ledger` has been entered. `on_outcome` is called from the loop's threads for each wish that is
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
        self._limit = float(options.concurrency)
        self._growth = 1.0
        self._last_cut = float("-inf")
        self._exhausted_in_a_row = 0

        # Three conditions of one lock, because a wake-up that finds nothing to do costs as much as one that
        # does. Here wait `run` and the feeder; idle threads wait to be called, one of them (the sentry)
        # for what is due at a time.
        lock = threading.RLock()
        self._state = threading.Condition(lock)
        self._call = threading.Condition(lock)
        self._alarm = threading.Condition(lock)
        self._sentry_until: float | None = None
        self._turn = threading.Lock() if options.rpm else contextlib.nullcontext()
        self._halt = threading.Event()
        self._cut = threading.Event()
        self._ready: deque[Wish] = deque()
        self._paused: list[tuple[float, int, Wish]] = []
        self._jobs: list[tuple[float, int, _Flight]] = []
        self._ticket = itertools.count()
        self._overdue: dict[str, int] = {}
        self._parked: dict[str, list[Wish]] = {}
        self._source_done = False
        self._source_error: BaseException | None = None
        self._busy = 0
        self._starting = 0
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._over = False

    # --- the run, as its caller sees it ---------------------------------------------------------

    def run(self, wishes: Iterable[Wish]) -> None:
        """See every wish through, or stop early and say why in `stopped`.

        An interruption (Ctrl-C, or an exception that a signal handler raises in this thread) stops
        submitting, collects what is in flight for `drain_s`, settles, and is then raised again; a second
        one cuts that short. Whatever is not settled then, the next run reads from the ledger.

        Raises:
            KontextError: the source of wishes failed.
        """
        self._price = max(self._price, self._ledger.dearest())
        every_s = min(2.0, self._ledger.lease.lease_s / 2)
        feeder = threading.Thread(target=self._feed, args=(wishes,), name="feeder", daemon=True)
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
            with self._state:
                self._over = True
                for condition in (self._state, self._call, self._alarm):
                    condition.notify_all()
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

    def _stop_for(self, error: KontextError) -> None:
        self.stop("disk_full" if isinstance(error, StoreFull) else "ledger", str(error))

    def _wait(self, seconds: float | None) -> None:
        """Wait until all is done, or the run is stopped (`seconds` None), or nothing is in flight any more."""
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
        through = self._busy == 0 and len(self._jobs) <= len(self._overdue)
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

    def _feed(self, wishes: Iterable[Wish]) -> None:
        try:
            for wish in wishes:
                with self._state:
                    while len(self._ready) >= self._ahead and self.stopped is None:
                        self._state.wait()
                    if self.stopped is not None:
                        return
                    self._ready.append(wish)
                    self._summon()
        except BaseException as error:  # noqa: BLE001  raised again in run()
            self._source_error = error
            self.stop("manifest", str(error))
        finally:
            with self._state:
                self._source_done = True
                self._state.notify_all()

    def _summon(self) -> None:
        """See that somebody takes what is due, or watches for it: wake a thread, or start one.

        The lock is held. One thread is enough: whoever takes a task summons the next.
        """
        due = self._next_due()
        if due is None:
            return
        watched = self._sentry_until is not None
        if watched and due > time.monotonic():
            if due < (self._sentry_until or 0.0):
                self._alarm.notify()
        elif self._idle > watched:
            self._call.notify()
        elif watched:
            self._alarm.notify()
        else:
            self._start_thread()

    def _start_thread(self) -> None:
        most = (
            self._options.concurrency + min(self._options.concurrency, STORING_THREADS)
            if self._options.api_version == "v1"
            else min(self._options.concurrency + 1, JOB_THREADS)
        )
        if len(self._threads) < most:
            thread = threading.Thread(target=self._work, name=f"generation-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except KontextError as error:
                self._stop_for(error)
            except Exception as error:  # noqa: BLE001  a fault of ours must not leave the others running
                self.stop("fault", f"{type(error).__name__}: {error}")
                self._source_error = self._source_error or error
            finally:
                with self._state:
                    self._busy -= 1
                    if self._done(draining=False):
                        self._state.notify_all()

    def _next(self) -> Callable[[], None] | None:
        with self._state:
            while not self._over:
                task = self._take(time.monotonic())
                if task is not None:
                    self._busy += 1
                    self._summon()
                    return task
                self._idle += 1
                due = self._next_due()
                if due is None or self._sentry_until is not None:
                    self._call.wait()
                else:
                    self._sentry_until = due
                    self._alarm.wait(max(0.0, due - time.monotonic()))
                    self._sentry_until = None
                self._idle -= 1
            return None

    def _take(self, now: float) -> Callable[[], None] | None:
        if self._jobs and self._jobs[0][0] <= now:
            flight = heapq.heappop(self._jobs)[2]
            return lambda: self._ask(flight)
        if not self._may_start():
            return None
        if self._paused and self._paused[0][0] <= now:
            wish = heapq.heappop(self._paused)[2]
        elif self._ready:
            wish = self._ready.popleft()
            if len(self._ready) == self._ahead // 2:
                self._state.notify_all()
        else:
            return None
        self._starting += 1
        self.progress.in_flight += 1
        return lambda: self._start(wish)

    def _may_start(self) -> bool:
        room = self._options.api_version == "v1" or self._starting < SUBMITTERS
        return room and self.stopped is None and self.progress.in_flight < int(self._limit)

    def _next_due(self) -> float | None:
        """When the next task is due, on the monotonic clock; None where there is none."""
        times = [self._jobs[0][0]] if self._jobs else []
        if self._may_start():
            if self._ready:
                return 0.0
            if self._paused:
                times.append(self._paused[0][0])
        return min(times, default=None)

    def _land(self) -> None:
        """Give the place in flight back."""
        with self._state:
            self.progress.in_flight -= 1
            self._summon()

    def _again(self, wish: Wish, pause_s: float) -> None:
        with self._state:
            heapq.heappush(self._paused, (time.monotonic() + pause_s, next(self._ticket), wish))
            self._summon()

    def _later(self, flight: _Flight, pause_s: float) -> None:
        with self._state:
            if not self._cut.is_set():
                heapq.heappush(self._jobs, (time.monotonic() + pause_s, next(self._ticket), flight))
            self._summon()

    # --- from wish to answer --------------------------------------------------------------------

    def _start(self, wish: Wish) -> None:
        landed = False
        try:
            if self._is_parked(wish):
                return
            found = self._store.find(wish.fingerprint)
            if found is not None:
                self._ledger.adopt_picture(wish.fingerprint, wish.batch, found)
                self._through(wish, "succeeded", found=True)
                return
            uri, unavailable = None, None
            try:
                uri = self._inputs.uri(wish.request)
            except InputUnavailable as error:
                unavailable = error.answer
            attempt = self._open(wish)
            if attempt is None:
                return
            if unavailable is not None:
                answer = unavailable
            elif self._options.api_version == "v1":
                answer = self._client.generate(wish.request.body(uri), self._store.spool, wish.fingerprint)
            else:
                answer = self._client.submit(wish.request.body(uri))
                if answer.job is not None and answer.outcome is Outcome.ACCEPTED:
                    landed = True
                    self._watch_job(attempt, answer.job, wish)
                    return
            self._land()
            landed = True
            self._conclude(attempt, answer, wish.fingerprint, wish, self._price)
        finally:
            with self._state:
                self._starting -= 1
            if not landed:
                self._land()

    def _is_parked(self, wish: Wish) -> bool:
        """Whether the request waits, without holding the run up, for a job that is overdue."""
        with self._state:
            parked = wish.fingerprint in self._overdue
            if parked:
                self._parked.setdefault(wish.fingerprint, []).append(wish)
        return parked

    def _open(self, wish: Wish) -> int | None:
        """Return the attempt that allows the POST, or None where there is to be none."""
        options = self._options
        with self._turn:
            while not self._halt.is_set():
                self._store.check_room(self.progress.in_flight)
                asked = time.monotonic()
                opening = self._ledger.open(
                    wish.fingerprint,
                    wish.batch,
                    api_version=options.api_version,
                    price=self._price,
                    caps=options.caps,
                    rpm=options.rpm,
                    unknown_retries=options.retries.unknown_retries,
                    retry_failed=options.retry_failed,
                )
                match opening:
                    case Opened(attempt) if self._halt.is_set() or self._is_stale(asked):
                        # Stopped while this was being written, or asleep for so long since that another
                        # run may have taken it over: it was not sent and will not be.
                        never = Closing("released", "not_sent", cause="not_sent")
                        self._ledger.close_attempt(attempt, never, status="pending")
                    case Opened(attempt):
                        with self._state:
                            self.progress.attempts += 1
                        return attempt
                    case Settled(status):
                        self._through(wish, status, found=True)
                        return None
                    case Taken():
                        self._again(wish, ASK_AGAIN_S)
                        return None
                    case Wait(seconds):
                        self._halt.wait(seconds)
                    case Capped(cap, recoverable) if recoverable <= sum(self._overdue.values()):
                        self.stop(
                            "budget",
                            f"the budget of {cap} leaves no room for another picture. Raise it and start again to go on.",
                        )
                        return None
                    case Capped():
                        self._halt.wait(ASK_AGAIN_S)
        return None

    def _is_stale(self, asked: float) -> bool:
        return time.monotonic() - asked > self._ledger.lease.lease_s / 2

    # --- v2 jobs --------------------------------------------------------------------------------

    def _watch_job(self, attempt: int, job: Job, wish: Wish) -> None:
        """Write a new job down, then ask for it until it is done."""
        flight = _Flight(attempt, wish.fingerprint, job, time.monotonic(), wish, self._price)
        try:
            self._ledger.record_job(attempt, job.to_json(), job.request_id)
        finally:
            # Also where it could not be written down: then only this process can collect it.
            self._later(flight, self._polls.next_poll(0.0, len(self._jobs)))

    def _ask(self, flight: _Flight) -> None:
        if flight.completed is not None:
            self._fetch(flight, flight.completed)
            return
        answer = self._client.poll(flight.job)
        age = time.monotonic() - flight.submitted
        match answer.outcome:
            case Outcome.COMPLETED:
                if flight.wish is not None:
                    # Of a job that an earlier run submitted, nobody knows how long it took.
                    self._polls.learn(age)
                flight.failures = 0
                flight.completed = time.monotonic()
                self._land_flight(flight)
                self._fetch(flight, flight.completed)
            case Outcome.REJECTED | Outcome.EXPIRED:
                self._collect(flight, answer)
            case Outcome.STOPPED:
                self.stop(answer.cause, _account_message(answer))
                self._leave_out_there(flight, age)
            case _ if age > self._options.job_timeout_s:
                self._leave_out_there(flight, age)
            case Outcome.PENDING:
                flight.failures = 0
                self._later(flight, self._polls.next_poll(age, len(self._jobs)))
            case _:
                flight.failures += 1
                self._later(flight, answer.retry_after_s or self._options.retries.pause(flight.failures))

    def _fetch(self, flight: _Flight, completed: float) -> None:
        answer = self._client.fetch(flight.job, self._store.spool, flight.fingerprint)
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

    def _collect(self, flight: _Flight, answer: Answer) -> None:
        """A job has come to its end."""
        self._land_flight(flight)
        self._conclude(flight.attempt, answer, flight.fingerprint, flight.wish, flight.price)
        with self._state:
            self._overdue.pop(flight.fingerprint, None)
            for wish in self._parked.pop(flight.fingerprint, ()):
                heapq.heappush(self._paused, (time.monotonic(), next(self._ticket), wish))

    def _leave_out_there(self, flight: _Flight, age_s: float) -> None:
        """Wait for a job no longer. It is asked for now and then while the run has other things to do,
        as its record won't be kept for ever; its attempt stays open for a later run to collect.
        """
        self._land_flight(flight)
        with self._state:
            self._overdue[flight.fingerprint] = flight.price
            self.progress.latest_error = (
                f"job {flight.job.request_id} is still out there; a later run collects it"
            )
        self._later(flight, max(self._polls.next_poll(age_s, len(self._jobs)), self._options.retries.base_s))

    def _land_flight(self, flight: _Flight) -> None:
        if not flight.landed:
            flight.landed = True
            self._land()

    # --- from answer to outcome -----------------------------------------------------------------

    def _conclude(
        self, attempt: int, answer: Answer, fingerprint: str, wish: Wish | None, price: int
    ) -> None:
        if answer.picture is not None:
            self._keep(attempt, answer, fingerprint, wish, price)
            return
        if answer.remains is not None:
            self._store.set_aside(answer.remains, fingerprint, attempt)
        closing = _closing(answer, price)
        remedy = REMEDIES[answer.outcome]
        if wish is not None and remedy in (Remedy.RETRY, Remedy.RECONNECT):
            wish.failures += 1
        retries = self._options.retries
        exhausted = wish is None or wish.failures > retries.server_error_retries
        status: Status = "pending"
        if remedy is Remedy.FAIL or (remedy is Remedy.RETRY and exhausted):
            status = "failed"
        elif remedy in (Remedy.RETRY_UNKNOWN, Remedy.LEAVE):
            status = "unknown"
        kept = self._ledger.close_attempt(
            attempt,
            closing,
            status=status,
            # A job that failed, or a file that wasn't there, may fare better another day.
            retryable=remedy is not Remedy.FAIL or answer.call in (Call.UPLOAD, Call.POLL, Call.FETCH),
            keep_claim=wish is not None and status != "failed" and remedy not in (Remedy.STOP, Remedy.LEAVE),
            unknown_retries=retries.unknown_retries,
        )
        self._count(answer, closing, price)
        if answer.spilled:
            self.stop(
                "disk_full", f"{self._store.spool} can't be written. Make room and start again to go on."
            )
        match remedy:
            case Remedy.STOP:
                self.stop(answer.cause, _account_message(answer))
            case Remedy.WAIT:
                told = answer.retry_after_s
                self._slow_down(DEFAULT_PAUSE_S if told is None else max(told, SHORTEST_PAUSE_S))
                if wish is not None:
                    self._again(wish, 0.0)
            case Remedy.RECONNECT if exhausted:
                self.stop("unreachable", f"the API can't be reached: {answer.error}. Start again to go on.")
            case Remedy.FAIL:
                self._through(wish, "failed")
            case Remedy.RETRY if exhausted:
                self._through(wish, "failed")
                self._note_exhausted(answer)
            case Remedy.LEAVE:
                self._through(wish, "unknown")
            case Remedy.RETRY_UNKNOWN if not kept:
                self._through(wish, "unknown")
            case _ if wish is not None:
                failures = max(1, wish.failures)
                self._again(wish, answer.retry_after_s or retries.pause(failures))

    def _keep(self, attempt: int, answer: Answer, fingerprint: str, wish: Wish | None, price: int) -> None:
        assert answer.picture is not None
        closing = _closing(answer, price)
        try:
            stored = self._store.keep(fingerprint, answer.picture)
        except StoreFull as error:
            self.stop("disk_full", str(error))
            self._ledger.close_attempt(attempt, closing, status="pending")
            self._count(answer, closing, price)
            return
        self._ledger.close_attempt(attempt, closing, status="succeeded", picture=stored, retryable=False)
        self._count(answer, closing, price)
        self._through(wish, "succeeded")
        with self._state:
            self._exhausted_in_a_row = 0
            self._limit = min(self._options.concurrency, self._limit + self._growth / self._limit)
        if answer.spilled:
            self.stop(
                "disk_full", f"{self._store.spool} can't be written. Make room and start again to go on."
            )

    def _count(self, answer: Answer, closing: Closing, price: int) -> None:
        with self._state:
            self.progress.spent += closing.cost
            self.progress.possibly_charged += price if closing.state == "unknown" else 0
            if answer.error:
                self.progress.latest_error = answer.error
            if closing.state == "charged":
                self._price = max(self._price, closing.cost)

    def _through(self, wish: Wish | None, status: Status, *, found: bool = False) -> None:
        if wish is None:
            return
        with self._state:
            if status == "succeeded":
                self.progress.found += found
                self.progress.succeeded += not found
            elif status == "failed":
                self.progress.failed += 1
            else:
                self.progress.unknown += 1
        self._on_outcome(wish, status)

    def _slow_down(self, pause_s: float) -> None:
        """The account's limit is reached: everybody pauses, and this run cuts itself once a burst."""
        self._ledger.pause(pause_s)
        now = time.monotonic()
        with self._state:
            if now >= self._last_cut:
                self._last_cut = now + pause_s
                before, self._limit = self._limit, max(1.0, self._limit * CUT)
                self._growth = max(1.0, (before - self._limit) / REGAINED_IN)

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
            for orphan in self._ledger.take_over():
                self._settle_orphan(orphan)
        except StoreFull as error:
            self._stop_for(error)

    def _settle_orphan(self, orphan: Orphan) -> None:
        stored = None if orphan.accounted_for else self._store.recover(orphan.fingerprint)
        if stored is not None:
            # The run died between storing the picture and settling it: it was paid for, at the list
            # price as far as anybody knows.
            closing = Closing("charged", "succeeded", cost=orphan.price, cost_estimated=True)
            self._ledger.close_attempt(
                orphan.attempt, closing, status="succeeded", picture=stored, retryable=False
            )
        elif orphan.job is not None:
            age = max(0.0, time.time() - orphan.started_at.timestamp())
            flight = _Flight(
                orphan.attempt,
                orphan.fingerprint,
                Job.from_json(orphan.job),
                time.monotonic() - min(age, self._options.job_timeout_s / 2),
                None,
                orphan.price,
            )
            with self._state:
                self.progress.in_flight += 1
                heapq.heappush(self._jobs, (time.monotonic(), next(self._ticket), flight))
                self._summon()
        else:
            closing = Closing(
                "unknown",
                Outcome.LOST.value,
                cause="run_died",
                error="the run ended before the answer came; it may have been charged",
            )
            self._ledger.close_attempt(orphan.attempt, closing, status="unknown")
            with self._state:
                self.progress.possibly_charged += orphan.price


def _closing(answer: Answer, price: int) -> Closing:
    match answer.charge:
        case Charge.YES:
            state: Literal["charged", "released", "unknown"] = "charged"
            cost = price if answer.cost_usd is None else micros(answer.cost_usd)
        case Charge.NO:
            state, cost = "released", 0
        case _:
            state, cost = "unknown", 0
    return Closing(
        state=state,
        outcome=answer.outcome.value,
        cost=cost,
        cost_estimated=state == "charged" and answer.cost_usd is None,
        cause=answer.cause,
        status_code=answer.status_code,
        error=answer.error,
        request_id=answer.request_id,
        latency_s=answer.latency_s,
    )


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
