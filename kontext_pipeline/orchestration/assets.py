"""The assets: the plan, and for each batch its images and its metadata table.

One step sees a whole run's batches through, however many rows they have. What is there already is never
asked for again, so materializing anything again costs nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetExecutionContext,
    AssetMaterialization,
    AutomationCondition,
    BackfillPolicy,
    Config,
    DagsterExecutionInterruptedError,
    MaterializeResult,
    asset,
)
from pydantic import Field

from kontext_pipeline.orchestration.failures import RETRIES, failure, stop_of
from kontext_pipeline.orchestration.partitions import batches, register
from kontext_pipeline.orchestration.progress import progress_line, progress_lines
from kontext_pipeline.orchestration.resources import KontextResource
from kontext_pipeline.orchestration.shown import (
    batch_metadata,
    column_schema,
    figures,
    plan_metadata,
    thumbnails_for,
)

if TYPE_CHECKING:
    from kontext_pipeline.generation.progress import Progress, Stop
    from kontext_pipeline.pipeline import Pipeline, RunReport
    from kontext_pipeline.planning.plan import Plan

GROUP = "dataset"
POOL = "segmind_api"
"""Steps that call the API count against this pool's limit, if one is set."""
NEW_BATCHES = AutomationCondition.on_missing()
"""Where automation is switched on: batches that were never made, once. Not those whose plan was made again."""


class GenerationConfig(Config):
    """What one run may do."""

    budget_usd: float | None = Field(
        None, ge=0, description="The most that this run may spend, USD; empty: no cap but the standing one."
    )
    retry_failed: bool = Field(False, description="Try rows again that failed for good.")
    go_on_with_less_credit: bool = Field(
        False, description="Go on as far as the account's balance reaches where it is too small for all."
    )


@asset(
    group_name=GROUP,
    kinds={"csv", "parquet"},
    tags={"kontext/costs": "nothing"},
    description="What the manifests ask for: every picture with its seed, identity and batch, what is there "
    "already, and what the rest will cost. Materializing it registers a partition for each batch and sends "
    "nothing.",
)
def plan(context: AssetExecutionContext, kontext: KontextResource) -> MaterializeResult[Any]:
    """Bring the plan up to date with the manifests and register its batches."""
    with kontext.pipeline() as pipeline:
        made = pipeline.plan()
        estimate = pipeline.estimate(made)
        new, gone = register(context.instance, pipeline.planned().batch_keys)
        context.log.info(
            f"{estimate.pictures:,} pictures in {len(made.batches):,} batches ({len(new):,} new, {len(gone):,} gone); "
            f"{estimate.to_generate:,} to generate for about {estimate.cost_usd:,.2f} USD"
        )
        for warning in made.warnings:
            context.log.warning(warning)
        return MaterializeResult(
            metadata={**plan_metadata(made, estimate), "new_batches": len(new), "gone_batches": len(gone)}
        )


@asset(
    partitions_def=batches,
    backfill_policy=BackfillPolicy.single_run(),
    deps=[plan],
    group_name=GROUP,
    kinds={"segmind", "png"},
    tags={"kontext/costs": "money"},
    pool=POOL,
    retry_policy=RETRIES,
    automation_condition=NEW_BATCHES,
    description="The pictures of a batch, asked for from the image API. What is there already is not asked "
    "for again. Rows that the API refuses don't fail the batch: the check says which they are.",
)
def images(context: AssetExecutionContext, config: GenerationConfig, kontext: KontextResource) -> None:
    """Generate what is missing of the run's batches, and say what became of each."""
    keys = list(context.partition_keys)
    with kontext.pipeline() as pipeline:
        planned = pipeline.planned()
        try:
            stop, report = _generate(context, config, pipeline, planned, keys)
        except (DagsterExecutionInterruptedError, KeyboardInterrupt):
            # What is finished goes on record without pictures: whoever terminates a run waits for it.
            _record(context, pipeline, planned, finished_batches(pipeline, planned, keys), thumbnails=0)
            raise
        if stop is not None and report is not None:
            _record(context, pipeline, planned, report.finished, thumbnails=thumbnails_for(len(keys)))
            raise failure(
                stop,
                finished=len(report.finished),
                batches=len(keys),
                generated=report.progress.succeeded,
                spent_usd=report.progress.spent / 1e6,
            )
        own = pipeline.own_columns(planned)
        for key in keys:
            table = pipeline.metadata_of(planned, key, own=own).table
            shown = batch_metadata(pipeline, table, thumbnails=thumbnails_for(len(keys)))
            context.add_asset_metadata(shown, partition_key=key)


