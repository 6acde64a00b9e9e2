"""What one looks at after a batch: counts, money, time and size, from its metadata table.

Belongs here: figures that are computed from a table. How they are shown is the caller's business.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.dataset.schema import STATUSES

SUMMED_UP: Final = (
    "fingerprint",
    "status",
    "status_code",
    "cost_usd",
    "cost_estimated",
    "possibly_charged_usd",
    "latency_s",
    "bytes",
)
"""The columns of a metadata table that its figures are computed from."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that pictures took, each counted once."""

    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """The figures of one metadata table, be it of a batch or of the whole dataset."""

    rows: int
    """Wishes: rows of the table."""
    pictures: int
    """Different pictures that are there. Less than the rows that succeeded where rows share one."""
    by_status: dict[str, int]
    """Rows by status; the four statuses are always there, in this order."""
    by_status_code: dict[int, int]
    """Rows by the HTTP status of their last answer, ascending; rows without an answer are in none."""
    cost_usd: float
    """USD billed; shared pictures count once."""
    possibly_charged_usd: float
    """USD that may have been billed for answers that were lost."""
    cost_estimated: bool
    """Part of the cost is the list price, because an answer named none."""
    latency_s: Latency | None
    """None where no picture is there."""
    bytes: int
    """Size of the pictures' files together."""

    @property
    def complete(self) -> bool:
        """Whether every row has its picture."""
        return self.by_status["succeeded"] == self.rows


def summarize(table: pa.Table) -> BatchSummary:
    """Return the figures of a metadata table (one batch's, or several concatenated), of which the columns
    `SUMMED_UP` are enough.
    """
    by_status = dict.fromkeys(STATUSES, 0) | _counts(table["status"])
    by_status_code = dict(sorted(_counts(table["status_code"]).items()))
    there = table.filter(pc.equal(table["status"], "succeeded")).select(["fingerprint", "latency_s", "bytes"])
    pictures = there.group_by("fingerprint").aggregate([("latency_s", "max"), ("bytes", "max")])
    latencies = pictures["latency_s_max"].drop_null().to_numpy()
    latency = None
    if len(latencies):
        p50, p90, p99 = np.percentile(latencies, [50, 90, 99]).tolist()
        latency = Latency(p50=p50, p90=p90, p99=p99, max=float(latencies.max()))
    return BatchSummary(
        rows=table.num_rows,
        pictures=pictures.num_rows,
        by_status=by_status,
        by_status_code=by_status_code,
        cost_usd=_exact_sum(table["cost_usd"]),
        possibly_charged_usd=_exact_sum(table["possibly_charged_usd"]),
        cost_estimated=bool(pc.any(table["cost_estimated"]).as_py()),
        latency_s=latency,
        bytes=pc.sum(pictures["bytes_max"]).as_py() or 0,
    )


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    counted = pc.value_counts(column.drop_null())
    return {item["values"]: item["counts"] for item in counted.to_pylist()}


def _exact_sum(column: pa.ChunkedArray) -> float:
    # Sixty times 0.1 is 6.0 on the bill, and 5.999999999999998 by plain addition.
    return math.fsum(column.drop_null().to_pylist())
