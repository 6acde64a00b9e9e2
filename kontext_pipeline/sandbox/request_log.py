"""The request log: every POST to a model whose body arrived whole, and what it billed.

It is served as JSON at `/sandbox/books`, so that a client's own accounting can be checked against it.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field


def canonical_sha256(body: object) -> str:
    """Return the sha256 of a JSON value's canonical form: sorted keys, no spaces, no escapes.

    Raises:
        ValueError: a text has a lone surrogate, which UTF-8 can't have.
    """
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(slots=True)
class LogEntry:
    """One POST to a model."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(json_schema_serialization_defaults_required=True)

    sequence: Annotated[int, Field(ge=1)]
    """1 for the first POST since the start or the last reset."""
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()), kw_only=True)
    api: Literal["v1", "v2"]
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC), kw_only=True)
    body_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the canonical form of the JSON body (see `canonical_sha256`), or of the raw bytes if it is not JSON."""
    prompt: str | None = None
    """Cut after 2,000 characters. The sha256 of the body still tells longer prompts apart."""
    seed: int | None = None
    status: int | None = None
    """The HTTP status of the answer. None: no answer was given (yet, or the connection was cut)."""
    state: Literal["RECEIVED", "REFUSED", "RUNNING", "COMPLETED", "FAILED", "ABANDONED"] = "RECEIVED"
    """ABANDONED: the sandbox stopped before the generation ended."""
    billed: bool = False
    cost: float = 0.0
    """USD."""
    fault: str | None = None
    """The kind of the fault that struck, if one did."""
    client_gone: bool = False
    """v1: the client had hung up when the answer was ready. The generation is billed all the same."""
