"""Metadata of materializations, which Dagster shows for a plan, a batch and a table."""

import shlex
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dagster import MetadataValue, TableColumn, TableRecord, TableSchema

from kontext_pipeline.escaping import markdown, one_line

if TYPE_CHECKING:
    import pyarrow as pa
    from upath import UPath

    from kontext_pipeline.dataset.summary import BatchSummary
    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.planning.estimate import Estimate
    from kontext_pipeline.planning.plan import Plan

SHEET_PICTURES: Final = 24
"""Most thumbnails on a batch's contact sheet."""
SHEET_PICTURES_A_RUN: Final = 1200
"""Most thumbnails in a run, over all its batches; each takes about 20 ms."""
ROWS_SHOWN: Final = 20
"""Most rows of a table in the metadata of one event."""


def plan_metadata(plan: "Plan", estimate: "Estimate", warnings: Iterable[str]) -> dict[str, Any]:
    """Return the plan's counts, estimated cost and time, warnings, and its manifests."""
    by_manifest: dict[str, dict[str, Any]] = {}
    for batch in plan.batches:
        row = by_manifest.setdefault(batch.manifest, {"manifest": batch.manifest, "batches": 0, "pictures": 0})
        row["batches"] += 1
        row["pictures"] += batch.rows
    return {
        "rows": estimate.rows,
        "pictures": estimate.pictures,
        "already_there": estimate.already_there,
        "given_up": estimate.failed_for_good,
        "to_generate": estimate.to_generate,
        "gone": estimate.gone,
        "estimated_cost_usd": estimate.cost_usd,
        "estimated_minutes": round(estimate.seconds / 60, 1),
        "batches": len(plan.batches),
        "backend": plan.backend,
        **({"columns": plan.mapped_columns} if plan.mapped_columns else {}),
        "warnings": MetadataValue.md("\n".join(f"- {markdown(text)}" for text in warnings) or "none"),
        "manifests": table_value(list(by_manifest.values())[:ROWS_SHOWN]),
    }


def table_value(rows: Iterable[Mapping[str, Any]]) -> MetadataValue:
    """Return rows as a table for the UI. There must be one at least: names and types are those of the first row."""
    shown = [
        {name: one_line(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    ]
    return MetadataValue.table([TableRecord(row) for row in shown])


def figures(summary: "BatchSummary") -> dict[str, Any]:
    """Return a batch's figures: counts by status and status code, USD, seconds and bytes."""
    shown: dict[str, Any] = {
        "rows": summary.rows,
        "pictures": summary.pictures,
        **summary.by_status,
        "status_codes": {str(code): count for code, count in summary.by_status_code.items()},
        "cost_usd": round(summary.cost_usd, 6),
        "possibly_charged_usd": round(summary.possibly_charged_usd, 6),
        "bytes": summary.bytes,
    }
    if summary.latency_s is not None:
        for name in ("p50", "p90", "p99"):
            shown[f"latency_{name}_s"] = round(getattr(summary.latency_s, name), 3)
    return shown


def batch_metadata(pipeline: "Pipeline", plan: "Plan", key: str, table: "pa.Table", thumbnails: int) -> dict[str, Any]:
    """Return a batch's figures, its contact sheet and its rows without a picture.

    `table` is its metadata table. `thumbnails`: the most on the sheet; 0: no sheet.
    """
    from kontext_pipeline.dataset.summary import summarize

    shown = figures(summarize(table))
    shown["review"] = review_command(pipeline.data_dir, key)
    if sheet := _contact_sheet(pipeline, table, thumbnails):
        shown["contact_sheet"] = MetadataValue.md(sheet)
    if without := _rows_without_picture(table):
        shown["without_picture"] = without
    if causes := pipeline.failures(plan, [key]).lines():
        shown["failures"] = MetadataValue.md("\n".join(f"    {line}" for line in causes))
    return shown


def review_command(data_dir: "UPath", batch: str | None = None) -> str:
    """Return the command that opens the review page, on one batch or on all; without a password in a URL."""
    scheme, separator, rest = str(data_dir).rpartition("://")
    host, slash, path = rest.partition("/")
    shown = f"{scheme}{separator}{host.rpartition('@')[2] if separator else host}{slash}{path}"
    return one_line(shlex.join(["kontext", "review", "--data-dir", shown, *(["--batch", batch] if batch else [])]))


def thumbnails_for(batches: int) -> int:
    """Return the most thumbnails for each batch in a run of `batches` batches."""
    return min(SHEET_PICTURES, SHEET_PICTURES_A_RUN // max(1, batches))


def table_metadata(data_dir: "UPath", key: str, table: "pa.Table") -> dict[str, Any]:
    """Return the figures, the row count, the columns and the path of a batch's metadata table."""
    from kontext_pipeline.columns import TABLE_COLUMNS
    from kontext_pipeline.dataset.storage import batch_path
    from kontext_pipeline.dataset.summary import summarize

    meanings = {column.name: column.meaning for column in TABLE_COLUMNS}
    columns = [
        TableColumn(one_line(column.name), str(column.type), meanings.get(column.name, "the manifest's own column"))
        for column in table.schema
    ]
    return {
        **figures(summarize(table)),
        "dagster/partition_row_count": table.num_rows,
        "dagster/column_schema": TableSchema(columns),
        "path": MetadataValue.path(str(batch_path(data_dir, key))),
    }


def _contact_sheet(pipeline: "Pipeline", table: "pa.Table", most: int) -> str | None:
    from kontext_pipeline.dataset.contact_sheet import contact_sheet

    columns = ["image_path", "input_path", "id", "variant"]
    rows = table.select(columns).filter(table["image_path"].is_valid()).to_pylist()
    chosen = list({row["image_path"]: row for row in reversed(rows)}.values())[::-1]
    with_inputs = any(row["input_path"] for row in chosen)
    if with_inputs:
        # The input pictures are thumbnails, too.
        most = (most + 1) // 2
    if len(chosen) > most:
        # Spread over the batch, because its first rows are often alike.
        chosen = [chosen[index * len(chosen) // most] for index in range(most)] if most else []
    names = [row["id"] if row["variant"] == 1 else f"{row['id']} · {row['variant']}" for row in chosen]
    images = [(pipeline.data_dir / row["image_path"], name) for row, name in zip(chosen, names, strict=True)]
    inputs = [pipeline.data_dir / row["input_path"] if row["input_path"] else None for row in chosen]
    return contact_sheet(images, inputs=inputs if with_inputs else ())


def _rows_without_picture(table: "pa.Table") -> MetadataValue | None:
    import pyarrow.compute as pc

    columns = ("id", "status", "status_code", "error")
    rows = table.select(columns).filter(pc.not_equal(table["status"], "succeeded")).slice(0, ROWS_SHOWN).to_pylist()
    shown = ({name: "" if value is None else value for name, value in row.items()} for row in rows)
    return table_value(shown) if rows else None
