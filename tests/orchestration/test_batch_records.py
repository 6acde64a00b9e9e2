"""Each batch is recorded when it is through, images and table both, once, in a single run."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest
from dagster import AssetIn, AssetKey, DagsterEventType, DagsterRunStatus, Definitions, asset

from kontext_pipeline.batch_tables import BatchTables
from kontext_pipeline.definitions import defs
from kontext_pipeline.generation.progress import Stop
from kontext_pipeline.orchestration.partitions import batches
from kontext_pipeline.pipeline import Pipeline, RunReport
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.segmind.outcomes import Cause
from tests.orchestration.conftest import RANGE_END, RANGE_START, Project, failure_of, materialized, wait_until
from tests.orchestration.shown import shown

pytestmark = pytest.mark.long

ALL = ["photos-00000", "photos-00001", "photos-00002"]
ONE_AT_A_TIME = {"resources": {"segmind": {"config": {"concurrency": 1}}}}


def green(project: Project) -> tuple[set[str], set[str]]:
    """Return the batches of images and of metadata that Dagster shows as materialized."""
    instance = project.instance
    return (
        instance.get_materialized_partitions(AssetKey("images")),
        instance.get_materialized_partitions(AssetKey("metadata")),
    )


def recorded(project: Project, run_id: str) -> Counter[tuple[str, str | None]]:
    """Return how often a run recorded each batch of each asset."""
    return Counter(
        (event.asset_key.to_user_string(), event.partition)
        for entry in project.instance.all_logs(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION)
        if (event := entry.asset_materialization) is not None and event.partition is not None
    )


@pytest.mark.parametrize("project", [{"speed": 60}], indirect=True)
def test_a_batch_turns_green_while_the_run_goes_on_and_no_batch_is_recorded_twice(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.plan()
    seen: list[tuple[set[str], DagsterRunStatus]] = []
    bring_up_to_date = BatchTables.bring_up_to_date

    def looked(tables: BatchTables, key: str, **options: Any) -> None:
        # The table of each batch is written when the batch is through: what was through before is recorded by now.
        wait_until(lambda: all(len(found) >= len(seen) for found in green(project)))
        assert green(project)[0] == green(project)[1]
        [run] = [run for run in project.instance.get_runs() if RANGE_START in run.tags]
        seen.append((green(project)[0], run.status))
        bring_up_to_date(tables, key, **options)

    monkeypatch.setattr(BatchTables, "bring_up_to_date", looked)
    result = project.augment(ALL[0], ALL[2], config=ONE_AT_A_TIME)

    assert [(len(found), status) for found, status in seen] == [
        (count, DagsterRunStatus.STARTED) for count in range(len(ALL))
    ]
    expected = Counter({(asset, key): 1 for asset in ("images", "metadata") for key in ALL})
    assert recorded(project, result.run_id) == expected


def test_a_stop_leaves_what_is_through_green_and_the_rest_to_missing_and_failed(project_on_disk: Project) -> None:
    project = project_on_disk
    project.plan()
    project.sandbox.set_faults({"kind": "status", "status": 401, "after": 6})
    result = project.augment(ALL[0], ALL[2], check=False, config=ONE_AT_A_TIME)

    assert not result.success
    assert failure_of(result).metadata["finished_batches"].value == 1
    with shown(project.instance) as page:
        for name in ("images", "metadata"):
            states = page.partitions(name)
            assert states["materialized"] == ALL[:1]
            assert states["failed"] == ALL[1:]


def test_a_step_that_is_tried_again_records_no_batch_twice(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kontext_pipeline.orchestration.step_failures._FailuresAlone.calculate_delay", lambda *_: 0.0)
    project.plan()
    run = Pipeline.run
    attempts: list[int] = []

    def stopped_once(pipeline: Pipeline, plan: Plan, keys: Sequence[str], **options: Any) -> RunReport:
        attempts.append(len(keys))
        if len(attempts) > 1:
            return run(pipeline, plan, keys, **options)
        report = run(pipeline, plan, keys[:1], **options)
        return RunReport(report.progress, Stop(Cause.OUTAGE, "The provider is down."), report.finished)

    monkeypatch.setattr(Pipeline, "run", stopped_once)
    result = project.augment(ALL[0], ALL[2])

    assert attempts == [3, 3]
    assert [event for event in result.all_events if event.is_step_up_for_retry]
    assert project.billed() == 10
    assert set(recorded(project, result.run_id).values()) == {1}
    assert green(project) == (set(ALL), set(ALL))


def test_the_table_alone_is_made_without_sending_anything(project: Project) -> None:
    project.plan()
    result = project.metadata_alone(ALL[0])

    assert result.success
    assert project.posts() == 0
    assert green(project) == (set(), {ALL[0]})
    assert project.table(ALL[0])["status"].to_pylist() == ["pending"] * 4
    assert "segmind" not in str(recorded(project, result.run_id))


@pytest.mark.long
def test_the_images_alone_leave_the_table_unrecorded(project: Project) -> None:
    project.plan()
    assert project.run_assets("images", partition_key=ALL[0]).success
    assert project.billed() == 4
    assert green(project) == ({ALL[0]}, set())


def test_what_a_batch_has_cost_and_what_a_run_spent_are_two_figures(project: Project) -> None:
    project.plan()
    project.sandbox.set_faults({"kind": "status", "status": 400, "prompt": "number 2"})
    spent = []
    for config in (None, None, {"ops": {"images": {"config": {"retry_failed": True}}}}):
        shown_of_batch = materialized(project.augment(ALL[0], config=config), "images")[ALL[0]]
        spent.append((shown_of_batch["spent_usd"], shown_of_batch["cost_usd"]))
        if len(spent) == 2:
            project.sandbox.set_faults()

    assert spent == [(0.3, 0.3), (0.0, 0.3), (0.1, 0.4)]
    assert sum(this_run for this_run, _ in spent) == pytest.approx(project.cost())


LOADED: list[int] = []


@asset(partitions_def=batches, ins={"metadata": AssetIn(input_manager_key="metadata_io_manager")})
def lengths(metadata: object) -> None:
    tables = metadata.values() if isinstance(metadata, dict) else [metadata]
    LOADED.extend(table.num_rows for table in tables if isinstance(table, pa.Table))


@pytest.mark.parametrize("stopped", [False, True])
def test_an_asset_downstream_runs_in_the_same_run_if_all_batches_are_through(project: Project, stopped: bool) -> None:
    LOADED.clear()
    project.plan()
    job = Definitions.merge(defs(), Definitions(assets=[lengths])).resolve_implicit_global_asset_job_def()
    keys = {AssetKey("images"), AssetKey("metadata"), lengths.key}
    result = job.get_subset(asset_selection=keys).execute_in_process(
        instance=project.instance,
        tags={RANGE_START: ALL[0], RANGE_END: ALL[2]},
        run_config={"ops": {"images": {"config": {"budget_usd": 0.5 if stopped else None}}}},
    )

    assert result.success
    assert sorted(LOADED) == ([] if stopped else [2, 4, 4])
    skipped = [event.step_key for event in result.all_events if event.event_type is DagsterEventType.STEP_SKIPPED]
    assert skipped == (["lengths"] if stopped else [])


@pytest.mark.long
@pytest.mark.parametrize("project", [{"speed": 60}], indirect=True)
def test_a_run_that_is_ended_from_outside_records_what_is_through(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kontext_pipeline.orchestration.run_watch.INTERVAL_S", 0.05)
    project.plan()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(project.augment, ALL[0], ALL[2], check=False, config=ONE_AT_A_TIME)
        wait_until(lambda: bool(green(project)[1]))
        [run] = [run for run in project.instance.get_runs() if RANGE_START in run.tags]
        project.instance.report_run_canceling(run)
        running.result(60)
    through = {key for key in ALL if set(project.table(key)["status"].to_pylist()) == {"succeeded"}}
    assert green(project) == (through, through)
    assert through < set(ALL)