@asset(
    partitions_def=batches,
    backfill_policy=BackfillPolicy.single_run(),
    deps=[images],
    group_name=GROUP,
    kinds={"parquet"},
    tags={"kontext/costs": "nothing"},
    io_manager_key="metadata_io_manager",
    automation_condition=NEW_BATCHES,
    description="The metadata table of a batch: one row for each picture wished for, with its prompt, "
    "status, cost and file, and the manifest's own columns. Made of the plan and the ledger, so it can be "
    "made again at any time.",
)
def metadata(context: AssetExecutionContext, kontext: KontextResource) -> dict[str, Any]:
    """Make the metadata tables of the run's batches."""
    from kontext_pipeline.dataset.summary import summarize

    tables = {}
    with kontext.pipeline() as pipeline:
        planned = pipeline.planned()
        own = pipeline.own_columns(planned)
        for key in context.partition_keys:
            made = pipeline.metadata_of(planned, key, own=own)
            tables[key] = made
            context.add_asset_metadata(
                {
                    **figures(summarize(made.table)),
                    "dagster/partition_row_count": made.table.num_rows,
                    "dagster/column_schema": column_schema(made.table.schema),
                },
                partition_key=key,
            )
    return tables


def missing_pictures(
    pipeline: "Pipeline", planned: "Plan", keys: Sequence[str], *, retry_failed: bool = False
) -> dict[str, set[str]]:
    """Return, by batch, the fingerprints of pictures that a run would ask for."""
    missing = {}
    for key in keys:
        wanted = set(planned.batch_table(key)["fingerprint"].to_pylist())
        known = pipeline.statuses(list(wanted), retry_failed=retry_failed)
        missing[key] = {text for text in wanted if text not in known or known[text][1]}
    return missing


def finished_batches(pipeline: "Pipeline", planned: "Plan", keys: Sequence[str]) -> list[str]:
    """Return the batches that a run would ask nothing for."""
    missing = missing_pictures(pipeline, planned, keys)
    return [key for key in keys if not missing[key]]


def _generate(
    context: AssetExecutionContext,
    config: GenerationConfig,
    pipeline: "Pipeline",
    planned: "Plan",
    keys: Sequence[str],
) -> "tuple[Stop | None, RunReport | None]":
    missing = missing_pictures(pipeline, planned, keys, retry_failed=config.retry_failed)
    to_generate = len(set().union(*missing.values()))
    if not to_generate:
        context.log.info("Every picture has its outcome already: nothing is sent.")
        pipeline.write_tables(planned, keys)
        return None, None
    with pipeline.client() as client:
        warning = pipeline.preflight(
            client,
            to_generate,
            budget_usd=config.budget_usd,
            go_on_with_less=config.go_on_with_less_credit,
        )
        if warning:
            context.log.warning(warning)
        context.log.info(f"{to_generate:,} pictures are to be generated (batches: {len(keys):,})")
        with progress_lines(context.log, to_generate) as watch:
            seen: list[Progress] = []

            def look(progress: "Progress") -> None:
                seen.append(progress)
                watch(progress)

            try:
                report = pipeline.run(
                    planned,
                    keys,
                    client=client,
                    run_id=context.run.run_id,
                    budget_usd=config.budget_usd,
                    retry_failed=config.retry_failed,
                    watch=look,
                )
            finally:
                if seen:
                    context.log.info(progress_line(seen[0], to_generate))
    return stop_of(report), report


def _record(
    context: AssetExecutionContext,
    pipeline: "Pipeline",
    planned: "Plan",
    finished: Sequence[str],
    *,
    thumbnails: int,
) -> None:
    """Record these batches as materialized, in a step that is about to fail."""
    own = pipeline.own_columns(planned)
    for key in finished:
        table = pipeline.metadata_of(planned, key, own=own).table
        context.log_event(
            AssetMaterialization(
                context.asset_key,
                partition=key,
                metadata=batch_metadata(pipeline, table, thumbnails=thumbnails),
            )
        )
