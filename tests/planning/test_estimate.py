"""What a plan will cost and how long it takes."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from kontext_pipeline.planning.estimate import Estimate, Settled, estimate, seconds_for
from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.planning.planner import make_plan


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Return a plan of 7 rows that request 8 pictures, 6 of which differ, in batches of 3."""
    (tmp_path / "m.csv").write_text("prompt,variants\na,2\nb,\nc,\na,\nd,\nb,\ne,\n")
    return make_plan(
        read_manifests([tmp_path / "m.csv"]),
        data_dir=tmp_path,
        backend="sandbox",
        seed=0,
        batch_size=3,
        clamp_safety_tolerance=False,
    )


def prints_of(plan: Plan) -> list[str]:
    return [text for prints in plan.fingerprints() for text in prints.to_pylist()]


def settled(there: Sequence[str] = (), failed: Sequence[str] = ()) -> Settled:
    return lambda _prints: (set(there), set(failed))


def test_nothing_is_there_yet(plan: Plan) -> None:
    assert estimate(plan, settled=settled(), concurrency=4) == Estimate(
        rows=7,
        requested=8,
        pictures=6,
        already_there=0,
        failed_for_good=0,
        to_generate=6,
        cost_usd=0.6,
        seconds=6 * 24.34 / 4,
    )


def test_what_is_there_or_failed_is_not_generated(plan: Plan) -> None:
    prints = prints_of(plan)
    found = estimate(plan, settled=settled([prints[0], prints[2]], [prints[3], "another"]), concurrency=1)
    assert (found.already_there, found.failed_for_good, found.to_generate) == (2, 1, 3)
    assert found.cost_usd == pytest.approx(0.3)


def test_settled_counts_before_failed(plan: Plan) -> None:
    everything = prints_of(plan)
    found = estimate(plan, settled=settled(everything, everything), concurrency=1)
    assert (found.already_there, found.failed_for_good, found.to_generate) == (6, 0, 0)
    assert (found.cost_usd, found.seconds) == (0, 0)


@pytest.mark.parametrize(
    ("pictures", "concurrency", "rpm", "seconds"),
    [
        (0, 8, None, 0),
        (1, 8, None, 24.34),
        (80, 8, None, 243.4),
        (80, 8, 60, 243.4),
        (80, 8, 5, 960),
        (80, 8, 0.5, 9600),
    ],
)
def test_time_is_bounded_by_concurrency_or_the_rate_limit(
    pictures: int, concurrency: int, rpm: float | None, seconds: float
) -> None:
    assert seconds_for(pictures, concurrency=concurrency, rpm=rpm) == pytest.approx(seconds)
