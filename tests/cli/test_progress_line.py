"""The progress line says how far a run is, and why nothing moves."""

from dataclasses import dataclass, field

import pytest

from kontext_pipeline.generation.loop import Progress
from kontext_pipeline.progress_line import delays, details


@dataclass
class Waits:
    paused_until: float = 0.0
    pause_reason: str = ""
    waiting: dict[str, int] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Waits(), ""),
        (Waits(paused_until=111.2, pause_reason="rate limit"), "paused 12 s: rate limit"),
        (Waits(paused_until=100.0, pause_reason="rate limit"), ""),
        (Waits(waiting={"503": 7}), "7 waiting to retry: 503"),
        (Waits(waiting={"503": 7, "unreachable": 1}), "8 waiting to retry: 503 (7), unreachable (1)"),
        (Waits(waiting={"503": 0}), ""),
        (
            Waits(paused_until=5000.0, pause_reason="rate limit", waiting={"500": 2}),
            "paused 4,900 s: rate limit; 2 waiting to retry: 500",
        ),
        (object(), ""),
    ],
)
def test_why_requests_wait(progress: object, line: str) -> None:
    assert delays(progress, now=100.0) == line


def test_counts_and_money() -> None:
    assert details(Progress()) == "0 failed, 0 in flight, 0.00 USD spent"
    progress = Progress(failed=1, unknown=2, in_flight=8, spent=1_234_500_000, possibly_charged=200_000)
    assert details(progress) == "1 failed, 2 unknown, 8 in flight, 1,234.50 USD spent (+0.20 possibly)"
