"""The factory: all definitions of one dataset, for this package's own code location and for any other project."""

from dagster import Definitions, ExecutorDefinition

from kontext_pipeline.orchestration.alert_sensor import make_backfills_ended
from kontext_pipeline.orchestration.assets import make_images_and_metadata, make_plan, make_requests
from kontext_pipeline.orchestration.automation import (
    make_augment_job,
    make_manifests_changed,
    make_new_batches,
    make_plan_job,
    make_unfinished_batches,
)
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.dead_runs import make_dead_runs
from kontext_pipeline.orchestration.export_asset import make_dataset
from kontext_pipeline.orchestration.input_asset import make_inputs
from kontext_pipeline.orchestration.io_managers import MetadataIOManager
from kontext_pipeline.orchestration.plan_check import make_check_plan
from kontext_pipeline.orchestration.resources import KontextResource, SegmindResource
from kontext_pipeline.orchestration.spend_asset import make_spend


def kontext_definitions(name: str | None = None, *, executor: ExecutorDefinition | None = None) -> Definitions:
    """Return the definitions of a dataset. They need no key, manifest or data directory: a run that lacks one says so.

    `name`: the dataset's name, which begins the keys of its assets and ends the names of everything else; None: the
    dataset without a name. `executor`: runs the steps; None: the executor of the project.

    Raises:
        SettingsError: the name is not allowed.
    """
    names = DatasetNames(name)
    # Configured at launch, so that run config for these resources reaches those that depend on them.
    segmind = SegmindResource.configure_at_launch()
    kontext = KontextResource.configure_at_launch(segmind=segmind)
    return Definitions(
        assets=[
            make_plan(names),
            make_inputs(names),
            make_requests(names),
            make_images_and_metadata(names),
            make_dataset(names),
            make_spend(names),
        ],
        asset_checks=[make_check_plan(names)],
        jobs=[make_plan_job(names), make_augment_job(names)],
        schedules=[make_unfinished_batches(names)],
        sensors=[
            make_manifests_changed(names),
            make_new_batches(names),
            make_dead_runs(names),
            make_backfills_ended(names),
        ],
        resources={
            names.segmind: segmind,
            names.kontext: kontext,
            names.metadata_io_manager: MetadataIOManager(kontext=kontext),
        },
        executor=executor,
    )
