"""Reports to Dagster what the command line did, so that Dagster's pages show it."""

import contextlib
import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dagster import AssetKey, AssetMaterialization, AssetRecordsFilter, DagsterInstance
from filelock import FileLock

from kontext_pipeline.launcher import NEW_INSTANCE
from kontext_pipeline.orchestration.dataset_names import UNNAMED, DatasetNames, names_from_environment
from kontext_pipeline.orchestration.event_metadata import batch_metadata, figures, plan_metadata, thumbnails_for
from kontext_pipeline.orchestration.partitions import register

if TYPE_CHECKING:
    from kontext_pipeline.pipeline import Pipeline

log: Final = logging.getLogger(__name__)

LOCK_TIMEOUT_S: Final = 120.0
"""How long a process waits for others that report to the same instance, seconds."""
LONGEST_REASON: Final = 300
"""Characters of an error of Dagster's that a warning shows."""


class Reporter(AbstractContextManager["Reporter"]):
    """Reports to the Dagster instance in a folder. Whatever goes wrong is a warning, and nothing is raised.

    The instance is opened, and the plan's batches are registered, at the start: a folder that can't be used shows before
    money is spent. Processes take turns, because Dagster can't make one new instance from several of them.
    """

    def __init__(self, home: str, batches: Sequence[str], *, dataset_id: str, warn: Callable[[str], None]) -> None:
        """`home`: the value of `DAGSTER_HOME`. `warn` gets each warning, one line."""
        self._home = Path(home).expanduser().absolute()
        self._warn = warn
        self._names = names_from_environment()
        self._instance: DagsterInstance | None = None
        self._exits = ExitStack()
        self._try(lambda: self._open(batches, dataset_id), "this run is not reported to Dagster")

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(Exception), _quiet():
            self._exits.close()

    def report(self, pipeline: "Pipeline", keys: Sequence[str]) -> None:
        """Record the batches `keys`, as `report_batches` does."""
        if (instance := self._instance) is not None:
            self._try(
                lambda: report_batches(pipeline, keys, instance=instance, names=self._names),
                "Dagster doesn't show what this run made; the next run reports it",
            )

    def _open(self, batches: Sequence[str], dataset_id: str) -> None:
        if not self._home.exists():
            self._home.mkdir(parents=True, exist_ok=True)
            (self._home / "dagster.yaml").write_text(NEW_INSTANCE)
        instance = self._exits.enter_context(DagsterInstance.from_config(str(self._home)))
        register(instance, self._names, batches, dataset_id)
        self._instance = instance

    def _try(self, step: Callable[[], object], consequence: str) -> None:
        try:
            # Outside the folder, which may not exist yet; another user has a folder of their own.
            locks = Path(tempfile.gettempdir()) / f"kontext-dagster-{os.getuid() if hasattr(os, 'getuid') else 0}"
            locks.mkdir(mode=0o700, exist_ok=True)
            name = hashlib.sha256(str(self._home).encode()).hexdigest()[:16]
            with FileLock(locks / f"{name}.lock", timeout=LOCK_TIMEOUT_S), _quiet():
                step()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            log.debug("DAGSTER_HOME can't be used", exc_info=error)
            self._warn(f"DAGSTER_HOME {self._home} can't be used, so {consequence}: {reason[:LONGEST_REASON]}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dagster's warnings from the terminal: the user can't act on them."""
    logger = logging.getLogger("dagster")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = before


def report_batches(
    pipeline: "Pipeline", keys: Sequence[str], *, instance: DagsterInstance, names: DatasetNames = UNNAMED
) -> int:
    """Register the plan's batches and record the batches `keys` as materialized. Return how many were recorded.

    A batch whose figures are recorded already is left out. Images count as materialized when every row has its
    outcome.
    """
    from kontext_pipeline.dataset.storage import read_batch
    from kontext_pipeline.dataset.summary import summarize

    planned = pipeline.planned()
    register(instance, names, planned.batch_keys, pipeline.dataset_id)
    summaries = {key: summarize(read_batch(pipeline.data_dir, key)) for key in keys}
    recorded = names.asset_key("metadata")
    new = [key for key in keys if not _is_recorded(instance, recorded, key, figures(summaries[key]))]
    if new:
        estimate = pipeline.estimate(planned)
        shown = plan_metadata(planned, estimate, pipeline.warnings(planned))
        instance.report_runless_asset_event(AssetMaterialization(names.asset_key("plan"), metadata=shown))
    log.info("%d of %d batches are recorded as materialized in Dagster.", len(new), len(keys))
    for key in new:
        summary = summaries[key]
        if not summary.by_status["pending"]:
            shown = batch_metadata(pipeline, planned, key, thumbnails_for(len(new)))
            instance.report_runless_asset_event(
                AssetMaterialization(names.asset_key("images"), partition=key, metadata=shown)
            )
        instance.report_runless_asset_event(AssetMaterialization(recorded, partition=key, metadata=figures(summary)))
    return len(new)


def _is_recorded(instance: DagsterInstance, asset: AssetKey, key: str, now: dict[str, Any]) -> bool:
    found = instance.fetch_materializations(AssetRecordsFilter(asset_key=asset, asset_partitions=[key]), limit=1)
    event = found.records[0].asset_materialization if found.records else None
    known = event.metadata if event else {}
    return all(name in known and known[name].value == value for name, value in now.items())
