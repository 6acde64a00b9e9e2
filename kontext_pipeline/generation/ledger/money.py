"""Money in the ledger: whole millionths of a USD, what counts against a cap, and the sums that caps are checked by."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from kontext_pipeline.generation.ledger.database import Transaction

State = Literal["open", "charged", "released", "unknown"]


def micros(usd: float) -> int:
    """Millionths of a USD, rounded to the nearest."""
    return round(usd * 1_000_000)


def usd(amount: int) -> float:
    """USD of an amount in millionths."""
    return amount / 1_000_000


@dataclass(frozen=True, slots=True)
class Cap:
    """A most that may be spent: by one run, or by all runs of a backend (in one UTC day, month, or ever)."""

    limit: int
    scope: Literal["run", "day", "month", "all"]

    def where(self, run_id: str, day: str) -> tuple[str, dict[str, str]]:
        """SQL condition on `spending` and its parameters."""
        if self.scope == "run":
            return "run_id = :run_id", {"run_id": run_id}
        if self.scope == "day":
            return "day = :day", {"day": day}
        if self.scope == "month":
            return "day LIKE :month", {"month": f"{day[:7]}-%"}
        return "1 = 1", {}

    def counts(self, day: str, run_id: str, of_run: str, today: str) -> bool:
        """Whether spending of that day and run counts against this cap, held for `of_run` and seen `today`."""
        if self.scope == "run":
            return run_id == of_run
        if self.scope == "day":
            return day == today
        return self.scope == "all" or day[:7] == today[:7]

    def __str__(self) -> str:
        """Say it as a user would."""
        period = {"run": "this run", "day": "today (UTC)", "month": "this month (UTC)", "all": "all runs"}
        return f"{usd(self.limit):.2f} USD for {period[self.scope]}"


class Money:
    """Charged, unknown and open amounts as one transaction sees and changes them."""

    def __init__(self, transaction: Transaction) -> None:
        """Start with nothing read and nothing changed."""
        self._transaction = transaction
        self._held: dict[tuple[str, str, Cap], list[int]] = {}
        self._changes: dict[tuple[str, str, str], list[int]] = {}
        # PostgreSQL's users agree on its date; SQLite's are on one machine.
        clock = time.time() if transaction.sqlite else transaction.shared_clock() / 1e6
        self.today = datetime.fromtimestamp(clock, UTC).date().isoformat()

    @classmethod
    def of(cls, transaction: Transaction) -> "Money":
        """The one of this transaction."""
        if "money" not in transaction.memory:
            money = transaction.memory["money"] = cls(transaction)
            transaction.before_commit(money.write)
        found: Money = transaction.memory["money"]
        return found

    def held(self, backend: str, run_id: str, cap: Cap) -> list[int]:
        """What counts against a cap now: charged, unknown, open."""
        key = (backend, run_id, cap)
        if key not in self._held:
            self.write()
            condition, parameters = cap.where(run_id, self.today)
            row = self._transaction.execute(
                "SELECT COALESCE(SUM(charged), 0) AS charged, COALESCE(SUM(unknown), 0) AS unknown, "  # noqa: S608
                f"COALESCE(SUM(open), 0) AS open FROM spending WHERE backend = :backend AND {condition}",
                {"backend": backend, **parameters},
            ).fetchone()
            self._held[key] = [int(row["charged"]), int(row["unknown"]), int(row["open"])]
        return self._held[key]

    def add(self, backend: str, day: str, run_id: str, amounts: Mapping[State, int]) -> None:
        """Change the sums of some states by so many millionths."""
        changes = [amounts.get("charged", 0), amounts.get("unknown", 0), amounts.get("open", 0)]
        _add(self._changes.setdefault((backend, day, run_id), [0, 0, 0]), changes)
        for (of_backend, of_run, cap), held in self._held.items():
            if of_backend == backend and cap.counts(day, run_id, of_run, self.today):
                _add(held, changes)

    def write(self) -> None:
        """Write the changes down: once a commit, or before the sums are read."""
        for (backend, day, run_id), (charged, unknown, held) in self._changes.items():
            change = {
                "backend": backend,
                "day": day,
                "run_id": run_id,
                "charged": charged,
                "unknown": unknown,
                "open": held,
            }
            if self._transaction.execute(_ADD_SPENDING, change).rowcount == 0:
                self._transaction.execute(_NEW_SPENDING, change)
        self._changes.clear()


def _add(sums: list[int], changes: list[int]) -> None:
    sums[:] = [one + other for one, other in zip(sums, changes, strict=True)]


_ADD_SPENDING = (
    "UPDATE spending SET charged = charged + :charged, unknown = unknown + :unknown, open = open + :open "
    "WHERE backend = :backend AND day = :day AND run_id = :run_id"
)
_NEW_SPENDING = (
    "INSERT INTO spending (backend, day, run_id, charged, unknown, open) "
    "VALUES (:backend, :day, :run_id, :charged, :unknown, :open)"
)
