"""What a request is on its way through the loop: a item, a draft, a POST that was sent, a job out there.

Plain records; what is done with them is the loop's.
"""

from dataclasses import dataclass
from typing import Literal

from kontext_pipeline.generation.ledger import Settlement
from kontext_pipeline.generation.ledger.money import micros
from kontext_pipeline.generation.polling import Took
from kontext_pipeline.segmind.answers import Answer, Job
from kontext_pipeline.segmind.outcomes import Charge
from kontext_pipeline.segmind.request import GenerationRequest


@dataclass(slots=True)
class WorkItem:
    """One request on its way through the loop."""

    fingerprint: str
    batch: str
    request: GenerationRequest
    failures: int = 0
    """Tries in this run that ended without a picture and without blame on the request."""


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """A request whose picture is not there yet. `uri` is its input picture's, where it has one."""

    item: WorkItem
    uri: str | None
    unavailable: Answer | None = None
    """What came of looking for the input picture, where that can't be had."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request that is ready to be sent: its attempt is in the ledger, its price is held."""

    found: ResolvedRequest
    attempt: int
    price: int
    """What is held for it, millionths of a USD."""
    day: int
    """The UTC day, since 1970, of whose caps it is held."""

    @property
    def item(self) -> WorkItem:
        """What it is a draft of."""
        return self.found.item


@dataclass(frozen=True, slots=True)
class Sent:
    """A POST that was made. `item` is None for one of an earlier run's, which left it behind."""

    attempt: int
    fingerprint: str
    item: WorkItem | None
    price: int
    at: int | None = None
    """Microseconds since 1970; None where the ledger has it."""


@dataclass(slots=True)
class PendingJob:
    """A v2 job out there."""

    sent: Sent
    job: Job
    submitted: float
    failures: int = 0
    unusable: int = 0
    waiting: float = 0.0
    """Its age when it was last found unfinished."""
    completed: float | None = None
    """When its picture was ready to be fetched."""
    took: Took | None = None
    """What was learned from it about how long a job takes."""
    landed: bool = False
    """It holds no place in flight any more."""


def settlement_of(sent: Sent, answer: Answer) -> Settlement:
    """Return what an answer means for the money of its attempt."""
    match answer.charge:
        case Charge.YES:
            state: Literal["charged", "released", "unknown"] = "charged"
            cost = sent.price if answer.cost_usd is None else micros(answer.cost_usd)
        case Charge.NO:
            state, cost = "released", 0
        case _:
            state, cost = "unknown", 0
    return Settlement(
        state=state,
        outcome=answer.outcome.value,
        cost=cost,
        cost_estimated=state == "charged" and answer.cost_usd is None,
        cause=answer.cause,
        status_code=answer.status_code,
        error=answer.error,
        request_id=answer.request_id,
        latency_s=answer.latency_s,
        sent_at=sent.at,
    )
