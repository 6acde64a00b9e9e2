"""The ledger: every attempt, every generation, and what they cost. The only truth about money.

Before a POST, `open` claims the request, holds its price against every cap and takes its place in the
rate, all in one transaction: no open attempt, no POST. After an answer, `close` settles the attempt with
what it really cost and writes the generation's outcome, again in one. Amounts are whole millionths of a
USD here.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import pyarrow as pa
from sqlalchemy import Connection, bindparam, text

from kontext_pipeline.columns import GENERATION_SCHEMA
from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.leases import FailureDetector, Lease, end, forget, sent_by
from kontext_pipeline.generation.ledger.money import Cap, Money, usd
from kontext_pipeline.generation.ledger.rates import pause, paused_for, take_place
from kontext_pipeline.generation.ledger.sent_log import SentAttempts

Status = Literal["pending", "succeeded", "failed", "unknown"]

LOOKUP_CHUNK: Final = 900
"""Fingerprints a query, below every database's limit of parameters."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """The request is claimed and its price is held: send it."""

    attempt: int


@dataclass(frozen=True, slots=True)
class AlreadySettled:
    """Nothing is to be sent: the generation has its outcome."""

    status: Status


@dataclass(frozen=True, slots=True)
class ClaimedElsewhere:
    """It is in flight already, or another living run is at it."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The rate or a pause says: not for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class OverBudget:
    """A cap leaves no room. `recoverable` millionths are held by open attempts and may yet come back; 0
    where not even that would do.
    """

    cap: Cap
    recoverable: int


ReserveResult = Reserved | AlreadySettled | ClaimedElsewhere | RetryLater | OverBudget


@dataclass(frozen=True, slots=True)
class Stored:
    """A picture in the image store: `path` relative to the data directory, sizes in pixels and bytes."""

    path: str
    sha256: str
    width: int
    height: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of an attempt: what it means for the money, and how it went. `cost` in millionths."""

    state: Literal["charged", "released", "unknown"]
    outcome: str
    cost: int = 0
    cost_estimated: bool = False
    cause: str = ""
    status_code: int | None = None
    error: str | None = None
    request_id: str | None = None
    latency_s: float | None = None
    sent_at: int | None = None
    """When the request was sent, microseconds since 1970; None leaves the moment it was opened."""


