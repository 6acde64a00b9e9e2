"""The whole pipeline, for the command line and the Dagster assets alike.

Connects the rooms for one set of settings: plan the manifests, compare the plan with the ledger, generate batches, write
their metadata tables.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.batch_tracker import BatchTracker
from kontext_pipeline.dataset.metadata import metadata_table, plan_digest
from kontext_pipeline.dataset.own_columns import own_schema
from kontext_pipeline.dataset.storage import is_current, read_batch, write_batch
from kontext_pipeline.dataset.summary import SUMMED_UP, BatchSummary, summarize
from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.ledger import Ledger, Status
from kontext_pipeline.generation.ledger.money import Cap, micros, usd
from kontext_pipeline.generation.loop import GenerationLoop
from kontext_pipeline.generation.options import Options
from kontext_pipeline.generation.picture_check import PictureCheck
from kontext_pipeline.generation.progress import Progress, Stop
from kontext_pipeline.generation.rescue_folder import rescue_folder_of
from kontext_pipeline.generation.retries import RetryPolicy
from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.input_collection import close_collector, input_images, open_collector
from kontext_pipeline.planning.estimate import Estimate, Settled, estimate
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.manifests import read_manifests
from kontext_pipeline.planning.plan import Plan, load_plan
from kontext_pipeline.planning.planner import make_plan
from kontext_pipeline.preflight import check_account
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Cause
from kontext_pipeline.settings import Settings

log: Final = logging.getLogger(__name__)

SPOOL_KEPT_S: Final = 7 * 24 * 3600.0
"""Time for which half-received answers of dead processes are kept, seconds."""
WHOLE_LEDGER_FROM: Final = 10_000
"""Least number of requests for which the whole ledger may be read at once."""
WHOLE_LEDGER_SHARE: Final = 5
"""Most requests in the ledger, per request that is looked up, for which reading all of it is faster."""


@dataclass(frozen=True, slots=True)
class BatchTable:
    """A batch's metadata table, and the digest of the plan that it was made from."""

    key: str
    table: pa.Table
    plan_digest: str

    def write(self, data_dir: UPath) -> None:
        """Write the table to a data directory, unless the file there would not change."""
        if not is_current(data_dir, self.key, self.plan_digest):
            write_batch(self.table, data_dir, self.key, plan_digest=self.plan_digest)


@dataclass(slots=True)
class RunReport:
    """What one run did."""

    progress: Progress
    stopped: Stop | None
    """Why requests are left to a later run; None if every request has its outcome."""
    finished: list[str]
    """Batches of which every row has its outcome."""


def data_dir_of(settings: Settings) -> UPath:
    """Return the data directory of these settings. A local path is absolute."""
    folder = UPath(settings.data_dir)
    if folder.protocol in ("", "file", "local"):
        folder = UPath(folder.path).expanduser().absolute()
    return folder


