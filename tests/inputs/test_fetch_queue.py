"""The order of fetches: hosts in turn, a few of each at a time, failed ones after their pause."""

import threading

import pytest

from kontext_pipeline.inputs.fetch_queue import FetchQueue
from kontext_pipeline.inputs.input_address import InputAddress
from tests.generation.clock import FakeClock

pytestmark = pytest.mark.timeout(20)


def address(host: str, number: int) -> InputAddress:
    return InputAddress(f"https://{host}.example/{number}")


def taken(queue: FetchQueue, count: int) -> list[str]:
    found = []
    for _ in range(count):
        one = queue.take()
        assert one is not None
        found.append(one.uri.removeprefix("https://").replace(".example/", ""))
    return found


def test_hosts_take_turns_and_each_has_its_bound() -> None:
    queue = FetchQueue(2)
    for number in range(4):
        queue.put(address("a", number))
    for number in range(2):
        queue.put(address("b", number))
    assert taken(queue, 4) == ["a0", "b0", "a1", "b1"]
    queue.done(address("a", 0))
    assert taken(queue, 1) == ["a2"]


def test_a_host_at_its_bound_holds_up_no_other() -> None:
    queue = FetchQueue(1)
    for number in range(3):
        queue.put(address("slow", number))
    assert taken(queue, 1) == ["slow0"]
    queue.put(address("quick", 0))
    assert taken(queue, 1) == ["quick0"]


def test_a_pause_is_kept_and_holds_up_nothing() -> None:
    clock = FakeClock()
    queue = FetchQueue(4, clock=clock)
    queue.put(address("a", 0), pause_s=5.0)
    queue.put(address("a", 1))
    assert taken(queue, 1) == ["a1"]
    clock.forward(5.0)
    assert taken(queue, 1) == ["a0"]


def test_the_end_wakes_who_waits() -> None:
    queue = FetchQueue(1)
    found: list[InputAddress | None] = []
    thread = threading.Thread(target=lambda: found.append(queue.take()))
    thread.start()
    queue.close()
    thread.join(10)
    assert found == [None]
