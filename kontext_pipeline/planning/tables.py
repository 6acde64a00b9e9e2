"""Reading a manifest's file into a table, one reader for each file type.

A reader takes the values as the file has them. Which columns there are and what their values mean is checked later.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa

from kontext_pipeline.planning.delimited import read_csv, read_tsv
from kontext_pipeline.planning.json_lines import read_json_lines
from kontext_pipeline.planning.manifest_options import ManifestOptions, TooLargeError
from kontext_pipeline.planning.parquet_file import read_parquet
from kontext_pipeline.planning.problems import FileProblems
from kontext_pipeline.planning.raw_table import RawTable
from kontext_pipeline.planning.sources import RECIPE, Manifest, file_type

Reader: TypeAlias = Callable[[Manifest, FileProblems, ManifestOptions], RawTable | None]
"""Returns the content of a file, or None where it can't be read, which is a problem."""


def _read_recipe(manifest: Manifest, problems: FileProblems, options: ManifestOptions) -> RawTable | None:
    # Only a recipe needs jinja2.
    from kontext_pipeline.planning.recipes.recipe_reader import expand

    # A recipe says which columns its tables have.
    of_tables = replace(options, columns={})

    def read(table: Manifest, its_problems: FileProblems) -> pa.Table | None:
        raw = read_table(table, its_problems, of_tables)
        if raw is not None and raw.pictures is not None:
            its_problems.add(
                "holds pictures; a recipe takes their addresses. Name this table as a manifest, or save the pictures as "
                "files",
                column="input_image",
            )
        return None if raw is None else raw.table

    rows = expand(manifest, tuple(READERS), read, problems, options)
    return None if rows is None else RawTable(rows, np.arange(1, rows.num_rows + 1, dtype=np.int64))


_TEXT: Final[dict[str, Reader]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
}
READERS: Final[dict[str, Reader]] = {
    **_TEXT,
    **{f"{extension}.gz": reader for extension, reader in _TEXT.items()},
    ".parquet": read_parquet,
    RECIPE: _read_recipe,
}
"""The reader for each file type, by its extension in lower case."""


def read_table(manifest: Manifest, problems: FileProblems, options: ManifestOptions | None = None) -> RawTable | None:
    """Return the content of the file, or None where it can't be read, which is a problem."""
    try:
        return READERS[file_type(manifest.path)](manifest, problems, options or ManifestOptions())
    except TooLargeError as error:
        problems.add(str(error))
    except (EOFError, zlib.error) as error:
        problems.add(f"can't be decompressed: {error}")
    except OSError as error:
        problems.add(f"can't be read: {error.strerror or error}")
    return None
