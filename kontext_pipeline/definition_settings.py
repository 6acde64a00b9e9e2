"""The settings on which definitions depend, read alone: quickly, and whatever the other settings are.

A code location loads where a setting is wrong or missing; `settings.load_settings` reports that when a run needs it.
"""

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.setting_types import Optionally, Owners

ENV_FILE: Final = ".env"
DATASET_NAME: Final = "^[a-z][a-z0-9_]{0,39}$"
"""What the name of a dataset in Dagster must match."""


class DatasetSettings(BaseSettings):
    """The setting on which definitions depend. Read alone, it loads quickly, and the other settings may be wrong."""

    model_config = SettingsConfigDict(
        env_prefix="KONTEXT_",
        env_file=ENV_FILE,
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        validate_default=True,
    )

    dataset: Annotated[Annotated[str, Field(pattern=DATASET_NAME)] | None, Optionally] = Field(
        None,
        description="Name of the dataset in Dagster, where several share one instance: a-z, 0-9 and _. Its assets are then "
        "`NAME/plan` and so on, with partitions of their own.",
    )


class RunSizeSettings(DatasetSettings):
    """The setting by which definitions cut a backfill into runs."""

    batches_a_run: Annotated[Annotated[int, Field(ge=1)] | None, Optionally] = Field(
        None,
        description="Most batches that one run of a Dagster backfill generates; default: one run generates all, which keeps "
        "the API busy from one batch to the next.",
    )


class DescriptionSettings(RunSizeSettings):
    """The settings that definitions show."""

    data_dir: str = Field("data/output", min_length=1, description="Directory of the dataset: a path or an fsspec URL.")
    owners: Owners = Field(
        [],
        description="Owners of the assets in Dagster, separated by spaces: email addresses, or teams as in team:vision.",
    )
    fresh_hours: Annotated[Annotated[float, Field(ge=0.1)] | None, Optionally] = Field(
        None,
        description="Hours within which Dagster expects plan, images and metadata to be materialized again, and else shows "
        "them as out of date; default: no expectation.",
    )


def dataset_name() -> str | None:
    """Return `KONTEXT_DATASET`; None where it is not set or not allowed, which `load_settings` reports."""
    try:
        check_env_file()
        return DatasetSettings().dataset
    except (SettingsError, ValidationError):
        return None


def batches_a_run() -> int | None:
    """Return `KONTEXT_BATCHES_A_RUN`; None where it is not set or not allowed, which `load_settings` reports."""
    try:
        check_env_file()
        return RunSizeSettings().batches_a_run
    except (SettingsError, ValidationError):
        return None


def description_settings() -> DescriptionSettings:
    """Return the settings that definitions show; the defaults where one is not allowed, which `load_settings` reports."""
    try:
        check_env_file()
        return DescriptionSettings()
    except (SettingsError, ValidationError):
        return DescriptionSettings.model_construct()


def check_env_file() -> None:
    """Make sure that the `.env` file, if there is one, can be read.

    Raises:
        SettingsError: It can't.
    """
    path = Path(ENV_FILE)
    # Not what it holds: there may be a key in it.
    try:
        reason = "it has characters that no text has" if path.is_file() and "\0" in path.read_text("utf-8-sig") else ""
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1:,} is not UTF-8"
    except OSError as error:
        reason = error.strerror or "it can't be opened"
    if reason:
        raise SettingsError(
            f"{path.absolute()} can't be read: {reason}. A text file in UTF-8 is expected, with a line NAME=VALUE for each "
            "setting; save it as UTF-8, or remove it. Nothing was sent."
        )
