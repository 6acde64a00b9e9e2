"""The code location: assembles, decides nothing. `dagster dev`, `dagster definitions validate` and `dg` load it."""

import warnings

from dagster import BetaWarning, Definitions, definitions


@definitions
def defs() -> Definitions:
    """Put assets, checks, jobs, schedules, sensors and resources together.

    Needs neither a key nor a manifest nor a data directory: what is missing is said by the run that needs it.
    """
    with warnings.catch_warnings():
        # Dagster calls backfill policies beta, at every load; they are pinned with it and tested here.
        warnings.simplefilter("ignore", BetaWarning)
        from kontext_pipeline.orchestration import assets, automation, checks, jobs
        from kontext_pipeline.orchestration.io_managers import MetadataIOManager
        from kontext_pipeline.orchestration.resources import KontextResource, SegmindResource

    # At launch: so that run config for `segmind` and `kontext` reaches what is built on them.
    segmind = SegmindResource.configure_at_launch()
    kontext = KontextResource.configure_at_launch(segmind=segmind)
    return Definitions(
        assets=[assets.plan, assets.images, assets.metadata],
        asset_checks=[checks.check_metadata],
        jobs=[jobs.plan_job, jobs.augment_job],
        schedules=[automation.unfinished_batches],
        sensors=[automation.manifests_changed, automation.new_batches],
        resources={
            "segmind": segmind,
            "kontext": kontext,
            "metadata_io_manager": MetadataIOManager(kontext=kontext),
        },
    )
