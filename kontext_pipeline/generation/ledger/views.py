"""Views of the ledger for programs: the status of requests, the outcome of requests, and what caps leave."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
from sqlalchemy import Connection, bindparam, text

from kontext_pipeline.columns import GENERATION_SCHEMA
from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.attempts import count_wasted
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.money import usd
from kontext_pipeline.generation.ledger.records import Status

LOOKUP_CHUNK: Final = 900
"""Keys in one query: below the limit of parameters of every database."""


def statuses(
    database: Database, fingerprints: Sequence[str], *, unknown_retries: int, retry_failed: bool
) -> dict[str, tuple[Status, bool]]:
    """Return the status of each request that the ledger knows, and whether a run would try it again."""
    found: dict[str, tuple[Status, bool]] = {}
    with database.read() as connection:
        transaction = Transaction(connection)
        for row in _rows_of(connection, statements.STATUSES, fingerprints):
            match row.status:
                case "unknown":
                    again = count_wasted(transaction, row.fingerprint) <= unknown_retries
                case "failed":
                    again = bool(row.retryable) or retry_failed
                case _:
                    again = row.status == "pending"
            found[row.fingerprint] = (row.status, again)
    return found


def settled(
    database: Database, *, unknown_retries: int, retry_failed: bool
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the requests that succeeded, and the others that a run would not try again."""
    with database.read() as connection:
        succeeded = frozenset(connection.execute(text(statements.SUCCEEDED)).scalars())
        others = connection.execute(text(statements.NOT_SUCCEEDED)).scalars().all()
    known = statuses(database, others, unknown_retries=unknown_retries, retry_failed=retry_failed)
    return succeeded, frozenset(key for key, (_, again) in known.items() if not again)


def generations(database: Database, fingerprints: Sequence[str]) -> pa.Table:
    """Return the outcome of each request that the ledger knows, one row each (schema `GENERATION_SCHEMA`)."""
    known: dict[str, dict[str, Any]] = {}
    with database.read() as connection:
        for row in _rows_of(connection, statements.GENERATIONS, fingerprints):
            known[row.fingerprint] = dict(row._mapping)
        for row in _rows_of(connection, statements.ATTEMPT_SUMS, fingerprints):
            known[row.fingerprint].update(row._mapping)
        telling = {record["telling"]: record for record in known.values() if "telling" in record}
        for row in _rows_of(connection, statements.ATTEMPTS, list(telling)):
            telling[row.id].update(row._mapping)
    return pa.Table.from_pylist([_generation(record) for record in known.values()], schema=GENERATION_SCHEMA)


def _rows_of(connection: Connection, statement: str, keys: Sequence[Any]) -> Iterator[Any]:
    query = text(statement).bindparams(bindparam("keys", expanding=True))
    for start in range(0, len(keys), LOOKUP_CHUNK):
        # All rows at once: another statement may follow on the same connection before the caller has read them.
        yield from connection.execute(query, {"keys": list(keys[start : start + LOOKUP_CHUNK])}).all()


def _generation(record: dict[str, Any]) -> dict[str, Any]:
    succeeded = record["status"] == "succeeded"
    return {
        **{name: record.get(name) for name in GENERATION_SCHEMA.names},
        "error": None if succeeded else record.get("error"),
        "attempts": record.get("attempts", 0),
        "cost_usd": usd(int(record.get("cost") or 0)),
        "cost_estimated": bool(record.get("estimated")),
        "possibly_charged_usd": usd(int(record.get("possibly_charged") or 0)),
        "started_at": record.get("started"),
        "finished_at": record.get("finished"),
    }
