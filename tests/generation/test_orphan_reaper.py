"""The orphan reaper: what a dead run left behind is settled by what is there: an image, a job or nothing."""

import threading
import time

import pytest

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation import orphan_reaper
from kontext_pipeline.generation.image_store import StoreFull
from kontext_pipeline.generation.ledger import Ledger, ReservationTerms, Settlement
from kontext_pipeline.generation.ledger.leases import LeaseLost
from kontext_pipeline.generation.ledger.sent_log import uptime_id
from kontext_pipeline.segmind.outcomes import Outcome
from tests.generation.scripted_client import PNG, picture_in
from tests.generation.stages import PRICE, Stages, StagesMaker, fingerprint, job

pytestmark = pytest.mark.timeout(20)


def orphaned(s: Stages, *numbers: int, job_age_s: float | None = None, price: int = PRICE) -> None:
    """Let a run send requests and end without an answer. `job_age_s`: they are jobs, submitted so long ago."""
    other = s.open_ledger("earlier run")
    for number in numbers:
        (result,) = other.reserve([(fingerprint(number), "other batch")], ReservationTerms("v2", price))
        other.lease.sending(result.attempt)  # type: ignore[union-attr]
        if job_age_s is not None:
            sent_at = time.time_ns() // 1000 - round(job_age_s * 1e6)
            other.record_job(result.attempt, job(number).to_json(), f"job-{number}", sent_at)  # type: ignore[union-attr]
    other.deregister()


def fail_once(s: Stages, name: str, error: Exception) -> None:
    """Let the ledger's next call of a method fail."""
    call = getattr(s.ledger, name)

    def fail(*_: object, **__: object) -> None:
        setattr(s.ledger, name, call)
        raise error

    setattr(s.ledger, name, fail)


def test_without_dead_runs_nothing_is_written(stages: StagesMaker) -> None:
    s = stages()
    s.reservation(s.item(1))
    s.other_attempt(s.open_ledger("living run"), 2)
    s.trace(s.ledger.database, "write")
    s.reaper.step()
    assert s.events == []
    assert s.states() == ["open", "open"]


@pytest.mark.parametrize("where", ["the store", "the spool", "the rescue folder"])
def test_an_image_that_had_arrived_is_charged_at_the_price_that_was_held(stages: StagesMaker, where: str) -> None:
    s = stages()
    orphaned(s, 1, price=120_000)
    match where:
        case "the store":
            s.store.keep(fingerprint(1), picture_in(s.store.spool, fingerprint(1)))
        case "the spool":
            picture_in(s.store.spool, fingerprint(1))
        case _:
            s.store.rescue.mkdir(parents=True)
            (s.store.rescue / f"{fingerprint(1)}.png").write_bytes(PNG)
    s.reaper.step()
    (attempt,) = s.attempts()
    assert (attempt.state, attempt.outcome, attempt.cost, bool(attempt.cost_estimated)) == (
        "charged",
        "succeeded",
        120_000,
        True,
    )
    assert s.generation(1) == ("succeeded", False, False)
    assert s.store.find(fingerprint(1)) is not None
    assert s.run.progress().possibly_charged == 0
    assert s.client.calls == []
    assert s.idle


def test_a_job_is_adopted_with_its_age(stages: StagesMaker) -> None:
    s = stages(api_version="v2", job_timeout_s=600.0)
    orphaned(s, 1, job_age_s=100.0)
    s.reaper.step()
    assert s.slots.in_flight == 1
    assert not s.idle
    # 500 s of its timeout are left, and the test takes less than 9 s.
    s.clock.forward(490.0)
    s.poll(Outcome.SERVER_ERROR)
    assert not s.idle
    s.clock.forward(10.1)
    s.poll(Outcome.SERVER_ERROR)
    assert s.idle
    s.poll(Outcome.COMPLETED)
    s.fetch(Outcome.SUCCEEDED)
    assert s.states() == ["charged"]
    assert s.generation(1)[0] == "succeeded"


def test_a_job_whose_image_had_arrived_is_not_asked_for(stages: StagesMaker) -> None:
    s = stages()
    orphaned(s, 1, job_age_s=100.0)
    s.store.keep(fingerprint(1), picture_in(s.store.spool, fingerprint(1)))
    s.reaper.step()
    assert s.states() == ["charged"]
    assert s.next_ask_s is None
    assert s.idle


