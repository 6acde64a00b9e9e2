"""The ledger's tables: alembic runs these migrations when a ledger is opened. Released ones are never changed."""

from typing import Final

SCHEMA_VERSION: Final = "0006"
"""The newest migration."""
HEARTBEAT: Final = "heartbeat"[5:]
"""The column of `claimants` that counts heartbeats. Existing ledgers have the short name, so it stays."""
