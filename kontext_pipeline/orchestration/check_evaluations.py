"""Evaluations of the checks: one for each batch, and one for all batches together.

A run looks at its own batches alone. What it says of all batches follows from the latest evaluation of each other
batch, which Dagster has, so a batch that failed its check keeps the check failed until that batch passes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dagster import AssetCheckEvaluation, AssetCheckKey, AssetCheckSeverity, AssetCheckSpec, AssetKey, DagsterInstance
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.event_api import PartitionKeyFilter

from kontext_pipeline.orchestration import batch_checks
from kontext_pipeline.orchestration.event_metadata import table_value

if TYPE_CHECKING:
    from kontext_pipeline.orchestration.batch_checks import Outcome

WARNINGS: Final = frozenset({batch_checks.EVERY_ROW, batch_checks.FEW_FAILED})
"""Checks that warn: the other rows are complete."""
DESCRIPTIONS: Final = {
    batch_checks.BOOKS_BALANCE: "Each batch's table agrees with the ledger to the cent, for each picture: what was charged "
    "and what was possibly charged. Each picture's file exists and has the size that the table says.",
    batch_checks.EVERY_ROW: "No row is failed, pending or unknown. A warning, not an error: the other rows are complete.",
    batch_checks.PLANNED_ROWS: "Each batch's table has the rows that are planned, once each, and no other.",
    batch_checks.FEW_FAILED: "No more than a share of each batch's rows is failed or unknown; `failed_share` in the run "
    "config of the step. A warning, not an error.",
    batch_checks.UNCHANGED: "Some pictures of each batch, drawn at random, are the bytes that were received: their sha256 "
    "is that of the table. `hashed` in the run config of the step says how many.",
}
SHOWN: Final = 50
"""Most problems that an evaluation lists."""


def check_specs(metadata: AssetKey) -> list[AssetCheckSpec]:
    """Return the checks of the asset with the key `metadata`."""
    covers = " A run checks its own batches; executed alone, the check covers all batches."
    return [AssetCheckSpec(name, asset=metadata, description=text + covers) for name, text in DESCRIPTIONS.items()]


class CheckEvaluations:
    """Collects what the checks found in a run's batches, and makes the evaluations that Dagster is to record."""

    def __init__(self, instance: DagsterInstance, metadata: AssetKey, names: Sequence[str]) -> None:
        """`metadata`: the key of the asset that is checked. `names`: the checks that the run executes."""
        self.names = tuple(names)
        self.has_news = False
        """Whether any batch got an evaluation of its own."""
        self._instance = instance
        self._metadata = metadata
        self._outcomes: dict[str, dict[str, Outcome]] = {name: {} for name in names}
        self._known = {name: passed_by_batch(instance, metadata, name) for name in names}

    def add(self, key: str, outcomes: Sequence["Outcome"]) -> Iterator[AssetCheckEvaluation]:
        """Add what was found in a batch. Yield an evaluation of this batch for each check that failed or had failed."""
        for outcome in outcomes:
            self._outcomes[outcome.check][key] = outcome
            if outcome.failed is not None or not self._known[outcome.check].get(key, True):
                self.has_news = True
                table = {_table_of(outcome.check): _table(outcome.problems)} if outcome.problems else {}
                yield self._evaluation(outcome.check, outcome.failed, {**outcome.figures, **table}, partition=key)

    @staticmethod
    def shown(outcomes: Sequence["Outcome"]) -> dict[str, Any]:
        """Return what a batch's materialization says of its checks: `passed`, or why a check failed."""
        return {"checks": {outcome.check: outcome.failed or "passed" for outcome in outcomes}} if outcomes else {}

    def of_all(self, batches: Sequence[str], others: Mapping[str, Sequence[str]]) -> Iterator[AssetCheckEvaluation]:
        """Yield an evaluation of each check for all `batches` of the plan.

        `others` has, by check, what is wrong apart from any batch, a sentence each.
        """
        for name in self.names:
            yield self._of_all(name, set(batches), others.get(name, ()))

    def _of_all(self, name: str, batches: set[str], others: Sequence[str]) -> AssetCheckEvaluation:
        found = self._outcomes[name]
        failed = {key: outcome.failed for key, outcome in found.items() if outcome.failed is not None}
        earlier = sorted(
            key for key, passed in self._known[name].items() if not passed and key in batches and key not in found
        )
        rows: list[dict[str, Any]] = [{"batch": "", "what": what} for what in others]
        rows += [{"batch": key, **problem} for key in failed for problem in found[key].problems]
        rows += [{"batch": key, "what": self._said_of(name, key)} for key in earlier[: max(0, SHOWN - len(rows))]]
        figures: dict[str, Any] = {"batches": len(found), "failing_batches": len(failed) + len(earlier)}
        for outcome in found.values():
            for figure, value in outcome.figures.items():
                figures[figure] = round(figures.get(figure, 0) + value, 6)
        if not rows:
            return self._evaluation(name, None, figures)
        first = next(iter((*others, *failed.values())), rows[0]["what"])
        more = f"; {figures['failing_batches']:,} batches fail" if figures["failing_batches"] > 1 else ""
        return self._evaluation(name, f"{first}{more}", {**figures, _table_of(name): _table(rows)})

    def _evaluation(
        self, name: str, failed: str | None, metadata: Mapping[str, Any], partition: str | None = None
    ) -> AssetCheckEvaluation:
        target = latest_materialization(self._instance, self._metadata) if partition is None else None
        return AssetCheckEvaluation(
            asset_key=self._metadata,
            check_name=name,
            passed=failed is None,
            metadata=metadata,
            target_materialization_data=target,
            severity=AssetCheckSeverity.WARN if name in WARNINGS else AssetCheckSeverity.ERROR,
            description=failed,
            blocking=False,
            partition=partition,
        )

    def _said_of(self, name: str, key: str) -> str:
        """Return why a batch failed the check when it was evaluated last."""
        records = self._instance.event_log_storage.get_asset_check_execution_history(
            AssetCheckKey(self._metadata, name), limit=1, partition_filter=PartitionKeyFilter(key=key)
        )
        event = records[0].event.dagster_event if records and records[0].event else None
        said = event.asset_check_evaluation_data.description if event else None
        return said or "failed its last check"


def passed_by_batch(instance: DagsterInstance, asset: AssetKey, name: str) -> dict[str, bool]:
    """Return whether each batch passed the check `name` of an asset when it was evaluated last."""
    found = instance.event_log_storage.get_asset_check_partition_info([AssetCheckKey(asset, name)])
    return {
        one.partition_key: one.latest_execution_status.value == "SUCCEEDED"
        for one in found
        if one.partition_key is not None and one.latest_execution_status.value != "PLANNED"
    }


def latest_materialization(
    instance: DagsterInstance, asset: AssetKey
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """Return the latest materialization of an asset, in any partition: what an evaluation of all of it holds for."""
    records = instance.get_asset_records([asset])
    latest = records[0].asset_entry.last_materialization_record if records else None
    if latest is None:
        return None
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=latest.storage_id, run_id=latest.run_id, timestamp=latest.timestamp
    )


def _table_of(name: str) -> str:
    """Return the name of the metadata that lists what a check found."""
    return {batch_checks.BOOKS_BALANCE: "what_differs", batch_checks.EVERY_ROW: "by_batch"}.get(name, "problems")


def _table(problems: Sequence[Mapping[str, Any]]) -> Any:
    """Return problems as a table, which needs the same columns in every row."""
    columns = list(dict.fromkeys(name for problem in problems for name in problem))
    return table_value({name: problem.get(name, "") for name in columns} for problem in problems[:SHOWN])
