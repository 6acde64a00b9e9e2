"""The resources: the image API with its retry policy, and the pipeline for one data directory.

Their fields are made from `Settings`. A field that is left empty has the value that the command line would use: the
environment variable, else `.env`, else the default. Run config and the launchpad override these. The API key and the
ledger's URL, which may contain a password, have no field: no page of the UI can show them.
"""

import contextlib
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, get_args, get_origin

from dagster import (
    AssetCheckExecutionContext,
    AssetExecutionContext,
    ConfigurableResource,
    InitResourceContext,
    ResourceDependency,
    ScheduleEvaluationContext,
    SensorEvaluationContext,
)
from pydantic import Field, create_model

from kontext_pipeline.errors import KontextError
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.step_failures import as_failures
from kontext_pipeline.orchestration.step_log import forward_records
from kontext_pipeline.settings import Settings, environment_variable, load_settings, plain_type

if TYPE_CHECKING:
    from kontext_pipeline.pipeline import Pipeline

log: Final = logging.getLogger(__name__)

SECRET: Final = frozenset({"api_key", "ledger_url", "alert_url", "alert_template"})
WITHOUT_FIELD: Final = SECRET | {"dataset", "batches_a_run", "owners", "fresh_hours"}
"""Settings that a run can't change: secrets, and those on which the definitions depend."""
OF_THE_PIPELINE: Final = (
    *("manifests", "columns", "input_roots", "private_inputs", "max_rows", "max_columns", "max_manifest_mb"),
    *("data_dir", "seed", "batch_size", "aspect_ratio", "clamp_safety_tolerance"),
    *("budget_usd", "budget_period", "lease_s", "alert_failure_share"),
    *("keep_inputs", "input_max_mb", "input_min_side", "input_max_ratio", "input_animated"),
    *("input_max_age_s", "quality"),
)
"""Settings that are fields of `KontextResource`; all others but `WITHOUT_FIELD` are fields of `SegmindResource`."""


def _field_type(name: str) -> Any:
    kind = plain_type(name)
    if get_origin(kind) is not Literal:
        return kind
    # Dagster shows the choices of an Enum; it can't show those of a Literal.
    return Enum(name.title().replace("_", ""), {choice: choice for choice in get_args(kind)})


def _with_fields(names: Iterable[str]) -> Any:
    """Return a base class with an optional field for each of these settings."""
    fields: dict[str, Any] = {}
    for name in names:
        description = f"{Settings.model_fields[name].description} {environment_variable(name)}."
        fields[name] = (_field_type(name) | None, Field(None, description=description))
    return create_model("Fields", __base__=ConfigurableResource, __module__=__name__, **fields)


class SegmindResource(_with_fields(n for n in Settings.model_fields if n not in WITHOUT_FIELD | {*OF_THE_PIPELINE})):  # type: ignore[misc]
    """The image API, with its limits, timeouts and retry policy.

    Needs SEGMIND_API_KEY in the environment or in a .env file, unless the backend is the sandbox. The key is
    read when a run needs it. A field left empty is taken from its environment variable.
    """


class KontextResource(_with_fields(OF_THE_PIPELINE)):  # type: ignore[misc]
    """The pipeline for one data directory and its ledger: what is planned, and where it is kept.

    A field left empty is taken from its environment variable.
    """

    segmind: ResourceDependency[SegmindResource]
    without_field: ClassVar[Mapping[str, Any]] = {}
    """Settings of this dataset that have no field, by name."""

    def settings(self) -> Settings:
        """Return the settings: those of the command line, except for the fields that are set and those of the dataset.

        Raises:
            SettingsError: one or more values are not allowed.
        """
        return load_settings(**self.without_field, **_set_fields(self.segmind), **_set_fields(self))

    @contextlib.contextmanager
    def yield_for_execution(self, context: InitResourceContext) -> "Generator[KontextResource]":
        """Show in the ledger that this process works for a run, until the process is through with its steps.

        The sensor `dead_runs` finds a run by this whose machine went down. A ledger that can't be used is the step's to
        report.
        """
        with contextlib.ExitStack() as stack:
            if context.run is not None:
                from kontext_pipeline.generation.ledger.run_processes import RunProcess

                try:
                    settings = self.settings()
                    url, lease_s = settings.resolved_ledger_url, settings.lease_s
                    stack.enter_context(RunProcess(url, run_id=context.run.run_id, lease_s=lease_s))
                except KontextError as error:
                    log.debug("the ledger doesn't show this process", exc_info=error)
            yield self

    @contextlib.contextmanager
    def pipeline(self, step: AssetExecutionContext | AssetCheckExecutionContext | None = None) -> "Iterator[Pipeline]":
        """Open the pipeline. With the context of a `step`, log records go to the run's log until the block ends.

        Raises:
            Failure: in place of any error that the user can correct, also in the `with` block.
        """
        with as_failures(), contextlib.ExitStack() as stack:
            from kontext_pipeline.pipeline import Pipeline

            if step is not None:
                stack.enter_context(forward_records(step.log, step.instance))
            yield stack.enter_context(Pipeline(self.settings()))


def kontext_of(
    context: AssetExecutionContext | AssetCheckExecutionContext | SensorEvaluationContext | ScheduleEvaluationContext,
    names: DatasetNames,
) -> KontextResource:
    """Return the dataset's resource. The definition that `context` belongs to must require the key `names.kontext`."""
    resource: KontextResource = getattr(context.resources, names.kontext)
    return resource


def _set_fields(resource: SegmindResource | KontextResource) -> dict[str, object]:
    values = {name: getattr(resource, name) for name in type(resource).model_fields if name != "segmind"}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
