"""The part of the ledger that only reads: what came of requests, and what caps leave for more."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
from sqlalchemy import Connection, bindparam, text

from kontext_pipeline.columns import GENERATION_SCHEMA
from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.attempts import count_wasted
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.money import Cap, held, usd
from kontext_pipeline.generation.ledger.rates import pause_left_us
from kontext_pipeline.generation.ledger.records import Status

LOOKUP_CHUNK: Final = 900
"""Keys in one query: below the limit of parameters of every database."""


class LedgerViews:
    """Views of the ledger of one backend. Any number of threads may read.

    Raises:
        LedgerError: The database can't be opened, or a newer release made it. Every method raises it where the
            database can't be read.
    """

    def __init__(self, url: str, *, backend: str) -> None:
        """Open the ledger at `url`, an SQLAlchemy URL."""
        self.database = Database(url)
        self.backend = backend

    def paused_for(self) -> float:
        """Return the seconds until the pause of this ledger ends, 0 where there is none."""
        with self.database.read() as connection:
            return pause_left_us(Transaction(connection), self.backend) / 1_000_000

    def highest_charge(self) -> int:
        """Return the most that an attempt was ever charged, in millionths of a USD; 0 where none was."""
        with self.database.read() as connection:
            row = Transaction(connection).row(statements.HIGHEST_CHARGE, {"backend": self.backend})
            return int(row["cost"] or 0)

    def remaining_budget(self, caps: Sequence[Cap], *, run_id: str = "") -> int | None:
        """Return the least that any of these caps leaves for new attempts, in millionths; None where there is no cap.

        `run_id` names the run that caps of scope "run" are for. A run that has not begun has spent nothing.
        """
        with self.database.read() as connection:
            transaction = Transaction(connection)
            left = (cap.limit - sum(held(transaction, self.backend, run_id, cap)) for cap in caps)
            return min(left, default=None)

    def size(self) -> int:
        """Return how many requests the ledger knows."""
        with self.database.read() as connection:
            return int(Transaction(connection).row(statements.COUNT_GENERATIONS, {})["times"])

    def statuses(
        self, fingerprints: Sequence[str], *, unknown_retries: int = 1, retry_failed: bool = False
    ) -> dict[str, tuple[Status, bool]]:
        """Return the status of each request that the ledger knows, and whether a run would try it again."""
        found: dict[str, tuple[Status, bool]] = {}
        with self.database.read() as connection:
            transaction = Transaction(connection)
            for row in _rows_of(connection, statements.STATUSES, fingerprints):
                match row.status:
                    case "unknown":
                        again = count_wasted(transaction, row.fingerprint) <= unknown_retries
                    case "failed":
                        again = bool(row.retryable) or retry_failed
                    case status:
                        again = status == "pending"
                found[row.fingerprint] = (row.status, again)
        return found

    def settled(
        self, *, unknown_retries: int = 1, retry_failed: bool = False
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Return all requests that succeeded, and all others that a run would not try again.

        Reads the whole ledger, in a microsecond or two for each request; `statuses` takes ten times as long.
        """
        with self.database.read() as connection:
            succeeded = frozenset(connection.execute(text(statements.SUCCEEDED)).scalars())
            others = connection.execute(text(statements.NOT_SUCCEEDED)).scalars().all()
        known = self.statuses(others, unknown_retries=unknown_retries, retry_failed=retry_failed)
        return succeeded, frozenset(key for key, (_, again) in known.items() if not again)

    def generations(self, fingerprints: Sequence[str]) -> pa.Table:
        """Return the outcome of each request that the ledger knows, one row each (schema `GENERATION_SCHEMA`).

        Costs are sums over all attempts of a request. Status code, error, latency and request id are those of the
        attempt that brought the picture, or else of the last one.
        """
        known: dict[str, dict[str, Any]] = {}
        with self.database.read() as connection:
            for row in _rows_of(connection, statements.GENERATIONS, fingerprints):
                known[row.fingerprint] = dict(row._mapping)
            for row in _rows_of(connection, statements.ATTEMPT_SUMS, fingerprints):
                known[row.fingerprint].update(row._mapping)
            telling = {record["telling"]: record for record in known.values() if "telling" in record}
            for row in _rows_of(connection, statements.ATTEMPTS, list(telling)):
                telling[row.id].update(row._mapping)
        records = [_generation(record) for record in known.values()]
        return pa.Table.from_pylist(records, schema=GENERATION_SCHEMA)


def _rows_of(connection: Connection, statement: str, keys: Sequence[Any]) -> Iterator[Any]:
    query = text(statement).bindparams(bindparam("keys", expanding=True))
    for start in range(0, len(keys), LOOKUP_CHUNK):
        yield from connection.execute(query, {"keys": list(keys[start : start + LOOKUP_CHUNK])}).all()


def _generation(record: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: record.get(name) for name in GENERATION_SCHEMA.names},
        "error": None if record["status"] == "succeeded" else record.get("error"),
        "attempts": record.get("attempts", 0),
        "cost_usd": usd(int(record.get("cost") or 0)),
        "cost_estimated": bool(record.get("estimated")),
        "possibly_charged_usd": usd(int(record.get("possibly_charged") or 0)),
        "started_at": record.get("started"),
        "finished_at": record.get("finished"),
    }
