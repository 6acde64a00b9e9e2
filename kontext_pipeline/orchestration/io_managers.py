"""The IO manager: other assets read the dataset's own files, which Dagster shares with the command line."""

from typing import Any

from dagster import ConfigurableIOManager, Failure, InputContext, OutputContext, ResourceDependency

from kontext_pipeline.orchestration.resources import KontextResource
from kontext_pipeline.orchestration.step_failures import as_failures


class MetadataIOManager(ConfigurableIOManager):
    """Metadata tables as a hive-partitioned Parquet dataset in the data directory, one file for each batch.

    It reads them for other assets: an input is a `pyarrow.Table` for one partition, and a dict of tables by key for
    several.
    """

    # The settings are read with each table, so that a wrong setting fails the step with its message.
    kontext: ResourceDependency[KontextResource]

    def handle_output(self, context: OutputContext, obj: object) -> None:
        """Refuse to write: the step that generates the images writes the tables as its batches finish.

        Raises:
            Failure: always.
        """
        asset = context.asset_key.to_user_string()
        raise Failure(
            f"{asset} has the IO manager of the metadata tables, which only reads. Give the asset another one.",
            allow_retries=False,
        )

    def load_input(self, context: InputContext) -> Any:
        """Read one partition's table, or a dict of several by key.

        With `allow_missing_partitions` in the input's metadata, a dict lacks the batches that have no table yet.
        """
        with as_failures():
            from kontext_pipeline.data_directory import data_dir_of
            from kontext_pipeline.dataset.storage import read_batch, written_batches

            data_dir, keys = data_dir_of(self.kontext.settings()), list(context.asset_partition_keys)
            if (context.definition_metadata or {}).get("allow_missing_partitions"):
                written = set(written_batches(data_dir))
                return {key: read_batch(data_dir, key) for key in keys if key in written}
            tables = {key: read_batch(data_dir, key) for key in keys}
        return tables.popitem()[1] if len(tables) == 1 else tables
