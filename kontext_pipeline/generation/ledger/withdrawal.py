"""Withdrawal: a stored picture that can't be decoded is taken from its request, whose attempt stays charged."""

from collections.abc import Sequence

from kontext_pipeline.generation.ledger import statements
from kontext_pipeline.generation.ledger.database import Database, Transaction
from kontext_pipeline.segmind.outcomes import Cause


def pictures_of(database: Database, fingerprints: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return path (relative to the data directory) and sha256 of the picture of each request that has one."""
    with database.read() as connection:
        rows = Transaction(connection).rows_of(statements.PATHS_OF_PICTURES, fingerprints)
        return {row["fingerprint"]: (row["image_path"], row["image_sha256"]) for row in rows}


def withdraw_picture(database: Database, fingerprint: str, sha256: str, damage: str) -> int | None:
    """Take a picture that can't be decoded from its request, which is `unknown` from now on.

    The attempt that brought it stays charged, as one without a picture. Return that attempt; None where no attempt of
    this ledger did.

    Args:
        database: The ledger's.
        fingerprint: The request.
        sha256: Of the damaged picture. Another one is left alone.
        damage: What is wrong with the picture.
    """
    return database.write(lambda transaction: _withdraw(transaction, fingerprint, sha256, damage))


def _withdraw(transaction: Transaction, fingerprint: str, sha256: str, damage: str) -> int | None:
    here = {"fingerprint": fingerprint, "sha256": sha256}
    row = transaction.row(statements.FIND_PICTURES_ATTEMPT, here)
    attempt = None if row["id"] is None else int(row["id"])
    withdrawn = transaction.execute(statements.WITHDRAW_PICTURE, {**here, "revision": transaction.revision})
    if withdrawn and attempt is not None:
        why = {"id": attempt, "cause": Cause.DAMAGED_PICTURE.value, "error": damage}
        transaction.execute(statements.MARK_UNUSABLE, why)
    return attempt
