"""What the calls return: the answer, its picture, and the job to ask about later. None of them holds the key."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from kontext_pipeline.segmind.images import ImageFormat
from kontext_pipeline.segmind.outcomes import Call, Cause, Charge, Outcome, charge


@dataclass(frozen=True, slots=True)
class Picture:
    """A whole picture, as it arrived.

    `path` is its file, complete but not yet flushed to the disk. Where no disk took it, `path` is None and
    `data` holds the bytes; otherwise `data` is None. `sha256`: 64 hex digits. `width`, `height`: pixels.
    """

    path: Path | None
    data: bytes | None
    sha256: str
    bytes: int
    format: ImageFormat
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Job:
    """A v2 job: all that another process needs to ask for it after a crash."""

    request_id: str
    status_url: str
    response_url: str

    def to_json(self) -> str:
        """Return the job as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Return the job that `to_json` wrote."""
        fields = json.loads(text)
        return cls(fields["request_id"], fields["status_url"], fields["response_url"])


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one call.

    `error` is the message of the server or the network, on one line of at most 500 characters. Amounts in
    USD and times in seconds are None where the answer does not name them. `retry_after_s` is 0 to 3600,
    counted from the answer by the server's own clock. `total_time_s` is the time of a v2 job with its wait in
    the queue; `latency_s` is the time of the whole call, spooling included.

    `seed` is the one that the server says it has used.

    `remains` is the file of a success without a whole picture: its bytes may have been paid for, so the caller
    decides what happens to it. `spilled` means that the spool could not be written, most likely because its
    disk is full, and that the bytes are in the rescue folder or in memory: buy nothing more.
    """

    call: Call
    outcome: Outcome
    cause: Cause = Cause.NONE
    status_code: int | None = None
    error: str | None = None
    cost_usd: float | None = None
    request_id: str | None = None
    seed: int | None = None
    total_time_s: float | None = None
    retry_after_s: float | None = None
    latency_s: float = 0.0
    picture: Picture | None = None
    job: Job | None = None
    remains: Path | None = None
    spilled: bool = False

    @property
    def charge(self) -> Charge:
        """Whether the call was billed, as far as this answer tells."""
        return charge(self.call, self.outcome, self.cost_usd)


@dataclass(frozen=True, slots=True)
class Credits:
    """The account's balance in USD, or why it is unknown.

    `outcome` is `SUCCEEDED` where the balance is known, and `UNSUPPORTED` where the server has no such
    endpoint, which is not an error.
    """

    outcome: Outcome
    cause: Cause = Cause.NONE
    status_code: int | None = None
    error: str | None = None
    credits: float | None = None
    free_credits: float | None = None

    @property
    def total(self) -> float | None:
        """Paid and free credits together, or None where the balance is unknown."""
        return None if self.credits is None else self.credits + (self.free_credits or 0.0)
