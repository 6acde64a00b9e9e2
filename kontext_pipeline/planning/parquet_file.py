"""Reading Parquet manifests: sizes are checked in the footer, rows are read in batches.

A column of input images may hold the pictures themselves, as datasets of Hugging Face do: `struct<bytes, path>`, or
binary. Such a column is read apart, a few rows at a time.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kontext_pipeline.planning.column_names import name_in_file
from kontext_pipeline.planning.embedded_pictures import may_hold_pictures
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.problems import FileProblems
from kontext_pipeline.planning.raw_table import RawTable, UnreadablePicturesError
from kontext_pipeline.planning.sources import Manifest

_ROWS_AT_ONCE: Final = 2**14
_FEWEST_PICTURES_AT_ONCE: Final = 16
_MOST_PICTURES_AT_ONCE: Final = 256
_PICTURE_BYTES_AT_ONCE: Final = 2**22
_PAGE_BUFFER_BYTES: Final = 2**20


def read_parquet(manifest: Manifest, problems: FileProblems, options: ManifestOptions) -> RawTable | None:
    """Read a Parquet file."""
    try:
        with manifest.open_for_arrow() as source, pq.ParquetFile(source) as file:
            options.check_rows(file.metadata.num_rows)
            options.check_columns(file.metadata.num_columns)
            schema = file.schema_arrow.remove_metadata()
            theirs = name_in_file("input_image", schema.names, options.columns)
            has_pictures = schema.names.count(theirs) == 1 and may_hold_pictures(schema.field(theirs).type)
            names = [name for name in schema.names if name != theirs] if has_pictures else None
            table = _read_rows(file, names, options) if names != [] else pa.table({})
    except (pa.ArrowException, UnicodeDecodeError) as error:
        problems.add(f"can't be read as Parquet: {error}")
        return None
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            problems.add(f"isn't valid: {error}", column=name)
            return None
    numbers = np.arange(1, table.num_rows + 1, dtype=np.int64)
    if not has_pictures:
        return RawTable(table, numbers)
    nothing = pa.nulls(table.num_rows, pa.string())
    table = table.add_column(schema.names.index(theirs), theirs, nothing)
    return RawTable(table, numbers, pictures=lambda: _pictures(manifest, theirs))


def _read_rows(file: Any, names: list[str] | None, options: ManifestOptions) -> pa.Table:
    batches, size = [], 0
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=names):
        size += sum(map(_plain_bytes, batch.columns))
        options.check_bytes(size)
        batches.append(batch)
    if batches:
        return pa.Table.from_batches(batches)
    return file.schema_arrow.remove_metadata().empty_table()


def _plain_bytes(column: pa.Array) -> int:
    """Return the size of an array once it has no dictionary, which makes long texts that repeat small."""
    if pa.types.is_dictionary(column.type) and _has_length(column.type.value_type):
        return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)
    return int(column.nbytes)


def _has_length(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _pictures(manifest: Manifest, column: str) -> Iterator[pa.Array]:
    try:
        # With `pre_buffer`, Arrow would hold the whole column of a row group.
        with (
            manifest.open_for_arrow() as source,
            pq.ParquetFile(source, pre_buffer=False, buffer_size=_PAGE_BUFFER_BYTES) as file,
        ):
            row_bytes = sum(
                file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)
            ) // max(1, file.metadata.num_rows)
            count = min(
                _MOST_PICTURES_AT_ONCE, max(_FEWEST_PICTURES_AT_ONCE, _PICTURE_BYTES_AT_ONCE // (row_bytes + 1))
            )
            for batch in file.iter_batches(count, columns=[column], use_threads=False):
                yield batch.column(0)
    except (pa.ArrowException, OSError) as error:
        raise UnreadablePicturesError(f"can't be read: {error}") from error
