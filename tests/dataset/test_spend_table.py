"""The table and the plot of what was spent."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from upath import UPath

from kontext_pipeline.dataset.spend_plot import spend_plot
from kontext_pipeline.dataset.spend_table import SPEND_SCHEMA, spend_table, sums_by, write_spend_table


def row(**changes: Any) -> dict[str, Any]:
    return {
        "backend": "segmind",
        "day": "2026-11-25",
        "run_id": "run",
        "batch": "photos-00000",
        "kind": "generation",
        "attempts": 1,
        "pictures": 1,
        "charged_usd": 0.1,
        "possibly_charged_usd": 0.0,
        "reserved_usd": 0.0,
        **changes,
    }


def test_batches_of_a_manifest_are_summed_up_to_the_millionth() -> None:
    rows = [row(batch=f"a-b-{number:05d}", charged_usd=0.1) for number in range(1000)]
    table = spend_table([*rows, row(batch="other-00001"), row(batch="a-b-123456", possibly_charged_usd=0.000001)])
    assert table.schema == SPEND_SCHEMA
    assert table.select(["manifest", "attempts", "charged_usd", "possibly_charged_usd"]).to_pylist() == [
        {"manifest": "a-b", "attempts": 1001, "charged_usd": 100.1, "possibly_charged_usd": 0.000001},
        {"manifest": "other", "attempts": 1, "charged_usd": 0.1, "possibly_charged_usd": 0.0},
    ]
    (by_day,) = sums_by(table.to_pylist(), "day")
    assert by_day["charged_usd"] == 100.2


def test_the_table_is_written_to_any_data_directory(tmp_path: Path) -> None:
    table = spend_table([row()])
    for folder in (tmp_path, UPath("memory://spend")):
        path = write_spend_table(table, folder)
        assert pq.read_table(pa.BufferReader(path.read_bytes())).equals(table)
    assert [path.name for path in tmp_path.iterdir()] == ["spend.parquet"]


def size_of(plot: str | None) -> tuple[int, int]:
    assert plot is not None
    assert len(plot) < 45_000
    with Image.open(BytesIO(base64.b64decode(plot.partition("base64,")[2][:-1]))) as image:
        image.load()
        return image.size


def test_a_plot_of_anything_is_drawn_and_stays_small() -> None:
    assert spend_plot(spend_table([])) is None
    assert spend_plot(spend_table([row(charged_usd=0.0, reserved_usd=0.1)])) is None
    assert size_of(spend_plot(spend_table([row(charged_usd=0.0, possibly_charged_usd=0.1)]))) == (760, 300)
    days = [f"2026-{month:02d}-{day:02d}" for month in range(1, 13) for day in range(1, 29)]
    many = [
        row(
            backend=backend,
            day=day,
            batch=f"{name}\u202e<b>{'x' * 90}-00000",
            run_id=f"{backend}{day}",
            charged_usd=cost,
        )
        for backend in ("sandbox", "segmind")
        for day in days
        for name, cost in (("a", 1e-6), ("b", 12345.678901), ("c", 0.1), ("d", 3.0), ("e", 1.0), ("f", 9.0), ("g", 7.0))
    ]
    assert size_of(spend_plot(spend_table(many))) == (760, 600)
    # Many runs on one day.
    assert size_of(spend_plot(spend_table(row(run_id=f"run-{number}") for number in range(500)))) == (760, 300)
