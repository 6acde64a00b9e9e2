"""The settings that a project gives to one of its datasets, in Python or YAML, and the resources that hold them.

They go before environment variables and behind run config. The secrets among them are fields of no resource, so Dagster
can neither store nor show them.
"""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

from pydantic import ConfigDict, ValidationError, create_model

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.orchestration.dataset_names import DatasetNames
from kontext_pipeline.orchestration.io_managers import MetadataIOManager
from kontext_pipeline.orchestration.resources import (
    OF_THE_PIPELINE,
    SECRET,
    WITHOUT_FIELD,
    KontextResource,
    SegmindResource,
)
from kontext_pipeline.settings import Settings, environment_variable


def make_resources(names: DatasetNames, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resources of a dataset by their keys. `given`: settings by name; None: as if it were not given.

    Raises:
        SettingsError: there is no such setting, or a value is not allowed.
    """
    settings = {name: _plain(value) for name, value in given.items() if value is not None}
    # Checking a ledger's URL loads SQLAlchemy, which takes longer than everything else, so a run checks it.
    ledger_url = settings.pop("ledger_url", None)
    settings = checked(settings, dataset=names.name or "without a name")
    hidden = {name: settings.pop(name) for name in WITHOUT_FIELD & settings.keys()}
    hidden |= {"ledger_url": ledger_url, "dataset": names.name}

    class Kontext(KontextResource):
        __doc__ = KontextResource.__doc__
        __module__, __qualname__ = KontextResource.__module__, KontextResource.__qualname__
        without_field: ClassVar[Mapping[str, Any]] = hidden

    of_the_pipeline = {name: settings.pop(name) for name in {*OF_THE_PIPELINE} & settings.keys()}
    # Configured at launch, so that run config for these resources reaches those that depend on them.
    segmind = SegmindResource.configure_at_launch(**settings)
    kontext = Kontext.configure_at_launch(segmind=segmind, **of_the_pipeline)
    return {
        names.segmind: segmind,
        names.kontext: kontext,
        names.metadata_io_manager: MetadataIOManager(kontext=kontext),
    }


def checked(settings: Mapping[str, Any], *, dataset: str) -> dict[str, Any]:
    """Return settings as `Settings` would hold them, without reading any other source.

    Raises:
        SettingsError: there is no such setting, or a value is not allowed.
    """
    if unknown := [name for name in settings if name not in Settings.model_fields]:
        near = get_close_matches(unknown[0], Settings.model_fields)
        known = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(Settings.model_fields))}."
        raise SettingsError(f"dataset {dataset}: there is no setting {unknown[0]!r}. {known}")
    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in Settings.model_fields.items() if name in settings
    }
    model = create_model("Given", __config__=ConfigDict(populate_by_name=True), **fields)
    try:
        given = model(**settings)
    except ValidationError as error:
        problems = [
            f"{name}{'' if name in SECRET else f' is {settings[name]!r}'}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_url=False)
            if (name := next(name for name in settings if one["loc"][0] in (name, environment_variable(name))))
        ]
        raise SettingsError(f"dataset {dataset}: " + "\n".join(problems)) from None
    return {name: getattr(given, name) for name in settings}


def checked_of(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return those of the settings `names` that are given, as `checked` does."""
    return checked({name: _plain(given[name]) for name in names if given.get(name) is not None}, dataset="")


def _plain(value: Any) -> Any:
    """Return paths as text, also those in a list or tuple."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value
