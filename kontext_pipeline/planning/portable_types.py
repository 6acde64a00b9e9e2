"""Types of the user's own columns that every reader of Parquet knows, and how other ones become such."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.planning.cells import UnreadableColumnError, plain


def portable(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, str | None]:
    """Return a column with a type that pandas, DuckDB and Polars read alike, and a note if its values changed.

    Encodings are dropped. Durations become seconds, decimals of more than 38 digits text, and values whose type
    Parquet doesn't have JSON text.

    Raises:
        UnreadableColumnError: Its values can't be converted.
    """
    column = _without_extension(plain(column))
    kind = column.type
    if pa.types.is_duration(kind):
        per_second = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
        seconds = pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), float(per_second))
        return seconds, "holds durations, which are carried along as seconds"
    target = _portable_type(kind)
    if target == kind:
        return column, None
    as_text = f"holds {kind}, which is carried along as text"
    try:
        if target is None:
            return pa.chunked_array([pa.array(map(encode_json, column.to_pylist()), pa.string())]), as_text
        if _has_list_view(kind):
            # Arrow's cast gives wrong values here.
            return pa.chunked_array([pa.array(chunk.to_pylist(), target) for chunk in column.chunks], target), None
        return column.cast(target), as_text if pa.types.is_decimal(kind) and not pa.types.is_decimal(target) else None
    except (pa.ArrowException, TypeError, ValueError, KeyError) as error:
        raise UnreadableColumnError(
            f"holds {kind}, which can't be carried along ({error}); convert the column to text, numbers, or lists or "
            "structs of these, or drop it"
        ) from error


def encode_json(value: Any) -> str | None:
    """Return a value as JSON text; None stays None."""
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _without_extension(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        return plain(pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type))
    return column


def _portable_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type to which values of type `kind` are cast; None: they become JSON text."""
    if isinstance(kind, pa.BaseExtensionType):
        return _portable_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _portable_type(kind.value_type)
    simple = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary(), pa.float16(): pa.float32()}
    if kind in simple:
        return simple[kind]
    if pa.types.is_decimal(kind):
        return pa.decimal128(kind.precision, kind.scale) if kind.precision <= 38 and kind.scale >= 0 else pa.string()
    if pa.types.is_map(kind):
        key, item = _portable_type(kind.key_type), _portable_type(kind.item_type)
        return pa.map_(key, item) if key is not None and item is not None else None
    if pa.types.is_struct(kind):
        return _portable_struct(kind)
    if pa.types.is_union(kind) or pa.types.is_duration(kind) or pa.types.is_interval(kind):
        return None
    if not pa.types.is_nested(kind):
        return kind
    item = _portable_type(kind.value_type)
    if item == kind.value_type and not _has_list_view(kind):
        return kind
    return pa.list_(item) if item is not None else None


def _portable_struct(kind: pa.StructType) -> pa.DataType | None:
    names = [field.name for field in kind]
    if len(set(names)) < len(names):
        raise UnreadableColumnError(
            f"holds {kind}, which has two fields of one name; rename one of them, or drop the column"
        )
    types = [_portable_type(field.type) for field in kind]
    if not names or None in types:
        return None
    return kind if types == [field.type for field in kind] else pa.struct(list(zip(names, types, strict=True)))


def _has_list_view(kind: pa.DataType) -> bool:
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return True
    if pa.types.is_struct(kind):
        return any(_has_list_view(field.type) for field in kind)
    if pa.types.is_map(kind):
        return _has_list_view(kind.item_type)
    return pa.types.is_nested(kind) and not pa.types.is_union(kind) and _has_list_view(kind.value_type)
