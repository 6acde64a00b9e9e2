"""The step that generates pictures and makes the tables: finds what is missing, runs the pipeline, records each batch."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from dagster import (
    AssetExecutionContext,
    AssetObservation,
    Config,
    DagsterExecutionInterruptedError,
    MaterializeResult,
    Output,
)
from pydantic import Field

from kontext_pipeline.orchestration.alert_sensor import BACKFILL
from kontext_pipeline.orchestration.batch_checks import BOOKS_BALANCE, Limits, check_batch
from kontext_pipeline.orchestration.batch_recorder import BatchRecorder, Recording, recorded_in_run
from kontext_pipeline.orchestration.batch_versions import replanned_batches
from kontext_pipeline.orchestration.check_evaluations import CheckEvaluations
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.event_metadata import thumbnails_for
from kontext_pipeline.orchestration.plan_check import record_plan_check
from kontext_pipeline.orchestration.run_watch import RunWatch
from kontext_pipeline.orchestration.spend_asset import record_spend
from kontext_pipeline.orchestration.step_failures import failure_of, failure_of_ended
from kontext_pipeline.orchestration.step_log import progress_lines
from kontext_pipeline.segmind.model import LIST_PRICE_USD
from kontext_pipeline.segmind.outcomes import Cause

if TYPE_CHECKING:
    from kontext_pipeline.generation.ledger import AskAgain
    from kontext_pipeline.pipeline import Pipeline, RunReport
    from kontext_pipeline.planning.plan import Plan

RECORDED: Final = {"__source_asset_observation__": True}
"""Metadata of an output whose events the step has recorded itself: Dagster then adds none, and steps downstream run."""


class GenerationConfig(Config):
    """What one run may do, and what its checks allow."""

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
    failed_share: float = Field(
        Limits.failed_share,
        ge=0,
        le=1,
        description="The largest share of a batch's rows that may be failed or unknown; above, the check few_rows_failed "
        "warns.",
    )
    hashed: int = Field(
        Limits.hashed, ge=0, description="Pictures of each batch that the check pictures_are_unchanged reads."
    )

    @property
    def limits(self) -> Limits:
        """What the checks allow, and how much they read."""
        return Limits(self.failed_share, self.hashed)


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


class BatchStep:
    """One execution of the step, for the assets and checks that the run has selected."""

    def __init__(
        self, context: AssetExecutionContext, config: GenerationConfig, pipeline: "Pipeline", names: DatasetNames
    ) -> None:
        """Open the plan.

        Raises:
            PlanError: there is no plan for this backend.
        """
        self._context = context
        self._config = config
        self._pipeline = pipeline
        self._names = names
        self._images, self._metadata = names.asset_key("images"), names.asset_key("metadata")
        self._planned = pipeline.planned()
        self._checks = CheckEvaluations(
            context.instance, self._metadata, [check.name for check in context.selected_asset_check_keys]
        )

    def run(self) -> Iterator[MaterializeResult[Any] | Output[None]]:
        """Bring the run's batches up to date and record each one when it is through.

        Yields an output of each selected check, and of each selected asset if all batches are through. A budget that is
        reached is no failure: the run ends without outputs of assets, and the batches that are left are not recorded.

        Raises:
            Failure: the run was stopped by something else than a budget.
        """
        try:
            complete = self._bring_up_to_date() if self._context.selected_asset_keys else self._check_alone()
        except BaseException:
            # What stopped the step is what it says, whatever goes wrong here.
            with contextlib.suppress(Exception):
                self._record_evaluations()
                self._note_replanned()
            raise
        self._note_replanned()
        if complete:
            for asset in (self._images, self._metadata):
                if asset in self._context.selected_asset_keys:
                    yield MaterializeResult(asset_key=asset, metadata=RECORDED)
        self._record_evaluations()
        for key in self._context.selected_asset_check_keys:
            yield Output(None, output_name=f"{key.asset_key.to_python_identifier()}_{key.name}")

    def _bring_up_to_date(self) -> bool:
        """Return whether all batches are through."""
        context, keys = self._context, list(self._context.partition_keys)
        run = RunWatch(context.instance, context.run.run_id)
        if (ended := run.end()) is not None:
            # A retry of a step that was interrupted before it could say so.
            raise failure_of_ended(ended)
        selected = set(context.selected_asset_keys)
        recorder = BatchRecorder(
            self._pipeline,
            self._planned,
            instance=context.instance,
            names=self._names,
            write=context.log_event,
            run_id=context.run.run_id,
            thumbnails=thumbnails_for(len(keys)),
            checks=self._checks,
            limits=self._config.limits,
        )
        done = recorded_in_run(context.instance, context.run.run_id, selected) if context.retry_number else set()
        recording = Recording(
            lambda key: recorder.record(key, images_too=self._images in selected, table_too=self._metadata in selected),
            done=done,
        )
        with recording.running():
            to_generate = 0
            if self._images in selected:
                record_plan_check(context, self._names, self._pipeline, self._planned)
                to_generate = self._to_generate(keys)
            if not to_generate:
                self._pipeline.write_tables(self._planned, keys)
                recording.record_all(keys)
                return True
            try:
                report = self._generate(keys, to_generate, run, recording)
            except (DagsterExecutionInterruptedError, KeyboardInterrupt):
                # A person waits for the run to end.
                recorder.thumbnails = 0
                raise
        record_spend(self._names, self._pipeline, context.log_event)
        if report.stopped is None:
            return True
        if report.stopped.cause is Cause.BUDGET:
            self._say_what_is_left(keys, report)
            return False
        lines = self._pipeline.failures(self._planned, keys).lines()
        raise failure_of(report.stopped, report, batches=len(keys), without_picture=lines)

    def _to_generate(self, keys: Sequence[str]) -> int:
        """Return how many pictures are missing, and say what is to be known of them."""
        log, pipeline, planned, config = self._context.log, self._pipeline, self._planned, self._config
        missing = missing_pictures(pipeline, planned, keys, retry_failed=config.retry_failed, ask_again=self._ask_again)
        to_generate = len(set().union(*missing.values()))
        if not to_generate:
            log.info("Every picture has its outcome already: nothing is sent.")
            return 0
        log.info(f"{to_generate:,} pictures are to be generated (batches: {len(keys):,})")
        if gone := len(set().union(*missing.values()) & pipeline.requests.gone):
            log.warning(
                f"{gone:,} of these are gone from the data directory and are generated again for "
                f"{gone * LIST_PRICE_USD:,.2f} USD"
            )
        if config.retry_unknown:
            within = missing_pictures(pipeline, planned, keys, retry_failed=config.retry_failed)
            if lost := to_generate - len(set().union(*within.values())):
                log.warning(
                    f"{lost:,} of these have lost their answers too often and are requested once more for "
                    f"{lost * LIST_PRICE_USD:,.2f} USD; the lost answers may have been charged already"
                )
        return to_generate

    @property
    def _ask_again(self) -> "AskAgain":
        return "always" if self._config.retry_unknown else "within bounds"

    def _generate(self, keys: Sequence[str], to_generate: int, run: RunWatch, recording: Recording) -> "RunReport":
        context, config, pipeline = self._context, self._config, self._pipeline
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
            return pipeline.run(
                self._planned,
                keys,
                client=client,
                run_id=context.run.run_id,
                budget_usd=config.budget_usd,
                retry_failed=config.retry_failed,
                ask_again=self._ask_again,
                watch=progress.watch,
                tell_finish=BACKFILL not in context.run.tags,
                on_finished=recording.add,
            )

    def _say_what_is_left(self, keys: Sequence[str], report: "RunReport") -> None:
        """Say in the log and in an event of `images` what a budget has left to later runs."""
        missing = missing_pictures(self._pipeline, self._planned, keys, ask_again=self._ask_again)
        pictures = len(set().union(*missing.values()))
        batches = len(keys) - len(report.finished)
        stopped = report.stopped.message if report.stopped else ""
        self._context.log.warning(
            f"Stopped as planned: {stopped} {batches:,} of {len(keys):,} batches are left, with {pictures:,} pictures for "
            f"about {pictures * LIST_PRICE_USD:,.2f} USD; they are not recorded as materialized."
        )
        shown: dict[str, Any] = {
            "stopped": stopped,
            "batches_finished": len(report.finished),
            "batches_left": batches,
            "pictures_left": pictures,
            "cost_of_pictures_left_usd": round(pictures * LIST_PRICE_USD, 6),
            "generated": report.progress.succeeded,
            "spent_usd": report.progress.spent / 1e6,
        }
        self._context.log_event(AssetObservation(self._images, metadata=shown))

    # --- checks -------------------------------------------------------------------------------

    def _record_evaluations(self) -> None:
        """Record what the checks say of all batches."""
        from kontext_pipeline.generation.ledger.report import spending_differs

        others = {}
        if BOOKS_BALANCE in self._checks.names:
            unequal = spending_differs(self._pipeline.ledger.database)
            others[BOOKS_BALANCE] = [f"sums of the caps: {text}" for text in unequal]
        for evaluation in self._checks.of_all(self._planned.batch_keys, others):
            self._context.log_event(evaluation)
            if self._checks.has_news:
                # Dagster shows the evaluation that was stored last. It stores the one of a run in the place that it
                # reserved at the run's launch, before those of single batches.
                self._context.instance.report_runless_asset_event(evaluation)

    def _note_replanned(self) -> None:
        """Observe the batches that were planned again while the step ran."""
        now = self._pipeline.planned()
        if now.is_as(self._planned):
            return
        for event in replanned_batches(self._context.instance, self._names.asset_key("requests"), self._pipeline, now):
            self._context.log_event(event)

    def _check_alone(self) -> bool:
        """Check the run's batches, or all that have a table if the run has none. Return that this is all."""
        from kontext_pipeline.dataset.storage import read_batch, written_batches

        context, pipeline = self._context, self._pipeline
        of_run = context.partition_keys if context.has_partition_key or context.has_partition_key_range else None
        for key in of_run or filter(self._planned.has_batch, written_batches(pipeline.data_dir)):
            table = read_batch(pipeline.data_dir, key)
            found = check_batch(
                pipeline, self._planned, key, table, names=self._checks.names, limits=self._config.limits
            )
            for evaluation in self._checks.add(key, found):
                context.log_event(evaluation)
        return True
