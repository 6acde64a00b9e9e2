"""When the next request may be sent: the rate limit, and the pause of all processes after a 429.

Both are a row of the ledger, so that a permit is taken in the same transaction as the claim and the price. Published
rate limiters can't do that: `limits` stores in Redis, Memcached or MongoDB, and the SQLite bucket of `pyrate-limiter`
has a connection and a lock of its own, and sends the requests of a window all at once.
"""

from typing import Final

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Transaction

RATE_SLACK: Final = 1.005
"""Factor on the interval: a little slower than the limit, so that no window of the server holds one request too many."""
CATCH_UP_US: Final = 50_000
"""How late a request may be without delaying those after it, microseconds."""
LONGEST_PAUSE_US: Final = 3_600_000_000
"""The longest pause, microseconds. A longer one was written before the clock was reset."""


def acquire_permit(transaction: Transaction, backend: str, rpm: float | None) -> int:
    """Take the next permit of the rate limit and return 0, or return the microseconds until there may be one.

    This is the generic cell rate algorithm: permits are one interval apart, and `next_at` is the time of the next one.
    A request that is a little late does not delay those after it, so the full rate is used.
    """
    rates = _read(transaction, backend)
    now = transaction.shared_clock()
    if rates["paused_until"] > now:
        if rates["paused_until"] - now <= LONGEST_PAUSE_US:
            return rates["paused_until"] - now
        rates["paused_until"] = 0
    if rpm is None:
        return 0
    interval = round(60_000_000 / rpm * RATE_SLACK)
    if now < rates["next_at"] <= now + interval + CATCH_UP_US:
        return rates["next_at"] - now
    last = rates["next_at"] if rates["next_at"] <= now else 0
    rates["next_at"] = max(last, now - CATCH_UP_US) + interval
    _save(transaction, backend, rates)
    return 0


def pause(transaction: Transaction, backend: str, seconds: float) -> None:
    """Give no permit for `seconds`, or until a pause that ends later."""
    rates = _read(transaction, backend)
    until = transaction.shared_clock() + round(min(seconds * 1_000_000, LONGEST_PAUSE_US))
    rates["paused_until"] = max(rates["paused_until"], until)
    _save(transaction, backend, rates)


def paused_for(transaction: Transaction, backend: str) -> float:
    """Return the seconds until the pause ends, 0 where there is none. Writes nothing."""
    row = transaction.row(statements.FIND_RATE, {"backend": backend})
    left = (row["paused_until"] if row else 0) - transaction.shared_clock()
    return left / 1_000_000 if 0 < left <= LONGEST_PAUSE_US else 0.0


def _read(transaction: Transaction, backend: str) -> dict[str, int]:
    key = ("rates", backend)
    if key not in transaction.cache:
        row = transaction.row(statements.FIND_RATE, {"backend": backend})
        if row is None:
            transaction.execute(statements.ADD_RATE, {"backend": backend})
        transaction.cache[key] = {
            "next_at": row["next_at"] if row else 0,
            "paused_until": row["paused_until"] if row else 0,
        }
    rates: dict[str, int] = transaction.cache[key]
    return rates


def _save(transaction: Transaction, backend: str, rates: dict[str, int]) -> None:
    transaction.execute(statements.SET_RATE, {"backend": backend, **rates})
