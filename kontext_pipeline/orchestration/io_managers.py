"""IO managers: Dagster reads and writes the dataset's own files, which it shares with the command line."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagster import (
    ConfigurableIOManager,
    InputContext,
    MetadataValue,
    OutputContext,
    ResourceDependency,
    UPathIOManager,
)

from kontext_pipeline.orchestration.resources import KontextResource
from kontext_pipeline.orchestration.step_failures import as_failures

if TYPE_CHECKING:
    import pyarrow as pa
    from upath import UPath

    from kontext_pipeline.pipeline import BatchTable


class MetadataTables(UPathIOManager):
    """Metadata tables as a hive-partitioned Parquet dataset in a data directory, one file for each batch.

    An output is a mapping of batch keys to `BatchTable`, one for each partition of the run. An input is a
    `pyarrow.Table` for one partition, and a dict of tables by key for several.
    """

    def get_path_for_partition(self, context: InputContext | OutputContext, path: "UPath", partition: str) -> "UPath":
        """Return the file of the batch `partition`."""
        from kontext_pipeline.dataset.storage import batch_path

        return batch_path(self._base_path, partition)

    def handle_output(self, context: OutputContext, obj: "Mapping[str, BatchTable]") -> None:
        """Write each partition's table, except those that would not change."""
        with as_failures():
            paths = self._get_paths_for_partitions(context)
            if missing := paths.keys() - obj.keys():
                raise ValueError(f"no table was given for {', '.join(sorted(missing))}")
            for key, path in paths.items():
                self.dump_to_path(context, obj[key], path)
        folder = self._base_path / "metadata"
        where = next(iter(paths.values())) if len(paths) == 1 else folder
        context.add_output_metadata({"path": MetadataValue.path(str(where))})

    def dump_to_path(self, context: OutputContext, obj: "BatchTable", path: "UPath") -> None:
        """Write one batch's table."""
        from kontext_pipeline.dataset.storage import is_current, write_batch

        if not is_current(self._base_path, obj.key, obj.plan_digest):
            write_batch(obj.table, self._base_path, obj.key, plan_digest=obj.plan_digest)

    def load_from_path(self, context: InputContext, path: "UPath") -> "pa.Table":
        """Read one batch's table.

        Raises:
            FileNotFoundError: the table was not written yet.
        """
        from kontext_pipeline.dataset.storage import read_batch

        key = path.parent.name.removeprefix("batch=")
        if not path.exists():
            raise FileNotFoundError(
                f"Batch {key} has no metadata yet: {path} does not exist. Materialize metadata first."
            )
        with as_failures():
            return read_batch(self._base_path, key)


class MetadataIOManager(ConfigurableIOManager):
    """Reads and writes metadata tables as Parquet in the data directory, like the command line."""

    # The settings are read with each table, so that a wrong setting fails the step with its message.
    kontext: ResourceDependency[KontextResource]

    def handle_output(self, context: OutputContext, obj: "Mapping[str, BatchTable]") -> None:
        """Write each partition's table."""
        self._tables().handle_output(context, obj)

    def load_input(self, context: InputContext) -> Any:
        """Read one partition's table, or a dict of several by key."""
        return self._tables().load_input(context)

    def _tables(self) -> MetadataTables:
        with as_failures():
            from kontext_pipeline.pipeline import data_dir_of

            return MetadataTables(base_path=data_dir_of(self.kontext.settings()))
