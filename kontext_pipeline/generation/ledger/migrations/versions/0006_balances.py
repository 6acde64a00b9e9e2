"""The ledger records the account's balance, by which lost answers can be settled."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of balances."""
    op.create_table(
        "balances",
        # In SQLite, a BIGINT would not be the row id.
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("backend", sa.String(32), nullable=False),
        # A digest of the API's address and key: balances of different accounts can't be compared.
        sa.Column("account", sa.String(16), nullable=False),
        sa.Column("taken_at", sa.BigInteger, nullable=False),
        sa.Column("balance", sa.BigInteger, nullable=False),
        # The ledger at that moment: its last attempt, and the sums of the attempts by state.
        sa.Column("last_attempt", sa.BigInteger, nullable=False),
        sa.Column("charged", sa.BigInteger, nullable=False),
        sa.Column("unknown", sa.BigInteger, nullable=False),
        sa.Column("open", sa.BigInteger, nullable=False),
    )
