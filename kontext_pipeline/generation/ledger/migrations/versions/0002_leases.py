"""Each claimant states the seconds of its own lease, so that runs with other settings judge it by that."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Earlier claimants get the lease that was the default."""
    op.add_column("claimants", sa.Column("lease_s", sa.Float, nullable=False, server_default="60"))
