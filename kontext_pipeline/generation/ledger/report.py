"""The report: what the ledger says of pictures and money, for people and for programs. Amounts are USD."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.money import usd
from kontext_pipeline.generation.ledger.records import WithoutPicture
from kontext_pipeline.generation.resamples import is_resample


@dataclass(slots=True)
class Amounts:
    """USD, by how certain they are."""

    spent_usd: float = 0.0
    """Charged, as the answers said, or at the list price where they did not."""
    possibly_charged_usd: float = 0.0
    """Held for attempts whose answer was lost."""
    reserved_usd: float = 0.0
    """Held for attempts that are in flight, or whose jobs are not collected."""


@dataclass(slots=True)
class Day(Amounts):
    """The amounts of one UTC day."""

    day: str = ""


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A v2 job that no run has collected. `started_at` is ISO 8601, UTC."""

    request_id: str
    fingerprint: str
    started_at: str


@dataclass(slots=True)
class BackendBooks(Amounts):
    """Pictures and money of one backend."""

    backend: str = ""
    pictures: int = 0
    pending: int = 0
    failed: int = 0
    unknown: int = 0
    attempts: int = 0
    possibly_charged_attempts: int = 0
    spent_without_picture_usd: float = 0.0
    """The part of `spent_usd` whose answers brought no whole picture."""
    failed_by_cause: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    """Attempts that are not settled: reserved or sent."""
    jobs_out_there: list[OpenJob] = field(default_factory=list)
    days: list[Day] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ResampledRequests:
    """Requests that resamples of one backend have sent again."""

    backend: str
    pictures: int
    """Pictures that they have brought. No other count of pictures has these."""
    without_picture: int
    """Requests that failed, or whose answers are lost or not there yet."""
    spent_usd: float
    """The part of the backend's `spent_usd` that they have cost."""


