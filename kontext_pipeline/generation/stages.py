"""What a request is on its way through the loop: a wish, a draft, a POST that was sent, a job out there.

Plain records; what is done with them is the loop's.
"""

from dataclasses import dataclass
from typing import Literal

from kontext_pipeline.generation.ledger import Closing
from kontext_pipeline.generation.money import micros
from kontext_pipeline.generation.polling import Took
from kontext_pipeline.segmind.answers import Answer, Job
from kontext_pipeline.segmind.outcomes import Charge
from kontext_pipeline.segmind.request import GenerationRequest


@dataclass(slots=True)
class Wish:
    """One request on its way through the loop."""

    fingerprint: str
    batch: str
    request: GenerationRequest
    failures: int = 0
    """Tries in this run that ended without a picture and without blame on the request."""


@dataclass(frozen=True, slots=True)
class Found:
    """A request whose picture is not there yet. `uri` is its input picture's, where it has one."""

    wish: Wish
    uri: str | None
    unavailable: Answer | None = None
    """What came of looking for the input picture, where that can't be had."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A request that is ready to be sent: its attempt is in the ledger, its price is held."""

    found: Found
    attempt: int
    price: int
    """What is held for it, millionths of a USD."""
    day: int
    """The UTC day, since 1970, of whose caps it is held."""

    @property
    def wish(self) -> Wish:
        """What it is a draft of."""
        return self.found.wish


@dataclass(frozen=True, slots=True)
class Sent:
    """A POST that was made. `wish` is None for one of an earlier run's, which left it behind."""

    attempt: int
    fingerprint: str
    wish: Wish | None
    price: int
    at: int | None = None
    """Microseconds since 1970; None where the ledger has it."""


@dataclass(slots=True)
class Flight:
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


def closing_of(sent: Sent, answer: Answer) -> Closing:
    """Return what an answer means for the money of its attempt."""
    match answer.charge:
        case Charge.YES:
            state: Literal["charged", "released", "unknown"] = "charged"
            cost = sent.price if answer.cost_usd is None else micros(answer.cost_usd)
        case Charge.NO:
            state, cost = "released", 0
        case _:
            state, cost = "unknown", 0
    return Closing(
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
