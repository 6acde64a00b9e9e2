"""The part of the ledger that only reads: what came of requests, and what caps leave for more."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from sqlalchemy import URL, text

from kontext_pipeline.columns import GENERATION_SCHEMA
from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.attempts import may_ask_again
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.money import HIGHEST_COST, Cap, held, today, usd
from kontext_pipeline.generation.ledger.rates import pause_left_us
from kontext_pipeline.generation.ledger.records import AskAgain, Status


class LedgerViews:
    """Views of the ledger of one backend. Any number of threads may read.

    Raises:
        LedgerError: The database can't be opened, or a newer release made it. Every method raises it where the
            database can't be read.
    """

    def __init__(self, url: str | URL, *, backend: str) -> None:
        """Open the ledger at `url`, in SQLAlchemy's form."""
        self.database = Database(url)
        self.backend = backend

    def paused_for(self) -> float:
        """Return the seconds until the pause of this ledger ends, 0 where there is none."""
        with self.database.read() as connection:
            return pause_left_us(Transaction(connection), self.backend) / 1_000_000

    def highest_charge(self) -> int:
        """Return the most that an attempt was ever charged, in millionths of a USD; 0 where none was.

        Costs that are not believed don't count. Ledgers of earlier versions may have some.
        """
        with self.database.read() as connection:
            row = Transaction(connection).row(
                statements.HIGHEST_CHARGE, {"backend": self.backend, "bound": HIGHEST_COST}
            )
            return int(row["cost"] or 0)

    def remaining_budget(self, caps: Sequence[Cap], *, run_id: str = "") -> int | None:
        """Return the least that any of these caps leaves for new attempts, in millionths; None where there is no cap.

        `run_id` names the run that caps of scope "run" are for. A run that has not begun has spent nothing.
        """
        with self.database.read() as connection:
            transaction = Transaction(connection)
            day = today(transaction)
            left = (cap.limit - sum(held(transaction, self.backend, run_id, day, cap)) for cap in caps)
            return min(left, default=None)

    def size(self) -> int:
        """Return how many requests the ledger knows."""
        with self.database.read() as connection:
            return int(Transaction(connection).row(statements.COUNT_GENERATIONS, {})["times"])

    def statuses(
        self,
        fingerprints: Sequence[str],
        *,
        unknown_retries: int = 1,
        retry_failed: bool = False,
        ask_again: AskAgain = "within bounds",
    ) -> dict[str, tuple[Status, bool]]:
        """Return the status of each request that the ledger knows, and whether a run would try it again."""
        with self.database.read() as connection:
            transaction = Transaction(connection)
            rows = transaction.rows_of(statements.STATUSES, fingerprints)
            return dict(_judged(transaction, rows, unknown_retries, retry_failed, ask_again))

    def settled(
        self, *, unknown_retries: int = 1, retry_failed: bool = False, ask_again: AskAgain = "within bounds"
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Return all requests that succeeded, and all others that a run would not try again.

        Reads the whole ledger, in a microsecond or two for each request; `statuses` takes ten times as long.
        """
        succeeded, others = [], []
        with self.database.read() as connection:
            rows = connection.execute(text(statements.ALL_STATUSES))
            judged = _judged(Transaction(connection), rows, unknown_retries, retry_failed, ask_again)
            for key, (status, again) in judged:
                if status == "succeeded":
                    succeeded.append(key)
                elif not again:
                    others.append(key)
        return frozenset(succeeded), frozenset(others)

    def generations(self, fingerprints: Sequence[str]) -> pa.Table:
        """Return the outcome of each request that the ledger knows, one row each (schema `GENERATION_SCHEMA`).

        Costs are sums over all attempts of a request. Status code, error, latency and request id are those of the
        attempt that brought the picture, or else of the last one.
        """
        with self.database.read() as connection:
            records = [
                {
                    **dict(row),
                    "cost_usd": usd(int(row["cost"])),
                    "cost_estimated": bool(row["cost_estimated"]),
                    "possibly_charged_usd": usd(int(row["possibly_charged"])),
                }
                for row in Transaction(connection).rows_of(statements.GENERATIONS, fingerprints)
            ]
        return pa.Table.from_pylist(records, schema=GENERATION_SCHEMA)


def _judged(
    transaction: Transaction, rows: Iterable[Any], unknown_retries: int, retry_failed: bool, ask_again: AskAgain
) -> Iterator[tuple[str, tuple[Status, bool]]]:
    """Yield the fingerprint of each row, its status, and whether a run would try it again."""
    for fingerprint, status, retryable in rows:
        again = status == "pending"
        if status == "failed":
            again = bool(retryable) or retry_failed
        elif status == "unknown":
            again = may_ask_again(transaction, fingerprint, unknown_retries, ask_again)
        yield fingerprint, (status, again)
