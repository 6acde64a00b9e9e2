"""Money in the ledger: what counts against a cap, and the sums that caps are checked by.

Amounts are whole millionths of a USD, so that sums are exact.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.segmind.model import HIGHEST_COST_USD, LIST_PRICE_USD


def micros(usd: float) -> int:
    """Return an amount of USD in millionths, rounded to the nearest."""
    return round(usd * 1_000_000)


def usd(amount: int) -> float:
    """Return an amount of millionths in USD."""
    return amount / 1_000_000


HIGHEST_COST: Final = micros(HIGHEST_COST_USD)
"""The highest cost of an attempt that is believed."""


def estimated_cost(price: int) -> int:
    """Return the cost of an attempt that held `price` and was charged, where its answer doesn't say it.

    An attempt of an earlier version may have held a price that is not believed.
    """
    return price if price <= HIGHEST_COST else micros(LIST_PRICE_USD)


@dataclass(frozen=True, slots=True)
class Cap:
    """The most that may be spent: by one run, or by all runs of a backend (in one UTC day, one UTC month, or ever)."""

    limit: int
    """Millionths of a USD."""
    scope: Literal["run", "day", "month", "all"]

    def __str__(self) -> str:
        """Return the cap in the words of the settings."""
        period = {"run": "this run", "day": "today (UTC)", "month": "this month (UTC)", "all": "all runs"}
        return f"{usd(self.limit):.2f} USD for {period[self.scope]}"


class Held(NamedTuple):
    """What counts against a cap, by the state of the attempts that hold it."""

    charged: int
    unknown: int
    open: int


def wall_clock(transaction: Transaction) -> int:
    """Return microseconds since 1970 by the clock of PostgreSQL's server, or of the one machine of SQLite."""
    return time.time_ns() // 1000 if transaction.sqlite else transaction.shared_clock()


def today(transaction: Transaction) -> str:
    """Return the UTC day as all users of the ledger see it."""
    return datetime.fromtimestamp(wall_clock(transaction) / 1e6, UTC).date().isoformat()


def held(transaction: Transaction, backend: str, run_id: str, day: str, cap: Cap) -> Held:
    """Return what counts against a cap on a UTC day."""
    row = transaction.row(
        statements.HELD[cap.scope],
        {"backend": backend, "run_id": run_id, "day": day, "month": f"{day[:7]}-%"},
    )
    return Held(*map(int, row))


def held_by_caps(
    database: Database, backend: str, run_id: str, caps: Sequence[Cap]
) -> tuple[str, list[tuple[Cap, Held]]]:
    """Return the UTC day, and each cap with what counts against it at this moment."""
    with database.read() as connection:
        transaction = Transaction(connection)
        day = today(transaction)
        return day, [(cap, held(transaction, backend, run_id, day, cap)) for cap in caps]


def add_spending(transaction: Transaction, backend: str, day: str, run_id: str, amounts: Mapping[str, int]) -> None:
    """Add amounts, by the state of an attempt, to the sums of a run's day. Amounts of `released` count nowhere."""
    sums = {"charged": 0, "unknown": 0, "open": 0, **amounts}
    transaction.execute(statements.ADD_SPENDING, {"backend": backend, "day": day, "run_id": run_id, **sums})
