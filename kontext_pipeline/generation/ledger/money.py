"""Money in the ledger: what counts against a cap, and the sums that caps are checked by.

Amounts are whole millionths of a USD, so that sums are exact.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Transaction
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


def today(transaction: Transaction) -> str:
    """Return the UTC day as all users of the ledger see it: PostgreSQL's, or that of the one machine of SQLite."""
    now = time.time() if transaction.sqlite else transaction.shared_clock() / 1e6
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def held(transaction: Transaction, backend: str, run_id: str, day: str, cap: Cap) -> Held:
    """Return what counts against a cap on a UTC day."""
    row = transaction.row(
        statements.HELD[cap.scope],
        {"backend": backend, "run_id": run_id, "day": day, "month": f"{day[:7]}-%"},
    )
    return Held(*map(int, row))


def add_spending(transaction: Transaction, backend: str, day: str, run_id: str, amounts: Mapping[str, int]) -> None:
    """Add amounts, by the state of an attempt, to the sums of a run's day. Amounts of `released` count nowhere."""
    sums = {"charged": 0, "unknown": 0, "open": 0, **amounts}
    transaction.execute(statements.ADD_SPENDING, {"backend": backend, "day": day, "run_id": run_id, **sums})
