"""What the command line made is shown by Dagster as materialized, once."""

from dagster import AssetKey

from kontext_pipeline.orchestration.reporting import report_batches
from kontext_pipeline.pipeline import Pipeline
from kontext_pipeline.settings import load_settings
from tests.orchestration.conftest import Project

ALL = ["photos-00000", "photos-00001", "photos-00002"]


def test_what_was_made_without_dagster_is_shown_by_it(project: Project) -> None:
    with Pipeline(load_settings()) as pipeline:
        planned = pipeline.plan()
        with pipeline.client() as client:
            pipeline.run(planned, ALL[:2], client=client)
        pipeline.write_tables(planned, ALL)

        assert report_batches(pipeline, ALL, instance=project.instance) == 3
        assert project.instance.get_dynamic_partitions("batch") == ALL
        assert project.instance.get_materialized_partitions(AssetKey("images")) == set(ALL[:2])
        assert project.instance.get_materialized_partitions(AssetKey("metadata")) == set(ALL)
        event = project.instance.get_latest_materialization_event(AssetKey("images"))
        assert event is not None
        assert event.asset_materialization is not None
        assert event.asset_materialization.metadata["cost_usd"].value == 0.4
        assert "contact_sheet" in event.asset_materialization.metadata

        assert report_batches(pipeline, ALL, instance=project.instance) == 0
        with pipeline.client() as client:
            pipeline.run(planned, ALL, client=client)
        assert report_batches(pipeline, ALL, instance=project.instance) == 1
        assert project.instance.get_materialized_partitions(AssetKey("images")) == set(ALL)
