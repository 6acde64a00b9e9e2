"""Figures of a metadata table: counts, costs, latencies and sizes.

How the figures are shown is the caller's task.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

STATUSES: Final = ("succeeded", "failed", "pending", "unknown")
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
"""The columns of a metadata table that `summarize` reads."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of the seconds that pictures took; each picture counts once."""

    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """The figures of one metadata table, of one batch or of several.

    Attributes:
        rows: Rows of the table.
        pictures: Different pictures that exist. Fewer than the succeeded rows where rows share a picture.
        by_status: Rows by status. Always has the four statuses, in the order of `STATUSES`.
        by_status_code: Rows by the HTTP status of the last answer, ascending, without rows that have none.
        cost_usd: USD billed; a shared picture counts once.
        possibly_charged_usd: USD that may have been billed for answers that were lost.
        cost_estimated: Whether a part of the cost is the list price, because an answer named none.
        latency_s: None if there is no picture.
        bytes: Size of all files of pictures.
    """

    rows: int
    pictures: int
    by_status: dict[str, int]
    by_status_code: dict[int, int]
    cost_usd: float
    possibly_charged_usd: float
    cost_estimated: bool
    latency_s: Latency | None
    bytes: int

    @property
    def complete(self) -> bool:
        """Whether every row has its picture."""
        return self.by_status["succeeded"] == self.rows


def summarize(table: pa.Table) -> BatchSummary:
    """Return the figures of a metadata table, of which the columns `SUMMED_UP` suffice."""
    by_status = dict.fromkeys(STATUSES, 0) | _counts(table["status"])
    by_status_code = dict(sorted(_counts(table["status_code"]).items()))
    succeeded = table.filter(pc.equal(table["status"], "succeeded"))
    pictures = (
        succeeded.select(["fingerprint", "latency_s", "bytes"])
        .group_by("fingerprint")
        .aggregate([("latency_s", "max"), ("bytes", "max")])
    )
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
    # Sixty times 0.1 is 6.0 on the bill, but 5.999999999999998 by ordinary addition.
    return math.fsum(column.drop_null().to_pylist())
