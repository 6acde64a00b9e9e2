"""The whole path, once: what the command line and the Dagster assets both call.

Puts the rooms together for one set of settings: manifests are planned, a plan is weighed against the
ledger, batches are generated, and their metadata tables are written.
"""

import contextlib
import queue
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.dataset.metadata import metadata_table, plan_digest
from kontext_pipeline.dataset.own_columns import own_schema
from kontext_pipeline.dataset.storage import is_current, read_batch, write_batch
from kontext_pipeline.dataset.summary import SUMMED_UP, BatchSummary, summarize
from kontext_pipeline.errors import KontextError
from kontext_pipeline.generation.image_store import ImageStore
from kontext_pipeline.generation.ledger import Ledger, Status
from kontext_pipeline.generation.ledger.money import Cap, micros
from kontext_pipeline.generation.loop import GenerationLoop
from kontext_pipeline.generation.options import Options
from kontext_pipeline.generation.progress import Progress, Stop
from kontext_pipeline.generation.retries import RetryPolicy
from kontext_pipeline.generation.work import WorkItem
from kontext_pipeline.planning.estimate import Estimate, estimate
from kontext_pipeline.planning.manifest import read_manifests
from kontext_pipeline.planning.plan import Plan, load_plan, make_plan, requests_of
from kontext_pipeline.segmind.answers import Credits
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.model import LIST_PRICE_USD
from kontext_pipeline.segmind.outcomes import Outcome
from kontext_pipeline.settings import Settings

SPOOL_KEPT_S = 7 * 24 * 3600.0
"""Half-received answers of dead processes are kept this long, seconds."""

WHOLE_LEDGER_FROM = 10_000
"""Requests, from which on reading the whole ledger is worth considering: it takes a tenth of a second."""
WHOLE_LEDGER_SHARE = 5
"""Requests in the ledger to one that is asked for, up to which reading all of it is quicker."""


class PreflightError(KontextError):
    """The account can't do what the plan asks for. Nothing was sent that costs anything."""

    def __init__(self, message: str, *, reachable: bool) -> None:
        """`reachable`: the API answered, so that trying again later won't help by itself."""
        super().__init__(message)
        self.reachable = reachable


@dataclass(frozen=True, slots=True)
class BatchTable:
    """A batch's metadata table, and the digest of the plan that it was made from."""

    key: str
    table: pa.Table
    plan_digest: str


@dataclass(slots=True)
class RunReport:
    """What one run did. `finished` are the batches of which every row has its outcome."""

    run_id: str
    progress: Progress
    stopped: Stop | None = None
    finished: list[str] = field(default_factory=list)
    left: int = 0
    """Requests that have no outcome yet and are for a later run: still out there, or never sent."""


def data_dir_of(settings: Settings) -> UPath:
    """Return the data directory that the settings name; a local one by its absolute path."""
    folder = UPath(settings.data_dir)
    if folder.protocol in ("", "file", "local"):
        folder = UPath(folder.path).expanduser().absolute()
    return folder


