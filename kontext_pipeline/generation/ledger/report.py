"""The books: what the ledger says of pictures and money, for people and for programs."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.money import usd


@dataclass(slots=True)
class Amounts:
    """USD by what is known of them."""

    spent_usd: float = 0.0
    """Charged: answers that said what they cost, or the list price where they didn't."""
    possibly_charged_usd: float = 0.0
    """Held for attempts whose answer never came."""
    reserved_usd: float = 0.0
    """Held for attempts that are in flight, or whose jobs are still out there."""


@dataclass(slots=True)
class Day(Amounts):
    """One UTC day's amounts."""

    day: str = ""


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A v2 job that no run has collected yet. `started_at` is ISO 8601, UTC."""

    request_id: str
    fingerprint: str
    started_at: str


@dataclass(slots=True)
class BackendBooks(Amounts):
    """What one backend was asked for and what it cost."""

    backend: str = ""
    pictures: int = 0
    pending: int = 0
    failed: int = 0
    unknown: int = 0
    attempts: int = 0
    possibly_charged_attempts: int = 0
    spent_without_picture_usd: float = 0.0
    """Part of `spent_usd`: answers that were charged and brought no whole picture."""
    failed_by_cause: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    """Attempts that are not settled: sent, or about to be."""
    jobs_out_there: list[OpenJob] = field(default_factory=list)
    days: list[Day] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Books:
    """All of a ledger, by backend."""

    ledger: str
    backends: list[BackendBooks]

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for JSON."""
        return asdict(self)


def read_books(database: Database) -> Books:
    """Add up the ledger as it stands at one moment. Amounts are sums over the attempts themselves."""
    with database.read() as connection:
        names = connection.execute(
            text("SELECT backend FROM generations UNION SELECT backend FROM attempts ORDER BY 1")
        )
        return Books(str(database), [_backend(connection, str(row.backend)) for row in names.all()])


def spending_differs(database: Database) -> list[str]:
    """Compare the sums that caps are checked against with the attempts they are sums of; name what differs."""
    query = text(
        "SELECT backend, day, run_id, SUM(charged) AS charged, SUM(unknown) AS unknown, SUM(open) AS open FROM ("
        "  SELECT backend, day, run_id, charged, unknown, open FROM spending"
        "  UNION ALL"
        "  SELECT backend, day, run_id,"
        "    -CASE WHEN state = 'charged' THEN cost ELSE 0 END,"
        "    -CASE WHEN state = 'unknown' THEN price ELSE 0 END,"
        "    -CASE WHEN state = 'open' THEN price ELSE 0 END FROM attempts"
        ") AS both_ways GROUP BY backend, day, run_id "
        "HAVING SUM(charged) <> 0 OR SUM(unknown) <> 0 OR SUM(open) <> 0"
    )
    with database.read() as connection:
        return [
            f"{row.backend} {row.day} run {row.run_id}: off by {row.charged} charged, {row.unknown} unknown, "
            f"{row.open} open (millionths of a USD)"
            for row in connection.execute(query)
        ]


def _backend(connection: Connection, backend: str) -> BackendBooks:
    here = {"backend": backend}
    books = BackendBooks(backend=backend)
    for row in connection.execute(
        text("SELECT status, COUNT(*) AS times FROM generations WHERE backend = :backend GROUP BY status"),
        here,
    ):
        setattr(books, "pictures" if row.status == "succeeded" else row.status, int(row.times))
    days: dict[str, Day] = {}
    for row in connection.execute(
        text(
            "SELECT day, state, COUNT(*) AS times, SUM(cost) AS cost, SUM(price) AS price, "
            "SUM(CASE WHEN outcome <> 'succeeded' THEN cost ELSE 0 END) AS in_vain "
            "FROM attempts WHERE backend = :backend AND COALESCE(outcome, '') <> 'not_sent' "
            "GROUP BY day, state ORDER BY day"
        ),
        here,
    ):
        day = days.setdefault(row.day, Day(day=row.day))
        books.attempts += int(row.times)
        if row.state == "charged":
            day.spent_usd = usd(int(row.cost))
            books.spent_without_picture_usd += usd(int(row.in_vain or 0))
        elif row.state == "unknown":
            day.possibly_charged_usd = usd(int(row.price))
            books.possibly_charged_attempts += int(row.times)
        elif row.state == "open":
            day.reserved_usd = usd(int(row.price))
            books.in_flight += int(row.times)
    books.days = list(days.values())
    books.spent_usd = round(sum(day.spent_usd for day in books.days), 6)
    books.possibly_charged_usd = round(sum(day.possibly_charged_usd for day in books.days), 6)
    books.reserved_usd = round(sum(day.reserved_usd for day in books.days), 6)
    books.failed_by_cause = {
        str(row.cause): int(row.times)
        for row in connection.execute(
            text(
                "SELECT COALESCE(a.cause, 'other') AS cause, COUNT(*) AS times FROM generations g "
                "JOIN attempts a ON a.id = (SELECT MAX(id) FROM attempts WHERE fingerprint = g.fingerprint "
                "AND COALESCE(outcome, '') <> 'not_sent') "
                "WHERE g.backend = :backend AND g.status = 'failed' GROUP BY COALESCE(a.cause, 'other') "
                "ORDER BY times DESC"
            ),
            here,
        )
    }
    books.jobs_out_there = [
        OpenJob(
            row.request_id,
            row.fingerprint,
            datetime.fromtimestamp(row.started_at / 1e6, UTC).isoformat(timespec="seconds"),
        )
        for row in connection.execute(
            text(
                "SELECT request_id, fingerprint, started_at FROM attempts "
                "WHERE backend = :backend AND state = 'open' AND job IS NOT NULL ORDER BY id"
            ),
            here,
        )
    ]
    return books
