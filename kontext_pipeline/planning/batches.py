"""Which row goes into which batch.

A batch is a Dagster partition, and its pictures may exist already. So a row that was planned before stays in its
batch, and a new row goes into a new batch, even if the last one isn't full.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

COMFORTABLE_BATCHES: Final = 10_000
"""With more batches, Dagster's page of partitions takes longer than two seconds to load."""
MOST_BATCHES: Final = 100_000
"""Most partitions of one asset that Dagster's maintainers recommend."""

Numbers = npt.NDArray[np.int64]


def batch_key(manifest: str, number: int) -> str:
    """Return the key of a batch, which is the name of its partition."""
    return f"{manifest}-{number:05d}"


def assign(
    ids: pa.Array,
    rows: Numbers,
    sizes: Numbers,
    *,
    batch_size: int,
    first_new: int,
    before: pa.Table | None = None,
) -> Numbers:
    """Return the batch number of each row of a manifest.

    A row that was there `before` (the same id) keeps its batch. A new row at the position of a row that is gone takes
    over its batch, so an edited row stays in its batch. All other rows go into new batches.

    Args:
        ids: Unique ids.
        rows: Ascending row numbers.
        sizes: How many pictures each row requests. They stay together, even if they are more than `batch_size`.
        batch_size: Most pictures of a new batch.
        first_new: Number of the first new batch.
        before: The earlier plan: `id`, `row` and number of the `batch` of each row, sorted by `row`.
    """
    numbers = np.full(len(rows), -1, np.int64)
    if before is not None:
        predecessors = _predecessors(ids, rows, before)
        kept = predecessors >= 0
        numbers[kept] = np.asarray(before["batch"])[predecessors[kept]]
    new = np.flatnonzero(numbers < 0)
    numbers[new] = first_new + _packed(sizes[new], batch_size)
    return numbers


def _predecessors(ids: pa.Array, rows: Numbers, before: pa.Table) -> Numbers:
    """Return for each row the index of the earlier row whose batch it gets, or -1."""
    found = np.asarray(pc.fill_null(pc.index_in(ids, value_set=before["id"]), -1)).astype(np.int64)
    earlier_rows = np.asarray(before["row"])
    taken = np.zeros(len(earlier_rows), bool)
    taken[found[found >= 0]] = True
    new = np.flatnonzero(found < 0)
    if not len(new) or taken.all():
        return found

    same_row = np.minimum(np.searchsorted(earlier_rows, rows[new]), len(earlier_rows) - 1)
    is_edited = (earlier_rows[same_row] == rows[new]) & ~taken[same_row]
    found[new[is_edited]] = same_row[is_edited]
    taken[same_row[is_edited]] = True

    # If rows above were inserted or deleted, an edited row follows the same row as before.
    for index in new[~is_edited].tolist():
        after = found[index - 1] + 1 if index else 0
        if (index == 0 or after > 0) and after < len(taken) and not taken[after]:
            found[index] = after
            taken[after] = True
    return found


def _packed(sizes: Numbers, batch_size: int) -> Numbers:
    """Return a batch number from 0 for each row: up to `batch_size` pictures, or one row with more."""
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
