"""Recovery: take over the attempts of runs that are gone, and settle what they left behind."""

import threading
import time
from collections import deque
from typing import Final

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.attempt_log import log_transition
from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.job_poller import JobPoller
from kontext_pipeline.generation.ledger import Ledger, Orphan, Settlement
from kontext_pipeline.generation.ledger.money import estimated_cost
from kontext_pipeline.generation.run_state import RunState
from kontext_pipeline.generation.work import SentRequest
from kontext_pipeline.segmind.answers import Job
from kontext_pipeline.segmind.outcomes import Cause, Outcome

LONGEST_INTERVAL_S: Final = 2.0
"""Longest time between two looks for dead runs, seconds."""


class OrphanReaper:
    """The stage that settles the attempts of dead runs. One thread runs it."""

    def __init__(self, *, run: RunState, jobs: JobPoller, ledger: Ledger, store: ImageStore) -> None:
        """Join the stage to the others."""
        self._run = run
        self._jobs = jobs
        self._ledger = ledger
        self._store = store
        self._orphans: deque[Orphan] = deque()
        self._closing = threading.Event()

    def work(self) -> None:
        """Look for dead runs at intervals, until the stage is closed. The body of the stage's thread."""
        interval_s = min(LONGEST_INTERVAL_S, self._ledger.lease.lease_s / 2)
        while not self._closing.wait(interval_s):
            try:
                self.step()
            except LedgerError:
                # Nothing depends on this step: the next one tries again, and the next reservation says what is wrong.
                continue
            except Exception as error:  # noqa: BLE001  the run stops, the other threads end in order
                self._run.stop_for(error)

    def close(self) -> None:
        """End the stage's thread after the step that it is at."""
        self._closing.set()

    def step(self) -> None:
        """Take over the attempts of runs that have died since the last step, and settle them.

        Raises:
            LedgerError: the ledger can't be read or written.
            StoreFull: an image that had arrived can't be stored.
        """
        # They belong to this process now, and no later call returns them: keep those that can't be settled yet.
        self._orphans += self._ledger.reclaim_orphans()
        while self._orphans:
            self._settle(self._orphans[0])
            self._orphans.popleft()

    def _settle(self, orphan: Orphan) -> None:
        sent = SentRequest(orphan.attempt, orphan.fingerprint, orphan.batch, None, orphan.price)
        stored = None if orphan.accounted_for else self._store.recover(orphan.fingerprint, orphan.batch)
        if stored is not None:
            # The run died between storing the image and settling the attempt. Nobody knows the exact cost.
            settlement = Settlement("charged", "succeeded", cost=estimated_cost(orphan.price), cost_estimated=True)
            self._ledger.settle(orphan.attempt, settlement, status="succeeded", picture=stored, retryable=False)
        elif orphan.job is not None:
            self._jobs.adopt(sent, Job.from_json(orphan.job), time.time() - orphan.started_at.timestamp())
            return
        else:
            settlement = Settlement(
                "unknown",
                Outcome.LOST.value,
                cause=Cause.RUN_DIED,
                error="the run ended before the answer came; the request may have been charged",
            )
            self._ledger.settle(orphan.attempt, settlement, status="unknown")
            self._run.count_money(possibly_charged=orphan.price)
        log_transition(settlement.state, sent, cause=settlement.cause, cost=settlement.cost)
