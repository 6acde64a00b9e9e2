"""The jobs, and their automation: two sensors and a schedule, which are off until a person switches them on.

`manifests_changed` plans again when a manifest changes. `new_batches` then generates the new batches, once each.
`unfinished_batches` generates missing pictures every night: of edited rows, and of stopped runs. The last two spend
money: set KONTEXT_BUDGET_USD before switching them on.
"""

import hashlib
import json
import uuid
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from dagster import (
    AssetSelection,
    AutomationConditionSensorDefinition,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    DefaultSensorStatus,
    Failure,
    RunRequest,
    RunsFilter,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    define_asset_job,
    schedule,
    sensor,
)

from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.image_step import missing_pictures
from kontext_pipeline.orchestration.resources import KontextResource, kontext_of

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

IN_PROGRESS: Final = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
EVERY_NIGHT: Final = "0 2 * * *"
LOOK_S: Final = 60
"""Least time between two looks at the manifests, seconds."""
REQUEST: Final = "kontext/plan_request"
"""Tag of the run by which `manifests_changed` finds what became of its request."""
LONGEST_REASON: Final = 1000
"""Characters of a failure that a tick shows."""
RANGE: Final = "dagster/asset_partition_range"
"""Beginning of the tags with a range's first and last partition."""


def make_plan_job(names: DatasetNames) -> "UnresolvedAssetJobDefinition":
    """Return the job that updates a dataset's plan."""
    return define_asset_job(
        names.plan_job,
        selection=AssetSelection.assets(names.asset_key("plan")),
        description="Update the plan from the manifests. Sends nothing.",
    )


def make_augment_job(names: DatasetNames) -> "UnresolvedAssetJobDefinition":
    """Return the job that generates a dataset's batches."""
    return define_asset_job(
        names.augment_job,
        selection=AssetSelection.assets(names.asset_key("images"), names.asset_key("metadata")),
        description="Generate the missing pictures of one batch or a range of batches, write the metadata tables and "
        "check them against the ledger.",
    )


def make_manifests_changed(names: DatasetNames) -> SensorDefinition:
    """Return the sensor that plans a dataset's manifests again when they change."""

    @sensor(
        name=names.suffixed("manifests_changed"),
        job_name=names.plan_job,
        minimum_interval_seconds=LOOK_S,
        default_status=DefaultSensorStatus.STOPPED,
        required_resource_keys={names.kontext},
        description="Plan again when a manifest changes, or a setting on which the plan depends. Sends nothing.",
    )
    def manifests_changed(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        return request_plan(context, kontext_of(context, names))

    return manifests_changed


def request_plan(context: SensorEvaluationContext, kontext: KontextResource) -> SensorResult | SkipReason:
    """Request a run of `plan_manifests` if the manifests changed since they were planned, once for each change.

    The cursor is the digest of what was planned; while a request is open, its digest and its key follow.
    """
    from kontext_pipeline.errors import KontextError
    from kontext_pipeline.planning.manifests import read_manifests

    try:
        settings = kontext.settings()
        manifests = read_manifests(settings.manifests)
    except KontextError as error:
        return SkipReason(str(error))
    depends_on = [
        sorted((manifest.name, manifest.digest) for manifest in manifests),
        [settings.backend, settings.seed, settings.clamp_safety_tolerance, settings.data_dir],
        [sorted(settings.column_mapping.items()), settings.aspect_ratio],
    ]
    digest = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()
    planned, asked, key = [*(context.cursor or "").split("|"), "", ""][:3]
    if digest == planned and not asked:
        return SkipReason("The manifests have not changed.")
    if digest != asked:
        key = uuid.uuid4().hex
    request = SensorResult(
        run_requests=[RunRequest(run_key=key, tags={REQUEST: key})], cursor=f"{planned}|{digest}|{key}"
    )
    runs = context.instance.get_runs(RunsFilter(tags={REQUEST: key}), limit=1)
    if not runs:
        return request
    if runs[0].status is DagsterRunStatus.SUCCESS:
        return SensorResult(skip_reason="The manifests were planned.", cursor=digest)
    if runs[0].status in IN_PROGRESS:
        return SkipReason(f"Run {runs[0].run_id} plans the manifests.")
    reason = _failure_of(context.instance, runs[0].run_id)
    return SkipReason(
        f"The manifests could not be planned: {reason[:LONGEST_REASON]} (run {runs[0].run_id}). They are planned again when "
        "they change. If the cause was another one, re-execute that run, or reset the sensor's cursor."
    )


def _failure_of(instance: DagsterInstance, run_id: str) -> str:
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE):
        if entry.dagster_event is not None:
            failed = entry.dagster_event.step_failure_data
            said = failed.user_failure_data.description if failed.user_failure_data else None
            return said or (failed.error.message if failed.error else "") or "the step failed"
    return "the run did not succeed"


