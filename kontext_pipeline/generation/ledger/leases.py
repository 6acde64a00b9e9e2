"""Who is at work on a ledger, and who is dead: claimants and their leases.

A claimant is one process's run. What it claims is its own for as long as it lives; a dead one's claims
are taken over. Two signs tell, and neither reads a clock of another machine:

* beside a SQLite ledger each claimant holds a lock file, which the kernel lets go the moment the
  process is gone, however it went;
* everywhere, a claimant's beat in the ledger counts up. Whoever waits for it to move for the whole of
  its lease, on the waiter's own monotonic clock, and sees it stand still, may take over.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Connection, text

from kontext_pipeline.errors import KontextError, LedgerError
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.sent_log import SentAttempts, SentLog, read_sent, uptime_id


class LeaseLost(KontextError):
    """This process was silent for longer than its lease and another one has taken its claims over."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """A process that was seen in the ledger."""

    id: str
    run_id: str
    host: str
    pid: int
    beat: int
    lease_s: float


class Lease:
    """This process's place in the ledger: alive until closed, killed, or silent for too long."""

    def __init__(self, database: Database, *, run_id: str, backend: str, lease_s: float) -> None:
        """Enter the ledger as a claimant, and keep the beat from a thread of its own."""
        self.id = uuid.uuid4().hex
        self.run_id = run_id
        self.backend = backend
        self.lease_s = lease_s
        self._database = database
        self._lock = _lock(database, self.id)
        if self._lock is not None:
            self._lock.acquire()
        self._sent = _new_log(database, self.id)
        self._heard = time.monotonic()
        database.write(self._enter)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)
        self._thread.start()

    def _enter(self, transaction: Transaction) -> None:
        transaction.connection.execute(
            text(
                "INSERT INTO claimants (id, run_id, backend, host, pid, beat, lease_s, started_at) "
                "VALUES (:id, :run_id, :backend, :host, :pid, 0, :lease_s, :now)"
            ),
            {
                "id": self.id,
                "run_id": self.run_id,
                "backend": self.backend,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "lease_s": self.lease_s,
                "now": time.time_ns() // 1000,
            },
        )

    def check(self, transaction: Transaction) -> None:
        """Make sure, within the transaction, that nobody has taken over.

        Raises:
            LeaseLost: somebody has.
        """
        key = ("alive", self.id)
        if key not in transaction.memory:
            found = transaction.execute("SELECT ended_at FROM claimants WHERE id = :id", {"id": self.id})
            transaction.memory[key] = found.fetchone()["ended_at"] is None
        if not transaction.memory[key]:
            raise LeaseLost(
                f"this run (process {os.getpid()}) did not answer for more than {self.lease_s:g} s and another run has "
                "taken over what it had claimed. Nothing more is sent from here; start it again to go on."
            )

    @property
    def tells_sent(self) -> bool:
        """Whether, should this process die, others can tell what it had sent from what it was about to send."""
        return self._sent is not None

    def sending(self, attempt: int) -> None:
        """Note that an attempt is sent now.

        Raises:
            LedgerError: that could not be noted, so it must not be sent.
        """
        if self._sent is not None:
            self._sent.add(attempt)

    def end_sending(self) -> SentAttempts | None:
        """Let nothing more be sent, and return the attempts that were; None where nobody can tell."""
        return None if self._sent is None else self._sent.end()

    def is_fresh(self) -> bool:
        """Whether this process was heard so recently that nobody can have taken over."""
        return time.monotonic() - self._heard < self.lease_s / 2

    def heard(self, since: float) -> None:
        """A write that was begun at `since` (monotonic) found the lease in force."""
        self._heard = max(self._heard, since)

    def _keep_beating(self) -> None:
        while not self._closing.wait(self.lease_s / 4):
            # A beat that fails is a beat missed; the lease is several long.
            with contextlib.suppress(LedgerError):
                since = time.monotonic()
                if self._database.write(self._beat):
                    self.heard(since)

    def _beat(self, transaction: Transaction) -> bool:
        beaten = transaction.connection.execute(
            text("UPDATE claimants SET beat = beat + 1 WHERE id = :id AND ended_at IS NULL"), {"id": self.id}
        )
        return beaten.rowcount == 1

    def close(self) -> None:
        """Leave the ledger: whatever is still claimed is free for others at once."""
        self._closing.set()
        self._thread.join()
        try:
            self._database.write(lambda transaction: end(transaction, self.id))
        except LedgerError:
            # The lock says it as well, as long as its file is there to be tried.
            if self._lock is not None:
                self._lock.release(force=True)
        else:
            if self._sent is not None:
                self._sent.remove()
            _remove(self._lock)


class FailureDetector:
    """Judges which other claimants are dead, by what it has seen of them so far."""

    def __init__(self, database: Database) -> None:
        """Start with nothing seen: a claimant that only its beat can judge gets one whole lease."""
        self._database = database
        self._seen: dict[str, tuple[int, float]] = {}

    def dead(self, connection: Connection, *, backend: str, me: str) -> list[Claimant]:
        """Return the claimants of `backend` that have not left and are dead."""
        rows = connection.execute(
            text(
                "SELECT id, run_id, host, pid, beat, lease_s FROM claimants "
                "WHERE ended_at IS NULL AND backend = :backend AND id <> :me"
            ),
            {"backend": backend, "me": me},
        )
        return [claimant for row in rows if self._is_dead(claimant := Claimant(*row))]

    def _is_dead(self, claimant: Claimant) -> bool:
        now = time.monotonic()
        beat, since = self._seen.get(claimant.id, (claimant.beat, now))
        if beat != claimant.beat:
            beat, since = claimant.beat, now
        self._seen[claimant.id] = (beat, since)
        return now - since >= claimant.lease_s or self._lock_is_free(claimant.id)

    def _lock_is_free(self, claimant: str) -> bool:
        lock = _lock(self._database, claimant)
        if lock is None or not Path(lock.lock_file).exists():
            return False
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        return True


def end(transaction: Transaction, claimant: str) -> None:
    """Write into the ledger that a claimant has left or is dead."""
    transaction.connection.execute(
        text("UPDATE claimants SET ended_at = :now WHERE id = :id AND ended_at IS NULL"),
        {"id": claimant, "now": time.time_ns() // 1000},
    )
    transaction.memory.pop(("alive", claimant), None)


def sent_by(database: Database, claimant: str) -> SentAttempts | None:
    """Return the attempts that a dead claimant had sent; None where nobody can tell."""
    return None if database.path is None else read_sent(_beside(database.path, claimant, "sent"))


def forget(database: Database, claimant: str) -> None:
    """Remove the files of a claimant that is in the ledger as ended."""
    _remove(_lock(database, claimant))
    if database.path is not None:
        with contextlib.suppress(OSError):
            _beside(database.path, claimant, "sent").unlink()


def _beside(ledger: Path, claimant: str, kind: str) -> Path:
    return ledger.with_name(ledger.name + ".claims") / f"{claimant}.{kind}"


def _lock(database: Database, claimant: str) -> FileLock | None:
    if database.path is None:
        return None
    path = _beside(database.path, claimant, "lock")
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise LedgerError(
            f"{path.parent}, where the ledger's users lock, can't be made: {error.strerror}"
        ) from None
    return FileLock(path, thread_local=False)


def _new_log(database: Database, claimant: str) -> SentLog | None:
    uptime = uptime_id()
    if database.path is None or uptime is None:
        return None
    return SentLog(_beside(database.path, claimant, "sent"), uptime)


def _remove(lock: FileLock | None) -> None:
    if lock is not None:
        lock.release(force=True)
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
