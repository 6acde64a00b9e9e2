"""What the rest of a plan will cost, in money and time."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.segmind.model import LIST_PRICE_USD, TYPICAL_LATENCY_S

Settled = Callable[[Sequence[str]], tuple[Set[str], Set[str]]]
"""Given fingerprints: those that succeeded, and those that a run doesn't try again. May contain other fingerprints too."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What exists and what will be generated.

    `rows` are rows of manifests, `requested` their pictures, `pictures` the different ones of these. Each of these is
    `already_there`, `failed_for_good` or `to_generate`. `cost_usd` is the list price of `to_generate`, `seconds` the
    time without retries. `gone` of `to_generate` were generated before, and their files are gone.
    """

    rows: int
    requested: int
    pictures: int
    already_there: int
    failed_for_good: int
    to_generate: int
    cost_usd: float
    seconds: float
    gone: int = 0


def estimate(plan: Plan, *, settled: Settled, concurrency: int, rpm: float | None = None) -> Estimate:
    """Estimate the rest of a plan, with `concurrency` requests in flight and `rpm` a minute (None: no limit).

    `settled` tells the requests whose picture exists, and those that won't be tried again.
    """
    there: list[pa.Array] = []
    lost: list[pa.Array] = []
    for prints in plan.fingerprints():
        texts = prints.to_pylist()
        succeeded, given_up = settled(texts)
        there.append(pa.array([text for text in texts if text in succeeded], pa.string()))
        lost.append(pa.array([text for text in texts if text in given_up and text not in succeeded], pa.string()))
    already_there, failed_for_good = _count_distinct(there), _count_distinct(lost)
    to_generate = plan.pictures - already_there - failed_for_good
    return Estimate(
        rows=plan.rows,
        requested=plan.requested,
        pictures=plan.pictures,
        already_there=already_there,
        failed_for_good=failed_for_good,
        to_generate=to_generate,
        cost_usd=round(to_generate * LIST_PRICE_USD, 6),
        seconds=seconds_for(to_generate, concurrency=concurrency, rpm=rpm),
    )


def seconds_for(pictures: int, *, concurrency: int, rpm: float | None = None) -> float:
    """Return the seconds that generations take: limited by the concurrency or by the rate."""
    if pictures <= 0:
        return 0.0
    in_flight = pictures * TYPICAL_LATENCY_S / min(concurrency, pictures)
    return max(in_flight, pictures * 60 / rpm if rpm else 0.0)


def _count_distinct(arrays: list[pa.Array]) -> int:
    return int(pc.count_distinct(pa.chunked_array(arrays, pa.string())).as_py())
