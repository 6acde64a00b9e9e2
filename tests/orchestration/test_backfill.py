"""The whole Dagster: webserver, daemon, queue and run processes do what the command line does.

Everything is asked for as the UI asks for it, over GraphQL.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.report import read_books
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import REPOSITORY, Project

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

ALL = ["photos-00000", "photos-00001", "photos-00002"]
LOCATION = "kontext_pipeline.definitions"


@dataclass
class Ui:
    """A running `dagster dev`."""

    url: str

    def ask(self, query: str, **variables: Any) -> Any:
        answer = requests.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        [value] = answer["data"].values()
        return value

    def launch(self, job: str, partition: str | None = None) -> str:
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        selector = {
            "repositoryLocationName": LOCATION,
            "repositoryName": "__repository__",
            "jobName": job,
        }
        answer = self.ask(
            "mutation ($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) "
            "{ __typename ... on LaunchRunSuccess { run { runId } } } }",
            params={"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}},
        )
        return str(answer["run"]["runId"])

    def status(self, run: str) -> str:
        answer = self.ask("query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run)
        return str(answer["status"])

    def end_of(self, run: str) -> str:
        return _wait_for(lambda: self.status(run), {"SUCCESS", "FAILURE", "CANCELED"})

    def backfill(self, keys: list[str]) -> str:
        answer = self.ask(
            "mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) "
            "{ __typename ... on LaunchBackfillSuccess { backfillId } } }",
            params={"partitionNames": keys, "assetSelection": [{"path": ["images"]}, {"path": ["metadata"]}]},
        )
        backfill = str(answer["backfillId"])
        query = (
            "query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"
        )
        ends = {"COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}
        return _wait_for(lambda: str(self.ask(query, id=backfill)["status"]), ends)

    def runs(self) -> list[str]:
        answer = self.ask("{ runsOrError { ... on Runs { results { runId } } } }")
        return [run["runId"] for run in answer["results"]]


@pytest.fixture
def ui(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ui]:
    """`dagster dev` as a user starts it, on a free port, with a home of its own."""
    home = tmp_path / "dagster-home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("dagster")), "dev", "--port", str(port)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=dict(os.environ)) as process:
        ui = Ui(f"http://127.0.0.1:{port}")
        try:
            _wait_for(lambda: _answers(ui.url), {"yes"})
            yield ui
        finally:
            # Where interrupts are ignored, as in a shell's background, Dagster ignores terminations too.
            tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for one in tree:
                one.terminate()
            for one in psutil.wait_procs(tree, timeout=15)[1]:
                one.kill()


def test_one_batch_then_a_backfill_of_all_then_both_again(project: Project, ui: Ui) -> None:
    assert ui.end_of(ui.launch("plan_manifests")) == "SUCCESS"
    assert ui.end_of(ui.launch("augment", ALL[1])) == "SUCCESS"
    assert project.billed() == 4

    before = len(ui.runs())
    assert ui.backfill(ALL) == "COMPLETED_SUCCESS"
    assert len(ui.runs()) == before + 1
    assert project.billed() == project.posts() == 10
    assert [project.table(key)["status"].to_pylist().count("succeeded") for key in ALL] == [4, 4, 2]

    assert ui.end_of(ui.launch("augment", ALL[1])) == "SUCCESS"
    assert project.posts() == 10


@pytest.mark.parametrize("project", [{"speed": 4}], indirect=True)
def test_a_run_that_is_terminated_from_the_ui_collects_what_is_in_flight(project: Project, ui: Ui) -> None:
    assert ui.end_of(ui.launch("plan_manifests")) == "SUCCESS"
    run = ui.launch("augment", ALL[0])
    _wait_for(lambda: "yes" if project.posts() >= 4 else "no", {"yes"})
    ui.ask(
        "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }",
        id=run,
    )
    assert ui.end_of(run) == "CANCELED"

    totals = project.sandbox.wait_idle()["totals"]
    database = Database(load_settings().resolved_ledger_url, make=False)
    [books] = read_books(database).backends
    database.close()
    assert (books.in_flight, books.pictures, books.possibly_charged_usd) == (0, totals["billed"], 0)
    assert project.table(ALL[0])["status"].to_pylist().count("succeeded") == totals["billed"]


def _answers(url: str) -> str:
    try:
        return "yes" if requests.get(f"{url}/server_info", timeout=5).ok else "no"
    except requests.ConnectionError:
        return "no"


def _wait_for(look: Callable[[], str], wanted: set[str], seconds: float = 240.0) -> str:
    deadline = time.monotonic() + seconds
    while (seen := look()) not in wanted:
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)
    return seen
