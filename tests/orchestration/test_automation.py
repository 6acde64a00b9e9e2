"""The sensor, the schedule and the conditions ask for what is missing, and are off at first."""

from dagster import (
    AssetKey,
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
from kontext_pipeline.orchestration.automation import manifests_changed, ranges, unfinished_batches
from tests.orchestration.conftest import RANGE_END, RANGE_START, Desk

ALL = ["photos-00000", "photos-00001", "photos-00002"]


def test_everything_is_off_until_it_is_switched_on() -> None:
    repository = defs().get_repository_def()
    assert {one.name: one.default_status for one in repository.sensor_defs} == {
        "manifests_changed": DefaultSensorStatus.STOPPED,
        "new_batches": DefaultSensorStatus.STOPPED,
    }
    assert [one.default_status for one in repository.schedule_defs] == [DefaultScheduleStatus.STOPPED]


def test_a_changed_manifest_is_planned_once(desk: Desk) -> None:
    first = _sensed(desk, None)
    assert isinstance(first, SensorResult)
    assert first.run_requests is not None
    assert len(first.run_requests) == 1
    assert isinstance(_sensed(desk, first.cursor), SkipReason)

    desk.write_manifest(["a red boat"])
    second = _sensed(desk, first.cursor)
    assert isinstance(second, SensorResult)
    assert second.cursor != first.cursor


def test_a_manifest_that_is_missing_is_said(desk: Desk) -> None:
    desk.manifest.unlink()
    said = _sensed(desk, None)
    assert isinstance(said, SkipReason)
    assert "photos.csv" in str(said.skip_message)


def test_the_schedule_asks_for_unbroken_ranges_of_what_is_missing(desk_on_disk: Desk) -> None:
    desk = desk_on_disk
    assert isinstance(_scheduled(desk), SkipReason)
    desk.plan()
    assert _asked(desk) == [(ALL[0], ALL[2])]

    desk.augment(ALL[1])
    assert _asked(desk) == [(ALL[0], ALL[0]), (ALL[2], ALL[2])]

    for first, last in _asked(desk):
        desk.augment(first, last)
    assert isinstance(_scheduled(desk), SkipReason)

    desk.write_manifest([f"a lighthouse with number {index}" for index in range(9)] + ["a red boat"])
    desk.plan()
    assert _asked(desk) == [(ALL[2], ALL[2])]


def test_rows_that_failed_for_good_are_not_asked_for_every_night(desk_on_disk: Desk) -> None:
    desk = desk_on_disk
    desk.plan()
    desk.sandbox.set_faults({"kind": "status", "status": 400, "prompt": "number 2"})
    desk.augment(ALL[0], ALL[2])
    assert isinstance(_scheduled(desk), SkipReason)


def test_automation_asks_for_new_batches_only(desk: Desk) -> None:
    desk.plan()
    before = evaluate_automation_conditions(defs(), desk.instance)
    desk.write_manifest([f"a lighthouse with number {index}" for index in range(12)])
    desk.plan()
    after = evaluate_automation_conditions(defs(), desk.instance, cursor=before.cursor)
    assert after.get_requested_partitions(AssetKey("images")) == {"photos-00003"}
    assert after.get_requested_partitions(AssetKey("metadata")) == {"photos-00003"}

    desk.plan()
    assert evaluate_automation_conditions(defs(), desk.instance, cursor=after.cursor).total_requested == 0


def test_ranges_of_nothing_and_of_everything() -> None:
    assert ranges(["a", "b"], set()) == []
    assert ranges([], {"a"}) == []
    assert ranges(["a", "b", "c", "d", "e"], {"a", "b", "d", "e"}) == [("a", "b"), ("d", "e")]


def _sensed(desk: Desk, cursor: str | None) -> object:
    resources = _resources()
    with build_sensor_context(instance=desk.instance, cursor=cursor, resources=resources) as context:
        return manifests_changed(context)


def _scheduled(desk: Desk) -> object:
    with build_schedule_context(instance=desk.instance, resources=_resources()) as context:
        return unfinished_batches(context)


def _asked(desk: Desk) -> list[tuple[str, str]]:
    requests = _scheduled(desk)
    assert isinstance(requests, list)
    assert all(isinstance(request, RunRequest) for request in requests)
    return [(request.tags[RANGE_START], request.tags[RANGE_END]) for request in requests]


def _resources() -> dict[str, object]:
    resources = defs().resources
    assert resources is not None
    return dict(resources)
