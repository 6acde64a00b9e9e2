"""The ledger's records: the arguments and results of its calls. Amounts are whole millionths of a USD."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from kontext_pipeline.generation.ledger.money import Cap
from kontext_pipeline.segmind.outcomes import Cause

Status = Literal["pending", "succeeded", "failed", "unknown"]

AskAgain = Literal["within bounds", "after crashes", "always"]
"""Whether to try a request again that has lost answers: as often as `unknown_retries` allows; the same, but attempts of
runs that died don't count; or once more in any case."""


@dataclass(frozen=True, slots=True)
class ReservationTerms:
    """The terms that all requests of one `Ledger.reserve` share."""

    api_version: str
    price: int
    """Held for each attempt, millionths of a USD."""
    caps: Sequence[Cap] = ()
    rpm: float | None = None
    """Requests a minute that may be sent; None for no limit."""
    unknown_retries: int = 1
    """How many attempts of a request may end `unknown` and still be followed by another one."""
    retry_failed: bool = False
    """Whether to try again what failed for good."""
    ask_again: AskAgain = "within bounds"
    """Whether to try again what has lost its answers."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """The request is claimed and its price is held: send it."""

    attempt: int


@dataclass(frozen=True, slots=True)
class AlreadySettled:
    """The request has its outcome: send nothing."""

    status: Status


@dataclass(frozen=True, slots=True)
class ClaimedElsewhere:
    """The request is in flight, or another living run has claimed it."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The rate limit or a pause forbids sending for `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class OverBudget:
    """The price does not fit under a cap.

    `recoverable`: the part of the cap, in millionths, that open attempts hold and may give back; 0 where the price
    would not fit even then.
    """

    cap: Cap
    recoverable: int


ReserveResult = Reserved | AlreadySettled | ClaimedElsewhere | RetryLater | OverBudget


@dataclass(frozen=True, slots=True)
class Stored:
    """A picture in the image store: `path` relative to the data directory, sizes in pixels and bytes."""

    path: str
    sha256: str
    width: int
    height: int
    bytes: int


@dataclass(frozen=True, slots=True)
class WithoutPicture:
    """A request that has no picture, and how its last attempt ended."""

    fingerprint: str
    status: Status
    retryable: bool
    cause: str
    status_code: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of an attempt: what it means for the money, and how the call went."""

    state: Literal["charged", "released", "unknown"]
    outcome: str
    cost: int = 0
    """What was charged, millionths of a USD."""
    cost_estimated: bool = False
    cause: Cause = Cause.NONE
    status_code: int | None = None
    error: str | None = None
    request_id: str | None = None
    latency_s: float | None = None
    sent_at: int | None = None
    """When the request was sent, microseconds since 1970; None keeps the time of the reservation."""


NOT_SENT: Final = Settlement("released", "not_sent", cause=Cause.NOT_SENT)
"""The end of an attempt that was reserved and never sent."""


@dataclass(frozen=True, slots=True)
class SettledImage:
    """An attempt that brought an image: what it cost, and where the image is."""

    attempt: int
    settlement: Settlement
    picture: Stored


@dataclass(frozen=True, slots=True)
class Orphan:
    """An open attempt whose run has ended. It belongs to this process now, which must collect or settle it."""

    attempt: int
    fingerprint: str
    batch: str
    api_version: str
    job: str | None
    """The v2 job to collect, as it was recorded."""
    started_at: datetime
    price: int
    accounted_for: bool
    """Whether another attempt paid for the picture of this request, if the store has one."""
