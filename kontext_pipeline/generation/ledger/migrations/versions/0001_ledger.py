"""The first ledger: claimants, generations, attempts, spending and rates.

Amounts are whole millionths of a USD. Times are microseconds since 1970 UTC, except in `rates`.
"""

import sqlalchemy as sa
from alembic import op

from kontext_pipeline.generation.ledger.migrations import HEARTBEAT

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    # Processes that reserve requests, one row each. A claim is in force as long as its claimant is alive.
    op.create_table(
        "claimants",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("run_id", sa.String(255), nullable=False),
        sa.Column("backend", sa.String(32), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.BigInteger, nullable=False),
        # Counts up while the claimant lives. Others see it die by this count standing still, on their own clocks.
        sa.Column(HEARTBEAT, sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
    )
    op.create_index("claimants_living", "claimants", ["ended_at"])
    # What came of each request. A success never changes.
    op.create_table(
        "generations",
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("backend", sa.String(32), nullable=False),
        # The batch that first asked for the picture: the one whose table bears the cost.
        sa.Column("batch", sa.String(255), nullable=False),
        # pending, succeeded, failed or unknown
        sa.Column("status", sa.String(16), nullable=False),
        # Whether another run may succeed: yes after the server's fault, no after the request's.
        sa.Column("retryable", sa.Boolean, nullable=False),
        sa.Column("claimant", sa.String(32)),
        sa.Column("image_path", sa.Text),
        sa.Column("image_sha256", sa.String(64)),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("bytes", sa.BigInteger),
    )
    # Every attempt, whatever came of it. Rows are added and settled, never removed.
    op.create_table(
        "attempts",
        # In SQLite, a BIGINT would not be the row id.
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("batch", sa.String(255), nullable=False),
        sa.Column("backend", sa.String(32), nullable=False),
        sa.Column("run_id", sa.String(255), nullable=False),
        sa.Column("claimant", sa.String(32), nullable=False),
        sa.Column("api_version", sa.String(8), nullable=False),
        # open -> charged | released | unknown; unknown -> charged | released where the answer comes late
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
    # Partial: a million settled attempts do not slow down the search for the few that are not.
    op.create_index(
        "attempts_unsettled",
        "attempts",
        ["claimant"],
        sqlite_where=sa.text("state IN ('open', 'unknown')"),
        postgresql_where=sa.text("state IN ('open', 'unknown')"),
    )
    # Sums of the attempts by state, changed in the same transactions, so that one read checks a cap.
    op.create_table(
        "spending",
        sa.Column("backend", sa.String(32), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("run_id", sa.String(255), primary_key=True),
        sa.Column("charged", sa.BigInteger, nullable=False),
        sa.Column("unknown", sa.BigInteger, nullable=False),
        sa.Column("open", sa.BigInteger, nullable=False),
    )
    # When the next request may be sent, in microseconds on the clock that all users of the ledger share.
    op.create_table(
        "rates",
        sa.Column("backend", sa.String(32), primary_key=True),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        sa.Column("paused_until", sa.BigInteger, nullable=False),
    )
