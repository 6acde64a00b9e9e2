"""The factory: all definitions of one dataset, for this package's own code location and for any other project."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

from dagster import BetaWarning, Definitions, ExecutorDefinition

from kontext_pipeline.definition_settings import batches_a_run as batches_a_run_of_environment
from kontext_pipeline.definition_settings import description_settings
from kontext_pipeline.orchestration.alert_sensor import make_backfills_ended
from kontext_pipeline.orchestration.asset_descriptions import described
from kontext_pipeline.orchestration.assets import make_images_and_metadata, make_plan, make_requests
from kontext_pipeline.orchestration.automation import (
    make_augment_job,
    make_manifests_changed,
    make_new_batches,
    make_plan_job,
    make_unfinished_batches,
)
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.dead_runs import make_dead_runs
from kontext_pipeline.orchestration.export_asset import make_dataset
from kontext_pipeline.orchestration.given_settings import checked_of, make_resources
from kontext_pipeline.orchestration.input_asset import make_inputs
from kontext_pipeline.orchestration.plan_check import make_check_plan
from kontext_pipeline.orchestration.quality_asset import make_quality
from kontext_pipeline.orchestration.review_asset import make_review
from kontext_pipeline.orchestration.spend_asset import make_spend


def kontext_definitions(
    name: str | None = None,
    *,
    manifests: Sequence[str | os.PathLike[str]] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    ledger_url: str | None = None,
    executor: ExecutorDefinition | None = None,
    batches_a_run: int | None = None,
    **settings: Any,
) -> Definitions:
    """Return the definitions of a dataset. They need no key, manifest or data directory: a run that lacks one says so.

    Args:
        name: The dataset's name, which begins the keys of its assets and ends the names of everything else; None: the
            dataset without a name.
        manifests: Its manifests. It has the batches of these; without them, it has all batches of its data directory.
        data_dir: Its data directory, a path or an fsspec URL. Datasets may share one, and have its ledger in common.
        ledger_url: SQLAlchemy URL of its ledger.
        executor: Runs the steps; None: the executor of the project.
        batches_a_run: The most batches that one run of a backfill generates; None: KONTEXT_BATCHES_A_RUN, or else all.
        settings: Other settings by name, such as `budget_usd=20`. Settings that are not given come from environment
            variables, as `Settings` describes.

    Raises:
        SettingsError: the name or a value is not allowed, or there is no such setting.
    """
    names = DatasetNames(name)
    given = {"manifests": manifests, "data_dir": data_dir, "ledger_url": ledger_url, **settings}
    batches_a_run = batches_a_run_of_environment() if batches_a_run is None else batches_a_run
    resources = make_resources(names, given)
    shown = {**description_settings().model_dump(), **checked_of(given, "data_dir", "owners", "fresh_hours")}
    with warnings.catch_warnings():
        # Dagster warns at every load that backfill policies are beta. Its version is pinned, and the tests use them.
        warnings.simplefilter("ignore", BetaWarning)
        return Definitions(
            assets=described(
                [
                    make_plan(names, own_manifests=manifests is not None),
                    make_inputs(names),
                    make_requests(names),
                    make_images_and_metadata(names, batches_a_run),
                    make_quality(names),
                    make_review(names),
                    make_dataset(names),
                    make_spend(names),
                ],
                data_dir=shown["data_dir"],
                owners=shown["owners"],
                fresh_hours=shown["fresh_hours"],
            ),
            asset_checks=[make_check_plan(names)],
            jobs=[make_plan_job(names), make_augment_job(names)],
            schedules=[make_unfinished_batches(names, batches_a_run)],
            sensors=[
                make_manifests_changed(names),
                make_new_batches(names),
                make_dead_runs(names),
                make_backfills_ended(names),
            ],
            resources=resources,
            executor=executor,
        )
