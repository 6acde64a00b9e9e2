"""What has changed shows as out of date, batch by batch, and the rest doesn't."""

import pytest
from dagster import AssetKey, DagsterEventType
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from kontext_pipeline.definitions import defs
from kontext_pipeline.orchestration.reporting import report_batches
from kontext_pipeline.pipeline import Pipeline
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import Project, materialized
from tests.orchestration.shown import shown

pytestmark = pytest.mark.long

ALL = ["photos-00000", "photos-00001", "photos-00002"]
FRESH = dict.fromkeys(ALL, "FRESH")


def states(project: Project, asset: str = "images") -> dict[str, str]:
    """Return the state of each batch, from what Dagster's GraphQL server asks."""
    loading = LoadingContextForTest(project.instance)
    resolver = CachingStaleStatusResolver(project.instance, defs().resolve_asset_graph(), loading)
    return {key: resolver.get_status(AssetKey(asset), key).value for key in ALL}


def test_the_ui_shows_an_edited_row_and_why(project_on_disk: Project) -> None:
    project = project_on_disk
    project.generate(ALL)
    project.write_manifest(["a red boat", *(f"a lighthouse with number {index}" for index in range(1, 10))])
    project.plan()
    with shown(project.instance) as page:
        for asset in ("images", "metadata"):
            assert [page.stale(asset, key) for key in ALL] == ["STALE", "FRESH", "FRESH"]
            assert page.causes(asset, ALL[0]) == [("requests", "has a new data version")]
            assert page.partitions(asset)["materialized"] == ALL


def test_an_edited_row_makes_its_batch_out_of_date_until_it_is_generated(project: Project) -> None:
    project.plan()
    assert set(states(project).values()) == {"MISSING"}
    project.augment(ALL[0], ALL[2])
    assert states(project) == states(project, "metadata") == FRESH

    # Planned again without a change, and run again without work.
    assert materialized(project.plan(), "plan")[None]["changed_batches"] == 0
    project.run("plan_manifests")
    project.augment(ALL[0])
    assert states(project) == states(project, "metadata") == FRESH

    prompts = [f"a lighthouse with number {index}" for index in range(10)]
    project.write_manifest([*prompts[:5], "a red boat", *prompts[6:]])
    assert materialized(project.plan(), "plan")[None]["changed_batches"] == 1
    for asset in ("images", "metadata"):
        assert states(project, asset) == FRESH | {ALL[1]: "STALE"}

    project.augment(ALL[1])
    assert project.billed() == 11
    assert states(project) == states(project, "metadata") == FRESH


@pytest.mark.long
def test_an_edit_that_is_taken_back_makes_nothing_out_of_date(project: Project) -> None:
    project.plan()
    project.augment(ALL[0], ALL[2])
    prompts = [f"a lighthouse with number {index}" for index in range(10)]
    project.write_manifest(["a red boat", *prompts[1:]])
    project.plan()
    assert states(project) == FRESH | {ALL[0]: "STALE"}
    project.write_manifest(prompts)
    project.plan()
    assert states(project) == FRESH


@pytest.mark.long
def test_another_backend_makes_all_batches_out_of_date(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("KONTEXT_BACKEND", "sandbox")
        project.plan()
        project.augment(ALL[0], ALL[2])
        assert states(project) == FRESH
    project.plan()
    assert states(project) == dict.fromkeys(ALL, "STALE")
    project.augment(ALL[0], ALL[2])
    assert states(project) == FRESH


def test_a_picture_that_is_gone_makes_its_batch_out_of_date(project: Project) -> None:
    project.plan()
    project.augment(ALL[0], ALL[2])
    (project.data_dir / project.table(ALL[1])["image_path"][0].as_py()).unlink()
    project.plan()
    assert states(project) == FRESH | {ALL[1]: "STALE"}

    # A table is no picture.
    job = project.metadata_alone(ALL[1])
    assert job.success
    assert states(project) == FRESH | {ALL[1]: "STALE"}

    # A run that was stopped before it made the picture again changes nothing.
    project.sandbox.set_faults({"kind": "status", "status": 401})
    project.augment(ALL[1], check=False)
    project.sandbox.set_faults()
    project.plan()
    assert states(project) == FRESH | {ALL[1]: "STALE"}
    project.augment(ALL[1])
    project.plan()
    assert project.billed() == 11
    assert states(project) == FRESH


def test_inputs_that_are_kept_later_make_nothing_out_of_date(project: Project) -> None:
    project.plan()
    project.augment(ALL[0], ALL[2])
    project.run_assets("inputs")
    assert states(project) == states(project, "metadata") == FRESH


def test_a_batch_of_the_command_line_is_as_fresh_as_any(project: Project) -> None:
    project.generate(ALL)
    project.plan()
    assert states(project) == states(project, "metadata") == FRESH
    project.write_manifest(["a red boat", *(f"a lighthouse with number {index}" for index in range(1, 10))])
    project.plan()
    assert states(project) == FRESH | {ALL[0]: "STALE"}
    with Pipeline(load_settings()) as pipeline:
        planned = pipeline.planned()
        with pipeline.client() as client:
            pipeline.run(planned, ALL, client=client)
        assert report_batches(pipeline, ALL, instance=project.instance) == 1
    assert states(project) == FRESH


@pytest.mark.long
def test_a_change_that_is_planned_while_a_run_goes_on_shows_when_the_run_ends(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.plan()
    run = Pipeline.run

    def edited_meanwhile(pipeline: Pipeline, *arguments: object, **options: object) -> object:
        report = run(pipeline, *arguments, **options)  # type: ignore[arg-type]
        project.write_manifest(["a red boat", *(f"a lighthouse with number {index}" for index in range(1, 10))])
        with Pipeline(load_settings()) as other:
            other.plan()
        return report

    monkeypatch.setattr(Pipeline, "run", edited_meanwhile)
    project.augment(ALL[0], ALL[2])
    assert states(project) == FRESH | {ALL[0]: "STALE"}


@pytest.mark.long
def test_few_events_say_what_is_out_of_date(project: Project) -> None:
    project.plan()
    project.augment(ALL[0], ALL[2])
    project.augment(ALL[0], ALL[2])
    project.plan()
    storage = project.instance.event_log_storage
    requests = AssetKey("requests")
    found = storage.get_latest_storage_id_by_partition(requests, DagsterEventType.ASSET_OBSERVATION)
    assert set(found) == set(ALL)
    observations = project.instance.fetch_observations(requests, limit=100).records
    assert len(observations) == 3
