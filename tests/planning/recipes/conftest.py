"""A folder with pictures, and ways to expand a recipe that lies in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.manifests import read_manifests, read_rows

Expand = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path, make_picture: Callable[..., Path]) -> Path:
    for name in ("bird.jpg", "cat.jpg", "dog.jpg"):
        make_picture(tmp_path / "photos" / name, name.encode())
    return tmp_path


@pytest.fixture
def expand(folder: Path) -> Expand:
    """Return a function that writes a recipe into the folder and returns its checked rows."""

    def rows(text: str, name: str = "r.toml", **changes: Any) -> list[dict[str, Any]]:
        (folder / name).write_text(text)
        options = ManifestOptions(**changes)
        (found,) = read_rows(read_manifests([folder / name], options), {}, options)
        found_rows: list[dict[str, Any]] = found.table.to_pylist()
        return found_rows

    return rows