class Pipeline:
    """The pipeline over one data directory and one ledger. Use it in a `with` block.

    Raises:
        SettingsError: the settings don't fit together.
        LedgerError: the ledger can't be opened.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the data directory and the ledger that `settings` name."""
        self.settings = settings
        self.data_dir = data_dir_of(settings)
        self.ledger = Ledger(settings.resolved_ledger_url, backend=settings.backend)

    def __enter__(self) -> Self:
        """Return the pipeline itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the ledger go."""
        self.ledger.close()

    # --- the plan -------------------------------------------------------------------------------

    def plan(self, manifests: Sequence[str] | None = None) -> Plan:
        """Read the manifests and bring the plan up to date with them.

        Raises:
            ManifestError: with every problem of every manifest.
        """
        settings = self.settings
        return make_plan(
            read_manifests(manifests or settings.manifests),
            data_dir=self.data_dir,
            backend=settings.backend,
            seed=settings.seed,
            batch_size=settings.batch_size,
            clamp_safety_tolerance=settings.clamp_safety_tolerance,
        )

    def planned(self) -> Plan:
        """Open the plan as it was last made, without reading the manifests.

        Raises:
            PlanError: nothing was planned yet for this backend.
        """
        return load_plan(self.data_dir, backend=self.settings.backend)

    def estimate(self, plan: Plan, *, retry_failed: bool = False) -> Estimate:
        """Say what of a plan is there and what the rest will cost, by the ledger."""
        standing = self.standing(plan.requested, retry_failed=retry_failed)

        def mask(prints: pa.Array, *, which: int) -> list[bool]:
            texts = prints.to_pylist()
            found = standing(texts)[which]
            return [one in found for one in texts]

        return estimate(
            plan,
            settled=lambda prints: mask(prints, which=0),
            failed=lambda prints: mask(prints, which=1),
            concurrency=self.settings.concurrency,
            rpm=self.settings.rpm,
        )

    def statuses(
        self, fingerprints: Sequence[str], *, retry_failed: bool = False
    ) -> dict[str, tuple[Status, bool]]:
        """Return, of the requests that the ledger knows, the status and whether a run would try again."""
        return self.ledger.statuses(
            fingerprints, unknown_retries=self.settings.unknown_retries, retry_failed=retry_failed
        )

    def standing(
        self, pictures: int, *, retry_failed: bool = False
    ) -> Callable[[Sequence[str]], tuple[Set[str], Set[str]]]:
        """Return what tells of requests which succeeded, and which others a run would not try again.

        What it returns may name more than it was asked for. `pictures`: how many will be asked for in all;
        for a good part of the ledger, reading all of it once is the quicker way.
        """
        ledger, retries = self.ledger, self.settings.unknown_retries
        if pictures >= WHOLE_LEDGER_FROM and ledger.size() <= WHOLE_LEDGER_SHARE * pictures:
            everything = ledger.settled(unknown_retries=retries, retry_failed=retry_failed)
            return lambda _fingerprints: everything

        @lru_cache(maxsize=1)
        def look_up(fingerprints: tuple[str, ...]) -> tuple[Set[str], Set[str]]:
            known = self.statuses(fingerprints, retry_failed=retry_failed)
            there = {key for key, (status, _) in known.items() if status == "succeeded"}
            return there, {key for key, (_, again) in known.items() if not again} - there

        return lambda fingerprints: look_up(tuple(fingerprints))

    # --- generation -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def client(self, settings: Settings | None = None) -> Iterator[SegmindClient]:
        """The API as the settings describe it (`settings`: other ones than the pipeline's).

        Raises:
            SettingsError: there is no key.
        """
        settings = settings or self.settings
        client = SegmindClient(
            api_key=settings.key,
            base_url=settings.resolved_base_url,
            upload_url=settings.resolved_upload_url,
            connect_timeout_s=settings.connect_timeout_s,
            answer_timeout_s=settings.answer_timeout_s,
            pool_size=settings.concurrency + 16,
        )
        try:
            yield client
        finally:
            client.close()

    def preflight(
        self,
        client: SegmindClient,
        pictures: int,
        *,
        budget_usd: float | None = None,
        go_on_with_less: bool,
    ) -> str | None:
        """Ask the account, for nothing, whether it can do this. Return what the user should know, if anything.

        No more is asked of the balance than `budget_usd` and the standing budget let the run spend.

        Raises:
            PreflightError: the key is refused, the API is out of reach, or the balance pays for fewer than
                `pictures` and `go_on_with_less` is False.
        """
        room = self.ledger.remaining_budget(self._caps(budget_usd))
        if room is not None:
            pictures = min(pictures, max(0, room) // micros(LIST_PRICE_USD))
        balance = client.credits()
        if balance.outcome is Outcome.STOPPED:
            raise PreflightError(
                f"the API refuses the key: {balance.status_code} {balance.error or ''}. Check SEGMIND_API_KEY. "
                "Nothing was sent.",
                reachable=True,
            )
        if balance.outcome is Outcome.UNREACHABLE:
            raise PreflightError(
                f"{self.settings.resolved_base_url} can't be reached: {balance.error}. Nothing was sent.",
                reachable=False,
            )
        return self._weigh(balance, pictures, go_on_with_less=go_on_with_less)

    @staticmethod
    def _weigh(balance: Credits, pictures: int, *, go_on_with_less: bool) -> str | None:
        if balance.total is None:
            return None
        affordable = max(0, micros(balance.total) // micros(LIST_PRICE_USD))
        if affordable >= pictures:
            return None
        lack = (
            f"the account's balance of {balance.total:.2f} USD buys {affordable:,} of the {pictures:,} pictures "
            f"({pictures * LIST_PRICE_USD:.2f} USD)"
        )
        if affordable == 0:
            raise PreflightError(f"{lack}. Top it up. Nothing was sent.", reachable=True)
        if not go_on_with_less:
            raise PreflightError(
                f"{lack}. Top it up, or let the run go on to that point (--yes, or go_on_with_less_credit in Dagster). "
                "Nothing was sent.",
                reachable=True,
            )
        return lack + "; the run goes on to that point"

    def run(
        self,
        plan: Plan,
        keys: Sequence[str],
        *,
        client: SegmindClient,
        run_id: str | None = None,
        budget_usd: float | None = None,
        retry_failed: bool = False,
        write_tables: bool = True,
        watch: Callable[[Progress], None] | None = None,
    ) -> RunReport:
        """Generate what is missing of the batches `keys`; write each batch's metadata table as it is finished.

        `budget_usd` caps this run; `KONTEXT_BUDGET_USD` caps all of them. With `write_tables` False the
        tables are the caller's to write, but for a run that is cut short, whose tables are always written.
        `watch` is given the progress, which the run keeps up to date.

        An exception that interrupts (Ctrl-C, a termination) is raised again once everything is settled.

        Raises:
            KontextError: the plan or the ledger can't be read or written.
        """
        settings = self.settings
        run_id = run_id or uuid.uuid4().hex
        store = ImageStore(self.data_dir)
        store.sweep(SPOOL_KEPT_S)
        self.ledger.register(run_id=run_id, lease_s=settings.lease_s)
        tracker = BatchTracker(self, plan, keys, retry_failed=retry_failed, write=write_tables)
        loop = GenerationLoop(
            ledger=self.ledger,
            store=store,
            client=client,
            options=Options(
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
            ),
            on_outcome=tracker.through,
        )
        if watch is not None:
            watch(lambda: loop.progress)
        interrupted = True
        try:
            loop.run(tracker.work_items())
            interrupted = False
        finally:
            self.ledger.deregister()
            tracker.close(everything=write_tables or interrupted or loop.stopped is not None)
        return RunReport(
            run_id=run_id,
            progress=loop.progress,
            stopped=loop.stopped,
            finished=tracker.finished,
            left=tracker.left,
        )

    def _caps(self, budget_usd: float | None) -> list[Cap]:
        caps = [] if budget_usd is None else [Cap(micros(budget_usd), "run")]
        if self.settings.budget_usd is not None:
            caps.append(Cap(micros(self.settings.budget_usd), self.settings.budget_period))
        return caps

    # --- the dataset ----------------------------------------------------------------------------

    def metadata_of(self, plan: Plan, key: str, *, own: pa.Schema | None = None) -> BatchTable:
        """Make the metadata table of a batch from the plan and the ledger."""
        batch = plan.batch_table(key)
        generations = self.ledger.generations(pc.unique(batch["fingerprint"]).to_pylist())
        charged = generations.filter(pc.equal(generations["batch"], key))["fingerprint"].combine_chunks()
        backend = self.settings.backend
        own = own if own is not None else self.own_columns(plan)
        return BatchTable(
            key,
            metadata_table(
                batch, generations.drop_columns(["batch"]), backend=backend, charged=charged, own=own
            ),
            plan_digest(batch, backend=backend, charged=charged, own=own),
        )

    def write_tables(self, plan: Plan, keys: Iterable[str], *, own: pa.Schema | None = None) -> None:
        """Write the metadata tables of these batches; those that would not change are left alone.

        `own` saves finding the manifests' own columns again (`own_columns`).
        """
        own = own if own is not None else self.own_columns(plan)
        for key in keys:
            made = self.metadata_of(plan, key, own=own)
            if not is_current(self.data_dir, key, made.plan_digest):
                write_batch(made.table, self.data_dir, key, plan_digest=made.plan_digest)

    def summary(self, plan: Plan) -> BatchSummary:
        """Add up the metadata tables of all batches of a plan, as they were written."""
        tables = (read_batch(self.data_dir, key, columns=SUMMED_UP) for key in plan.batch_keys)
        return summarize(pa.concat_tables(tables))

    @staticmethod
    def own_columns(plan: Plan) -> pa.Schema:
        """Return the manifests' own columns, as every table of the plan has them."""
        first_of_each = {batch.manifest: batch.key for batch in reversed(plan.batches)}
        return own_schema([plan.batch_table(key).schema for key in first_of_each.values()])


class BatchTracker:
    """Hands the work_items of a run out, and writes a batch's table when the last of its work_items is through."""

    def __init__(
        self, pipeline: Pipeline, plan: Plan, keys: Sequence[str], *, retry_failed: bool, write: bool
    ) -> None:
        self._pipeline = pipeline
        self._plan = plan
        self._keys = list(keys)
        self._retry_failed = retry_failed
        self._write = write
        self._lock = threading.Lock()
        self._left: Counter[str] = Counter()
        self._wanted = set(keys)
        self.finished: list[str] = []
        self._written: set[str] = set()
        self._own = pipeline.own_columns(plan)
        self._error: BaseException | None = None
        self._tables: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_tables, name="tables", daemon=True)
        self._writer.start()

    @property
    def left(self) -> int:
        """Wishes that are not through, of the batches that were handed out."""
        return self._left.total()

    def work_items(self) -> Iterator[WorkItem]:
        """Every request of the batches that has no outcome yet, each once a batch."""
        pictures = sum(batch.rows for batch in self._plan.batches if batch.key in self._wanted)
        standing = self._pipeline.standing(pictures, retry_failed=self._retry_failed)
        through = []
        for key in self._keys:
            batch = self._plan.batch_table(key)
            prints = batch["fingerprint"].to_pylist()
            there, given_up = standing(prints)
            left = [one not in there and one not in given_up for one in prints]
            work_items = {
                fingerprint: WorkItem(fingerprint, key, request)
                for fingerprint, request in (requests_of(batch.filter(pa.array(left))) if any(left) else ())
            }
            with self._lock:
                self._left[key] = len(work_items)
                if not work_items:
                    self.finished.append(key)
                    through.append(key)
            yield from work_items.values()
        # Not before: their tables are no hurry, and requests that are still to be sent are.
        if self._write:
            for key in through:
                self._tables.put(key)

    def through(self, item: WorkItem, _status: Status) -> None:
        """A item has its outcome."""
        with self._lock:
            self._left[item.batch] -= 1
            if self._left[item.batch] == 0:
                self._finish(item.batch)

    def _finish(self, key: str) -> None:
        self.finished.append(key)
        if self._write:
            self._tables.put(key)

    def _write_tables(self) -> None:
        while (key := self._tables.get()) is not None:
            try:
                self._pipeline.write_tables(self._plan, [key], own=self._own)
                self._written.add(key)
            except Exception as error:  # noqa: BLE001  raised again by close()
                self._error = self._error or error

    def close(self, *, everything: bool) -> None:
        """Finish writing; `everything`: also the tables of batches that are not through."""
        self._tables.put(None)
        self._writer.join()
        if everything:
            left = [key for key in self._keys if key not in self._written]
            self._pipeline.write_tables(self._plan, left, own=self._own)
        if self._error is not None:
            raise self._error
