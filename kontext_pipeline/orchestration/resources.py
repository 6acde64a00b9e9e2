"""The resources: the API with its retry policy, and the pipeline over one data directory.

Every field left empty is what the command line would use: the environment variable, else `.env`, else the
default. Run config and the launchpad beat both. The API key and the ledger's URL, which may carry a
password, have no field: they come from the environment alone, so no page of the UI can show them.
"""

import contextlib
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING

from dagster import ConfigurableResource, ResourceDependency
from pydantic import Field

from kontext_pipeline.orchestration.failures import told_to_dagster

if TYPE_CHECKING:
    from kontext_pipeline.pipeline import Pipeline
    from kontext_pipeline.settings import Settings


class Backend(Enum):
    """Who makes the pictures."""

    segmind = "segmind"
    sandbox = "sandbox"


class ApiVersion(Enum):
    """How a picture is asked for."""

    v1 = "v1"
    v2 = "v2"


class BudgetPeriod(Enum):
    """What the standing budget is a cap of."""

    all = "all"
    day = "day"
    month = "month"


class SegmindResource(ConfigurableResource["SegmindResource"]):
    """The image API and how patient the pipeline is with it.

    Needs SEGMIND_API_KEY in the environment or in a .env file, unless the backend is the sandbox. It is
    looked for when a run needs it. A field left empty is taken from its environment variable.
    """

    backend: Backend | None = Field(None, description="The paid API or the free stand-in. KONTEXT_BACKEND.")
    api_version: ApiVersion | None = Field(
        None, description="v1 waits for each answer; v2 submits, polls and fetches. KONTEXT_API_VERSION."
    )
    base_url: str | None = Field(None, description="Where the API is. SEGMIND_BASE_URL.")
    upload_url: str | None = Field(
        None, description="Where local input pictures are uploaded, if not beside it. SEGMIND_UPLOAD_URL."
    )
    concurrency: int | None = Field(
        None, description="Generations in flight at once, a step. KONTEXT_CONCURRENCY."
    )
    rpm: float | None = Field(
        None, description="Requests a minute that the account allows, over all processes. KONTEXT_RPM."
    )
    server_error_retries: int | None = Field(
        None,
        description="Times a row is tried again in a run after 500, 502 or 503. KONTEXT_SERVER_ERROR_RETRIES.",
    )
    unknown_retries: int | None = Field(
        None,
        description="Times, ever, a row is tried again after an answer that was lost and may have been charged. "
        "KONTEXT_UNKNOWN_RETRIES.",
    )
    backoff_base_s: float | None = Field(
        None, description="First pause before a retry, seconds; it doubles each time. KONTEXT_BACKOFF_BASE_S."
    )
    backoff_cap_s: float | None = Field(
        None, description="Longest pause before a retry, seconds. KONTEXT_BACKOFF_CAP_S."
    )
    backoff_jitter: float | None = Field(
        None, description="Share of each pause that is drawn at random, 0 to 1. KONTEXT_BACKOFF_JITTER."
    )
    connect_timeout_s: float | None = Field(
        None, description="Wait for a connection, seconds. KONTEXT_CONNECT_TIMEOUT_S."
    )
    answer_timeout_s: float | None = Field(
        None,
        description="Wait for an answer, seconds; a typical one takes 24.34. KONTEXT_ANSWER_TIMEOUT_S.",
    )
    job_timeout_s: float | None = Field(
        None,
        description="v2: wait for a job before it is left to a later run, seconds. KONTEXT_JOB_TIMEOUT_S.",
    )
    drain_s: float | None = Field(
        None,
        description="After a stop or a termination: wait for what is in flight, seconds. KONTEXT_DRAIN_S.",
    )


class KontextResource(ConfigurableResource["KontextResource"]):
    """The pipeline over one data directory and its ledger: what is planned, and where it is kept.

    A field left empty is taken from its environment variable.
    """

    segmind: ResourceDependency[SegmindResource]
    manifests: list[str] | None = Field(
        None, description="CSV or Parquet files or globs. KONTEXT_MANIFESTS, separated by spaces."
    )
    data_dir: str | None = Field(
        None, description="Where the dataset is kept: a path or an fsspec URL. KONTEXT_DATA_DIR."
    )
    seed: int | None = Field(
        None, description="What the seeds of rows without one are derived from. KONTEXT_SEED."
    )
    batch_size: int | None = Field(
        None, description="Pictures a new batch, one partition each. KONTEXT_BATCH_SIZE."
    )
    budget_usd: float | None = Field(
        None, description="Standing cap on what all runs of the ledger may spend, USD. KONTEXT_BUDGET_USD."
    )
    budget_period: BudgetPeriod | None = Field(
        None, description="What that is a cap of: all time, a UTC day or month. KONTEXT_BUDGET_PERIOD."
    )
    clamp_safety_tolerance: bool | None = Field(
        None,
        description="Send 2 where a row with an input picture asks for more. KONTEXT_CLAMP_SAFETY_TOLERANCE.",
    )
    lease_s: float | None = Field(
        None,
        description="Silence after which another process takes over a run's claims, seconds. KONTEXT_LEASE_S.",
    )

    def settings(self) -> "Settings":
        """Return the settings, as the command line has them but for the fields that are set.

        Raises:
            SettingsError: one or more values are not allowed.
        """
        from kontext_pipeline.settings import load_settings

        options = {**_given(self.segmind), **_given(self)}
        return load_settings(**options)

    @contextlib.contextmanager
    def pipeline(self) -> "Iterator[Pipeline]":
        """Open the pipeline for one step.

        Raises:
            Failure: in place of any error that the user can mend, in the `with` block too.
        """
        with told_to_dagster():
            from kontext_pipeline.pipeline import Pipeline

            with Pipeline(self.settings()) as pipeline:
                yield pipeline


def _given(resource: SegmindResource | KontextResource) -> dict[str, object]:
    fields = set(type(resource).model_fields) - {"segmind"}
    values = {name: getattr(resource, name) for name in fields}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
