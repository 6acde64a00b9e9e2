"""The partitions: one for each batch of the plan."""

from collections.abc import Sequence

from dagster import DagsterInstance, DynamicPartitionsDefinition

BATCH = "batch"
"""The partitions' name in the Dagster instance."""

batches = DynamicPartitionsDefinition(name=BATCH)


def register(instance: DagsterInstance, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Make the instance's batches those of the plan; return which are new and which are gone.

    Batches that stay keep their order and what was recorded of them. What was recorded of a batch that is
    gone stays too, should it come back.
    """
    known = instance.get_dynamic_partitions(BATCH)
    new = sorted_out(keys, known)
    gone = sorted_out(known, keys)
    if new:
        instance.add_dynamic_partitions(BATCH, new)
    for key in gone:
        instance.delete_dynamic_partition(BATCH, key)
    return new, gone


def sorted_out(keys: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return those of `keys` that are not among `others`, in their order."""
    known = set(others)
    return [key for key in keys if key not in known]
