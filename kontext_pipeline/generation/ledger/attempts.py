"""Reserving and settling attempts: the statements of a ledger transaction, in their order."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Transaction
from kontext_pipeline.generation.ledger.leases import Lease
from kontext_pipeline.generation.ledger.money import Money
from kontext_pipeline.generation.ledger.rates import acquire_permit
from kontext_pipeline.generation.ledger.records import (
    NOT_SENT,
    AlreadySettled,
    ClaimedElsewhere,
    OverBudget,
    ReservationTerms,
    Reserved,
    ReserveResult,
    RetryLater,
    Settlement,
    Status,
    Stored,
)


class ReserveCall:
    """One call of `Ledger.reserve`. It is kept while its transaction is run again, and remembers what it added."""

    def __init__(self, lease: Lease, claims: Sequence[tuple[str, str]], terms: ReservationTerms) -> None:
        """`claims` are pairs of fingerprint and batch."""
        self._lease = lease
        self._claims = claims
        self._terms = terms
        self._added: dict[int, int] = {}
        self._delay_us = 0

    def run(self, transaction: Transaction) -> list[ReserveResult]:
        """Reserve as many of the claims as may be sent. Return one result for each, in order."""
        self._lease.check(transaction)
        self._delay_us = 0
        return [self._reserve(transaction, number) for number in range(len(self._claims))]

    def _reserve(self, transaction: Transaction, number: int) -> ReserveResult:
        fingerprint, batch = self._claims[number]
        lease, terms = self._lease, self._terms
        added = self._added.get(number)
        if added is not None and _is_open(transaction, added, fingerprint, lease.id):
            # The connection broke during the commit of an earlier run, and the commit had come to be.
            return Reserved(added)
        found = transaction.row(statements.FIND_GENERATION, {"fingerprint": fingerprint})
        if found is not None:
            reason = self._why_not(transaction, fingerprint, found)
            if reason is not None:
                return reason
        money = Money.of(transaction)
        for cap in terms.caps:
            held = money.held(lease.backend, lease.run_id, cap)
            if sum(held) + terms.price > cap.limit:
                settled = held[0] + held[1]
                return OverBudget(cap, recoverable=0 if settled + terms.price > cap.limit else held[2])
        # Time passes within the transaction. A later request must not be sent before one that waits.
        self._delay_us = self._delay_us or acquire_permit(transaction, lease.backend, terms.rpm)
        if self._delay_us > 0:
            return RetryLater(self._delay_us / 1_000_000)
        claim = {"fingerprint": fingerprint, "backend": lease.backend, "batch": batch, "claimant": lease.id}
        transaction.execute(
            statements.ADD_GENERATION if found is None else statements.CLAIM_GENERATION, claim
        )
        attempt = {
            **claim,
            "batch": batch if found is None else found["batch"],
            "run_id": lease.run_id,
            "api_version": terms.api_version,
            "price": terms.price,
            "day": money.today,
            "now": time.time_ns() // 1000,
        }
        added = self._added[number] = int(transaction.row(statements.ADD_ATTEMPT, attempt)["id"])
        money.add(lease.backend, money.today, lease.run_id, {"open": terms.price})
        return Reserved(added)

    def _why_not(
        self, transaction: Transaction, fingerprint: str, found: Any
    ) -> AlreadySettled | ClaimedElsewhere | None:
        """Return why a request that the ledger knows must not be sent; None where it may be."""
        if found["status"] == "succeeded":
            return AlreadySettled("succeeded")
        if found["in_flight"] or (
            found["claimant"] not in (None, self._lease.id) and found["ended_at"] is None
        ):
            return ClaimedElsewhere()
        if found["status"] == "failed" and not (found["retryable"] or self._terms.retry_failed):
            return AlreadySettled("failed")
        if found["status"] == "unknown" and transaction.row(
            statements.EXPIRED_ATTEMPT, {"fingerprint": fingerprint, "claimant": self._lease.id}
        ):
            # Nearly certainly charged. The run that found the job expired does not try again.
            return AlreadySettled("unknown")
        if count_wasted(transaction, fingerprint) > self._terms.unknown_retries:
            transaction.execute(statements.GIVE_UP_GENERATION, {"fingerprint": fingerprint})
            return AlreadySettled("unknown")
        return None


def settle(
    transaction: Transaction,
    attempt: int,
    settlement: Settlement,
    *,
    status: Status,
    picture: Stored | None = None,
    retryable: bool = True,
    keep_claim: bool = False,
    unknown_retries: int = 1,
) -> bool:
    """Settle an attempt within a transaction, as `Ledger.settle` says."""
    row = transaction.row(statements.FIND_ATTEMPT, {"id": attempt})
    if row["state"] in ("open", "unknown") or row["outcome"] == NOT_SENT.outcome:
        transaction.execute(
            statements.SETTLE_ATTEMPT,
            {
                "id": attempt,
                "state": settlement.state,
                "outcome": settlement.outcome,
                "cause": settlement.cause or None,
                "cost": settlement.cost,
                "cost_estimated": settlement.cost_estimated,
                "status_code": settlement.status_code,
                "error": settlement.error,
                "request_id": settlement.request_id,
                "latency_s": settlement.latency_s,
                "sent_at": settlement.sent_at,
                "now": time.time_ns() // 1000,
            },
        )
        changes = Counter({row["state"]: 0 if row["state"] == "released" else -row["price"]})
        amounts = {"charged": settlement.cost, "unknown": row["price"], "released": 0}
        changes[settlement.state] += amounts[settlement.state]
        Money.of(transaction).add(row["backend"], row["day"], row["run_id"], changes)
    keep = keep_claim and count_wasted(transaction, row["fingerprint"]) <= unknown_retries
    claimant = row["claimant"] if keep else None
    _settle_generation(transaction, row["fingerprint"], status, retryable, picture, claimant=claimant)
    return keep


def adopt_picture(
    transaction: Transaction, backend: str, fingerprint: str, batch: str, picture: Stored
) -> None:
    """Enter a picture that no attempt of this ledger made."""
    if transaction.row(statements.FIND_GENERATION, {"fingerprint": fingerprint}) is None:
        transaction.execute(
            statements.ADD_GENERATION,
            {"fingerprint": fingerprint, "backend": backend, "batch": batch, "claimant": None},
        )
    _settle_generation(transaction, fingerprint, "succeeded", False, picture)


def count_wasted(transaction: Transaction, fingerprint: str) -> int:
    """Return how often the request met its most frequent kind of answer that may have cost money without a picture."""
    row = transaction.row(statements.COUNT_WASTED, {"fingerprint": fingerprint})
    return int(row["times"]) if row else 0


def _is_open(transaction: Transaction, attempt: int, fingerprint: str, claimant: str) -> bool:
    row = transaction.row(statements.FIND_ATTEMPT, {"id": attempt})
    known = row and (row["fingerprint"], row["claimant"], row["state"])
    return bool(known == (fingerprint, claimant, "open"))


def _settle_generation(
    transaction: Transaction,
    fingerprint: str,
    status: Status,
    retryable: bool,
    picture: Stored | None,
    *,
    claimant: str | None = None,
) -> None:
    transaction.execute(
        statements.SETTLE_GENERATION,
        {
            "fingerprint": fingerprint,
            "status": status,
            "retryable": retryable,
            "claimant": claimant,
            "image_path": picture.path if picture else None,
            "image_sha256": picture.sha256 if picture else None,
            "width": picture.width if picture else None,
            "height": picture.height if picture else None,
            "bytes": picture.bytes if picture else None,
        },
    )
