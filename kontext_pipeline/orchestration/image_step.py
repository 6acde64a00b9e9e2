"""The step that generates pictures: finds the missing ones, runs the pipeline, records finished batches."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dagster import AssetExecutionContext, AssetMaterialization, Config, DagsterExecutionInterruptedError
from pydantic import Field

from kontext_pipeline.orchestration.event_metadata import batch_metadata, thumbnails_for
from kontext_pipeline.orchestration.step_failures import failure_of, stop_of
from kontext_pipeline.orchestration.step_log import progress_lines

if TYPE_CHECKING:
    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.planning.plan import Plan


class GenerationConfig(Config):
    """What one run may do."""

    budget_usd: float | None = Field(
        None,
        ge=0,
        description="The most that this run may spend, USD; empty: only the standing budget applies.",
    )
    retry_failed: bool = Field(False, description="Try rows again that failed for good.")
    go_on_with_less_credit: bool = Field(
        False,
        description="Where the account's balance is too small for all pictures, generate as many as it pays for.",
    )


def missing_pictures(
    pipeline: "Pipeline", planned: "Plan", keys: Sequence[str], *, retry_failed: bool = False
) -> dict[str, set[str]]:
    """Return, by batch, the fingerprints of pictures that a run would request."""
    wanted = {key: set(planned.batch_table(key)["fingerprint"].to_pylist()) for key in keys}
    settled = pipeline.settled(sum(map(len, wanted.values())), retry_failed=retry_failed)
    missing = {}
    for key, fingerprints in wanted.items():
        succeeded, given_up = settled(list(fingerprints))
        missing[key] = fingerprints - succeeded - given_up
    return missing


def generate_missing(
    context: AssetExecutionContext, config: GenerationConfig, pipeline: "Pipeline", planned: "Plan"
) -> None:
    """Generate the missing pictures of the run's batches and write the batches' tables.

    Raises:
        Failure: the run was stopped. The batches that are finished are recorded as materialized.
    """
    keys = list(context.partition_keys)
    missing = missing_pictures(pipeline, planned, keys, retry_failed=config.retry_failed)
    to_generate = len(set().union(*missing.values()))
    if not to_generate:
        context.log.info("Every picture has its outcome already: nothing is sent.")
        pipeline.write_tables(planned, keys)
        return
    with pipeline.client() as client, progress_lines(context.log, to_generate) as watch:
        warning = pipeline.preflight(
            client, to_generate, budget_usd=config.budget_usd, go_on_with_less=config.go_on_with_less_credit
        )
        if warning:
            context.log.warning(warning)
        context.log.info(f"{to_generate:,} pictures are to be generated (batches: {len(keys):,})")
        report = pipeline.run(
            planned,
            keys,
            client=client,
            run_id=context.run.run_id,
            budget_usd=config.budget_usd,
            retry_failed=config.retry_failed,
            watch=watch,
        )
    if (stop := stop_of(report)) is not None:
        _record(context, pipeline, planned, report.finished, thumbnails=thumbnails_for(len(keys)))
        raise failure_of(stop, report, batches=len(keys))


@contextlib.contextmanager
def recorded_if_interrupted(context: AssetExecutionContext, pipeline: "Pipeline", planned: "Plan") -> Iterator[None]:
    """Record finished batches as materialized if the block is interrupted, then raise the interruption again."""
    try:
        yield
    except (DagsterExecutionInterruptedError, KeyboardInterrupt):
        missing = missing_pictures(pipeline, planned, list(context.partition_keys))
        finished = [key for key, fingerprints in missing.items() if not fingerprints]
        # Without thumbnails: a person waits for the run to end.
        _record(context, pipeline, planned, finished, thumbnails=0)
        raise


def add_metadata(context: AssetExecutionContext, pipeline: "Pipeline", planned: "Plan") -> None:
    """Add figures, contact sheet and failed rows to the materialization of each of the run's batches."""
    keys = context.partition_keys
    for key in keys:
        table = pipeline.metadata_of(planned, key).table
        shown = batch_metadata(pipeline, table, thumbnails=thumbnails_for(len(keys)))
        context.add_asset_metadata(shown, partition_key=key)


def _record(
    context: AssetExecutionContext,
    pipeline: "Pipeline",
    planned: "Plan",
    finished: Sequence[str],
    *,
    thumbnails: int,
) -> None:
    """Record these batches as materialized, in a step that is about to fail."""
    for key in finished:
        table = pipeline.metadata_of(planned, key).table
        shown = batch_metadata(pipeline, table, thumbnails=thumbnails)
        context.log_event(AssetMaterialization(context.asset_key, partition=key, metadata=shown))
