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
"""The longest pause, microseconds."""


def acquire_permit(transaction: Transaction, backend: str, rpm: float) -> int:
    """Take the next permit of the rate limit and return 0, or return the microseconds until there may be one.

    This is the generic cell rate algorithm: permits are one interval apart, and `next_at` is the time of the next one.
    A request that is a little late does not delay those after it, so the full rate is used.
    """
    now, next_at, paused_until = _read(transaction, backend)
    interval = round(60_000_000 / rpm * RATE_SLACK)
    if now < next_at <= now + interval + CATCH_UP_US:
        return next_at - now
    # A time that is further off was written before the clock was reset.
    last = next_at if next_at <= now else 0
    _save(transaction, backend, max(last, now - CATCH_UP_US) + interval, paused_until)
    return 0


def pause(transaction: Transaction, backend: str, seconds: float) -> None:
    """Begin a pause of `seconds`, unless there is one that ends later."""
    now, next_at, paused_until = _read(transaction, backend)
    until = now + round(min(seconds * 1_000_000, LONGEST_PAUSE_US))
    _save(transaction, backend, next_at, max(paused_until, until))


def pause_left_us(transaction: Transaction, backend: str) -> int:
    """Return the microseconds until the pause ends, 0 where there is none."""
    now, _, paused_until = _read(transaction, backend)
    return max(0, paused_until - now)


def _read(transaction: Transaction, backend: str) -> tuple[int, int, int]:
    """Return the time now, the time of the next permit, and the end of the pause."""
    row = transaction.row(statements.FIND_RATE, {"backend": backend})
    now = transaction.shared_clock()
    if row is None:
        return now, 0, 0
    # A pause that is longer was written before the clock was reset.
    paused = row["paused_until"] <= now + LONGEST_PAUSE_US
    return now, row["next_at"], row["paused_until"] if paused else 0


def _save(transaction: Transaction, backend: str, next_at: int, paused_until: int) -> None:
    transaction.execute(statements.SET_RATE, {"backend": backend, "next_at": next_at, "paused_until": paused_until})
