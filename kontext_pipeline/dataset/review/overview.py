"""The overview of a review: coverage, counts, and the data of the plots of spend and latency."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.dataset.review.review_rows import ReviewRows, label_text
from kontext_pipeline.dataset.summary import STATUSES, summarize
from kontext_pipeline.escaping import displayable

SPEND_POINTS: Final = 200
"""Most points of the plot of spend."""
LATENCY_BINS: Final = 30


def coverage(rows: ReviewRows) -> dict[str, Any]:
    """Return how many pictures are decided, of how many, and how."""
    succeeded = _succeeded(rows)
    choices = rows.choices()[succeeded]
    kept, rejected = int((choices == 1).sum()), int((choices == 2).sum())
    reasons: dict[str, int] = {}
    for fingerprint in _taken(rows.table["fingerprint"], succeeded[choices == 2]).to_pylist():
        decision = rows.decision(fingerprint)
        reason = displayable(decision.reason) if decision else ""
        reasons[reason] = reasons.get(reason, 0) + 1
    return {
        "pictures": len(succeeded),
        "kept": kept,
        "rejected": rejected,
        "undecided": len(succeeded) - kept - rejected,
        "rejected_by_reason": dict(sorted(reasons.items(), key=lambda item: -item[1])),
    }


def coverage_by_batch(rows: ReviewRows) -> list[dict[str, Any]]:
    """Return for each batch its pictures, and how many of them are kept and rejected."""
    succeeded = _succeeded(rows)
    batches = _taken(rows.table["batch"], succeeded).dictionary_encode()
    codes, choices = batches.indices.to_numpy(zero_copy_only=False), rows.choices()[succeeded]
    names = batches.dictionary.to_pylist()
    counts = [np.bincount(codes[wanted], minlength=len(names)) for wanted in (choices >= 0, choices == 1, choices == 2)]
    return [
        {"batch": displayable(name), "pictures": int(all_), "kept": int(kept), "rejected": int(rejected)}
        for name, all_, kept, rejected in zip(names, *counts, strict=True)
    ]


def facets(rows: ReviewRows) -> dict[str, Any]:
    """Return the values that each filter offers, with their counts of rows."""
    issues = pc.list_flatten(rows.table["issues"].combine_chunks())
    by_status = _counts(rows.table["status"])
    return {
        "batches": _counts(rows.table["batch"]),
        "statuses": {status: by_status[status] for status in STATUSES if status in by_status},
        "issues": _counts(issues),
        "columns": {displayable(name): _counts(rows.table[name]) for name in rows.labels},
        "orders": [*rows.measures, "cost_usd", "latency_s"],
    }


def figures(rows: ReviewRows) -> dict[str, Any]:
    """Return the sums of the whole, and the data of the plots: spend over time, and latencies."""
    summary = summarize(rows.table)
    return {
        "rows": summary.rows,
        "pictures": summary.pictures,
        "cost_usd": round(summary.cost_usd, 6),
        "possibly_charged_usd": round(summary.possibly_charged_usd, 6),
        "spend": _spend(rows.table),
        "latency": _latency(rows.table),
    }


def _succeeded(rows: ReviewRows) -> Any:
    first = rows.first_of_each_picture()
    status = _taken(rows.table["status"], first)
    return first[pc.equal(status, "succeeded").to_numpy(zero_copy_only=False)]


def _taken(column: pa.ChunkedArray, numbers: Any) -> pa.Array:
    return column.take(pa.array(numbers, pa.int64())).combine_chunks()


def _counts(column: Any) -> dict[str, int]:
    counted = pc.value_counts(column.drop_null()).to_pylist()
    return {label_text(one["values"]): one["counts"] for one in sorted(counted, key=lambda one: str(one["values"]))}


def _spend(table: pa.Table) -> list[tuple[float, float]]:
    """Return points of the sum of costs: seconds since 1970, USD."""
    spent = table.select(["finished_at", "cost_usd"]).filter(table["finished_at"].is_valid())
    times = spent["finished_at"].cast(pa.int64()).to_numpy() / 1e6
    order = np.argsort(times, kind="stable")
    times, sums = times[order], np.cumsum(spent["cost_usd"].to_numpy()[order])
    if len(times) > SPEND_POINTS:
        chosen = np.unique(np.linspace(0, len(times) - 1, SPEND_POINTS).astype(int))
        times, sums = times[chosen], sums[chosen]
    return [(round(float(time), 3), round(float(sum_), 6)) for time, sum_ in zip(times, sums, strict=True)]


def _latency(table: pa.Table) -> dict[str, Any] | None:
    values = table["latency_s"].drop_null().to_numpy()
    if not len(values):
        return None
    p50, p90, p99 = np.percentile(values, [50, 90, 99]).tolist()
    counts, edges = np.histogram(values, bins=LATENCY_BINS, range=(0, max(float(values.max()), 1e-9)))
    return {
        "p50": round(p50, 3),
        "p90": round(p90, 3),
        "p99": round(p99, 3),
        "edges": [round(float(edge), 4) for edge in edges],
        "counts": [int(count) for count in counts],
    }
