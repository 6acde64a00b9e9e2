"""The asset of what was spent: a table by day, run, manifest and backend, and a plot, from the ledger alone.

Each run that generates images records it too, so its figures are plotted over the runs.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from dagster import (
    AssetExecutionContext,
    AssetMaterialization,
    AssetsDefinition,
    MaterializeResult,
    MetadataValue,
    TableColumn,
    TableSchema,
    asset,
)

from kontext_pipeline.errors import KontextError
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.event_metadata import ROWS_SHOWN, table_value
from kontext_pipeline.orchestration.resources import kontext_of

if TYPE_CHECKING:
    import pyarrow as pa

    from kontext_pipeline.pipeline import Pipeline

log: Final = logging.getLogger(__name__)

LATEST: Final = -ROWS_SHOWN


def make_spend(names: DatasetNames) -> AssetsDefinition:
    """Return the asset `spend` of a dataset."""

    # Without dependencies: as one of images it would count as out of date after each run that records it.
    @asset(
        key_prefix=names.prefix,
        group_name=names.group,
        kinds={"parquet"},
        tags={"kontext/costs": "nothing"},
        required_resource_keys={names.kontext},
        description="What was charged, possibly charged and reserved: by day, run, manifest and backend, in "
        "`spend.parquet`. Made from the ledger, by each run that generates images too. Materializing it costs nothing.",
    )
    def spend(context: AssetExecutionContext) -> MaterializeResult[Any]:
        with kontext_of(context, names).pipeline(context) as pipeline:
            return MaterializeResult(metadata=update_spend(pipeline))

    return spend


def record_spend(names: DatasetNames, pipeline: "Pipeline", write: Callable[[AssetMaterialization], None]) -> None:
    """Bring `spend` up to date after a run that may have spent something, and `write` its event.

    What goes wrong is logged: it is no failure of the run.
    """
    try:
        write(AssetMaterialization(names.asset_key("spend"), metadata=update_spend(pipeline)))
    except (KontextError, OSError) as error:
        log.warning("the asset spend is not up to date: %s", error)


def update_spend(pipeline: "Pipeline") -> dict[str, Any]:
    """Write the table of what was spent, and return the metadata of its materialization."""
    from kontext_pipeline.dataset.spend_plot import spend_plot
    from kontext_pipeline.dataset.spend_table import spend_table, sums_by, write_spend_table
    from kontext_pipeline.generation.ledger.report import read_spending

    table = spend_table(asdict(row) for row in read_spending(pipeline.ledger.database))
    write_spend_table(table, pipeline.data_dir)
    rows = table.to_pylist()
    mine = [row for row in rows if row["backend"] == pipeline.settings.backend]
    sums = next(iter(sums_by(mine, "backend")), {})
    kinds = {row["kind"]: row for row in sums_by(mine, "kind")}
    shown: dict[str, Any] = {
        "spent_usd": sums.get("charged_usd", 0.0),
        "possibly_charged_usd": sums.get("possibly_charged_usd", 0.0),
        "reserved_usd": sums.get("reserved_usd", 0.0),
        "spent_on_resamples_usd": kinds.get("resample", {}).get("charged_usd", 0.0),
        "pictures": kinds.get("generation", {}).get("pictures", 0),
        "attempts": sums.get("attempts", 0),
        "backend": pipeline.settings.backend,
        "dagster/row_count": table.num_rows,
        "dagster/column_schema": _column_schema(table),
    }
    if plot := spend_plot(table):
        shown["plot"] = MetadataValue.md(plot)
    for name, column in {"by_day": "day", "by_manifest": "manifest", "by_run": "run_id"}.items():
        latest = sums_by(rows, "backend", column)[LATEST:]
        if latest:
            shown[name] = table_value({**row, column: str(row[column])} for row in latest)
    return shown


def _column_schema(table: "pa.Table") -> TableSchema:
    meaning = {field.name: field.metadata[b"meaning"].decode() for field in table.schema}
    return TableSchema([TableColumn(field.name, str(field.type), meaning[field.name]) for field in table.schema])
