"""The same job done in two ways, each in a process of its own that reports what it used.

    python -m benchmarks.jobs bare|pipeline --url URL --rows N --concurrency C [...]

`bare` is a `requests` thread pool with kept connections that reads every answer and stores nothing. On
v2 it knows to the millisecond when a job will be done, which no real client does. `pipeline` is the
product: manifest, plan, ledger, image store, metadata tables.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from benchmarks.planning import rows, write

ASK_AGAIN_S = 0.02
KEY = "SG_0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done."""

    url: str
    rows: int
    concurrency: int
    api: Literal["v1", "v2"] = "v1"
    rpm: float | None = None
    latency_s: float = 0.0
    """For the bare pool on v2 alone."""
    batch_size: int = 100
    data_dir: str = ""
    first_row: int = 0


@dataclass(frozen=True, slots=True)
class Used:
    """What a process used of the processor (user and system, with its children), and its peak memory."""

    cpu_s: float
    """For the pictures: from the first one's turn to the last one's row in the dataset."""
    start_cpu_s: float
    """Before that: the interpreter, its imports, opening the ledger, planning."""
    peak_mb: float
    pictures: int


def in_own_process(kind: str, job: Job) -> Used:
    """Do a job in a fresh process and return what it used."""
    return finish(start(kind, job))


def start(kind: str, job: Job) -> "subprocess.Popen[str]":
    """Begin a job in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.jobs", kind, json.dumps(asdict(job))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> Used:
    """Wait for a job to be done."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a job failed: {process.args!r}")
    return Used(**json.loads(output))


def bare(job: Job, table: pa.Table) -> tuple[int, float]:
    """Do it with a thread pool. Return the number of pictures and the seconds of CPU before the first."""
    import requests
    from requests.adapters import HTTPAdapter

    bodies = [
        {**row, "seed": number, "output_format": "png", "safety_tolerance": 2}
        for number, row in enumerate(table.select(["prompt", "input_image", "aspect_ratio"]).to_pylist())
    ]
    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_maxsize=job.concurrency))
    headers = {"x-api-key": KEY}

    def get(url: str) -> requests.Response:
        answer = session.get(url, headers=headers, timeout=300)
        answer.raise_for_status()
        return answer

    def call(body: dict[str, Any]) -> int:
        answer = session.post(
            f"{job.url}/{job.api}/flux-kontext-max", json=body, headers=headers, timeout=300
        )
        answer.raise_for_status()
        if job.api == "v1":
            return len(answer.content)
        places = answer.json()
        time.sleep(job.latency_s)
        while get(places["status_url"]).json()["status"] != "COMPLETED":
            time.sleep(ASK_AGAIN_S)
        return len(get(get(places["response_url"]).json()["output"]).content)

    before = _cpu_s()
    with ThreadPoolExecutor(job.concurrency) as pool:
        return sum(size > 0 for size in pool.map(call, bodies)), before


def pipeline(job: Job, manifest: Path) -> tuple[int, float]:
    """Do it with the product. Return what `bare` does."""
    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.settings import Settings

    settings = Settings(
        backend="segmind",
        api_key=KEY,
        base_url=job.url,
        manifests=[str(manifest)],
        data_dir=job.data_dir or str(manifest.parent),
        api_version=job.api,
        concurrency=job.concurrency,
        batch_size=job.batch_size,
        rpm=job.rpm,
    )
    with Pipeline(settings) as product, product.client() as client:
        plan = product.plan()
        before = _cpu_s()
        report = product.run(plan, plan.batch_keys, client=client)
        assert report.stopped is None, report.stopped
        assert len(report.finished) == len(plan.batches)
        return report.progress.succeeded, before


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_mb() -> float:
    # Not ru_maxrss: a process inherits that of the one which started it.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["bare", "pipeline"])
    parser.add_argument("job", help="a Job, as JSON")
    given = parser.parse_args()
    job = Job(**json.loads(given.job))
    with tempfile.TemporaryDirectory(prefix="kontext-benchmark-") as folder:
        manifest = Path(folder) / f"rows-{job.first_row}.csv"
        table = rows(job.rows, job.first_row)
        write(table, manifest)
        pictures, before = bare(job, table) if given.kind == "bare" else pipeline(job, manifest)
        used = Used(_cpu_s() - before, before, _peak_mb(), pictures)
    assert pictures == job.rows, f"{pictures} pictures of {job.rows}"
    print(json.dumps(asdict(used)))


if __name__ == "__main__":
    _main()
