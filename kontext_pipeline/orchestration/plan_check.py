"""The check of the plan: the manifests are those that were planned."""

from typing import TYPE_CHECKING, Final

from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    asset_check,
)

from kontext_pipeline.escaping import displayable
from kontext_pipeline.orchestration.check_evaluations import latest_materialization
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.resources import kontext_of

if TYPE_CHECKING:
    from dagster import AssetExecutionContext

    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.planning.plan import Plan

PLAN_IS_CURRENT: Final = "plan_is_current"
"""Name of the check."""


def make_check_plan(names: DatasetNames) -> AssetChecksDefinition:
    """Return the check of a dataset's asset `plan`."""

    @asset_check(
        name=PLAN_IS_CURRENT,
        asset=names.asset_key("plan"),
        required_resource_keys={names.kontext},
        description="The manifests are those that were planned. Runs that generate images evaluate it too. A warning, not "
        "an error: what is planned can be generated.",
    )
    def check_plan(context: AssetCheckExecutionContext) -> AssetCheckResult:
        with kontext_of(context, names).pipeline(context) as pipeline:
            found = outdated_manifests(pipeline, pipeline.planned())
        return AssetCheckResult(
            passed=not found, severity=AssetCheckSeverity.WARN, description=_sentence(found), metadata=_figures(found)
        )

    return check_plan


def record_plan_check(
    context: "AssetExecutionContext", names: DatasetNames, pipeline: "Pipeline", plan: "Plan"
) -> None:
    """Check the plan from a step that generates it, record what is found, and warn in the log."""
    found = outdated_manifests(pipeline, plan)
    if found:
        context.log.warning(_sentence(found) or "")
    asset = names.asset_key("plan")
    context.log_event(
        AssetCheckEvaluation(
            asset_key=asset,
            check_name=PLAN_IS_CURRENT,
            passed=not found,
            severity=AssetCheckSeverity.WARN,
            description=_sentence(found),
            metadata=_figures(found),
            target_materialization_data=latest_materialization(context.instance, asset),
            blocking=False,
        )
    )


def outdated_manifests(pipeline: "Pipeline", plan: "Plan") -> list[str]:
    """Return which of the settings' manifests are not as they were planned, a sentence each. Reads each one once."""
    from kontext_pipeline.planning.manifest_options import ManifestOptions
    from kontext_pipeline.planning.manifests import read_manifests

    settings = pipeline.settings
    try:
        manifests = read_manifests(settings.manifests, ManifestOptions.from_settings(settings))
    except Exception as error:  # noqa: BLE001  file systems have errors of their own, and what is planned can be generated
        return [displayable(f"the manifests can't be read: {error}")]
    planned = plan.digests
    return [
        f"{manifest.shown} {'has changed since it was planned' if manifest.name in planned else 'is not planned'}"
        for manifest in manifests
        if planned.get(manifest.name) != manifest.digest
    ]


def _sentence(found: list[str]) -> str | None:
    if not found:
        return None
    more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
    return f"{found[0]}{more}. Materialize plan."


def _figures(found: list[str]) -> dict[str, int]:
    return {"outdated_manifests": len(found)}
