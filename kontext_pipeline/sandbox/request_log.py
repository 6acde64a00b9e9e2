"""The request log: every POST to a model that the sandbox received, and what it billed.

It is served as JSON at `/sandbox/books`, so that a client's own accounting can be checked against it.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Final, Literal

from kontext_pipeline.sandbox.account import to_usd
from kontext_pipeline.sandbox.api_models import LogEntry

MAX_PROMPT_CHARS: Final = 2000
"""Longer prompts are cut in the log. The sha256 of the body still tells them apart."""


def canonical_sha256(body: object) -> str:
    """Return the sha256 of a JSON value's canonical form: sorted keys, no spaces, no escapes."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class RequestLog:
    """Every entry since the start, and the totals. Money is in micro-dollars."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.billed = 0
        self.cost = 0

    def add(self, api: Literal["v1", "v2"], body_sha256: str, request_id: str) -> LogEntry:
        """Return a new entry for a POST whose body has arrived whole."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = LogEntry(len(self.entries) + 1, request_id, api, now, body_sha256)
        self.entries.append(entry)
        return entry

    def bill(self, entry: LogEntry, cost: int) -> None:
        """Record that the generation of `entry` finished and cost this many micro-dollars."""
        entry.billed = True
        entry.cost = to_usd(cost)
        self.billed += 1
        self.cost += cost

    def count(self, state: str) -> int:
        """Return the number of entries in `state`."""
        return sum(entry.state == state for entry in self.entries)
