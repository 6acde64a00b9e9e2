"""The sensor that tells `KONTEXT_ALERT_URL` of finished backfills, and sends alerts that could not be sent.

It costs nothing and asks for no run, so it is on wherever there is an address to tell.
"""

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from dagster import (
    DagsterInstance,
    DefaultSensorStatus,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)

from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.resources import KontextResource, kontext_of

if TYPE_CHECKING:
    from dagster._core.execution.backfill import PartitionBackfill

    from kontext_pipeline.alerts.alert import Alert
    from kontext_pipeline.generation.ledger.database import Database
    from kontext_pipeline.settings import Settings

BACKFILL: Final = "dagster/backfill"
"""Tag of a run that belongs to a backfill."""
ENDED: Final = frozenset({"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"})
"""States of backfills that have ended."""
LATEST: Final = 25
"""Backfills that a tick looks at besides those that the tick before saw going on."""
TICK_S: Final = 20.0
"""Time after which a tick begins no other try, seconds."""


def make_backfills_ended(names: DatasetNames) -> SensorDefinition:
    """Return the sensor that tells of a dataset's finished backfills."""

    @sensor(
        name=names.suffixed("backfills_ended"),
        minimum_interval_seconds=60,
        default_status=DefaultSensorStatus.RUNNING,
        required_resource_keys={names.kontext},
        description="Tell KONTEXT_ALERT_URL of each backfill of images that has ended, once. Does nothing where the address "
        "is not set. Costs nothing and launches nothing.",
    )
    def backfills_ended(context: SensorEvaluationContext) -> SensorResult | SkipReason:
        return tell_ended(context, kontext_of(context, names), names)

    return backfills_ended


def tell_ended(
    context: SensorEvaluationContext, kontext: KontextResource, names: DatasetNames
) -> SensorResult | SkipReason:
    """Tell of the backfills that have ended since the first tick, and of what could not be told before.

    The cursor holds the time of the first tick, and the ids of backfills that were going on.
    """
    from kontext_pipeline.alerts.delivery import AlertDelivery
    from kontext_pipeline.errors import KontextError
    from kontext_pipeline.generation.ledger.database import Database

    try:
        settings = kontext.settings()
        if settings.alert_url is None:
            return SkipReason("KONTEXT_ALERT_URL is not set.")
        database = Database(settings.resolved_ledger_url, make=False)
    except KontextError as error:
        return SkipReason(str(error))
    seen: dict[str, Any] = json.loads(context.cursor) if context.cursor else {"since": time.time(), "going_on": []}
    found = list(_backfills(context.instance, names, seen["going_on"]))
    ended = [one for one in found if one.status.name in ENDED and _end_of(one) >= seen["since"]]
    cursor = {**seen, "going_on": [one.backfill_id for one in found if one.status.name not in ENDED]}
    try:
        delivery = AlertDelivery.of(settings, database)
        assert delivery is not None
        try:
            delivery.end_by(time.monotonic() + TICK_S)
            delivery.tell([_alert(context.instance, settings, database, one) for one in ended])
            delivery.tell_waiting()
        finally:
            delivery.close()
    except KontextError as error:
        return SkipReason(str(error))
    finally:
        database.close()
    return SensorResult(
        skip_reason=f"Backfills that have ended since this sensor was first on: {len(ended)}; each is told once.",
        cursor=json.dumps(cursor),
    )


def _backfills(instance: DagsterInstance, names: DatasetNames, going_on: list[str]) -> "Iterator[PartitionBackfill]":
    """Yield the latest backfills that generate images of the dataset, and those that were going on."""
    latest = {one.backfill_id: one for one in instance.get_backfills(limit=LATEST)}
    earlier = [instance.get_backfill(one) for one in going_on if one not in latest]
    for backfill in [*latest.values(), *earlier]:
        if backfill is not None and (
            names.asset_key("images") in (backfill.asset_selection or ()) or backfill.job_name == names.augment_job
        ):
            yield backfill


def _end_of(backfill: "PartitionBackfill") -> float:
    return backfill.backfill_end_timestamp or backfill.backfill_timestamp


def _alert(
    instance: DagsterInstance, settings: "Settings", database: "Database", backfill: "PartitionBackfill"
) -> "Alert":
    from kontext_pipeline.alerts.alert import AboutRun, backfill_alert
    from kontext_pipeline.generation.ledger.report import read_runs

    runs = [run.run_id for run in instance.get_runs(RunsFilter(tags={BACKFILL: backfill.backfill_id}))]
    about = AboutRun.of(settings, backfill.backfill_id)
    return backfill_alert(about, backfill.status.name, len(runs), read_runs(database, settings.backend, runs))
