"""The same job done in two ways, each in a process of its own that reports what it used.

    python -m benchmarks.jobs bare|writing|pipeline JOB FOLDER

`bare` is a `requests` thread pool with kept connections that reads every answer and stores nothing. On
v2 it knows to the millisecond when a job will be done, which no real client does. `writing` is the same, but
writes each picture to a file, unflushed: what that costs differs between machines. `pipeline` is the
product: manifest, plan, ledger, image store, metadata tables.
"""

import argparse
import contextlib
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy

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


def in_own_process(kind: str, job: Job, *, before: Path | None = None, postgres: str | None = None) -> Used:
    """Do a job in a fresh process and return what it used.

    `kind` is bare, writing, pipeline, before (the pipeline of the checkout `before`) or postgres (the
    pipeline with its ledger in a new database of the server `postgres`).
    """
    if kind == "before":
        return finish(start("pipeline", job, checkout=before))
    if kind == "postgres":
        assert postgres is not None
        with _new_database(postgres) as url:
            return finish(start("pipeline", job, ledger_url=url))
    return finish(start(kind, job))


@contextlib.contextmanager
def _new_database(server: str) -> Iterator[str]:
    url = sqlalchemy.make_url(server)
    if url.drivername in ("postgresql", "postgres"):
        # SQLAlchemy's default is a driver that isn't installed here.
        url = url.set(drivername="postgresql+psycopg2")
    admin = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"kontext_benchmark_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    try:
        yield admin.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


def start(
    kind: str, job: Job, *, checkout: Path | None = None, ledger_url: str | None = None
) -> "subprocess.Popen[str]":
    """Begin a job in a fresh process, with the code of `checkout` where that is given."""
    folder = tempfile.mkdtemp(prefix="kontext-benchmark-job-")
    # Made here: what is measured there is the job.
    write(rows(job.rows, job.first_row), Path(folder) / f"rows-{job.first_row}.csv")
    command = [sys.executable, "-m", "benchmarks.jobs", kind, json.dumps(asdict(job)), folder]
    environment = os.environ | ({"KONTEXT_LEDGER_URL": ledger_url} if ledger_url else {})
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=checkout, env=environment)


def finish(process: "subprocess.Popen[str]") -> Used:
    """Wait for a job to be done."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a job failed: {process.args!r}")
    _empty(Path(str(process.args[-1])))  # type: ignore[index]
    return Used(**json.loads(output))


def _empty(folder: Path) -> None:
    """Give back the memory and the disk that a job's files take, without removing the files.

    ext4 looks at every file that was removed in the last half minute before it makes a new one, so that would
    slow the next job down; and on a virtual machine, memory that was never used before is dear to touch.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            os.truncate(path, 0)


def bare(job: Job, manifest: Path, *, write_to: Path | None = None) -> tuple[int, float]:
    """Do it with a thread pool. Return the number of pictures and the seconds of CPU before the first."""
    import requests
    from requests.adapters import HTTPAdapter

    with manifest.open() as file:
        asked = [
            {name: row[name] for name in ("prompt", "input_image", "aspect_ratio")} for row in csv.DictReader(file)
        ]
    bodies = [
        {**row, "seed": number, "output_format": "png", "safety_tolerance": 2} for number, row in enumerate(asked)
    ]
    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_maxsize=job.concurrency))
    headers = {"x-api-key": KEY}

    def get(url: str) -> requests.Response:
        answer = session.get(url, headers=headers, timeout=300)
        answer.raise_for_status()
        return answer

    def keep(body: dict[str, Any], picture: bytes) -> int:
        if write_to is not None:
            (write_to / f"{body['seed']}.png").write_bytes(picture)
        return len(picture)

    def call(body: dict[str, Any]) -> int:
        answer = session.post(f"{job.url}/{job.api}/flux-kontext-max", json=body, headers=headers, timeout=300)
        answer.raise_for_status()
        if job.api == "v1":
            return keep(body, answer.content)
        places = answer.json()
        time.sleep(job.latency_s)
        while get(places["status_url"]).json()["status"] != "COMPLETED":
            time.sleep(ASK_AGAIN_S)
        return keep(body, get(get(places["response_url"]).json()["output"]).content)

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
    parser.add_argument("kind", choices=["bare", "writing", "pipeline"])
    parser.add_argument("job", help="a Job, as JSON")
    parser.add_argument("folder", help="where the manifest is, and the data directory if the job names none")
    given = parser.parse_args()
    job = Job(**json.loads(given.job))
    manifest = Path(given.folder) / f"rows-{job.first_row}.csv"
    if given.kind == "pipeline":
        pictures, before = pipeline(job, manifest)
    else:
        write_to = manifest.parent if given.kind == "writing" else None
        pictures, before = bare(job, manifest, write_to=write_to)
    used = Used(_cpu_s() - before, before, _peak_mb(), pictures)
    assert pictures == job.rows, f"{pictures} pictures of {job.rows}"
    print(json.dumps(asdict(used)))


if __name__ == "__main__":
    _main()
