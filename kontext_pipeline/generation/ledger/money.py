"""Money in the ledger: what counts against a cap, and the sums that caps are checked by.

Amounts are whole millionths of a USD, so that sums are exact.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Transaction

State = Literal["open", "charged", "released", "unknown"]


def micros(usd: float) -> int:
    """Return an amount of USD in millionths, rounded to the nearest."""
    return round(usd * 1_000_000)


def usd(amount: int) -> float:
    """Return an amount of millionths in USD."""
    return amount / 1_000_000


@dataclass(frozen=True, slots=True)
class Cap:
    """The most that may be spent: by one run, or by all runs of a backend (in one UTC day, one UTC month, or ever)."""

    limit: int
    """Millionths of a USD."""
    scope: Literal["run", "day", "month", "all"]

    def counts(self, day: str, run_id: str, of_run: str, today: str) -> bool:
        """Return whether what run `run_id` spends on `day` counts against this cap of run `of_run`, checked `today`."""
        if self.scope == "run":
            return run_id == of_run
        if self.scope == "day":
            return day == today
        return self.scope == "all" or day[:7] == today[:7]

    def __str__(self) -> str:
        """Return the cap in the words of the settings."""
        period = {"run": "this run", "day": "today (UTC)", "month": "this month (UTC)", "all": "all runs"}
        return f"{usd(self.limit):.2f} USD for {period[self.scope]}"


class Money:
    """Charged, unknown and open amounts, as one transaction reads and changes them."""

    def __init__(self, transaction: Transaction) -> None:
        """Read nothing yet."""
        self._transaction = transaction
        self._held: dict[tuple[str, str, Cap], list[int]] = {}
        self._changes: dict[tuple[str, str, str], list[int]] = {}
        # Users of PostgreSQL agree on the server's date. Users of SQLite are on one machine.
        clock = time.time() if transaction.sqlite else transaction.shared_clock() / 1e6
        self.today = datetime.fromtimestamp(clock, UTC).date().isoformat()

    @classmethod
    def of(cls, transaction: Transaction) -> "Money":
        """Return the one `Money` of a transaction that writes. Its changes are written before the commit."""
        if "money" not in transaction.cache:
            money = transaction.cache["money"] = cls(transaction)
            transaction.before_commit(money.write)
        found: Money = transaction.cache["money"]
        return found

    def held(self, backend: str, run_id: str, cap: Cap) -> list[int]:
        """Return what counts against a cap now: the amounts charged, unknown and open."""
        key = (backend, run_id, cap)
        if key not in self._held:
            self.write()
            today = {"day": self.today, "month": f"{self.today[:7]}-%"}
            row = self._transaction.row(
                statements.HELD[cap.scope], {"backend": backend, "run_id": run_id, **today}
            )
            self._held[key] = [int(row["charged"]), int(row["unknown"]), int(row["open"])]
        return self._held[key]

    def add(self, backend: str, day: str, run_id: str, amounts: Mapping[State, int]) -> None:
        """Change the sums of some states."""
        changes = [amounts.get("charged", 0), amounts.get("unknown", 0), amounts.get("open", 0)]
        _add(self._changes.setdefault((backend, day, run_id), [0, 0, 0]), changes)
        for (of_backend, of_run, cap), held in self._held.items():
            if of_backend == backend and cap.counts(day, run_id, of_run, self.today):
                _add(held, changes)

    def write(self) -> None:
        """Write the changes: once, at the end of the transaction, or before sums are read."""
        for (backend, day, run_id), (charged, unknown, held) in self._changes.items():
            change = {
                "backend": backend,
                "day": day,
                "run_id": run_id,
                "charged": charged,
                "unknown": unknown,
                "open": held,
            }
            if self._transaction.execute(statements.ADD_SPENDING, change) == 0:
                self._transaction.execute(statements.NEW_SPENDING, change)
        self._changes.clear()


def _add(sums: list[int], changes: list[int]) -> None:
    sums[:] = [one + other for one, other in zip(sums, changes, strict=True)]
