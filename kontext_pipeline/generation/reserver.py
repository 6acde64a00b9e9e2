"""Reserve: claim requests and hold their price in the ledger, many in one transaction.

The only caller of `Ledger.reserve`. Reservations wait for a slot only where the ledger can tell, after a
crash, a request that was sent from one that was not (`Lease.tells_sent`), and only without a rate limit,
which counts requests when they are reserved. Elsewhere a reservation is made when a slot is free.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from kontext_pipeline.generation.attempt_log import log_transition
from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.ledger import (
    AlreadySettled,
    ClaimedElsewhere,
    Ledger,
    OverBudget,
    ReservationTerms,
    Reserved,
    ReserveResult,
    RetryLater,
)
from kontext_pipeline.generation.options import Options
from kontext_pipeline.generation.overdue_jobs import OverdueJobs
from kontext_pipeline.generation.resolved_requests import ResolvedRequests
from kontext_pipeline.generation.run_state import RunState
from kontext_pipeline.generation.shared_pause import SharedPause
from kontext_pipeline.generation.slots import Slots
from kontext_pipeline.generation.work import Reservation, ResolvedRequest, WorkItem, today
from kontext_pipeline.generation.work_queue import ASK_AGAIN_S, CLAIMED_ELSEWHERE, WorkQueue
from kontext_pipeline.segmind.outcomes import Cause

LARGEST_BATCH: Final = 64
"""Requests in one transaction, at most: others wait for the ledger's write lock meanwhile."""


