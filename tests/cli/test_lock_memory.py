"""The lock of many rows is written and compared in the memory that the lock of few rows takes."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest
from upath import UPath

from kontext_pipeline.columns import PLAN_SCHEMA, TABLE_SCHEMA
from kontext_pipeline.dataset.storage import write_batch
from kontext_pipeline.planning.batches import batch_key
from kontext_pipeline.planning.plan_file import FORMAT, Footer, write_plan_file

BATCH = 1000
MB = 2**20

MEASURED = """
import json, resource, sys
from kontext_pipeline.commands.lock import lock, verify
from kontext_pipeline.settings import load_settings
settings = load_settings(data_dir=sys.argv[1])
lock(settings)
verify(settings, None)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""


def columns(schema: pa.Schema, number: int) -> dict[str, pa.Array]:
    """Return a batch of rows that succeeded: only what the lock is made from differs."""
    rows = range(number * BATCH, (number + 1) * BATCH)
    prints = [sha256(str(row).encode()).hexdigest() for row in rows]
    values: dict[str, object] = {
        "manifest": "rows",
        "row": [row + 1 for row in rows],
        "id": [f"row-{row}" for row in rows],
        "batch": batch_key("rows", number),
        "variant": 1,
        "prompt": "make it winter",
        "seed": list(rows),
        "fingerprint": prints,
        "status": "succeeded",
        "image_path": [f"images/{one[:2]}/{one}.png" for one in prints],
        "image_sha256": prints,
        "finished_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return {
        field.name: pa.array(values[field.name], field.type)
        if isinstance(values.get(field.name), list)
        else pa.repeat(pa.scalar(values.get(field.name), field.type), BATCH)
        for field in schema
    }


def dataset(folder: Path, batches: int) -> Path:
    numbers = range(batches)
    nothing = {"first": [], "count": 0}
    footer = Footer(
        origin={"format": FORMAT, "backend": "sandbox", "digest": "d" * 64, "seed": 0},
        source="rows.csv",
        shown="rows.csv",
        pictures_digest="",
        numbers=list(numbers),
        sizes=[BATCH] * batches,
        next_number=batches,
        rows=batches * BATCH,
        pictures=batches * BATCH,
        text_to_image=batches * BATCH,
        above_tolerance=nothing,
        match_without_image=nothing,
        notes=[],
    )
    (folder / "plan").mkdir(parents=True)
    plan = (columns(PLAN_SCHEMA, number) for number in numbers)
    write_plan_file(folder / "plan" / "rows.parquet", pa.schema([]), plan, footer)
    for number in numbers:
        table = pa.table(columns(TABLE_SCHEMA, number), schema=TABLE_SCHEMA)
        write_batch(table, UPath(folder), batch_key("rows", number), made_from="a test")
    return folder


def peak_of(folder: Path) -> tuple[int, str]:
    """Return the peak memory of a process that locks and verifies, bytes, and its last line about the rows."""
    done = subprocess.run([sys.executable, "-c", MEASURED, str(folder)], capture_output=True, text=True, check=True)
    *_, rows, _, peak = done.stdout.splitlines()
    return int(json.loads(peak)), rows


@pytest.mark.long
def test_a_lock_of_many_rows_takes_no_more_memory(tmp_path: Path) -> None:
    few, _ = peak_of(dataset(tmp_path / "few", 5))
    many, rows = peak_of(dataset(tmp_path / "many", 150))
    assert rows.startswith("150,000 of 150,000 rows are as in the lock")
    assert many - few < 60 * MB, (few / MB, many / MB)
