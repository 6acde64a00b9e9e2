"""What follows from an outcome: one table, and what an answer means for the money of its attempt."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal

from kontext_pipeline.generation.ledger import Settlement, Status
from kontext_pipeline.generation.ledger.money import estimated_cost, micros
from kontext_pipeline.generation.work import SentRequest
from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.outcomes import Call, Charge, Outcome


class NextStep(Enum):
    """What the run does after an attempt is settled."""

    FINISH = "finish"
    """The request has its outcome."""
    RETRY = "retry"
    """Try the request again after a pause of its own."""
    PAUSE = "pause"
    """Pause all slots until the limit resets, then try the request again; the failure doesn't count."""
    STOP = "stop"
    """Stop the run: the cause concerns the account or the connection, not the request."""


@dataclass(frozen=True, slots=True)
class Consequence:
    """A row of the table."""

    status: Status
    """The status of the generation in the ledger."""
    retryable: bool
    """Whether a later run tries a failed request again."""
    keep_claim: bool
    """Whether this run keeps the claim on the request."""
    next_step: NextStep
    counts: bool = False
    """Whether the attempt counts against `RetryPolicy.server_error_retries`."""


_SUCCEEDED: Final = Consequence("succeeded", False, False, NextStep.FINISH)
_REJECTED: Final = Consequence("failed", False, False, NextStep.FINISH)
_STOPPED: Final = Consequence("pending", True, False, NextStep.STOP)
_RATE_LIMITED: Final = Consequence("pending", True, True, NextStep.PAUSE)
_RETRY: Final = Consequence("pending", True, True, NextStep.RETRY, counts=True)
_GIVEN_UP: Final = Consequence("failed", True, False, NextStep.FINISH, counts=True)
_OUT_OF_REACH: Final = Consequence("pending", True, False, NextStep.STOP, counts=True)
_RETRY_UNKNOWN: Final = Consequence("unknown", True, True, NextStep.RETRY)
_UNKNOWN: Final = Consequence("unknown", True, False, NextStep.FINISH)

CONSEQUENCES: Final[dict[tuple[Outcome, bool], Consequence]] = {
    (Outcome.SUCCEEDED, False): _SUCCEEDED,
    (Outcome.SUCCEEDED, True): _SUCCEEDED,
    (Outcome.REJECTED, False): _REJECTED,
    (Outcome.REJECTED, True): _REJECTED,
    (Outcome.STOPPED, False): _STOPPED,
    (Outcome.STOPPED, True): _STOPPED,
    (Outcome.RATE_LIMITED, False): _RATE_LIMITED,
    (Outcome.RATE_LIMITED, True): _RATE_LIMITED,
    (Outcome.SERVER_ERROR, False): _RETRY,
    (Outcome.SERVER_ERROR, True): _GIVEN_UP,
    (Outcome.UNREACHABLE, False): _RETRY,
    (Outcome.UNREACHABLE, True): _OUT_OF_REACH,
    # The ledger bounds these retries over all runs (`Ledger.settle` says whether the claim is still held).
    (Outcome.GATEWAY_TIMEOUT, False): _RETRY_UNKNOWN,
    (Outcome.GATEWAY_TIMEOUT, True): _RETRY_UNKNOWN,
    (Outcome.LOST, False): _RETRY_UNKNOWN,
    (Outcome.LOST, True): _RETRY_UNKNOWN,
    (Outcome.UNUSABLE, False): _RETRY_UNKNOWN,
    (Outcome.UNUSABLE, True): _RETRY_UNKNOWN,
    # The job was most likely billed, so only a later run asks again.
    (Outcome.EXPIRED, False): _UNKNOWN,
    (Outcome.EXPIRED, True): _UNKNOWN,
}
"""What follows from the outcome of a POST or of a finished job, and whether the request's tries in this run
are used up. The outcomes of polls that don't end a job never come here: the poll is repeated."""


def counts_as_try(outcome: Outcome) -> bool:
    """Return whether an outcome uses up one of the request's tries in this run."""
    return CONSEQUENCES[outcome, False].counts


def consequence_of(answer: Answer, *, tries_used_up: bool) -> Consequence:
    """Return what follows from an answer that ends an attempt.

    `tries_used_up`: the request has no retry left in this run. A request of an earlier run has none.
    """
    consequence = CONSEQUENCES[answer.outcome, tries_used_up]
    if answer.outcome is Outcome.REJECTED and answer.call in (Call.UPLOAD, Call.POLL, Call.FETCH):
        # A job that failed, or a file that was missing, may succeed on another day.
        return replace(consequence, retryable=True)
    return consequence


def settlement_of(sent: SentRequest, answer: Answer) -> Settlement:
    """Return what an answer means for the money of its attempt."""
    match answer.charge:
        case Charge.YES:
            state: Literal["charged", "released", "unknown"] = "charged"
            cost = estimated_cost(sent.price) if answer.cost_usd is None else micros(answer.cost_usd)
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
