"""A batch's figures: rows are counted as rows, pictures and money once."""

import pyarrow as pa
import pytest

from kontext_pipeline.dataset.metadata import metadata_table
from kontext_pipeline.dataset.summary import Latency, summarize
from tests.dataset.tables import generations, plan


def test_figures_of_a_mixed_batch() -> None:
    made = generations(
        {"fingerprint": "a", "latency_s": 10.0, "bytes": 100},
        {"fingerprint": "b", "latency_s": 20.0, "bytes": 200, "cost_usd": 0.08, "cost_estimated": True},
        {"fingerprint": "c", "status": "failed", "status_code": 400, "cost_usd": 0.0, "bytes": None},
        {
            "fingerprint": "d",
            "status": "unknown",
            "status_code": None,
            "cost_usd": None,
            "possibly_charged_usd": 0.1,
            "latency_s": 99.0,
            "bytes": None,
        },
    )
    summary = summarize(metadata_table(plan("aaabcde"), made, backend="sandbox"))
    assert summary.rows == 7
    assert summary.pictures == 2
    assert summary.by_status == {"succeeded": 4, "failed": 1, "pending": 1, "unknown": 1}
    assert list(summary.by_status) == ["succeeded", "failed", "pending", "unknown"]
    assert summary.by_status_code == {200: 4, 400: 1}
    assert summary.cost_usd == 0.18
    assert summary.cost_estimated
    assert summary.possibly_charged_usd == 0.1
    assert summary.bytes == 300
    latency = summary.latency_s
    assert latency is not None
    assert (latency.p50, latency.max) == (15.0, 20.0)
    assert not summary.complete


def test_percentiles_are_over_pictures() -> None:
    made = generations(*({"fingerprint": i, "latency_s": float(i)} for i in range(101)))
    table = metadata_table(plan([*range(101), *[0] * 500]), made, backend="sandbox")
    assert summarize(table).latency_s == Latency(p50=50.0, p90=90.0, p99=99.0, max=100.0)


def test_money_adds_up_exactly() -> None:
    made = generations(*({"fingerprint": i} for i in range(60)))
    summary = summarize(metadata_table(plan(range(60)), made, backend="sandbox"))
    assert summary.cost_usd == 6.0
    assert summary.complete


@pytest.mark.parametrize("names", ["", "ab"])
def test_nothing_there_yet(names: str) -> None:
    summary = summarize(metadata_table(plan(names), generations(), backend="sandbox"))
    assert (summary.rows, summary.pictures, summary.cost_usd, summary.bytes) == (len(names), 0, 0.0, 0)
    assert summary.latency_s is None
    assert not summary.cost_estimated
    assert summary.by_status_code == {}


def test_batches_can_be_summed_up_together() -> None:
    made = generations({"fingerprint": "a"})
    paid = metadata_table(plan("a"), made, backend="sandbox")
    shared = metadata_table(plan("a"), made, backend="sandbox", charged=[])
    summary = summarize(pa.concat_tables([paid, shared]))
    assert (summary.rows, summary.pictures, summary.cost_usd, summary.bytes) == (2, 1, 0.1, 1000)
