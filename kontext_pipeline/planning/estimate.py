"""What a plan will cost, in money and time, given what is there already. Pure: asks nobody."""

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
"""Some fingerprints: a set of them, or a function that takes a string array of fingerprints and says of each
whether it is one of them (a boolean array or sequence of the same length). The array that is asked about is
the same object for `settled` and then for `failed`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is there and what is to come.

    `rows` are manifest rows, `requested` the pictures they wish for, `pictures` the different ones among those;
    these are `already_there`, `failed_for_good` or `to_generate`. `cost_usd` is the list price of what is to
    be generated, `seconds` how long that takes without retries.
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
    """Estimate the rest of a plan: `settled` pictures are there, `failed` ones won't be tried again.

    `concurrency` is how many generations are in flight at once, `rpm` the requests a minute that the account
    allows (None: no limit). The price and the time of one generation are the source document's.
    """
    there: list[pa.Array] = []
    lost: list[pa.Array] = []
    for prints in _in_larger_pieces(array for _, array in plan.fingerprints()):
        is_there = _mask(settled, prints)
        is_lost = _mask(failed, prints) & ~is_there
        there.append(prints.filter(pa.array(is_there)))
        lost.append(prints.filter(pa.array(is_lost)))
    already_there, failed_for_good = _distinct(there), _distinct(lost)
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
    """Return how many seconds so many generations take: bounded by those in flight, or by the rate limit."""
    if pictures <= 0:
        return 0.0
    in_flight = pictures * TYPICAL_LATENCY_S / min(concurrency, pictures)
    return max(in_flight, pictures * 60 / rpm if rpm else 0.0)


def _in_larger_pieces(arrays: Iterable[pa.Array]) -> Iterator[pa.Array]:
    """Join small arrays, because who is asked about fingerprints answers many nearly as fast as one."""
    waiting: list[pa.Array] = []
    count = 0
    for array in arrays:
        waiting.append(array)
        count += len(array)
        if count >= _ASKED_AT_ONCE:
            yield pa.concat_arrays(waiting)
            waiting, count = [], 0
    if waiting:
        yield pa.concat_arrays(waiting)


def _mask(fingerprints: Fingerprints, prints: pa.Array) -> npt.NDArray[np.bool_]:
    if callable(fingerprints):
        return np.asarray(fingerprints(prints), dtype=bool)
    return np.fromiter((text in fingerprints for text in prints.to_pylist()), bool, len(prints))


def _distinct(arrays: list[Any]) -> int:
    return int(pc.count_distinct(pa.chunked_array(arrays, pa.string())).as_py())
