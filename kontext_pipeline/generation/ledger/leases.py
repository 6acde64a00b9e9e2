"""Claimants and their leases: which processes are at work on a ledger, and which are dead.

A claimant is one process's run. Its claims are its own while it lives; others take over the claims of a dead one. Two
signs show that a claimant is dead, and neither reads the clock of another machine:

* Beside a SQLite ledger, each claimant holds a lock file. The kernel releases the lock when the process ends.
* In every ledger, each claimant counts its heartbeats. A process that sees the count stand still for the whole lease of
  that claimant, on its own monotonic clock, may take over.
"""

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from filelock import FileLock

from kontext_pipeline.errors import KontextError, LedgerError
from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.sent_log import SentAttempts, SentLog, uptime_id
from kontext_pipeline.threads import start_thread

_log = logging.getLogger(__name__)


class LeaseLost(KontextError):
    """This process was silent for longer than its lease, and another run has taken over its claims."""


class Lease:
    """This process's right to its claims: in force until it is closed, or until the process is killed or silent."""

    def __init__(self, database: Database, *, run_id: str, backend: str, lease_s: float) -> None:
        """Enter the ledger as a claimant, and start the thread that counts the heartbeats."""
        self.id = uuid.uuid4().hex
        self.run_id = run_id
        self.backend = backend
        self.lease_s = lease_s
        self._database = database
        self._files = files_of(database, self.id)
        self._sent: SentLog | None = None
        if self._files is not None:
            self._files.lock.acquire()
            uptime = uptime_id()
            self._sent = None if uptime is None else SentLog(self._files.sent, uptime)
        self._confirmed = time.monotonic()
        database.write(self._enter)
        self._closing = threading.Event()
        self._thread = start_thread(self._count_heartbeats, "lease")

    def check(self, transaction: Transaction) -> None:
        """Make sure, within a transaction, that no other run has taken over.

        Raises:
            LeaseLost: Another run has.
        """
        if transaction.row(statements.CLAIMANT_END, {"id": self.id})["ended_at"] is not None:
            raise LeaseLost(
                f"this run (process {os.getpid()}) did not answer for more than {self.lease_s:g} s and another run has "
                "taken over what it had claimed. Nothing more is sent from here; start it again to go on."
            )

    def is_fresh(self) -> bool:
        """Return whether the lease was confirmed so recently that no other run can have taken over."""
        return time.monotonic() - self._confirmed < self.lease_s / 2

    @property
    def tells_sent(self) -> bool:
        """Whether others could tell, if this process died, the attempts that it had sent from those it had not."""
        return self._sent is not None

    def sending(self, attempt: int) -> None:
        """Note that an attempt is about to be sent.

        Raises:
            LedgerError: The note can't be written: the attempt must not be sent.
        """
        if self._sent is not None:
            self._sent.add(attempt)

    def end_sending(self) -> SentAttempts | None:
        """Let nothing more be sent. Return the attempts that were; None where there is no log."""
        return None if self._sent is None else self._sent.end()

    def close(self) -> None:
        """Leave the ledger. What is still claimed is free for others at once."""
        self._closing.set()
        self._thread.join()
        try:
            self._database.write(lambda transaction: end_claimant(transaction, self.id))
        except LedgerError:
            # A free lock says the same, as long as its file exists.
            if self._files is not None:
                self._files.lock.release(force=True)
            return
        self.end_sending()
        if self._files is not None:
            self._files.remove()

    def _enter(self, transaction: Transaction) -> None:
        transaction.execute(
            statements.ADD_CLAIMANT,
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

    def _count_heartbeats(self) -> None:
        while not self._closing.wait(self.lease_s / 4):
            since = time.monotonic()
            try:
                in_force = self._database.write(
                    lambda transaction: transaction.execute(statements.COUNT_HEARTBEAT, {"id": self.id})
                )
            except LedgerError:
                # One heartbeat is missed; the lease lasts for several.
                continue
            if not in_force:
                _log.warning("the lease of this run was lost: another run has taken over its claims")
                return
            self._confirmed = since


class FailureDetector:
    """Finds dead claimants by the heartbeats that it has seen and by their locks. Not for several threads at once."""

    def __init__(self, database: Database) -> None:
        """A claimant that only its heartbeats can show dead gets one whole lease from its first sight."""
        self._database = database
        self._seen: dict[str, tuple[int, float]] = {}

    def find_dead(self, transaction: Transaction, *, backend: str, me: str) -> list[str]:
        """Return the ids of the other claimants of `backend` that have not left and are dead."""
        rows = transaction.rows(statements.OTHER_CLAIMANTS, {"backend": backend, "me": me})
        return [row["id"] for row in rows if self._is_dead(row["id"], row["heartbeat"], row["lease_s"])]

    def _is_dead(self, claimant: str, heartbeat: int, lease_s: float) -> bool:
        now = time.monotonic()
        seen, since = self._seen.get(claimant, (heartbeat, now))
        if seen != heartbeat:
            since = now
        self._seen[claimant] = (heartbeat, since)
        files = files_of(self._database, claimant)
        return now - since >= lease_s or (files is not None and files.lock_is_free())


class ClaimantFiles:
    """The files of a claimant beside a SQLite ledger: the lock that it holds, and its log of sent attempts.

    Raises:
        LedgerError: Their folder can't be created.
    """

    def __init__(self, ledger: Path, claimant: str) -> None:
        """Name the files, and create their folder."""
        folder = ledger.with_name(ledger.name + ".claims")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise LedgerError(f"{folder}, where the ledger's users lock, can't be made: {error.strerror}") from None
        self.lock = FileLock(folder / f"{claimant}.lock", thread_local=False)
        self.sent = folder / f"{claimant}.sent"

    def has_lock(self) -> bool:
        """Return whether the file exists that the claimant locks."""
        return Path(self.lock.lock_file).exists()

    def lock_is_free(self) -> bool:
        """Return whether there is a lock that no process holds."""
        if not self.has_lock():
            return False
        try:
            self.lock.acquire(timeout=0)
        except OSError:  # held (`Timeout` is one), or not to be opened now, which proves nothing
            return False
        self.lock.release()
        return True

    def remove(self) -> None:
        """Remove the files of a claimant that has ended in the ledger."""
        self.lock.release(force=True)
        for path in (self.sent, Path(self.lock.lock_file)):
            with contextlib.suppress(OSError):
                path.unlink()


def files_of(database: Database, claimant: str) -> ClaimantFiles | None:
    """Return the files of a claimant, or None for a ledger on a server."""
    return None if database.path is None else ClaimantFiles(database.path, claimant)


def end_claimant(transaction: Transaction, claimant: str) -> None:
    """Note in the ledger that a claimant has left or is dead."""
    transaction.execute(statements.END_CLAIMANT, {"id": claimant, "now": time.time_ns() // 1000})
