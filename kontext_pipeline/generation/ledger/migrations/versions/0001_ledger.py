"""The first ledger: claimants, generations, attempts, spending and rates."""

import sqlalchemy as sa
from alembic import op

from kontext_pipeline.generation.ledger.tables import HEARTBEAT

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "claimants",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("run_id", sa.String(255), nullable=False),
        sa.Column("backend", sa.String(32), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        sa.Column(HEARTBEAT, sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
    )
    op.create_index("claimants_living", "claimants", ["ended_at"])
    op.create_table(
        "generations",
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("backend", sa.String(32), nullable=False),
        sa.Column("batch", sa.String(255), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("retryable", sa.Boolean, nullable=False),
        sa.Column("claimant", sa.String(32)),
        sa.Column("image_path", sa.Text),
        sa.Column("image_sha256", sa.String(64)),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("bytes", sa.BigInteger),
    )
    op.create_table(
        "attempts",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("batch", sa.String(255), nullable=False),
        sa.Column("backend", sa.String(32), nullable=False),
        sa.Column("run_id", sa.String(255), nullable=False),
        sa.Column("claimant", sa.String(32), nullable=False),
        sa.Column("api_version", sa.String(8), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(32)),
        sa.Column("cause", sa.String(64)),
        sa.Column("price", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("cost_estimated", sa.Boolean, nullable=False),
        sa.Column("status_code", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("job", sa.Text),
        sa.Column("latency_s", sa.Float),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
    )
    op.create_index("attempts_fingerprint", "attempts", ["fingerprint"])
    op.create_index(
        "attempts_unsettled",
        "attempts",
        ["claimant"],
        sqlite_where=sa.text("state IN ('open', 'unknown')"),
        postgresql_where=sa.text("state IN ('open', 'unknown')"),
    )
    op.create_table(
        "spending",
        sa.Column("backend", sa.String(32), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("run_id", sa.String(255), primary_key=True),
        sa.Column("charged", sa.BigInteger, nullable=False),
        sa.Column("unknown", sa.BigInteger, nullable=False),
        sa.Column("open", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "rates",
        sa.Column("backend", sa.String(32), primary_key=True),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        sa.Column("paused_until", sa.BigInteger, nullable=False),
    )
