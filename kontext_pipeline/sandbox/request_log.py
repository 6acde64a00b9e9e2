"""The sandbox's own ledger: every POST to a model it received, and what it billed for.

Anybody can check their client's books against it: it is served as JSON at `/sandbox/books`.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from kontext_pipeline.sandbox.account import to_usd

MAX_PROMPT_CHARS = 2000
"""Longer prompts are cut in the books; the body's sha256 still tells them apart."""


def canonical_sha256(body: object) -> str:
    """Return the sha256 of a JSON value's canonical form: sorted keys, no spaces, no escapes."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(slots=True)
class Entry:
    """One POST to a model."""

    sequence: int
    """1 for the first POST since the start or the last reset."""
    api: Literal["v1", "v2"]
    received_at: datetime
    body_sha256: str
    """Of the canonical form of the JSON body (see `canonical_sha256`), or of the raw bytes if it isn't JSON."""
    request_id: str | None = None
    prompt: str | None = None
    seed: int | None = None
    status: int | None = None
    """The HTTP status of the POST's answer; None: none was given (yet, or the connection was cut)."""
    state: str = "RECEIVED"
    """RECEIVED, REFUSED, RUNNING, COMPLETED, FAILED or ABANDONED (the sandbox stopped first)."""
    billed: bool = False
    cost: int = 0
    """Micro-dollars billed."""
    fault: str | None = None
    """The kind of fault that struck, if one did."""
    client_gone: bool = False
    """v1: the client had hung up when the answer was ready. It's billed all the same."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry as it's served: `cost` in USD, times in ISO 8601."""
        return {
            "sequence": self.sequence,
            "request_id": self.request_id,
            "api": self.api,
            "received_at": self.received_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "body_sha256": self.body_sha256,
            "prompt": self.prompt,
            "seed": self.seed,
            "status": self.status,
            "state": self.state,
            "billed": self.billed,
            "cost": to_usd(self.cost),
            "fault": self.fault,
            "client_gone": self.client_gone,
        }


class Books:
    """Every entry since the start, and their totals."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.billed = 0
        self.cost = 0

    def open(self, api: Literal["v1", "v2"], body_sha256: str) -> Entry:
        """Enter a POST that was received whole."""
        entry = Entry(len(self.entries) + 1, api, datetime.now(UTC), body_sha256)
        self.entries.append(entry)
        return entry

    def bill(self, entry: Entry, cost: int) -> None:
        """Enter that `entry`'s generation finished and cost so many micro-dollars."""
        entry.billed = True
        entry.cost = cost
        self.billed += 1
        self.cost += cost

    def to_json(self, *, balance: float, held: float, after: int = 0) -> dict[str, Any]:
        """Return totals and the entries with a sequence number above `after`."""
        return {
            "totals": {
                "posts": len(self.entries),
                "billed": self.billed,
                "cost": to_usd(self.cost),
                "running": sum(entry.state == "RUNNING" for entry in self.entries),
                "balance": balance,
                "held": held,
            },
            "entries": [entry.to_json() for entry in self.entries[after:]],
        }
