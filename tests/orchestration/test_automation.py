"""The sensor, the schedule and the conditions ask for what is missing, and are off at first."""

import datetime

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    SensorResult,
    SkipReason,
    build_schedule_context,
    build_sensor_context,
    evaluate_automation_conditions,
)

from kontext_pipeline.definitions import defs
from kontext_pipeline.orchestration.automation import make_unfinished_batches, ranges, request_plan
from kontext_pipeline.orchestration.dataset_names import UNNAMED
from kontext_pipeline.orchestration.resources import KontextResource, SegmindResource
from tests.orchestration.conftest import RANGE_END, RANGE_START, Project

ALL = ["photos-00000", "photos-00001", "photos-00002"]


def test_everything_that_launches_runs_is_off_until_it_is_switched_on() -> None:
    repository = defs().get_repository_def()
    assert {one.name: one.default_status for one in repository.sensor_defs} == {
        "manifests_changed": DefaultSensorStatus.STOPPED,
        "new_batches": DefaultSensorStatus.STOPPED,
        "dead_runs": DefaultSensorStatus.RUNNING,
        # Launches nothing, and does nothing without KONTEXT_ALERT_URL.
        "backfills_ended": DefaultSensorStatus.RUNNING,
    }
    assert [one.default_status for one in repository.schedule_defs] == [DefaultScheduleStatus.STOPPED]


