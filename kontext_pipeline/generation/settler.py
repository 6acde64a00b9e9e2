"""Settle: keep the image, write into the ledger what the attempt cost, and do what follows from the outcome."""

import logging
from collections.abc import Sequence
from queue import Empty, Queue
from typing import Any, Final

from kontext_pipeline.errors import KontextError
from kontext_pipeline.generation.attempt_log import log_transition
from kontext_pipeline.generation.consequences import Consequence, NextStep, consequence_of, counts_as_try, settlement_of
from kontext_pipeline.generation.image_store import ImageStore, StoreFull
from kontext_pipeline.generation.ledger import Ledger, SettledImage, Settlement
from kontext_pipeline.generation.ledger.money import estimated_cost, micros
from kontext_pipeline.generation.reserver import Reserver
from kontext_pipeline.generation.retries import RetryPolicy
from kontext_pipeline.generation.run_state import RunState
from kontext_pipeline.generation.shared_pause import SharedPause
from kontext_pipeline.generation.slots import Slots
from kontext_pipeline.generation.work import SentRequest, WorkItem
from kontext_pipeline.generation.work_queue import WorkQueue
from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.outcomes import Cause, Charge, Outcome

OUTAGE_ROWS: Final = 10
"""Requests in a row that used up their tries on server errors, after which the run takes the provider to be down."""
LARGEST_BATCH: Final = 16
"""Images that one transaction of the ledger settles, at most: the first of them waits for the disk of the others."""
log = logging.getLogger(__name__)

_Answered = tuple[SentRequest, Answer]


