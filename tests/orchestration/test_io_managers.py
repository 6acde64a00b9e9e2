"""Tables flow to other assets: one partition as a table, several by their keys."""

from typing import Any

import pyarrow as pa
from dagster import AssetIn, Definitions, asset

from kontext_pipeline.definitions import defs
from kontext_pipeline.orchestration.dataset_names import UNNAMED
from kontext_pipeline.orchestration.partitions import batches
from tests.orchestration.conftest import Project

ALL = ["photos-00000", "photos-00001", "photos-00002"]
SEEN: dict[str, Any] = {}


@asset(ins={"metadata": AssetIn(input_manager_key="metadata_io_manager")}, partitions_def=batches)
def labels(metadata: pa.Table) -> None:
    SEEN["labels"] = metadata


@asset(ins={"metadata": AssetIn(input_manager_key="metadata_io_manager")})
def all_labels(metadata: dict[str, Any]) -> None:
    SEEN["all_labels"] = metadata


def test_an_asset_of_the_users_gets_the_tables(project: Project) -> None:
    project.generate(ALL)
    job = Definitions.merge(defs(), Definitions(assets=[labels, all_labels]))
    whole = job.resolve_implicit_global_asset_job_def()

    one = whole.get_subset(asset_selection={labels.key})
    assert one.execute_in_process(instance=project.instance, partition_key=ALL[2]).success
    assert SEEN["labels"].equals(project.table(ALL[2]))

    every = whole.get_subset(asset_selection={all_labels.key})
    assert every.execute_in_process(instance=project.instance).success
    assert sorted(SEEN["all_labels"]) == ALL
    assert all(SEEN["all_labels"][key].equals(project.table(key)) for key in ALL)


@asset(
    ins={
        "metadata": AssetIn(input_manager_key=UNNAMED.metadata_io_manager, metadata={"allow_missing_partitions": True})
    }
)
def labels_so_far(metadata: dict[str, Any]) -> None:
    SEEN["labels_so_far"] = metadata


def test_batches_that_are_not_made_yet_may_be_left_out(project: Project) -> None:
    job = Definitions.merge(defs(), Definitions(assets=[labels_so_far])).resolve_implicit_global_asset_job_def()
    job = job.get_subset(asset_selection={labels_so_far.key})
    for made in (ALL[1:2], ALL[:2]):
        project.generate(made)
        assert job.execute_in_process(instance=project.instance).success
        assert sorted(SEEN["labels_so_far"]) == made


def test_a_batch_that_was_not_made_is_named(project: Project) -> None:
    project.plan()
    job = Definitions.merge(defs(), Definitions(assets=[labels])).resolve_implicit_global_asset_job_def()
    result = job.get_subset(asset_selection={labels.key}).execute_in_process(
        instance=project.instance, partition_key=ALL[0], raise_on_error=False
    )
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert f"Batch {ALL[0]} has no metadata yet" in failed.step_failure_data.error_display_string
