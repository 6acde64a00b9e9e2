"""When the next request may be sent: a place in the rate for each, and a pause for all after a 429.

A row in the ledger, so that the place is taken in the same transaction as the claim and the budget. The
limiters that others keep well can't do that: `limits` stores in Redis, Memcached or MongoDB, the SQLite
bucket of `pyrate-limiter` has a connection and a lock of its own, and lets a window's requests out at once.
"""

from typing import Final

from kontext_pipeline.generation.ledger.database import Transaction

RATE_SLACK: Final = 1.005
"""A hair slower than the limit, so that a window of the server's never holds one request too many."""
CATCH_UP_US: Final = 50_000
"""How late a request may be and still leave the next one's time as it was, microseconds."""
LONGEST_PAUSE_US: Final = 3_600_000_000
"""A pause beyond this was written before the clock began anew, microseconds."""


def take_place(transaction: Transaction, backend: str, rpm: float | None) -> int:
    """Take the next place in the rate, or return how many microseconds away it is.

    The generic cell rate algorithm: places are one interval apart, and `next_at` is when the next one
    opens. A request that is a little late doesn't push back those after it, so the rate is kept full.
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


def _read(transaction: Transaction, backend: str) -> dict[str, int]:
    key = ("rates", backend)
    if key not in transaction.memory:
        row = transaction.execute(_RATES, {"backend": backend}).fetchone()
        if row is None:
            transaction.execute(
                "INSERT INTO rates (backend, next_at, paused_until) VALUES (:backend, 0, 0)",
                {"backend": backend},
            )
        transaction.memory[key] = {
            "next_at": row["next_at"] if row else 0,
            "paused_until": row["paused_until"] if row else 0,
        }
    rates: dict[str, int] = transaction.memory[key]
    return rates


def _save(transaction: Transaction, backend: str, rates: dict[str, int]) -> None:
    transaction.execute(
        "UPDATE rates SET next_at = :next_at, paused_until = :paused_until WHERE backend = :backend",
        {"backend": backend, **rates},
    )


def pause(transaction: Transaction, backend: str, seconds: float) -> None:
    """Let nobody on this ledger send for so many seconds."""
    rates = _read(transaction, backend)
    now = transaction.shared_clock()
    rates["paused_until"] = max(rates["paused_until"], now + round(min(seconds, 3600) * 1_000_000))
    _save(transaction, backend, rates)


def paused_for(transaction: Transaction, backend: str) -> float:
    """Seconds until a pause is over, 0 where there is none. Reads alone."""
    row = transaction.execute(_RATES, {"backend": backend}).fetchone()
    left = (row["paused_until"] if row else 0) - transaction.shared_clock()
    return left / 1_000_000 if 0 < left <= LONGEST_PAUSE_US else 0.0


_RATES = "SELECT next_at, paused_until FROM rates WHERE backend = :backend"
