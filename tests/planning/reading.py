"""Ways to read and plan manifests in tests."""

from pathlib import Path
from typing import Any

import pytest

from kontext_pipeline.errors import ManifestError
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.manifests import read_manifests, read_rows
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.planning.planner import make_plan
from kontext_pipeline.planning.rows import ManifestRows


def rows_of(*patterns: Any, **options: Any) -> list[ManifestRows]:
    return read_rows(read_manifests(patterns), {}, ManifestOptions(**options))


def values(rows: ManifestRows, name: str) -> list[Any]:
    found: list[Any] = rows.table[name].to_pylist()
    return found


def problems_of(*patterns: Any, **options: Any) -> list[str]:
    """Return the problems of manifests, without the folder of the first."""
    with pytest.raises(ManifestError) as caught:
        rows_of(*patterns, **options)
    return [line.replace(f"{Path(patterns[0]).parent}/", "") for line in caught.value.problems]


def plan_of(data_dir: Any, *patterns: Any, **options: Any) -> Plan:
    return make_plan(
        read_manifests(patterns, ManifestOptions(**options)),
        data_dir=data_dir,
        backend="sandbox",
        seed=0,
        batch_size=100,
        clamp_safety_tolerance=False,
        options=ManifestOptions(**options),
    )


def planned_rows(plan: Plan) -> list[dict[str, Any]]:
    return [row for key in plan.batch_keys for row in plan.batch_table(key).to_pylist()]
