"""Claimants say how long their own lease is, so that runs with other settings judge them by it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; a claimant of before has the lease that was the default."""
    op.add_column("claimants", sa.Column("lease_s", sa.Float, nullable=False, server_default="60"))
