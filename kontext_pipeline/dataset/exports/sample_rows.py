"""The columns of exported samples besides the pictures, in the order that all layouts share.

First the prompt, then what names and describes the sample, the quality measures, the review's decision, and the user's own
columns last.
"""

import base64
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.columns import TABLE_SCHEMA
from kontext_pipeline.dataset.exports.export_options import ExportOptions
from kontext_pipeline.dataset.exports.reduced_rows import EDITS, inverse_texts
from kontext_pipeline.dataset.exports.selection import Selection
from kontext_pipeline.dataset.own_columns import cast_column, own_schema
from kontext_pipeline.dataset.samples import (
    QUALITY_SCHEMA,
    REVIEW_SCHEMA,
    ReviewDecision,
    batch_samples,
    renamed_columns,
)
from kontext_pipeline.segmind.model import MODEL

PICTURES: Final = {EDITS: ("input_image", "edited_image"), "text_to_image": ("image",)}
"""The picture columns of each configuration."""
PROMPTS: Final = {EDITS: "edit_prompt", "text_to_image": "prompt"}
"""The column with the prompt of each configuration."""
_LAYOUT_NAMES: Final = ("image_path", "control_path", "caption", "file_name", "file_names", "manifest_path")
"""Names that a layout gives a meaning."""
_CANONICAL: Final = pa.schema(
    [
        *((name, TABLE_SCHEMA.field(name).type) for name in ("id", "variant", "seed")),
        ("model", pa.string()),
        *((name, TABLE_SCHEMA.field(name).type) for name in ("aspect_ratio", "width", "height")),
        *((name, pa.string()) for name in ("input_sha256", "image_sha256", "fingerprint")),
        ("cost_usd", pa.float64()),
        ("group", pa.string()),
        ("direction", pa.string()),
    ]
)
_EDITS_ALONE: Final = frozenset({"input_sha256", "direction"})
_NOT_EXPORTED: Final = frozenset({"input_group", "versions"})


class SampleRows:
    """The rows of samples, read batch by batch. For use from one thread."""

    def __init__(
        self, data_dir: UPath, selection: Selection, decisions: Mapping[str, ReviewDecision], options: ExportOptions
    ) -> None:
        """Nothing is read yet."""
        self._data_dir = data_dir
        self._selection = selection
        self._decisions = decisions
        self._options = options
        self._batch: tuple[int, pa.Table] | None = None
        measures, own = _further_columns(selection.schemas)
        self._measures = measures
        taken = (*_CANONICAL.names, *measures.names, "decision", "reason", *_LAYOUT_NAMES)
        pictures = [name for names in PICTURES.values() for name in names]
        self._own_names = _own_names(own.names, (*taken, *pictures, *PROMPTS.values()))
        self._own = own

    def schema(self, config: str) -> pa.Schema:
        """Return the columns of a configuration, without its pictures."""
        canonical = [one for one in _CANONICAL if config == EDITS or one.name not in _EDITS_ALONE]
        review = [pa.field(name, pa.string()) for name in ("decision", "reason")]
        own = [pa.field(self._own_names[one.name], one.type) for one in self._own]
        return pa.schema([pa.field(PROMPTS[config], pa.string()), *canonical, *self._measures, *review, *own])

    def rows(self, samples: pa.Table, config: str) -> pa.Table:
        """Return the rows of samples, which are of one configuration and in the selection's order."""
        schema = self.schema(config)
        parts = [self._of_batch(number, part, schema) for number, part in _by_batch(samples)]
        return pa.concat_tables(parts).combine_chunks() if parts else schema.empty_table()

    def _of_batch(self, number: int, samples: pa.Table, schema: pa.Schema) -> pa.Table:
        table = self._read(number).take(samples["row"])
        backward = samples["backward"]

        def either(forward: pa.ChunkedArray, back: pa.ChunkedArray) -> pa.ChunkedArray:
            return pc.if_else(backward, back, forward)

        prompts = either(table["prompt"], inverse_texts(table, self._options))
        model = pc.if_else(pc.equal(table["backend"], "sandbox"), "sandbox", MODEL)
        columns: dict[str, Any] = {
            schema.names[0]: prompts,
            "model": model,
            "width": either(table["width"], table["input_width"]),
            "height": either(table["height"], table["input_height"]),
            "input_sha256": either(samples["input_sha256"], samples["image_sha256"]),
            "image_sha256": either(samples["image_sha256"], samples["input_sha256"]),
            "cost_usd": samples["cost_usd"],
            "group": samples["group"],
            "direction": pc.if_else(backward, "backward", "forward"),
        }
        for own in self._own:
            columns[self._own_names[own.name]] = _column(table, own)
        for measure in self._measures:
            columns[measure.name] = _column(table, measure)
        arrays = [columns[field.name] if field.name in columns else table[field.name] for field in schema]
        return pa.table([array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema)

    def _read(self, number: int) -> pa.Table:
        if self._batch is None or self._batch[0] != number:
            key = self._selection.batches[number]
            self._batch = number, batch_samples(self._data_dir, key, self._decisions)
        return self._batch[1]


def json_value(value: Any) -> Any:
    """Return a value of a row as JSON has it: times as ISO 8601, decimals as text, bytes as Base64, no number as null."""
    match value:
        case dict():
            return {str(name): json_value(one) for name, one in value.items()}
        case list() | tuple():
            return [json_value(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case bytes():
            return base64.b64encode(value).decode()
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal():
            return str(value)
        case None | bool() | int() | float() | str():
            return value
    return str(value)


def _by_batch(samples: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    numbers = samples["batch"].to_pylist()
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[start]:
            yield numbers[start], samples.slice(start, end - start)
            start = end


def _further_columns(schemas: list[pa.Schema]) -> tuple[pa.Schema, pa.Schema]:
    """Return the quality columns that are exported, and the user's own ones, of all batches."""
    ours = {*TABLE_SCHEMA.names, *REVIEW_SCHEMA.names}
    measures, own = [], []
    for schema in schemas:
        review = schema.get_field_index(REVIEW_SCHEMA.names[0])
        further = [(number, one) for number, one in enumerate(schema) if one.name not in ours]
        own.append(pa.schema([one for number, one in further if number < review]))
        measures.append(
            pa.schema([one for number, one in further if number > review and one.name not in _NOT_EXPORTED])
        )
    first = pa.schema([QUALITY_SCHEMA.field("issues")])
    return own_schema([first, *measures]), own_schema(own)


def _own_names(names: list[str], taken: tuple[str, ...]) -> dict[str, str]:
    """Return the name of each own column in the export.

    `datasets` takes a text column `*_file_name` of an image folder for the path of a picture, so it becomes `*_filename`.
    """
    harmless: dict[str, str] = {}
    for name in names:
        new = name
        for suffix in ("_file_name", "_file_names"):
            if name.lower().endswith(suffix):
                new = name[: -len(suffix)] + suffix.replace("file_name", "filename")
        while new in harmless.values() or (new != name and new in names):
            new += "_"
        harmless[name] = new
    renamed = renamed_columns(harmless.values(), taken)
    return {name: renamed.get(new, new) for name, new in harmless.items()}


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    return cast_column(table[field.name], field.type)
