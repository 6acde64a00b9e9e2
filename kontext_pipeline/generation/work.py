"""The records that travel through the stages: an item, its reservation, the request that was sent, its job."""

import time
from dataclasses import dataclass
from typing import Final

from kontext_pipeline.generation.poll_schedule import JobDuration
from kontext_pipeline.inputs.input_store import KeptInput
from kontext_pipeline.segmind.answers import Job
from kontext_pipeline.segmind.request import GenerationRequest

SECONDS_A_DAY: Final = 86_400


@dataclass(slots=True)
class WorkItem:
    """One request that a run has to bring to its outcome."""

    fingerprint: str
    batch: str
    request: GenerationRequest
    failures: int = 0
    """Tries in this run that ended without an image and were not the request's fault."""


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """An item whose image does not exist yet, with the URI of its input picture (None: text-to-image)."""

    item: WorkItem
    input_uri: str | None
    kept: KeptInput | None = None
    """The kept picture that the URI stands for."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A claim on a request and on its price. The ledger has both on disk."""

    request: ResolvedRequest
    attempt: int
    price: int
    """Millionths of a USD that the ledger holds."""
    day: int
    """The UTC day, counted from 1970, against whose caps the price counts."""

    @property
    def item(self) -> WorkItem:
        """The item that the reservation is for."""
        return self.request.item

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the request."""
        return self.item.fingerprint

    @property
    def batch(self) -> str:
        """The batch of the request."""
        return self.item.batch


@dataclass(frozen=True, slots=True)
class SentRequest:
    """A POST that was made. `item` is None for a POST of an earlier run."""

    attempt: int
    fingerprint: str
    batch: str
    item: WorkItem | None
    price: int
    at: int | None = None
    """Microseconds since 1970; None where the ledger knows the time."""

    @classmethod
    def now(cls, reservation: Reservation) -> "SentRequest":
        """Return the record of a reservation that is sent at this moment."""
        item = reservation.item
        return cls(
            reservation.attempt,
            item.fingerprint,
            item.batch,
            item,
            reservation.price,
            at=time.time_ns() // 1000,
        )


@dataclass(slots=True)
class PendingJob:
    """A v2 job that has not been collected. Times are monotonic seconds; ages count from `submitted`."""

    sent: SentRequest
    job: Job
    submitted: float
    failures: int = 0
    """Polls or fetches in a row that failed."""
    unusable: int = 0
    """Fetches that brought no image."""
    last_unfinished: float = 0.0
    """Age at the latest poll that found the job unfinished."""
    completed: float | None = None
    """When a poll found the job completed."""
    duration: JobDuration | None = None
    """What the poll schedule learned from the job."""
    holds_slot: bool = True
    overdue: bool = False
    """The run no longer waits for the job."""


def today() -> int:
    """Return the UTC day, counted from 1970."""
    return int(time.time() // SECONDS_A_DAY)
