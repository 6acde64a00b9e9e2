"""Writing the manifest that a recipe stands for: a table with the ids, prompts and options that planning the recipe has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from kontext_pipeline.errors import ManifestError
from kontext_pipeline.files import AnyPath, is_local, write_atomically
from kontext_pipeline.planning.manifests import read_manifests, read_rows
from kontext_pipeline.planning.problems import ManifestProblems, quoted
from kontext_pipeline.planning.recipes.recipe_inputs import moved
from kontext_pipeline.planning.rows import release_memory
from kontext_pipeline.planning.sources import absolute
from kontext_pipeline.planning.tables import read_table

_ROWS_AT_ONCE: Final = 10_000


def write_expanded(recipe: str, out: str) -> int:
    """Write the manifest that a recipe stands for, complete or not at all. Return how many rows it has.

    `out` is a path or an fsspec URL, whose extension decides the format. Relative input images are written so that they
    are relative to the folder of `out`. An existing file is replaced.

    Raises:
        ManifestError: The recipe has problems, is no recipe, or the file can't be written.
    """
    path = _path(out)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise ManifestError([f"{out}: unknown file type {quoted(path.suffix)}; allowed: {', '.join(_WRITERS)}"])
    manifests = read_manifests([recipe])
    others = [manifest.shown for manifest in manifests if manifest.path.suffix.lower() != ".toml"]
    if others or len(manifests) != 1:
        raise ManifestError([f"{recipe}: name one recipe, a .toml file; a manifest has its rows already"])
    manifest = manifests[0]
    # The checked rows have defaults in them, which are not the recipe's. So they are checked, and made again.
    read_rows(manifests, {})
    release_memory()
    problems = ManifestProblems()
    raw = read_table(manifest, problems.of(manifest.shown, 0))
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
    return len(table)


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
