"""How fast the review page answers keys: a real Chromium on a dataset of 20,000 rows, with all pictures on the disk.

    python -m benchmarks.review [--rows 20000] [--keys 40]

The time of a key ends when the page has changed and the browser has painted the change: the second animation frame
after the key's event.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from upath import UPath

from kontext_pipeline.columns import GENERATION_SCHEMA, PLAN_SCHEMA
from kontext_pipeline.dataset.metadata import metadata_table
from kontext_pipeline.dataset.review.page_server import serve_in_thread
from kontext_pipeline.dataset.storage import write_batch

CHROMIUM = "/usr/bin/chromium"
BATCH = 1000
PICTURES = 200
"""Different pictures; the rows' files are links to these, each under the row's own name."""
SIZE = (1392, 752)
VARIANTS = 4

# Waits for the key's event and two frames, and returns the milliseconds in between.
TIMED = """() => { window.timed = new Promise((done) => document.addEventListener('keydown', () => {
  const begin = performance.now();
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begin)));
}, { once: true, capture: true })); }"""


def make_dataset(folder: Path, rows: int) -> UPath:
    """Write a dataset of so many rows, four variants each, and return its data directory."""
    (folder / "pictures").mkdir(parents=True)
    sources = [_picture(folder / "pictures" / f"{number}.jpg", number) for number in range(PICTURES)]
    started = datetime(2026, 1, 2, tzinfo=UTC)
    for first in range(0, rows, BATCH):
        key, made = f"demo-{first // BATCH:05}", []
        for number in range(first, min(rows, first + BATCH)):
            fingerprint = hashlib.sha256(str(number).encode()).hexdigest()
            output, source = sources[number % PICTURES], sources[number // VARIANTS % PICTURES]
            image_path = f"images/{fingerprint[:2]}/{fingerprint}.jpg"
            input_path = f"inputs/{source[1][:2]}/{source[1]}.jpg"
            _link(output[0], folder / image_path)
            _link(source[0], folder / input_path)
            finished = started + timedelta(seconds=3 * number)
            made.append(
                {
                    "manifest": "demo",
                    "row": number // VARIANTS + 1,
                    "id": f"photo-{number // VARIANTS:05}",
                    "batch": key,
                    "variant": number % VARIANTS + 1,
                    "prompt": f"Make it a rainy evening in street {number}, with neon signs in the wet road",
                    "input_image": f"photos/{number // VARIANTS}.jpg",
                    "aspect_ratio": "16:9",
                    "output_format": "jpg",
                    "safety_tolerance": 2,
                    "seed": number,
                    "fingerprint": fingerprint,
                    "status": "succeeded",
                    "status_code": 200,
                    "attempts": 1,
                    "cost_usd": 0.1,
                    "possibly_charged_usd": 0.0,
                    "latency_s": 20 + number % 17 * 0.7,
                    "image_path": image_path,
                    "image_sha256": output[1],
                    "width": SIZE[0],
                    "height": SIZE[1],
                    "started_at": finished - timedelta(seconds=25),
                    "finished_at": finished,
                    "input_path": input_path,
                    "input_kept_sha256": source[1],
                    "input_width": SIZE[0],
                    "input_height": SIZE[1],
                }
            )
        plan = pa.Table.from_pylist(made, schema=PLAN_SCHEMA)
        plan = plan.append_column("label", pa.array([("weather", "style", "object")[row["row"] % 3] for row in made]))
        generations = pa.Table.from_pylist(made, schema=GENERATION_SCHEMA).drop_columns(["batch"])
        write_batch(metadata_table(plan, generations, backend="segmind"), folder, key, made_from="benchmark")
    return UPath(folder)


def measure(page: Page, keys: int) -> dict[str, list[float]]:
    """Press every kind of key so many times, and return the milliseconds of each."""
    found: dict[str, list[float]] = {}

    def press(name: str, key: str, after: Callable[[], Any] | None = None) -> None:
        page.evaluate(TIMED)
        page.keyboard.press(key)
        found.setdefault(name, []).append(page.evaluate("() => window.timed"))
        # A person looks at a picture for a moment.
        page.wait_for_timeout(60)
        if after is not None:
            after()

    for _ in range(keys):
        press("next (n)", "n")
        press("keep (k)", "k")
        press("undo (u)", "u")
        press("previous (p)", "p")
        press("slider (s)", "s")
        press("side (b)", "b")
        press("reject (r): the dialog", "r", lambda: page.keyboard.press("Enter"))
        page.wait_for_timeout(60)
        press("pick a variant (1)", "1")
    for _ in range(3):
        press("last row (End)", "End")
        press("first row (Home)", "Home")
    return found


def timed_filters(page: Page) -> dict[str, float]:
    """Return the milliseconds of filters, from the choice to the new count of rows."""
    found = {}
    for name, value in (("batch", "demo-00003"), ("decision", "undecided"), ("order", "-latency_s")):
        before = time.perf_counter()
        with page.expect_response(lambda answer: "/api/view" in answer.url):
            page.locator(f"#filters select[name={name}]").select_option(value)
        found[f"filter by {name}"] = 1000 * (time.perf_counter() - before)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--keys", type=int, default=40)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = make_dataset(Path(temporary) / "data", chosen.rows)
        begin = time.perf_counter()
        with serve_in_thread(data_dir) as url, sync_playwright() as playwright:
            print(f"{chosen.rows:,} rows; the server is ready after {time.perf_counter() - begin:.2f} s")
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            begin = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("#facts .asked")
            print(f"Chromium {browser.version}; the first row is shown after {time.perf_counter() - begin:.2f} s\n")
            print(f"{'key':28} {'median':>8} {'p95':>8} {'worst':>8}  ms")
            for name, times in measure(page, chosen.keys).items():
                ordered = sorted(times)
                p95 = ordered[int(0.95 * (len(ordered) - 1))]
                print(f"{name:28} {statistics.median(times):8.1f} {p95:8.1f} {ordered[-1]:8.1f}")
            for name, milliseconds in timed_filters(page).items():
                print(f"{name:28} {milliseconds:8.1f}")
            browser.close()


def _picture(path: Path, number: int) -> tuple[Path, str]:
    small = np.random.default_rng(number).integers(0, 256, (12, 20, 3), np.uint8)
    Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def _link(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.hardlink_to(source)


if __name__ == "__main__":
    main()
