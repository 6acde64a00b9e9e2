"""Reserving and settling attempts, within a transaction of the ledger."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Transaction
from kontext_pipeline.generation.ledger.leases import Lease
from kontext_pipeline.generation.ledger.money import add_spending, held, today
from kontext_pipeline.generation.ledger.rates import acquire_permit, pause_left_us
from kontext_pipeline.generation.ledger.records import (
    NOT_SENT,
    AlreadySettled,
    AskAgain,
    ClaimedElsewhere,
    OverBudget,
    ReservationTerms,
    Reserved,
    ReserveResult,
    RetryLater,
    SettledImage,
    Settlement,
    Status,
    Stored,
)
from kontext_pipeline.generation.ledger.sent_log import SentAttempts
from kontext_pipeline.inputs.input_store import KeptInput
from kontext_pipeline.segmind.outcomes import Cause


class ReserveCall:
    """One call of `Ledger.reserve`. Its transaction may run several times; the call remembers what it added."""

    def __init__(
        self,
        lease: Lease,
        claims: Sequence[tuple[str, str]],
        terms: ReservationTerms,
        inputs: Mapping[str, KeptInput],
    ) -> None:
        """`claims` are pairs of fingerprint and batch, `inputs` their kept input pictures by fingerprint."""
        self._lease = lease
        self._claims = claims
        self._terms = terms
        self._inputs = inputs
        self._added: dict[int, int] = {}

    def run(self, transaction: Transaction) -> list[ReserveResult]:
        """Reserve as many of the claims as may be sent. Return one result for each, in order."""
        lease, terms = self._lease, self._terms
        lease.check(transaction)
        self._delay_us = pause_left_us(transaction, lease.backend)
        self._day = today(transaction)
        self._held = [(cap, held(transaction, lease.backend, lease.run_id, self._day, cap)) for cap in terms.caps]
        rows = transaction.rows_of(statements.FIND_GENERATIONS, [fingerprint for fingerprint, _ in self._claims])
        found = {row["fingerprint"]: row for row in rows}
        accepted: dict[str, int] = {}
        """The claims to open: fingerprint and number."""
        results: list[ReserveResult] = []
        for number, (fingerprint, _) in enumerate(self._claims):
            if fingerprint in accepted:
                results.append(ClaimedElsewhere())
                continue
            result = self._reserve(transaction, number, found.get(fingerprint), opened=len(accepted) * terms.price)
            if result is None:
                accepted[fingerprint] = number
            results.append(result or ClaimedElsewhere())
        for fingerprint, attempt in self._open(transaction, accepted, found).items():
            self._added[accepted[fingerprint]] = attempt
            results[accepted[fingerprint]] = Reserved(attempt)
        return results

    def _reserve(self, transaction: Transaction, number: int, found: Any, *, opened: int) -> ReserveResult | None:
        """Return why a claim is not opened now; None where it is. `opened`: the amount of those that are."""
        fingerprint, terms = self._claims[number][0], self._terms
        added = self._added.get(number)
        if added is not None and self._is_open(transaction, added, fingerprint):
            # The connection broke during the commit of an earlier run, which was committed all the same.
            return Reserved(added)
        reason = self._reason_against(transaction, fingerprint, found)
        if reason is not None:
            return reason
        for cap, before in self._held:
            if sum(before) + opened + terms.price > cap.limit:
                fits_alone = before.charged + before.unknown + terms.price <= cap.limit
                return OverBudget(cap, recoverable=before.open + opened if fits_alone else 0)
        # A permit may come due within the transaction. A later claim must not get it before one that waits.
        if terms.rpm is not None and not self._delay_us:
            self._delay_us = acquire_permit(transaction, self._lease.backend, terms.rpm)
        return RetryLater(self._delay_us / 1_000_000) if self._delay_us else None

    def _reason_against(
        self, transaction: Transaction, fingerprint: str, found: Any
    ) -> AlreadySettled | ClaimedElsewhere | None:
        """Return why a request must not be sent, going by what the ledger has of it; None where it may be."""
        if found is None:
            return None
        if found["status"] == "succeeded":
            return AlreadySettled("succeeded")
        claimed = found["claimant"] not in (None, self._lease.id) and found["ended_at"] is None
        if found["in_flight"] or claimed:
            return ClaimedElsewhere()
        if found["status"] == "failed" and not (found["retryable"] or self._terms.retry_failed):
            return AlreadySettled("failed")
        here = {"fingerprint": fingerprint, "claimant": self._lease.id}
        if found["status"] == "unknown" and transaction.row(statements.EXPIRED_ATTEMPT, here):
            # Nearly certainly charged. The run that found the job expired does not try again.
            return AlreadySettled("unknown")
        if not may_ask_again(transaction, fingerprint, self._terms.unknown_retries, self._terms.ask_again):
            transaction.execute(
                statements.GIVE_UP_GENERATION, {"fingerprint": fingerprint, "revision": transaction.revision}
            )
            return AlreadySettled("unknown")
        return None

    def _open(self, transaction: Transaction, accepted: Mapping[str, int], found: Mapping[str, Any]) -> dict[str, int]:
        """Claim the accepted requests, open their attempts and hold their prices. Return the ids, by fingerprint."""
        lease, terms = self._lease, self._terms
        claims: list[dict[str, Any]] = [
            {"fingerprint": fingerprint, "backend": lease.backend, "batch": batch, "claimant": lease.id}
            for fingerprint, batch in (self._claims[number] for number in accepted.values())
        ]
        revised = {"revision": transaction.revision} if claims else {}
        transaction.insert(
            statements.ADD_GENERATION, [{**one, **revised} for one in claims if one["fingerprint"] not in found]
        )
        for claim in claims:
            if (known := found.get(claim["fingerprint"])) is not None:
                transaction.execute(statements.CLAIM_GENERATION, {**claim, **revised})
                # The batch that first asked for a request bears its costs.
                claim["batch"] = known["batch"]
        common: dict[str, Any] = {
            "run_id": lease.run_id,
            "api_version": terms.api_version,
            "price": terms.price,
            "day": self._day,
        }
        common["now"] = time.time_ns() // 1000
        inputs = {fingerprint: self._inputs.get(fingerprint) for fingerprint in accepted}
        for sha256, kept in {kept.sha256: kept for kept in inputs.values() if kept is not None}.items():
            facts = {"sha256": sha256, "path": kept.path, "width": kept.width, "height": kept.height}
            transaction.execute(statements.ADD_INPUT, facts)
        for claim in claims:
            made_from = inputs[claim["fingerprint"]]
            claim["input_sha256"] = None if made_from is None else made_from.sha256
        rows = transaction.insert(statements.ADD_ATTEMPT, [{**claim, **common} for claim in claims])
        if rows:
            opened = {"open": len(rows) * terms.price}
            add_spending(transaction, lease.backend, self._day, lease.run_id, opened)
        return {row["fingerprint"]: int(row["id"]) for row in rows}

    def _is_open(self, transaction: Transaction, attempt: int, fingerprint: str) -> bool:
        row = transaction.row(statements.FIND_ATTEMPT, {"id": attempt})
        mine = (fingerprint, self._lease.id, "open")
        return row is not None and (row["fingerprint"], row["claimant"], row["state"]) == mine


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
    """Do what `Ledger.settle` does."""
    row = transaction.row(statements.FIND_ATTEMPT, {"id": attempt})
    changes_attempt = row["state"] in ("open", "unknown") or row["outcome"] == NOT_SENT.outcome
    if changes_attempt:
        now = time.time_ns() // 1000
        transaction.execute(
            statements.SETTLE_ATTEMPT, {"id": attempt, "now": now, **_values_of(settlement, Settlement)}
        )
        changes = Counter({row["state"]: -row["price"]})
        changes[settlement.state] += settlement.cost if settlement.state == "charged" else row["price"]
        add_spending(transaction, row["backend"], row["day"], row["run_id"], changes)
    keep = keep_claim and count_wasted(transaction, row["fingerprint"]) <= unknown_retries
    request = {
        "fingerprint": row["fingerprint"],
        "revision": transaction.revision,
        "status": status,
        "retryable": retryable,
        "claimant": row["claimant"] if keep else None,
    }
    settled = transaction.execute(statements.SETTLE_GENERATION, {**request, **_values_of(picture, Stored)})
    if changes_attempt and not settled:
        transaction.execute(statements.TOUCH_GENERATION, {"id": attempt, "revision": transaction.revision})
    return keep


def settle_images(transaction: Transaction, images: Sequence[SettledImage]) -> None:
    """Do what `Ledger.settle_images` does."""
    for image in images:
        settle(transaction, image.attempt, image.settlement, status="succeeded", picture=image.picture, retryable=False)


def release(transaction: Transaction, attempts: Sequence[int]) -> None:
    """Settle attempts that were not sent and will not be."""
    for attempt in attempts:
        settle(transaction, attempt, NOT_SENT, status="pending")


def release_unsent(transaction: Transaction, claimant: str, sent: SentAttempts) -> None:
    """Release the open attempts of a claimant that its log of sent attempts does not name."""
    rows = transaction.rows(statements.OPEN_ATTEMPTS_OF, {"claimant": claimant})
    release(transaction, [row["id"] for row in rows if row["id"] not in sent])


def adopt_picture(transaction: Transaction, backend: str, fingerprint: str, batch: str, picture: Stored) -> bool:
    """Do what `Ledger.adopt_picture` does."""
    known = transaction.rows_of(statements.FIND_GENERATIONS, [fingerprint])
    if known and known[0]["in_flight"]:
        return False
    request = {
        "fingerprint": fingerprint,
        "backend": backend,
        "batch": batch,
        "claimant": None,
        "revision": transaction.revision,
    }
    if not known:
        transaction.insert(statements.ADD_GENERATION, [request])
    outcome = {**request, "status": "succeeded", "retryable": False, **_values_of(picture, Stored)}
    transaction.execute(statements.SETTLE_GENERATION, outcome)
    return True


def reopen(transaction: Transaction, seen: Mapping[str, int]) -> int:
    """Do what `Ledger.reopen` does."""
    return sum(
        transaction.execute(
            statements.REOPEN_GENERATION,
            {"fingerprint": fingerprint, "seen": revision, "revision": transaction.revision},
        )
        for fingerprint, revision in seen.items()
    )


def may_ask_again(transaction: Transaction, fingerprint: str, unknown_retries: int, ask_again: AskAgain) -> bool:
    """Return whether a request may be sent again after the answers that it has lost."""
    if ask_again == "always":
        return True
    but_cause = Cause.RUN_DIED if ask_again == "after crashes" else ""
    return count_wasted(transaction, fingerprint, but_cause=but_cause) <= unknown_retries


def count_wasted(transaction: Transaction, fingerprint: str, *, but_cause: str = "") -> int:
    """Return how often the request met its most frequent kind of answer that may have cost money without a picture.

    Attempts that ended for `but_cause` don't count.
    """
    row = transaction.row(statements.COUNT_WASTED, {"fingerprint": fingerprint, "but_cause": but_cause})
    return int(row["times"]) if row else 0


def _values_of(record: object, kind: type) -> dict[str, Any]:
    """Return the fields of a record as parameters: all None where there is no record."""
    return {name: getattr(record, name, None) for name in kind.__slots__}  # type: ignore[attr-defined]
