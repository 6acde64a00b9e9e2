"""The code location that `dagster dev`, `dagster definitions validate` and `dg` load."""

from kontext_pipeline.orchestration.code_location import defs

__all__ = ["defs"]