class Pipeline(AbstractContextManager["Pipeline"]):
    """The pipeline for one data directory and one ledger. Use it in a `with` block."""

    def __init__(self, settings: Settings) -> None:
        """Open the ledger.

        Raises:
            SettingsError: the data directory is remote and no ledger is set.
            LedgerError: the ledger can't be opened.
        """
        self.settings = settings
        self.data_dir = data_dir_of(settings)
        self.ledger = Ledger(settings.resolved_ledger_url, backend=settings.backend)
        self._own: tuple[Plan, pa.Schema] | None = None

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
        )

    def planned(self) -> Plan:
        """Open the last plan, without reading the manifests.

        Raises:
            PlanError: nothing was planned yet for this backend.
        """
        return load_plan(self.data_dir, backend=self.settings.backend)

    def estimate(self, plan: Plan, *, retry_failed: bool = False) -> Estimate:
        """Compare a plan with the ledger: pictures that exist, pictures to generate, their cost and time."""
        return estimate(
            plan,
            settled=self.settled(plan.requested, retry_failed=retry_failed),
            concurrency=self.settings.concurrency,
            rpm=self.settings.rpm,
        )

    def settled(self, requests: int, *, retry_failed: bool = False) -> Settled:
        """Return a function that tells which requests succeeded, and which a run doesn't try again.

        `requests`: how many will be looked up in all. Reading the whole ledger once is faster than looking up a
        large part of it.
        """
        ledger, retries = self.ledger, self.settings.unknown_retries
        if requests >= WHOLE_LEDGER_FROM and ledger.size() <= WHOLE_LEDGER_SHARE * requests:
            everything = ledger.settled(unknown_retries=retries, retry_failed=retry_failed)
            return lambda _fingerprints: everything

        def look_up(fingerprints: Sequence[str]) -> tuple[Set[str], Set[str]]:
            known = ledger.statuses(fingerprints, unknown_retries=retries, retry_failed=retry_failed)
            succeeded = {key for key, (status, _) in known.items() if status == "succeeded"}
            return succeeded, {key for key, (_, again) in known.items() if not again} - succeeded

        return look_up

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
        return check_account(
            client,
            pictures,
            remaining_budget=self.ledger.remaining_budget(self._caps(budget_usd)),
            base_url=self.settings.resolved_base_url,
            go_on_with_less=go_on_with_less,
        )

    def run(
        self,
        plan: Plan,
        keys: Sequence[str],
        *,
        client: SegmindClient,
        run_id: str | None = None,
        budget_usd: float | None = None,
        retry_failed: bool = False,
        watch: Callable[[Callable[[], Progress]], None] | None = None,
    ) -> RunReport:
        """Generate the missing pictures of the batches `keys`; write each batch's table when it is finished.

        `budget_usd` caps this run; `KONTEXT_BUDGET_USD` caps all runs. `watch` is given the run's progress, which
        stays up to date.

        An exception that interrupts the run (Ctrl-C, a termination) is raised again after everything is settled.

        Raises:
            KontextError: the plan or the ledger can't be read or written.
        """
        settings = self.settings
        run_id = run_id or uuid.uuid4().hex
        store = ImageStore(self.data_dir)
        store.sweep(SPOOL_KEPT_S)
        self.ledger.register(run_id=run_id, lease_s=settings.lease_s)
        wanted = set(keys)
        pictures = PictureCheck(self.ledger, store)

        def finish_batch(key: str) -> None:
            pictures.finish(key)
            self.write_tables(plan, [key])

        requests = sum(batch.rows for batch in plan.batches if batch.key in wanted)
        tracker = BatchTracker(
            plan,
            keys,
            read_settled=lambda: self.settled(requests, retry_failed=retry_failed),
            write_table=finish_batch,
        )
        collector = open_collector(settings, self.data_dir)

        def has_outcome(item: WorkItem, status: Status) -> None:
            pictures.add(item, status)
            tracker.has_outcome(item, status)

        loop = GenerationLoop(
            ledger=self.ledger,
            store=store,
            client=client,
            inputs=input_images(settings, client, self.ledger, collector),
            options=self._options(budget_usd=budget_usd, retry_failed=retry_failed),
            on_outcome=has_outcome,
        )
        if watch is not None:
            watch(lambda: loop.progress)
        log.info("Run %s starts: batches %d, requests %d.", run_id, len(keys), requests)
        with ExitStack() as closing:
            closing.callback(pictures.close)
            closing.callback(tracker.close)
            closing.callback(close_collector, collector)
            closing.callback(self.ledger.deregister)
            loop.run(tracker.work_items())
        progress, stopped = loop.progress, loop.stopped
        if stopped is None and tracker.left:
            message = f"{tracker.left:,} jobs are not finished; start again to collect their pictures."
            stopped = Stop(Cause.STILL_OUT_THERE, message)
        log.info(
            "Run %s ends: %d pictures, %d failed, %d unknown, %d left for a later run.",
            *(run_id, progress.succeeded, progress.failed, progress.unknown, tracker.left),
            extra={"cause": stopped and stopped.cause, "cost_usd": usd(progress.spent)},
        )
        return RunReport(progress, stopped, tracker.finished)

    def _options(self, *, budget_usd: float | None, retry_failed: bool) -> Options:
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
            job_timeout_s=settings.job_timeout_s,
            drain_s=settings.drain_s,
        )

    def _caps(self, budget_usd: float | None) -> list[Cap]:
        caps = [] if budget_usd is None else [Cap(micros(budget_usd), "run")]
        if self.settings.budget_usd is not None:
            caps.append(Cap(micros(self.settings.budget_usd), self.settings.budget_period))
        return caps

    def metadata_of(self, plan: Plan, key: str) -> BatchTable:
        """Make the metadata table of a batch from the plan and the ledger."""
        batch = plan.batch_table(key)
        generations = self.ledger.generations(pc.unique(batch["fingerprint"]).to_pylist())
        charged = generations.filter(pc.equal(generations["batch"], key))["fingerprint"].combine_chunks()
        backend, own = self.settings.backend, self._own_columns(plan)
        generations = generations.drop_columns(["batch"])
        return BatchTable(
            key,
            metadata_table(batch, generations, backend=backend, charged=charged, own=own),
            plan_digest(batch, backend=backend, charged=charged, own=own),
        )

    def write_tables(self, plan: Plan, keys: Iterable[str]) -> None:
        """Write the metadata tables of these batches, except those that would not change."""
        for key in keys:
            self.metadata_of(plan, key).write(self.data_dir)

    def summary(self, plan: Plan) -> BatchSummary:
        """Sum up the written metadata tables of all batches of a plan."""
        tables = (read_batch(self.data_dir, key, columns=SUMMED_UP) for key in plan.batch_keys)
        return summarize(pa.concat_tables(tables))

    def _own_columns(self, plan: Plan) -> pa.Schema:
        """Return the schema of the manifests' own columns, which every table of the plan has."""
        if self._own is None or self._own[0] is not plan:
            first_of_each = {batch.manifest: batch.key for batch in reversed(plan.batches)}
            self._own = plan, own_schema([plan.batch_table(key).schema for key in first_of_each.values()])
        return self._own[1]
