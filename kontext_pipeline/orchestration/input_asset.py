"""The asset of the input pictures, between the plan and the images, and the check that every one of them is there.

Materializing it is free and optional: `images` fetches what it needs itself.
"""

from typing import TYPE_CHECKING, Any, Final

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    asset,
)

from kontext_pipeline.orchestration.batch_versions import WITHOUT_VERSION
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.event_metadata import SHEET_PICTURES, table_value
from kontext_pipeline.orchestration.resources import KontextResource, kontext_of

if TYPE_CHECKING:
    from kontext_pipeline.input_collection import Collection
    from kontext_pipeline.pipeline import Pipeline

EVERY_INPUT: Final = "every_input_is_there"
"""Name of the check."""
PROBLEMS_SHOWN: Final = 50
"""Most input pictures that an evaluation lists."""


def make_inputs(names: DatasetNames) -> AssetsDefinition:
    """Return the asset `inputs` of a dataset."""
    every_input = AssetCheckSpec(
        name=EVERY_INPUT,
        asset=names.asset_key("inputs"),
        description="Every input picture of the plan is kept and usable. A warning, not an error: the rows of the others "
        "are not lost.",
    )

    @asset(
        key_prefix=names.prefix,
        deps=[names.asset_key("plan")],
        group_name=names.group,
        kinds={"jpeg", "png"},
        tags={"kontext/costs": "nothing"},
        check_specs=[every_input],
        required_resource_keys={names.kontext},
        description="The input pictures of the plan, each fetched, checked and kept once. Materializing it costs nothing "
        "and sends nothing to the API. It may be left out: `images` keeps what its batches need.",
    )
    # Dagster takes no MaterializeResult[...] from an asset with checks.
    def inputs(context: AssetExecutionContext) -> MaterializeResult:  # type: ignore[type-arg]
        return _keep_inputs(context, kontext_of(context, names))

    return inputs


def _keep_inputs(context: AssetExecutionContext, kontext: KontextResource) -> MaterializeResult[Any]:
    """Fetch, check and keep every input picture of the plan."""
    from kontext_pipeline.input_collection import collect, open_collector

    with kontext.pipeline(context) as pipeline:
        with open_collector(pipeline.settings, pipeline.data_dir) as collector:
            found = collect(pipeline.planned(), collector)
        context.log.info(f"{found.kept:,} of {found.wanted:,} input pictures are kept")
        return MaterializeResult(
            metadata=_metadata(pipeline, found),
            check_results=[_every_input(found)],
            # Whether and when the inputs were kept makes no image out of date: the plan says what a batch asks for.
            data_version=DataVersion(WITHOUT_VERSION),
        )


def _metadata(pipeline: "Pipeline", found: "Collection") -> dict[str, Any]:
    from kontext_pipeline.dataset.contact_sheet import contact_sheet

    shown: dict[str, Any] = {
        "input_pictures": found.wanted,
        "kept": found.kept,
        "bytes": found.bytes,
        "changed": found.changed,
        "dead": found.dead,
        "problems": found.missing_count,
        "problems_by_cause": dict(found.missing_by_cause),
    }
    examples = found.examples[:SHEET_PICTURES]
    sheet = contact_sheet([(pipeline.data_dir / kept.path, f"{kept.width} x {kept.height}") for kept in examples])
    return {**shown, "contact_sheet": MetadataValue.md(sheet)} if sheet else shown


def _every_input(found: "Collection") -> AssetCheckResult:
    metadata: dict[str, Any] = {"input_pictures": found.wanted, "problems": found.missing_count}
    problems = [
        {"cause": cause, "row": one.row, "input_image": one.address, "why": one.reason}
        for cause, listed in found.missing.items()
        for one in listed
    ]
    if problems:
        metadata["what_is_missing"] = table_value(problems[:PROBLEMS_SHOWN])
    return AssetCheckResult(
        check_name=EVERY_INPUT,
        passed=not problems,
        severity=AssetCheckSeverity.WARN,
        metadata=metadata,
        description=f"{found.missing_count:,} of {found.wanted:,} input pictures can't be had" if problems else None,
    )
