"""Keeping many input pictures: how long it takes, and how much memory, while their rows are generated too.

The pictures come from the benchmark's server, each with bytes of its own. `kontext inputs` keeps them all; `kontext run`
keeps them ahead of the requests, and uploads each.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.resuming import KEY, WATCHED
from benchmarks.server import RunningServer


@dataclass(frozen=True, slots=True)
class Kept:
    """Seconds of the whole command, its peak memory, and the size of what it kept."""

    seconds: float
    peak_mb: float
    kept_mb: float


def keep(server: RunningServer, command: str, count: int) -> Kept:
    """Run `kontext inputs` or `kontext run` over `count` rows, each with an input picture of its own."""
    with tempfile.TemporaryDirectory(prefix="kontext-benchmark-") as name:
        folder = Path(name)
        with (folder / "rows.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["prompt", "input_image"])
            writer.writerows((f"edit {number}", f"{server.url}/inputs/{number}.jpg") for number in range(count))
        options = ["--concurrency", "64", "--yes"] if command == "run" else []
        arguments = [command, str(folder / "rows.csv"), "--data-dir", name, *options, str(folder / "peak.json")]
        environment = {
            **os.environ,
            "SEGMIND_API_KEY": KEY,
            "SEGMIND_BASE_URL": server.url,
            "KONTEXT_KEEP_INPUTS": "true",
            "KONTEXT_PRIVATE_INPUTS": "true",
        }
        started = time.time()
        subprocess.run([sys.executable, "-c", WATCHED, *arguments], check=True, env=environment, capture_output=True)
        seconds = time.time() - started
        kept = [path.stat().st_size for path in folder.glob("inputs/??/*")]
        assert len(kept) == count, len(kept)
        return Kept(seconds, float(json.loads((folder / "peak.json").read_text())), sum(kept) / 1e6)
