"""Reconciliation: attempts of which the ledger doesn't know what they cost are settled by the provider's own figures.

Questionable attempts are those that may have been charged, and charges that are higher than what is believed, which
only a ledger of an earlier version has. None is ever deleted.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kontext_pipeline.errors import KontextError
from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.money import HIGHEST_COST, micros, usd
from kontext_pipeline.generation.resamples import is_resample
from kontext_pipeline.plain_text import plain_text
from kontext_pipeline.segmind.model import HIGHEST_COST_USD
from kontext_pipeline.segmind.payloads import amount, number

_PROBLEMS_SHOWN: Final = 20


class UsageError(KontextError):
    """A usage file can't be used. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Questionable:
    """An attempt whose cost is not known. `started_at` is ISO 8601, UTC; `usd` is what counts against the budgets."""

    attempt: int
    backend: str
    started_at: str
    fingerprint: str
    request_id: str | None
    state: str
    cause: str | None
    usd: float
    is_resample: bool
    """Whether the request is one of a resample."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the provider says of one attempt, named by the ledger's number or by the provider's id. Millionths of a USD."""

    attempt: int | None
    request_id: str | None
    cost: int


@dataclass(slots=True)
class Reconciled:
    """What a reconciliation changed."""

    charged: int = 0
    released: int = 0
    charged_usd: float = 0.0
    unused: int = 0
    """Rows of the usage file that name no questionable attempt."""


def questionable(database: Database) -> list[Questionable]:
    """Return every questionable attempt of all backends, in order."""
    with database.read() as connection:
        return [_questionable(row) for row in _rows(Transaction(connection))]


def reconcile(database: Database, usages: Sequence[Usage]) -> Reconciled:
    """Settle the questionable attempts that `usages` name: charged with that cost, or released where it is 0.

    The sums that budgets are checked by follow in the same transaction.
    """
    return database.write(lambda transaction: settle_usages(transaction, usages))


def read_usage(path: Path) -> list[Usage]:
    """Read a usage file: CSV with a header, or a JSON list of objects where its name ends with `.json`.

    Columns: `cost` (USD, 0 for not billed), and `request_id` (the provider's) or `attempt` (the ledger's number) or both.
    Other columns are ignored.

    Raises:
        UsageError: the file can't be read, or rows of it are wrong. Each is named.
    """
    usages, problems = [], []
    seen: set[object] = set()
    for place, row in _rows_of(path):
        attempt, request_id = number(row.get("attempt")), str(row.get("request_id") or "").strip()
        cost = amount(row.get("cost"), HIGHEST_COST_USD)
        if attempt is None and not request_id:
            problems.append(f"{path}, {place}: neither request_id nor attempt names an attempt")
        elif row.get("attempt") not in (None, "") and (attempt is None or not attempt.is_integer()):
            problems.append(
                f"{path}, {place}, column attempt: a whole number is expected, as `kontext reconcile` shows it"
            )
        elif cost is None:
            words = plain_text(str(row.get("cost")), 50)
            problems.append(
                f"{path}, {place}, column cost: it is {words!r}; an amount from 0 to {HIGHEST_COST_USD:g} USD is expected"
            )
        elif not seen.isdisjoint(names := {name for name in (attempt, request_id) if name}):
            problems.append(f"{path}, {place}: the attempt is named twice; keep one row with its whole cost")
        else:
            seen |= names
            usages.append(Usage(None if attempt is None else int(attempt), request_id or None, micros(cost)))
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        tail = [f"... and {more:,} more"] if more > 0 else []
        raise UsageError("\n".join([*problems[:_PROBLEMS_SHOWN], *tail, "Nothing was changed."]))
    return usages


def _rows_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a usage file, each with its place in the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"--usage is {path}: it can't be read ({reason}). Nothing was changed.") from None
    if path.suffix.lower() == ".json":
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError):
            rows = None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UsageError(f"--usage is {path}: a JSON list of objects is expected. Nothing was changed.")
        yield from ((f"object {place}", row) for place, row in enumerate(rows, 1))
        return
    reader = csv.DictReader(text.splitlines())
    columns = set(reader.fieldnames or ())
    if "cost" not in columns or columns.isdisjoint({"request_id", "attempt"}):
        raise UsageError(
            f"--usage is {path}: a header with the columns cost and request_id or attempt is expected. Nothing was changed."
        )
    yield from ((f"row {place}", row) for place, row in enumerate(reader, 1))


def _rows(transaction: Transaction) -> list[Any]:
    return transaction.rows(statements.QUESTIONABLE, {"bound": HIGHEST_COST})


def _questionable(row: Any) -> Questionable:
    return Questionable(
        attempt=int(row["id"]),
        backend=row["backend"],
        started_at=datetime.fromtimestamp(row["started_at"] / 1e6, UTC).isoformat(timespec="seconds"),
        fingerprint=row["fingerprint"],
        request_id=row["request_id"],
        state=row["state"],
        cause=row["cause"],
        usd=usd(int(row["cost"] if row["state"] == "charged" else row["price"])),
        is_resample=is_resample(row["batch"]),
    )


def settle_usages(transaction: Transaction, usages: Sequence[Usage]) -> Reconciled:
    """Do what `reconcile` does, within a transaction."""
    rows = _rows(transaction)
    by_attempt = {int(row["id"]): row for row in rows}
    by_request = {row["request_id"]: row for row in rows if row["request_id"]}
    done, changed = Reconciled(), set()
    for usage in usages:
        row = by_attempt.get(usage.attempt or 0) or by_request.get(usage.request_id)
        if row is None or row["id"] in changed:
            done.unused += 1
            continue
        changed.add(row["id"])
        # An answer that brought a picture was charged, even if nothing.
        charged = usage.cost > 0 or row["outcome"] == "succeeded"
        state = "charged" if charged else "released"
        transaction.execute(statements.RECONCILE_ATTEMPT, {"id": row["id"], "state": state, "cost": usage.cost})
        transaction.execute(statements.TOUCH_GENERATION, {"id": row["id"], "revision": transaction.revision})
        done.charged += charged
        done.released += not charged
        done.charged_usd += usd(usage.cost)
    touched = {(row["backend"], row["day"], row["run_id"]) for row in rows if row["id"] in changed}
    for row in transaction.rows(statements.SPENDING_OF_ATTEMPTS, {}) if touched else []:
        if (row["backend"], row["day"], row["run_id"]) in touched:
            sums = {name: int(row[name]) for name in ("charged", "unknown", "open")}
            run = {name: row[name] for name in ("backend", "day", "run_id")}
            transaction.execute(statements.SET_SPENDING, {**run, **sums})
    done.charged_usd = round(done.charged_usd, 6)
    return done
