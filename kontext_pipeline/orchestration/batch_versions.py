"""Data versions by batch, by which Dagster tells which batches are out of date.

The plan is one asset, and its version changes with any row. Between the plan and the images of a batch is the asset
`requests`, partitioned by batch, which nothing materializes: its observations say what each batch asks for. Planning
observes the batches that have changed, and a run observes the batches that it generates. Dagster compares the latest
observation of a batch with the one that the batch's images were made from.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from dagster import AssetKey, AssetObservation, DagsterEventType, DagsterInstance

if TYPE_CHECKING:
    import pyarrow as pa

    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.planning.estimate import Settled
    from kontext_pipeline.planning.plan import Plan

DATA_VERSION: Final = "dagster/data_version"
"""Tag of an event with the data version of what it records."""
WITHOUT_VERSION: Final = "INITIAL"
"""The data version of an asset that has none. Dagster takes it and "never materialized" as equal."""
WITHOUT: Final = "-without-"
"""In the version of a batch's requests, between what is planned and the pictures that are missing."""
VERSION_LENGTH: Final = 16
"""Hex digits of a version."""


def requests_version(pipeline: "Pipeline", plan: "Plan", key: str, settled: "Settled | None" = None) -> str:
    """Return the version of a batch's requests: another one if its rows, seeds or backend are others.

    The pictures that a run would request are a part of it, so a picture that is gone changes it too. `settled` tells
    which requests need no run; None: the ledger is asked.
    """
    prints = plan.batch_table(key)["fingerprint"].to_pylist()
    settled = settled or pipeline.settled(len(prints), look_at_files=False)
    succeeded, given_up = settled(prints)
    gone = pipeline.requests.gone
    missing = {one for one in prints if one in gone or (one not in succeeded and one not in given_up)}
    version = _planned_version(pipeline, plan, key)
    return f"{version}{WITHOUT}{_digest(sorted(missing))}" if missing else version


def _planned_version(pipeline: "Pipeline", plan: "Plan", key: str) -> str:
    return pipeline.batch_digest(plan, key)[:VERSION_LENGTH]


def images_version(table: "pa.Table") -> str:
    """Return the version of a batch's images, from its metadata table."""
    rows = zip(*(table[name].to_pylist() for name in ("fingerprint", "status", "image_sha256")), strict=True)
    return _digest(sorted({"|".join(value or "" for value in row) for row in rows}))


def table_version(table: "pa.Table") -> str:
    """Return the version of a metadata table."""
    import pyarrow as pa

    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(stream.getvalue()).hexdigest()[:VERSION_LENGTH]


def plan_version(plan: "Plan") -> str:
    """Return the version of a plan: the same as long as manifests and batches are."""
    requested = (prints.to_pylist() for prints in plan.fingerprints())
    return _digest(plan.batch_keys, [plan.backend], plan.digests.values(), *requested)


def _digest(*lists: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for texts in lists:
        digest.update("\n".join(texts).encode() + b"\n\n")
    return digest.hexdigest()[:VERSION_LENGTH]


def observed_versions(instance: DagsterInstance, requests: AssetKey) -> Mapping[str, str]:
    """Return the version of each batch that was observed last, by batch. `requests` is the key of that asset."""
    return _versions(instance, requests, DagsterEventType.ASSET_OBSERVATION)


def recorded_versions(instance: DagsterInstance, asset: AssetKey) -> Mapping[str, str]:
    """Return the version of each batch of an asset that was materialized last, by batch."""
    return _versions(instance, asset, DagsterEventType.ASSET_MATERIALIZATION)


def _versions(instance: DagsterInstance, asset: AssetKey, kind: DagsterEventType) -> Mapping[str, str]:
    tags = instance.event_log_storage.get_latest_tags_by_partition(asset, kind, [DATA_VERSION])
    return {key: found[DATA_VERSION] for key, found in tags.items() if DATA_VERSION in found}


def changed_batches(
    instance: DagsterInstance, requests: AssetKey, pipeline: "Pipeline", plan: "Plan"
) -> list[AssetObservation]:
    """Return an observation of each batch whose requests are others than when it was observed last.

    Batches that were never observed have no images that could be out of date. Call `pipeline.estimate` before, which
    finds pictures that are gone.
    """
    observed = observed_versions(instance, requests)
    keys = [key for key in plan.batch_keys if key in observed]
    settled = pipeline.settled(plan.requested, look_at_files=False)
    now = {key: requests_version(pipeline, plan, key, settled) for key in keys}
    return [observation(requests, key, version) for key, version in now.items() if version != observed[key]]


def replanned_batches(
    instance: DagsterInstance, requests: AssetKey, pipeline: "Pipeline", plan: "Plan"
) -> list[AssetObservation]:
    """Return the same, of batches alone whose rows, seeds or backend are others than when they were observed last."""
    observed = observed_versions(instance, requests)
    now = {key: _planned_version(pipeline, plan, key) for key in plan.batch_keys if key in observed}
    return [
        observation(requests, key, requests_version(pipeline, plan, key))
        for key, version in now.items()
        if version != observed[key].partition(WITHOUT)[0]
    ]


def observation(requests: AssetKey, key: str, version: str) -> AssetObservation:
    """Return the event that says what a batch asks for."""
    return AssetObservation(requests, partition=key, tags={DATA_VERSION: version})


def latest_event(instance: DagsterInstance, asset: AssetKey, kind: DagsterEventType, key: str) -> int | None:
    """Return the storage id of the latest event of this kind of a batch of an asset."""
    return instance.event_log_storage.get_latest_storage_id_by_partition(asset, kind, {key}).get(key)


def made_from(version: str, run_id: str, inputs: Mapping[AssetKey, tuple[str, int | None]]) -> dict[str, str]:
    """Return the tags of a materialization: its version, and version and latest event of what it was made from.

    Dagster adds these tags to the materializations that it makes itself from a step's outputs.
    """
    tags = {
        DATA_VERSION: version,
        "dagster/data_version_is_user_provided": "true",
        "dagster/code_version": run_id,
    }
    for asset, (input_version, event) in inputs.items():
        name = asset.to_user_string()
        tags[f"dagster/input_data_version/{name}"] = input_version
        tags[f"dagster/input_event_pointer/{name}"] = "NULL" if event is None else str(event)
    return tags