class Settler:
    """The stage that ends attempts. A few threads settle images; other answers are settled by `settle`."""

    def __init__(
        self,
        *,
        run: RunState,
        queue: WorkQueue,
        slots: Slots,
        pause: SharedPause,
        reserver: Reserver,
        ledger: Ledger,
        store: ImageStore,
        retries: RetryPolicy,
        capacity: int,
    ) -> None:
        """`capacity`: answers that wait to be settled before `put` blocks, and with it the slot."""
        self._run = run
        self._queue = queue
        self._slots = slots
        self._pause = pause
        self._reserver = reserver
        self._ledger = ledger
        self._store = store
        self._retries = retries
        self._answers: Queue[_Answered | None] = Queue(capacity)
        self._exhausted_in_a_row = 0
        self._faults_in_a_row = 0

    def put(self, sent: SentRequest, answer: Answer) -> None:
        """Add an answer with an image."""
        # The price first: requests that are sent from now on must hold it.
        self._raise_price(answer)
        self._answers.put((sent, answer))

    def work(self) -> None:
        """Settle answers with images until the stage is closed. The body of each of the stage's threads."""
        while entries := self._next():
            self._settle_images(entries)

    def _next(self) -> list[_Answered]:
        """Return the answers that wait, as soon as there is one; none where the stage is closed."""
        entries: list[_Answered] = []
        entry = self._answers.get()
        while entry is not None:
            entries.append(entry)
            if len(entries) == LARGEST_BATCH:
                return entries
            try:
                entry = self._answers.get_nowait()
            except Empty:
                return entries
        if entries:
            # The end of the stage, which belongs to a later call.
            self._answers.put(None)
        return entries

    def close(self, threads: int) -> None:
        """End the stage's threads after the answers that wait."""
        for _ in range(threads):
            self._answers.put(None)

    def settle(self, sent: SentRequest, answer: Answer) -> None:
        """Settle one attempt and take the next step of its request.

        Raises:
            LedgerError: the ledger can't be written; the attempt stays open for a later run. Not with an image: the
                run is stopped then.
        """
        if answer.picture is not None:
            self._settle_images([(sent, answer)])
            return
        self._raise_price(answer)
        self._settle_without_image(sent, answer)
        self._stop_if_spilled(answer)

    # --- with an image --------------------------------------------------------------------------

    def _settle_images(self, entries: Sequence[_Answered]) -> None:
        """Keep the images of these answers, then settle their attempts in one transaction of the ledger.

        Where one of both fails, the run stops and a later run finds what was kept.
        """
        kept: list[tuple[SentRequest, Answer, SettledImage]] = []
        for sent, answer in entries:
            try:
                self._raise_price(answer)
                image = self._keep(sent, answer)
                self._stop_if_spilled(answer)
            except Exception as error:  # noqa: BLE001  the other images are to be kept, too
                self._run.stop_for(error)
                image = None
            if image is None:
                self._run.let_go()
            else:
                kept.append((sent, answer, image))
        try:
            self._write_images(kept)
        except Exception as error:  # noqa: BLE001  the threads end in order
            self._run.stop_for(error)
            self._run.let_go(len(kept))
            return
        for sent, answer, image in kept:
            self._record(sent, answer, image.settlement)
            self._exhausted_in_a_row = self._faults_in_a_row = 0
            self._slots.increase()
            if sent.item is None:
                self._run.let_go()
            else:
                self._run.finish(sent.item, "succeeded")

    def _write_images(self, kept: Sequence[tuple[SentRequest, Answer, SettledImage]]) -> None:
        """Settle attempts whose images are kept: together, or one by one where the ledger can't take one of them."""
        try:
            self._ledger.settle_images([image for _, _, image in kept])
        except (KontextError, OSError, MemoryError):
            raise
        except Exception:  # noqa: BLE001  `_write` says which one it is
            for sent, _, image in kept:
                self._write(sent, image.settlement, status="succeeded", picture=image.picture, retryable=False)

    def _keep(self, sent: SentRequest, answer: Answer) -> SettledImage | None:
        """Keep an image. Return None where the store can't take it: it was paid for and is in the rescue folder."""
        assert answer.picture is not None
        _log_answered(sent, answer)
        settlement = settlement_of(sent, answer)
        try:
            stored = self._store.keep(sent.fingerprint, answer.picture, sent.batch)
            return SettledImage(sent.attempt, settlement, stored)
        except StoreFull as error:
            self._run.stop_for(error)
            self._write(sent, settlement, status="pending")
            self._record(sent, answer, settlement)
            return None

    # --- without one ----------------------------------------------------------------------------

    def _settle_without_image(self, sent: SentRequest, answer: Answer) -> None:
        _log_answered(sent, answer)
        settlement = settlement_of(sent, answer)
        if answer.remains is not None:
            self._store.set_aside(answer.remains, sent.fingerprint, sent.attempt)
        item = sent.item
        if item is not None and counts_as_try(answer.outcome):
            item.failures += 1
        used_up = item is None or item.failures > self._retries.server_error_retries
        consequence = consequence_of(answer, tries_used_up=used_up)
        claim_kept = self._write(
            sent,
            settlement,
            status=consequence.status,
            retryable=consequence.retryable,
            keep_claim=consequence.keep_claim and item is not None,
            unknown_retries=self._retries.unknown_retries,
        )
        self._record(sent, answer, settlement)
        self._act_on_account(answer, consequence)
        if item is None:
            self._run.let_go()
        else:
            self._next_step(item, answer, consequence, claim_kept=claim_kept)

    def _act_on_account(self, answer: Answer, consequence: Consequence) -> None:
        """Do what an answer asks of the whole run."""
        if consequence.next_step is NextStep.STOP:
            self.stop_for_account(answer)
        elif consequence.next_step is NextStep.PAUSE:
            self._pause.begin(answer.retry_after_s)

    def _next_step(self, item: WorkItem, answer: Answer, consequence: Consequence, *, claim_kept: bool) -> None:
        match consequence.next_step:
            case NextStep.STOP:
                self._run.let_go()
            case NextStep.PAUSE:
                self._retry(item, 0.0, "rate limit")
            # Where the ledger gave up a claim on a request that is pending, the reserver learns the reason.
            case NextStep.RETRY if claim_kept or consequence.status == "pending":
                pause = self._retries.pause(max(1, item.failures), answer.retry_after_s)
                self._retry(item, pause, _reason(answer))
            case _:
                self._run.finish(item, consequence.status)
                if consequence.counts:
                    self._note_exhausted(answer)
        if answer.cause is Cause.FAULT:
            self._note_fault(answer)

    def _retry(self, item: WorkItem, pause_s: float, reason: str) -> None:
        if not self._queue.retry(item, pause_s, reason):
            self._run.let_go()

    def stop_for_account(self, answer: Answer) -> None:
        """Stop the run for an answer that concerns the account, or for an API that can't be reached."""
        if answer.outcome is Outcome.UNREACHABLE:
            self._run.stop(Cause.UNREACHABLE, f"the API can't be reached: {answer.error}. Start again to continue.")
        else:
            self._run.stop(answer.cause, _account_message(answer))

    def _note_exhausted(self, answer: Answer) -> None:
        self._exhausted_in_a_row += 1
        if self._exhausted_in_a_row >= OUTAGE_ROWS:
            self._run.stop(
                Cause.OUTAGE,
                f"{OUTAGE_ROWS} rows in a row used up their tries on server errors (the latest: {answer.status_code} "
                f"{answer.error}). The provider seems to be down; start again later to continue.",
            )

    def _note_fault(self, answer: Answer) -> None:
        self._faults_in_a_row += 1
        if self._faults_in_a_row >= OUTAGE_ROWS:
            self._run.stop(
                Cause.FAULT,
                f"{OUTAGE_ROWS} answers in a row could not be handled (the latest: {answer.error}), and each may have been "
                "charged. This is a defect of kontext_pipeline; the log has the details.",
            )

    # --- both -----------------------------------------------------------------------------------

    def _stop_if_spilled(self, answer: Answer) -> None:
        if answer.spilled:
            self._run.stop(
                Cause.DISK_FULL,
                f"{self._store.spool} can't be written. Make room and start again to continue.",
            )

    def _write(self, sent: SentRequest, settlement: Settlement, **outcome: Any) -> bool:
        """Settle an attempt in the ledger; `outcome` and the result are those of `Ledger.settle`.

        Something in the answer that the ledger can't take is left out. It must not end the run, nor every later one.
        """
        try:
            return self._ledger.settle(sent.attempt, settlement, **outcome)
        except (KontextError, OSError, MemoryError):
            # Not about this answer: the machine.
            raise
        except Exception:
            log.exception("attempt %d can't be settled with all that its answer says", sent.attempt)
            charged = settlement.state == "charged"
            plain = Settlement(
                settlement.state,
                settlement.outcome,
                cost=estimated_cost(sent.price) if charged else 0,
                cost_estimated=charged,
                cause=Cause.FAULT,
                error="the answer holds something that can't be written to the ledger",
                sent_at=settlement.sent_at,
            )
            return self._ledger.settle(sent.attempt, plain, **outcome)

    def _raise_price(self, answer: Answer) -> None:
        if answer.charge is Charge.YES and answer.cost_usd is not None:
            self._reserver.raise_price(micros(answer.cost_usd))

    def _record(self, sent: SentRequest, answer: Answer, settlement: Settlement) -> None:
        lost = settlement.state == "unknown"
        self._run.count_money(spent=settlement.cost, possibly_charged=sent.price if lost else 0)
        log_transition(settlement.state, sent, cause=answer.cause, status_code=answer.status_code, cost=settlement.cost)
        if lost:
            log.warning(
                "an answer was lost: attempt %d may have been charged (%s)",
                sent.attempt,
                answer.error,
                extra={"attempt": sent.attempt, "batch": sent.batch, "cause": answer.cause},
            )


