"""When to ask for a job, and how many requests may be in flight."""

import random
from itertools import pairwise

import pytest

from kontext_pipeline.generation.concurrency import ConcurrencyLimit
from kontext_pipeline.generation.polling import PollSchedule


def found_after(
    schedule: PollSchedule, takes_s: float, asking_s: float = 0.001, told_s: float | None = None
) -> tuple[float, int]:
    """Ask for a job that takes so long until it is done; return its age then, and how often it was asked for.
    The server says then that it took `told_s`.
    """
    age, waiting, polls = schedule.next_poll(0.0, 40), 0.0, 1
    while age < takes_s:
        waiting = age
        age += asking_s + schedule.next_poll(age + asking_s, 40)
        polls += 1
    took = schedule.found(age, waiting)
    if told_s is not None:
        schedule.told(took, told_s)
    return age, polls


@pytest.mark.parametrize("takes_s", [0.5, 2.434, 24.34])
def test_jobs_that_take_the_same_time_are_found_at_once(takes_s: float) -> None:
    schedule = PollSchedule()
    found = [found_after(schedule, takes_s) for _ in range(400)][100:]
    late = sum(age / takes_s - 1 for age, _ in found) / len(found)
    assert late < 0.012
    assert sum(polls for _, polls in found) / len(found) < 3


@pytest.mark.parametrize("takes_s", [0.5, 2.434, 24.34])
def test_what_the_server_says_is_heeded_at_once(takes_s: float) -> None:
    schedule = PollSchedule()
    found_after(schedule, takes_s, told_s=takes_s)
    for _ in range(300):
        age, polls = found_after(schedule, takes_s, told_s=takes_s)
        assert polls == 1
        assert age == pytest.approx(takes_s)
    # They have become quicker, then slower.
    found = [found_after(schedule, takes_s / 2, told_s=takes_s / 2) for _ in range(100)]
    assert found[-1][0] == pytest.approx(takes_s / 2)
    found = [found_after(schedule, takes_s, told_s=takes_s) for _ in range(300)]
    assert found[-1][0] == pytest.approx(takes_s)


def test_others_that_were_waiting_narrow_down_when_the_first_was_done() -> None:
    schedule = PollSchedule()
    schedule.next_poll(9.9, 40)
    schedule.found(10.1, 9.0)
    assert schedule.usual_s == pytest.approx(10.0)
    # What was last asked for long before tells no more than the forecast does.
    schedule.found(10.2, 9.0)
    assert schedule.usual_s == pytest.approx(10.0, rel=0.01)


def test_while_nothing_is_known_jobs_are_asked_for_at_different_moments() -> None:
    schedule = PollSchedule()
    due = sorted(10.0 + schedule.next_poll(10.0, 40) for _ in range(40))
    assert max(late - early for early, late in pairwise(due)) < 0.1


@pytest.mark.parametrize("told_s", [0.0, 0.0243, 20.0, 24_340.0], ids=["0", "ms", "no queue", "s as ms"])
def test_what_the_server_says_is_believed_within_what_was_seen(told_s: float) -> None:
    schedule = PollSchedule()
    found = [found_after(schedule, 24.34, told_s=told_s) for _ in range(400)][100:]
    assert sum(age / 24.34 - 1 for age, _ in found) / len(found) < 0.012
    assert sum(polls for _, polls in found) / len(found) < 12


def test_what_is_learned_does_not_creep_up_with_late_polls() -> None:
    schedule, chance = PollSchedule(), random.Random(1)
    for number in range(1000):
        # A busy machine asks later than it should.
        age, polls = found_after(schedule, 10.0, asking_s=chance.uniform(0, 0.3))
        assert age < 11.0
        assert polls <= 12 or number == 0
    assert schedule.usual_s < 10.2


def test_jobs_that_get_quicker_are_noticed() -> None:
    schedule = PollSchedule()
    for _ in range(200):
        found_after(schedule, 20.0)
    found = [found_after(schedule, 5.0)[0] for _ in range(4000)]
    assert found[-1] < 5.5


def test_jobs_of_any_length_are_asked_for_early_enough() -> None:
    schedule, chance = PollSchedule(), random.Random(2)
    late = []
    for number in range(500):
        takes_s = chance.uniform(16, 33)
        age, _ = found_after(schedule, takes_s)
        if number > 100:
            late.append(age - takes_s)
    # A hundredth of the time they take would be 0.25 s.
    assert sum(late) / len(late) < 0.4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("kontext_pipeline.generation.concurrency.time.monotonic", lambda: now[0])
    return now


def test_places_are_cut_once_a_burst_and_regained(clock: list[float]) -> None:
    some = ConcurrencyLimit(100)
    for _ in range(30):
        some.cut(5.0)
    assert some.allowed == 70
    clock[0] += 6.0
    some.cut(5.0)
    assert some.allowed == 49
    # A round trip is as many pictures as there are concurrency.
    for _ in range(3 * 50):
        some.regain()
    assert 60 <= some.allowed <= 75
    for _ in range(10_000):
        some.regain()
    assert some.allowed == 100


def test_one_place_is_left(clock: list[float]) -> None:
    some = ConcurrencyLimit(2)
    for _ in range(50):
        some.cut(0.1)
        clock[0] += 1.0
    assert some.allowed == 1
