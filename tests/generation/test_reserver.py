"""The reserver: no reservation beyond what the slots want, many in one transaction, and none left behind."""

import threading
from collections.abc import Sequence

import pytest

from kontext_pipeline.errors import LedgerError
from kontext_pipeline.generation import reserver as reserver_module
from kontext_pipeline.generation.image_store import StoreFull
from kontext_pipeline.generation.ledger import (
    ClaimedElsewhere,
    OverBudget,
    ReservationTerms,
    Reserved,
    ReserveResult,
    RetryLater,
    Settlement,
)
from kontext_pipeline.generation.ledger.money import Cap
from kontext_pipeline.generation.ledger.sent_log import uptime_id
from kontext_pipeline.generation.work import ResolvedRequest
from kontext_pipeline.segmind.outcomes import Cause
from tests.generation.stages import PRICE, Stages, StagesMaker, fingerprint

pytestmark = pytest.mark.timeout(20)


def waiting(s: Stages) -> list[int]:
    """The numbers of the items that wait in the reserver."""
    return [request.item.request.seed for request in s.reserver._resolved]


def reserved(s: Stages) -> list[int]:
    """The numbers of the items whose reservations wait for a slot. Removes them."""
    return [reservation.item.request.seed for reservation in s.slots.withdraw()]


def offer(s: Stages, *numbers: int) -> None:
    s.offer(*(s.item(number) for number in numbers))


def scripted(s: Stages, monkeypatch: pytest.MonkeyPatch, *results: object) -> None:
    """Let the ledger's next `reserve` return these."""
    monkeypatch.setattr(s.ledger, "reserve", lambda *_values: list(results))


