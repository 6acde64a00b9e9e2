"""Input pictures: which kept picture an attempt was made from, and where the API already has a copy of it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and the column. Earlier attempts don't say what they were made from."""
    # Kept input pictures that attempts were made from. Rows never change.
    op.create_table(
        "inputs",
        sa.Column("sha256", sa.String(64), primary_key=True),
        # Relative to the data directory.
        sa.Column("path", sa.Text, nullable=False),
        # Pixels of the upright picture.
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
    )
    op.add_column("attempts", sa.Column("input_sha256", sa.String(64)))
    # The latest upload of a picture to an address, by any run.
    op.create_table(
        "uploads",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("address", sa.String(255), primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        # Microseconds since 1970, on the clock of the machine that uploaded.
        sa.Column("uploaded_at", sa.BigInteger, nullable=False),
    )
