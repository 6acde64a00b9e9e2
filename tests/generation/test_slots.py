"""Slots: how many requests are in flight, what the next free slot sends, and pauses."""

import threading

import pytest

from kontext_pipeline.generation.concurrency_limit import ConcurrencyLimit
from kontext_pipeline.generation.slots import Slots
from kontext_pipeline.generation.work import Reservation, ResolvedRequest, WorkItem
from kontext_pipeline.segmind.request import GenerationRequest
from tests.generation.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def reservation(number: int) -> Reservation:
    item = WorkItem(f"{number:064x}", "batch", GenerationRequest(prompt=f"row {number}", seed=number))
    return Reservation(ResolvedRequest(item, None), attempt=number, price=100_000, day=0)


def slots_for(clock: FakeClock, concurrency: int, ahead: int = 0) -> tuple[Slots, list[None]]:
    demands: list[None] = []
    slots = Slots(concurrency, ahead=ahead, clock=clock)
    slots.call_when_wanted(lambda: demands.append(None))
    return slots, demands


def test_a_free_slot_takes_the_reservations_in_order(clock: FakeClock) -> None:
    slots, _ = slots_for(clock, 2)
    for number in (1, 2):
        assert slots.put(reservation(number))
    assert slots.put(reservation(0), first=True)
    assert [one.attempt for one in (slots.take(), slots.take()) if one] == [0, 1]
    assert slots.in_flight == 2


def test_slots_are_filling_while_a_reservation_can_be_sent(clock: FakeClock) -> None:
    slots, _ = slots_for(clock, 1)
    assert not slots.filling
    slots.put(reservation(1))
    slots.put(reservation(2))
    assert slots.filling
    slots.take()
    assert not slots.filling
    slots.release()
    slots.pause(5.0, "rate limit")
    assert not slots.filling
    clock.forward(5.0)
    assert slots.filling
    # What is in flight is collected now, and nothing else is sent.
    slots.close()
    assert not slots.filling


def test_a_taken_slot_is_waited_for(clock: FakeClock) -> None:
    slots, _ = slots_for(clock, 1)
    slots.put(reservation(1))
    slots.put(reservation(2))
    slots.take()
    taken: list[Reservation | None] = []
    thread = threading.Thread(target=lambda: taken.append(slots.take()))
    thread.start()
    assert taken == []
    slots.release()
    thread.join(5)
    assert [one and one.attempt for one in taken] == [2]


def test_reservations_are_wanted_for_free_slots_and_ahead_of_them(clock: FakeClock) -> None:
    slots, demands = slots_for(clock, 4, ahead=8)
    assert slots.wanted() == 12
    for number in range(12):
        slots.put(reservation(number))
    assert slots.wanted() == 0
    for _ in range(4):
        slots.take()
    # All slots are taken, and eight reservations wait: as many as there should be.
    assert slots.wanted() == 0
    assert not demands
    slots.release()
    assert slots.wanted() == 0
    slots.release()
    # A lot is a quarter of what waits.
    assert slots.wanted() == 2
    assert len(demands) == 1


def test_without_reservations_ahead_each_free_slot_asks_for_one(clock: FakeClock) -> None:
    slots, demands = slots_for(clock, 2)
    assert slots.wanted() == 2
    slots.put(reservation(1))
    assert slots.wanted() == 1
    slots.take()
    slots.release()
    assert slots.wanted() == 2
    assert len(demands) == 2


def test_a_pause_holds_every_slot_until_it_is_over(clock: FakeClock) -> None:
    slots, _ = slots_for(clock, 2)
    slots.put(reservation(1))
    assert slots.pause(5.0, "rate limit")
    assert not slots.pause(3.0, "shorter")
    assert slots.pause_state == (clock.now + 5.0, "rate limit")
    # Another answer of the same burst.
    clock.forward(0.1)
    assert not slots.pause(5.0, "rate limit")
    assert slots.pause_state == (clock.now + 5.0, "rate limit")
    clock.forward(5.0)
    assert slots.pause_state == (0.0, "")
    assert slots.take() is not None


def test_closed_slots_send_nothing_and_give_their_reservations_back(clock: FakeClock) -> None:
    slots, _ = slots_for(clock, 2)
    slots.put(reservation(1))
    slots.close()
    assert slots.take() is None
    assert not slots.put(reservation(2))
    assert [one.attempt for one in slots.withdraw()] == [1]
    assert slots.withdraw() == []


def test_a_job_of_an_earlier_run_takes_a_slot_beyond_the_limit(clock: FakeClock) -> None:
    slots, _ = slots_for(clock, 1)
    slots.occupy()
    slots.occupy()
    assert slots.in_flight == 2
    assert slots.wanted() == 0
    slots.release()
    slots.release()
    assert slots.wanted() == 1


def test_a_burst_of_429_decreases_the_limit_once(clock: FakeClock) -> None:
    limit = ConcurrencyLimit(100, clock=clock)
    for _ in range(30):
        limit.decrease(5.0)
    assert limit.allowed == 70
    clock.forward(6.0)
    limit.decrease(5.0)
    assert limit.allowed == 49


def test_images_increase_the_limit_up_to_the_setting(clock: FakeClock) -> None:
    limit = ConcurrencyLimit(100, clock=clock)
    limit.decrease(5.0)
    clock.forward(6.0)
    limit.decrease(5.0)
    # A round trip is as many images as there are slots.
    for _ in range(3 * 50):
        limit.increase()
    assert 60 <= limit.allowed <= 75
    for _ in range(10_000):
        limit.increase()
    assert limit.allowed == 100


def test_one_slot_always_remains(clock: FakeClock) -> None:
    limit = ConcurrencyLimit(2, clock=clock)
    for _ in range(50):
        limit.decrease(0.1)
        clock.forward(1.0)
    assert limit.allowed == 1
