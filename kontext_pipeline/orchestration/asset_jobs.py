"""The jobs that schedules and sensors start, and that a person may launch: planning, and generating batches."""

from dagster import AssetSelection, define_asset_job

from kontext_pipeline.orchestration.assets import images, metadata, plan

plan_job = define_asset_job(
    "plan_manifests",
    selection=AssetSelection.assets(plan),
    description="Update the plan from the manifests. Sends nothing.",
)
augment_job = define_asset_job(
    "augment",
    selection=AssetSelection.assets(images, metadata),
    description="Generate the missing pictures of one batch or a range of batches, write the metadata tables and "
    "check them against the ledger.",
)