NOT_SENT: Final = Settlement("released", "not_sent", cause="not_sent")
"""The end of an attempt that was opened, and never became a POST."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """An open attempt whose run is gone. `job` is the v2 job to collect, as it was recorded.

    `accounted_for`: the request's picture, if it is there, was paid for by another attempt.
    """

    attempt: int
    fingerprint: str
    batch: str
    api_version: str
    job: str | None
    started_at: datetime
    price: int
    accounted_for: bool


class Ledger:
    """One process's hands on the ledger, for one backend.

    Reading needs no more than this; `enter` makes it a claimant, which opening attempts takes.

    Raises:
        LedgerError: the database can't be opened or a newer release made it.
    """

    def __init__(self, url: str, *, backend: str) -> None:
        """Open the ledger at `url`, an SQLAlchemy URL."""
        self.database = Database(url)
        self.backend = backend
        self._lease: Lease | None = None
        self._obituaries: FailureDetector | None = None

    def close(self) -> None:
        """Give up what is still claimed and let the database go."""
        try:
            self.deregister()
        finally:
            self.database.close()

    def deregister(self) -> None:
        """Stop being a claimant: what is still claimed is free for others at once.

        Attempts that were opened and never sent are released, whatever kept them from being withdrawn.
        """
        lease, self._lease = self._lease, None
        if lease is None:
            return
        sent = lease.end_sending()
        if sent is not None:
            # Where this can't be written, leaving can't either, and the log stays for the next run to read.
            with contextlib.suppress(LedgerError):
                self.database.write(lambda transaction: _release_unsent(transaction, lease.id, sent))
        lease.close()

    def register(self, *, run_id: str, lease_s: float) -> None:
        """Become a claimant: from here on attempts can be opened."""
        self._lease = Lease(self.database, run_id=run_id, backend=self.backend, lease_s=lease_s)
        self._obituaries = FailureDetector(self.database)

    @property
    def lease(self) -> Lease:
        """This process's place among the claimants."""
        assert self._lease is not None, "enter() comes first"
        return self._lease

    def reserve(
        self,
        fingerprint: str,
        batch: str,
        *,
        api_version: str,
        price: int,
        caps: Sequence[Cap] = (),
        rpm: float | None = None,
        unknown_retries: int = 1,
        retry_failed: bool = False,
        patient: bool = False,
    ) -> Future[ReserveResult]:
        """Claim a request, hold `price` against every cap and take a place in the rate: all, or nothing.

        The future gives `Reserved` when and only when the attempt is in the ledger, on the disk, and may be sent.
        With `patient` it may wait a moment for other writes to share its commit. `Database.submit` says
        what must not be done at its end.

        Raises, by way of the future:
            LeaseLost: another run has taken over what this one had claimed.
            LedgerError: the ledger could not be written.
        """
        lease = self.lease
        added: list[int] = []

        def work(transaction: Transaction) -> ReserveResult:
            lease.check(transaction)
            for attempt in added:
                # Here before, when the connection broke during the commit: it may have come to be.
                if _is_open(transaction, attempt, fingerprint, lease.id):
                    return Reserved(attempt)
            found = transaction.execute(_FIND, {"fingerprint": fingerprint}).fetchone()
            if found is not None:
                if found["status"] == "succeeded":
                    return AlreadySettled("succeeded")
                if found["in_flight"] or (
                    found["claimant"] not in (None, lease.id) and found["ended_at"] is None
                ):
                    return ClaimedElsewhere()
                if found["status"] == "failed" and not (found["retryable"] or retry_failed):
                    return AlreadySettled("failed")
                if found["status"] == "unknown" and _expired_here(transaction, fingerprint, lease.id):
                    # Nearly certainly paid for: not again by the run that found it gone.
                    return AlreadySettled("unknown")
                if _most_suspicious(transaction, fingerprint) > unknown_retries:
                    transaction.execute(_GIVE_UP, {"fingerprint": fingerprint, "status": "unknown"})
                    return AlreadySettled("unknown")
            money = Money.of(transaction)
            for cap in caps:
                held = money.held(self.backend, lease.run_id, cap)
                if sum(held) + price > cap.limit:
                    return OverBudget(cap, recoverable=0 if sum(held[:2]) + price > cap.limit else held[2])
            delay = take_place(transaction, self.backend, rpm)
            if delay > 0:
                return RetryLater(delay / 1_000_000)
            claim = {
                "fingerprint": fingerprint,
                "backend": self.backend,
                "batch": batch,
                "claimant": lease.id,
            }
            transaction.execute(_ADD_GENERATION if found is None else _CLAIM, claim)
            opened = {
                **claim,
                "batch": batch if found is None else found["batch"],
                "run_id": lease.run_id,
                "api_version": api_version,
                "price": price,
                "day": money.today,
                "now": time.time_ns() // 1000,
            }
            # All rows, or SQLite takes the statement for unfinished.
            attempt = int(transaction.execute(_ADD_ATTEMPT, opened).fetchall()[0]["id"])
            added.append(attempt)
            money.add(self.backend, money.today, lease.run_id, {"open": price})
            return Reserved(attempt)

        return self.database.submit(work, patient=patient)

    def record_job(self, attempt: int, job: str, request_id: str, sent_at: int) -> Future[None]:
        """Write down the v2 job of an open attempt; the future is done when it is on the disk.

        `sent_at`: when it was submitted, microseconds since 1970. `Database.submit` says what must not be
        done at the future's end.
        """

        def work(transaction: Transaction) -> None:
            transaction.execute(
                "UPDATE attempts SET job = :job, request_id = :request_id, started_at = :sent_at WHERE id = :id",
                {"id": attempt, "job": job, "request_id": request_id, "sent_at": sent_at},
            )

        return self.database.submit(work, patient=False)

    def settle(
        self,
        attempt: int,
        closing: Settlement,
        *,
        status: Status,
        picture: Stored | None = None,
        retryable: bool = True,
        keep_claim: bool = False,
        unknown_retries: int = 1,
    ) -> bool:
        """Settle an attempt and write the generation's outcome. Return whether the claim is still held.

        An attempt that was charged or released stays as it is; one that was `unknown`, or thought not to have
        been sent, takes late news. A generation that has succeeded never changes. With `keep_claim` the
        claim stays for another try, unless the request has used up its `unknown_retries`.
        """
        return self.database.write(
            lambda transaction: _close(
                transaction,
                attempt,
                closing,
                status=status,
                picture=picture,
                retryable=retryable,
                keep_claim=keep_claim,
                unknown_retries=unknown_retries,
            )
        )

    def settle_with_picture(self, attempt: int, closing: Settlement, picture: Stored) -> Future[bool]:
        """Settle an attempt that brought its picture, by and by: the future is done when that is on the disk.

        `Database.submit` says what must not be done at the future's end.
        """
        return self.database.submit(
            lambda transaction: _close(
                transaction, attempt, closing, status="succeeded", picture=picture, retryable=False
            )
        )

    def withdraw(self, attempt: int) -> None:
        """Settle an attempt that was not sent and will not be."""
        self.settle(attempt, NOT_SENT, status="pending")

    def adopt_picture(self, fingerprint: str, batch: str, picture: Stored) -> None:
        """Enter a picture that the store has and this ledger never paid for: cost 0, no attempt."""

        def work(transaction: Transaction) -> None:
            known = transaction.execute(_FIND, {"fingerprint": fingerprint}).fetchone()
            if known is None:
                transaction.execute(
                    _ADD_GENERATION,
                    {"fingerprint": fingerprint, "backend": self.backend, "batch": batch, "claimant": None},
                )
            transaction.execute(
                _CLOSE_GENERATION,
                {
                    "fingerprint": fingerprint,
                    "status": "succeeded",
                    "retryable": False,
                    "claimant": None,
                    **_columns(picture),
                },
            )

        self.database.write(work)

    def pause(self, seconds: float) -> None:
        """Let nobody on this ledger send for so many seconds: the account's limit is reached."""

        self.database.write(lambda transaction: pause(transaction, self.backend, seconds))

    def paused_for(self) -> float:
        """Seconds until a pause of this ledger's is over, 0 where there is none."""
        with self.database.read() as connection:
            return paused_for(Transaction(connection), self.backend)

    def reclaim_orphans(self) -> list[Orphan]:
        """Declare the dead dead, and adopt every open attempt whose run is gone.

        Each orphan is this process's to collect or to write off; if it dies too, the next one's. What was
        provably not sent is released at once and is nobody's.
        """
        assert self._obituaries is not None, "enter() comes first"
        lease = self.lease
        mine = {"me": lease.id, "backend": self.backend}
        with self.database.read() as connection:
            dead = self._obituaries.dead(connection, backend=self.backend, me=lease.id)
            if not dead and connection.execute(_ORPHANS, mine).first() is None:
                return []
        adopted: set[int] = set()

        def work(transaction: Transaction) -> list[Orphan]:
            lease.check(transaction)
            for claimant in dead:
                end(transaction, claimant.id)
            # Those of this very call, too: it may run again after it was committed.
            found = {row.id: row for row in transaction.connection.execute(_ORPHANS, mine)}
            for attempt in adopted - found.keys():
                row = transaction.connection.execute(_ORPHAN, {**mine, "id": attempt}).one_or_none()
                if row is not None:
                    found[row.id] = row
            logs = {row.claimant: sent_by(self.database, row.claimant) for row in found.values()}
            for row in [*found.values()]:
                log = logs[row.claimant]
                if log is not None and row.id not in log and row.id not in adopted:
                    _close(transaction, row.id, NOT_SENT, status="pending")
                    del found[row.id]
                    continue
                # Before the commit: should this process die right after it, the next one must not take it for
                # unsent.
                lease.sending(row.id)
                transaction.connection.execute(_ADOPT_ATTEMPT, {**mine, "id": row.id})
                transaction.connection.execute(_ADOPT_GENERATION, {**mine, "fingerprint": row.fingerprint})
            adopted.update(found)
            return [
                Orphan(
                    attempt=row.id,
                    fingerprint=row.fingerprint,
                    batch=row.batch,
                    api_version=row.api_version,
                    job=row.job,
                    started_at=datetime.fromtimestamp(row.started_at / 1e6, UTC),
                    price=row.price,
                    accounted_for=bool(row.accounted_for),
                )
                for _, row in sorted(found.items())
            ]

        orphans = self.database.write(work)
        for claimant in dead:
            forget(self.database, claimant.id)
        return orphans

    def highest_charge(self) -> int:
        """The most that an attempt on this backend was ever charged, in millionths; 0 where none was."""
        with self.database.read() as connection:
            most = connection.execute(
                text("SELECT MAX(cost) FROM attempts WHERE backend = :backend AND state = 'charged'"),
                {"backend": self.backend},
            ).scalar()
            return int(most or 0)

    def remaining_budget(self, caps: Sequence[Cap], *, run_id: str = "") -> int | None:
        """The least that any of these caps leaves for new attempts, in millionths; None where there is no cap.

        `run_id` is the run that caps of scope "run" are for; one that has not begun has spent nothing.
        """
        with self.database.read() as connection:
            money = Money(Transaction(connection))
            return min((cap.limit - sum(money.held(self.backend, run_id, cap)) for cap in caps), default=None)

    def statuses(
        self, fingerprints: Sequence[str], *, unknown_retries: int = 1, retry_failed: bool = False
    ) -> dict[str, tuple[Status, bool]]:
        """Return, of those requests that the ledger knows, the status and whether a run would try again."""
        found: dict[str, tuple[Status, bool]] = {}
        with self.database.read() as connection:
            for row in _rows_of(connection, _STATUSES, fingerprints):
                again = row.status == "pending" or (
                    row.status == "failed" and (bool(row.retryable) or retry_failed)
                )
                found[row.fingerprint] = (row.status, again)
            unknown = [fingerprint for fingerprint, (status, _) in found.items() if status == "unknown"]
            transaction = Transaction(connection)
            for fingerprint in unknown:
                again = _most_suspicious(transaction, fingerprint) <= unknown_retries
                found[fingerprint] = ("unknown", again)
        return found

    def size(self) -> int:
        """How many requests the ledger knows."""
        with self.database.read() as connection:
            return int(connection.execute(text("SELECT COUNT(*) FROM generations")).scalar_one())

    def settled(
        self, *, unknown_retries: int = 1, retry_failed: bool = False
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Return all requests that succeeded, and all others that a run would not try again.

        Reads the whole ledger, a microsecond or two a request; `statuses` takes ten times as long for each.
        """
        with self.database.read() as connection:
            succeeded = frozenset(connection.execute(_SUCCEEDED).scalars())
            others = connection.execute(_NOT_SUCCEEDED).scalars().all()
        known = self.statuses(others, unknown_retries=unknown_retries, retry_failed=retry_failed)
        return succeeded, frozenset(key for key, (_, again) in known.items() if not again)

    def generations(self, fingerprints: Sequence[str]) -> pa.Table:
        """Return what is known of these requests, one row each (schema `GENERATION_SCHEMA`); unknown ones are left out.

        Costs are sums over all attempts of a request. Status code, error, latency and request id are
        those of the attempt that brought the picture, or else of the last one.
        """
        known: dict[str, dict[str, Any]] = {}
        with self.database.read() as connection:
            for row in _rows_of(connection, _GENERATIONS, fingerprints):
                known[row.fingerprint] = dict(row._mapping)
            for row in _rows_of(connection, _ATTEMPT_SUMS, fingerprints):
                known[row.fingerprint].update(row._mapping)
            telling = {
                record["telling"]: record for record in known.values() if record.get("telling") is not None
            }
            for row in _rows_of(connection, _TELLING_ATTEMPTS, list(telling)):
                telling[row.id].update(row._mapping)
        return pa.Table.from_pylist(
            [_generation(record) for record in known.values()], schema=GENERATION_SCHEMA
        )


def _close(
    transaction: Transaction,
    attempt: int,
    closing: Settlement,
    *,
    status: Status,
    picture: Stored | None = None,
    retryable: bool = True,
    keep_claim: bool = False,
    unknown_retries: int = 1,
) -> bool:
    row = transaction.execute(_ATTEMPT, {"id": attempt}).fetchone()
    if row["state"] in ("open", "unknown") or row["outcome"] == NOT_SENT.outcome:
        transaction.execute(
            _CLOSE_ATTEMPT,
            {
                "id": attempt,
                "state": closing.state,
                "outcome": closing.outcome,
                "cause": closing.cause or None,
                "cost": closing.cost,
                "cost_estimated": closing.cost_estimated,
                "status_code": closing.status_code,
                "error": closing.error,
                "request_id": closing.request_id,
                "latency_s": closing.latency_s,
                "sent_at": closing.sent_at,
                "now": time.time_ns() // 1000,
            },
        )
        held = 0 if row["state"] == "released" else -row["price"]
        changes = Counter({row["state"]: held})
        changes[closing.state] += {"charged": closing.cost, "unknown": row["price"], "released": 0}[
            closing.state
        ]
        Money.of(transaction).add(row["backend"], row["day"], row["run_id"], changes)
    keep = keep_claim and _most_suspicious(transaction, row["fingerprint"]) <= unknown_retries
    transaction.execute(
        _CLOSE_GENERATION,
        {
            "fingerprint": row["fingerprint"],
            "status": status,
            "retryable": retryable,
            "claimant": row["claimant"] if keep else None,
            **_columns(picture),
        },
    )
    return keep


def _release_unsent(transaction: Transaction, claimant: str, sent: SentAttempts) -> None:
    for row in transaction.execute(_OPEN_OF, {"claimant": claimant}).fetchall():
        if row["id"] not in sent:
            _close(transaction, row["id"], NOT_SENT, status="pending")


def _is_open(transaction: Transaction, attempt: int, fingerprint: str, claimant: str) -> bool:
    row = transaction.execute(_ATTEMPT, {"id": attempt}).fetchone()
    return row is not None and (row["fingerprint"], row["claimant"], row["state"]) == (
        fingerprint,
        claimant,
        "open",
    )


def _expired_here(transaction: Transaction, fingerprint: str, claimant: str) -> bool:
    found = transaction.execute(_EXPIRED_HERE, {"fingerprint": fingerprint, "claimant": claimant})
    return found.fetchone() is not None


def _most_suspicious(transaction: Transaction, fingerprint: str) -> int:
    """How often the request met its most frequent kind of answer that may have cost money for nothing."""
    row = transaction.execute(_SUSPICIOUS, {"fingerprint": fingerprint}).fetchone()
    return int(row["times"]) if row else 0


def _columns(picture: Stored | None) -> dict[str, Any]:
    return {
        "image_path": picture.path if picture else None,
        "image_sha256": picture.sha256 if picture else None,
        "width": picture.width if picture else None,
        "height": picture.height if picture else None,
        "bytes": picture.bytes if picture else None,
    }


def _rows_of(connection: Connection, query: Any, keys: Sequence[Any]) -> Iterator[Any]:
    for start in range(0, len(keys), LOOKUP_CHUNK):
        yield from connection.execute(query, {"keys": list(keys[start : start + LOOKUP_CHUNK])})


def _generation(record: dict[str, Any]) -> dict[str, Any]:
    succeeded = record["status"] == "succeeded"
    return {
        **{name: record.get(name) for name in GENERATION_SCHEMA.names},
        "error": None if succeeded else record.get("error"),
        "attempts": record.get("attempts", 0),
        "cost_usd": usd(int(record.get("cost") or 0)),
        "cost_estimated": bool(record.get("estimated")),
        "possibly_charged_usd": usd(int(record.get("possibly_charged") or 0)),
        "started_at": record.get("started"),
        "finished_at": record.get("finished"),
    }


def _in(sql: str) -> Any:
    return text(sql).bindparams(bindparam("keys", expanding=True))


_FIND = (
    "SELECT g.status, g.retryable, g.claimant, g.batch, c.ended_at, EXISTS (SELECT 1 FROM attempts a "
    "WHERE a.fingerprint = g.fingerprint AND a.state = 'open') AS in_flight FROM generations g "
    "LEFT JOIN claimants c ON c.id = g.claimant WHERE g.fingerprint = :fingerprint"
)
_GIVE_UP = "UPDATE generations SET status = :status, claimant = NULL WHERE fingerprint = :fingerprint"
_ADD_GENERATION = (
    "INSERT INTO generations (fingerprint, backend, batch, status, retryable, claimant) "
    "VALUES (:fingerprint, :backend, :batch, 'pending', TRUE, :claimant)"
)
_CLAIM = "UPDATE generations SET status = 'pending', retryable = TRUE, claimant = :claimant WHERE fingerprint = :fingerprint"
_ADD_ATTEMPT = (
    "INSERT INTO attempts (fingerprint, batch, backend, run_id, claimant, api_version, state, price, cost, "
    "cost_estimated, day, started_at) VALUES (:fingerprint, :batch, :backend, :run_id, :claimant, :api_version, "
    "'open', :price, 0, FALSE, :day, :now) RETURNING id"
)
_ATTEMPT = (
    "SELECT fingerprint, backend, run_id, claimant, state, outcome, price, day FROM attempts WHERE id = :id"
)
_OPEN_OF = (
    # The condition of the index `attempts_unsettled`, word for word, or SQLite would not use it.
    "SELECT id FROM attempts WHERE state IN ('open', 'unknown') AND state = 'open' AND claimant = :claimant"
)
_CLOSE_ATTEMPT = (
    "UPDATE attempts SET state = :state, outcome = :outcome, cause = :cause, cost = :cost, "
    "cost_estimated = :cost_estimated, status_code = :status_code, error = :error, "
    "request_id = COALESCE(:request_id, request_id), latency_s = :latency_s, "
    "started_at = COALESCE(:sent_at, started_at), finished_at = :now WHERE id = :id"
)
_CLOSE_GENERATION = (
    "UPDATE generations SET status = :status, retryable = :retryable, claimant = :claimant, "
    "image_path = :image_path, image_sha256 = :image_sha256, width = :width, height = :height, bytes = :bytes "
    "WHERE fingerprint = :fingerprint AND status <> 'succeeded' AND (:image_path IS NOT NULL OR NOT EXISTS "
    "(SELECT 1 FROM attempts WHERE fingerprint = :fingerprint AND state = 'open'))"
)
_SUSPICIOUS = (
    "SELECT COUNT(*) AS times FROM attempts WHERE fingerprint = :fingerprint "
    "AND (state = 'unknown' OR (state = 'charged' AND outcome <> 'succeeded')) "
    "GROUP BY outcome ORDER BY times DESC LIMIT 1"
)
_EXPIRED_HERE = (
    "SELECT 1 FROM attempts WHERE fingerprint = :fingerprint AND claimant = :claimant AND outcome = 'expired'"
)
_ORPHAN_COLUMNS = (
    "SELECT a.id, a.fingerprint, a.claimant, a.batch, a.api_version, a.job, a.started_at, a.price, "
    "EXISTS (SELECT 1 FROM attempts o WHERE o.fingerprint = a.fingerprint AND o.state = 'charged' "
    "AND o.outcome = 'succeeded') AS accounted_for "
    "FROM attempts a "
)
_ORPHANS = text(
    # The condition of the index `attempts_unsettled`, word for word, or SQLite would not use it.
    f"{_ORPHAN_COLUMNS} JOIN claimants c ON c.id = a.claimant WHERE a.state IN ('open', 'unknown') AND a.state = 'open' "
    "AND c.ended_at IS NOT NULL AND a.backend = :backend AND a.claimant <> :me"
)
_ORPHAN = text(f"{_ORPHAN_COLUMNS} WHERE a.id = :id AND a.state = 'open' AND a.claimant = :me")
_ADOPT_ATTEMPT = text("UPDATE attempts SET claimant = :me WHERE id = :id")
_ADOPT_GENERATION = text(
    "UPDATE generations SET claimant = :me WHERE fingerprint = :fingerprint AND status <> 'succeeded'"
)
_STATUSES = _in("SELECT fingerprint, status, retryable FROM generations WHERE fingerprint IN :keys")
_SUCCEEDED = text("SELECT fingerprint FROM generations WHERE status = 'succeeded'")
_NOT_SUCCEEDED = text("SELECT fingerprint FROM generations WHERE status <> 'succeeded'")
_GENERATIONS = _in(
    "SELECT fingerprint, batch, status, image_path, image_sha256, width, height, bytes FROM generations "
    "WHERE fingerprint IN :keys"
)
_ATTEMPT_SUMS = _in(
    "SELECT fingerprint, COUNT(*) AS attempts, SUM(cost) AS cost, "
    "SUM(CASE WHEN state = 'unknown' THEN price ELSE 0 END) AS possibly_charged, "
    "MAX(CASE WHEN cost_estimated THEN 1 ELSE 0 END) AS estimated, MIN(started_at) AS started, "
    "COALESCE(MAX(CASE WHEN outcome = 'succeeded' THEN id END), MAX(id)) AS telling "
    "FROM attempts WHERE fingerprint IN :keys AND COALESCE(outcome, '') <> 'not_sent' GROUP BY fingerprint"
)
_TELLING_ATTEMPTS = _in(
    "SELECT id, status_code, error, latency_s, request_id, run_id, finished_at AS finished FROM attempts WHERE id IN :keys"
)
