"""How fast pictures are measured, and how long the near-duplicates of many take.

    python -m benchmarks.quality [--count N] [--kind png|jpg] [--shared N] [--workers N] [--hashes N]

Each pair is an input picture and a generated one of a megapixel, photographs with noise of their own, of which PNG takes as
long to decode as of real ones. `--shared N`: N generated pictures have one input picture. CPU is that of the process.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from upath import UPath

from kontext_pipeline.columns import TABLE_SCHEMA
from kontext_pipeline.dataset.quality.batch_measuring import BatchMeasuring
from kontext_pipeline.dataset.quality.near_duplicates import near_pairs
from kontext_pipeline.dataset.quality.neighbours import update_neighbours
from kontext_pipeline.dataset.quality.thresholds import Thresholds
from kontext_pipeline.dataset.storage import write_batch

PHOTOS = sorted((Path(__file__).parents[1] / "data" / "photos").glob("*.jpg"))
SIZE = (1184, 880)
TARGET_S = 20 * 60 / 20_000
"""Seconds of a core that a picture may take."""
BATCH = 100


def photograph(number: int, random: np.random.Generator) -> Image.Image:
    """Return a photograph of a megapixel that no other is equal to."""
    with Image.open(PHOTOS[number % len(PHOTOS)]) as image:
        left, top = random.integers(0, 60, 2)
        part = image.convert("RGB").crop((left, top, image.width - left, image.height - top))
        large = np.asarray(part.resize(SIZE, Image.Resampling.LANCZOS), np.int16)
    return Image.fromarray((large + random.integers(-2, 3, large.shape)).clip(0, 255).astype(np.uint8))


def make(folder: Path, count: int, kind: str, shared: int) -> list[str]:
    """Write pairs and their metadata tables; return the batches' keys."""
    random = np.random.default_rng(0)
    for name in ("images", "inputs"):
        (folder / name).mkdir()
    rows = []
    for number in range(count):
        if number % shared == 0:
            source = f"inputs/{number}.{kind}"
            photograph(number // shared, random).save(folder / source, quality=92)
        photograph(number, random).save(folder / f"images/{number}.png", compress_level=6)
        rows.append(
            {
                "fingerprint": f"{number:064}",
                "manifest": "pairs",
                "row": number + 1,
                "variant": 1,
                "batch": f"pairs-{number // BATCH:05d}",
                "aspect_ratio": "match_input_image",
                "image_path": f"images/{number}.png",
                "image_sha256": f"{number:064}",
                "input_path": source,
                "input_kept_sha256": source.rjust(64, "0"),
            }
        )
    keys = sorted({row["batch"] for row in rows})
    for key in keys:
        table = pa.Table.from_pylist([row for row in rows if row["batch"] == key], schema=TABLE_SCHEMA)
        write_batch(table, folder, key, made_from="benchmark")
    return keys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--kind", choices=("png", "jpg"), default="png", help="format of the input pictures")
    parser.add_argument("--shared", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--hashes", type=int, default=30_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kontext-benchmark-") as name:
        keys = make(Path(name), options.count, options.kind, options.shared)
        megabytes = sum(path.stat().st_size for path in Path(name).glob("i*/*")) / 1e6
        print(f"{options.count} pictures with inputs ({options.kind}), {megabytes / options.count:.1f} MB a pair")
        measuring = BatchMeasuring(UPath(name), Thresholds(), workers=options.workers)
        cpu, wall = time.process_time(), time.perf_counter()
        done = sum(measuring.measure(key) for key in keys)
        cpu, wall = (time.process_time() - cpu) / done, (time.perf_counter() - wall) / done
        print(
            f"{cpu * 1000:.1f} ms CPU a picture: {1 / cpu:.1f} pictures/s a core, 20,000 in {cpu * 20_000 / 60:.1f} minutes"
        )
        print(f"{wall * 1000:.1f} ms a picture with {options.workers} workers; {TARGET_S * 1000:.0f} ms is the target")
        start = time.process_time()
        update_neighbours(UPath(name), Thresholds())
        print(f"near-duplicates and groups of these: {time.process_time() - start:.2f} s")
    hashes = np.random.default_rng(1).integers(0, 2**64, options.hashes, np.uint64)
    start = time.process_time()
    near_pairs(hashes)
    print(f"pairs among {options.hashes:,} hashes: {time.process_time() - start:.2f} s")


if __name__ == "__main__":
    main()
