"""The partitions: one for each batch of the plan."""

from collections.abc import Sequence
from typing import Final

from dagster import DagsterInstance

from kontext_pipeline.orchestration.dataset_names import DatasetNames, names_from_environment

MANIFESTS: Final = "kontext_manifests"
"""Name under which the instance keeps whose manifests they are: a list of `DATASET_ID/MANIFEST`."""

batches: Final = names_from_environment().batches
"""Partitions of the dataset that `KONTEXT_DATASET` names, for assets of one's own."""


def register(
    instance: DagsterInstance, names: DatasetNames, keys: Sequence[str], dataset_id: str
) -> tuple[list[str], list[str]]:
    """Make the instance's batches of this dataset those of its plan. Return the new ones and the ones that are gone.

    Batches that stay keep their order and their records. The records of a batch that is gone stay too, in case
    it comes back. Batches of other datasets stay, and so do batches of a manifest whose name another dataset has too.
    """
    known = dict.fromkeys(instance.get_dynamic_partitions(names.batch))
    manifests = dict.fromkeys(map(_manifest_of, keys))
    instance.add_dynamic_partitions(MANIFESTS, [f"{dataset_id}/{manifest}" for manifest in manifests])
    own, others = _manifests(instance, dataset_id)
    new = [key for key in keys if key not in known]
    gone = [key for key in known.keys() - keys if _manifest_of(key) in own - others]
    if new:
        instance.add_dynamic_partitions(names.batch, new)
    for key in gone:
        instance.delete_dynamic_partition(names.batch, key)
    return new, gone


def batches_of_others(instance: DagsterInstance, names: DatasetNames, dataset_id: str) -> list[str]:
    """Return the batches under these names that only another dataset has: both have no name, or the same."""
    own, others = _manifests(instance, dataset_id)
    return [key for key in instance.get_dynamic_partitions(names.batch) if _manifest_of(key) in others - own]


def is_registered(instance: DagsterInstance, dataset_id: str) -> bool:
    """Return whether the instance has, or had, batches of this dataset."""
    own, _ = _manifests(instance, dataset_id)
    return bool(own)


def _manifests(instance: DagsterInstance, dataset_id: str) -> tuple[set[str], set[str]]:
    """Return the names of this dataset's manifests and of all other datasets' manifests."""
    own, others = set[str](), set[str]()
    for entry in instance.get_dynamic_partitions(MANIFESTS):
        owner, _, manifest = entry.partition("/")
        (own if owner == dataset_id else others).add(manifest)
    return own, others


def _manifest_of(key: str) -> str:
    return key.rpartition("-")[0]
