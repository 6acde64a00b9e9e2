"""The checks of metadata tables: they agree with the ledger to the cent, and the pictures' files exist.

`compare` finds the differences; the rest reports them to Dagster.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    multi_asset_check,
)

from kontext_pipeline.orchestration.assets import metadata
from kontext_pipeline.orchestration.event_metadata import table_value
from kontext_pipeline.orchestration.resources import KontextResource

if TYPE_CHECKING:
    import pyarrow as pa

    from kontext_pipeline.dataset.summary import BatchSummary
    from kontext_pipeline.pipeline import Pipeline

BOOKS_BALANCE: Final = AssetCheckSpec(
    name="books_balance",
    asset=metadata,
    description="Each batch's table agrees with the ledger to the cent, for each picture: what was charged and what was "
    "possibly charged. Each picture's file exists and has the size that the table says. A run checks its own batches; "
    "executed alone, the check covers all batches.",
)
EVERY_ROW: Final = AssetCheckSpec(
    name="every_row_has_its_picture",
    asset=metadata,
    description="No row is failed, pending or unknown. A warning, not an error: the other rows are complete.",
)
DIFFERENCES_SHOWN: Final = 50
"""Most differences that an evaluation lists."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference: its batch and fingerprint, and what table, ledger and file say."""

    batch: str
    fingerprint: str
    what: str


@multi_asset_check(
    name="check_metadata",
    specs=[BOOKS_BALANCE, EVERY_ROW],
    can_subset=True,
)
def check_metadata(context: AssetCheckExecutionContext, kontext: KontextResource) -> Iterator[AssetCheckResult]:
    """Check the tables of the run's batches, or of all batches if the run has none."""
    from kontext_pipeline.dataset.storage import read_batch, written_batches
    from kontext_pipeline.dataset.summary import summarize
    from kontext_pipeline.generation.ledger.report import spending_differs

    balance = BOOKS_BALANCE.name in {key.name for key in context.selected_asset_check_keys}
    differences: list[Difference] = []
    summaries: dict[str, BatchSummary] = {}
    with kontext.pipeline(context) as pipeline:
        for key in _keys_of_run(context) or written_batches(pipeline.data_dir):
            table = read_batch(pipeline.data_dir, key)
            summaries[key] = summarize(table)
            if balance:
                differences += compare(pipeline, key, table)
        if balance:
            unequal = spending_differs(pipeline.ledger.database)
            differences += [Difference("", "", f"sums of the caps: {text}") for text in unequal]
    if balance:
        yield _books_balance(differences, summaries)
    if EVERY_ROW.name in {key.name for key in context.selected_asset_check_keys}:
        yield _every_row(summaries)


def compare(pipeline: "Pipeline", key: str, table: "pa.Table") -> list[Difference]:
    """Compare a batch's table with the ledger and the image store, for each picture.

    Amounts are compared in millionths of a USD. A picture that several batches request is charged to the batch
    that the ledger names.
    """
    from kontext_pipeline.generation.ledger.money import micros

    shown: dict[str, list[int]] = {}
    files: dict[str, tuple[str | None, int | None]] = {}
    columns = ("fingerprint", "cost_usd", "possibly_charged_usd", "image_path", "bytes")
    for row in table.select(columns).to_pylist():
        amounts = shown.setdefault(row["fingerprint"], [0, 0])
        amounts[0] += micros(row["cost_usd"])
        amounts[1] += micros(row["possibly_charged_usd"])
        files[row["fingerprint"]] = (row["image_path"], row["bytes"])
    known = pipeline.ledger.generations(list(shown)).to_pylist()
    booked = {
        row["fingerprint"]: [micros(row["cost_usd"]), micros(row["possibly_charged_usd"])]
        for row in known
        if row["batch"] == key
    }
    found = []
    for fingerprint, amounts in shown.items():
        pairs = zip(amounts, booked.get(fingerprint, [0, 0]), strict=True)
        for name, (here, there) in zip(("charged", "possibly charged"), pairs, strict=True):
            if here != there:
                what = f"{name}: {here / 1e6:.6f} USD in the table, {there / 1e6:.6f} in the ledger"
                found.append(Difference(key, fingerprint, what))
    for fingerprint, (path, size) in files.items():
        if path is None:
            continue
        try:
            actual: int | None = (pipeline.data_dir / path).stat().st_size
        except FileNotFoundError:
            actual = None
        if actual != size:
            state = "does not exist" if actual is None else f"has {actual:,} bytes"
            found.append(Difference(key, fingerprint, f"{path} {state}; the table says {size:,}"))
    succeeded = {row["fingerprint"] for row in known if row["status"] == "succeeded"}
    found += [
        Difference(key, fingerprint, "the ledger has a picture, the table has none: materialize metadata again")
        for fingerprint, (path, _) in files.items()
        if path is None and fingerprint in succeeded
    ]
    return found


def _keys_of_run(context: AssetCheckExecutionContext) -> Sequence[str] | None:
    run = context.op_execution_context
    return run.partition_keys if run.has_partition_key or run.has_partition_key_range else None


def _books_balance(differences: Sequence[Difference], summaries: "Mapping[str, BatchSummary]") -> AssetCheckResult:
    metadata: dict[str, Any] = {
        "batches": len(summaries),
        "cost_usd": round(sum(one.cost_usd for one in summaries.values()), 6),
        "possibly_charged_usd": round(sum(one.possibly_charged_usd for one in summaries.values()), 6),
        "differences": len(differences),
    }
    description = None
    if differences:
        rows = [{"batch": one.batch, "what": one.what, "fingerprint": one.fingerprint} for one in differences]
        metadata["what_differs"] = table_value(rows[:DIFFERENCES_SHOWN])
        found = f"{len(differences):,} differences between tables, ledger and pictures"
        description = f"{found}; the first: {differences[0].what}"
    return AssetCheckResult(
        check_name=BOOKS_BALANCE.name, passed=not differences, metadata=metadata, description=description
    )


def _every_row(summaries: "Mapping[str, BatchSummary]") -> AssetCheckResult:
    rows = sum(one.rows for one in summaries.values())
    lacking = rows - sum(one.by_status["succeeded"] for one in summaries.values())
    metadata: dict[str, Any] = {
        "batches": len(summaries),
        "rows": rows,
        "rows_without_picture": lacking,
    }
    if lacking:
        incomplete = [(key, one) for key, one in summaries.items() if not one.complete]
        metadata["by_batch"] = table_value(
            {"batch": key, "rows": one.rows, **{k: v for k, v in one.by_status.items() if k != "succeeded"}}
            for key, one in incomplete[:DIFFERENCES_SHOWN]
        )
    return AssetCheckResult(
        check_name=EVERY_ROW.name,
        passed=not lacking,
        severity=AssetCheckSeverity.WARN,
        metadata=metadata,
        description=f"{lacking:,} of {rows:,} rows have no picture" if lacking else None,
    )
