"""The settler: what each answer does to the ledger, to its request and to the run."""

import errno
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.ledger import Stored
from kontext_pipeline.generation.retries import RetryPolicy
from kontext_pipeline.generation.settler import LARGEST_BATCH, OUTAGE_ROWS
from kontext_pipeline.generation.work import SentRequest
from kontext_pipeline.segmind.answers import Answer, Picture
from kontext_pipeline.segmind.outcomes import Call, Cause, Outcome
from tests.generation.scripted_client import PNG, picture_in
from tests.generation.stages import PRICE, Stages, StagesMaker, answer, fingerprint

pytestmark = pytest.mark.timeout(20)

NO_RETRY = RetryPolicy(server_error_retries=0, jitter=0.0)


def image(s: Stages, number: int, call: Call = Call.GENERATE, **fields: object) -> Answer:
    """An answer with an image, which is in the spool."""
    picture = picture_in(s.store.spool, fingerprint(number))
    return answer(Outcome.SUCCEEDED, call, picture=picture, status_code=200, **fields)


def failing_disk(s: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    def store(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(s.store, "_store", store)


# --- images -------------------------------------------------------------------------------------


def test_an_image_is_kept_before_the_ledger_says_that_it_is_charged(stages: StagesMaker) -> None:
    s = stages()
    sent = s.sent(s.item(1))
    s.trace(s.store, "keep")
    s.trace(s.ledger, "settle_images")
    s.settler.settle(sent, image(s, 1, cost_usd=0.08, request_id="r-1", latency_s=2.5))
    assert s.events == ["keep", "settle_images"]
    assert (s.folder / f"data/images/00/{fingerprint(1)}.png").read_bytes() == PNG
    assert list(s.store.spool.iterdir()) == []
    (attempt,) = s.attempts()
    assert (attempt.state, attempt.outcome, attempt.cost, attempt.price) == (
        "charged",
        "succeeded",
        80_000,
        PRICE,
    )
    assert (attempt.status_code, attempt.request_id, attempt.latency_s) == (200, "r-1", 2.5)
    assert not attempt.cost_estimated
    assert s.generation(1) == ("succeeded", False, False)
    row = s.row(1)
    assert (row.width, row.height, row.bytes) == (2, 1, len(PNG))
    assert s.held() == (80_000, 0, 0)
    assert s.outcomes == [(1, "succeeded")]
    assert s.run.progress().spent == 80_000
    assert s.idle


def test_an_image_whose_cost_is_not_told_costs_the_price_that_was_held(stages: StagesMaker) -> None:
    s = stages()
    s.settler.settle(s.sent(s.item(1)), image(s, 1))
    (attempt,) = s.attempts()
    assert (attempt.cost, bool(attempt.cost_estimated)) == (PRICE, True)
    assert s.reservation(s.item(2)).price == PRICE


def test_an_image_of_an_earlier_run_is_nobodys_item(stages: StagesMaker) -> None:
    s = stages()
    sent = s.sent(s.item(1))
    orphan = SentRequest(sent.attempt, sent.fingerprint, sent.batch, None, sent.price)
    s.settler.settle(orphan, image(s, 1, Call.FETCH))
    assert s.generation(1)[0] == "succeeded"
    assert s.outcomes == []
    assert s.run.progress().spent == PRICE
    assert s.idle


def test_images_increase_the_limit(stages: StagesMaker) -> None:
    s = stages(concurrency=10)
    s.slots.decrease(5.0)
    assert s.slots.wanted() == 7
    for number in range(1, 10):
        s.settler.settle(s.sent(s.item(number)), image(s, number))
        s.slots.release()
    assert s.slots.wanted() == 8


def test_a_full_store_stops_the_run_and_the_money_is_booked(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = stages()
    sent = s.sent(s.item(1))
    failing_disk(s, monkeypatch)
    s.settler.settle(sent, image(s, 1, cost_usd=0.09))
    assert s.stop_cause == "disk_full"
    assert s.states() == ["charged"]
    assert s.held() == (90_000, 0, 0)
    assert s.run.progress().spent == 90_000
    # The next run finds the image in the rescue folder.
    assert s.generation(1) == ("pending", True, False)
    assert (s.store.rescue / f"{fingerprint(1)}.png").read_bytes() == PNG
    assert s.outcomes == []
    assert s.idle


@pytest.mark.parametrize("with_image", [True, False])
def test_a_spool_that_was_full_stops_the_run_after_the_answer_is_settled(stages: StagesMaker, with_image: bool) -> None:
    s = stages()
    sent = s.sent(s.item(1))
    s.settler.settle(sent, image(s, 1, spilled=True) if with_image else answer(Outcome.UNUSABLE, spilled=True))
    assert s.run.stopped is not None
    assert s.run.stopped.cause == "disk_full"
    assert str(s.store.spool) in s.run.stopped.message
    assert s.states() == ["charged" if with_image else "unknown"]


@pytest.mark.parametrize("how", ["settle", "put"])
def test_requests_hold_what_an_answer_has_told(stages: StagesMaker, how: str) -> None:
    s = stages()
    sent = s.sent(s.item(1))
    getattr(s.settler, how)(sent, image(s, 1, cost_usd=0.15))
    assert s.reservation(s.item(2)).price == 150_000


@pytest.mark.parametrize("outcome", [Outcome.UNUSABLE, Outcome.EXPIRED])
def test_requests_hold_what_was_charged_without_an_image(stages: StagesMaker, outcome: Outcome) -> None:
    s = stages()
    s.settler.settle(s.sent(s.item(1)), answer(outcome, cost_usd=0.15))
    assert s.states() == ["charged"]
    assert s.held() == (150_000, 0, 0)
    assert s.generation(1)[0] == "unknown"
    assert s.reservation(s.item(2)).price == 150_000


def test_what_a_refusal_says_of_costs_is_not_believed(stages: StagesMaker) -> None:
    s = stages()
    s.settler.settle(s.sent(s.item(1)), answer(Outcome.REJECTED, cost_usd=5.0))
    assert s.states() == ["released"]
    assert s.reservation(s.item(2)).price == PRICE


# --- answers without an image -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state", "generation", "waiting", "ended"),
    [
        (Outcome.REJECTED, "released", ("failed", False, False), {}, "failed"),
        (Outcome.STOPPED, "released", ("pending", True, False), {}, None),
        (Outcome.RATE_LIMITED, "released", ("pending", True, True), {"rate limit": 1}, None),
        (Outcome.SERVER_ERROR, "released", ("pending", True, True), {"503": 1}, None),
        (Outcome.UNREACHABLE, "released", ("pending", True, True), {"503": 1}, None),
        (Outcome.GATEWAY_TIMEOUT, "unknown", ("unknown", True, True), {"503": 1}, None),
        (Outcome.LOST, "unknown", ("unknown", True, True), {"503": 1}, None),
        (Outcome.UNUSABLE, "unknown", ("unknown", True, True), {"503": 1}, None),
        (Outcome.EXPIRED, "unknown", ("unknown", True, False), {}, "unknown"),
    ],
)
def test_each_outcome_has_its_effect(
    stages: StagesMaker,
    outcome: Outcome,
    state: str,
    generation: tuple[str, bool, bool],
    waiting: dict[str, int],
    ended: str | None,
) -> None:
    s = stages()
    told = answer(outcome, cause="a_cause", status_code=503, error="the server's words")
    s.settler.settle(s.sent(s.item(1)), told)
    (attempt,) = s.attempts()
    assert (attempt.state, attempt.outcome, attempt.cost) == (state, outcome.value, 0)
    assert (attempt.cause, attempt.status_code, attempt.error) == ("a_cause", 503, "the server's words")
    assert s.held() == (0, PRICE if state == "unknown" else 0, 0)
    assert s.generation(1) == generation
    assert s.queue.waiting() == waiting
    assert s.outcomes == ([(1, ended)] if ended else [])
    assert s.idle == (not waiting)
    progress = s.run.progress()
    assert (progress.spent, progress.possibly_charged) == (0, PRICE if state == "unknown" else 0)
    assert (s.stop_cause is not None) == (outcome is Outcome.STOPPED)


@pytest.mark.parametrize("outcome", [Outcome.SERVER_ERROR, Outcome.UNREACHABLE])
def test_tries_of_one_run_are_bounded_with_growing_pauses(stages: StagesMaker, outcome: Outcome) -> None:
    s = stages(retries=RetryPolicy(server_error_retries=3, base_s=2.0, cap_s=6.0, jitter=0.0))
    item = s.item(1)
    for pause_s in (2.0, 4.0, 6.0):
        s.settler.settle(s.sent(item), answer(outcome, error="refused"))
        s.clock.forward(pause_s - 0.01)
        assert s.take_due() == []
        s.clock.forward(0.01)
        assert s.take_due() == [1]
    s.settler.settle(s.sent(item), answer(outcome, error="refused"))
    assert s.states() == ["released"] * 4
    assert s.idle
    if outcome is Outcome.SERVER_ERROR:
        assert s.outcomes == [(1, "failed")]
        assert s.generation(1) == ("failed", True, False)
        assert s.run.stopped is None
    else:
        assert s.outcomes == []
        assert s.generation(1) == ("pending", True, False)
        assert s.run.stopped is not None
        assert s.run.stopped.cause == "unreachable"
        assert "refused" in s.run.stopped.message


def test_a_retry_waits_as_long_as_the_answer_says(stages: StagesMaker) -> None:
    s = stages()
    s.settler.settle(s.sent(s.item(1)), answer(Outcome.SERVER_ERROR, status_code=503, retry_after_s=30.0))
    s.clock.forward(29.99)
    assert s.take_due() == []
    s.clock.forward(0.01)
    assert s.take_due() == [1]


def test_a_retry_never_waits_longer_than_the_longest_pause(stages: StagesMaker) -> None:
    s = stages(retries=RetryPolicy(base_s=1.0, cap_s=5.0, jitter=0.0))
    s.settler.settle(s.sent(s.item(1)), answer(Outcome.SERVER_ERROR, status_code=503, retry_after_s=3600.0))
    s.clock.forward(5.0)
    assert s.take_due() == [1]


def test_what_the_ledger_can_not_take_of_an_answer_is_left_out(stages: StagesMaker) -> None:
    s = stages()
    s.settler.settle(s.sent(s.item(1)), replace(image(s, 1, cost_usd=0.08), status_code=10**30))
    s.settler.settle(s.sent(s.item(2)), answer(Outcome.REJECTED, error="no", status_code=10**30))
    s.settler.settle(s.sent(s.item(3)), answer(Outcome.LOST, error="no", status_code=10**30))
    assert s.run.stopped is None
    assert s.states() == ["charged", "released", "unknown"]
    assert [s.generation(number)[0] for number in (1, 2, 3)] == ["succeeded", "failed", "unknown"]
    assert {(row.cause, row.error is None) for row in s.attempts()} == {("fault", False)}
    # The cost is not known either: it may be what the ledger could not take.
    assert s.held() == (PRICE, PRICE, 0)


def test_answers_that_can_not_be_handled_stop_a_run_when_there_are_many_in_a_row(stages: StagesMaker) -> None:
    s = stages(concurrency=64)
    fault = answer(Outcome.UNUSABLE, cause=Cause.FAULT, error="TypeError: a defect")
    for number in range(1, OUTAGE_ROWS):
        s.settler.settle(s.sent(s.item(number)), fault)
    s.settler.settle(s.sent(s.item(98)), image(s, 98))
    for number in range(100, 100 + OUTAGE_ROWS):
        assert s.run.stopped is None
        s.settler.settle(s.sent(s.item(number)), fault)
    assert s.stop_cause == "fault"
    assert s.run.stopped is not None
    assert "TypeError: a defect" in s.run.stopped.message


def test_rate_limits_pause_the_slots_and_never_use_up_a_request(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = stages(retries=NO_RETRY)
    pauses: list[float] = []
    monkeypatch.setattr(s.ledger, "pause", pauses.append)
    item = s.item(1)
    for _ in range(5):
        s.settler.settle(s.sent(item), answer(Outcome.RATE_LIMITED, retry_after_s=3.0))
        s.slots.release()
        assert s.slots.pause_state == (s.clock.now + 3.0, "rate limit")
        assert s.take_due() == [1]
        s.clock.forward(3.0)
    assert pauses == [3.0] * 5
    assert item.failures == 0
    assert s.outcomes == []


def test_a_claim_that_the_ledger_gives_up_finishes_the_item_as_unknown(stages: StagesMaker) -> None:
    s = stages()
    item = s.item(1)
    s.settler.settle(s.sent(item), answer(Outcome.LOST))
    assert s.outcomes == []
    assert s.queue.waiting() == {"": 1}
    s.clock.forward(1.0)
    assert s.take_due() == [1]
    s.settler.settle(s.sent(item), answer(Outcome.LOST))
    assert s.outcomes == [(1, "unknown")]
    assert s.generation(1) == ("unknown", True, False)
    assert s.held() == (0, 2 * PRICE, 0)
    assert s.idle


def test_a_server_error_never_ends_an_item_as_pending(stages: StagesMaker) -> None:
    """The ledger may give up a claim because another process settled an attempt late: the reserver learns why."""
    s = stages()
    sent = s.sent(s.item(1))
    settle = s.ledger.settle
    s.ledger.settle = lambda *values, **named: settle(*values, **named) and False  # type: ignore[method-assign]
    s.settler.settle(sent, answer(Outcome.SERVER_ERROR, status_code=503))
    assert s.outcomes == []
    assert s.queue.waiting() == {"503": 1}


@pytest.mark.parametrize(
    ("cause", "status_code", "advice"),
    [
        ("bad_key", 401, "Check SEGMIND_API_KEY."),
        ("insufficient_credits", 406, "Top up the account."),
        ("not_acceptable", 406, ""),
    ],
)
def test_an_answer_that_concerns_the_account_stops_the_run(
    stages: StagesMaker, cause: str, status_code: int, advice: str
) -> None:
    s = stages()
    told = answer(Outcome.STOPPED, cause=cause, status_code=status_code, error="no")
    s.settler.settle(s.sent(s.item(1)), told)
    assert s.run.stopped is not None
    assert s.run.stopped.cause == cause
    assert s.run.stopped.message.startswith(f"the API answered {status_code} (no).")
    assert advice in s.run.stopped.message


@pytest.mark.parametrize("call", [Call.UPLOAD, Call.POLL, Call.FETCH])
def test_a_refusal_that_is_not_of_the_request_may_be_tried_by_a_later_run(stages: StagesMaker, call: Call) -> None:
    s = stages()
    s.settler.settle(s.sent(s.item(1)), answer(Outcome.REJECTED, call))
    assert s.generation(1) == ("failed", True, False)


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.SERVER_ERROR, "failed"), (Outcome.LOST, "unknown")])
def test_an_attempt_of_an_earlier_run_is_settled_and_not_tried_again(
    stages: StagesMaker, outcome: Outcome, status: str
) -> None:
    s = stages()
    sent = s.sent(s.item(1))
    s.settler.settle(SentRequest(sent.attempt, sent.fingerprint, "batch", None, PRICE), answer(outcome))
    assert s.generation(1) == (status, True, False)
    assert s.queue.waiting() == {}
    assert s.outcomes == []
    assert s.idle


