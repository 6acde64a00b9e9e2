"""Which row goes to which batch, so that what was planned once stays where it is.

A batch is a Dagster partition and has been generated, perhaps: rows that were planned before stay in their
batch, rows that are new go to new batches, also when the last one isn't full.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

COMFORTABLE_BATCHES: Final = 10_000
"""Up to here Dagster's partitions page loads within a second or two."""
MOST_BATCHES: Final = 100_000
"""What Dagster's maintainers recommend at most for one asset's partitions."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Assigned:
    """What was planned before, sorted by row: each row's id, its number, and the number of its batch."""

    ids: pa.Array
    rows: Numbers
    batches: Numbers


def batch_key(manifest: str, number: int) -> str:
    """Return the key of a manifest's batch number `number`: its partition's name."""
    return f"{manifest}-{number:05d}"


def assign(
    ids: pa.Array,
    rows: Numbers,
    sizes: Numbers,
    *,
    batch_size: int,
    first_new: int,
    before: Assigned | None = None,
) -> Numbers:
    """Return the batch number of each manifest row.

    `ids` are unique, `rows` rising row numbers, `sizes` how many pictures each row wishes for. A row that was
    there `before` keeps its batch. A row that wasn't takes the batch of the row that is gone from its place,
    so an edited row stays where it was. All others fill new batches, from `first_new` on, up to `batch_size`
    pictures; a row's pictures stay together, even where they are more than that.
    """
    numbers = np.full(len(rows), -1, np.int64)
    if before is not None and len(before.rows):
        places = _places(ids, rows, before)
        kept = places >= 0
        numbers[kept] = before.batches[places[kept]]
    new = np.flatnonzero(numbers < 0)
    numbers[new] = first_new + _packed(sizes[new], batch_size)
    return numbers


def _places(ids: pa.Array, rows: Numbers, before: Assigned) -> Numbers:
    """Return for each row the index of the earlier row whose batch it has, or -1."""
    places = np.asarray(pc.fill_null(pc.index_in(ids, value_set=before.ids), -1)).astype(np.int64)
    taken = np.zeros(len(before.rows), bool)
    taken[places[places >= 0]] = True
    new = np.flatnonzero(places < 0)
    if not len(new) or taken.all():
        return places

    same_row = np.minimum(np.searchsorted(before.rows, rows[new]), len(before.rows) - 1)
    is_edited = (before.rows[same_row] == rows[new]) & ~taken[same_row]
    places[new[is_edited]] = same_row[is_edited]
    taken[same_row[is_edited]] = True

    # Rows above may have come or gone: then the place is the one after the row above's.
    for index in new[~is_edited].tolist():
        after = places[index - 1] + 1 if index else 0
        if (index == 0 or after > 0) and after < len(taken) and not taken[after]:
            places[index] = after
            taken[after] = True
    return places


def _packed(sizes: Numbers, batch_size: int) -> Numbers:
    """Number rows from 0 so that each number has up to `batch_size` pictures, or one row of more."""
    if len(sizes) == 0 or sizes.max() == 1:
        return np.arange(len(sizes), dtype=np.int64) // batch_size
    ends = np.cumsum(sizes)
    numbers = np.empty(len(sizes), np.int64)
    start = number = 0
    while start < len(sizes):
        full = (ends[start - 1] if start else 0) + batch_size
        end = max(start + 1, int(np.searchsorted(ends, full, side="right")))
        numbers[start:end] = number
        start, number = end, number + 1
    return numbers
