"""The processes of runs that another program launches and must find again, such as Dagster: which of them are there.

A process of such a run enters the ledger as a claimant that claims nothing. Its lock and its heartbeats show that the
process is there, also while nothing is sent: while it plans, waits or writes tables.
"""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import URL

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.generation.ledger.leases import Lease, end_claimant, files_of

PROCESS: Final = "process"
"""Stands where a claimant's backend stands. So no run that looks for dead claimants of its own backend finds these."""
FEWEST_LOOKS: Final = 3
"""Looks that must find the same count of heartbeats before a process is believed dead. A look that had to wait for the
ledger may come right after an outage, before the process could count again."""


class RunProcess(AbstractContextManager["RunProcess"]):
    """Shows that this process works for a run, until it is closed or the process ends.

    Raises:
        LedgerError: There is no ledger yet, or it can't be opened or written.
    """

    def __init__(self, url: str | URL, *, run_id: str, lease_s: float) -> None:
        """Enter the ledger at `url`. `lease_s`: seconds of silence after which the process may be believed dead."""
        self._database = Database(url, make=False)
        try:
            self._lease = Lease(self._database, run_id=run_id, backend=PROCESS, lease_s=lease_s)
        except BaseException:
            self._database.close()
            raise

    def __exit__(self, *_error: object) -> None:
        try:
            self._lease.close()
        finally:
            self._database.close()


@dataclass(frozen=True, slots=True)
class SeenProcess:
    """A process of a run, as the ledger shows it."""

    claimant: str
    run_id: str
    host: str
    pid: int
    dead: bool
    """Whether its lock is free or, for a ledger on a server, whether its heartbeats stood still for its whole lease."""


class ProcessDetector:
    """Tells by repeated looks which processes of runs are dead. Not for several threads at once."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float, int]] = {}

    def look(self, database: Database) -> list[SeenProcess]:
        """Return the processes that have not left the ledger.

        Raises:
            LedgerError: The ledger can't be read. What was seen before is forgotten: no process could count.
        """
        before, self._seen = self._seen, {}
        with database.read() as connection:
            rows = Transaction(connection).rows(statements.RUN_PROCESSES, {"backend": PROCESS})
        now = time.monotonic()
        found = []
        for row in rows:
            heartbeat, since, looks = before.get(row["id"], (None, now, 0))
            if heartbeat != row["heartbeat"]:
                since, looks = now, 0
            self._seen[row["id"]] = (row["heartbeat"], since, looks + 1)
            files = files_of(database, row["id"])
            if files is not None and files.has_lock():
                # The kernel knows, and a process that can't write to a full disk is not dead.
                dead = files.lock_is_free()
            else:
                dead = looks + 1 >= FEWEST_LOOKS and now - since >= row["lease_s"]
            found.append(SeenProcess(row["id"], row["run_id"], row["host"], row["pid"], dead))
        return found


def remove_process(database: Database, claimant: str) -> None:
    """Let a dead process leave the ledger.

    Raises:
        LedgerError: The ledger can't be written.
    """
    database.write(lambda transaction: end_claimant(transaction, claimant))
    if (files := files_of(database, claimant)) is not None:
        files.remove()
