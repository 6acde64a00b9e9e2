"""The code location that `dagster dev`, `dagster definitions validate` and `dg` load."""

import warnings

from dagster import BetaWarning, Definitions, definitions, in_process_executor


@definitions
def defs() -> Definitions:
    """Return all definitions. Needs no key, manifest or data directory: a run that lacks one says so."""
    with warnings.catch_warnings():
        # Dagster warns at every load that backfill policies are beta. Its version is pinned, and the tests use them.
        warnings.simplefilter("ignore", BetaWarning)
        from kontext_pipeline.orchestration import asset_checks, assets, automation, input_asset
        from kontext_pipeline.orchestration.io_managers import MetadataIOManager
        from kontext_pipeline.orchestration.resources import KontextResource, SegmindResource

    # Configured at launch, so that run config for `segmind` and `kontext` reaches the resources that depend on them.
    segmind = SegmindResource.configure_at_launch()
    kontext = KontextResource.configure_at_launch(segmind=segmind)
    return Definitions(
        assets=[assets.plan, input_asset.inputs, assets.images, assets.metadata],
        asset_checks=[asset_checks.check_metadata],
        jobs=[automation.plan_job, automation.augment_job],
        schedules=[automation.unfinished_batches],
        sensors=[automation.manifests_changed, automation.new_batches],
        resources={
            "segmind": segmind,
            "kontext": kontext,
            "metadata_io_manager": MetadataIOManager(kontext=kontext),
        },
        # A process for each step would take longer than most steps that have nothing to do, and steps run in turn.
        executor=in_process_executor,
    )
