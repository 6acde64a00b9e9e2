"""The names by which Dagster knows a dataset. Those of two datasets in one project or on one instance never collide.

The dataset without a name has the names that a project with one dataset needs: `plan`, `images`, `augment`, `batch`.
"""

import re
from dataclasses import dataclass
from typing import Final

from dagster import AssetKey, DynamicPartitionsDefinition

from kontext_pipeline.definition_settings import DATASET_NAME, dataset_name
from kontext_pipeline.errors import SettingsError


@dataclass(frozen=True)
class DatasetNames:
    """The names of one dataset: assets, group, partitions, resources, jobs, sensors, schedules and pool.

    `name` None: the only dataset of its instance, or the one that needs no name of its own.

    Raises:
        SettingsError: the name is not allowed.
    """

    name: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(DATASET_NAME, self.name):
            raise SettingsError(
                f"{self.name!r} can't be the name of a dataset. A name begins with a letter from a to z and has at most 40 "
                "letters from a to z, digits and underscores, such as birds_2026. Rename the dataset."
            )

    @property
    def prefix(self) -> list[str]:
        """Beginning of the keys of all assets."""
        return [self.name] if self.name else []

    def asset_key(self, asset: str) -> AssetKey:
        """Return the key of the dataset's asset `asset`, such as `images`."""
        return AssetKey([*self.prefix, asset])

    def suffixed(self, name: str) -> str:
        """Return this dataset's name for what the dataset without a name calls `name`: a job, a sensor, a resource."""
        return "_".join([name, *self.prefix])

    @property
    def group(self) -> str:
        """Group of the assets."""
        return self.name or "dataset"

    @property
    def batch(self) -> str:
        """Name of the partitions in the Dagster instance."""
        return self.suffixed("batch")

    @property
    def batches(self) -> DynamicPartitionsDefinition:
        """The partitions: one for each batch of the plan."""
        return DynamicPartitionsDefinition(name=self.batch)

    @property
    def kontext(self) -> str:
        """Key of the resource `KontextResource`."""
        return self.suffixed("kontext")

    @property
    def segmind(self) -> str:
        """Key of the resource `SegmindResource`."""
        return self.suffixed("segmind")

    @property
    def metadata_io_manager(self) -> str:
        """Key of the IO manager that reads and writes metadata tables."""
        return self.suffixed("metadata_io_manager")

    @property
    def plan_job(self) -> str:
        """Name of the job that updates the plan."""
        return self.suffixed("plan_manifests")

    @property
    def augment_job(self) -> str:
        """Name of the job that generates batches."""
        return self.suffixed("augment")

    @property
    def pool(self) -> str:
        """Pool whose limit holds for steps that call the API. Datasets share it, because they share the account."""
        return POOL


POOL: Final = "segmind_api"
"""Steps that call the API count against this pool's limit, if one is set."""

UNNAMED: Final = DatasetNames()
"""The names of the dataset without a name."""


def names_from_environment() -> DatasetNames:
    """Return the names of the dataset that `KONTEXT_DATASET` names."""
    return DatasetNames(dataset_name())
