"""A manifest goes in, a dataset comes out, and every image that was paid for is kept, once.

For projects of one's own: `KontextDataset` (a dg component), `kontext_definitions` (the same from Python) and `DatasetNames`
(asset keys, partitions and resource keys of a dataset).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kontext_pipeline.orchestration.component import KontextDataset
    from kontext_pipeline.orchestration.dataset_definitions import kontext_definitions
    from kontext_pipeline.orchestration.dataset_names import DatasetNames

__all__ = ["DatasetNames", "KontextDataset", "kontext_definitions"]

_MODULES = {
    "DatasetNames": "dataset_names",
    "KontextDataset": "component",
    "kontext_definitions": "dataset_definitions",
}


def __getattr__(name: str) -> Any:
    # Imported at first use: Dagster takes longer to load than most commands of `kontext` should wait.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.orchestration.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    # `dg` looks for components among these.
    return sorted({*globals(), *__all__})
