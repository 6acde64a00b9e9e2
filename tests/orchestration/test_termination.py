"""A run that is terminated or killed collects what is in flight, settles it, and the next run goes on."""

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from dagster import (
    AssetKey,
    DagsterEventType,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    DagsterRunStatus,
    job,
    op,
)

from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.report import BackendBooks, read_books
from kontext_pipeline.orchestration import run_watch
from kontext_pipeline.orchestration.step_failures import RETRIES
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import RANGE_START, REPOSITORY, Project, failure_of, materialize, wait_until

ALL = ["photos-00000", "photos-00001", "photos-00002"]
MULTIPROCESS = """
from dagster import Definitions, multiprocess_executor
from kontext_pipeline import definitions


def with_processes():
    shipped = definitions.defs()
    return Definitions(assets=shipped.assets, resources=shipped.resources, executor=multiprocess_executor)


defs = with_processes()
"""


@pytest.mark.long
@pytest.mark.parametrize("project", [{"speed": 12}], indirect=True)
@pytest.mark.parametrize("api_version", ["v1", "v2"])
def test_sigterm_collects_what_is_in_flight(
    project_on_disk: Project, api_version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_on_disk
    project.plan()
    monkeypatch.setenv("KONTEXT_CONCURRENCY", "3")
    monkeypatch.setenv("KONTEXT_API_VERSION", api_version)
    with subprocess.Popen(materialize(ALL[0], ALL[2]), cwd=REPOSITORY, env=dict(os.environ)) as process:
        try:
            wait_until(lambda: project.posts() >= 5)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            process.kill()
    totals = project.sandbox.wait_idle()["totals"]

    assert 5 <= totals["posts"] < 10
    books = _books_that_balance(project)
    assert sum(project.table(key)["status"].to_pylist().count("succeeded") for key in ALL) == books.pictures
    [run] = [run for run in project.instance.get_runs() if RANGE_START in run.tags]
    assert run.status in (DagsterRunStatus.CANCELED, DagsterRunStatus.FAILURE)
    # Which batches were through depends on the order in which the machine resolved their rows.
    finished = {key for key in ALL if set(project.table(key)["status"].to_pylist()) == {"succeeded"}}
    assert project.instance.get_materialized_partitions(AssetKey("images")) == finished

    project.augment(ALL[0], ALL[2])
    assert project.billed() == 10


@pytest.mark.parametrize("project", [{"speed": 40}], indirect=True)
@pytest.mark.parametrize("how", ["canceling", "canceled", "deleted"])
def test_a_step_that_nobody_tells_sees_that_its_run_has_ended(
    project: Project, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_watch, "INTERVAL_S", 0.1)
    monkeypatch.setenv("KONTEXT_CONCURRENCY", "2")
    project.plan()
    with ThreadPoolExecutor() as pool:
        # Outside the main thread, where no signal reaches it, as in a worker of Celery.
        running = pool.submit(project.augment, ALL[0], ALL[2], check=False)
        wait_until(lambda: project.posts() >= 3)
        [run] = [run for run in project.instance.get_runs() if RANGE_START in run.tags]
        if how == "deleted":
            project.instance.delete_run(run.run_id)
        else:
            project.instance.report_run_canceling(run)
        if how == "canceled":
            project.instance.report_run_canceled(run)
        result = running.result(60)

    assert 3 <= project.sandbox.wait_idle()["totals"]["posts"] < 8
    _books_that_balance(project)
    if how == "deleted":
        return
    assert not any(event.event_type is DagsterEventType.STEP_UP_FOR_RETRY for event in result.all_events)
    said = failure_of(result)
    assert "terminated. Materialize again" in said.description
    if how == "canceling":
        ended = project.instance.get_run_by_id(run.run_id)
        assert ended is not None
        assert ended.status is DagsterRunStatus.CANCELED

    project.augment(ALL[0], ALL[2])
    assert project.billed() == project.posts() == 10


@pytest.mark.parametrize("interrupt", [DagsterExecutionInterruptedError, KeyboardInterrupt])
def test_an_interrupt_is_never_retried(interrupt: type[BaseException]) -> None:
    @op(retry_policy=RETRIES)
    def interrupted() -> None:
        raise interrupt

    @job
    def interrupted_job() -> None:
        interrupted()

    with DagsterInstance.ephemeral() as instance:
        with pytest.raises(interrupt):
            interrupted_job.execute_in_process(instance=instance)
        [run] = instance.get_runs()
        assert not instance.all_logs(run.run_id, of_type=DagsterEventType.STEP_UP_FOR_RETRY)
        assert run.status is DagsterRunStatus.FAILURE


@pytest.mark.long
@pytest.mark.parametrize("project", [{"speed": 12}], indirect=True)
def test_a_step_whose_run_process_is_killed_stops(
    project_on_disk: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_on_disk
    project.write_manifest([f"a lighthouse with number {index}" for index in range(40)])
    project.plan()
    monkeypatch.setenv("KONTEXT_CONCURRENCY", "3")
    (tmp_path / "by_process.py").write_text(MULTIPROCESS)
    command = materialize(ALL[0], "photos-00009")
    command[command.index("-m") : command.index("-m") + 2] = ["-f", str(tmp_path / "by_process.py")]
    with subprocess.Popen(command, cwd=REPOSITORY, env=dict(os.environ)) as process:
        wait_until(lambda: project.posts() >= 5)
        steps = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert steps
    try:
        assert psutil.wait_procs(steps, timeout=60)[1] == []
    finally:
        for step in steps:
            if step.is_running():
                step.kill()

    assert 5 <= project.sandbox.wait_idle()["totals"]["posts"] < 20
    _books_that_balance(project)


def _books_that_balance(project: Project) -> BackendBooks:
    """Return the ledger's books, which are the sandbox's books with nothing in flight."""
    totals = project.sandbox.books()["totals"]
    database = Database(load_settings().resolved_ledger_url, make=False)
    [books] = read_books(database).backends
    database.close()
    assert books.in_flight == 0
    assert books.jobs_out_there == []
    assert books.pictures == totals["billed"] == totals["posts"]
    assert books.possibly_charged_usd == 0
    assert books.spent_usd == pytest.approx(totals["cost"])
    return books
