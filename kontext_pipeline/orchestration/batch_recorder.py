"""Records batches in Dagster as they finish: images and metadata as materialized, and what the checks found.

An event takes Dagster's database some 20 ms, so a thread records, and no request waits for it.
"""

import contextlib
import queue
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
)

from kontext_pipeline.orchestration.batch_checks import Limits, check_batch
from kontext_pipeline.orchestration.batch_versions import (
    WITHOUT_VERSION,
    images_version,
    latest_event,
    made_from,
    observation,
    observed_versions,
    requests_version,
    table_version,
)
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.event_metadata import batch_metadata, table_metadata
from kontext_pipeline.threads import start_thread

if TYPE_CHECKING:
    import pyarrow as pa

    from kontext_pipeline.orchestration.check_evaluations import CheckEvaluations
    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.planning.plan import Plan

Event: TypeAlias = AssetMaterialization | AssetObservation | AssetCheckEvaluation


class BatchRecorder:
    """Records batches of one plan. Not for several threads at a time."""

    def __init__(
        self,
        pipeline: "Pipeline",
        plan: "Plan",
        *,
        instance: DagsterInstance,
        names: DatasetNames,
        write: Callable[[Event], None],
        run_id: str,
        thumbnails: int,
        checks: "CheckEvaluations",
        limits: Limits | None = None,
    ) -> None:
        """`write` writes one event. `run_id`: the run in which the batches were generated.

        `thumbnails`: the most on a contact sheet.
        """
        self._pipeline = pipeline
        self._plan = plan
        self._instance = instance
        self._requests, self._inputs, self._images, self._metadata = map(
            names.asset_key, ("requests", "inputs", "images", "metadata")
        )
        self._write = write
        self._run_id = run_id
        self._checks = checks
        self._limits = limits or Limits()
        self._observed = observed_versions(instance, self._requests)
        self.thumbnails = thumbnails

    def record(self, key: str, *, images_too: bool = True, table_too: bool = True) -> None:
        """Record a batch, whose table is written, as materialized, and what its checks found.

        `images_too`, `table_too`: of the assets `images` and `metadata`, record this one. Images count as materialized
        when every row has its outcome.
        """
        from kontext_pipeline.dataset.storage import read_batch

        table = read_batch(self._pipeline.data_dir, key)
        requests = self._observe(key, generated=images_too)
        found = check_batch(self._pipeline, self._plan, key, table, names=self._checks.names, limits=self._limits)
        if images_too:
            self._record_images(key, table, requests)
        if table_too:
            pictures = latest_event(self._instance, self._images, DagsterEventType.ASSET_MATERIALIZATION, key)
            inputs = {self._requests: requests, self._images: (images_version(table), pictures)}
            shown = {**table_metadata(self._pipeline.data_dir, key, table), **self._checks.shown(found)}
            self._materialized(self._metadata, key, shown, made_from(table_version(table), self._run_id, inputs))
        for evaluation in self._checks.add(key, found):
            self._write(evaluation)

    def _record_images(self, key: str, table: "pa.Table", requests: tuple[str, int | None]) -> None:
        from kontext_pipeline.generation.ledger.report import spent_by_run

        prints = table["fingerprint"].unique().to_pylist()
        spent = spent_by_run(self._pipeline.ledger.database, self._run_id, key, prints)
        shown = batch_metadata(self._pipeline, self._plan, key, table, self.thumbnails)
        inputs: dict[AssetKey, tuple[str, int | None]] = {
            self._requests: requests,
            self._inputs: (WITHOUT_VERSION, None),
        }
        tags = made_from(images_version(table), self._run_id, inputs)
        self._materialized(self._images, key, {**shown, "spent_usd": spent}, tags)

    def _observe(self, key: str, *, generated: bool) -> tuple[str, int | None]:
        """Return what the batch asks for, and the event that says so, which is written where it is missing.

        Where only the table is made again, a batch that was observed is not: its images may be out of date.
        """
        version = requests_version(self._pipeline, self._plan, key)
        known = self._observed.get(key)
        if known is None or (generated and known != version):
            self._write(observation(self._requests, key, version))
        return version, latest_event(self._instance, self._requests, DagsterEventType.ASSET_OBSERVATION, key)

    def _materialized(self, asset: AssetKey, key: str, shown: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self._write(AssetMaterialization(asset, partition=key, metadata=dict(shown), tags=dict(tags)))


def runless_writer(instance: DagsterInstance, run_id: str) -> Callable[[Event], None]:
    """Return what writes events of a run that Dagster doesn't know, such as one of the command line.

    Dagster stores one evaluation of a check for each run and partition, and takes all events without a run as those of one
    run. Evaluations of batches therefore have a run's id.
    """
    evaluations_run = run_id or uuid.uuid4().hex

    def write(event: Event) -> None:
        if isinstance(event, AssetCheckEvaluation) and event.partition is not None:
            kind = DagsterEventType.ASSET_CHECK_EVALUATION.value
            instance.report_dagster_event(DagsterEvent(kind, job_name="", event_specific_data=event), evaluations_run)
        else:
            instance.report_runless_asset_event(event)

    return write


def recorded_in_run(instance: DagsterInstance, run_id: str, assets: Set[AssetKey]) -> set[str]:
    """Return the batches of which a run has recorded all `assets`: an earlier attempt of the step did."""
    by_asset: dict[AssetKey, set[str]] = {asset: set() for asset in assets}
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION):
        event = entry.asset_materialization
        if event is not None and event.asset_key in by_asset and event.partition is not None:
            by_asset[event.asset_key].add(event.partition)
    return set.intersection(*by_asset.values()) if by_asset else set()


class Recording:
    """Records the batches that it is given, in their order, from a thread of its own."""

    END: Final = None

    def __init__(self, record: Callable[[str], None], *, done: Set[str]) -> None:
        """`record` records one batch. `done`: batches that are recorded already, and not recorded again."""
        self.recorded = set(done)
        self._record = record
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._error: Exception | None = None

    def add(self, key: str) -> None:
        """Record this batch soon. From any thread."""
        self._queue.put(key)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Record while the block runs, and after it until all that was added is recorded.

        Raises:
            Exception: the first one that recording a batch has raised. The others were recorded.
        """
        thread = start_thread(self._work, "recorder")
        try:
            yield
        finally:
            self._queue.put(self.END)
            thread.join()
        if self._error is not None:
            raise self._error

    def record_all(self, keys: Sequence[str]) -> None:
        """Add these batches."""
        for key in keys:
            self.add(key)

    def _work(self) -> None:
        while (key := self._queue.get()) is not self.END:
            if key in self.recorded:
                continue
            try:
                self._record(key)
                self.recorded.add(key)
            except Exception as error:  # noqa: BLE001  raised again by `running`
                self._error = self._error or error
