"""The ledger's tables, as the newest migration leaves them.

Amounts are whole millionths of a USD, so that sums are exact. Times are microseconds since 1970 UTC.
A change here needs a migration in `migrations/versions/`, and `SCHEMA_VERSION` set to its revision.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION: Final = "0002"
HEARTBEAT: Final = "heartbeat"[5:]
"""The column of heartbeats in `claimants`. Ledgers of the first release have the short name, and keep it."""

metadata = MetaData()

# Processes that reserve requests, one row each. A claim is in force as long as its claimant is alive.
claimants = Table(
    "claimants",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("run_id", String(255), nullable=False),
    Column("backend", String(32), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", BigInteger, nullable=False),
    # Counts up while the claimant lives. Others see it die by this count standing still, on their own clocks.
    Column(HEARTBEAT, BigInteger, key="heartbeat", nullable=False),
    # Seconds of silence after which others may take over.
    Column("lease_s", Float, nullable=False, server_default="60"),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
)
Index("claimants_living", claimants.c.ended_at)

# The outcome of each request: pending, succeeded, failed or unknown. A success never changes.
generations = Table(
    "generations",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("backend", String(32), nullable=False),
    # The batch that first asked for the picture: the one whose table bears the cost.
    Column("batch", String(255), nullable=False),
    Column("status", String(16), nullable=False),
    # Whether another run may succeed: yes after the server's fault, no after the request's.
    Column("retryable", Boolean, nullable=False),
    Column("claimant", String(32)),
    Column("image_path", Text),
    Column("image_sha256", String(64)),
    Column("width", Integer),
    Column("height", Integer),
    Column("bytes", BigInteger),
)

# Every attempt, whatever came of it. Rows are added and settled, never removed.
attempts = Table(
    "attempts",
    metadata,
    # In SQLite, a BIGINT would not be the row id.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("fingerprint", String(64), nullable=False),
    Column("batch", String(255), nullable=False),
    Column("backend", String(32), nullable=False),
    Column("run_id", String(255), nullable=False),
    Column("claimant", String(32), nullable=False),
    Column("api_version", String(8), nullable=False),
    # open -> charged | released | unknown; unknown -> charged | released where the answer comes late.
    Column("state", String(16), nullable=False),
    Column("outcome", String(32)),
    Column("cause", String(64)),
    Column("price", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("cost_estimated", Boolean, nullable=False),
    Column("status_code", Integer),
    Column("error", Text),
    Column("request_id", Text),
    Column("job", Text),
    Column("latency_s", Float),
    Column("day", String(10), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
)
Index("attempts_fingerprint", attempts.c.fingerprint)
# Partial: a million settled attempts do not slow down the search for the few that are not.
Index(
    "attempts_unsettled",
    attempts.c.claimant,
    sqlite_where=attempts.c.state.in_(["open", "unknown"]),
    postgresql_where=attempts.c.state.in_(["open", "unknown"]),
)

# Sums of the attempts by state, changed in the same transactions, so that one read checks a cap.
spending = Table(
    "spending",
    metadata,
    Column("backend", String(32), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("run_id", String(255), primary_key=True),
    Column("charged", BigInteger, nullable=False),
    Column("unknown", BigInteger, nullable=False),
    Column("open", BigInteger, nullable=False),
)

# When the next request may be sent, on the clock that all users of the ledger share.
rates = Table(
    "rates",
    metadata,
    Column("backend", String(32), primary_key=True),
    Column("next_at", BigInteger, nullable=False),
    Column("paused_until", BigInteger, nullable=False),
)
