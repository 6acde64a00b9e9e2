"""The sensor that ends runs whose processes are gone: after a reboot Dagster's default launcher can't tell.

Such a run stays STARTED and keeps its place in the queue and in the pool. The sensor spends nothing and launches nothing.
Whether Dagster launches an ended run again is for `run_retries` in its instance configuration.
"""

import contextlib
import time
from typing import TYPE_CHECKING, Final

from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from kontext_pipeline.errors import KontextError
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.resources import KontextResource, kontext_of

if TYPE_CHECKING:
    from kontext_pipeline.generation.ledger.run_processes import ProcessDetector, SeenProcess

INTERVAL_S: Final = 30
"""Least time between two ticks, seconds."""
QUIET_S: Final = 30.0
"""Time since a run's last event before the sensor ends the run, seconds: Dagster may know more and report it first."""
AT_WORK: Final = {DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING}


def make_dead_runs(names: DatasetNames) -> SensorDefinition:
    """Return the sensor that ends the dead runs of a dataset."""
    # Between ticks the code server keeps what was seen. A server that starts anew begins to look anew.
    detectors: dict[str, ProcessDetector] = {}

    @sensor(
        name=names.suffixed("dead_runs"),
        minimum_interval_seconds=INTERVAL_S,
        default_status=DefaultSensorStatus.RUNNING,
        required_resource_keys={names.kontext},
        description="End runs whose processes are gone, as after a reboot: their heartbeats in the ledger have stopped. "
        "Spends nothing and launches nothing; with `run_retries`, Dagster launches such a run again.",
    )
    def dead_runs(context: SensorEvaluationContext) -> SkipReason:
        return SkipReason(_end_dead_runs(context.instance, kontext_of(context, names), detectors))

    return dead_runs


def _end_dead_runs(instance: DagsterInstance, kontext: KontextResource, detectors: "dict[str, ProcessDetector]") -> str:
    """End the runs of which all processes that the ledger shows are dead. Return what was found."""
    from kontext_pipeline.generation.ledger.database import Database
    from kontext_pipeline.generation.ledger.run_processes import ProcessDetector, remove_process

    try:
        url = kontext.settings().resolved_ledger_url
        detector = detectors.setdefault(str(url), ProcessDetector())
        with contextlib.closing(Database(url, make=False)) as database:
            processes: dict[str, list[SeenProcess]] = {}
            for process in detector.look(database):
                processes.setdefault(process.run_id, []).append(process)
            ended, living = [], 0
            for run_id, of_run in processes.items():
                run = instance.get_run_by_id(run_id)
                dead = [process for process in of_run if process.dead]
                if run is None:
                    # Another instance launched it.
                    living += 1
                    continue
                if dead == of_run and run.status in AT_WORK:
                    if not _is_quiet(instance, run):
                        living += 1
                        continue
                    _end(instance, run, of_run[-1])
                    ended.append(run_id)
                living += dead != of_run
                # The dead process of a step proves nothing any more where the run has another one.
                for process in dead:
                    remove_process(database, process.claimant)
    except KontextError as error:
        detectors.clear()
        return f"No run was looked at: {error}"
    if ended:
        return f"Ended, because their processes are gone: {', '.join(ended)}."
    return f"Runs at work: {living}."


def _is_quiet(instance: DagsterInstance, run: DagsterRun) -> bool:
    """Return whether nothing is to be expected of a run: its last event is old, and no retry is to come."""
    for last in instance.get_records_for_run(run.run_id, limit=1, ascending=False).records:
        event = last.event_log_entry.dagster_event
        wait = 0.0
        if event is not None and event.event_type is DagsterEventType.STEP_UP_FOR_RETRY:
            wait = float(event.step_retry_data.seconds_to_wait or 0)
        return time.time() - last.event_log_entry.timestamp > wait + QUIET_S
    return True


def _end(instance: DagsterInstance, run: DagsterRun, process: "SeenProcess") -> None:
    message = (
        f"The process {process.pid} of this run on {process.host} is gone: the ledger has no heartbeat of it. Pictures that "
        "were paid for are kept, and the next run requests none of them again."
    )
    if run.status is DagsterRunStatus.CANCELING:
        # Somebody wanted the run to end, so Dagster must not launch it again.
        instance.report_run_canceled(run, message)
    else:
        instance.report_run_failed(run, message)
