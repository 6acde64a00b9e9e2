"""The table of what follows from an outcome: complete, and safe for the money."""

import pytest

from kontext_pipeline.generation.consequences import (
    CONSEQUENCES,
    NextStep,
    consequence_of,
    counts_as_try,
    settlement_of,
)
from kontext_pipeline.generation.work import SentRequest
from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.outcomes import Call, Outcome

NOT_FINAL = {Outcome.ACCEPTED, Outcome.COMPLETED, Outcome.PENDING, Outcome.UNSUPPORTED}
"""Outcomes that never end an attempt: the job goes on, or the call was not about an attempt."""

SENT = SentRequest(attempt=1, fingerprint="f" * 64, batch="batch", item=None, price=100_000, at=5)


def answer(outcome: Outcome, call: Call = Call.GENERATE, **fields: object) -> Answer:
    return Answer(call=call, outcome=outcome, **fields)  # type: ignore[arg-type]


def test_the_table_has_every_outcome_that_ends_an_attempt() -> None:
    assert set(CONSEQUENCES) == {
        (outcome, used_up) for outcome in Outcome if outcome not in NOT_FINAL for used_up in (False, True)
    }


@pytest.mark.parametrize(
    ("outcome", "used_up", "status", "retryable", "keep_claim", "next_step"),
    [
        (Outcome.SUCCEEDED, False, "succeeded", False, False, NextStep.FINISH),
        (Outcome.REJECTED, False, "failed", False, False, NextStep.FINISH),
        (Outcome.STOPPED, False, "pending", True, False, NextStep.STOP),
        (Outcome.STOPPED, True, "pending", True, False, NextStep.STOP),
        (Outcome.RATE_LIMITED, False, "pending", True, True, NextStep.PAUSE),
        (Outcome.RATE_LIMITED, True, "pending", True, True, NextStep.PAUSE),
        (Outcome.SERVER_ERROR, False, "pending", True, True, NextStep.RETRY),
        (Outcome.SERVER_ERROR, True, "failed", True, False, NextStep.FINISH),
        (Outcome.UNREACHABLE, False, "pending", True, True, NextStep.RETRY),
        (Outcome.UNREACHABLE, True, "pending", True, False, NextStep.STOP),
        (Outcome.LOST, False, "unknown", True, True, NextStep.RETRY),
        (Outcome.LOST, True, "unknown", True, True, NextStep.RETRY),
        (Outcome.GATEWAY_TIMEOUT, False, "unknown", True, True, NextStep.RETRY),
        (Outcome.UNUSABLE, False, "unknown", True, True, NextStep.RETRY),
        (Outcome.EXPIRED, False, "unknown", True, False, NextStep.FINISH),
    ],
)
def test_each_row(
    outcome: Outcome, used_up: bool, status: str, retryable: bool, keep_claim: bool, next_step: NextStep
) -> None:
    consequence = consequence_of(answer(outcome), tries_used_up=used_up)
    assert (consequence.status, consequence.retryable, consequence.keep_claim, consequence.next_step) == (
        status,
        retryable,
        keep_claim,
        next_step,
    )


@pytest.mark.parametrize("used_up", [False, True])
def test_only_answers_that_were_not_billed_count_against_the_retries_of_a_run(used_up: bool) -> None:
    counting = {outcome for outcome in Outcome if outcome not in NOT_FINAL and counts_as_try(outcome)}
    assert counting == {Outcome.SERVER_ERROR, Outcome.UNREACHABLE}
    for outcome in counting:
        assert settlement_of(SENT, answer(outcome)).state == "released"
        assert consequence_of(answer(outcome), tries_used_up=used_up).status != "unknown"


def test_a_row_without_an_image_that_may_have_been_billed_is_never_pending_or_failed() -> None:
    for outcome, used_up in CONSEQUENCES:
        one = answer(outcome)
        if settlement_of(SENT, one).state != "released":
            assert consequence_of(one, tries_used_up=used_up).status in ("unknown", "succeeded")


@pytest.mark.parametrize("call", [Call.UPLOAD, Call.POLL, Call.FETCH])
def test_a_refusal_that_is_not_of_the_request_is_tried_again_by_a_later_run(call: Call) -> None:
    assert consequence_of(answer(Outcome.REJECTED, call), tries_used_up=False).retryable
    assert not consequence_of(answer(Outcome.REJECTED), tries_used_up=False).retryable


def test_a_settlement_has_the_cost_that_the_answer_tells() -> None:
    told = settlement_of(SENT, answer(Outcome.SUCCEEDED, cost_usd=0.12, status_code=200, latency_s=2.5))
    assert (told.state, told.cost, told.cost_estimated, told.sent_at) == ("charged", 120_000, False, 5)
    untold = settlement_of(SENT, answer(Outcome.SUCCEEDED))
    assert (untold.state, untold.cost, untold.cost_estimated) == ("charged", 100_000, True)
    lost = settlement_of(SENT, answer(Outcome.LOST, error="cut"))
    assert (lost.state, lost.cost, lost.error) == ("unknown", 0, "cut")
