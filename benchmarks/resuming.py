"""Taking up a large plan again of which nearly everything is done: how soon its first request is sent."""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.planning import rows, write
from benchmarks.server import RunningServer

KEY = "SG_0123456789abcdef"
LEFT = 100
LINKS = 30_000
WATCHED = """
import atexit, json, sys
from pathlib import Path
from kontext_pipeline.cli import main
def report():
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    Path(report_to).write_text(json.dumps(int(peak) / 1024))
report_to = sys.argv[-1]
atexit.register(report)
main(sys.argv[1:-1])
"""
_PLANNED = """
import sys
from pathlib import Path
from kontext_pipeline.generation.ledger import Ledger
from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.planner import make_plan
folder = Path(sys.argv[1])
make_plan(read_manifests([str(folder / "rows.parquet")]), data_dir=folder, backend="segmind", seed=0,
          batch_size=int(sys.argv[2]), clamp_safety_tolerance=False)
Ledger(f"sqlite:///{folder / 'ledger.db'}", backend="segmind").close()
"""


@dataclass(frozen=True, slots=True)
class Resumed:
    """Seconds from the start of the command."""

    first_request_s: float
    done_s: float
    peak_mb: float


def resume(server: RunningServer, count: int, *, batch_size: int = 1000) -> Resumed:
    """Plan `count` rows, enter all but the last 100 into the ledger as done, and run the rest."""
    with tempfile.TemporaryDirectory(prefix="kontext-benchmark-") as name:
        folder = Path(name)
        write(rows(count), folder / "rows.parquet")
        subprocess.run([sys.executable, "-c", _PLANNED, name, str(batch_size)], check=True)
        _enter_as_done(folder, count - LEFT)
        command = [
            *(sys.executable, "-c", WATCHED, "run", str(folder / "rows.parquet"), "--data-dir", name),
            *("--batch-size", str(batch_size), "--concurrency", "16", "--yes", str(folder / "peak.json")),
        ]
        environment = {**os.environ, "SEGMIND_API_KEY": KEY, "SEGMIND_BASE_URL": server.url}
        started = time.time()
        subprocess.run(command, check=True, env=environment, capture_output=True)
        done = time.time()
        books = server.books()
        assert books.answered == LEFT, books
        peak = float(json.loads((folder / "peak.json").read_text()))
        return Resumed(books.first_request - started, done - started, peak)


def _enter_as_done(folder: Path, count: int) -> None:
    """What the ledger and the image store would hold after so many pictures, without making them."""
    import pyarrow.parquet as pq

    def done() -> Iterator[tuple[str, str]]:
        left = count
        file = pq.ParquetFile(folder / "plan" / "rows.parquet")
        for group in range(file.num_row_groups):
            batch = file.read_row_group(group, columns=["fingerprint", "batch"])
            pairs = zip(batch["fingerprint"].to_pylist(), batch["batch"].to_pylist(), strict=True)
            yield from list(pairs)[:left]
            left -= min(left, batch.num_rows)

    with sqlite3.connect(folder / "ledger.db") as ledger:
        ledger.executemany(
            "INSERT INTO generations (fingerprint, batch, backend, status, retryable, image_path, image_sha256, width, "
            "height, bytes) VALUES (?1, ?2, 'segmind', 'succeeded', 0, 'images/' || substr(?1, 1, 2) || '/' || ?1 || "
            "'.png', ?1, 1024, 1024, 1500000)",
            done(),
        )
        ledger.execute(
            "INSERT INTO attempts (fingerprint, batch, backend, run_id, claimant, api_version, state, outcome, price, "
            "cost, cost_estimated, status_code, request_id, latency_s, day, started_at, finished_at) SELECT fingerprint, "
            "batch, backend, 'earlier', 'earlier', 'v1', 'charged', 'succeeded', 100000, 100000, 0, 200, fingerprint, "
            "24.34, '2025-01-01', 1735689600000000, 1735689624340000 FROM generations"
        )
        ledger.execute(
            "INSERT INTO spending (backend, day, run_id, charged, unknown, open) "
            "SELECT 'segmind', '2025-01-01', 'earlier', SUM(cost), 0, 0 FROM attempts"
        )
        fingerprints = [row[0] for row in ledger.execute("SELECT fingerprint FROM generations")]
    ledger.close()
    _enter_pictures(folder / "images", fingerprints)


def _enter_pictures(images: Path, fingerprints: list[str]) -> None:
    """Make the names of the pictures, many of one empty file: a run looks for the names."""
    for number in range(256):
        (images / f"{number:02x}").mkdir(parents=True, exist_ok=True)
    source = images / "source"
    for number, fingerprint in enumerate(fingerprints):
        if number % LINKS == 0:
            # A file system bounds the names of one file.
            source = images / f"source-{number}"
            source.touch()
        os.link(source, images / fingerprint[:2] / f"{fingerprint}.png")
