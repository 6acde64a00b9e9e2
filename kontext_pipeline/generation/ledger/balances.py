"""Recorded balances of the account, and what they say of lost answers.

A balance is recorded before a run's first request, with the ledger's state at that moment. Between two records of one
account, the balance falls by what was charged. So where every known charge is exact, the rest is what the lost answers
have cost: nothing, or all that they may have cost. Any other difference settles nothing.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.money import HIGHEST_COST, Cap, held, today, usd
from kontext_pipeline.generation.ledger.reconciliation import Reconciled, Usage, settle_usages

CHARGED_WITHIN_S: Final = 60.0
"""Seconds after an answer in which its charge reaches the balance."""
LOST_WITHIN_S: Final = 900.0
"""Seconds after a request whose answer was lost in which it may still be charged: generations end after 600 s."""

Verdict = Literal["charged", "released", "left"]


@dataclass(frozen=True, slots=True)
class Balance:
    """A recorded balance. Amounts are millionths of a USD; `taken_at` is microseconds since 1970."""

    account: str
    taken_at: int
    balance: int
    last_attempt: int
    open: int


@dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts after one record and up to another. Amounts are millionths of a USD."""

    charged: int = 0
    estimated: int = 0
    """How many were charged at a cost that no answer named, or that is not believed."""
    lost: int = 0
    lost_amount: int = 0
    last_charged: int = 0
    """When the last of the charged ended, microseconds since 1970."""
    last_lost: int = 0
    """When the last request began whose answer was lost."""

    def __add__(self, later: "Attempts") -> "Attempts":
        return Attempts(
            self.charged + later.charged,
            self.estimated + later.estimated,
            self.lost + later.lost,
            self.lost_amount + later.lost_amount,
            max(self.last_charged, later.last_charged),
            max(self.last_lost, later.last_lost),
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """The time between two balances that can be compared, what it says of its lost answers, and why."""

    since: Balance
    until: Balance
    attempts: Attempts
    verdict: Verdict = "left"
    reason: str = ""

    @property
    def unexplained(self) -> int:
        """By how much more the balance fell than the ledger's charges say, millionths of a USD."""
        return self.since.balance - self.until.balance - self.attempts.charged


@dataclass(slots=True)
class Settled:
    """What a balance has settled, and what it says: a sentence for each interval with lost answers, or why there is none."""

    done: Reconciled = field(default_factory=Reconciled)
    sentences: list[str] = field(default_factory=list)


_NOTHING: Final = Balance("", 0, 0, last_attempt=0, open=0)
_EVERY: Final = 2**62
_LEFT: Final = "Left as it is."


def account_of(base_url: str, key: str) -> str:
    """Return a name for an account by which neither its address nor its key can be found."""
    return hashlib.sha256(f"kontext-pipeline account\n{base_url}\n{key}".encode()).hexdigest()[:12]


class BalanceBook:
    """The recorded balances of one account in a ledger.

    Raises:
        LedgerError: The ledger can't be read or written; every method raises it.
    """

    def __init__(self, database: Database, *, backend: str, account: str) -> None:
        """`account` is that of `account_of`."""
        self._database = database
        self._backend = backend
        self._account = account

    def seen(self) -> int:
        """Return the state of the ledger, to be read before the API is asked for the balance."""
        with self._database.read() as connection:
            return int(Transaction(connection).row(statements.CURRENT_REVISION, {})["revision"])

    def record(self, balance: int, *, seen: int) -> bool:
        """Record a balance (millionths of a USD), unless the ledger has changed since it was `seen`."""
        return self._database.write(lambda transaction: self._record(transaction, balance, seen))

    def settle(self, balance: int, *, seen: int) -> Settled:
        """Record a balance, and settle the lost answers of which the balances leave no doubt, in one transaction."""
        return self._database.write(lambda transaction: self._settle(transaction, balance, seen))

    def _record(self, transaction: Transaction, balance: int, seen: int) -> bool:
        if int(transaction.row(statements.CURRENT_REVISION, {})["revision"]) != seen:
            return False
        sums = held(transaction, self._backend, "", today(transaction), Cap(0, "all"))
        row = {
            "backend": self._backend,
            "account": self._account,
            "now": time.time_ns() // 1000,
            "balance": balance,
            **sums._asdict(),
        }
        transaction.execute(statements.ADD_BALANCE, row)
        return True

    def _settle(self, transaction: Transaction, balance: int, seen: int) -> Settled:
        if not self._record(transaction, balance, seen):
            return Settled(sentences=["A run is at work on this ledger. Settle its lost answers when it has ended."])
        settled = Settled()
        usages: list[Usage] = []
        intervals = list(self._intervals(transaction))
        everything = self._attempts(transaction, _NOTHING, replace(_NOTHING, last_attempt=_EVERY))
        if before := everything.lost - sum(one.attempts.lost for one in intervals):
            settled.sentences.append(f"{_answers(before, 'lost ')}: no balance was recorded before. {_LEFT}")
        for interval in judged(intervals, self._account):
            if interval.attempts.lost:
                settled.sentences.append(_sentence(interval))
            if interval.verdict != "left":
                between = {"backend": self._backend, **_between(interval.since, interval.until)}
                rows = transaction.rows(statements.LOST_ATTEMPTS, between)
                charged = interval.verdict == "charged"
                usages += (Usage(int(row["id"]), None, int(row["price"]) if charged else 0) for row in rows)
        settled.done = settle_usages(transaction, usages)
        return settled

    def _intervals(self, transaction: Transaction) -> Iterator[Interval]:
        """Yield the intervals between records that can be compared; the last one may end with one that can't."""
        records = [
            Balance(**{name: row[name] for name in Balance.__slots__})
            for row in transaction.rows(statements.BALANCES, {"backend": self._backend})
        ]
        since: Balance | None = None
        before = _NOTHING
        so_far, attempts = Attempts(), Attempts()
        for record in records:
            more = self._attempts(transaction, before, record)
            so_far, attempts, before = so_far + more, attempts + more, record
            usable = not doubt_of(record, so_far)
            if since is not None and (usable or record is records[-1]):
                yield Interval(since, record, attempts, reason=doubt_of(record, so_far))
            if usable:
                since, attempts = record, Attempts()

    def _attempts(self, transaction: Transaction, since: Balance, until: Balance) -> Attempts:
        parameters = {"backend": self._backend, "bound": HIGHEST_COST, **_between(since, until)}
        row = transaction.row(statements.ATTEMPTS_BETWEEN, parameters)
        return Attempts(**{name: int(row[name] or 0) for name in Attempts.__slots__})


def doubt_of(record: Balance, before: Attempts) -> str:
    """Return why a balance can't be compared with others, going by the attempts before it; empty where it can."""
    if record.open:
        return f"requests for {usd(record.open):,.2f} USD were not settled: start the run again, and let it end"
    until, reason = max(
        (before.last_charged + round(CHARGED_WITHIN_S * 1e6), "the last charge may not be in it"),
        (before.last_lost + round(LOST_WITHIN_S * 1e6), "the last lost answer may still be charged"),
    )
    return f"{reason}: ask again after {_time(until)}" if record.taken_at < until else ""


def judged(intervals: Sequence[Interval], account: str) -> Iterator[Interval]:
    """Yield the intervals with their verdicts. Doubt about any of them leaves its lost answers as they are."""
    others = [
        one
        for one in intervals
        if one.since.account == one.until.account == account
        and not (one.reason or one.attempts.lost or one.attempts.estimated)
        and one.unexplained > 0
    ]
    for one in intervals:
        attempts, amount = one.attempts, one.attempts.lost_amount
        verdict: Verdict = "left"
        if one.reason or not attempts.lost:
            reason = one.reason
        elif not one.since.account == one.until.account == account:
            reason = "the key or the address of the API has changed since then"
        elif attempts.estimated:
            reason = f"the cost of {_answers(attempts.estimated)} is estimated"
        elif others:
            spent, when = usd(others[-1].unexplained), _time(others[-1].until.taken_at)
            reason = f"something else is charged to this account, {spent:,.2f} USD before {when} for one"
        elif one.unexplained == 0:
            verdict, reason = "released", "exactly that: the lost answers were not billed"
        elif one.unexplained == amount:
            verdict, reason = "charged", "that and the price of the lost answers: they were billed"
        elif one.unexplained < 0:
            reason = f"{usd(-one.unexplained):,.2f} USD less: the account was topped up"
        elif one.unexplained < amount:
            reason = (
                f"{usd(one.unexplained):,.2f} USD more: some of the lost answers were billed, or something else was"
            )
        else:
            reason = f"{usd(one.unexplained):,.2f} USD more, which is more than the lost answers may have cost"
        yield replace(one, verdict=verdict, reason=reason)


def _sentence(interval: Interval) -> str:
    since, until, attempts = interval.since, interval.until, interval.attempts
    left = f" {_LEFT}" if interval.verdict == "left" else ""
    return (
        f"{_answers(attempts.lost, 'lost ')} ({usd(attempts.lost_amount):,.2f} USD) between {_time(since.taken_at)} and "
        f"{_time(until.taken_at)}: the balance went from {usd(since.balance):,.2f} to {usd(until.balance):,.2f} USD, the "
        f"ledger's charges are {usd(attempts.charged):,.2f} USD; {interval.reason}.{left}"
    )


def _between(since: Balance, until: Balance) -> dict[str, Any]:
    return {"after": since.last_attempt, "until": until.last_attempt}


def _answers(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}answer{'' if count == 1 else 's'}"


def _time(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
