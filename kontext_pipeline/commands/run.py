"""What `kontext run` does: says what it will cost, asks, generates, and says what came of it."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import click

from kontext_pipeline import console, exits, launcher
from kontext_pipeline.batch_tables import own_columns_of
from kontext_pipeline.dataset.own_columns import metadata_schema
from kontext_pipeline.dataset.quality.thresholds import read_thresholds
from kontext_pipeline.errors import KontextError, SettingsError
from kontext_pipeline.exits import Exit
from kontext_pipeline.generation.progress import Progress, Stop
from kontext_pipeline.pipeline import Pipeline
from kontext_pipeline.planning.estimate import Estimate
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.preflight import PreflightError
from kontext_pipeline.quality_run import QualityRun
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.model import LIST_PRICE_USD
from kontext_pipeline.segmind.outcomes import Cause

if TYPE_CHECKING:
    from kontext_pipeline.generation.ledger import AskAgain
    from kontext_pipeline.orchestration.reporting import Reporter

INTERRUPTED: Final = Stop(
    Cause.INTERRUPTED, "Stopped on request. Requests in flight were settled; start again to go on."
)


class RunCommand:
    """One `kontext run`."""

    def __init__(
        self, pipeline: Pipeline, *, budget: float | None, retry_failed: bool, retry_unknown: bool, yes: bool
    ) -> None:
        """Take the options of the command.

        Raises:
            SettingsError: the budget is negative, there is no key, or `KONTEXT_QUALITY` can't be used.
        """
        if budget is not None and budget < 0:
            raise SettingsError(f"--budget is {budget:g}: an amount in USD, 0 or more, is expected. Nothing was sent.")
        _ = pipeline.settings.key
        self._thresholds = read_thresholds(pipeline.settings.quality)
        self._pipeline = pipeline
        self._budget = budget
        self._retry_failed = retry_failed
        self._ask_again: AskAgain = "always" if retry_unknown else "within bounds"
        self._yes = yes

    def run(self) -> Exit:
        """Do it all, and return the exit status.

        Raises:
            KontextError: nothing was sent.
        """
        pipeline = self._pipeline
        planned = pipeline.plan()
        if self._thresholds.columns:
            self._thresholds.check_columns(metadata_schema(own_columns_of(planned)).names)
        estimate = self._estimate(planned)
        with self._reporter(planned) as reporter, QualityRun(pipeline.data_dir, self._thresholds) as quality:
            if estimate.to_generate == 0:
                pipeline.write_tables(planned, planned.batch_keys)
                stopped = self._measure(planned, quality)
                console.say("\nNothing to generate: every picture that the manifest asks for has its outcome.")
                return self._end(planned, stopped, None, reporter)
            generated = self.generate(planned, estimate, on_finished=quality.add)
            if isinstance(generated, Exit):
                return generated
            stopped, progress = generated
            if stopped is not INTERRUPTED:
                stopped = self._measure(planned, quality) or stopped
            return self._end(planned, stopped, progress, reporter)

    def generate(
        self, planned: Plan, estimate: Estimate, on_finished: Callable[[str], None] = lambda _key: None
    ) -> "Exit | tuple[Stop | None, Progress | None]":
        """Check the account, ask for consent and generate what a plan lacks.

        `on_finished` is given the key of each batch that is through. Return the exit status where nothing was sent; else
        why the run was stopped early, and what it did.
        """
        with launcher.sandbox_if_needed(self._pipeline.settings) as settings, self._pipeline.client(settings) as client:
            refusal = self._may_not_start(client, estimate)
            return self._generate(planned, estimate, client, on_finished) if refusal is None else refusal

    # --- before -------------------------------------------------------------------------------

    def _estimate(self, planned: Plan) -> Estimate:
        """Show what the run will cost. Ask about pictures that are unknown because runs were killed."""
        estimate = self._estimate_for(planned, self._ask_again)
        console.show_plan(self._pipeline.settings, planned, estimate, self._pipeline.warnings(planned))
        if self._ask_again == "always":
            lost = estimate.to_generate - self._estimate_for(planned, "within bounds").to_generate
            if lost:
                console.warn(
                    f"{console.many(lost, 'picture')} whose answers were lost too often, requested once more for "
                    f"{lost * LIST_PRICE_USD:,.2f} USD; the lost answers may have been charged already"
                )
        elif estimate.failed_for_good and not self._yes and sys.stdin.isatty():
            # A person who starts the runs may well have ended the earlier ones, by closing a laptop or a window.
            more = self._estimate_for(planned, "after crashes")
            crashed = more.to_generate - estimate.to_generate
            if crashed and self._agreed_to_crashed(crashed):
                self._ask_again = "after crashes"
                return more
        return estimate

    def _estimate_for(self, planned: Plan, ask_again: "AskAgain") -> Estimate:
        return self._pipeline.estimate(planned, retry_failed=self._retry_failed, ask_again=ask_again)

    def _agreed_to_crashed(self, crashed: int) -> bool:
        usd = f"{crashed * LIST_PRICE_USD:,.2f} USD"
        console.say(
            f"{console.many(crashed, 'picture')} in flight when earlier runs were killed: each may have been charged "
            f"already. To ask again costs {usd}."
        )
        return not self._pipeline.settings.paid or click.confirm("Ask again for these?", default=False)

    def _may_not_start(self, client: SegmindClient, estimate: Estimate) -> Exit | None:
        """Check the account and ask for consent. Return the exit status where the run can't start."""
        try:
            warning = self._pipeline.preflight(
                client,
                estimate.to_generate,
                budget_usd=self._budget,
                go_on_with_less=self._yes or sys.stdin.isatty(),
            )
        except PreflightError as error:
            console.complain(str(error))
            return Exit.NOTHING_SENT if error.reachable else Exit.STOPPED
        if warning:
            console.warn(warning)
        if not self._agreed(estimate):
            console.say("Nothing was sent.")
            return Exit.NOTHING_SENT
        return None

    def _agreed(self, estimate: Estimate) -> bool:
        if self._yes or not self._pipeline.settings.paid:
            return True
        if not sys.stdin.isatty():
            console.complain(
                f"This would spend {estimate.cost_usd:.2f} USD, and there is no terminal to ask on: pass --yes to agree."
            )
            return False
        return click.confirm(f"Spend {estimate.cost_usd:.2f} USD?", default=False)

    # --- the run ------------------------------------------------------------------------------

    def _generate(
        self, planned: Plan, estimate: Estimate, client: SegmindClient, on_finished: Callable[[str], None]
    ) -> tuple[Stop | None, Progress | None]:
        stopped: Stop | None = INTERRUPTED
        with console.progress(estimate.to_generate) as watcher, contextlib.suppress(KeyboardInterrupt):
            stopped = self._pipeline.run(
                planned,
                planned.batch_keys,
                client=client,
                budget_usd=self._budget,
                retry_failed=self._retry_failed,
                ask_again=self._ask_again,
                watch=watcher.watch,
                on_finished=on_finished,
            ).stopped
        if stopped is not None:
            console.complain(stopped.message if stopped is INTERRUPTED else f"Stopped: {stopped.message}")
        return stopped, watcher.progress

    def _measure(self, planned: Plan, quality: QualityRun) -> Stop | None:
        """Wait until every picture is measured. Return why not; a person may stop this."""
        try:
            with console.measuring() as show:
                quality.finish(planned.batch_keys, meanwhile=show)
        except KeyboardInterrupt:
            console.complain("Stopped on request. The pictures are there; start again to measure the others.")
            return INTERRUPTED
        return None

    # --- after --------------------------------------------------------------------------------

    def _end(self, planned: Plan, stopped: Stop | None, progress: Progress | None, reporter: "Reporter | None") -> Exit:
        """Say what came of the run. What can't be said changes no exit status but "every row has its picture"."""
        complete = False
        try:
            totals = console.show_summary(self._pipeline, planned, progress)
            complete = totals.complete
            if totals.by_status["failed"] or totals.by_status["unknown"]:
                console.show_failures(self._pipeline.failures(planned))
        except (KontextError, OSError) as error:
            if not self._pipeline.posts:
                raise
            console.complain(f"The summary can't be shown: {error}")
            stopped = stopped or Stop(Cause.FILES, str(error))
        if reporter is not None:
            reporter.report(self._pipeline, planned.batch_keys)
        return exits.of_run(stopped=stopped is not None, complete=complete)

    def _reporter(self, planned: Plan) -> "contextlib.AbstractContextManager[Reporter | None]":
        """Return what reports to Dagster, where there is a `DAGSTER_HOME`. It is tried before money is spent."""
        home = os.environ.get("DAGSTER_HOME")
        if not home:
            return contextlib.nullcontext()
        # Imported here: Dagster takes longer to load than most runs that don't need it should wait.
        from kontext_pipeline.orchestration.reporting import Reporter

        return Reporter(home, planned.batch_keys, dataset_id=self._pipeline.dataset_id, warn=console.warn)
