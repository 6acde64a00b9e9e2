"""One command that measures everything the product promises about speed, and prints it as tables.

    python -m benchmarks [--quick] [--only fill cpu memory rate adapt resume startup planning inputs]
                         [--before CHECKOUT] [--postgres URL]

Whatever is compared is measured in turns (A B A B A B) and given as the median, so that a drifting
machine hurts both alike. `--quick` measures less of everything, in minutes rather than half an hour. `--before`
names a checkout of another version, which does the same jobs in the same turns. `--postgres` names a server,
for the same jobs with the ledger there.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import input_pictures, planning, resuming
from benchmarks.jobs import Job, Used, finish, in_own_process, start
from benchmarks.server import Books, RunningServer, Settings, running_server

PNG_BYTES = 1_500_000
KINDS = [("bare", "v1"), ("pipeline", "v1"), ("bare", "v2"), ("pipeline", "v2")]
WITH_WRITING = [(who, api) for api in ("v1", "v2") for who in ("bare", "writing", "pipeline")]


@dataclass(frozen=True, slots=True)
class Measured:
    """One job: what it used, and what the server saw of it."""

    used: Used
    books: Books


@dataclass(frozen=True, slots=True)
class Others:
    """What the pipeline is measured beside: another version, another database."""

    before: Path | None = None
    postgres: str | None = None

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """The kinds of job that these add."""
        names = [name for name, given in (("before", self.before), ("postgres", self.postgres)) if given]
        return [(name, api) for api in ("v1", "v2") for name in names]


OTHERS = Others()


def in_turns(
    server: RunningServer, settings: Settings, job: Job, kinds: Sequence[tuple[str, str]], rounds: int
) -> dict[tuple[str, str], list[Measured]]:
    """Do one job in several ways, `rounds` times in turns."""
    found: dict[tuple[str, str], list[Measured]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            found[kind].append(once(server, settings, job, *kind))
    return found


def once(server: RunningServer, settings: Settings, job: Job, who: str, api: str) -> Measured:
    """Do a job once."""
    server.set(settings)
    used = in_own_process(
        who,
        before=OTHERS.before,
        postgres=OTHERS.postgres,
        job=Job(
            url=server.url,
            rows=job.rows,
            concurrency=job.concurrency,
            api="v2" if api == "v2" else "v1",
            latency_s=settings.latency_s,
        ),
    )
    return Measured(used, server.books())


def median(of: Sequence[Measured], figure: Callable[[Measured], float]) -> float:
    """The median of one figure."""
    return statistics.median(figure(one) for one in of)


def table(title: str, columns: Sequence[str]) -> None:
    """Print a table's head."""
    print(f"\n**{title}**\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(*cells: object) -> None:
    """Print a table's row."""
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def fill(server: RunningServer, *, quick: bool) -> None:
    """How full the places in flight are kept."""
    table(
        "Always full: ideal (rows x latency / C) as a share of the span from first request to last answer",
        ["latency, C, rows", "", "median", "all", "/ bare v1", "/ bare", "polls a row"],
    )
    scales = [(2.434, 41, 123 if quick else 410, 3), (0.5, 64, 640 if quick else 1600, 3)]
    if not quick:
        # The largest plan itself: 1000 requests a minute.
        scales.append((24.34, 406, 1218, 1))
    for latency_s, concurrency, count, rounds in scales:

        def share(one: Measured, ideal: float = count * latency_s / concurrency) -> float:
            return ideal / one.books.span_s

        job = Job(url=server.url, rows=count, concurrency=concurrency)
        found = in_turns(server, Settings(latency_s=latency_s), job, KINDS + OTHERS.kinds, 1 if quick else rounds)
        for (who, api), measured in found.items():
            here = median(measured, share)
            row(
                f"{latency_s} s, {concurrency}, {count}",
                f"{who} {api}",
                f"{here:.3f}",
                " ".join(f"{share(one):.3f}" for one in measured),
                f"{here / median(found['bare', 'v1'], share):.3f}",
                f"{here / median(found['bare', api], share):.3f}",
                f"{median(measured, lambda one: one.books.polls / one.used.pictures):.1f}",
            )


def cpu(server: RunningServer, *, quick: bool) -> None:
    """What a picture costs the processor."""
    table(
        "Cheap: CPU of the whole process tree for a picture, ms",
        ["PNG", "", "median", "all", "beyond bare", "beyond writing", "start, CPU s"],
    )
    for size in (PNG_BYTES, 32_000):
        job = Job(url=server.url, rows=160 if quick else 480, concurrency=32)
        settings = Settings(latency_s=1.0, picture_bytes=size)
        found = in_turns(server, settings, job, WITH_WRITING + OTHERS.kinds, 1 if quick else 3)

        def cost(one: Measured) -> float:
            return one.used.cpu_s / one.used.pictures * 1000

        for (who, api), measured in found.items():
            here = median(measured, cost)
            row(
                f"{size / 1e6:g} MB",
                f"{who} {api}",
                f"{here:.2f}",
                " ".join(f"{cost(one):.2f}" for one in measured),
                f"{here - median(found['bare', api], cost):+.2f}",
                f"{here - median(found['writing', api], cost):+.2f}",
                f"{median(measured, lambda one: one.used.start_cpu_s):.2f}",
            )


def memory(server: RunningServer, *, quick: bool) -> None:
    """Peak memory: with many in flight, and with many rows."""
    table("Flat memory: peak RSS, MB", ["in flight", "PNG", "rows", "", "peak RSS"])
    many = Settings(latency_s=8.0, picture_bytes=PNG_BYTES)
    for who, api in KINDS[1::2] if quick else KINDS:
        # The pictures of 20,000 rows take 30 GB until they are measured.
        for count in (1000,) if quick or who == "bare" else (1000, 20_000):
            one = once(server, many, Job(url=server.url, rows=count, concurrency=400), who, api)
            row(one.books.most_in_flight, "1.5 MB", f"{count:,}", f"{who} {api}", f"{one.used.peak_mb:.0f}")
    for concurrency, latency_s in ((32, 0.1), (400, 2.0)):
        job = Job(url=server.url, rows=0, concurrency=concurrency)
        for api in ("v1", "v2"):
            for count in (1000, 4000 if quick else 20_000):
                many_rows = Settings(latency_s=latency_s)
                one = once(server, many_rows, replace(job, rows=count), "pipeline", api)
                row(
                    one.books.most_in_flight,
                    "0.032 MB",
                    f"{count:,}",
                    f"pipeline {api}",
                    f"{one.used.peak_mb:.0f}",
                )


def rate(server: RunningServer, *, quick: bool) -> None:
    """How well a rate limit is filled by two processes on one ledger."""
    limit, window_s, count = (500, 30.0, 400) if quick else (1000, 60.0, 1100)
    rpm = limit / window_s * 60
    table(
        f"Rate limit: KONTEXT_RPM={rpm:g}, two processes, the server refuses beyond {limit} in any {window_s:g} s",
        ["requests", "share of the rate", "429"],
    )
    server.set(Settings(latency_s=0.3, limit=limit, window_s=window_s, sliding=True))
    with tempfile.TemporaryDirectory(prefix="kontext-benchmark-") as folder:
        jobs = [
            start(
                "pipeline",
                Job(server.url, count, 16, rpm=rpm, data_dir=folder, first_row=number * count),
            )
            for number in range(2)
        ]
        for job in jobs:
            finish(job)
    books = server.books()
    sent_a_minute = (books.answered - 1) / (books.last_request - books.first_request) * 60
    row(books.answered, f"{sent_a_minute / rpm:.4f}", books.refused)


def adapt(server: RunningServer, *, quick: bool) -> None:
    """How well a limit is used that no setting names."""
    limit, window_s, latency_s = (250, 15.0, 2.434) if quick else (1000, 60.0, 2.434)
    windows = 3 if quick else 5
    table(
        f"No setting: the server refuses beyond {limit} in a window of {window_s:g} s; {latency_s} s a generation",
        ["", "C", "rows", "share of what the account allows", "429"],
    )
    for concurrency, apis in ((64, ("v1", "v2")), (256, ("v1",))):
        for api in apis:
            settings = Settings(latency_s=latency_s, limit=limit, window_s=window_s)
            job = Job(url=server.url, rows=limit * windows, concurrency=concurrency)
            one = once(server, settings, job, "pipeline", api)
            # A window begins with its first request; the last one is used up as fast as C allows.
            ideal = (windows - 1) * window_s + max(0, limit - concurrency) / concurrency * latency_s
            span = one.books.last_request - one.books.first_request
            row(f"pipeline {api}", concurrency, job.rows, f"{ideal / span:.3f}", one.books.refused)


def resume(server: RunningServer, *, quick: bool) -> None:
    """How soon a large plan goes on."""
    table(
        "Resuming: `kontext run` of a plan of which all but the last 100 rows are done",
        ["rows", "first request, s", "all done, s", "peak RSS, MB", "us a row to the first request"],
    )
    for count in (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000):
        server.set(Settings(latency_s=0.1))
        resumed = resuming.resume(server, count)
        row(
            f"{count:,}",
            f"{resumed.first_request_s:.1f}",
            f"{resumed.done_s:.1f}",
            f"{resumed.peak_mb:.0f}",
            f"{resumed.first_request_s / count * 1e6:.1f}",
        )


def startup(_server: RunningServer, *, quick: bool) -> None:
    """How long it takes before anything happens."""
    table("Start-up: wall clock, s", ["", "median", "all"])
    programs = {
        "python -c pass": ["-c", "pass"],
        "kontext --help": ["-m", "kontext_pipeline.cli", "--help"],
        "import dagster": ["-c", "import dagster"],
        "load kontext_pipeline.definitions": ["-c", "from kontext_pipeline.definitions import defs; defs()"],
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(4 if quick else 8):
        for name, arguments in programs.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            # The first turn is not counted: it compiles what later ones find compiled.
            if turn:
                times[name].append(time.perf_counter() - started)
    for name, taken in times.items():
        row(name, f"{statistics.median(taken):.2f}", " ".join(f"{one:.2f}" for one in taken))
    adds = [ours - theirs for ours, theirs in zip(*list(times.values())[:-3:-1], strict=True)]
    row("the code location adds", f"{statistics.median(adds):.2f}", " ".join(f"{one:.2f}" for one in adds))


def plan(_server: RunningServer, *, quick: bool) -> None:
    """How long planning takes."""
    print("\n**Big manifests: planning**\n", flush=True)
    counts = ["10000", "100000"] + ([] if quick else ["1000000"])
    subprocess.run([sys.executable, "-m", planning.__name__, "--rows", *counts], check=True)


def inputs(server: RunningServer, *, quick: bool) -> None:
    """What keeping input pictures takes."""
    table("Input pictures: kept, and uploaded", ["command", "pictures", "MB kept", "peak RSS, MB", "s", "ms a picture"])
    count = 1000 if quick else 10_000
    server.set(Settings(latency_s=0.05))
    for command in ("inputs", "run"):
        kept = input_pictures.keep(server, command, count)
        each = f"{kept.seconds / count * 1000:.1f}"
        row(
            f"`kontext {command}`",
            f"{count:,}",
            f"{kept.kept_mb:,.0f}",
            f"{kept.peak_mb:.0f}",
            f"{kept.seconds:.0f}",
            each,
        )


MEASUREMENTS = {
    "fill": fill,
    "cpu": cpu,
    "memory": memory,
    "rate": rate,
    "adapt": adapt,
    "resume": resume,
    "startup": startup,
    "planning": plan,
    "inputs": inputs,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--only", nargs="+", choices=list(MEASUREMENTS), default=list(MEASUREMENTS))
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another version, for fill and cpu")
    parser.add_argument("--postgres", metavar="URL", help="a server for the ledger, for fill and cpu")
    options = parser.parse_args()
    global OTHERS  # noqa: PLW0603  set once, before anything is measured
    OTHERS = Others(options.before and options.before.resolve(), options.postgres)
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}, load average "
        f"{os.getloadavg()[0]:.1f} at the start; `{' '.join(['python -m benchmarks', *sys.argv[1:]])}`"
    )
    # As the command sets it.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    # The rows of the other jobs name pictures that nobody has.
    os.environ.setdefault("KONTEXT_KEEP_INPUTS", "false")
    # Bytecode is kept, as it is where a product is installed.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="kontext-benchmark-") as folder, running_server() as server:
        # Everything goes here and is removed at the end, also by the processes that this one starts.
        tempfile.tempdir = os.environ["TMPDIR"] = folder
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
        subprocess.run([sys.executable, "-c", "import kontext_pipeline.cli, kontext_pipeline.pipeline"], check=True)
        for name in options.only:
            MEASUREMENTS[name](server, quick=options.quick)
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
