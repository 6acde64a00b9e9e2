"""Test support: Dagster as it is deployed, with a code server, a daemon and a webserver, asked over GraphQL."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, Final

import psutil
import pyarrow as pa
import requests

from kontext_pipeline.dataset.storage import read_batch
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.report import BackendBooks, read_books
from kontext_pipeline.generation.ledger.run_processes import ProcessDetector
from tests.orchestration.conftest import KEY, RANGE_END, RANGE_START, REPOSITORY
from tests.sandbox.running import Sandbox, running_sandbox

LOCATION: Final = "kontext"
"""Name of the code location in `deploy/workspace.yaml`."""
DEPLOY: Final = REPOSITORY / "deploy"
ENDED: Final = {"SUCCESS", "FAILURE", "CANCELED"}
BACKFILL_ENDED: Final = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}
DEADLINE_S: Final = 300.0
"""How long a state is waited for, seconds: a multiple of what a busy machine needs."""
DAEMON: Final = """
from dagster._daemon import controller
from dagster._daemon.cli import main
# Dagster's own daemon, but that it looks at backfills every 2 s in place of 30.
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2
main()
"""


@dataclass
class Deployment:
    """The processes of a Dagster instance with its home, a data directory and a sandbox."""

    folder: Path
    sandbox: Sandbox
    environment: dict[str, str]
    location: str = LOCATION
    file: Path | None = None
    """A file with definitions in place of the shipped ones."""
    queue: str = ""
    """The queue of Celery, where a worker is started."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    session: requests.Session = field(default_factory=requests.Session)

    @property
    def home(self) -> Path:
        return self.folder / "dagster-home"

    @property
    def data_dir(self) -> Path:
        return self.folder / "output"

    def write_manifest(self, name: str, rows: int, *, words: str = "a lighthouse") -> None:
        """Write the one manifest, with a prompt of its own for each row."""
        folder = self.folder / "manifests"
        folder.mkdir(exist_ok=True)
        lines = [f"{words} of {name} with number {index}." for index in range(rows)]
        (folder / f"{name}.csv").write_text("\n".join(["prompt", *lines, ""]))

    # --- processes

    def start(self, *names: str) -> None:
        """Start these programs, by default the code server, the daemon and the webserver, and wait until they answer."""
        for name in names or ("code", "daemon", "webserver"):
            if name in ("code", "webserver"):
                self.ports[name] = self.ports.get(name) or free_port()
            if name == "dev":
                self.ports["webserver"] = free_port()
            if name == "code":
                self.environment["KONTEXT_CODE_PORT"] = str(self.ports["code"])
            log = (self.folder / f"{name}.log").open("ab")
            self.processes[name] = subprocess.Popen(
                self._command(name), cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
            log.close()
            if name == "code":
                wait_for(lambda: "yes" if _listens(self.ports["code"]) else "no", {"yes"}, self.said)
        if "webserver" in self.ports:
            wait_for(self._answers, {"yes"}, self.said)

    def _command(self, name: str) -> list[str]:
        """Return the command of the shipped systemd unit, for this machine and with free ports; for `dev`, `dagster dev`."""
        if name == "dev":
            workspace = str(REPOSITORY / "workspace.yaml")
            port = str(self.ports["webserver"])
            return [str(Path(sys.executable).with_name("dagster")), "dev", "-w", workspace, "--port", port]
        unit = (DEPLOY / "systemd" / f"kontext-{name}.service").read_text()
        [start] = re.findall("^ExecStart=(.*)$", unit, re.MULTILINE)
        start = start.replace("/opt/kontext/.venv/bin", str(Path(sys.executable).parent))
        start = start.replace("/opt/kontext/deploy", str(DEPLOY)).replace(
            "--port 3000", f"--port {self.ports.get(name)}"
        )
        if self.file is not None:
            start = start.replace("-m kontext_pipeline.definitions", f"-f {self.file}")
            start = start.replace(str(DEPLOY / "celery"), str(self.file.parent)).replace(
                "-q kontext", f"-q {self.queue}"
            )
        program, *arguments = shlex.split(Template(start).substitute(self.environment))
        return [sys.executable, "-c", DAEMON, *arguments] if name == "daemon" else [program, *arguments]

    def _answers(self) -> str:
        try:
            answer = self.ask(
                "{ locationStatusesOrError { ... on WorkspaceLocationStatusEntries { entries { loadStatus } } } }"
            )
        except (requests.RequestException, ValueError):
            return "no"
        return "yes" if [entry["loadStatus"] for entry in answer["entries"]] == ["LOADED"] else "not loaded"

    def tree(self) -> list[psutil.Process]:
        """Return every process of this deployment that lives: those that were started here, and all below them."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("DAGSTER_HOME") == str(self.home):
                    found[process.pid] = process
        found.pop(os.getpid(), None)
        return list(found.values())

    def kill(self) -> None:
        """Kill every process with SIGKILL, as when the machine goes down."""
        while victims := self.tree():
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.send_signal(signal.SIGKILL)
            psutil.wait_procs(victims, timeout=30)
        for process in self.processes.values():
            process.wait(30)

    def stop(self, name: str) -> None:
        """Stop a program with all processes below it, as systemd stops a service. Wait until they have ended."""
        main = self._process(name)
        for process in (service := [*main.children(recursive=True), main]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(service, timeout=DEADLINE_S)
        assert not alive, self.said()

    def kill_service(self, name: str) -> None:
        """Kill a program with all processes below it."""
        main = self._process(name)
        for process in (service := [main, *main.children(recursive=True)]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(service, timeout=30)

    def _process(self, name: str) -> psutil.Process:
        return psutil.Process(self.processes[name].pid)

    def run_processes(self) -> list[psutil.Process]:
        """Return the processes of runs: those that a code server starts by `spawn`. Steps may have others."""
        spawned = {
            process.pid: process for process in self.tree() if "multiprocessing.spawn" in " ".join(process.cmdline())
        }
        return [process for process in spawned.values() if process.ppid() not in spawned]

    def at_work(self) -> int:
        """Return how many processes of runs the ledger shows that are not dead."""
        with contextlib.closing(Database(self.ledger_url, make=False)) as database:
            return sum(not process.dead for process in ProcessDetector().look(database))

    def said(self) -> str:
        """Return the ends of what the programs wrote, for a failed test."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    # --- what a person asks for

    def ask(self, query: str, **variables: Any) -> Any:
        """Return the one value that a GraphQL query asks for."""
        url = f"http://127.0.0.1:{self.ports['webserver']}/graphql"
        answer = self.session.post(url, json={"query": query, "variables": variables}, timeout=120).json()
        assert "errors" not in answer, answer["errors"]
        [value] = answer["data"].values()
        return value

    def launch(self, job: str, *, tags: Mapping[str, str] | None = None, config: Any = None) -> str:
        """Launch a job as the launchpad does. Return the run's id."""
        selector = {"repositoryLocationName": self.location, "repositoryName": "__repository__", "jobName": job}
        metadata = {"tags": [{"key": key, "value": value} for key, value in (tags or {}).items()]}
        answer = self.ask(
            "mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) "
            "{ __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
            params={"selector": selector, "runConfigData": config or {}, "executionMetadata": metadata},
        )
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def launch_range(self, first: str, last: str, *, tags: Mapping[str, str] | None = None) -> str:
        return self.launch("augment", tags={RANGE_START: first, RANGE_END: last, **(tags or {})})

    def launch_backfill(self, keys: Sequence[str], *, config: Any = None) -> str:
        """Launch a backfill of images and tables, as *Materialize* does. Return its id."""
        params: dict[str, Any] = {
            "partitionNames": list(keys),
            "assetSelection": [{"path": ["images"]}, {"path": ["metadata"]}],
        }
        if config:
            params["runConfigData"] = config
        answer = self.ask(
            "mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) "
            "{ __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            params=params,
        )
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return str(answer["backfillId"])

    def terminate(self, run: str) -> None:
        answer = self.ask("mutation ($id: String!) { terminateRun(runId: $id) { __typename } }", id=run)
        assert answer["__typename"] == "TerminateRunSuccess", answer

    # --- what a person sees

    def status(self, run: str) -> str:
        answer = self.ask("query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run)
        return str(answer["status"])

    def end_of(self, run: str) -> str:
        return wait_for(lambda: self.status(run), ENDED, self.said)

    def plan(self) -> None:
        assert self.end_of(self.launch("plan_manifests")) == "SUCCESS", self.said()

    def backfill_status(self, backfill: str) -> str:
        query = (
            "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
        )
        return str(self.ask(query, id=backfill)["status"])

    def end_of_backfill(self, backfill: str) -> str:
        return wait_for(lambda: self.backfill_status(backfill), BACKFILL_ENDED, self.said)

    def runs(self, *, backfill: str | None = None) -> list[dict[str, Any]]:
        """Return id, status and job of each run, the latest first."""
        tags = [{"key": "dagster/backfill", "value": backfill}] if backfill else []
        answer = self.ask(
            "query ($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs "
            "{ results { runId status jobName } } } }",
            filter={"tags": tags} if tags else None,
        )
        return list(answer["results"])

    def partitions(self, asset: str, prefix: str = "") -> dict[str, str]:
        """Return what the UI shows of each partition of an asset: `materialized`, `failed`, `materializing` or `missing`."""
        answer = self.ask(
            "query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { assetPartitionStatuses "
            "{ ... on DefaultPartitionStatuses { materializedPartitions failedPartitions materializingPartitions "
            "unmaterializedPartitions } } } } }",
            key={"path": [asset]},
        )["assetPartitionStatuses"]
        shown = dict.fromkeys(answer["unmaterializedPartitions"], "missing")
        for state in ("materialized", "failed", "materializing"):
            shown |= dict.fromkeys(answer[f"{state}Partitions"], state)
        return {key: state for key, state in shown.items() if key.startswith(prefix)}

    def ticks(self, instigator: str) -> list[dict[str, Any]]:
        """Return the ticks of a sensor or schedule, the latest first."""
        selector = {"repositoryLocationName": self.location, "repositoryName": "__repository__", "name": instigator}
        answer = self.ask(
            "query ($selector: InstigationSelector!) { instigationStateOrError(instigationSelector: $selector) "
            "{ ... on InstigationState { ticks(limit: 50) { status skipReason runIds error { message } } } } }",
            selector=selector,
        )
        return list(answer["ticks"])

    def start_sensor(self, name: str) -> None:
        selector = {"repositoryLocationName": self.location, "repositoryName": "__repository__", "sensorName": name}
        answer = self.ask(
            "mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) { __typename } }",
            selector=selector,
        )
        assert answer["__typename"] == "Sensor", answer

    def start_schedule(self, name: str) -> None:
        selector = {"repositoryLocationName": self.location, "repositoryName": "__repository__", "scheduleName": name}
        answer = self.ask(
            "mutation ($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) { __typename } }",
            selector=selector,
        )
        assert answer["__typename"] == "ScheduleStateResult", answer

    # --- money

    @property
    def ledger_url(self) -> str:
        return self.environment.get("KONTEXT_LEDGER_URL") or f"sqlite:///{self.data_dir / 'ledger.db'}"

    def posts(self) -> int:
        return int(self.sandbox.books()["totals"]["posts"])

    def wait_for_posts(self, posts: int) -> None:
        wait_for(lambda: "yes" if self.posts() >= posts else f"{self.posts()} posts", {"yes"}, self.said)

    def billed_twice(self) -> int:
        """Return how many generations were billed for a request that was billed before."""
        billed = Counter(entry["body_sha256"] for entry in self.sandbox.books()["entries"] if entry["billed"])
        return sum(times - 1 for times in billed.values())

    def books(self) -> BackendBooks:
        """Return the ledger's books of the paid backend."""
        with contextlib.closing(Database(self.ledger_url, make=False)) as database:
            return next(books for books in read_books(database).backends if books.backend == "segmind")

    def check_bill(self, *, lost: int = 0) -> BackendBooks:
        """Check that the ledger has what the provider billed, and that nothing was billed twice but `lost` answers."""
        totals, twice = self.sandbox.wait_idle()["totals"], self.billed_twice()
        books = self.books()
        print(f"\nbilled {totals['billed']}, billed twice {twice}, possibly charged {books.possibly_charged_attempts}")
        assert books.in_flight == 0
        assert books.jobs_out_there == []
        known = books.spent_usd + books.possibly_charged_usd
        if lost:
            assert books.spent_usd - 1e-6 <= totals["cost"] <= known + 1e-6
            assert books.possibly_charged_attempts <= lost
        else:
            assert books.spent_usd == known
            assert totals["cost"] == known or abs(totals["cost"] - known) < 1e-6
        assert twice <= lost
        return books

    def table(self, key: str) -> pa.Table:
        return read_batch(self.data_dir, key)

    def succeeded(self, keys: Sequence[str]) -> list[int]:
        """Return the number of pictures in the table of each batch."""
        return [self.table(key)["status"].to_pylist().count("succeeded") for key in keys]


@contextlib.contextmanager
def deployment(
    folder: Path, *, config: str | None = None, module: str | None = None, speed: float = 20, **environment: str
) -> Iterator[Deployment]:
    """Yield a deployment whose processes are not started yet. At the end every process of it is killed.

    `config`: dagster.yaml; by default the shipped one. `module`: the code location's Python, in place of the shipped one.
    `environment`: further environment variables.
    """
    home = folder / "dagster-home"
    home.mkdir()
    if config is None:
        shutil.copy(DEPLOY / "dagster.yaml", home)
    else:
        (home / "dagster.yaml").write_text(config)
    with running_sandbox(speed=speed) as sandbox:
        variables = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DAGSTER_HOME": str(home),
            "KONTEXT_CODE_HOST": "127.0.0.1",
            "SEGMIND_API_KEY": KEY,
            "SEGMIND_BASE_URL": sandbox.url,
            "KONTEXT_MANIFESTS": str(folder / "manifests" / "*.csv"),
            "KONTEXT_DATA_DIR": str(folder / "output"),
            "KONTEXT_BATCH_SIZE": "8",
            "KONTEXT_CONCURRENCY": "4",
            "KONTEXT_LEASE_S": "8",
            "KONTEXT_BACKOFF_BASE_S": "0.05",
            "KONTEXT_BACKOFF_CAP_S": "0.2",
            **environment,
        }
        made = Deployment(folder, sandbox, variables)
        if module is not None:
            made.file = folder / "location.py"
            made.file.write_text(module)
        made.session.trust_env = False
        try:
            yield made
        finally:
            made.kill()
            made.session.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(look: Callable[[], str], wanted: set[str], said: Callable[[], str], seconds: float = DEADLINE_S) -> str:
    """Return what `look` returns as soon as it is one of `wanted`. After `seconds`, fail with what the programs said."""
    deadline = time.monotonic() + seconds
    while (seen := look()) not in wanted:
        if time.monotonic() > deadline:
            raise AssertionError(f"{seen} in place of one of {json.dumps(sorted(wanted))}\n{said()}")
        time.sleep(0.2)
    return seen


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False
