"""Finds definitions that Dagster would drop in silence: those of a module that has imported this package's `defs`.

Dagster takes a module's `@definitions` function and nothing else of the module.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

from dagster import (
    AssetsDefinition,
    AssetSpec,
    DagsterInvalidDefinitionError,
    Definitions,
    JobDefinition,
    RepositoryDefinition,
    ScheduleDefinition,
    SensorDefinition,
)

PACKAGE: Final = __name__.partition(".")[0]
DEFINITIONS: Final = (
    *(AssetsDefinition, AssetSpec, Definitions, JobDefinition, RepositoryDefinition, ScheduleDefinition),
    SensorDefinition,
)


def refuse_dropped_definitions(defs: object, caller: FrameType) -> None:
    """Refuse to be loaded by way of a module with definitions of its own.

    `caller`: the frame that calls `defs`. A project that calls it merges the definitions with its own. Dagster's loader,
    whose local variables tell what it loads, drops its own.

    Raises:
        DagsterInvalidDefinitionError: `caller` is Dagster's loader and loads such a module.
    """
    if not caller.f_globals.get("__name__", "").startswith("dagster."):
        return
    module = _loaded(caller.f_locals)
    if module is None or module.__name__.partition(".")[0] == PACKAGE:
        return
    attributes = vars(module)
    own = sorted(name for name, value in attributes.items() if isinstance(value, DEFINITIONS))
    if own and any(value is defs for value in attributes.values()):
        raise DagsterInvalidDefinitionError(
            f"{module.__name__} imports `defs` of {PACKAGE} and has definitions of its own: {', '.join(own)}. Dagster would "
            "load `defs` and drop these. Import kontext_definitions in its place, and merge: defs = "
            "Definitions.merge(kontext_definitions(), Definitions(assets=[...])). See docs/own-project.md."
        )


def _loaded(loader: Mapping[str, Any]) -> ModuleType | None:
    """Return the module that Dagster loads, from the variables of its loader for locations or for files of components."""
    if isinstance(module := loader.get("module"), ModuleType):
        return module
    if name := loader.get("module_name") or loader.get("package_name"):
        return sys.modules.get(name)
    if file := loader.get("python_file"):
        path = os.path.realpath(Path(loader.get("working_directory") or "", file))
        files = ((one, getattr(one, "__file__", None)) for one in list(sys.modules.values()))
        return next((one for one, its_file in files if its_file and os.path.realpath(its_file) == path), None)
    return None