class Reserver:
    """The stage that turns resolved requests into reservations. One thread runs it."""

    def __init__(
        self,
        *,
        run: RunState,
        queue: WorkQueue,
        slots: Slots,
        pause: SharedPause,
        ledger: Ledger,
        store: ImageStore,
        options: Options,
        price: int,
        overdue: OverdueJobs,
        capacity: int = LARGEST_BATCH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`price`: what a request may cost, millionths of a USD. `capacity`: resolved requests that wait here."""
        self._run = run
        self._queue = queue
        self._slots = slots
        self._pause = pause
        self._ledger = ledger
        self._store = store
        self._options = options
        self._price = price
        self._overdue = overdue
        self._clock = clock
        self._resolved = ResolvedRequests(capacity)
        self._not_before = 0.0
        slots.call_when_wanted(self._resolved.wake)

    # --- for the other stages -------------------------------------------------------------------

    def offer(self, request: ResolvedRequest) -> bool:
        """Add a resolved request, as soon as there is room. Return False where the run is over."""
        return self._resolved.offer(request)

    def close(self) -> None:
        """Reserve nothing more. The stage's thread then releases what was not sent."""
        self._resolved.close()

    def raise_price(self, cost: int) -> None:
        """Hold at least `cost` (millionths of a USD) for every request from now on."""
        self._price = max(self._price, cost)

    def is_valid(self, reservation: Reservation) -> bool:
        """Return whether a reservation holds what its request may cost, against the caps of this day."""
        return (
            reservation.price >= self._price
            and reservation.day == today()
            # A process that was suspended may have lost its claims to another run.
            and self._ledger.lease.is_fresh()
        )

    def give_back(self, reservation: Reservation) -> None:
        """Release a reservation that is not sent, and reserve its request again unless the run is over."""
        self._release([reservation])
        if not self._queue.retry(reservation.item, 0.0, "reservation expired"):
            self._run.let_go()

    def claim_unsent(self, item: WorkItem) -> Reservation | None:
        """Claim a request that won't be sent, at no price, so that its attempt can be settled.

        Return None where that is not needed, or not possible now: the item is finished, or queued again.

        Raises:
            LeaseLost: another run has taken over this run's claims.
            LedgerError: the ledger can't be written.
        """
        terms = replace(self._terms(0), caps=(), rpm=None)
        (result,) = self._ledger.reserve([(item.fingerprint, item.batch)], terms)
        request, day = ResolvedRequest(item, None), today()
        if isinstance(result, Reserved):
            return Reservation(request, result.attempt, 0, day)
        if not self._accept(request, result, 0, day) and not self._queue.retry(item, ASK_AGAIN_S, "rate limit"):
            self._run.let_go()
        return None

    def _terms(self, price: int) -> ReservationTerms:
        options = self._options
        return ReservationTerms(
            api_version=options.api_version,
            price=price,
            caps=options.caps,
            rpm=options.rpm,
            unknown_retries=options.retries.unknown_retries,
            retry_failed=options.retry_failed,
            ask_again=options.ask_again,
        )

    # --- the stage ------------------------------------------------------------------------------

    def work(self) -> None:
        """Reserve until the stage is closed, then release what was not sent. The body of the stage's thread."""
        try:
            while self._resolved.wait(self._pause_s):
                self.step()
        except Exception as error:  # noqa: BLE001  the run stops, the other threads end in order
            self._run.stop_for(error)
        try:
            self._shut_down()
        except Exception as error:  # noqa: BLE001
            self._run.stop_for(error)

    def _pause_s(self) -> float | None:
        """Return the seconds until a request may be reserved; None where no slot wants one."""
        return self._not_before - self._clock() if self._slots.wanted() else None

    def step(self) -> None:
        """Reserve as many requests as the slots want, in one transaction.

        Raises:
            LeaseLost: another run has taken over this run's claims.
            LedgerError: the ledger can't be written.
            StoreFull: the disk has no room for more images.
        """
        requests = self._resolved.take(min(self._slots.wanted(), LARGEST_BATCH))
        if not requests:
            return
        try:
            self._store.check_room(max(1, self._slots.in_flight))
            price, day = self._price, today()
            results = self._ledger.reserve(
                [(request.item.fingerprint, request.item.batch) for request in requests],
                self._terms(price),
                {request.item.fingerprint: request.kept for request in requests if request.kept is not None},
            )
        except BaseException:
            self._run.let_go(len(requests))
            raise
        back = []
        for request, result in zip(requests, results, strict=True):
            try:
                if not self._accept(request, result, price, day):
                    back.append(request)
            except Exception as error:  # noqa: BLE001  the other requests have their results, too
                self._run.stop_for(error)
                self._run.let_go()
        self._resolved.put_back(back)

    def _accept(self, request: ResolvedRequest, result: ReserveResult, price: int, day: int) -> bool:
        """Act on one result. Return False where the request waits here until it can be reserved."""
        item = request.item
        match result:
            case Reserved(attempt):
                self._pause.ruled_out()
                reservation = Reservation(request, attempt, price, day)
                log_transition("reserved", reservation)
                if not self._slots.put(reservation):
                    self.give_back(reservation)
            case AlreadySettled(status):
                self._run.finish(item, status, found=True)
            case ClaimedElsewhere():
                if not self._queue.retry(item, ASK_AGAIN_S, CLAIMED_ELSEWHERE):
                    self._run.let_go()
            case RetryLater(seconds):
                self._not_before = self._clock() + seconds
                if self._options.rpm is None:
                    self._pause.note(seconds)
                return False
            case OverBudget(cap) if result.recoverable > self._overdue.amount_held():
                # Open attempts hold the rest of the budget and may give it back.
                self._not_before = self._clock() + ASK_AGAIN_S
                return False
            case OverBudget(cap):
                self._run.stop(
                    Cause.BUDGET,
                    f"the budget of {cap} leaves no room for another image. Raise the budget and start again to "
                    "continue.",
                )
                return False
        return True

    def _release(self, reservations: list[Reservation]) -> None:
        if not reservations:
            return
        self._ledger.release([reservation.attempt for reservation in reservations])
        for reservation in reservations:
            log_transition("released", reservation, cause=Cause.NOT_SENT)

    def _shut_down(self) -> None:
        reservations = self._slots.withdraw()
        self._resolved.close()
        dropped = len(reservations) + len(self._resolved.take(len(self._resolved)))
        try:
            self._release(reservations)
        finally:
            self._run.let_go(dropped)
