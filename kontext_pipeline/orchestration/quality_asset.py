"""The asset of the quality of a batch's pictures, and its checks. Materializing it costs nothing."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    AutomationCondition,
    BackfillPolicy,
    Config,
    MaterializeResult,
    MetadataValue,
    Output,
    multi_asset,
)
from pydantic import Field

from kontext_pipeline.orchestration.check_evaluations import latest_materialization, passed_by_batch
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.event_metadata import SHEET_PICTURES, table_value, thumbnails_for
from kontext_pipeline.orchestration.resources import kontext_of

if TYPE_CHECKING:
    from upath import UPath

    from kontext_pipeline.dataset.quality.quality_checks import Finding, QualityLimits
    from kontext_pipeline.pipeline import Pipeline

CHECKS: Final = {
    "few_pictures_are_unchanged": "Few pictures look like their input picture; `unchanged_share` in the run config.",
    "few_pictures_are_black": "Few pictures are black or of one colour; `black_share` in the run config.",
    "aspect_ratios_are_as_asked": "Few pictures have another ratio than was asked for, or than their input; "
    "`odd_ratio_share` in the run config.",
    "few_near_duplicates": "Few pictures are near-duplicates of others; `near_duplicate_share` in the run config.",
    "pictures_are_reviewed": "The share of pictures with a decision; `review_coverage` in the run config, 0 by default.",
}
"""Names and descriptions of the checks. The functions behind them load when they are needed."""
COVERS: Final = (
    " A warning, not an error: nothing is left out because of an issue. A run checks its own batches, each and all batches "
    "together; executed alone, the check covers all batches."
)


class QualityConfig(Config):
    """What the checks allow: shares of the measured pictures, 0 to 1."""

    unchanged_share: float = Field(0.1, ge=0, le=1, description="The most pictures that are unchanged.")
    black_share: float = Field(0.02, ge=0, le=1, description="The most pictures that are black or of one colour.")
    odd_ratio_share: float = Field(0.05, ge=0, le=1, description="The most pictures with an odd aspect ratio.")
    near_duplicate_share: float = Field(0.1, ge=0, le=1, description="The most pictures that are near-duplicates.")
    review_coverage: float = Field(0.0, ge=0, le=1, description="The least pictures with a decision of a reviewer.")

    @property
    def limits(self) -> "QualityLimits":
        """The limits of the checks."""
        from kontext_pipeline.dataset.quality.quality_checks import QualityLimits

        return QualityLimits(**self.model_dump())


def make_quality(names: DatasetNames) -> AssetsDefinition:
    """Return the asset `quality` of a dataset, with its checks."""
    key = names.asset_key("quality")

    @multi_asset(
        name="__".join([*names.prefix, "quality"]),
        specs=[
            AssetSpec(
                key,
                deps=[names.asset_key("metadata")],
                group_name=names.group,
                kinds={"parquet"},
                tags={"kontext/costs": "nothing"},
                skippable=True,
                automation_condition=AutomationCondition.eager(),
                description="What is measured of the pictures of a batch, each once: unchanged, black, dark, blurry, of odd "
                "ratio, a near-duplicate, how much of it changed; and the issues that follow. Materializing it costs "
                "nothing, and measures only what was not measured yet.",
            )
        ],
        check_specs=[AssetCheckSpec(name, asset=key, description=text + COVERS) for name, text in CHECKS.items()],
        partitions_def=names.batches,
        backfill_policy=BackfillPolicy.single_run(),
        can_subset=True,
        required_resource_keys={names.kontext},
    )
    def quality(
        context: AssetExecutionContext, config: QualityConfig
    ) -> Iterator[MaterializeResult[Any] | Output[None]]:
        with kontext_of(context, names).pipeline(context) as pipeline:
            of_run = context.partition_keys if context.has_partition_key or context.has_partition_key_range else None
            if key in context.selected_asset_keys:
                _measure(context, pipeline, key, of_run or [])
                yield MaterializeResult(asset_key=key)
            _check(context, pipeline, key, config.limits, of_run)
        # The evaluations are events already: these outputs say that the checks are through.
        for check in context.selected_asset_check_keys:
            yield Output(None, output_name=f"{check.asset_key.to_python_identifier()}_{check.name}")

    return quality


def _measure(context: AssetExecutionContext, pipeline: "Pipeline", asset: AssetKey, keys: Sequence[str]) -> None:
    """Measure these batches, and add the figures of each to its materialization."""
    from kontext_pipeline.dataset.quality.dataset_measuring import measure_batches
    from kontext_pipeline.dataset.quality.thresholds import read_thresholds

    thresholds = read_thresholds(pipeline.settings.quality)
    done = measure_batches(pipeline.data_dir, keys, thresholds)
    context.log.info(f"{done.pictures:,} pictures of {len(keys):,} batches were measured.")
    thumbnails = thumbnails_for(len(keys))
    for key in keys:
        shown = quality_metadata(pipeline.data_dir, key, thumbnails)
        context.add_asset_metadata(shown, asset_key=asset, partition_key=key)


def quality_metadata(data_dir: "UPath", key: str, thumbnails: int) -> dict[str, Any]:
    """Return how many pictures of a batch are measured and have which issues, with thumbnails of those that have any.

    Returns:
        Nothing for a batch that was not measured.
    """
    from kontext_pipeline.dataset.quality.quality_checks import rows_with_issues
    from kontext_pipeline.dataset.quality.quality_tables import count_issues, is_measured, quality_path

    if not is_measured(data_dir, key):
        return {}
    measured, with_issues, issues = count_issues(data_dir, [key])
    shown: dict[str, Any] = {
        "measured": measured,
        "with_issues": with_issues,
        "issues": dict(issues.most_common()),
        "path": MetadataValue.path(str(quality_path(data_dir, key))),
    }
    rows = rows_with_issues(data_dir, key, most=(thumbnails + 1) // 2)
    return {**shown, **_sheet([(row.image, row.beside, f"{row.id}: {', '.join(row.issues)}") for row in rows])}


def _check(
    context: AssetExecutionContext,
    pipeline: "Pipeline",
    asset: AssetKey,
    limits: "QualityLimits",
    of_run: Sequence[str] | None,
) -> None:
    """Check the batches of the run, each, and all batches of the data directory together."""
    from kontext_pipeline.dataset.quality.quality_checks import check_quality
    from kontext_pipeline.dataset.quality.quality_tables import measured_batches
    from kontext_pipeline.dataset.review.decisions import read_decisions

    checks = [key.name for key in context.selected_asset_check_keys]
    if not checks:
        return
    data_dir = pipeline.data_dir
    decided = read_decisions(data_dir).keys()
    everything = measured_batches(data_dir)
    known = {check: passed_by_batch(context.instance, asset, check) for check in checks}
    for key in everything if of_run is None else of_run:
        for one in check_quality(data_dir, [key], limits, decided=decided, checks=checks):
            if not one.passed or not known[one.check].get(key, True):
                context.log_event(_evaluation(asset, one, partition=key))
    target = latest_materialization(context.instance, asset)
    for one in check_quality(data_dir, everything, limits, decided=decided, checks=checks):
        context.log_event(_evaluation(asset, one, target_materialization_data=target))


def _evaluation(asset: AssetKey, finding: "Finding", **of: Any) -> AssetCheckEvaluation:
    return AssetCheckEvaluation(
        asset_key=asset,
        check_name=finding.check,
        passed=finding.passed,
        metadata=_finding_metadata(finding),
        severity=AssetCheckSeverity.WARN,
        description=None if finding.passed else finding.sentence,
        blocking=False,
        **of,
    )


def _finding_metadata(finding: "Finding") -> dict[str, Any]:
    shown: dict[str, Any] = {
        "pictures": finding.pictures,
        "found": finding.found,
        "share": round(finding.share, 4),
        "limit": finding.limit,
    }
    if finding.rows:
        shown["rows"] = table_value(
            {
                "batch": row.batch,
                "id": row.id,
                "variant": row.variant,
                "prompt": row.prompt[:200],
                "fingerprint": row.fingerprint,
            }
            for row in finding.rows
        )
        shown.update(_sheet([(row.image, row.beside, row.id) for row in finding.rows]))
    return shown


def _sheet(pictures: Sequence[tuple["UPath", "UPath | None", str]]) -> dict[str, Any]:
    """Return a contact sheet of pictures, each with another one beside it, as metadata; none where there is no picture."""
    from kontext_pipeline.dataset.contact_sheet import contact_sheet

    beside = [other for _, other, _ in pictures]
    sheet = contact_sheet(
        [(image, caption) for image, _, caption in pictures[:SHEET_PICTURES]],
        inputs=beside[:SHEET_PICTURES] if any(beside) else (),
    )
    return {"contact_sheet": MetadataValue.md(sheet)} if sheet else {}
