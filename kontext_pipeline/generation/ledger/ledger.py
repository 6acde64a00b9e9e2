"""The ledger as a run uses it: `Ledger`, one process's access to the ledger of one backend.

Before a POST, `reserve` claims the request, holds its price against every cap and takes a permit of the rate limit, in
one transaction: no open attempt, no POST. After the answer, `settle` writes what the attempt cost and what came of the
request, in one transaction too. Amounts are whole millionths of a USD.
"""

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sqlalchemy import URL

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.ledger import attempts, orphans, rates, statements
from kontext_pipeline.generation.ledger.database import Transaction
from kontext_pipeline.generation.ledger.leases import FailureDetector, Lease
from kontext_pipeline.generation.ledger.records import (
    Orphan,
    ReservationTerms,
    ReserveResult,
    SettledImage,
    Settlement,
    Status,
    Stored,
)
from kontext_pipeline.generation.ledger.views import LedgerViews
from kontext_pipeline.inputs.input_store import KeptInput


class Ledger(LedgerViews):
    """One process's access to the ledger of one backend. Any number of threads may call it; every call blocks.

    Views need nothing else. Reserving needs `register` first.

    Raises:
        LedgerError: The database can't be opened, or a newer release made it. Every method raises it where the
            database can't be read or written.
    """

    def __init__(self, url: str | URL, *, backend: str) -> None:
        """Open the ledger at `url`, in SQLAlchemy's form."""
        super().__init__(url, backend=backend)
        self._lease: Lease | None = None
        self._detector = FailureDetector(self.database)

    def register(self, *, run_id: str, lease_s: float) -> None:
        """Become a claimant, whose claims others may take over when it was silent for `lease_s` seconds."""
        self._lease = Lease(self.database, run_id=run_id, backend=self.backend, lease_s=lease_s)

    @property
    def lease(self) -> Lease:
        """This process's lease."""
        assert self._lease is not None, "register() comes first"
        return self._lease

    def deregister(self) -> None:
        """Stop being a claimant: release the attempts that were not sent, and leave the others to later runs."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        sent = lease.end_sending()
        if sent is not None:
            # If this can't be written, neither can the end of the lease, and the log stays for the next run to read.
            with contextlib.suppress(LedgerError):
                self.database.write(lambda transaction: attempts.release_unsent(transaction, lease.id, sent))
        lease.close()

    def close(self) -> None:
        """Deregister and close the database."""
        try:
            self.deregister()
        finally:
            self.database.close()

    def reserve(
        self,
        claims: Sequence[tuple[str, str]],
        terms: ReservationTerms,
        inputs: Mapping[str, KeptInput] = MappingProxyType({}),
    ) -> list[ReserveResult]:
        """Reserve requests: claim each, hold its price against every cap and take a permit of the rate limit.

        All claims share one transaction and so one commit. Money and permits are counted within it: ten claims where
        there is room for three give three `Reserved` and seven `OverBudget`.

        Args:
            claims: A fingerprint and a batch for each request.
            terms: The terms that all of them share.
            inputs: By fingerprint, the kept input picture that the request is made from.

        Returns:
            One result for each claim, in order. A `Reserved` attempt is on the disk. After the first `RetryLater`, no
            later claim is reserved. A fingerprint that occurs twice is `ClaimedElsewhere` the second time.

        Raises:
            LeaseLost: Another run has taken over the claims of this process.
        """
        return self.database.write(attempts.ReserveCall(self.lease, claims, terms, inputs).run, urgent=True)

    def release(self, unsent: Sequence[int]) -> None:
        """Settle attempts that were not sent and will not be, in one transaction. Their requests are pending again."""
        self.database.write(lambda transaction: attempts.release(transaction, unsent))

    def record_job(self, attempt: int, job: str, request_id: str, sent_at: int) -> None:
        """Write down the v2 job of an open attempt, submitted at `sent_at` (microseconds since 1970)."""
        parameters = {"id": attempt, "job": job, "request_id": request_id, "sent_at": sent_at}

        def work(transaction: Transaction) -> None:
            transaction.execute(statements.SET_JOB, parameters)
            transaction.execute(statements.TOUCH_GENERATION, {"id": attempt, "revision": transaction.revision})

        self.database.write(work)

    def settle(
        self,
        attempt: int,
        settlement: Settlement,
        *,
        status: Status,
        picture: Stored | None = None,
        retryable: bool = True,
        keep_claim: bool = False,
        unknown_retries: int = 1,
    ) -> bool:
        """Settle an attempt and write what came of its request. Return whether the request is still claimed.

        An attempt that was charged or released stays as it is. One that was `unknown`, or that was thought not to have
        been sent, may still be settled otherwise. A request that has succeeded never changes.

        Args:
            attempt: The attempt.
            settlement: What it cost, and how the call went.
            status: The status of the request from now on.
            picture: Where the picture is, if there is one.
            retryable: Whether another run may try a request that failed.
            keep_claim: Keep the request claimed, for another attempt by this process.
            unknown_retries: How many attempts may end `unknown` before the claim is given up all the same.
        """
        return self.database.write(
            lambda transaction: attempts.settle(
                transaction,
                attempt,
                settlement,
                status=status,
                picture=picture,
                retryable=retryable,
                keep_claim=keep_claim,
                unknown_retries=unknown_retries,
            )
        )

    def settle_images(self, images: Sequence[SettledImage]) -> None:
        """Settle attempts that brought images, in one transaction. Their requests have succeeded."""
        if images:
            self.database.write(lambda transaction: attempts.settle_images(transaction, images))

    def adopt_picture(self, fingerprint: str, batch: str, picture: Stored) -> bool:
        """Enter a picture that is in the store and that no attempt of this ledger made. It costs nothing.

        Return False where an attempt at the request is open: the picture is that attempt's, which will be settled.
        """
        return self.database.write(
            lambda transaction: attempts.adopt_picture(transaction, self.backend, fingerprint, batch, picture)
        )

    def reclaim_orphans(self) -> list[Orphan]:
        """Adopt every open attempt whose run has ended, and release those that were provably never sent.

        Each orphan belongs to this process from now on, or to the next one that reclaims if this one dies.

        Raises:
            LeaseLost: Another run has taken over the claims of this process.
        """
        return orphans.ReclaimCall(self.database, self.lease, self._detector).run()

    def pause(self, seconds: float) -> None:
        """Forbid every process on this ledger to reserve for `seconds`: the account's rate limit is reached."""
        self.database.write(lambda transaction: rates.pause(transaction, self.backend, seconds))
