"""Reports to Dagster what the command line did, so that Dagster's pages show it."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from dagster import AssetKey, AssetMaterialization, AssetRecordsFilter, DagsterInstance

from kontext_pipeline.orchestration.event_metadata import batch_metadata, figures, plan_metadata, thumbnails_for
from kontext_pipeline.orchestration.partitions import register

if TYPE_CHECKING:
    from kontext_pipeline.pipeline import Pipeline

log: Final = logging.getLogger(__name__)

METADATA: Final = AssetKey("metadata")


def report_batches(pipeline: "Pipeline", keys: Sequence[str], *, instance: DagsterInstance | None = None) -> int:
    """Register the plan's batches and record the batches `keys` as materialized. Return how many were recorded.

    A batch whose figures are recorded already is left out. Images count as materialized when every row has its
    outcome. `instance`: default is the one of `DAGSTER_HOME`.
    """
    from kontext_pipeline.dataset.storage import read_batch
    from kontext_pipeline.dataset.summary import summarize

    if instance is None:
        with DagsterInstance.get() as own:
            return report_batches(pipeline, keys, instance=own)
    planned = pipeline.planned()
    register(instance, planned.batch_keys)
    summaries = {key: summarize(read_batch(pipeline.data_dir, key)) for key in keys}
    new = [key for key in keys if not _is_recorded(instance, key, figures(summaries[key]))]
    if new:
        estimate = pipeline.estimate(planned)
        instance.report_runless_asset_event(AssetMaterialization("plan", metadata=plan_metadata(planned, estimate)))
    log.info("%d of %d batches are recorded as materialized in Dagster.", len(new), len(keys))
    for key in new:
        summary = summaries[key]
        if not summary.by_status["pending"]:
            shown = batch_metadata(pipeline, planned, key, thumbnails_for(len(new)))
            instance.report_runless_asset_event(AssetMaterialization("images", partition=key, metadata=shown))
        instance.report_runless_asset_event(AssetMaterialization(METADATA, partition=key, metadata=figures(summary)))
    return len(new)


def _is_recorded(instance: DagsterInstance, key: str, now: dict[str, Any]) -> bool:
    found = instance.fetch_materializations(AssetRecordsFilter(asset_key=METADATA, asset_partitions=[key]), limit=1)
    event = found.records[0].asset_materialization if found.records else None
    known = event.metadata if event else {}
    return all(name in known and known[name].value == value for name, value in now.items())
