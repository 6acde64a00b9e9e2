"""What the rest of a plan will cost, in money and time."""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.segmind.model import LIST_PRICE_USD, TYPICAL_LATENCY_S

_ASKED_AT_ONCE: Final = 20_000

Fingerprints = Container[str] | Callable[[pa.Array], Sequence[bool] | pa.BooleanArray]
"""A set of fingerprints, or a function that takes a string array and returns for each element whether it is in the
set. The function for `settled` and then the one for `failed` get the same array object."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What exists and what will be generated.

    `rows` are rows of manifests, `requested` their pictures, `pictures` the different ones of these. Each of these is
    `already_there`, `failed_for_good` or `to_generate`. `cost_usd` is the list price of `to_generate`, `seconds` the
    time without retries.
    """

    rows: int
    requested: int
    pictures: int
    already_there: int
    failed_for_good: int
    to_generate: int
    cost_usd: float
    seconds: float


def estimate(
    plan: Plan,
    *,
    settled: Fingerprints,
    failed: Fingerprints = frozenset(),
    concurrency: int,
    rpm: float | None = None,
) -> Estimate:
    """Estimate the rest of a plan.

    Args:
        plan: The plan.
        settled: Requests whose picture exists.
        failed: Requests that won't be tried again.
        concurrency: Requests in flight at once.
        rpm: Requests a minute that the account allows; None: no limit.
    """
    there: list[pa.Array] = []
    lost: list[pa.Array] = []
    for prints in _joined(array for _, array in plan.fingerprints()):
        is_there = _mask(settled, prints)
        is_lost = _mask(failed, prints) & ~is_there
        there.append(prints.filter(pa.array(is_there)))
        lost.append(prints.filter(pa.array(is_lost)))
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


def _joined(arrays: Iterable[pa.Array]) -> Iterator[pa.Array]:
    """Join arrays to larger ones, because the ledger answers for many fingerprints nearly as fast as for one."""
    waiting: list[pa.Array] = []
    for array in arrays:
        waiting.append(array)
        if sum(map(len, waiting)) >= _ASKED_AT_ONCE:
            yield pa.concat_arrays(waiting)
            waiting = []
    if waiting:
        yield pa.concat_arrays(waiting)


def _mask(fingerprints: Fingerprints, prints: pa.Array) -> npt.NDArray[np.bool_]:
    if callable(fingerprints):
        return np.asarray(fingerprints(prints), dtype=bool)
    return np.fromiter((text in fingerprints for text in prints.to_pylist()), bool, len(prints))


def _count_distinct(arrays: list[Any]) -> int:
    return int(pc.count_distinct(pa.chunked_array(arrays, pa.string())).as_py())
