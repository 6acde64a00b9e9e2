"""What ties a ledger to its data directory: the id that both have, the pictures there, and the state that tables show."""

from collections.abc import Mapping, Sequence

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.attempts import reopen
from kontext_pipeline.generation.ledger.database import Database, Transaction


class DatasetLink:
    """The ledger as the data directory's files depend on it. Any number of threads may use it.

    Raises:
        LedgerError: Every method raises it where the database can't be read or written.
    """

    def __init__(self, database: Database) -> None:
        """Use an open ledger."""
        self._database = database

    def dataset_id(self) -> str | None:
        """Return the id of the data directory that has the pictures; None until the ledger is used with one."""
        with self._database.read() as connection:
            found = Transaction(connection).row(statements.DATASET_ID, {})["dataset_id"]
            return None if found is None else str(found)

    def bind(self, dataset_id: str) -> str:
        """Note the id of the data directory that has the pictures. Return the id that was noted first."""

        def work(transaction: Transaction) -> str:
            transaction.execute(statements.SET_DATASET_ID, {"id": dataset_id})
            return str(transaction.row(statements.DATASET_ID, {})["dataset_id"])

        return self._database.write(work)

    def latest_revision(self, fingerprints: Sequence[str]) -> int:
        """Return a number that grows whenever what the ledger says of any of these requests changes; 0 at first."""
        with self._database.read() as connection:
            rows = Transaction(connection).rows_of(statements.LATEST_REVISION, fingerprints)
            return max((int(row["revision"] or 0) for row in rows), default=0)

    def pictures(self, fingerprints: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return revision and size in bytes of the picture of each request that succeeded."""
        with self._database.read() as connection:
            rows = Transaction(connection).rows_of(statements.PICTURES, fingerprints)
            return {row["fingerprint"]: (int(row["revision"]), int(row["bytes"])) for row in rows}

    def reopen(self, seen: Mapping[str, int]) -> int:
        """Make requests pending again whose pictures are gone. What they have cost stays. Return how many were.

        `seen` maps fingerprints to the revisions that `pictures` returned before the pictures were looked for. A request
        that has changed since then stays as it is: another run may have made its picture again.
        """
        return self._database.write(lambda transaction: reopen(transaction, seen))