@dataclass(frozen=True, slots=True)
class Books:
    """The whole ledger, by backend. `resamples` has the backends that have some."""

    ledger: str
    backends: list[BackendBooks]
    resamples: list[ResampledRequests]

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for JSON."""
        return asdict(self)


def read_books(database: Database) -> Books:
    """Add up the ledger as it is at one moment. Amounts are sums over the attempts themselves."""
    with database.read() as connection:
        transaction = Transaction(connection)
        names = transaction.rows(statements.BACKENDS, {})
        again = [
            ResampledRequests(row["backend"], pictures, int(row["requests"]) - pictures, usd(int(row["cost"] or 0)))
            for row in transaction.rows(statements.RESAMPLES, {})
            for pictures in [int(row["pictures"])]
        ]
        return Books(str(database), [_books_of(transaction, str(row["backend"])) for row in names], again)


@dataclass(frozen=True, slots=True)
class RunsFigures:
    """The pictures of some runs, and what they cost, USD."""

    pictures: int
    spent_usd: float
    possibly_charged_usd: float


def read_runs(database: Database, backend: str, runs: Sequence[str]) -> RunsFigures:
    """Add up what some runs have made and spent."""
    with database.read() as connection:
        rows = Transaction(connection).rows_of(statements.FIGURES_OF_RUNS, runs)
    mine = [row for row in rows if row["backend"] == backend]
    spent, possibly = (sum(int(row[name] or 0) for row in mine) for name in ("charged", "unknown"))
    return RunsFigures(sum(int(row["pictures"]) for row in mine), usd(spent), usd(possibly))


@dataclass(frozen=True, slots=True)
class Spending:
    """What one run spent on one batch on one UTC day, USD. `day` is ISO 8601."""

    backend: str
    day: str
    run_id: str
    batch: str
    kind: Literal["generation", "resample"]
    attempts: int
    pictures: int
    charged_usd: float
    possibly_charged_usd: float
    reserved_usd: float


def read_spending(database: Database) -> list[Spending]:
    """Add up the attempts by backend, day, run and batch, in this order. The sums are those of `read_books`."""
    with database.read() as connection:
        rows = Transaction(connection).rows(statements.SPENDING_BY_BATCH, {})
    return [
        Spending(
            backend=row["backend"],
            day=row["day"],
            run_id=row["run_id"],
            batch=row["batch"],
            kind="resample" if is_resample(row["batch"]) else "generation",
            attempts=int(row["attempts"]),
            pictures=int(row["pictures"]),
            charged_usd=usd(int(row["charged"])),
            possibly_charged_usd=usd(int(row["unknown"])),
            reserved_usd=usd(int(row["open"])),
        )
        for row in rows
    ]


def read_without_picture(database: Database, fingerprints: Sequence[str] | None = None) -> list[WithoutPicture]:
    """Return the requests that failed or whose answers were lost: all, or those of `fingerprints`."""
    with database.read() as connection:
        transaction = Transaction(connection)
        if fingerprints is None:
            rows = transaction.rows(statements.WITHOUT_PICTURE, {})
        else:
            rows = transaction.rows_of(statements.SOME_WITHOUT_PICTURE, fingerprints)
        return [WithoutPicture(**{**dict(row), "retryable": bool(row["retryable"])}) for row in rows]


def spent_by_run(database: Database, run_id: str, batch: str, fingerprints: Sequence[str]) -> float:
    """Return what one run was charged for these requests of a batch, USD."""
    with database.read() as connection:
        parameters = {"run_id": run_id, "batch": batch}
        rows = Transaction(connection).rows_of(statements.SPENT_BY_RUN, fingerprints, parameters)
        return usd(sum(int(row["cost"]) for row in rows))


def spending_differs(database: Database) -> list[str]:
    """Compare the sums that caps are checked by with the attempts, and describe each difference."""
    with database.read() as connection:
        return [
            f"{row['backend']} {row['day']} run {row['run_id']}: off by {int(row['charged'])} charged, "
            f"{int(row['unknown'])} unknown, {int(row['open'])} open (millionths of a USD)"
            for row in Transaction(connection).rows(statements.SPENDING_DIFFERENCES, {})
        ]


def _books_of(transaction: Transaction, backend: str) -> BackendBooks:
    here = {"backend": backend}
    books = BackendBooks(backend=backend)
    for row in transaction.rows(statements.COUNT_BY_STATUS, here):
        setattr(books, "pictures" if row["status"] == "succeeded" else row["status"], int(row["times"]))
    _add_amounts(books, transaction.rows(statements.AMOUNTS_BY_DAY, here))
    books.failed_by_cause = {
        str(row["cause"]): int(row["times"]) for row in transaction.rows(statements.FAILED_BY_CAUSE, here)
    }
    books.jobs_out_there = [
        OpenJob(
            row["request_id"],
            row["fingerprint"],
            datetime.fromtimestamp(row["started_at"] / 1e6, UTC).isoformat(timespec="seconds"),
        )
        for row in transaction.rows(statements.OPEN_JOBS, here)
    ]
    return books


def _add_amounts(books: BackendBooks, rows: list[Any]) -> None:
    days: dict[str, Day] = {}
    for row in rows:
        day = days.setdefault(row["day"], Day(day=row["day"]))
        books.attempts += int(row["times"])
        match row["state"]:
            case "charged":
                day.spent_usd = usd(int(row["cost"]))
                books.spent_without_picture_usd += usd(int(row["without_picture"] or 0))
            case "unknown":
                day.possibly_charged_usd = usd(int(row["price"]))
                books.possibly_charged_attempts += int(row["times"])
            case "open":
                day.reserved_usd = usd(int(row["price"]))
                books.in_flight += int(row["times"])
    books.days = list(days.values())
    books.spent_usd = round(sum(day.spent_usd for day in books.days), 6)
    books.possibly_charged_usd = round(sum(day.possibly_charged_usd for day in books.days), 6)
    books.reserved_usd = round(sum(day.reserved_usd for day in books.days), 6)
