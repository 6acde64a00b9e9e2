"""The asset of the export: the dataset in a layout that trainers load, and the check that nothing of it is lost.

Materializing it costs nothing, and writes what has changed alone.
"""

from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetsDefinition,
    Config,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    asset,
)
from pydantic import Field

from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.event_metadata import table_value
from kontext_pipeline.orchestration.resources import KontextResource, kontext_of

if TYPE_CHECKING:
    from kontext_pipeline.dataset.exports.exporting import Export

EXPORT_IS_WHOLE: Final = "export_is_whole"
"""Name of the check."""


# Dagster shows the choices of an Enum; it can't show those of a Literal.
class ExportFormat(Enum):
    """The layouts."""

    imagefolder = "imagefolder"
    parquet = "parquet"
    webdataset = "webdataset"
    pairs = "pairs"


class ExportDirection(Enum):
    """Which way samples edit."""

    forward = "forward"
    backward = "backward"
    both = "both"


class ExportImageFormat(Enum):
    """The formats that pictures are converted to."""

    png = "png"
    jpg = "jpg"


class ExportConfig(Config):
    """What an export is asked to be: the options of `kontext export`."""

    format: ExportFormat = Field(ExportFormat.parquet, description="The layout: what reads the export decides.")
    out: str = Field(
        "", description="Folder of the export, a path or an fsspec URL; default: `export` in the data directory."
    )
    validation: float = Field(0.0, description="Share of the input pictures for validation, 0 to 1.")
    direction: ExportDirection = Field(
        ExportDirection.forward,
        description="Which way samples edit; `backward`: from the generated picture, by the inverse instruction.",
    )
    include_rejected: bool = Field(False, description="Export rejected pictures too.")
    image_format: ExportImageFormat | None = Field(None, description="Convert all pictures; default: keep their bytes.")
    max_shard_mb: int | None = Field(None, description="Most MB of a shard; default: 500, webdataset 1000.")
    inverse_column: str | None = Field(
        None, description="Column of inverse instructions; default: inverse_prompt, inverse."
    )
    seed: int = Field(0, description="Seed of the splits.")


def make_dataset(names: DatasetNames) -> AssetsDefinition:
    """Return the asset `dataset` of a dataset."""
    whole = AssetCheckSpec(
        name=EXPORT_IS_WHOLE,
        asset=names.asset_key("dataset"),
        description="No picture that should be exported is missing or has changed, and no input picture is in several "
        "splits. A warning: the other rows are exported.",
    )

    @asset(
        key_prefix=names.prefix,
        # All that decides what an export has.
        deps=[names.asset_key(asset) for asset in ("metadata", "quality", "review")],
        group_name=names.group,
        kinds={"huggingface", "parquet"},
        tags={"kontext/costs": "nothing"},
        check_specs=[whole],
        required_resource_keys={names.kontext},
        description="The dataset as trainers load it: an image folder, Parquet, WebDataset or pairs, with splits by input "
        "picture. Materializing it costs nothing, and writes what has changed alone.",
    )
    # Dagster takes no MaterializeResult[...] from an asset with checks.
    def dataset(context: AssetExecutionContext, config: ExportConfig) -> MaterializeResult:  # type: ignore[type-arg]
        return _export(context, config, kontext_of(context, names))

    return dataset


def _export(context: AssetExecutionContext, config: ExportConfig, kontext: KontextResource) -> MaterializeResult[Any]:
    """Export the dataset of the resource's data directory."""
    from kontext_pipeline.dataset.exports.export_options import ExportOptions
    from kontext_pipeline.dataset.exports.exporting import export_dataset, folder_of

    with kontext.pipeline(context) as pipeline:
        out = folder_of(config.out) if config.out else pipeline.data_dir / "export"
        options = ExportOptions(
            layout=config.format.value,
            validation=config.validation,
            direction=config.direction.value,
            include_rejected=config.include_rejected,
            max_shard_mb=config.max_shard_mb,
            image_format=config.image_format and config.image_format.value,
            seed=config.seed,
            inverse_column=config.inverse_column,
        )
        made = export_dataset(pipeline.data_dir, out, options)
    context.log.info(
        f"{made.samples:,} samples in {made.files:,} files, {made.written:,} of them written, in {made.out}"
    )
    return MaterializeResult(
        metadata=_metadata(made), check_results=[_check(made)], data_version=DataVersion(made.sha256)
    )


def _metadata(made: "Export") -> dict[str, Any]:
    from kontext_pipeline.dataset.exports.selection import REASONS

    shown: dict[str, Any] = {
        "export": MetadataValue.path(made.out),
        "samples": made.samples,
        "files": made.files,
        "bytes": made.bytes,
        "files_written": made.written,
        "splits": table_value(
            [{"configuration": part.config, "split": part.split, "samples": part.rows} for part in made.parts]
        ),
    }
    left_out = [{"rows": count, "why": REASONS[reason]} for reason, count in made.left_out.counts.most_common()]
    return {**shown, "left_out": table_value(left_out)} if left_out else shown


def _check(made: "Export") -> AssetCheckResult:
    from kontext_pipeline.dataset.exports.selection import REASONS, WRONG

    lost = [
        {"why": REASONS[reason], "rows": made.left_out.counts[reason], "ids": ", ".join(made.left_out.examples[reason])}
        for reason in sorted(WRONG)
        if made.left_out.counts[reason]
    ]
    metadata: dict[str, Any] = {"lost_rows": sum(made.left_out.counts[reason] for reason in WRONG), "leaks": made.leaks}
    if lost:
        metadata["what_is_lost"] = table_value(lost)
    if made.leaks:
        metadata["what_leaks"] = table_value([{"group": line} for line in made.leaks_shown])
    return AssetCheckResult(
        check_name=EXPORT_IS_WHOLE, passed=made.sound, severity=AssetCheckSeverity.WARN, metadata=metadata
    )
