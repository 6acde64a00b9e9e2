"""The ledger remembers which alerts were sent, so that each is told once."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table of alerts."""
    op.create_table(
        "alerts",
        # What is told once, such as a budget's period and a share of it.
        sa.Column("key", sa.String(255), primary_key=True),
        # JSON, from which the message is made when it is sent.
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("made_at", sa.BigInteger, nullable=False),
        # The process that sends it, and since when; 0: none does.
        sa.Column("claimed_by", sa.String(32), nullable=False),
        sa.Column("claimed_at", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("told_at", sa.BigInteger),
    )