def test_a_changed_manifest_is_planned_once(project: Project) -> None:
    first = _sensed(project, None)
    assert isinstance(first, SensorResult)
    assert first.run_requests is not None
    [request] = first.run_requests
    # A tick before the run began asks for the same run, which Dagster launches once.
    again = _sensed(project, first.cursor)
    assert isinstance(again, SensorResult)
    assert [one.run_key for one in again.run_requests or []] == [request.run_key]

    project.run("plan_manifests", tags=request.tags)
    planned = _sensed(project, first.cursor)
    assert isinstance(planned, SensorResult)
    assert not planned.run_requests
    assert isinstance(_sensed(project, planned.cursor), SkipReason)

    project.write_manifest(["a red boat"])
    second = _sensed(project, planned.cursor)
    assert isinstance(second, SensorResult)
    assert second.run_requests


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KONTEXT_SEED", "7"),
        ("KONTEXT_ASPECT_RATIO", "match_input_image"),
        ("KONTEXT_COLUMNS", "id=caption"),
        ("KONTEXT_CLAMP_SAFETY_TOLERANCE", "true"),
    ],
)
def test_a_setting_on_which_the_plan_depends_asks_for_a_plan(
    project: Project, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    first = _sensed(project, None)
    assert isinstance(first, SensorResult)
    [request] = first.run_requests or []
    project.run("plan_manifests", tags=request.tags)
    planned = _sensed(project, first.cursor)
    assert isinstance(planned, SensorResult)
    monkeypatch.setenv(variable, value)
    changed = _sensed(project, planned.cursor)
    assert isinstance(changed, SensorResult)
    assert changed.run_requests


def test_a_manifest_that_cannot_be_planned_is_asked_for_once_and_said_until_it_changes(project: Project) -> None:
    project.manifest.write_text("prompt,seed\nred boat,many\n")
    first = _sensed(project, "digest-of-an-earlier-release")
    assert isinstance(first, SensorResult)
    [request] = first.run_requests or []
    project.run("plan_manifests", tags=request.tags, check=False)
    for _ in range(2):
        said = _sensed(project, first.cursor)
        assert isinstance(said, SkipReason)
        assert "could not be planned: " in str(said.skip_message)
        assert "row 1, column seed" in str(said.skip_message)

    project.write_manifest(["a red boat"])
    fixed = _sensed(project, first.cursor)
    assert isinstance(fixed, SensorResult)
    [another] = fixed.run_requests or []
    project.run("plan_manifests", tags=another.tags)
    planned = _sensed(project, fixed.cursor)
    assert isinstance(planned, SensorResult)
    assert planned.cursor is not None
    assert "|" not in planned.cursor


def test_a_manifest_that_is_missing_is_said(project: Project) -> None:
    project.manifest.unlink()
    said = _sensed(project, None)
    assert isinstance(said, SkipReason)
    assert "photos.csv" in str(said.skip_message)


def test_the_schedule_asks_for_unbroken_ranges_of_what_is_missing(project_on_disk: Project) -> None:
    project = project_on_disk
    assert isinstance(_scheduled(project), SkipReason)
    project.plan()
    assert _asked(project) == [(ALL[0], ALL[2])]

    project.generate([ALL[1]])
    assert _asked(project) == [(ALL[0], ALL[0]), (ALL[2], ALL[2])]

    project.generate(ALL)
    assert isinstance(_scheduled(project), SkipReason)

    project.write_manifest([f"a lighthouse with number {index}" for index in range(9)] + ["a red boat"])
    project.plan()
    assert _asked(project) == [(ALL[2], ALL[2])]


def test_rows_that_failed_for_good_are_not_asked_for_every_night(project_on_disk: Project) -> None:
    project = project_on_disk
    project.sandbox.set_faults({"kind": "status", "status": 400, "prompt": "number 2"})
    project.generate(ALL)
    assert isinstance(_scheduled(project), SkipReason)
    assert project.table(ALL[0])["status"].to_pylist().count("failed") == 1


def test_automation_asks_for_new_batches_only(project: Project) -> None:
    project.plan()
    before = evaluate_automation_conditions(defs(), project.instance)
    project.write_manifest([f"a lighthouse with number {index}" for index in range(12)])
    project.plan()
    after = evaluate_automation_conditions(defs(), project.instance, cursor=before.cursor)
    assert after.get_requested_partitions(AssetKey("images")) == {"photos-00003"}
    assert after.get_requested_partitions(AssetKey("metadata")) == {"photos-00003"}
    assert after.get_requested_partitions(AssetKey("quality")) == {"photos-00003"}, "in the same run"

    project.plan()
    assert evaluate_automation_conditions(defs(), project.instance, cursor=after.cursor).total_requested == 0


def test_nothing_starts_because_of_a_change_a_reload_a_new_plan_or_a_lost_history(project: Project) -> None:
    project.plan()
    project.generate(ALL)
    cursor = evaluate_automation_conditions(defs(), project.instance).cursor
    # What has changed shows as out of date, and waits for a person or for the schedule.
    (project.data_dir / project.table(ALL[2])["image_path"][0].as_py()).unlink()
    project.write_manifest(["a red boat", *(f"a lighthouse with number {index}" for index in range(1, 10))])
    project.plan()
    project.plan()
    assert evaluate_automation_conditions(defs(), project.instance, cursor=cursor).total_requested == 0

    with DagsterInstance.ephemeral() as project.instance:
        project.plan()
        new = evaluate_automation_conditions(defs(), project.instance)
        assert new.total_requested == 0
        project.plan()
        assert evaluate_automation_conditions(defs(), project.instance, cursor=new.cursor).total_requested == 0
    assert project.billed() == 10


def test_automation_measures_a_batch_again_when_its_table_changes(project: Project) -> None:
    project.plan()
    cursor = evaluate_automation_conditions(defs(), project.instance).cursor
    project.generate(["photos-00001"])
    found = evaluate_automation_conditions(defs(), project.instance, cursor=cursor)
    assert found.get_requested_partitions(AssetKey("quality")) == {"photos-00001"}
    assert found.total_requested == 1, "nothing that costs money"


def test_ranges_of_nothing_and_of_everything() -> None:
    assert ranges(["a", "b"], set()) == []
    assert ranges([], {"a"}) == []
    assert ranges(["a", "b", "c", "d", "e"], {"a", "b", "d", "e"}) == [("a", "b"), ("d", "e")]
    assert ranges(["a", "b", "c", "d", "e"], {"a", "b", "c", "e"}, 2) == [("a", "b"), ("c", "c"), ("e", "e")]


def _sensed(project: Project, cursor: str | None) -> object:
    with build_sensor_context(instance=project.instance, cursor=cursor) as context:
        return request_plan(context, KontextResource(segmind=SegmindResource()))


def _scheduled(project: Project) -> object:
    night = datetime.datetime(2026, 5, 1, 2, tzinfo=datetime.UTC)
    with build_schedule_context(
        instance=project.instance, resources=_resources(), scheduled_execution_time=night
    ) as context:
        # As the daemon evaluates it, which refuses requests that it can't tell apart.
        tick = make_unfinished_batches(UNNAMED).evaluate_tick(context)
    return SkipReason(tick.skip_message) if tick.skip_message else list(tick.run_requests or [])


def _asked(project: Project) -> list[tuple[str, str]]:
    requests = _scheduled(project)
    assert isinstance(requests, list)
    assert all(isinstance(request, RunRequest) for request in requests)
    assert len({request.run_key for request in requests}) == len(requests)
    return [(request.tags[RANGE_START], request.tags[RANGE_END]) for request in requests]


def _resources() -> dict[str, object]:
    resources = defs().resources
    assert resources is not None
    return dict(resources)
