"""The checks of metadata tables: they agree with the ledger to the cent, and the pictures' files exist.

`compare` finds the differences; the rest reports them to Dagster.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    multi_asset_check,
)

from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.event_metadata import table_value
from kontext_pipeline.orchestration.resources import KontextResource, kontext_of

if TYPE_CHECKING:
    import pyarrow as pa
    from upath import UPath

    from kontext_pipeline.dataset.summary import BatchSummary
    from kontext_pipeline.pipeline import Pipeline

BOOKS_BALANCE: Final = "books_balance"
EVERY_ROW: Final = "every_row_has_its_picture"
AMOUNTS: Final = {"cost_usd": "charged", "possibly_charged_usd": "possibly charged"}
"""Columns of amounts that tables and ledger share, and what differences call them."""
DIFFERENCES_SHOWN: Final = 50
"""Most differences that an evaluation lists."""


def make_check_metadata(names: DatasetNames) -> AssetChecksDefinition:
    """Return the checks of a dataset's asset `metadata`."""
    specs = [
        AssetCheckSpec(
            name=BOOKS_BALANCE,
            asset=names.asset_key("metadata"),
            description="Each batch's table agrees with the ledger to the cent, for each picture: what was charged and "
            "what was possibly charged. Each picture's file exists and has the size that the table says. A run checks its "
            "own batches; executed alone, the check covers all batches.",
        ),
        AssetCheckSpec(
            name=EVERY_ROW,
            asset=names.asset_key("metadata"),
            description="No row is failed, pending or unknown. A warning, not an error: the other rows are complete.",
        ),
    ]

    @multi_asset_check(
        name=names.suffixed("check_metadata"),
        specs=specs,
        can_subset=True,
        required_resource_keys={names.kontext},
    )
    def check_metadata(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
        yield from _check_tables(context, kontext_of(context, names))

    return check_metadata


def _check_tables(context: AssetCheckExecutionContext, kontext: KontextResource) -> Iterator[AssetCheckResult]:
    """Check the tables of the run's batches, or of all batches if the run has none."""
    from kontext_pipeline.dataset.storage import read_batch, written_batches
    from kontext_pipeline.dataset.summary import summarize
    from kontext_pipeline.generation.ledger.report import spending_differs

    selected = {key.name for key in context.selected_asset_check_keys}
    balance = BOOKS_BALANCE in selected
    differences: list[dict[str, str]] = []
    summaries: dict[str, BatchSummary] = {}
    run = context.op_execution_context
    partitions = run.partition_keys if run.has_partition_key or run.has_partition_key_range else None
    with kontext.pipeline(context) as pipeline:
        for key in partitions or written_batches(pipeline.data_dir):
            table = read_batch(pipeline.data_dir, key)
            summaries[key] = summarize(table)
            if balance:
                found = compare(pipeline, key, table)
                differences += ({"batch": key, "what": what, "fingerprint": picture} for picture, what in found)
        if balance:
            unequal = spending_differs(pipeline.ledger.database)
            differences += ({"batch": "", "what": f"sums of the caps: {text}", "fingerprint": ""} for text in unequal)
    if balance:
        yield _books_balance(differences, summaries)
    if EVERY_ROW in selected:
        yield _every_row(summaries)


def compare(pipeline: "Pipeline", key: str, table: "pa.Table") -> Iterator[tuple[str, str]]:
    """Compare a batch's table with the ledger and the image store. Yield the fingerprint of a picture and what differs.

    Amounts are compared in millionths of a USD. A picture that several batches request is charged to the batch
    that the ledger names.
    """
    from kontext_pipeline.generation.ledger.money import micros

    rows_of: dict[str, list[dict[str, Any]]] = {}
    for row in table.select(["fingerprint", *AMOUNTS, "image_path", "bytes"]).to_pylist():
        rows_of.setdefault(row["fingerprint"], []).append(row)
    known = {row["fingerprint"]: row for row in pipeline.ledger.generations(list(rows_of)).to_pylist()}
    for fingerprint, rows in rows_of.items():
        generation = known.get(fingerprint, {"batch": None, "status": None})
        for column, name in AMOUNTS.items():
            here = sum(micros(row[column]) for row in rows)
            there = micros(generation[column]) if generation["batch"] == key else 0
            if here != there:
                yield fingerprint, f"{name}: {here / 1e6:.6f} USD in the table, {there / 1e6:.6f} in the ledger"
        path, size = rows[0]["image_path"], rows[0]["bytes"]
        if path is None and generation["status"] == "succeeded":
            yield fingerprint, "the ledger has a picture, the table has none: materialize metadata again"
        elif path is not None and (state := _file_differs(pipeline.data_dir / path, size)):
            yield fingerprint, f"{path} {state}; the table says {size:,}"


def _file_differs(path: "UPath", size: int) -> str | None:
    try:
        actual = path.stat().st_size
    except FileNotFoundError:
        return "does not exist"
    return None if actual == size else f"has {actual:,} bytes"


def _books_balance(differences: Sequence[dict[str, str]], summaries: "Mapping[str, BatchSummary]") -> AssetCheckResult:
    sums = {name: round(sum(getattr(one, name) for one in summaries.values()), 6) for name in AMOUNTS}
    metadata: dict[str, Any] = {"batches": len(summaries), **sums, "differences": len(differences)}
    description = None
    if differences:
        metadata["what_differs"] = table_value(differences[:DIFFERENCES_SHOWN])
        found = f"{len(differences):,} differences between tables, ledger and pictures"
        description = f"{found}; the first: {differences[0]['what']}"
    return AssetCheckResult(
        check_name=BOOKS_BALANCE, passed=not differences, metadata=metadata, description=description
    )


def _every_row(summaries: "Mapping[str, BatchSummary]") -> AssetCheckResult:
    rows = sum(one.rows for one in summaries.values())
    lacking = rows - sum(one.by_status["succeeded"] for one in summaries.values())
    metadata: dict[str, Any] = {"batches": len(summaries), "rows": rows, "rows_without_picture": lacking}
    if lacking:
        incomplete = [(key, one) for key, one in summaries.items() if not one.complete]
        metadata["by_batch"] = table_value(
            {"batch": key, "rows": one.rows, **{k: v for k, v in one.by_status.items() if k != "succeeded"}}
            for key, one in incomplete[:DIFFERENCES_SHOWN]
        )
    return AssetCheckResult(
        check_name=EVERY_ROW,
        passed=not lacking,
        severity=AssetCheckSeverity.WARN,
        metadata=metadata,
        description=f"{lacking:,} of {rows:,} rows have no picture" if lacking else None,
    )
