"""Exports of many small pairs: how long each layout takes, and how much memory; from nothing, again, and after growth.

    python -m benchmarks.exports [--pairs N] [--layouts parquet webdataset imagefolder pairs] [--folder DIR]

The pictures are PNGs of some 400 bytes, two of each pair, in batches of 1,000. Their disk and its cache decide the seconds;
the memory is that of the samples, which real pictures don't change much: an export holds 64 MB of them at most.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from kontext_pipeline.columns import GENERATION_SCHEMA, PLAN_SCHEMA
from kontext_pipeline.dataset.metadata import metadata_table
from kontext_pipeline.dataset.storage import write_batch

BATCH = 1_000
LAYOUTS = ["parquet", "webdataset", "imagefolder", "pairs"]
PEAK = """
import json, resource, sys
from pathlib import Path
from kontext_pipeline.cli import main
try:
    main(sys.argv[2:], standalone_mode=False)
except SystemExit:
    pass
Path(sys.argv[1]).write_text(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
"""
_START = datetime(2026, 1, 1, tzinfo=UTC)


def picture(number: int) -> bytes:
    """Return a small picture that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def add_batches(data_dir: Path, first: int, count: int) -> None:
    """Add batches of pairs to a data directory; two pairs have one input picture."""
    for batch in range(first, first + count):
        rows = [row(data_dir, batch, number) for number in range(BATCH)]
        generations = pa.Table.from_pylist(rows, schema=GENERATION_SCHEMA).drop_columns(["batch"])
        table = metadata_table(pa.Table.from_pylist(rows, schema=PLAN_SCHEMA), generations, backend="segmind")
        write_batch(table, data_dir, f"demo-{batch:05}", made_from="benchmark")


def row(data_dir: Path, batch: int, number: int) -> dict[str, Any]:
    """Return a row, whose pictures are written."""
    place = batch * BATCH + number
    fingerprint = hashlib.sha256(str(place).encode()).hexdigest()
    image, source = picture(2 * place), picture(2 * (place // 2) + 1)
    kept = hashlib.sha256(source).hexdigest()
    paths = f"images/{fingerprint[:2]}/{fingerprint}.png", f"inputs/{kept[:2]}/{kept}.png"
    for path, data in zip(paths, (image, source), strict=True):
        (data_dir / path).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / path).write_bytes(data)
    return {
        "manifest": "demo",
        "row": place + 1,
        "id": f"photo-{place}",
        "batch": f"demo-{batch:05}",
        "variant": 1,
        "prompt": f"Make picture {place} look as if it were taken on a rainy evening, and keep everything else as it is",
        "input_image": f"photos/{place // 2}.png",
        "input_sha256": kept,
        "aspect_ratio": "match_input_image",
        "output_format": "png",
        "safety_tolerance": 2,
        "safety_tolerance_asked": 2,
        "seed": place,
        "fingerprint": fingerprint,
        "status": "succeeded",
        "status_code": 200,
        "attempts": 1,
        "cost_usd": 0.1,
        "cost_estimated": False,
        "possibly_charged_usd": 0.0,
        "latency_s": 24.34,
        "image_path": paths[0],
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "width": 12,
        "height": 8,
        "bytes": len(image),
        "started_at": _START + timedelta(seconds=place),
        "input_path": paths[1],
        "input_kept_sha256": kept,
        "input_width": 12,
        "input_height": 8,
    }


def measured(data_dir: Path, out: Path, layout: str) -> tuple[float, float]:
    """Export in a process of its own. Return the seconds that it took and its peak memory in MB."""
    peak = out.with_suffix(".peak")
    arguments = ["export", "--data-dir", str(data_dir), "--format", layout, "--out", str(out), "--validation", "0.05"]
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", PEAK, str(peak), *arguments], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    return seconds, float(json.loads(peak.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS, choices=LAYOUTS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    batches = options.pairs // BATCH
    with tempfile.TemporaryDirectory(prefix="kontext-benchmark-", dir=options.folder) as name:
        folder = Path(name)
        add_batches(folder / "data", 0, batches)
        print(f"{batches * BATCH:,} pairs; seconds and peak MB of the process")
        print("| layout | new | again | grown by a hundredth |")
        print("|---|--:|--:|--:|")
        grown = max(1, batches // 100)
        cells: dict[str, list[str]] = {layout: [] for layout in options.layouts}
        for step in range(3):
            if step == 2:
                add_batches(folder / "data", batches, grown)
            for layout in options.layouts:
                seconds, peak = measured(folder / "data", folder / layout, layout)
                cells[layout].append(f"{seconds:,.0f} s, {peak:,.0f} MB")
        for layout, its in cells.items():
            print(f"| {layout} | {' | '.join(its)} |")
            shutil.rmtree(folder / layout)


if __name__ == "__main__":
    main()
