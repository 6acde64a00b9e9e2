"""What a call gives back: the answer, the picture that came with it, the job to ask about later.

Plain frozen records without behaviour. None of them ever holds the key.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from kontext_pipeline.segmind.images import ImageFormat
from kontext_pipeline.segmind.outcomes import Call, Charge, Outcome, charge


@dataclass(frozen=True, slots=True)
class Picture:
    """A whole picture, as it arrived.

    `file` is the spooled file, complete but not yet flushed to the disk. Where no disk would take it,
    `file` is None and `data` holds the bytes; otherwise `data` is None. `sha256`: 64 hex digits.
    """

    file: str | None
    data: bytes | None
    sha256: str
    bytes: int
    format: ImageFormat
    width: int
    height: int

    @property
    def path(self) -> Path | None:
        """The file's path."""
        return None if self.file is None else Path(self.file)


@dataclass(frozen=True, slots=True)
class Job:
    """A v2 job: all that another process needs to ask for it after a crash."""

    request_id: str
    status_url: str
    response_url: str

    def to_json(self) -> str:
        """Return the job as one line of JSON."""
        return json.dumps(
            {
                "request_id": self.request_id,
                "status_url": self.status_url,
                "response_url": self.response_url,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Return the job that `to_json` wrote."""
        fields = json.loads(text)
        return cls(fields["request_id"], fields["status_url"], fields["response_url"])


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call.

    `cause` is a short name for statistics, empty where nothing went wrong; `error` is the server's (or
    the network's) words on one line of at most 500 characters. `cost_usd` and `remaining_credits` (USD)
    are None where the answer did not say. `retry_after_s` is 0 to 3600 s from the moment of the answer,
    by the server's own clock, None where it did not say. `total_time_s` is what a v2 job took with its
    wait in the queue, as the server says. `latency_s` is the whole call's, spooling
    included.

    `remains` is where the bytes lie of a success that holds no whole picture: they may have been paid
    for, so the caller decides where they go. `spilled` says that the spool could not be written, most
    likely because its disk is full, and that what was paid for is in the rescue folder or in memory;
    the caller should buy nothing more.
    """

    call: Call
    outcome: Outcome
    cause: str = ""
    status_code: int | None = None
    error: str | None = None
    cost_usd: float | None = None
    remaining_credits: float | None = None
    request_id: str | None = None
    generation_time_s: float | None = None
    total_time_s: float | None = None
    seed_value: int | None = None
    retry_after_s: float | None = None
    latency_s: float = 0.0
    picture: Picture | None = None
    job: Job | None = None
    remains: Path | None = None
    spilled: bool = False

    @property
    def charge(self) -> Charge:
        """Whether the call was billed, as far as anybody can know from this answer."""
        return charge(self.call, self.outcome, self.cost_usd)


@dataclass(frozen=True, slots=True)
class Credits:
    """The account's balance in USD, or why it is not known.

    `outcome` is `SUCCEEDED` where it is known; `UNSUPPORTED` where the server has no such endpoint,
    which is no error: the balance is simply unknown.
    """

    outcome: Outcome
    cause: str = ""
    status_code: int | None = None
    error: str | None = None
    credits: float | None = None
    free_credits: float | None = None

    @property
    def total(self) -> float | None:
        """Paid and free credits together, None where the balance is unknown."""
        if self.credits is None:
            return None
        return self.credits + (self.free_credits or 0.0)

    @property
    def key_refused(self) -> bool:
        """Whether the server refused the key itself."""
        return self.status_code in {401, 403}
