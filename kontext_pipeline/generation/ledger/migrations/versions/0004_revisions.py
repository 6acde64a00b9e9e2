"""Each change of a request gets a revision, and the ledger knows the id of its data directory."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of facts about the whole ledger, with its one row, and the columns of requests."""
    facts = op.create_table(
        "ledger_facts",
        # The id of the data directory that has the pictures; null until the ledger is first used with one.
        sa.Column("dataset_id", sa.String(64)),
        # The revision of the latest transaction that changed a request or one of its attempts.
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(facts, [{"dataset_id": None, "revision": 0}])
    op.add_column("generations", sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"))
    # The last attempt before the picture was found to be gone: those up to it have paid for no picture that is there.
    op.add_column("generations", sa.Column("reopened_after", sa.BigInteger))
