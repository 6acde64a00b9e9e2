"""How long planning takes and how much memory it needs, and how both grow with the manifest.

    python -m benchmarks.planning [--rows 10000 100000 1000000] [--kinds csv jsonl parquet]

Each figure is of a fresh process, imports included. A manifest has a prompt of about 100 characters and an
image URL of about 80 in each row, an aspect ratio, and two columns of its own; all prompts differ.
  first      the first plan of the manifest
  again      the same manifest once more
  appended   after 1,000 rows were appended
  edited     after one prompt in the middle was edited
  resume     opening the plan and finding the pending ones, when all but 100 are settled
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

WORDS = [
    *("make", "her", "take", "a", "selfie", "in", "the", "streets", "of", "Freiburg", "lovely", "day", "out"),
    *(
        "golden",
        "hour",
        "light",
        "rain",
        "soft",
        "shadows",
        "same",
        "person",
        "red",
        "coat",
        "market",
        "square",
    ),
    *("old", "town", "film", "grain", "wide", "angle", "watercolour", "poster", "with", "bold", "letters"),
]
RATIOS = ["16:9", "1:1", "4:3", "match_input_image"]

_REPORT = """
import json, re, sys, time
def report(plan, seconds):
    # Not ru_maxrss: a process inherits that of the one which started it.
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    print(json.dumps({"seconds": seconds, "cpu": time.process_time(), "rss": int(peak) / 1024,
                      "batches": len(plan.batches), "pictures": plan.pictures}))
"""
_PLAN = """
start = time.perf_counter()
from pathlib import Path
from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.planner import make_plan
plan = make_plan(read_manifests([sys.argv[1]]), data_dir=Path(sys.argv[2]), backend="sandbox", seed=0,
                 batch_size=int(sys.argv[3]), clamp_safety_tolerance=False)
report(plan, time.perf_counter() - start)
"""
_RESUME = """
import pyarrow.parquet as pq
settled = set(pq.read_table(sys.argv[2] + "/settled.parquet")["fingerprint"].to_pylist())
start = time.perf_counter()
from pathlib import Path
from kontext_pipeline.planning.estimate import estimate
from kontext_pipeline.planning.plan import load_plan, requests_of
plan = load_plan(Path(sys.argv[2]))
rest = estimate(plan, settled=lambda prints: (settled, set()), concurrency=8)
assert rest.to_generate == 100, rest
key = plan.batch_keys[-1]
first = next(requests_of(plan.batch_table(key)))
report(plan, time.perf_counter() - start)
"""


def rows(count: int, first: int = 0) -> pa.Table:
    """Make rows `first` to `first + count` of the benchmark's manifest."""
    choose = random.Random(first)
    pieces = [" ".join(choose.choices(WORDS, k=8)) for _ in range(1000)]
    numbers = range(first, first + count)
    return pa.table(
        {
            "prompt": [f"{pieces[n % 997]}, {pieces[n % 991]}, number {n}" for n in numbers],
            "input_image": [
                f"https://images.example.org/photographs/originals/{n % 50021:032x}.jpg?width=2048" for n in numbers
            ],
            "aspect_ratio": [RATIOS[n % 4] for n in numbers],
            "label": [WORDS[n % 23] for n in numbers],
            "split": [f"{n % 10:03d}" for n in numbers],
        }
    )


def write(table: pa.Table, path: Path) -> None:
    """Write a manifest, of the kind that its name says."""
    if path.suffix == ".csv":
        pa_csv.write_csv(table, path)
    elif path.suffix == ".jsonl":
        with path.open("w") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in table.to_pylist())
    else:
        pq.write_table(table, path)


def measured(program: str, *arguments: str) -> dict[str, float]:
    """Run a program in a fresh process and return what it measured of itself."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _REPORT + program, *arguments], check=True, capture_output=True, text=True
    )
    figures: dict[str, float] = json.loads(done.stdout)
    figures["process"] = time.perf_counter() - started
    return figures


def print_figures(kind: str, count: int, batch_size: int) -> None:
    """Plan one manifest in all the ways, and print a line for each."""
    with tempfile.TemporaryDirectory(prefix="kontext-benchmark-") as name:
        folder = Path(name)
        manifest = folder / f"manifest.{kind}"

        def step(what: str, program: str = _PLAN) -> None:
            figures = measured(program, str(manifest), str(folder), str(batch_size))
            size = f"{manifest.stat().st_size / 1e6:.0f} MB {kind}"
            print(
                f"| {count:,} | {size} | {what} | {figures['process']:.2f} | {figures['cpu']:.2f} | "
                f"{figures['rss']:.0f} | {figures['process'] / count * 1e6:.1f} | {figures['batches']} |",
                flush=True,
            )

        table = rows(count)
        write(table, manifest)
        step("first")
        step("again")
        table = pa.concat_tables([table, rows(1000, count)])
        write(table, manifest)
        step("appended")
        prompts = table["prompt"].to_pylist()
        prompts[count // 2] = "another prompt, written later"
        write(table.set_column(0, "prompt", pa.array(prompts)), manifest)
        step("edited")
        plan = pq.ParquetFile(folder / "plan" / "manifest.parquet")
        prints = plan.read(columns=["fingerprint"])
        pq.write_table(prints.slice(0, len(prints) - 100), folder / "settled.parquet")
        step("resume", _RESUME)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["csv", "parquet"], choices=["csv", "jsonl", "parquet"])
    parser.add_argument("--batch-size", type=int, default=1000)
    options = parser.parse_args()
    print("| rows | manifest | step | seconds | CPU s | peak RSS MB | us a row | batches |")
    print("|---:|---|---|---:|---:|---:|---:|---:|")
    for kind in options.kinds:
        for count in options.rows:
            print_figures(kind, count, options.batch_size)


if __name__ == "__main__":
    main()
