"""The rows of the metadata tables, reduced to the few short columns that decide what is exported."""

import hashlib
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.dataset.exports.export_options import INVERSE_COLUMNS, ExportOptions
from kontext_pipeline.inputs.input_index import read_index
from kontext_pipeline.inputs.input_store import kept_path
from kontext_pipeline.inputs.pictures import MEDIA_TYPES

EDITS: Final = "default"
"""The configuration of rows with an input picture."""
TEXT_TO_IMAGE: Final = "text_to_image"
"""The configuration of rows without one."""
SPLIT_COLUMN: Final = "split"
"""The user's own column that names the split of a row."""

_STRING: Final = pa.string()
REDUCED_SCHEMA: Final = pa.schema(
    [
        ("batch", pa.int32()),  # index of the batch
        ("row", pa.int32()),  # index of the row in the batch's table
        ("id", _STRING),
        ("fingerprint", _STRING),
        ("status", _STRING),
        ("config", _STRING),
        ("picture", _STRING),  # what names the input picture: its sha256 if known; or the sha256 of the prompt
        ("input_group", _STRING),
        ("input_path", _STRING),  # relative to the data directory; null where the input picture was not kept
        ("input_sha256", _STRING),  # of the kept input picture
        ("input_pixels", pa.int64()),
        ("image_path", _STRING),
        ("image_sha256", _STRING),
        ("image_bytes", pa.int64()),
        ("image_pixels", pa.int64()),
        ("row_cost", pa.float64()),
        ("started", pa.int64()),
        ("decision", _STRING),
        ("reason", _STRING),
        ("has_inverse", pa.bool_()),
        ("declared_split", _STRING),
    ]
)


def reduced_rows(table: pa.Table, number: int, options: ExportOptions) -> pa.Table:
    """Return the rows of a batch's table of samples as `REDUCED_SCHEMA` has them. `number` is the index of the batch."""
    count = table.num_rows
    is_edit = pc.is_valid(table["input_image"])
    sha256 = pc.coalesce(table["input_kept_sha256"], table["input_sha256"])
    prompts = pa.array(
        [hashlib.sha256(str(prompt).encode("utf-8", "replace")).hexdigest() for prompt in table["prompt"].to_pylist()]
    )
    columns = {
        "batch": pa.repeat(pa.scalar(number, pa.int32()), count),
        "row": pa.array(np.arange(count), pa.int32()),
        "config": pc.if_else(is_edit, EDITS, TEXT_TO_IMAGE),
        "picture": pc.if_else(is_edit, pc.coalesce(sha256, table["input_image"]), prompts),
        "input_sha256": sha256,
        "input_pixels": pc.multiply(table["input_width"].cast(pa.int64()), table["input_height"]),
        "image_bytes": table["bytes"],
        "image_pixels": pc.multiply(table["width"].cast(pa.int64()), table["height"]),
        "row_cost": table["cost_usd"],
        "started": table["started_at"].cast(pa.int64()),
        "has_inverse": pc.is_valid(inverse_texts(table, options)),
        "declared_split": _text(table, SPLIT_COLUMN),
    }
    arrays = [columns[field.name] if field.name in columns else table[field.name] for field in REDUCED_SCHEMA]
    return pa.table(
        [array.cast(field.type) for array, field in zip(arrays, REDUCED_SCHEMA, strict=True)], REDUCED_SCHEMA
    )


class KeptInputs:
    """Input pictures that were kept after their rows were sent, by the index of the input store."""

    def __init__(self, data_dir: UPath) -> None:
        """Read the index."""
        index = read_index(data_dir)
        index = index.filter(pc.is_valid(index["sha256"]))
        formats = {media_type: kind for kind, media_type in MEDIA_TYPES.items()}
        pairs = zip(index["sha256"].to_pylist(), index["type"].to_pylist(), strict=True)
        self._paths = pa.array([kept_path(sha256, formats.get(kind, "PNG")) for sha256, kind in pairs], _STRING)
        self._sha256 = index["sha256"].combine_chunks()
        self._pixels = pc.multiply(index["width"].cast(pa.int64()), index["height"]).combine_chunks()

    def complete(self, rows: pa.Table) -> pa.Table:
        """Name the kept input picture of rows of which the content alone is known: the same bytes are the same picture."""
        if not rows["input_path"].null_count:
            return rows
        found = pc.index_in(rows["input_sha256"], self._sha256, skip_nulls=True)
        columns = {
            "input_path": pc.coalesce(rows["input_path"], self._paths.take(found.combine_chunks())),
            "input_pixels": pc.coalesce(rows["input_pixels"], self._pixels.take(found.combine_chunks())),
        }
        for name, values in columns.items():
            rows = rows.set_column(rows.column_names.index(name), name, values)
        return rows


def _text(table: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, _STRING)
    column = table[name]
    return (
        column
        if pa.types.is_string(column.type)
        else pa.array([None if v is None else str(v) for v in column.to_pylist()], _STRING)
    )


def inverse_texts(table: pa.Table, options: ExportOptions) -> pa.Array:
    """Return the inverse instruction of each row of a table of samples; null where there is none."""
    names = INVERSE_COLUMNS if options.inverse_column is None else (options.inverse_column,)
    text = _text(table, next((name for name in names if name in table.column_names), ""))
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0)
    return pc.if_else(blank, pa.scalar(None, _STRING), text)
