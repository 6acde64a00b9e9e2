"""Jobs (v2): poll each submitted job until it has finished, fetch its image and hand the answer on."""

import logging
import time
from collections.abc import Callable
from typing import Final

from kontext_pipeline.generation.attempt_log import log_transition
from kontext_pipeline.generation.due_jobs import DueJobs
from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.ledger import Ledger
from kontext_pipeline.generation.options import Options
from kontext_pipeline.generation.overdue_jobs import OverdueJobs
from kontext_pipeline.generation.poll_schedule import SHORTEST_S, PollSchedule
from kontext_pipeline.generation.run_state import RunState
from kontext_pipeline.generation.settler import Settler
from kontext_pipeline.generation.slots import Slots
from kontext_pipeline.generation.work import PendingJob, SentRequest
from kontext_pipeline.generation.work_queue import WorkQueue
from kontext_pipeline.segmind.answers import Answer, Job
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Outcome

UNUSABLE_FETCHES: Final = 8
"""Fetches of a completed job that may bring no image before the run believes that there is none."""
FETCH_DELAY_S: Final = 0.1
"""Pause between the poll that finds a job completed and the fetch of its image, seconds. Jobs that finish together are
replaced by new ones first, as that keeps the slots full."""
LONGEST_FETCH_DELAY_S: Final = 3.0
"""Longest time that an image waits for slots to be filled, seconds."""
LONGEST_FETCH_PAUSE_S: Final = 10.0
"""Longest pause between two fetches of an image that is ready, seconds."""

log = logging.getLogger(__name__)