def _log_answered(sent: SentRequest, answer: Answer) -> None:
    log_transition("answered", sent, cause=answer.cause, status_code=answer.status_code, seconds=answer.latency_s)


def _reason(answer: Answer) -> str:
    """Return the name under which an item waits to be tried again."""
    return str(answer.status_code or answer.cause.replace("_", " "))


_ACCOUNT_HELP: Final = {
    Cause.BAD_KEY: "Check SEGMIND_API_KEY.",
    Cause.NO_PERMISSION: "This key may not use the model: check the account's permissions.",
    Cause.NO_SUCH_MODEL: "Check SEGMIND_BASE_URL.",
    Cause.INSUFFICIENT_CREDITS: "Top up the account.",
    Cause.SPEND_LIMIT: "Raise the team's spend limit.",
    Cause.MODEL_RETIRED: "The provider has retired the model.",
    Cause.REDIRECTED: "Check SEGMIND_BASE_URL: redirects are not followed, as the key would go along.",
}


def _account_message(answer: Answer) -> str:
    words = f" ({answer.error})" if answer.error else ""
    advice = f" {_ACCOUNT_HELP[answer.cause]}" if answer.cause in _ACCOUNT_HELP else ""
    return f"the API answered {answer.status_code}{words}.{advice} Nothing more is sent; start again to continue."
