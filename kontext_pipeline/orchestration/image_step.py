"""The step that generates pictures: finds the missing ones, runs the pipeline, records finished batches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dagster import AssetExecutionContext, AssetMaterialization, Config, DagsterExecutionInterruptedError
from pydantic import Field

from kontext_pipeline.orchestration.alert_sensor import BACKFILL
from kontext_pipeline.orchestration.event_metadata import batch_metadata, thumbnails_for
from kontext_pipeline.orchestration.run_watch import RunWatch
from kontext_pipeline.orchestration.step_failures import failure_of, failure_of_ended
from kontext_pipeline.orchestration.step_log import progress_lines
from kontext_pipeline.segmind.model import LIST_PRICE_USD

if TYPE_CHECKING:
    from kontext_pipeline.generation.ledger import AskAgain
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
    retry_unknown: bool = Field(
        False,
        description="Try rows once more whose answers were lost more often than KONTEXT_UNKNOWN_RETRIES allows. The lost "
        "answers may have been charged already.",
    )
    go_on_with_less_credit: bool = Field(
        False,
        description="Where the account's balance is too small for all pictures, generate as many as it pays for.",
    )


def missing_pictures(
    pipeline: "Pipeline",
    planned: "Plan",
    keys: Sequence[str],
    *,
    retry_failed: bool = False,
    ask_again: "AskAgain" = "within bounds",
) -> dict[str, set[str]]:
    """Return, by batch, the fingerprints of pictures that a run would request."""
    wanted = {key: set(planned.batch_table(key)["fingerprint"].to_pylist()) for key in keys}
    settled = pipeline.settled(sum(map(len, wanted.values())), retry_failed=retry_failed, ask_again=ask_again)
    return {key: prints.difference(*settled(list(prints))) for key, prints in wanted.items()}


def generate_missing(
    context: AssetExecutionContext, config: GenerationConfig, pipeline: "Pipeline", planned: "Plan"
) -> None:
    """Generate the missing pictures of the run's batches and write the batches' tables.

    If the run is stopped or interrupted, the batches that are finished are recorded as materialized.

    Raises:
        Failure: the run was stopped.
    """
    run = RunWatch(context.instance, context.run.run_id)
    if (ended := run.end()) is not None:
        # A retry of a step that was interrupted before it could say so.
        raise failure_of_ended(ended)
    keys = list(context.partition_keys)
    ask_again: AskAgain = "always" if config.retry_unknown else "within bounds"
    missing = missing_pictures(pipeline, planned, keys, retry_failed=config.retry_failed, ask_again=ask_again)
    to_generate = len(set().union(*missing.values()))
    if not to_generate:
        context.log.info("Every picture has its outcome already: nothing is sent.")
        pipeline.write_tables(planned, keys)
        return
    context.log.info(f"{to_generate:,} pictures are to be generated (batches: {len(keys):,})")
    if gone := len(set().union(*missing.values()) & pipeline.requests.gone):
        context.log.warning(
            f"{gone:,} of these are gone from the data directory and are generated again for "
            f"{gone * LIST_PRICE_USD:,.2f} USD"
        )
    if config.retry_unknown:
        within = missing_pictures(pipeline, planned, keys, retry_failed=config.retry_failed)
        if lost := to_generate - len(set().union(*within.values())):
            context.log.warning(
                f"{lost:,} of these have lost their answers too often and are requested once more for "
                f"{lost * LIST_PRICE_USD:,.2f} USD; the lost answers may have been charged already"
            )

    def record(finished: Sequence[str], thumbnails: int) -> None:
        """Record these batches as materialized: the step itself is about to fail."""
        for key in finished:
            shown = batch_metadata(pipeline, planned, key, thumbnails)
            context.log_event(AssetMaterialization(context.asset_key, partition=key, metadata=shown))

    try:
        with (
            run.stopping(pipeline.stop),
            pipeline.client() as client,
            progress_lines(context.log, to_generate) as progress,
        ):
            warning = pipeline.preflight(
                client, to_generate, budget_usd=config.budget_usd, go_on_with_less=config.go_on_with_less_credit
            )
            if warning:
                context.log.warning(warning)
            report = pipeline.run(
                planned,
                keys,
                client=client,
                run_id=context.run.run_id,
                budget_usd=config.budget_usd,
                retry_failed=config.retry_failed,
                ask_again=ask_again,
                watch=progress.watch,
                tell_finish=BACKFILL not in context.run.tags,
            )
    except (DagsterExecutionInterruptedError, KeyboardInterrupt):
        missing = missing_pictures(pipeline, planned, keys)
        # Without thumbnails: a person waits for the run to end.
        record([key for key in keys if not missing[key]], thumbnails=0)
        raise
    if report.stopped is not None:
        record(report.finished, thumbnails_for(len(keys)))
        lines = pipeline.failures(planned, keys).lines()
        raise failure_of(report.stopped, report, batches=len(keys), without_picture=lines)
