"""Plans and generations, as small as a test wants them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from kontext_pipeline.columns import GENERATION_SCHEMA, PLAN_SCHEMA

_START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def fingerprint(name: str | int) -> str:
    """Return a fingerprint that is easy to recognize."""
    return str(name).rjust(64, "0")


def plan(names: Sequence[str | int], *, batch: str = "demo-00000", manifest: str = "demo", **own: pa.Array) -> pa.Table:
    """Return a plan's batch with one row for each of `names`; equal names are the same picture."""
    rows = [
        {
            "manifest": manifest,
            "row": i + 1,
            "id": f"{manifest}-{i + 1}",
            "batch": batch,
            "variant": 1,
            "prompt": f"Make it {name}",
            "input_image": "photos/a.jpg",
            "input_source": "/somewhere/photos/a.jpg",
            "input_sha256": "a" * 64,
            "aspect_ratio": "16:9",
            "output_format": "png",
            "safety_tolerance": 2,
            "safety_tolerance_asked": 6,
            "seed": 2**32 - 1,
            "fingerprint": fingerprint(name),
        }
        for i, name in enumerate(names)
    ]
    table = pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)
    for name, values in own.items():
        table = table.append_column(name, values)
    return table


def generations(*changes: dict[str, Any]) -> pa.Table:
    """Return generations that succeeded but for the changes; each names its `fingerprint`."""
    rows = [
        {
            "status": "succeeded",
            "status_code": 200,
            "error": None,
            "attempts": 1,
            "cost_usd": 0.1,
            "cost_estimated": False,
            "possibly_charged_usd": 0.0,
            "latency_s": 24.34,
            "request_id": "req-1",
            "image_path": "images/00/x.png",
            "image_sha256": "b" * 64,
            "width": 1392,
            "height": 752,
            "bytes": 1000,
            "run_id": "run-1",
            "started_at": _START,
            "finished_at": _START + timedelta(seconds=25),
        }
        | change
        | {"fingerprint": fingerprint(change["fingerprint"])}
        for change in changes
    ]
    return pa.Table.from_pylist(rows, schema=GENERATION_SCHEMA).drop_columns(["batch"])
