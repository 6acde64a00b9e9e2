"""Writing the manifest that a recipe stands for: a table with the ids, prompts and options that planning the recipe has."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from kontext_pipeline.errors import ManifestError
from kontext_pipeline.files import AnyPath, is_local, write_atomically
from kontext_pipeline.planning.input_addresses import LocalFolders
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.manifests import read_manifests, read_rows
from kontext_pipeline.planning.problems import ManifestProblems, quoted
from kontext_pipeline.planning.recipes.recipe_inputs import moved
from kontext_pipeline.planning.rows import release_memory
from kontext_pipeline.planning.sources import absolute
from kontext_pipeline.planning.tables import read_table

_ROWS_AT_ONCE: Final = 10_000
_MOST_FOLDERS: Final = 5
"""Folders of pictures that are named one by one; of more, the folder that holds them all is named."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """What was written: how many `rows`, and the `input_roots` that a plan of the file needs (none: as they are)."""

    rows: int
    input_roots: list[str]


def write_expanded(recipe: str, out: str, options: ManifestOptions | None = None) -> Expanded:
    """Write the manifest that a recipe stands for, complete or not at all.

    `out` is a path or an fsspec URL, whose extension decides the format. Relative input images are written so that they
    are relative to the folder of `out`. An existing file is replaced.

    Raises:
        ManifestError: The recipe has problems, is no recipe, or the file can't be written.
    """
    path = _path(out)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise ManifestError([f"{out}: unknown file type {quoted(path.suffix)}; allowed: {', '.join(_WRITERS)}"])
    options = options or ManifestOptions()
    manifests = read_manifests([recipe], options)
    others = [manifest.shown for manifest in manifests if not manifest.is_recipe]
    if others or len(manifests) != 1:
        raise ManifestError([f"{recipe}: name one recipe, a .toml file; a manifest has its rows already"])
    manifest = manifests[0]
    # The checked rows have defaults in them, which are not the recipe's. So they are checked, and made again.
    (rows,) = read_rows(manifests, {}, options)
    input_roots = _roots_needed(rows.input_files, path, options)
    del rows
    release_memory()
    problems = ManifestProblems()
    raw = read_table(manifest, problems.of(manifest.shown, 0), options)
    problems.raise_if_any()
    if raw is None or manifest.has_changed():
        raise ManifestError([f"{recipe}: was changed while it was read; try again"])
    table = raw.table
    images = moved(table["input_image"], manifest.path.parent, path.parent)
    table = table.set_column(table.column_names.index("input_image"), "input_image", images)
    try:
        write_atomically(path, lambda temporary: write(table, temporary))
    except OSError as error:
        raise ManifestError([f"{out}: can't be written: {error.strerror or error}"]) from error
    except (pa.ArrowException, TypeError) as error:
        raise ManifestError(
            [f"{out}: the recipe has a column that this file type can't hold ({error}); try .parquet"]
        ) from error
    return Expanded(len(table), input_roots)


def _roots_needed(files: Iterable[str], out: AnyPath, options: ManifestOptions) -> list[str]:
    """Return the value of KONTEXT_INPUT_ROOTS with which a manifest at `out` may name the files; none: it may anyway."""
    allowed = LocalFolders.of(out, options)
    folders = {os.path.realpath(Path(file).parent) for file in files if not allowed.allow(file)}
    if not folders:
        return []
    if len(folders) > _MOST_FOLDERS:
        folders = {os.path.commonpath(folders)}
    return [*map(str, options.input_roots), *sorted(folders)]


def _path(text: str) -> AnyPath:
    if is_local(text) and "://" not in text:
        return absolute(Path(text).expanduser())
    from upath import UPath

    path = UPath(text)
    return Path(path.path) if is_local(path) else path


def _write_csv(table: pa.Table, path: Path) -> None:
    pa_csv.write_csv(table, path)


def _write_jsonl(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())


def _write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


_WRITERS: Final[dict[str, Callable[[pa.Table, Path], None]]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
