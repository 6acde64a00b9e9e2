"""Uploads of input pictures, remembered in the ledger over runs and machines."""

import time
from typing import Final

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Database, Transaction

UPLOAD_LIFE_S: Final = 6 * 24 * 3600.0
"""Seconds for which an upload is used again. The provider keeps files for 7 days; clocks may differ by hours."""


class RememberedUploads:
    """The uploads to one address. Any number of threads may use them.

    Raises:
        LedgerError: The database can't be read or written; every method raises it.
    """

    def __init__(self, database: Database, address: str) -> None:
        """`address`: the URL to which pictures are uploaded."""
        self._database = database
        self._address = address

    def find(self, sha256: str) -> str | None:
        """Return the URL of a picture that any run has uploaded and that has not expired; None where there is none."""
        parameters = {"sha256": sha256, "address": self._address}
        with self._database.read() as connection:
            row = Transaction(connection).row(statements.FIND_UPLOAD, parameters)
        # By another machine's clock, an upload may lie in the future.
        fresh = row is not None and abs(time.time() - row["uploaded_at"] / 1_000_000) < UPLOAD_LIFE_S
        return str(row["url"]) if fresh else None

    def note(self, sha256: str, url: str) -> None:
        """Note that a picture was uploaded just now, and can be read at `url`."""
        parameters = {"sha256": sha256, "address": self._address, "url": url, "now": int(time.time() * 1e6)}
        self._database.write(lambda transaction: transaction.execute(statements.SET_UPLOAD, parameters))