def offer_during(s: Stages, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Offer an item while the ledger reserves those before it."""
    reserve = s.ledger.reserve

    def offering(*values: object) -> object:
        offer(s, number)
        return reserve(*values)  # type: ignore[arg-type]

    monkeypatch.setattr(s.ledger, "reserve", offering)


# --- how many -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "expected"), [(0, 3), (2, 5)])
def test_no_more_are_reserved_than_the_slots_want(stages: StagesMaker, ahead: int, expected: int) -> None:
    s = stages(concurrency=3, ahead=ahead)
    offer(s, *range(1, 10))
    s.reserver.step()
    assert s.states() == ["open"] * expected
    s.reserver.step()
    assert s.states() == ["open"] * expected
    assert waiting(s) == list(range(1 + expected, 10))
    assert reserved(s) == list(range(1, 1 + expected))


def test_slots_that_are_taken_want_nothing(stages: StagesMaker) -> None:
    s = stages(concurrency=2)
    s.slots.occupy()
    offer(s, 1, 2)
    s.reserver.step()
    assert reserved(s) == [1]
    s.slots.occupy()
    s.reserver.step()
    assert s.states() == ["open"]
    assert waiting(s) == [2]


def test_several_are_reserved_in_one_transaction(stages: StagesMaker) -> None:
    s = stages(concurrency=8)
    offer(s, *range(1, 9))
    commits = s.commits()
    s.reserver.step()
    assert len(commits) == 1
    assert s.held() == (0, 0, 8 * PRICE)


def test_a_transaction_has_a_bounded_number_of_requests(stages: StagesMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserver_module, "LARGEST_BATCH", 3)
    s = stages(concurrency=8)
    offer(s, *range(1, 9))
    s.reserver.step()
    assert s.states() == ["open"] * 3


def test_without_requests_nothing_is_written(stages: StagesMaker) -> None:
    s = stages()
    commits = s.commits()
    s.reserver.step()
    assert commits == []


def test_a_reservation_holds_the_price_of_its_day(stages: StagesMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    s = stages()
    monkeypatch.setattr(reserver_module, "today", lambda: 20_000)
    s.reserver.raise_price(130_000)
    s.reserver.raise_price(120_000)
    item = s.item(1)
    reservation = s.reservation(item)
    assert (reservation.item, reservation.price, reservation.day) == (item, 130_000, 20_000)
    (attempt,) = s.attempts()
    assert (attempt.id, attempt.price, attempt.state) == (reservation.attempt, 130_000, "open")
    assert s.generation(1) == ("pending", True, True)


# --- what the ledger may answer -----------------------------------------------------------------


def test_a_rate_limit_puts_requests_back_in_order_and_pauses_no_slot(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = stages(concurrency=4, rpm=60)
    offer(s, 1, 2, 3)
    offer_during(s, monkeypatch, 4)
    s.reserver.step()
    assert waiting(s) == [2, 3, 4]
    assert reserved(s) == [1]
    assert s.slots.pause_state == (0.0, "")
    assert 0 < s.reserver._not_before - s.clock.now <= 1.1
    assert not s.idle


def test_a_pause_puts_requests_back_in_order_and_pauses_the_slots(stages: StagesMaker) -> None:
    s = stages()
    s.open_ledger("another run").pause(90.0)
    offer(s, 1, 2, 3)
    s.reserver.step()
    assert waiting(s) == [1, 2, 3]
    assert s.attempts() == []
    until, reason = s.slots.pause_state
    assert s.clock.now + 70 < until <= s.clock.now + 90
    assert reason == "rate limit"
    assert s.reserver._not_before == until


def test_a_reservation_rules_a_pause_out(stages: StagesMaker) -> None:
    s = stages()
    s.trace(s.ledger, "paused_for")
    s.reservation(s.item(1))
    assert not s.pause.is_on()
    assert s.events == []


def test_mixed_results_keep_the_order_of_what_waits(stages: StagesMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    s = stages(concurrency=8)
    offer(s, 1, 2, 3, 4, 5)
    cap = Cap(PRICE, "all")
    scripted(
        s,
        monkeypatch,
        OverBudget(cap, PRICE),
        ClaimedElsewhere(),
        RetryLater(1.0),
        Reserved(77),
        RetryLater(2.0),
    )
    s.reserver.step()
    assert waiting(s) == [1, 3, 5]
    assert reserved(s) == [4]
    assert s.queue.waiting() == {"claimed by another run": 1}


def test_a_budget_that_open_attempts_hold_is_waited_for(stages: StagesMaker) -> None:
    s = stages(caps=[Cap(2 * PRICE, "all")])
    offer(s, 1, 2, 3)
    s.reserver.step()
    first, _ = s.slots.withdraw()
    assert waiting(s) == [3]
    assert s.run.stopped is None
    assert s.reserver._not_before == s.clock.now + 0.5
    # It comes back.
    s.ledger.settle(first.attempt, Settlement("released", "server_error"), status="pending")
    s.reserver.step()
    assert reserved(s) == [3]


def test_a_budget_that_is_spent_stops_the_run(stages: StagesMaker) -> None:
    s = stages(caps=[Cap(2 * PRICE, "run")])
    offer(s, 1, 2, 3)
    s.reserver.step()
    for reservation in s.slots.withdraw():
        s.ledger.settle(reservation.attempt, Settlement("charged", "succeeded", cost=PRICE), status="succeeded")
    s.reserver.step()
    assert s.run.stopped is not None
    assert s.run.stopped.cause == "budget"
    assert "0.20 USD for this run" in s.run.stopped.message
    assert s.states() == ["charged"] * 2
    # The request that was too much is let go by the end of the stage; the two above are the test's.
    s.reserver.work()
    s.run.let_go(2)
    assert s.idle


def test_what_only_overdue_jobs_hold_of_a_budget_is_not_waited_for(stages: StagesMaker) -> None:
    s = stages(caps=[Cap(2 * PRICE, "all")])
    offer(s, 1, 2, 3)
    s.reserver.step()
    s.overdue.add(fingerprint(1), PRICE)
    s.reserver.step()
    assert s.run.stopped is None
    s.overdue.add(fingerprint(2), PRICE)
    s.reserver.step()
    assert s.stop_cause == "budget"


def test_a_request_that_another_run_has_claimed_is_asked_for_again(stages: StagesMaker) -> None:
    s = stages()
    other = s.open_ledger("another run")
    attempt = s.other_attempt(other, 1)
    offer(s, 1, 2)
    s.reserver.step()
    assert reserved(s) == [2]
    assert waiting(s) == []
    assert s.queue.waiting() == {"claimed by another run": 1}
    s.clock.forward(0.49)
    assert s.take_due() == []
    s.clock.forward(0.01)
    assert s.take_due() == [1]
    # Meanwhile the other run has made the image.
    other.settle(attempt, Settlement("charged", "succeeded", cost=PRICE), status="succeeded")
    offer(s, 1)
    s.reserver.step()
    assert s.outcomes == [(1, "succeeded")]
    assert s.run.progress().found == 1


@pytest.mark.parametrize("status", ["succeeded", "failed", "unknown"])
def test_a_request_that_has_its_outcome_is_finished_as_found(stages: StagesMaker, status: str) -> None:
    s = stages()
    other = s.open_ledger("another run")
    for _ in range(2 if status == "unknown" else 1):
        attempt = s.other_attempt(other, 1)
        states = {"succeeded": "charged", "failed": "released", "unknown": "unknown"}
        outcomes = {"succeeded": "succeeded", "failed": "rejected", "unknown": "lost"}
        settlement = Settlement(states[status], outcomes[status])  # type: ignore[arg-type]
        other.settle(attempt, settlement, status=status, retryable=False)  # type: ignore[arg-type]
    before = s.states()
    offer(s, 1)
    s.reserver.step()
    assert s.outcomes == [(1, status)]
    assert s.run.progress().found == (status == "succeeded")
    assert s.run.progress().succeeded == 0
    assert s.idle
    assert s.states() == before


@pytest.mark.parametrize("retry_failed", [False, True])
def test_a_failed_request_is_tried_again_where_the_run_asks_for_it(stages: StagesMaker, retry_failed: bool) -> None:
    s = stages(retry_failed=retry_failed)
    other = s.open_ledger("another run")
    settlement = Settlement("released", "rejected")
    other.settle(s.other_attempt(other, 1), settlement, status="failed", retryable=False)
    offer(s, 1)
    s.reserver.step()
    assert reserved(s) == ([1] if retry_failed else [])


# --- failures -----------------------------------------------------------------------------------


def test_without_room_for_images_nothing_is_reserved(stages: StagesMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    s = stages()
    rooms: list[int] = []

    def check_room(in_flight: int) -> None:
        rooms.append(in_flight)
        raise StoreFull("the disk is full")

    monkeypatch.setattr(s.store, "check_room", check_room)
    s.slots.occupy()
    s.slots.occupy()
    offer(s, 1, 2)
    s.reserver.work()
    assert rooms == [2]
    assert s.stop_cause == "disk_full"
    assert s.attempts() == []
    assert s.idle


def test_a_ledger_that_cannot_be_written_stops_the_run(stages: StagesMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    s = stages()

    def fail(*_: object) -> None:
        raise LedgerError("the ledger can't be written")

    monkeypatch.setattr(s.ledger, "reserve", fail)
    offer(s, 1, 2, 3, 4, 5)
    s.reserver.work()
    assert s.stop_cause == "ledger"
    assert s.idle


def test_a_failure_between_two_results_lets_all_work_go(stages: StagesMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    s = stages()

    def fail(*_: object) -> None:
        raise LedgerError("the ledger can't be written")

    monkeypatch.setattr(s.ledger, "release", fail)
    offer(s, 1, 2, 3)
    # The run is stopped by another thread while the ledger reserves.
    reserve = s.ledger.reserve

    def reserve_and_close(
        claims: Sequence[tuple[str, str]], terms: ReservationTerms, _inputs: object
    ) -> list[ReserveResult]:
        results = reserve(claims, terms)
        s.slots.close()
        return results

    monkeypatch.setattr(s.ledger, "reserve", reserve_and_close)
    s.reserver.work()
    assert s.stop_cause == "ledger"
    assert s.idle


# --- the end ------------------------------------------------------------------------------------


def test_the_end_releases_what_was_not_sent(stages: StagesMaker) -> None:
    s = stages(concurrency=2, ahead=2)
    offer(s, 1, 2, 3, 4, 5, 6)
    s.reserver.step()
    assert s.slots.take() is not None
    s.run.stop(Cause.INTERRUPTED, "stopped on request")
    commits = s.commits()
    s.reserver.work()
    assert len(commits) == 1
    # One has a slot and is its sender's; three had none; two were not reserved.
    assert s.states() == ["open", "not_sent", "not_sent", "not_sent"]
    assert s.held() == (0, 0, PRICE)
    assert [s.generation(number) for number in (2, 3, 4)] == [("pending", True, False)] * 3
    s.run.let_go()
    assert s.idle
    assert not s.reserver.offer(ResolvedRequest(s.item(7), None))


def test_a_reservation_that_comes_after_the_end_is_released(stages: StagesMaker) -> None:
    s = stages(concurrency=2)
    offer(s, 1, 2)
    s.run.stop(Cause.INTERRUPTED, "stopped on request")
    s.reserver.step()
    assert s.states() == ["not_sent"] * 2
    assert s.held() == (0, 0, 0)
    assert s.idle


def test_a_ledger_that_fails_at_the_end_lets_the_work_go_all_the_same(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = stages()

    def fail(*_: object) -> None:
        raise LedgerError("the ledger can't be written")

    offer(s, 1, 2, 3, 4, 5)
    s.reserver.step()
    monkeypatch.setattr(s.ledger, "release", fail)
    s.reserver.close()
    s.reserver.work()
    assert s.stop_cause == "ledger"
    assert s.idle


@pytest.mark.skipif(uptime_id() is None, reason="this system doesn't name its uptimes")
def test_what_the_stage_could_not_release_is_released_when_the_run_leaves_the_ledger(
    stages: StagesMaker,
) -> None:
    s = stages()
    offer(s, 1, 2)
    s.reserver.step()
    s.ledger.lease.sending(1)
    s.ledger.deregister()
    assert s.states() == ["open", "not_sent"]


# --- reservations that are given back -----------------------------------------------------------


def test_a_reservation_that_is_given_back_is_released_and_reserved_again(stages: StagesMaker) -> None:
    s = stages()
    reservation = s.reservation(s.item(1))
    s.reserver.give_back(reservation)
    assert s.states() == ["not_sent"]
    assert s.held() == (0, 0, 0)
    assert not s.idle
    assert s.take_due() == [1]
    s.offer(reservation.item)
    s.reserver.step()
    assert s.states() == ["not_sent", "open"]


def test_after_the_end_a_reservation_that_is_given_back_is_let_go(stages: StagesMaker) -> None:
    s = stages()
    reservation = s.reservation(s.item(1))
    s.run.stop(Cause.INTERRUPTED, "stopped on request")
    s.reserver.give_back(reservation)
    assert s.states() == ["not_sent"]
    assert s.idle


@pytest.mark.parametrize("why", ["price", "day", "lease", None])
def test_a_reservation_is_valid_for_its_price_day_and_lease(
    stages: StagesMaker, monkeypatch: pytest.MonkeyPatch, why: str | None
) -> None:
    s = stages()
    reservation = s.reservation(s.item(1))
    match why:
        case "price":
            s.reserver.raise_price(PRICE + 1)
        case "day":
            monkeypatch.setattr(reserver_module, "today", lambda: reservation.day + 1)
        case "lease":
            monkeypatch.setattr(s.ledger.lease, "is_fresh", lambda: False)
        case None:
            s.reserver.raise_price(PRICE)
    assert s.reserver.is_valid(reservation) == (why is None)


# --- the stage's thread -------------------------------------------------------------------------


def test_a_full_reserver_makes_the_resolvers_wait(stages: StagesMaker) -> None:
    s = stages(concurrency=1, capacity=2)
    offer(s, 1, 2)
    offered = threading.Event()

    def offer_third() -> None:
        offer(s, 3)
        offered.set()

    thread = threading.Thread(target=offer_third, daemon=True)
    thread.start()
    assert not offered.wait(0.01)
    s.reserver.step()
    assert offered.wait(5)
    assert waiting(s) == [2, 3]


def test_the_end_of_the_run_ends_the_wait_of_a_resolver(stages: StagesMaker) -> None:
    s = stages(capacity=1)
    offer(s, 1)
    answers: list[bool] = []
    thread = threading.Thread(
        target=lambda: answers.append(s.reserver.offer(ResolvedRequest(s.item(2), None))), daemon=True
    )
    thread.start()
    s.reserver.close()
    thread.join(5)
    assert answers == [False]


def test_the_stage_reserves_as_soon_as_a_request_and_a_slot_are_there(stages: StagesMaker) -> None:
    s = stages(concurrency=1)
    s.trace(s.reserver, "step")
    thread = threading.Thread(target=s.reserver.work, daemon=True)
    thread.start()
    offer(s, 1, 2)
    first = s.slots.take()
    assert first is not None
    s.ledger.lease.sending(first.attempt)
    # The slot is taken: the second request waits until it is free.
    assert s.states() == ["open"]
    s.slots.release()
    second = s.slots.take()
    assert second is not None
    assert (first.item.request.seed, second.item.request.seed) == (1, 2)
    s.reserver.close()
    thread.join(5)
    assert not thread.is_alive()
    assert s.events == ["step"] * 2


def test_the_stage_waits_as_long_as_the_ledger_says(stages: StagesMaker) -> None:
    """The clock stands still, so a stage that waits makes no second call."""
    s = stages(concurrency=4, rpm=60)
    asked = threading.Semaphore(0)
    reserve = s.ledger.reserve

    def counted(*values: object) -> object:
        try:
            return reserve(*values)  # type: ignore[arg-type]
        finally:
            asked.release()

    s.ledger.reserve = counted  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=s.reserver.work, daemon=True)
    offer(s, 1, 2)
    thread.start()
    assert asked.acquire(timeout=5)
    assert s.slots.take() is not None
    assert not asked.acquire(timeout=0.02)
    s.reserver.close()
    thread.join(5)
    assert s.states() == ["open"]
