"""The IO manager: Dagster reads and writes the dataset's own files, which it shares with the command line."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableIOManager, InputContext, MetadataValue, OutputContext, ResourceDependency

from kontext_pipeline.orchestration.resources import KontextResource
from kontext_pipeline.orchestration.step_failures import as_failures

if TYPE_CHECKING:
    from kontext_pipeline.batch_tables import BatchTable


class MetadataIOManager(ConfigurableIOManager):
    """Metadata tables as a hive-partitioned Parquet dataset in the data directory, one file for each batch.

    An output is a mapping of batch keys to `BatchTable`, one for each partition of the run. An input is a
    `pyarrow.Table` for one partition, and a dict of tables by key for several.
    """

    # The settings are read with each table, so that a wrong setting fails the step with its message.
    kontext: ResourceDependency[KontextResource]

    def handle_output(self, context: OutputContext, obj: "Mapping[str, BatchTable]") -> None:
        """Write each partition's table, except those that would not change."""
        with as_failures():
            from kontext_pipeline.data_directory import data_dir_of
            from kontext_pipeline.dataset.storage import batch_path

            data_dir, keys = data_dir_of(self.kontext.settings()), context.asset_partition_keys
            for key in keys:
                obj[key].write(data_dir)
        path = batch_path(data_dir, keys[0]) if len(keys) == 1 else data_dir / "metadata"
        context.add_output_metadata({"path": MetadataValue.path(str(path))})

    def load_input(self, context: InputContext) -> Any:
        """Read one partition's table, or a dict of several by key."""
        with as_failures():
            from kontext_pipeline.data_directory import data_dir_of
            from kontext_pipeline.dataset.storage import read_batch

            data_dir = data_dir_of(self.kontext.settings())
            tables = {key: read_batch(data_dir, key) for key in context.asset_partition_keys}
        return tables.popitem()[1] if len(tables) == 1 else tables
