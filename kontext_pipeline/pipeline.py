"""The whole pipeline, for the command line and the Dagster assets alike.

Connects the rooms for one set of settings: plan the manifests, compare the plan with the ledger, generate batches, write
their metadata tables.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from kontext_pipeline.alerts.run_alerts import RunAlerts
from kontext_pipeline.batch_tables import BatchTables
from kontext_pipeline.batch_tracker import BatchTracker
from kontext_pipeline.data_directory import bind, data_dir_of
from kontext_pipeline.dataset.storage import read_batch
from kontext_pipeline.dataset.summary import SUMMED_UP, BatchSummary, summarize
from kontext_pipeline.failures import Failures
from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.ledger import AskAgain, Ledger, Status
from kontext_pipeline.generation.ledger.money import Cap, micros, usd
from kontext_pipeline.generation.loop import GenerationLoop
from kontext_pipeline.generation.options import Options
from kontext_pipeline.generation.picture_check import PictureCheck
from kontext_pipeline.generation.progress import Progress, Stop
from kontext_pipeline.generation.resamples import folder_of
from kontext_pipeline.generation.rescue_folder import rescue_folder_of
from kontext_pipeline.generation.retries import RetryPolicy
from kontext_pipeline.generation.run_state import stop_of
from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.input_collection import close_collector, input_images, open_collector
from kontext_pipeline.input_warnings import input_warnings
from kontext_pipeline.planning.default_ratios import DefaultRatio
from kontext_pipeline.planning.estimate import Estimate, Settled, estimate
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.plan import Plan, load_plan
from kontext_pipeline.planning.planner import make_plan
from kontext_pipeline.preflight import PreflightError, balance_book, check_account
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Cause
from kontext_pipeline.settings import Settings
from kontext_pipeline.settled_requests import SettledRequests

log: Final = logging.getLogger(__name__)

SPOOL_KEPT_S: Final = 7 * 24 * 3600.0
"""Time for which half-received answers of dead processes are kept, seconds."""


@dataclass(slots=True)
class RunReport:
    """What one run did."""

    progress: Progress
    stopped: Stop | None
    """Why requests are left to a later run; None if every request has its outcome."""
    finished: list[str]
    """Batches of which every row has its outcome."""


class Pipeline(AbstractContextManager["Pipeline"]):
    """The pipeline for one data directory and one ledger. Use it in a `with` block."""

    def __init__(self, settings: Settings) -> None:
        """Open the ledger.

        Raises:
            SettingsError: the data directory is remote and no ledger is set, or it belongs to another ledger.
            LedgerError: the ledger can't be opened.
        """
        self.settings = settings
        self.data_dir = data_dir_of(settings)
        self.ledger = Ledger(settings.resolved_ledger_url, backend=settings.backend)
        try:
            self.dataset_id: Final = bind(self.data_dir, self.ledger)
            """The id in `dataset.id`."""
        except BaseException:
            self.ledger.close()
            raise
        self._tables: BatchTables | None = None
        self.requests = SettledRequests(self.ledger, self.data_dir, unknown_retries=settings.unknown_retries)
        self._loop: GenerationLoop | None = None
        self._stop: str | None = None
        self.run_id = ""
        """The id of the run that began last; empty before the first one."""

    def __exit__(self, *_error: object) -> None:
        self.ledger.close()

    def plan(self) -> Plan:
        """Read the manifests and update the plan.

        Raises:
            ManifestError: with every problem of every manifest.
        """
        settings = self.settings
        options = ManifestOptions.from_settings(settings)
        return make_plan(
            read_manifests(settings.manifests, options),
            data_dir=self.data_dir,
            backend=settings.backend,
            seed=settings.seed,
            batch_size=settings.batch_size,
            clamp_safety_tolerance=settings.clamp_safety_tolerance,
            options=options,
            default_ratio=DefaultRatio(settings.aspect_ratio, self._made),
        )

    def _made(self, fingerprints: Sequence[str]) -> set[str]:
        """Return which requests have a picture, or were sent and may be paid for."""
        known = self.ledger.statuses(fingerprints, unknown_retries=self.settings.unknown_retries, retry_failed=False)
        return {fingerprint for fingerprint, (status, _) in known.items() if status != "failed"}

    def warnings(self, plan: Plan) -> list[str]:
        """Return what the user should know before paying, a sentence each."""
        return [*plan.warnings, *input_warnings(plan, self.data_dir)]

    def planned(self) -> Plan:
        """Open the last plan, without reading the manifests.

        Raises:
            PlanError: nothing was planned yet for this backend.
        """
        return load_plan(self.data_dir, backend=self.settings.backend)

    def estimate(self, plan: Plan, *, retry_failed: bool = False, ask_again: AskAgain = "within bounds") -> Estimate:
        """Compare a plan with ledger and image store: pictures that exist, pictures to generate, their cost and time.

        Raises:
            ListingError: the image store can't be listed.
        """
        made = estimate(
            plan,
            settled=self.settled(plan.requested, retry_failed=retry_failed, ask_again=ask_again),
            concurrency=self.settings.concurrency,
            rpm=self.settings.rpm,
        )
        return replace(made, gone=len(self.requests.gone_of(plan.fingerprints())))

    def settled(
        self,
        requests: int,
        *,
        retry_failed: bool = False,
        ask_again: AskAgain = "within bounds",
        look_at_files: bool = True,
    ) -> Settled:
        """Return a function that tells which requests succeeded, and which a run doesn't try again.

        As `SettledRequests.settled`.
        """
        return self.requests.settled(
            requests, retry_failed=retry_failed, ask_again=ask_again, look_at_files=look_at_files
        )

    @property
    def posts(self) -> int:
        """How many requests this pipeline has sent, whatever came of them."""
        return self._loop.progress.attempts if self._loop else 0

    def stop(self, message: str) -> None:
        """Let this pipeline send nothing more, in a run that goes on or that will begin; the report says `message`.

        From any thread. What is in flight is collected.
        """
        self._stop = message
        if self._loop is not None:
            self._loop.stop(Cause.INTERRUPTED, message)

    def client(self, settings: Settings | None = None) -> SegmindClient:
        """Return a client of the API, to use in a `with` block. `settings`: use these in place of the pipeline's.

        Raises:
            SettingsError: there is no key.
        """
        settings = settings or self.settings
        return SegmindClient(
            api_key=settings.key,
            base_url=settings.resolved_base_url,
            upload_url=settings.resolved_upload_url,
            connect_timeout_s=settings.connect_timeout_s,
            answer_timeout_s=settings.answer_timeout_s,
            pool_size=settings.concurrency + 16,
            spill=rescue_folder_of(self.data_dir),
        )

    def preflight(
        self, client: SegmindClient, pictures: int, *, budget_usd: float | None, go_on_with_less: bool
    ) -> str | None:
        """Check the account before a run, with the budgets of the run and of the settings; see `check_account`."""
        try:
            return check_account(
                client,
                pictures,
                balances=balance_book(self.ledger.database, self.settings),
                remaining_budget=self.ledger.remaining_budget(self._caps(budget_usd)),
                base_url=self.settings.resolved_base_url,
                go_on_with_less=go_on_with_less,
            )
        except PreflightError as error:
            alerts = RunAlerts(self.settings, self.ledger, run_id="")
            alerts.refuse(error.cause, str(error), pictures=pictures)
            raise

    def run(
        self,
        plan: Plan,
        keys: Sequence[str],
        *,
        client: SegmindClient,
        run_id: str | None = None,
        budget_usd: float | None = None,
        retry_failed: bool = False,
        ask_again: AskAgain = "within bounds",
        watch: Callable[[Callable[[], Progress]], None] | None = None,
        tell_finish: bool = True,
        on_finished: Callable[[str], None] = lambda _key: None,
    ) -> RunReport:
        """Generate the missing pictures of the batches `keys`; write each batch's table when it is finished.

        Pictures that `estimate` or `settled` found to be gone from the image store are among them.

        `budget_usd` caps this run; `KONTEXT_BUDGET_USD` caps all runs. `watch` is given the run's progress, which
        stays up to date. `on_finished` is given the key of each batch of which every row has its outcome, after its
        table was written, from a thread that it must not hold up. `tell_finish`: False where this run is a part of
        something whose end is told.

        An exception that interrupts the run (Ctrl-C, a termination) is raised again after everything is settled. Every
        other error is in the report: requests may have been sent.

        Raises:
            KontextError: the run can't start: the ledger or the image store can't be written. Nothing was sent.
        """
        settings = self.settings
        self.run_id = run_id = run_id or uuid.uuid4().hex
        self.requests.reopen(plan, keys)
        store = ImageStore(self.data_dir)
        store.sweep(SPOOL_KEPT_S)
        self.ledger.register(run_id=run_id, lease_s=settings.lease_s)
        wanted = set(keys)
        pictures = PictureCheck(self.ledger, store)

        requests = sum(batch.rows for batch in plan.batches if batch.key in wanted)
        tracker = BatchTracker(
            plan,
            keys,
            read_settled=lambda: self.settled(
                requests, retry_failed=retry_failed, ask_again=ask_again, look_at_files=False
            ),
            write_table=lambda key: self._tables_of(plan).bring_up_to_date(key, decode=pictures.finish),
            on_finished=on_finished,
        )
        collector = open_collector(settings, self.data_dir)

        def has_outcome(item: WorkItem, status: Status) -> None:
            pictures.add(item, status)
            tracker.has_outcome(item, status)

        self._loop = loop = GenerationLoop(
            ledger=self.ledger,
            store=store,
            client=client,
            inputs=input_images(settings, client, self.ledger, collector),
            options=self._options(budget_usd=budget_usd, retry_failed=retry_failed, ask_again=ask_again),
            on_outcome=has_outcome,
        )
        if watch is not None:
            watch(lambda: loop.progress)
        if self._stop is not None:
            loop.stop(Cause.INTERRUPTED, self._stop)
        log.info("Run %s starts: batches %d, requests %d.", run_id, len(keys), requests)
        errors: list[Exception] = []

        def attempt(step: Callable[[], object]) -> None:
            try:
                step()
            except Exception as error:  # noqa: BLE001  the report says it, and the steps that follow are taken
                errors.append(error)

        def reason() -> Stop | None:
            if loop.stopped is not None or not (errors or tracker.left):
                return loop.stopped
            message = f"{tracker.left:,} jobs are not finished; start again to collect their pictures."
            return stop_of(errors[0]) if errors else Stop(Cause.STILL_OUT_THERE, message)

        caps = self._caps(budget_usd)
        alerts = RunAlerts(settings, self.ledger, run_id=run_id, caps=caps, progress=lambda: loop.progress)
        try:
            attempt(lambda: loop.run(tracker.work_items()))
        finally:
            attempt(self.ledger.deregister)
            attempt(lambda: close_collector(collector))
            attempt(tracker.close)
            attempt(pictures.close)
            alerts.end(reason(), left=tracker.left, tell_finish=tell_finish)
        progress, stopped = loop.progress, reason()
        log.info(
            "Run %s ends: %d pictures, %d failed, %d unknown, %d left for a later run.",
            *(run_id, progress.succeeded, progress.failed, progress.unknown, tracker.left),
            extra={"cause": stopped and stopped.cause, "cost_usd": usd(progress.spent)},
        )
        return RunReport(progress, stopped, tracker.finished)

    def _options(self, *, budget_usd: float | None, retry_failed: bool, ask_again: AskAgain) -> Options:
        settings = self.settings
        return Options(
            api_version=settings.api_version,
            concurrency=settings.concurrency,
            rpm=settings.rpm,
            caps=self._caps(budget_usd),
            retries=RetryPolicy(
                server_error_retries=settings.server_error_retries,
                unknown_retries=settings.unknown_retries,
                base_s=settings.backoff_base_s,
                cap_s=settings.backoff_cap_s,
                jitter=settings.backoff_jitter,
            ),
            retry_failed=retry_failed,
            ask_again=ask_again,
            job_timeout_s=settings.job_timeout_s,
            drain_s=settings.drain_s,
        )

    def _caps(self, budget_usd: float | None) -> list[Cap]:
        caps = [] if budget_usd is None else [Cap(micros(budget_usd), "run")]
        if self.settings.budget_usd is not None:
            caps.append(Cap(micros(self.settings.budget_usd), self.settings.budget_period))
        return caps

    def batch_digest(self, plan: Plan, key: str) -> str:
        """Return a sha256 of what a batch asks for: its rows of the plan, and the backend."""
        return self._tables_of(plan).plan_digest(key)

    def write_tables(self, plan: Plan, keys: Iterable[str]) -> None:
        """Write the metadata tables of these batches, except those that would not change.

        Pictures that a killed run has kept and not decoded are decoded first; a damaged one leaves its row `unknown`.
        """
        with PictureCheck(self.ledger, ImageStore(self.data_dir)) as pictures:
            for key in keys:
                self._tables_of(plan).bring_up_to_date(key, decode=pictures.finish)

    def failures(self, plan: Plan, keys: Iterable[str] | None = None) -> Failures:
        """Return the rows without a picture of these batches (None: of all), by cause."""
        return Failures(plan, self.ledger, unknown_retries=self.settings.unknown_retries, keys=keys)

    def summary(self, plan: Plan) -> BatchSummary:
        """Sum up the written metadata tables of all batches of a plan."""
        tables = (read_batch(self.data_dir, key, columns=SUMMED_UP) for key in plan.batch_keys)
        return summarize(pa.concat_tables(tables))

    def _tables_of(self, plan: Plan) -> BatchTables:
        if self._tables is None or self._tables.plan is not plan:
            folder = folder_of(plan.batches[0].key)
            root = self.data_dir / folder if folder else self.data_dir
            self._tables = BatchTables(plan, ledger=self.ledger, data_dir=root)
        return self._tables
