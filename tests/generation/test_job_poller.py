"""The job poller: every job that was paid for is collected, by this run or by a later one."""

import logging
import threading

import pytest

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation.due_jobs import FEW_THREADS, NETWORK_WAIT_S
from kontext_pipeline.generation.job_poller import (
    FETCH_DELAY_S,
    LONGEST_FETCH_DELAY_S,
    LONGEST_FETCH_PAUSE_S,
    UNUSABLE_FETCHES,
)
from kontext_pipeline.generation.retries import RetryPolicy
from kontext_pipeline.generation.slots import Slots
from kontext_pipeline.generation.work import PendingJob, SentRequest
from kontext_pipeline.segmind.answers import Answer
from kontext_pipeline.segmind.outcomes import Call, Cause, Outcome
from tests.generation.stages import PRICE, Stages, StagesMaker, answer, fingerprint, job

pytestmark = pytest.mark.timeout(20)

TIMEOUT_S = 600.0


def v2(stages: StagesMaker, **options: object) -> Stages:
    return stages(api_version="v2", job_timeout_s=TIMEOUT_S, **options)


def overdue_job(s: Stages, number: int = 1) -> None:
    """Submit a job and let it become overdue."""
    s.submit(number)
    s.clock.forward(TIMEOUT_S + 1)
    s.poll(Outcome.PENDING)


def refuse_writes(*_: object, **__: object) -> None:
    raise LedgerError("the ledger can't be written")


# --- a job's way --------------------------------------------------------------------------------


def test_a_job_is_in_the_ledger_before_it_is_polled(stages: StagesMaker) -> None:
    s = v2(stages)
    s.trace(s.ledger, "record_job")
    s.trace(s.client, "poll", "fetch")
    sent = s.submit(1)
    (attempt,) = s.attempts()
    assert (attempt.id, attempt.job, attempt.request_id, attempt.state) == (
        sent.attempt,
        job(1).to_json(),
        "job-1",
        "open",
    )
    assert attempt.started_at == sent.at
    s.poll(Outcome.PENDING, Outcome.COMPLETED)
    s.fetch(Outcome.SUCCEEDED)
    assert s.events == ["record_job", "poll", "poll", "fetch"]
    assert s.states() == ["charged"]
    assert s.outcomes == [(1, "succeeded")]
    assert s.next_ask_s is None
    assert s.slots.in_flight == 0
    assert s.idle


