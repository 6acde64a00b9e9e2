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
from typing import TYPE_CHECKING, Final

from dagster import AssetMaterialization, DagsterInstance
from filelock import FileLock

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.launcher import NEW_INSTANCE
from kontext_pipeline.orchestration.batch_recorder import BatchRecorder, runless_writer
from kontext_pipeline.orchestration.batch_versions import DATA_VERSION, plan_version, recorded_versions, table_version
from kontext_pipeline.orchestration.check_evaluations import DESCRIPTIONS, CheckEvaluations
from kontext_pipeline.orchestration.dataset_names import UNNAMED, DatasetNames, names_from_environment
from kontext_pipeline.orchestration.event_metadata import plan_metadata, thumbnails_for
from kontext_pipeline.orchestration.partitions import batches_of_others, is_registered, register
from kontext_pipeline.orchestration.quality_asset import quality_metadata
from kontext_pipeline.orchestration.spend_asset import record_spend

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
        foreign = batches_of_others(instance, self._names, dataset_id)
        if foreign and not is_registered(instance, dataset_id):
            raise SettingsError(
                f"its partitions {self._names.batch} are those of another dataset, such as {foreign[0]}. Name this dataset "
                "with KONTEXT_DATASET, here and in its code location"
            )
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

    A batch whose table is recorded already is left out. Images count as materialized when every row has its
    outcome, and quality where pictures were measured.
    """
    from kontext_pipeline.dataset.storage import read_batch

    planned = pipeline.planned()
    register(instance, names, planned.batch_keys, pipeline.dataset_id)
    recorded = recorded_versions(instance, names.asset_key("metadata"))
    new: dict[str, bool] = {}
    for key in keys:
        table = read_batch(pipeline.data_dir, key)
        if recorded.get(key) != table_version(table):
            new[key] = "pending" not in table["status"].to_pylist()
    log.info("%d of %d batches are recorded as materialized in Dagster.", len(new), len(keys))
    if not new:
        return 0
    write = runless_writer(instance, pipeline.run_id)
    shown = plan_metadata(planned, pipeline.estimate(planned), pipeline.warnings(planned))
    tags = {DATA_VERSION: plan_version(planned)}
    write(AssetMaterialization(names.asset_key("plan"), metadata=shown, tags=tags))
    checks = CheckEvaluations(instance, names.asset_key("metadata"), list(DESCRIPTIONS))
    recorder = BatchRecorder(
        pipeline,
        planned,
        instance=instance,
        names=names,
        write=write,
        run_id=pipeline.run_id,
        thumbnails=thumbnails_for(len(new)),
        checks=checks,
    )
    for key, images_too in new.items():
        recorder.record(key, images_too=images_too)
        if shown := quality_metadata(pipeline.data_dir, key, thumbnails_for(len(new))):
            write(AssetMaterialization(names.asset_key("quality"), partition=key, metadata=shown))
    record_spend(names, pipeline, write)
    if checks.has_news:
        for evaluation in checks.of_all(planned.batch_keys, {}):
            write(evaluation)
    return len(new)