def test_an_image_that_another_attempt_has_paid_for_is_no_reason_to_charge(stages: StagesMaker) -> None:
    s = stages()
    orphaned(s, 1)
    stored = s.store.keep(fingerprint(1), picture_in(s.store.spool, fingerprint(1)))
    s.reaper.step()
    # The same request once more, by a run that didn't know of the image.
    with s.ledger.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE generations SET status = 'pending'")
    orphaned(s, 1)
    s.reaper.step()
    assert s.states() == ["charged", "unknown"]
    assert s.store.find(fingerprint(1)) == stored


def test_of_what_left_nothing_behind_nobody_knows(stages: StagesMaker) -> None:
    s = stages()
    orphaned(s, 1, 2)
    s.reaper.step()
    first, second = s.attempts()
    assert (first.state, first.outcome, first.cause, first.cost) == ("unknown", "lost", "run_died", 0)
    assert "may have been charged" in first.error
    assert second.state == "unknown"
    assert s.held() == (0, 2 * PRICE, 0)
    assert s.run.progress().possibly_charged == 2 * PRICE
    assert s.generation(1) == ("unknown", True, False)
    assert s.outcomes == []
    assert s.idle


@pytest.mark.skipif(uptime_id() is None, reason="this system doesn't name its uptimes")
def test_what_was_not_sent_is_released(stages: StagesMaker) -> None:
    s = stages()
    other = s.open_ledger("earlier run")
    other.reserve([(fingerprint(number), "batch") for number in (1, 2)], ReservationTerms("v1", PRICE))
    other.lease.sending(1)
    # A kill: the heartbeats end, and the lock is free.
    other.lease._closing.set()
    other.lease._thread.join()
    assert other.lease._files is not None
    other.lease._files.lock.release(force=True)
    s.reaper.step()
    assert s.states() == ["unknown", "not_sent"]
    assert s.run.progress().possibly_charged == PRICE


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["settle", "reclaim_orphans"])
def test_what_the_ledger_could_not_take_is_settled_by_the_next_step(stages: StagesMaker, method: str) -> None:
    s = stages()
    orphaned(s, 1, 2, 3)
    fail_once(s, method, LedgerError("the ledger can't be written"))
    with pytest.raises(LedgerError):
        s.reaper.step()
    assert "open" in s.states()
    s.reaper.step()
    assert s.states() == ["unknown"] * 3
    assert s.run.progress().possibly_charged == 3 * PRICE


def test_orphans_that_are_left_are_settled_with_those_that_come(stages: StagesMaker) -> None:
    s = stages()
    orphaned(s, 1)
    fail_once(s, "settle", LedgerError("the ledger can't be written"))
    with pytest.raises(LedgerError):
        s.reaper.step()
    orphaned(s, 2)
    s.reaper.step()
    assert s.states() == ["unknown"] * 2


def threaded(s: Stages, monkeypatch: pytest.MonkeyPatch, error: Exception) -> Stages:
    """Run the stage in its thread until it has made a step after one that failed."""
    monkeypatch.setattr(orphan_reaper, "LONGEST_INTERVAL_S", 0.001)
    steps = iter([error])
    again = threading.Event()

    def step() -> None:
        for error in steps:
            raise error
        again.set()

    monkeypatch.setattr(s.reaper, "step", step)
    thread = threading.Thread(target=s.reaper.work, daemon=True)
    thread.start()
    assert again.wait(5)
    s.reaper.close()
    thread.join(5)
    assert not thread.is_alive()
    return s


def test_the_stage_survives_a_ledger_that_does_not_answer(stages: StagesMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert threaded(stages(), monkeypatch, LedgerError("it does not answer")).run.stopped is None


@pytest.mark.parametrize(
    ("error", "cause"), [(StoreFull("the disk is full"), "disk_full"), (LeaseLost("taken over"), "ledger")]
)
def test_other_errors_stop_the_run(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    assert threaded(stages(), monkeypatch, error).stop_cause == cause


def test_an_image_that_the_store_cannot_take_stops_the_step_and_its_attempt_stays_open(
    stages: StagesMaker,
) -> None:
    s = stages()
    orphaned(s, 1)
    picture_in(s.store.spool, fingerprint(1))
    (s.folder / "data/images/00").write_text("a file where the folder must be")
    with pytest.raises(StoreFull):
        s.reaper.step()
    assert s.states() == ["open"]


def test_a_settled_attempt_that_comes_late_is_booked_by_its_answer(stages: StagesMaker) -> None:
    """A process that was taken for dead wakes up with the answer."""
    s = stages()
    orphaned(s, 1)
    s.reaper.step()
    sleeper = Ledger(str(s.ledger.database.url), backend=s.ledger.backend)
    sleeper.settle(1, Settlement("charged", "succeeded", cost=80_000), status="succeeded")
    sleeper.close()
    assert s.states() == ["charged"]
    assert s.held() == (80_000, 0, 0)