def test_a_job_that_cannot_be_recorded_is_polled_all_the_same(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = v2(stages)
    monkeypatch.setattr(s.ledger, "record_job", refuse_writes)
    s.submit(1)
    assert s.stop_cause == "ledger"
    assert not s.idle
    s.poll(Outcome.COMPLETED)
    s.fetch(Outcome.SUCCEEDED)
    assert s.outcomes == [(1, "succeeded")]
    assert s.idle


def test_a_completed_job_gives_its_slot_back_before_its_image_is_fetched(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    assert s.slots.in_flight == 1
    release, waiting = s.slots.release, []
    # No other thread may fetch the image yet: the slot would be given back twice.
    s.slots.release = lambda: (waiting.append(s.next_ask_s), release())[1]  # type: ignore[method-assign, func-returns-value]
    s.poll(Outcome.COMPLETED)
    assert s.slots.in_flight == 0
    assert waiting == [None]
    assert s.next_ask_s == pytest.approx(FETCH_DELAY_S)
    assert s.client.count(Call.FETCH) == 0
    assert not s.idle
    s.fetch(Outcome.SUCCEEDED)
    assert s.slots.in_flight == 0


def test_an_image_waits_while_slots_are_filled_but_not_for_ever(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = v2(stages)
    s.submit(1)
    s.poll(Outcome.COMPLETED)
    monkeypatch.setattr(Slots, "filling", True)
    completed = s.clock()
    while s.clock() - completed < LONGEST_FETCH_DELAY_S - FETCH_DELAY_S:
        s.ask()
        assert s.next_ask_s == pytest.approx(FETCH_DELAY_S)
    assert s.client.count(Call.FETCH) == 0
    s.client.on(Call.FETCH, Outcome.SUCCEEDED)
    s.clock.forward(FETCH_DELAY_S)
    s.ask()
    assert s.outcomes == [(1, "succeeded")]


def test_an_image_is_fetched_as_soon_as_the_slots_are_filled(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = v2(stages)
    s.submit(1)
    s.poll(Outcome.COMPLETED)
    monkeypatch.setattr(Slots, "filling", True)
    s.ask()
    monkeypatch.setattr(Slots, "filling", False)
    s.fetch(Outcome.SUCCEEDED)
    assert s.outcomes == [(1, "succeeded")]


@pytest.mark.parametrize(
    ("end", "state", "generation", "ended"),
    [
        (answer(Outcome.REJECTED, Call.POLL, error="bad"), "released", ("failed", True, False), "failed"),
        (answer(Outcome.EXPIRED, Call.POLL), "unknown", ("unknown", True, False), "unknown"),
        (answer(Outcome.EXPIRED, Call.POLL, cost_usd=0.1), "charged", ("unknown", True, False), "unknown"),
    ],
    ids=["failed", "expired", "expired and charged"],
)
def test_a_job_without_an_image_ends_with_its_poll(
    stages: StagesMaker, end: Answer, state: str, generation: tuple[str, bool, bool], ended: str
) -> None:
    s = v2(stages)
    s.submit(1)
    s.poll(end)
    assert s.states() == [state]
    assert s.generation(1) == generation
    assert s.outcomes == [(1, ended)]
    assert s.slots.in_flight == 0
    assert s.next_ask_s is None
    assert s.idle


def test_this_run_does_not_pay_again_for_an_expired_job(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    s.poll(answer(Outcome.EXPIRED, Call.POLL))
    s.offer(s.item(1))
    s.reserver.step()
    assert s.outcomes == [(1, "unknown")] * 2
    assert len(s.attempts()) == 1


# --- polls that fail ----------------------------------------------------------------------------


def test_a_poll_that_fails_is_repeated_after_growing_pauses(stages: StagesMaker) -> None:
    s = v2(stages, retries=RetryPolicy(base_s=2.0, cap_s=5.0, jitter=0.0))
    s.submit(1)
    pauses = []
    for outcome in (Outcome.SERVER_ERROR, Outcome.LOST, Outcome.UNREACHABLE):
        s.poll(outcome)
        pauses.append(s.next_ask_s)
    assert pauses == [2.0, 4.0, 5.0]
    s.poll(Outcome.PENDING, Outcome.SERVER_ERROR)
    # A poll that succeeds begins the count again.
    assert s.next_ask_s == 2.0
    assert s.slots.in_flight == 1
    assert s.states() == ["open"]


def test_a_poll_that_is_told_when_to_come_back_does_so(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    s.poll(answer(Outcome.SERVER_ERROR, Call.POLL, status_code=503, retry_after_s=17.0))
    assert s.next_ask_s == 17.0
    s.poll(answer(Outcome.RATE_LIMITED, Call.POLL, status_code=429, retry_after_s=9.0))
    assert s.next_ask_s == 9.0


def test_a_poll_comes_back_at_the_job_timeout_whatever_it_is_told(stages: StagesMaker) -> None:
    s = v2(stages, retries=RetryPolicy(base_s=1.0, cap_s=3600.0, jitter=0.0))
    s.submit(1)
    s.poll(answer(Outcome.SERVER_ERROR, Call.POLL, retry_after_s=3600.0))
    assert s.next_ask_s is not None
    assert s.next_ask_s <= TIMEOUT_S
    for _ in range(2):
        s.poll(answer(Outcome.RATE_LIMITED, Call.POLL, retry_after_s=3600.0))
    # Left to a later run.
    assert s.idle
    assert s.states() == ["open"]


def test_a_poll_is_told_no_longer_pause_than_the_longest(stages: StagesMaker) -> None:
    s = v2(stages, retries=RetryPolicy(base_s=1.0, cap_s=5.0, jitter=0.0))
    s.submit(1)
    s.poll(answer(Outcome.SERVER_ERROR, Call.POLL, retry_after_s=17.0))
    assert s.next_ask_s == 5.0


def test_a_poll_that_is_refused_for_the_account_stops_the_run_and_leaves_the_job(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    s.poll(answer(Outcome.STOPPED, Call.POLL, cause="bad_key", status_code=401))
    assert s.stop_cause == "bad_key"
    assert s.states() == ["open"]
    assert s.slots.in_flight == 0
    assert s.idle


# --- fetches ------------------------------------------------------------------------------------


def test_a_fetch_that_fails_is_repeated_after_bounded_pauses(stages: StagesMaker) -> None:
    s = v2(stages, retries=RetryPolicy(base_s=4.0, jitter=0.0))
    s.submit(1)
    s.poll(Outcome.COMPLETED)
    pauses = []
    for outcome in (Outcome.SERVER_ERROR, Outcome.LOST, Outcome.PENDING):
        s.fetch(outcome)
        pauses.append(s.next_ask_s)
    assert pauses == [4.0, 8.0, LONGEST_FETCH_PAUSE_S]
    s.fetch(answer(Outcome.SERVER_ERROR, Call.FETCH, retry_after_s=3.0))
    assert s.next_ask_s == pytest.approx(3.0)
    s.fetch(Outcome.SUCCEEDED)
    assert s.outcomes == [(1, "succeeded")]


def test_a_job_whose_fetches_bring_no_image_ends_as_unusable(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    s.poll(Outcome.COMPLETED)
    for number in range(UNUSABLE_FETCHES):
        assert s.states() == ["open"]
        remains = s.store.spool / f"half-{number}"
        remains.write_bytes(b"half")
        s.fetch(answer(Outcome.UNUSABLE, Call.FETCH, remains=remains))
        assert not remains.exists()
    assert s.states() == ["unknown"]
    assert s.generation(1) == ("unknown", True, True)
    # Only what the last one brought is kept.
    assert [path.read_bytes() for path in (s.store.spool.parent / ".unusable").iterdir()] == [b"half"]


def test_an_image_that_cannot_be_fetched_is_left_to_a_later_run(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    s.poll(Outcome.COMPLETED)
    s.clock.forward(TIMEOUT_S + 1)
    s.fetch(Outcome.LOST)
    assert s.states() == ["open"]
    assert s.idle
    # The next time it is fetched at once, not polled.
    s.fetch(Outcome.SUCCEEDED)
    assert s.outcomes == [(1, "succeeded")]
    assert s.idle


def test_an_image_that_may_not_be_fetched_stops_the_run(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    s.poll(Outcome.COMPLETED)
    s.fetch(answer(Outcome.STOPPED, Call.FETCH, cause="bad_key", status_code=401))
    assert s.stop_cause == "bad_key"
    assert s.states() == ["open"]
    assert s.idle


# --- jobs that take too long --------------------------------------------------------------------


def test_a_job_is_waited_for_until_its_timeout(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    s.clock.forward(TIMEOUT_S)
    s.poll(Outcome.PENDING)
    assert not s.idle
    assert s.slots.in_flight == 1
    s.poll(Outcome.PENDING)
    assert s.idle
    assert s.slots.in_flight == 0


@pytest.mark.parametrize("outcome", [Outcome.PENDING, Outcome.SERVER_ERROR, Outcome.LOST])
def test_after_the_timeout_the_job_is_left_to_a_later_run(
    stages: StagesMaker, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    s = v2(stages)
    s.submit(1)
    s.clock.forward(TIMEOUT_S + 1)
    s.poll(outcome, outcome, outcome)
    assert s.states() == ["open"]
    assert s.held() == (0, 0, PRICE)
    assert s.outcomes == []
    assert s.overdue.amount_held() == PRICE
    assert s.run.stopped is None
    assert s.idle
    # The run says so once, and asks for the job rarely while it has other work.
    (record,) = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert record.getMessage() == "job job-1 has not finished: a later run collects it"
    assert s.next_ask_s is not None
    assert s.next_ask_s >= TIMEOUT_S / 20


def test_an_overdue_job_that_finishes_is_collected_with_the_items_that_wait_for_it(
    stages: StagesMaker,
) -> None:
    s = v2(stages)
    overdue_job(s)
    same = s.item(1)
    assert s.resolver.resolve(same) is None
    assert s.idle
    s.poll(Outcome.COMPLETED)
    assert s.idle
    s.fetch(answer(Outcome.SUCCEEDED, Call.FETCH, cost_usd=0.1))
    assert s.outcomes == [(1, "succeeded")]
    assert s.states() == ["charged"]
    assert s.overdue.amount_held() == 0
    # The parked item is in hand again, and finds the image.
    assert not s.idle
    assert s.queue.waiting() == {"job overdue": 1}
    taken = s.queue.take()
    assert taken is same
    assert s.resolver.resolve(same) is None
    assert s.outcomes == [(1, "succeeded")] * 2
    assert s.run.progress().found == 1
    assert s.idle


def test_parked_items_are_let_go_where_the_run_is_over(stages: StagesMaker) -> None:
    s = v2(stages)
    overdue_job(s)
    s.resolver.resolve(s.item(1))
    s.run.stop(Cause.INTERRUPTED, "stopped on request")
    s.poll(Outcome.COMPLETED)
    s.fetch(Outcome.SUCCEEDED)
    assert s.outcomes == [(1, "succeeded")]
    assert s.idle


def test_an_overdue_job_may_stop_the_run(stages: StagesMaker) -> None:
    s = v2(stages)
    overdue_job(s)
    s.poll(answer(Outcome.STOPPED, Call.POLL, cause="bad_key", status_code=401))
    assert s.stop_cause == "bad_key"
    assert s.states() == ["open"]
    assert s.idle


# --- jobs of earlier runs -----------------------------------------------------------------------


def adopt(s: Stages, number: int, age_s: float) -> SentRequest:
    """Adopt the job of a run that has ended."""
    other = s.open_ledger("earlier run")
    attempt = s.other_attempt(other, number)
    other.deregister()
    s.ledger.reclaim_orphans()
    sent = SentRequest(attempt, fingerprint(number), "other batch", None, PRICE)
    s.jobs.adopt(sent, job(number), age_s)
    return sent


def test_an_adopted_job_is_in_hand_and_has_a_slot(stages: StagesMaker) -> None:
    s = v2(stages, concurrency=1)
    s.slots.occupy()
    adopt(s, 1, 30.0)
    assert s.slots.in_flight == 2
    assert not s.idle
    assert s.next_ask_s == 0.0
    s.poll(Outcome.COMPLETED)
    assert s.slots.in_flight == 1
    s.fetch(Outcome.SUCCEEDED)
    assert s.states() == ["charged"]
    assert s.generation(1)[0] == "succeeded"
    # Its item belonged to the earlier run.
    assert s.outcomes == []
    assert s.run.progress().spent == PRICE
    assert s.idle


@pytest.mark.parametrize(
    ("age_s", "left_s"),
    [(0.0, TIMEOUT_S), (100.0, TIMEOUT_S - 100.0), (86_400.0, TIMEOUT_S / 2), (-50.0, TIMEOUT_S)],
)
def test_an_adopted_job_has_at_least_half_the_timeout(stages: StagesMaker, age_s: float, left_s: float) -> None:
    s = v2(stages)
    adopt(s, 1, age_s)
    s.clock.forward(left_s - 1)
    s.poll(Outcome.SERVER_ERROR)
    assert not s.idle
    s.clock.forward(1.1)
    s.poll(Outcome.SERVER_ERROR)
    assert s.idle


def test_an_adopted_job_that_failed_is_not_tried_again(stages: StagesMaker) -> None:
    s = v2(stages)
    adopt(s, 1, 30.0)
    s.poll(Outcome.REJECTED)
    assert s.generation(1) == ("failed", True, False)
    assert s.slots.in_flight == 0
    assert s.idle


def test_the_duration_of_an_adopted_job_is_not_learned(stages: StagesMaker) -> None:
    s = v2(stages)
    adopt(s, 1, 200.0)
    s.submit(2)
    due = max(s.jobs._due.times)
    adopted = s.take_job()
    s.client.on(Call.POLL, answer(Outcome.COMPLETED, Call.POLL, total_time_s=200.0))
    s.jobs.ask(adopted)
    s.client.on(Call.FETCH, answer(Outcome.SUCCEEDED, Call.FETCH, total_time_s=200.0))
    s.jobs.ask(adopted)
    assert due in s.jobs._due.times


# --- the forecast -------------------------------------------------------------------------------


def test_a_finished_job_tells_when_to_poll_the_others(stages: StagesMaker) -> None:
    s = v2(stages, concurrency=8)
    s.submit(1)
    first = s.take_job()
    s.clock.forward(10.0)
    s.submit(2)
    s.poll(answer(Outcome.SERVER_ERROR, Call.POLL, retry_after_s=15.0))
    for number in (3, 4, 5):
        s.submit(number)
    s.clock.forward(10.0)
    # All of these are due by now. The first job is found completed after 20 s.
    s.client.on(Call.POLL, answer(Outcome.COMPLETED, Call.POLL, total_time_s=20.0))
    s.jobs.ask(first)
    assert s.next_ask_s == pytest.approx(FETCH_DELAY_S)
    s.fetch(Outcome.SUCCEEDED)
    # The second job failed to answer and keeps its pause. The others, submitted 10 s ago, will take 10 s more.
    assert s.next_ask_s == pytest.approx(5.0, abs=0.2)
    s.poll(Outcome.REJECTED)
    assert s.client.calls[-1] == (Call.POLL, "job-2")
    assert s.next_ask_s == pytest.approx(5.0, abs=0.2)
    assert len(set(s.jobs._due.times)) == 1


def test_a_job_that_failed_to_answer_keeps_its_pause_when_the_forecast_changes(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    s.poll(answer(Outcome.SERVER_ERROR, Call.POLL, retry_after_s=50.0))
    s.submit(2)
    s.clock.forward(3.0)
    s.poll(Outcome.COMPLETED)
    s.fetch(Outcome.SUCCEEDED)
    assert s.next_ask_s == pytest.approx(47.0 - FETCH_DELAY_S)


# --- the end ------------------------------------------------------------------------------------


def test_closing_lets_jobs_go_and_leaves_them_in_the_ledger(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    s.submit(2)
    overdue_job(s, 3)
    s.poll(Outcome.COMPLETED, Outcome.PENDING)
    s.jobs.close()
    assert s.slots.in_flight == 0
    assert s.states() == ["open"] * 3
    assert s.idle
    s.jobs.close()
    assert s.idle


@pytest.mark.parametrize("outcome", [Outcome.PENDING, Outcome.COMPLETED, Outcome.SERVER_ERROR])
def test_a_poll_that_ends_after_closing_lets_its_job_go(stages: StagesMaker, outcome: Outcome) -> None:
    s = v2(stages)
    s.submit(1)

    def closed_meanwhile() -> Answer:
        s.jobs.close()
        return answer(outcome, Call.POLL)

    s.client.on(Call.POLL, closed_meanwhile)
    s.ask()
    assert s.states() == ["open"]
    assert s.slots.in_flight == 0
    assert s.idle


def test_an_overdue_job_that_is_asked_for_while_the_stage_closes_is_let_go_once(stages: StagesMaker) -> None:
    s = v2(stages)
    s.submit(1)
    s.clock.forward(TIMEOUT_S + 1)

    def closed_meanwhile() -> Answer:
        s.jobs.close()
        return answer(Outcome.PENDING, Call.POLL)

    s.client.on(Call.POLL, closed_meanwhile)
    s.ask()
    assert s.slots.in_flight == 0
    assert s.idle


def test_a_ledger_that_cannot_be_written_stops_the_run_and_leaves_the_job(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = v2(stages)
    # The poller settles overdue jobs itself; other images go to the settler.
    overdue_job(s)
    s.poll(Outcome.COMPLETED)
    monkeypatch.setattr(s.ledger, "settle_images", refuse_writes)
    s.client.on(Call.FETCH, Outcome.SUCCEEDED)
    s.run.when_stopped(s.jobs.close)
    s.clock.forward(FETCH_DELAY_S)
    s.jobs.work()
    assert s.stop_cause == "ledger"
    assert s.states() == ["open"]
    assert s.slots.in_flight == 0
    assert s.idle


# --- the stage's threads ------------------------------------------------------------------------


def test_a_thread_asks_for_a_job_as_soon_as_it_is_due(stages: StagesMaker) -> None:
    s = v2(stages)
    polled = threading.Event()
    threads = [threading.Thread(target=s.jobs.work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()

    def poll() -> Answer:
        polled.set()
        return answer(Outcome.REJECTED, Call.POLL)

    s.client.on(Call.POLL, poll)
    # An adopted job is due at once, also on a clock that stands still.
    adopt(s, 1, 30.0)
    assert polled.wait(5)
    assert s.run.wait_until_idle(5)
    s.jobs.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert s.states() == ["released"]


# --- threads ------------------------------------------------------------------------------------


def test_an_idle_thread_joins_busy_ones_only_while_they_wait_for_the_network(stages: StagesMaker) -> None:
    s = v2(stages)
    for number in range(1, FEW_THREADS + 3):
        s.submit(number)
    s.clock.forward(60.0)
    for _ in range(FEW_THREADS):
        assert s.jobs._due.take(asked=False) is not None
    joined: list[PendingJob | None] = []
    idle = threading.Thread(target=lambda: joined.append(s.jobs._due.take(asked=False)), daemon=True)
    idle.start()
    # A thread that has just asked goes on at once, and so the idle one waits on.
    assert s.jobs._due.take(asked=True) is not None
    assert joined == []
    s.clock.forward(NETWORK_WAIT_S)
    idle.join()
    assert len(joined) == 1
    assert joined[0] is not None
