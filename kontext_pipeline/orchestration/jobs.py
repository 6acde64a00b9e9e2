"""The jobs: planning, and augmenting batches. What runs on a schedule or from a sensor is one of these."""

from dagster import AssetSelection, define_asset_job

from kontext_pipeline.orchestration.assets import images, metadata, plan

plan_job = define_asset_job(
    "plan_manifests",
    selection=AssetSelection.assets(plan),
    description="Bring the plan up to date with the manifests. Sends nothing.",
)
augment_job = define_asset_job(
    "augment",
    selection=AssetSelection.assets(images, metadata),
    description="Generate what is missing of one batch or a range of batches, write the metadata tables and "
    "check the books.",
)