def test_what_came_instead_of_an_image_is_set_aside(stages: StagesMaker) -> None:
    s = stages()
    sent = s.sent(s.item(1))
    remains = s.store.spool / "half.part"
    remains.write_bytes(b"half an image")
    s.settler.settle(sent, answer(Outcome.UNUSABLE, remains=remains))
    kept = s.store.spool.parent / ".unusable" / f"{fingerprint(1)}.{sent.attempt}"
    assert kept.read_bytes() == b"half an image"
    assert not remains.exists()


def test_a_lost_answer_is_a_warning_once(stages: StagesMaker, caplog: pytest.LogCaptureFixture) -> None:
    s = stages()
    caplog.set_level(logging.INFO, "kontext_pipeline")
    sent = s.sent(s.item(1))
    s.settler.settle(sent, answer(Outcome.LOST, cause="connection_lost", error="cut"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "an answer was lost: attempt 1 may have been charged (cut)"
    plain = logging.LogRecord("", 0, "", 0, "", None, None).__dict__
    extra = {name: value for name, value in record.__dict__.items() if name not in plain}
    extra.pop("taskName", None)
    extra.pop("message", None)
    assert extra == {"attempt": sent.attempt, "batch": "batch", "cause": "connection_lost"}


# --- an outage ----------------------------------------------------------------------------------


def use_up(s: Stages, *numbers: int) -> None:
    for number in numbers:
        s.settler.settle(s.sent(s.item(number)), answer(Outcome.SERVER_ERROR, status_code=502, error="bad gateway"))
        s.slots.release()


def test_ten_requests_in_a_row_that_used_up_their_tries_are_an_outage(stages: StagesMaker) -> None:
    s = stages(retries=NO_RETRY)
    use_up(s, *range(1, OUTAGE_ROWS))
    assert s.run.stopped is None
    use_up(s, OUTAGE_ROWS)
    assert s.run.stopped is not None
    assert s.run.stopped.cause == "outage"
    assert "502 bad gateway" in s.run.stopped.message
    assert s.outcomes == [(number, "failed") for number in range(1, OUTAGE_ROWS + 1)]
    assert s.idle


def test_an_image_begins_the_count_of_an_outage_again(stages: StagesMaker) -> None:
    s = stages(retries=NO_RETRY)
    use_up(s, *range(1, OUTAGE_ROWS))
    s.settler.settle(s.sent(s.item(99)), image(s, 99))
    use_up(s, *range(101, 100 + OUTAGE_ROWS))
    assert s.run.stopped is None
    use_up(s, 200)
    assert s.stop_cause == "outage"


def test_refusals_are_no_outage(stages: StagesMaker) -> None:
    s = stages()
    for number in range(1, OUTAGE_ROWS + 3):
        s.settler.settle(s.sent(s.item(number)), answer(Outcome.REJECTED, status_code=400))
        s.slots.release()
    assert s.run.stopped is None


# --- the stage's threads ------------------------------------------------------------------------


def test_the_stage_settles_what_waits_before_it_ends(stages: StagesMaker) -> None:
    s = stages()
    for number in (1, 2, 3):
        s.settler.put(s.sent(s.item(number)), image(s, number))
    s.settler.close(2)
    threads = [threading.Thread(target=s.settler.work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert sorted(s.outcomes) == [(number, "succeeded") for number in (1, 2, 3)]
    assert s.idle


def test_a_ledger_that_fails_stops_the_run_and_leaves_the_attempt_to_a_later_one(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = stages()
    s.settler.put(s.sent(s.item(1)), image(s, 1))

    def fail(*_: object, **__: object) -> None:
        raise LedgerError("the ledger can't be written")

    monkeypatch.setattr(s.ledger, "settle_images", fail)
    s.settler.close(1)
    s.settler.work()
    assert s.stop_cause == "ledger"
    assert s.states() == ["open"]
    # The image is kept all the same.
    assert Path(s.folder, f"data/images/00/{fingerprint(1)}.png").exists()
    assert s.outcomes == []
    assert s.idle


def test_images_that_wait_together_are_settled_together(stages: StagesMaker) -> None:
    s = stages(concurrency=LARGEST_BATCH + 2)
    s.trace(s.ledger, "settle_images")
    for number in range(1, LARGEST_BATCH + 3):
        s.settler.put(s.sent(s.item(number)), image(s, number))
    s.settler.close(1)
    s.settler.work()
    assert s.events == ["settle_images", "settle_images"]
    assert s.states() == ["charged"] * (LARGEST_BATCH + 2)
    assert [status for _, status in s.outcomes] == ["succeeded"] * (LARGEST_BATCH + 2)
    assert s.idle


def test_an_image_that_cannot_be_kept_holds_up_no_other(stages: StagesMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    s = stages()
    for number in (1, 2, 3):
        s.settler.put(s.sent(s.item(number)), image(s, number))
    keep = s.store.keep

    def fail_for_the_second(name: str, picture: Picture, batch: str) -> Stored:
        if name == fingerprint(2):
            raise RuntimeError("a defect")
        return keep(name, picture, batch)

    monkeypatch.setattr(s.store, "keep", fail_for_the_second)
    s.settler.close(1)
    s.settler.work()
    assert s.states() == ["charged", "open", "charged"]
    assert s.outcomes == [(1, "succeeded"), (3, "succeeded")]
    assert s.stop_cause == "fault"
    assert s.idle


def test_answers_that_come_after_the_stop_are_settled(stages: StagesMaker) -> None:
    s = stages()
    first, second = s.sent(s.item(1)), s.sent(s.item(2))
    s.run.stop(Cause.INTERRUPTED, "stopped on request")
    s.settler.settle(first, image(s, 1))
    s.settler.settle(second, answer(Outcome.SERVER_ERROR, status_code=503))
    assert s.outcomes == [(1, "succeeded")]
    assert s.states() == ["charged", "released"]
    assert s.idle
