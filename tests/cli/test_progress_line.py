"""The progress line says how far a run is, and why nothing moves."""

import threading
from itertools import chain, repeat

import pytest

from kontext_pipeline.generation.progress import Progress
from kontext_pipeline.progress_line import Watcher, delays, details


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress(fetching=1200), "1,200 waiting for their input pictures"),
        (Progress(fetching=1200, in_flight=1), ""),
        (Progress(), ""),
        (Progress(paused_until=111.2, pause_reason="rate limit"), "paused 12 s: rate limit"),
        (Progress(paused_until=100.0, pause_reason="rate limit"), ""),
        (Progress(waiting={"503": 7}), "7 waiting to retry: 503"),
        (Progress(waiting={"503": 7, "unreachable": 1}), "8 waiting to retry: 503 (7), unreachable (1)"),
        (
            Progress(paused_until=5000.0, pause_reason="rate limit", waiting={"500": 2}),
            "paused 4,900 s: rate limit; 2 waiting to retry: 500",
        ),
    ],
)
def test_why_requests_wait(progress: Progress, line: str) -> None:
    assert delays(progress, now=100.0) == line


def test_counts_and_money() -> None:
    assert details(Progress()) == "0 failed, 0 in flight, 0.00 USD spent"
    progress = Progress(failed=1, unknown=2, in_flight=8, spent=1_234_500_000, possibly_charged=200_000)
    assert details(progress) == "1 failed, 2 unknown, 8 in flight, 1,234.50 USD spent (+0.20 possibly)"


def test_a_watcher_shows_the_run_after_each_pause_and_at_the_end() -> None:
    seen: list[Progress] = []
    twice = threading.Event()

    def show(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 2:
            twice.set()

    with Watcher(show, chain([0.0, 0.0], repeat(60.0))) as watcher:
        assert watcher.progress is None
        run = Progress(succeeded=1)
        watcher.watch(lambda: run)
    assert seen[-1] is watcher.progress is run

    seen.clear()
    with Watcher(show, chain(repeat(0.001, 1000), repeat(60.0))) as watcher:
        watcher.watch(lambda: run)
        assert twice.wait(10)


def test_a_watcher_without_a_run_shows_nothing() -> None:
    seen: list[Progress] = []
    with Watcher(seen.append, repeat(0.0)):
        pass
    assert seen == []
