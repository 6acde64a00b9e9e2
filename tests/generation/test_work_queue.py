"""The queue of items: the manifest's order, retries when they are due, a bound, and an end."""

import threading

import pytest

from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.generation.work_queue import WorkQueue
from kontext_pipeline.segmind.request import GenerationRequest
from tests.generation.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def item(number: int) -> WorkItem:
    return WorkItem(f"{number:064x}", "batch", GenerationRequest(prompt=f"row {number}", seed=number))


def numbers(*items: WorkItem | None) -> list[int | None]:
    return [None if one is None else one.request.seed for one in items]


def test_new_items_come_in_order_and_due_retries_before_them(clock: FakeClock) -> None:
    queue = WorkQueue(10, clock=clock)
    for number in (1, 2, 3):
        assert queue.put(item(number))
    queue.retry(item(8), 5.0, "503")
    queue.retry(item(9), 2.0, "503")
    assert numbers(queue.take()) == [1]
    clock.forward(2.0)
    assert numbers(queue.take(), queue.take()) == [9, 2]
    clock.forward(3.0)
    assert numbers(queue.take(), queue.take()) == [8, 3]


def test_retries_with_equal_pauses_keep_their_order(clock: FakeClock) -> None:
    queue = WorkQueue(10, clock=clock)
    for number in range(5):
        queue.retry(item(number), 0.0, "503")
    assert numbers(*(queue.take() for _ in range(5))) == [0, 1, 2, 3, 4]


def test_why_items_wait_is_counted(clock: FakeClock) -> None:
    queue = WorkQueue(10, clock=clock)
    queue.put(item(0))
    for number in range(3):
        queue.retry(item(number), 1.0, "503")
    queue.retry(item(4), 1.0, "claimed by another run")
    assert queue.waiting() == {"503": 3, "claimed by another run": 1}


def test_a_full_queue_makes_its_source_wait(clock: FakeClock) -> None:
    queue = WorkQueue(2, clock=clock)
    fed = threading.Semaphore(0)

    def feed() -> None:
        for number in range(4):
            queue.put(item(number))
            fed.release()

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    assert fed.acquire(timeout=5)
    assert fed.acquire(timeout=5)
    assert not fed.acquire(blocking=False)
    assert numbers(queue.take()) == [0]
    assert fed.acquire(timeout=5)
    assert numbers(queue.take()) == [1]
    thread.join(5)
    assert not thread.is_alive()


def test_an_item_that_comes_is_given_to_whoever_waits(clock: FakeClock) -> None:
    queue = WorkQueue(2, clock=clock)
    taken: list[WorkItem | None] = []
    threads = [threading.Thread(target=lambda: taken.append(queue.take())) for _ in range(2)]
    for thread in threads:
        thread.start()
    queue.put(item(1))
    queue.retry(item(2), 0.0, "503")
    for thread in threads:
        thread.join(5)
    assert sorted(numbers(*taken)) == [1, 2]  # type: ignore[type-var]


def test_a_closed_queue_drops_what_it_has_and_ends_whoever_waits(clock: FakeClock) -> None:
    queue = WorkQueue(1, clock=clock)
    taken: list[WorkItem | None] = [item(0)]
    thread = threading.Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    queue.retry(item(7), 60.0, "503")
    assert queue.close() == 1
    thread.join(5)
    assert taken[1:] == [None]
    assert not queue.put(item(1))
    assert not queue.retry(item(1), 0.0, "503")
    assert queue.close() == 0
