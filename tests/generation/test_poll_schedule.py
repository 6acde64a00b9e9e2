"""When a v2 job is polled: found soon after it has finished, with few polls."""

import random
from itertools import pairwise

import pytest

from kontext_pipeline.generation.poll_schedule import PollSchedule


def poll_until_finished(
    schedule: PollSchedule, takes_s: float, asking_s: float = 0.001, told_s: float | None = None
) -> tuple[float, int]:
    """Poll a job that takes `takes_s` until it is finished; return its age then, and the number of polls.

    `asking_s` is the duration of a poll; `told_s` the duration that the server then tells.
    """
    age, waiting, polls = schedule.next_poll(0.0, 40), 0.0, 1
    while age < takes_s:
        waiting = age
        age += asking_s + schedule.next_poll(age + asking_s, 40)
        polls += 1
    took = schedule.finished(age, waiting)
    if told_s is not None:
        schedule.correct(took, told_s)
    return age, polls


@pytest.mark.parametrize("takes_s", [0.5, 2.434, 24.34])
def test_jobs_that_take_the_same_time_are_found_at_once(takes_s: float) -> None:
    schedule = PollSchedule()
    found = [poll_until_finished(schedule, takes_s) for _ in range(400)][100:]
    late = sum(age / takes_s - 1 for age, _ in found) / len(found)
    assert late < 0.012
    assert sum(polls for _, polls in found) / len(found) < 3


@pytest.mark.parametrize("takes_s", [0.5, 2.434, 24.34])
def test_what_the_server_says_is_used_at_once(takes_s: float) -> None:
    schedule = PollSchedule()
    poll_until_finished(schedule, takes_s, told_s=takes_s)
    for _ in range(300):
        age, polls = poll_until_finished(schedule, takes_s, told_s=takes_s)
        assert polls == 1
        assert age == pytest.approx(takes_s)
    # They have become quicker, then slower.
    found = [poll_until_finished(schedule, takes_s / 2, told_s=takes_s / 2) for _ in range(100)]
    assert found[-1][0] == pytest.approx(takes_s / 2)
    found = [poll_until_finished(schedule, takes_s, told_s=takes_s) for _ in range(300)]
    assert found[-1][0] == pytest.approx(takes_s)


def test_others_that_were_waiting_narrow_down_when_the_first_was_done() -> None:
    schedule = PollSchedule()
    schedule.next_poll(9.9, 40)
    schedule.finished(10.1, 9.0)
    assert schedule.expected_s == pytest.approx(10.0)
    # What was last asked for long before tells no more than the forecast does.
    schedule.finished(10.2, 9.0)
    assert schedule.expected_s == pytest.approx(10.0, rel=0.01)


def test_while_nothing_is_known_jobs_are_asked_for_at_different_moments() -> None:
    schedule = PollSchedule()
    due = sorted(10.0 + schedule.next_poll(10.0, 40) for _ in range(40))
    assert max(late - early for early, late in pairwise(due)) < 0.1


@pytest.mark.parametrize("told_s", [0.0, 0.0243, 20.0, 24_340.0], ids=["0", "ms", "no queue", "s as ms"])
def test_what_the_server_says_is_believed_within_what_was_seen(told_s: float) -> None:
    schedule = PollSchedule()
    found = [poll_until_finished(schedule, 24.34, told_s=told_s) for _ in range(400)][100:]
    assert sum(age / 24.34 - 1 for age, _ in found) / len(found) < 0.012
    assert sum(polls for _, polls in found) / len(found) < 12


def test_what_is_learned_does_not_creep_up_with_late_polls() -> None:
    schedule, chance = PollSchedule(), random.Random(1)
    for number in range(1000):
        # A busy machine asks later than it should.
        age, polls = poll_until_finished(schedule, 10.0, asking_s=chance.uniform(0, 0.3))
        assert age < 11.0
        assert polls <= 12 or number == 0
    assert schedule.expected_s < 10.2


def test_jobs_that_get_quicker_are_noticed() -> None:
    schedule = PollSchedule()
    for _ in range(200):
        poll_until_finished(schedule, 20.0)
    found = [poll_until_finished(schedule, 5.0)[0] for _ in range(4000)]
    assert found[-1] < 5.5


def test_jobs_of_any_length_are_asked_for_early_enough() -> None:
    schedule, chance = PollSchedule(), random.Random(2)
    late = []
    for number in range(500):
        takes_s = chance.uniform(16, 33)
        age, _ = poll_until_finished(schedule, takes_s)
        if number > 100:
            late.append(age - takes_s)
    # A hundredth of the time they take would be 0.25 s.
    assert sum(late) / len(late) < 0.4