class JobPoller:
    """The stage that collects v2 jobs. Several threads share it."""

    def __init__(
        self,
        *,
        run: RunState,
        queue: WorkQueue,
        slots: Slots,
        settler: Settler,
        ledger: Ledger,
        store: ImageStore,
        client: SegmindClient,
        options: Options,
        overdue: OverdueJobs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Join the stage to the stages before and after it."""
        self._run = run
        self._queue = queue
        self._slots = slots
        self._settler = settler
        self._ledger = ledger
        self._store = store
        self._client = client
        self._options = options
        self._overdue = overdue
        self._clock = clock
        self._schedule = PollSchedule()
        self._due = DueJobs(clock)

    # --- for the other stages -------------------------------------------------------------------

    def watch(self, sent: SentRequest, job: Job) -> None:
        """Write a job that was just submitted into the ledger, then poll it.

        A ledger that can't be written stops the run. The job is polled all the same, as only this process
        knows of it.
        """
        assert sent.at is not None, "the request was sent just now"
        pending = PendingJob(sent, job, self._clock())
        try:
            self._ledger.record_job(sent.attempt, job.to_json(), job.request_id, sent.at)
        except Exception as error:  # noqa: BLE001  whatever it is, the job must be collected
            self._run.stop_for(error)
        log_transition("submitted", sent)
        self._ask_later(pending, self._schedule.next_poll(self._clock() - pending.submitted, len(self._due)))

    def adopt(self, sent: SentRequest, job: Job, age_s: float) -> None:
        """Poll a job that an earlier run submitted `age_s` seconds ago."""
        self._run.take_in_hand()
        self._slots.occupy()
        # At least half of the timeout remains for the first polls.
        age_s = min(max(0.0, age_s), self._options.job_timeout_s / 2)
        self._ask_later(PendingJob(sent, job, self._clock() - age_s), 0.0)

    # --- the stage ------------------------------------------------------------------------------

    def work(self) -> None:
        """Ask for jobs when they are due, until the stage is closed. The body of each of its threads."""
        asked = False
        while (pending := self._due.take(asked=asked)) is not None:
            asked = True
            try:
                self.ask(pending)
            except Exception as error:  # noqa: BLE001  the run stops, the other threads end in order
                self._run.stop_for(error)
                self._let_go(pending)

    def close(self) -> None:
        """End the stage's threads. Jobs that are not collected stay in the ledger for a later run."""
        for pending in self._due.close():
            self._let_go(pending)

    def ask(self, pending: PendingJob) -> None:
        """Poll a job, or fetch its image where an earlier poll found it completed and no slot waits to be filled."""
        if pending.completed is None:
            self._poll(pending)
        elif self._slots.filling and self._clock() - pending.completed < LONGEST_FETCH_DELAY_S:
            self._ask_later(pending, FETCH_DELAY_S)
        else:
            self._fetch(pending, pending.completed)

    def _ask_later(self, pending: PendingJob, pause_s: float) -> None:
        if not self._due.add(pending, pause_s):
            self._let_go(pending)

    # --- one job --------------------------------------------------------------------------------

    def _poll(self, pending: PendingJob) -> None:
        asked = self._clock() - pending.submitted
        answer = self._client.poll(pending.job)
        age = self._clock() - pending.submitted
        match answer.outcome:
            case Outcome.COMPLETED:
                self._completed(pending, answer, asked)
            case Outcome.REJECTED | Outcome.EXPIRED:
                self._collect(pending, answer)
            case Outcome.STOPPED:
                self._settler.stop_for_account(answer)
                self._leave(pending, age)
            case _ if age > self._options.job_timeout_s:
                self._leave(pending, age)
            case Outcome.PENDING:
                pending.failures = 0
                pending.last_unfinished = asked
                self._ask_later(pending, self._schedule.next_poll(age, len(self._due)))
            case _:
                pending.failures += 1
                pause = self._options.retries.pause(pending.failures, answer.retry_after_s)
                self._ask_later(pending, min(pause, max(self._options.job_timeout_s - age, SHORTEST_S)))

    def _completed(self, pending: PendingJob, answer: Answer, asked: float) -> None:
        if pending.sent.item is not None:
            # The duration of an earlier run's job is not known.
            pending.duration = self._schedule.finished(asked, pending.last_unfinished)
            self._learn(pending, answer)
        pending.failures = 0
        pending.completed = self._clock()
        # The slot first: another thread may fetch the image as soon as the job is due.
        self._release_slot(pending)
        self._ask_later(pending, FETCH_DELAY_S)

    def _fetch(self, pending: PendingJob, completed: float) -> None:
        answer = self._client.fetch(pending.job, self._store.spool, pending.sent.fingerprint)
        if answer.outcome is Outcome.SUCCEEDED:
            self._learn(pending, answer)
        pending.unusable += answer.outcome is Outcome.UNUSABLE
        final = answer.outcome in (Outcome.SUCCEEDED, Outcome.REJECTED, Outcome.EXPIRED)
        if final or pending.unusable >= UNUSABLE_FETCHES:
            self._collect(pending, answer)
            return
        if answer.remains is not None:
            answer.remains.unlink(missing_ok=True)
        if answer.outcome is Outcome.STOPPED:
            self._settler.stop_for_account(answer)
        age = self._clock() - completed
        if answer.outcome is Outcome.STOPPED or age > self._options.job_timeout_s:
            self._leave(pending, age)
            return
        pending.failures += 1
        pause = self._options.retries.pause(pending.failures, answer.retry_after_s)
        self._ask_later(pending, min(pause, LONGEST_FETCH_PAUSE_S))

    def _learn(self, pending: PendingJob, answer: Answer) -> None:
        """Schedule the polls of the other jobs by what the end of this one tells of durations."""
        if pending.duration is not None and answer.total_time_s is not None:
            self._schedule.correct(pending.duration, answer.total_time_s)
        if not self._schedule.forecast_changed():
            return
        expected_s = self._schedule.expected_s

        def rescheduled(due: float, job: PendingJob) -> float:
            if job.failures or job.completed is not None or job.sent.item is None:
                return due
            forecast = job.submitted + expected_s
            return min(due, forecast) if job.last_unfinished else forecast

        self._due.reschedule(rescheduled)

    def _collect(self, pending: PendingJob, answer: Answer) -> None:
        """Hand on the answer that ends a job."""
        self._release_slot(pending)
        if answer.picture is not None and not pending.overdue:
            self._settler.put(pending.sent, answer)
            return
        parked = []
        if pending.overdue:
            parked = self._overdue.remove(pending.sent.fingerprint)
            self._run.take_in_hand()
            pending.overdue = False
        # Settled here and not by the settler's threads, so that parked items find the outcome in the ledger.
        self._settler.settle(pending.sent, answer)
        for item in parked:
            self._run.take_in_hand()
            if not self._queue.retry(item, 0.0, "job overdue"):
                self._run.let_go()

    def _leave(self, pending: PendingJob, age_s: float) -> None:
        """Wait for a job no longer. Its attempt stays open, and a later run collects the job.

        The job is polled occasionally while the run has other work, as the provider does not keep its
        record for ever.
        """
        self._release_slot(pending)
        if not pending.overdue:
            self._overdue.add(pending.sent.fingerprint, pending.sent.price)
            log.warning(
                "job %s has not finished: a later run collects it",
                pending.job.request_id,
                extra={
                    "attempt": pending.sent.attempt,
                    "batch": pending.sent.batch,
                    "seconds": round(age_s, 1),
                },
            )
            self._let_go(pending)
            pending.overdue = True
        pause = max(self._schedule.next_poll(age_s, len(self._due)), self._options.retries.base_s)
        self._ask_later(pending, pause)

    def _release_slot(self, pending: PendingJob) -> None:
        if pending.holds_slot:
            pending.holds_slot = False
            self._slots.release()

    def _let_go(self, pending: PendingJob) -> None:
        """Leave a job to a later run."""
        self._release_slot(pending)
        if not pending.overdue:
            self._run.let_go()
