"""What runs without being asked: two sensors and a schedule. All are off until they are switched on.

`manifests_changed` plans again when a manifest changes. `new_batches` then augments the batches that this brought,
each once. `unfinished_batches` comes every night for what is missing still: rows that were edited, and what a
stop left behind. The last two spend money: set KONTEXT_BUDGET_USD before switching them on.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Final

from dagster import (
    AssetSelection,
    AutomationConditionSensorDefinition,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Failure,
    RunRequest,
    RunsFilter,
    ScheduleEvaluationContext,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    schedule,
    sensor,
)

from kontext_pipeline.orchestration.assets import images, metadata, missing_pictures
from kontext_pipeline.orchestration.jobs import augment_job, plan_job
from kontext_pipeline.orchestration.partitions import BATCH
from kontext_pipeline.orchestration.resources import KontextResource

UNDER_WAY: Final = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
EVERY_NIGHT: Final = "0 2 * * *"


@sensor(
    job=plan_job,
    minimum_interval_seconds=60,
    default_status=DefaultSensorStatus.STOPPED,
    description="Plan again when a manifest or a setting that the plan follows from changes. Sends nothing.",
)
def manifests_changed(
    context: SensorEvaluationContext, kontext: KontextResource
) -> SensorResult | SkipReason:
    """Request a run of `plan_manifests` when the manifests are not those of the last one."""
    from kontext_pipeline.errors import KontextError
    from kontext_pipeline.planning.manifests import read_manifests

    try:
        settings = kontext.settings()
        manifests = read_manifests(settings.manifests)
    except KontextError as error:
        return SkipReason(str(error))
    follows_from = [
        sorted((manifest.name, manifest.digest) for manifest in manifests),
        [settings.backend, settings.seed, settings.clamp_safety_tolerance, settings.data_dir],
    ]
    digest = hashlib.sha256(json.dumps(follows_from).encode()).hexdigest()
    if digest == context.cursor:
        return SkipReason("The manifests are as they were planned.")
    return SensorResult(run_requests=[RunRequest()], cursor=digest)


new_batches = AutomationConditionSensorDefinition(
    name="new_batches",
    target=AssetSelection.assets(images, metadata),
    default_status=DefaultSensorStatus.STOPPED,
    description="Augment each batch once that the plan brings from now on. Spends money.",
)


@schedule(
    job=augment_job,
    cron_schedule=EVERY_NIGHT,
    default_status=DefaultScheduleStatus.STOPPED,
    description="Augment every batch that lacks a picture, by the ledger: new ones, those with edited rows, and what "
    "a stop left behind. One run for each row of neighbouring batches. Spends money.",
)
def unfinished_batches(
    context: ScheduleEvaluationContext, kontext: KontextResource
) -> list[RunRequest] | SkipReason:
    """Request runs for the batches that lack a picture or a table, unless one is under way."""
    runs = context.instance.get_runs(RunsFilter(job_name=augment_job.name, statuses=UNDER_WAY), limit=1)
    if runs:
        return SkipReason(f"Run {runs[0].run_id} is under way.")
    keys = context.instance.get_dynamic_partitions(BATCH)
    try:
        with kontext.pipeline() as pipeline:
            planned = pipeline.planned()
            keys = [key for key in keys if planned.has_batch(key)]
            missing = missing_pictures(pipeline, planned, keys)
    except Failure as failure:
        return SkipReason(failure.description or "The plan can't be read.")
    written = context.instance.get_materialized_partitions(metadata.key)
    unfinished = {key for key in keys if missing[key] or key not in written}
    if not unfinished:
        return SkipReason("Every picture has its outcome.")
    return [
        RunRequest(
            tags={
                "dagster/asset_partition_range_start": first,
                "dagster/asset_partition_range_end": last,
            }
        )
        for first, last in ranges(context.instance.get_dynamic_partitions(BATCH), unfinished)
    ]


def ranges(keys: Sequence[str], wanted: set[str]) -> list[tuple[str, str]]:
    """Return first and last key of each unbroken row of `wanted` ones in `keys`."""
    found: list[tuple[str, str]] = []
    unbroken = False
    for key in keys:
        if key in wanted and unbroken:
            found[-1] = (found[-1][0], key)
        elif key in wanted:
            found.append((key, key))
        unbroken = key in wanted
    return found
