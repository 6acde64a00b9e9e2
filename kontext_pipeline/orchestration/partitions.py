"""The partitions: one for each batch of the plan."""

from collections.abc import Sequence

from dagster import DagsterInstance, DynamicPartitionsDefinition

BATCH = "batch"
"""Name of the partitions in the Dagster instance."""

batches = DynamicPartitionsDefinition(name=BATCH)


def register(instance: DagsterInstance, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Make the instance's batches those of the plan. Return the new ones and the ones that are gone.

    Batches that stay keep their order and their records. The records of a batch that is gone stay too, in case
    it comes back.
    """
    known = dict.fromkeys(instance.get_dynamic_partitions(BATCH))
    new, gone = [key for key in keys if key not in known], list(known.keys() - keys)
    if new:
        instance.add_dynamic_partitions(BATCH, new)
    for key in gone:
        instance.delete_dynamic_partition(BATCH, key)
    return new, gone
