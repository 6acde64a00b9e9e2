"""The sensor that tells of backfills: each once, those alone that ended while it was on, and those of its dataset."""

import json
import time
from collections.abc import Iterator, Sequence

import pytest
from dagster import AssetKey, SensorResult, SkipReason, build_sensor_context
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from kontext_pipeline.definitions import defs
from kontext_pipeline.orchestration.alert_sensor import BACKFILL, tell_ended
from kontext_pipeline.orchestration.dataset_names import UNNAMED, DatasetNames
from kontext_pipeline.orchestration.resources import KontextResource, SegmindResource
from tests.orchestration.conftest import Project
from tests.segmind.gateway import Gateway, Reply

TARGET = "/services/T0123/B4567/89abcdefghij"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    gateway = Gateway()
    gateway.routes[TARGET] = Reply(200)
    monkeypatch.setenv("KONTEXT_ALERT_URL", gateway.url + TARGET)
    yield gateway
    gateway.stop()


def texts(receiver: Gateway) -> list[str]:
    return [json.loads(request.body)["text"] for request in receiver.seen(TARGET)]


def tick(project: Project, cursor: str | None, names: DatasetNames = UNNAMED) -> SensorResult | SkipReason:
    kontext = KontextResource(segmind=SegmindResource())
    with build_sensor_context(instance=project.instance, cursor=cursor) as context:
        return tell_ended(context, kontext, names)


def cursor_of(result: SensorResult | SkipReason) -> str:
    assert isinstance(result, SensorResult), result
    assert result.cursor is not None
    return result.cursor


def backfill(
    project: Project,
    name: str,
    status: BulkActionStatus = BulkActionStatus.REQUESTED,
    assets: Sequence[str] = ("images", "metadata"),
) -> PartitionBackfill:
    made = PartitionBackfill(
        name, status, False, {}, time.time(), asset_selection=[AssetKey([asset]) for asset in assets]
    )
    project.instance.add_backfill(made)
    return made


def end(project: Project, made: PartitionBackfill, status: BulkActionStatus) -> None:
    project.instance.update_backfill(made._replace(status=status, backfill_end_timestamp=time.time()))


def test_a_backfill_is_told_once_when_it_has_ended(project: Project, receiver: Gateway) -> None:
    project.plan()
    backfill(project, "before", BulkActionStatus.COMPLETED_SUCCESS)
    cursor = cursor_of(tick(project, None))
    made = backfill(project, "abcdefgh")
    backfill(project, "of-others", BulkActionStatus.COMPLETED_SUCCESS, assets=["sales"])
    cursor = cursor_of(tick(project, cursor))
    assert texts(receiver) == []
    # A run of the backfill leaves its end to the backfill.
    project.run("augment", partition_key="photos-00000", tags={BACKFILL: "abcdefgh"})
    assert texts(receiver) == []
    project.run("augment", partition_key="photos-00002", tags={BACKFILL: "abcdefgh"})
    for number in range(30):
        backfill(project, f"later-{number}", assets=["sales"])
    end(project, made, BulkActionStatus.COMPLETED_FAILED)
    for _ in range(3):
        cursor = cursor_of(tick(project, cursor))
    # A lost cursor tells nothing again.
    tick(project, None)
    [text] = texts(receiver)
    assert text == (
        "output: the backfill abcdefgh has ended (COMPLETED_FAILED). Its runs (2): 6 pictures; charged 0.60 USD."
    )
    # A run alone tells its end itself.
    project.run("augment", partition_key="photos-00001")
    assert texts(receiver)[1:] == [
        "output: the run is finished. This run: 4 pictures, 0 failed, 0 unknown; charged 0.40 USD."
    ]


def test_a_tick_of_the_sensor_itself(project: Project, receiver: Gateway) -> None:
    """As the daemon evaluates it, which checks more than a direct call."""
    project.plan()
    repository = defs().get_repository_def()
    definition = repository.get_sensor_def("backfills_ended")
    cursor: str | None = None
    for status in (BulkActionStatus.REQUESTED, BulkActionStatus.COMPLETED_SUCCESS):
        with build_sensor_context(
            instance=project.instance,
            cursor=cursor,
            repository_def=repository,
            resources=repository.get_top_level_resources(),
        ) as context:
            tick = definition.evaluate_tick(context)
        assert (tick.run_requests or [], bool(tick.skip_message)) == ([], True)
        cursor = tick.cursor
        if status is BulkActionStatus.REQUESTED:
            backfill(project, "abcdefgh", BulkActionStatus.COMPLETED_SUCCESS)
    assert len(texts(receiver)) == 1


def test_a_backfill_is_told_when_the_address_answers_again(project: Project, receiver: Gateway) -> None:
    project.plan()
    cursor = cursor_of(tick(project, None))
    made = backfill(project, "abcdefgh")
    end(project, made, BulkActionStatus.COMPLETED_SUCCESS)
    receiver.routes[TARGET] = Reply(404)
    cursor = cursor_of(tick(project, cursor))
    before = len(texts(receiver))
    receiver.routes[TARGET] = Reply(200)
    cursor = cursor_of(tick(project, cursor))
    tick(project, cursor)
    assert texts(receiver)[before:] == [
        "output: the backfill abcdefgh is finished. Its runs (0): 0 pictures; charged 0.00 USD."
    ]


def test_without_an_address_or_a_ledger_nothing_happens(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = tick(project, None)
    assert isinstance(skipped, SkipReason)
    assert skipped.skip_message == "KONTEXT_ALERT_URL is not set."
    monkeypatch.setenv("KONTEXT_ALERT_URL", "http://127.0.0.1:9/services/secret")
    skipped = tick(project, None)
    assert isinstance(skipped, SkipReason)
    assert "there is no ledger" in str(skipped.skip_message)
    assert not project.data_dir.exists()
