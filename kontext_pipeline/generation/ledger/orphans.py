"""Recovery: taking over the open attempts of claimants that have ended."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.attempts import release
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.leases import (
    FailureDetector,
    Lease,
    end_claimant,
    files_of,
)
from kontext_pipeline.generation.ledger.records import Orphan
from kontext_pipeline.generation.ledger.sent_log import SentAttempts, read_sent

_log = logging.getLogger(__name__)


class ReclaimCall:
    """One call of `Ledger.reclaim_orphans`. Its transaction may run several times; the call remembers what it adopted."""

    def __init__(self, database: Database, lease: Lease, detector: FailureDetector) -> None:
        """Reclaim for the claimant that holds `lease`."""
        self._database = database
        self._lease = lease
        self._detector = detector
        self._me = {"me": lease.id, "backend": lease.backend}
        self._adopted: set[int] = set()
        self._released = 0

    def run(self) -> list[Orphan]:
        """End the claimants that are dead, and adopt the attempts that they left open."""
        with self._database.read() as connection:
            transaction = Transaction(connection)
            dead = self._detector.find_dead(transaction, backend=self._lease.backend, me=self._lease.id)
            if not dead and not transaction.rows(statements.ORPHANS, self._me):
                return []
        orphans = self._database.write(lambda transaction: self._adopt(transaction, dead))
        for claimant in dead:
            if (files := files_of(self._database, claimant)) is not None:
                files.remove()
        if orphans or self._released:
            _log.info(
                "took over %d attempts of runs that had ended, and released %d that were never sent",
                len(orphans),
                self._released,
            )
        return orphans

    def _adopt(self, transaction: Transaction, dead: Sequence[str]) -> list[Orphan]:
        self._lease.check(transaction)
        for claimant in dead:
            end_claimant(transaction, claimant)
        found = {row["id"]: row for row in transaction.rows(statements.ORPHANS, self._me)}
        # An earlier run of this transaction may have been committed although its connection broke.
        for attempt in self._adopted - found.keys():
            row = transaction.row(statements.ADOPTED_ORPHAN, {**self._me, "id": attempt})
            if row is not None:
                found[attempt] = row
        logs = {claimant: self._log_of(claimant) for claimant in {row["claimant"] for row in found.values()}}
        unsent = [
            attempt
            for attempt, row in found.items()
            if attempt not in self._adopted and (log := logs[row["claimant"]]) is not None and attempt not in log
        ]
        release(transaction, unsent)
        self._released = len(unsent)
        for attempt in unsent:
            del found[attempt]
        for attempt, row in found.items():
            # Before the commit: if this process dies right after it, the next one must not take the attempt for unsent.
            self._lease.sending(attempt)
            transaction.execute(statements.ADOPT_ATTEMPT, {**self._me, "id": attempt})
            transaction.execute(statements.ADOPT_GENERATION, {**self._me, "fingerprint": row["fingerprint"]})
        self._adopted.update(found)
        return [_orphan(row) for _, row in sorted(found.items())]

    def _log_of(self, claimant: str) -> SentAttempts | None:
        files = files_of(self._database, claimant)
        return None if files is None else read_sent(files.sent)


def _orphan(row: Any) -> Orphan:
    values = dict(row)
    del values["claimant"]
    values["attempt"] = values.pop("id")
    values["started_at"] = datetime.fromtimestamp(row["started_at"] / 1e6, UTC)
    return Orphan(**{**values, "accounted_for": bool(row["accounted_for"])})
