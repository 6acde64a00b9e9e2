"""The assets: the plan, and for each batch its images and its metadata table. `input_asset` has the one of the inputs.

One step generates all batches of a run, and records each one when it is through. Pictures that exist are never requested
again, so materializing a batch again costs nothing.
"""

from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSelection,
    AssetSpec,
    AutomationCondition,
    BackfillPolicy,
    DataVersion,
    MaterializeResult,
    Output,
    asset,
    multi_asset,
)

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.orchestration.batch_versions import changed_batches, plan_version
from kontext_pipeline.orchestration.check_evaluations import check_specs
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.event_metadata import plan_metadata
from kontext_pipeline.orchestration.image_step import BatchStep, GenerationConfig
from kontext_pipeline.orchestration.partitions import batches_of_others, register
from kontext_pipeline.orchestration.resources import KontextResource, kontext_of
from kontext_pipeline.orchestration.step_failures import RETRIES


def new_batches_once(names: DatasetNames) -> AutomationCondition[Any]:
    """Return the condition of automation: batches that were never materialized, once each.

    A new plan alone doesn't meet the condition, and nobody has to materialize `inputs`.
    """
    not_needed = AssetSelection.assets(names.asset_key("requests"), names.asset_key("inputs"))
    return AutomationCondition.on_missing().ignore(not_needed)


def backfill_policy(batches_a_run: int | None) -> BackfillPolicy:
    """Return how a backfill becomes runs: one run for all its batches (None), or one for so many each.

    Raises:
        SettingsError: `batches_a_run` is not positive.
    """
    if batches_a_run is not None and batches_a_run < 1:
        raise SettingsError(f"batches_a_run is {batches_a_run}: one run takes at least 1 batch.")
    return BackfillPolicy.single_run() if batches_a_run is None else BackfillPolicy.multi_run(batches_a_run)


def make_plan(names: DatasetNames, *, own_manifests: bool = False) -> AssetsDefinition:
    """Return the asset `plan` of a dataset.

    `own_manifests`: its batches are those of its manifests, not all in its data directory.
    """

    @asset(
        key_prefix=names.prefix,
        group_name=names.group,
        kinds={"csv", "parquet"},
        tags={"kontext/costs": "nothing"},
        required_resource_keys={names.kontext},
        description="What the manifests ask for: every picture with its seed, fingerprint and batch, which pictures "
        "exist, and what the others will cost. Materializing it registers a partition for each batch and sends nothing.",
    )
    def plan(context: AssetExecutionContext) -> MaterializeResult[Any]:
        return _update_plan(context, kontext_of(context, names), names, own_manifests=own_manifests)

    return plan


def _update_plan(
    context: AssetExecutionContext, kontext: KontextResource, names: DatasetNames, *, own_manifests: bool
) -> MaterializeResult[Any]:
    """Update the plan from the manifests and register its batches."""
    with kontext.pipeline(context) as pipeline:
        made = pipeline.plan()
        estimate = pipeline.estimate(made)
        batches = made if own_manifests else pipeline.planned()
        new, gone = register(context.instance, names, batches.batch_keys, pipeline.dataset_id)
        context.log.info(
            f"{estimate.pictures:,} pictures in {len(made.batches):,} batches ({len(new):,} new, {len(gone):,} gone); "
            f"{estimate.to_generate:,} to generate for about {estimate.cost_usd:,.2f} USD"
        )
        warnings = pipeline.warnings(made)
        if foreign := batches_of_others(context.instance, names, pipeline.dataset_id):
            warnings.append(
                f"{len(foreign):,} partitions of {names.batch} are those of another dataset, such as {foreign[0]}, and "
                "can't be generated here: give one of the two datasets a name with KONTEXT_DATASET"
            )
        for warning in warnings:
            context.log.warning(warning)
        changed = changed_batches(context.instance, names.asset_key("requests"), pipeline, made)
        for event in changed:
            context.log_event(event)
        counts = {"new_batches": len(new), "gone_batches": len(gone), "changed_batches": len(changed)}
        return MaterializeResult(
            metadata={**plan_metadata(made, estimate, warnings), **counts},
            data_version=DataVersion(plan_version(made)),
        )


def make_requests(names: DatasetNames) -> AssetSpec:
    """Return the asset `requests` of a dataset, which nothing materializes."""
    return AssetSpec(
        names.asset_key("requests"),
        partitions_def=names.batches,
        deps=[names.asset_key("plan")],
        group_name=names.group,
        kinds={"parquet"},
        tags={"kontext/costs": "nothing"},
        description="What each batch asks for, as it was observed when the batch was generated and when a plan changed it. "
        "Images and metadata of a batch are out of date where they were made from an earlier observation.",
    )


def make_images_and_metadata(names: DatasetNames, batches_a_run: int | None = None) -> AssetsDefinition:
    """Return the assets `images` and `metadata` of a dataset, which one step makes, and the checks of `metadata`."""
    requests, images, metadata = (names.asset_key(asset) for asset in ("requests", "images", "metadata"))

    @multi_asset(
        name="__".join([*names.prefix, "images"]),
        specs=[
            AssetSpec(
                images,
                deps=[requests, names.asset_key("inputs")],
                group_name=names.group,
                kinds={"segmind", "png"},
                tags={"kontext/costs": "money"},
                skippable=True,
                automation_condition=new_batches_once(names),
                description="The pictures of a batch, generated by the image API. Pictures that exist are not requested "
                "again. Rows that the API refuses don't fail the batch: its metadata and the checks name them.",
            ),
            AssetSpec(
                metadata,
                deps=[requests, images],
                group_name=names.group,
                kinds={"parquet"},
                tags={"kontext/costs": "nothing"},
                skippable=True,
                automation_condition=new_batches_once(names),
                description="The metadata table of a batch: one row for each requested picture, with its prompt, status, "
                "cost and file, and the manifest's own columns. Made from the plan and the ledger, so it can be made "
                "again at any time.",
            ).with_io_manager_key(names.metadata_io_manager),
        ],
        check_specs=check_specs(metadata),
        partitions_def=names.batches,
        backfill_policy=backfill_policy(batches_a_run),
        can_subset=True,
        pool=names.pool,
        retry_policy=RETRIES,
        required_resource_keys={names.kontext},
    )
    def images_and_metadata(
        context: AssetExecutionContext, config: GenerationConfig
    ) -> Iterator[MaterializeResult[Any] | Output[None]]:
        with kontext_of(context, names).pipeline(context) as pipeline:
            yield from BatchStep(context, config, pipeline, names).run()

    return images_and_metadata
