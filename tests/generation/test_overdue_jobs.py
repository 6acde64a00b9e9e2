"""Jobs for which a run no longer waits: the items that depend on them, and what they hold of a budget."""

import pytest

from kontext_pipeline.generation.overdue_jobs import OverdueJobs
from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.segmind.request import GenerationRequest


def item(name: str, batch: str = "batch") -> WorkItem:
    return WorkItem(name * 64, batch, GenerationRequest(prompt=name, seed=1))


@pytest.fixture
def overdue() -> OverdueJobs:
    return OverdueJobs()


def test_only_items_of_an_overdue_job_are_parked(overdue: OverdueJobs) -> None:
    assert not overdue.park(item("a"))
    overdue.add("a" * 64, 100_000)
    assert overdue.park(item("a"))
    assert not overdue.park(item("b"))


def test_a_collected_job_gives_its_items_back_once(overdue: OverdueJobs) -> None:
    overdue.add("a" * 64, 100_000)
    overdue.add("b" * 64, 100_000)
    parked = [item("a", "first"), item("a", "second")]
    for one in parked:
        overdue.park(one)
    overdue.park(item("b"))
    assert overdue.remove("a" * 64) == parked
    assert overdue.remove("a" * 64) == []
    assert not overdue.park(item("a"))
    assert overdue.park(item("b"))


def test_the_jobs_hold_their_prices(overdue: OverdueJobs) -> None:
    assert overdue.amount_held() == 0
    overdue.add("a" * 64, 100_000)
    overdue.add("b" * 64, 120_000)
    assert overdue.amount_held() == 220_000
    overdue.remove("a" * 64)
    assert overdue.amount_held() == 120_000
