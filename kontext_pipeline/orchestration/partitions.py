"""The partitions: one for each batch of the plan. Here too: the name by which Dagster knows the dataset."""

from collections.abc import Sequence
from typing import Final

from dagster import AssetKey, DagsterInstance, DynamicPartitionsDefinition

from kontext_pipeline.settings import dataset_name

DATASET: Final = dataset_name()
"""`KONTEXT_DATASET`, by which several datasets on one instance differ; None for the only one."""
KEY_PREFIX: Final = [DATASET] if DATASET else []
"""What the keys of all assets begin with."""
BATCH: Final = "_".join(["batch", *KEY_PREFIX])
"""Name of the partitions in the Dagster instance."""
MANIFESTS: Final = "kontext_manifests"
"""Name under which the instance keeps whose manifests they are: a list of `DATASET_ID/MANIFEST`."""

batches = DynamicPartitionsDefinition(name=BATCH)


def asset_key(name: str) -> AssetKey:
    """Return the key of the dataset's asset `name`."""
    return AssetKey([*KEY_PREFIX, name])


def register(instance: DagsterInstance, keys: Sequence[str], dataset_id: str) -> tuple[list[str], list[str]]:
    """Make the instance's batches of this dataset those of its plan. Return the new ones and the ones that are gone.

    Batches that stay keep their order and their records. The records of a batch that is gone stay too, in case
    it comes back. Batches of other datasets stay, and so do batches of a manifest whose name another dataset has too.
    """
    known = dict.fromkeys(instance.get_dynamic_partitions(BATCH))
    manifests = dict.fromkeys(map(_manifest_of, keys))
    instance.add_dynamic_partitions(MANIFESTS, [f"{dataset_id}/{manifest}" for manifest in manifests])
    own, others = set[str](), set[str]()
    for entry in instance.get_dynamic_partitions(MANIFESTS):
        owner, _, manifest = entry.partition("/")
        (own if owner == dataset_id else others).add(manifest)
    new = [key for key in keys if key not in known]
    gone = [key for key in known.keys() - keys if _manifest_of(key) in own - others]
    if new:
        instance.add_dynamic_partitions(BATCH, new)
    for key in gone:
        instance.delete_dynamic_partition(BATCH, key)
    return new, gone


def _manifest_of(key: str) -> str:
    return key.rpartition("-")[0]