def make_new_batches(names: DatasetNames) -> AutomationConditionSensorDefinition:
    """Return the sensor that generates a dataset's new batches."""
    return AutomationConditionSensorDefinition(
        name=names.suffixed("new_batches"),
        target=AssetSelection.assets(*(names.asset_key(asset) for asset in ("images", "metadata", "quality"))),
        default_status=DefaultSensorStatus.STOPPED,
        description="Generate each new batch of the plan once, and measure its pictures. Spends money.",
    )


def make_unfinished_batches(names: DatasetNames, batches_a_run: int | None = None) -> ScheduleDefinition:
    """Return the schedule that generates what a dataset lacks. `batches_a_run`: most batches of a run; None: no limit."""

    @schedule(
        name=names.suffixed("unfinished_batches"),
        job_name=names.augment_job,
        cron_schedule=EVERY_NIGHT,
        default_status=DefaultScheduleStatus.STOPPED,
        required_resource_keys={names.kontext},
        description="Generate every batch that lacks a picture: new batches, edited rows, and pictures that a stopped run "
        "left. One run for each unbroken range of batches, or several. Spends money.",
    )
    def unfinished_batches(context: ScheduleEvaluationContext) -> list[RunRequest] | SkipReason:
        return _request_unfinished(context, kontext_of(context, names), names, batches_a_run)

    return unfinished_batches


def _request_unfinished(
    context: ScheduleEvaluationContext, kontext: KontextResource, names: DatasetNames, batches_a_run: int | None
) -> list[RunRequest] | SkipReason:
    """Request runs for the batches that lack a picture or a table, unless a run is in progress."""
    runs = context.instance.get_runs(RunsFilter(job_name=names.augment_job, statuses=IN_PROGRESS), limit=1)
    if runs:
        return SkipReason(f"Run {runs[0].run_id} is in progress.")
    known = context.instance.get_dynamic_partitions(names.batch)
    try:
        with kontext.pipeline() as pipeline:
            planned = pipeline.planned()
            keys = [key for key in known if planned.has_batch(key)]
            missing = missing_pictures(pipeline, planned, keys)
    except Failure as failure:
        return SkipReason(failure.description or "The plan can't be read.")
    written = context.instance.get_materialized_partitions(names.asset_key("metadata"))
    unfinished = {key for key in keys if missing[key] or key not in written}
    if not unfinished:
        return SkipReason("Every picture has its outcome.")
    # Dagster takes several requests of one tick only with a key each, and runs a key once: the next night has another.
    time = context.scheduled_execution_time.isoformat()
    return [
        RunRequest(run_key=f"{time} {first}", tags={f"{RANGE}_start": first, f"{RANGE}_end": last})
        for first, last in ranges(known, unfinished, batches_a_run)
    ]


def ranges(keys: Sequence[str], wanted: set[str], most: int | None = None) -> list[tuple[str, str]]:
    """Return the first and last key of each unbroken range of `wanted` keys in `keys`, each of `most` keys at most."""
    unbroken = [list(group) for is_wanted, group in groupby(keys, wanted.__contains__) if is_wanted]
    size = most or len(keys)
    parts = [group[start : start + size] for group in unbroken for start in range(0, len(group), size)]
    return [(part[0], part[-1]) for part in parts]
