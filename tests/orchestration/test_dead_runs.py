"""A run whose process is gone is ended, and no other: after a reboot nobody else tells."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from dagster import (
    DagsterEventType,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    SensorDefinition,
    build_sensor_context,
)
from dagster._core.events import DagsterEvent
from dagster._core.execution.plan.objects import StepRetryData
from dagster_shared.error import SerializableErrorInfo

from kontext_pipeline.definitions import defs
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.run_processes import ProcessDetector
from kontext_pipeline.orchestration import dead_runs
from kontext_pipeline.orchestration.dataset_names import UNNAMED
from kontext_pipeline.orchestration.dead_runs import make_dead_runs
from kontext_pipeline.orchestration.resources import KontextResource
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import Project, job_def, wait_until

pytestmark = pytest.mark.long

RUN = "11111111-2222-3333-4444-555555555555"
PROCESS = """
import sys, time
from kontext_pipeline.generation.ledger.run_processes import RunProcess
with RunProcess(sys.argv[1], run_id=sys.argv[2], lease_s=float(sys.argv[3])):
    print("here", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def ledger(project: Project, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of the ledger of a project that was planned. No run is left alone because its last event is new."""
    monkeypatch.setattr(dead_runs, "QUIET_S", -1.0)
    url = load_settings().resolved_ledger_url
    Database(url).close()
    return str(url)


@contextlib.contextmanager
def process_of_a_run(url: str, run_id: str, lease_s: float = 60) -> Iterator[subprocess.Popen[str]]:
    """Run a process that shows in the ledger that it works for a run, until it is killed or the block ends."""
    command = [sys.executable, "-c", PROCESS, url, run_id, str(lease_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()


def started(project: Project, status: DagsterRunStatus = DagsterRunStatus.STARTED) -> str:
    """Record a run as Dagster does, with an event. Return its id."""
    run = project.instance.create_run_for_job(job_def("augment"), status=status)
    project.instance.report_engine_event("Started process for run.", run)
    return run.run_id


def tick(project: Project, sensor: SensorDefinition | None = None) -> str:
    with build_sensor_context(instance=project.instance, resources=dict(defs().resources or {})) as context:
        evaluated = (sensor or make_dead_runs(UNNAMED)).evaluate_tick(context)
    assert not evaluated.run_requests
    return str(evaluated.skip_message)


def status_of(project: Project, run_id: str) -> DagsterRunStatus:
    run = project.instance.get_run_by_id(run_id)
    assert isinstance(run, DagsterRun)
    return run.status


def test_it_is_on_because_it_spends_nothing() -> None:
    sensor = defs().get_sensor_def("dead_runs")
    assert sensor.default_status is DefaultSensorStatus.RUNNING
    assert not sensor.targets


def test_a_run_is_ended_when_its_process_is_gone_and_not_before(project: Project, ledger: str) -> None:
    run_id = started(project)
    with process_of_a_run(ledger, run_id) as process:
        assert tick(project) == "Runs at work: 1."
        assert status_of(project, run_id) is DagsterRunStatus.STARTED
        process.kill()
        process.wait()
        assert run_id in tick(project)
    assert status_of(project, run_id) is DagsterRunStatus.FAILURE
    [failure] = project.instance.all_logs(run_id, of_type=DagsterEventType.RUN_FAILURE)
    assert f"The process {process.pid} of this run" in failure.message
    assert tick(project) == "Runs at work: 0."


def test_a_run_that_somebody_terminated_is_canceled(project: Project, ledger: str) -> None:
    run_id = started(project, DagsterRunStatus.CANCELING)
    with process_of_a_run(ledger, run_id) as process:
        process.kill()
        process.wait()
    tick(project)
    assert status_of(project, run_id) is DagsterRunStatus.CANCELED


def test_a_run_with_another_process_that_is_there_is_left_alone(project: Project, ledger: str) -> None:
    run_id = started(project)
    with process_of_a_run(ledger, run_id) as step, process_of_a_run(ledger, run_id) as other:
        step.kill()
        step.wait()
        assert tick(project) == "Runs at work: 1."
        assert status_of(project, run_id) is DagsterRunStatus.STARTED
        # The run has noticed the death of its step and goes on: later that death shows nothing.
        assert other.stdin is not None
        other.stdin.close()
        other.wait()
    assert tick(project) == "Runs at work: 0."
    assert status_of(project, run_id) is DagsterRunStatus.STARTED


def test_a_run_that_waits_for_a_retry_is_left_alone(project: Project, ledger: str) -> None:
    run_id = started(project)
    run = project.instance.get_run_by_id(run_id)
    assert run is not None
    error = SerializableErrorInfo("the provider is down", [], None)
    retry = StepRetryData(error, seconds_to_wait=3600)  # type: ignore[no-untyped-call]
    event = DagsterEvent(
        DagsterEventType.STEP_UP_FOR_RETRY.value, "augment", step_key="images", event_specific_data=retry
    )
    project.instance.report_dagster_event(event, run_id)
    with process_of_a_run(ledger, run_id) as process:
        process.kill()
        process.wait()
    assert tick(project) == "Runs at work: 1."
    assert status_of(project, run_id) is DagsterRunStatus.STARTED


def test_runs_without_a_process_in_the_ledger_and_runs_of_others_are_left_alone(project: Project, ledger: str) -> None:
    run_id = started(project)
    with process_of_a_run(ledger, RUN) as process:
        process.kill()
        process.wait()
    assert tick(project) == "Runs at work: 1."
    assert status_of(project, run_id) is DagsterRunStatus.STARTED


def test_a_run_with_a_new_event_is_left_alone(project: Project, ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_runs, "QUIET_S", 3600.0)
    run_id = started(project)
    with process_of_a_run(ledger, run_id) as process:
        process.kill()
        process.wait()
    assert tick(project) == "Runs at work: 1."
    assert status_of(project, run_id) is DagsterRunStatus.STARTED


def test_a_ledger_that_cannot_be_read_ends_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = started(project)
    assert "there is no ledger" in tick(project)
    monkeypatch.setenv("KONTEXT_LEDGER_URL", "mysql://nowhere")
    assert "KONTEXT_LEDGER_URL" in tick(project)
    assert status_of(project, run_id) is DagsterRunStatus.STARTED


def test_the_process_of_a_run_shows_itself_through_all_steps(
    project: Project, ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    pipeline = KontextResource.pipeline

    def looked(*arguments: Any) -> Any:
        with contextlib.closing(Database(ledger)) as database:
            seen.append([process.run_id for process in ProcessDetector().look(database) if not process.dead])
        return pipeline(*arguments)

    monkeypatch.setattr(KontextResource, "pipeline", looked)
    result = project.plan()
    assert len(seen) == 2, "the plan, and its check"
    assert all(runs == [result.run_id] for runs in seen)
    assert tick(project) == "Runs at work: 0."


def test_heartbeats_that_stand_still_show_death_where_there_is_no_lock(project: Project, ledger: str) -> None:
    dead, living = started(project), started(project)
    sensor = make_dead_runs(UNNAMED)
    with process_of_a_run(ledger, dead, lease_s=1) as process, process_of_a_run(ledger, living, lease_s=1):
        shutil.rmtree(project.data_dir / "ledger.db.claims")
        process.kill()
        process.wait()
        assert tick(project, sensor) == "Runs at work: 2."
        wait_until(lambda: dead in tick(project, sensor))
        assert status_of(project, dead) is DagsterRunStatus.FAILURE
        assert status_of(project, living) is DagsterRunStatus.STARTED
