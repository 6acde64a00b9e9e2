"""The metadata table's columns: their names, order and types, and how a manifest's own columns join them.

A column's name, type and place belong here and nowhere else. They are a promise to users: columns may be
added before the manifest's own ones, none is ever renamed, retyped or dropped. The meaning of
each is in `COLUMNS` below.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Final

import pyarrow as pa

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

COLUMNS: Final[tuple[tuple[str, pa.DataType, str], ...]] = (
    ("id", pa.string(), "the manifest's id of the row, or the one given to it"),
    ("batch", pa.string(), "the batch's key: the folder's name, not stored inside the file (see storage)"),
    ("variant", pa.int32(), "which of the row's pictures this is, from 1"),
    ("prompt", pa.string(), "as sent"),
    ("input_image", pa.string(), "as the manifest says; null is text-to-image"),
    ("aspect_ratio", pa.string(), "as sent"),
    ("output_format", pa.string(), "png or jpg"),
    ("safety_tolerance", pa.int32(), "as sent, 1 (strict) to 6"),
    ("safety_tolerance_asked", pa.int32(), "what the manifest said; differs where a setting clamped it"),
    ("seed", pa.int64(), "as sent"),
    ("fingerprint", pa.string(), "the picture's identity, 64 hex digits; equal ones share one picture"),
    ("status", pa.string(), "succeeded, failed, pending or unknown"),
    ("status_code", pa.int32(), "HTTP status of the last answer; null where none came"),
    ("error", pa.string(), "why it is not there, in the server's words where it had any"),
    ("attempts", pa.int32(), "how many times this picture was asked for, 0 before the first"),
    ("cost_usd", pa.float64(), "USD billed; 0 in rows that share a picture another row is charged for"),
    ("cost_estimated", pa.bool_(), "the cost is the list price, because the answer named none"),
    ("possibly_charged_usd", pa.float64(), "USD that may have been billed for answers that were lost"),
    ("latency_s", pa.float64(), "seconds the last attempt took"),
    ("request_id", pa.string(), "the provider's name for it"),
    ("image_path", pa.string(), "relative to the data directory; null where there is no picture"),
    ("image_sha256", pa.string(), "of the picture's bytes, 64 hex digits"),
    ("width", pa.int32(), "pixels"),
    ("height", pa.int32(), "pixels"),
    ("bytes", pa.int64(), "size of the picture's file"),
    ("backend", pa.string(), "who made it: sandbox or segmind"),
    ("run_id", pa.string(), "the run of the last attempt"),
    ("started_at", TIMESTAMP, "when its first attempt began"),
    ("finished_at", TIMESTAMP, "when its last attempt ended"),
    ("manifest", pa.string(), "the manifest's name"),
    ("row", pa.int64(), "the data row in that manifest, from 1, header not counted"),
    ("input_sha256", pa.string(), "of a local input picture's bytes; null for a URL"),
)
"""Name, type and meaning of every column that is not the manifest's own, in the table's order."""

CORE_SCHEMA: Final = pa.schema([(name, kind) for name, kind, _ in COLUMNS])
"""The columns every table has, in order; a manifest's own columns follow them."""

STATUSES: Final = ("succeeded", "failed", "pending", "unknown")

PLAN_COLUMNS: Final = (
    "manifest",
    "row",
    "id",
    "batch",
    "variant",
    "prompt",
    "input_image",
    "input_path",
    "input_sha256",
    "aspect_ratio",
    "output_format",
    "safety_tolerance",
    "safety_tolerance_asked",
    "seed",
    "fingerprint",
)
"""The columns of a plan that are ours; every other one is the manifest's own."""

GENERATION_COLUMNS: Final = (
    "status",
    "status_code",
    "error",
    "attempts",
    "cost_usd",
    "cost_estimated",
    "possibly_charged_usd",
    "latency_s",
    "request_id",
    "image_path",
    "image_sha256",
    "width",
    "height",
    "bytes",
    "run_id",
    "started_at",
    "finished_at",
)
"""The columns that come from the table of generations, which has `fingerprint` besides."""


def metadata_schema(own: pa.Schema | None = None) -> pa.Schema:
    """Return the table's schema: the core columns, then `own` as `own_schema` gave it."""
    return CORE_SCHEMA if own is None else pa.schema([*CORE_SCHEMA, *own])


def own_schema(plans: Iterable[pa.Schema]) -> pa.Schema:
    """Return the manifests' own columns, under the names and types they have in the metadata table.

    Given the schema of every plan in a data directory, it is what all tables must share for the folder to
    read as one: a column that one manifest lacks is null in its rows, and one that two manifests type
    differently gets the narrowest type that holds both, else string. Encodings that readers disagree on
    are dropped (dictionary, large and view strings become plain; a column without any value is string).
    Columns stand in the order in which they are first met.
    """
    found: dict[str, list[pa.DataType]] = {}
    for plan in plans:
        for name, new_name in own_names(plan).items():
            found.setdefault(new_name, []).append(_plain(plan.field(name).type))
    return pa.schema([(name, _common(kinds)) for name, kinds in found.items()])


def own_names(plan: pa.Schema) -> dict[str, str]:
    """Return the plan's own columns: the name in the manifest to the name in the metadata table.

    They are the same but for a column named like one of ours (`width`, `Status`; case is not told apart,
    as DuckDB doesn't): that is kept as `manifest_width`, because it must not be lost, nor take the place
    of ours.
    """
    ours = {name.casefold() for name in CORE_SCHEMA.names}
    taken = set(plan.names) - set(PLAN_COLUMNS)
    names = {}
    for name in plan.names:
        if name in PLAN_COLUMNS:
            continue
        new_name = name
        while new_name.casefold() in ours or (new_name != name and new_name in taken):
            new_name = f"manifest_{new_name}"
        names[name] = new_name
    return names


def cast_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return `column` as `kind`, one that `own_schema` chose for it.

    Lists and structs become JSON where the column had to become a string. Raises `pa.ArrowInvalid` for a
    value that `kind` can't hold; with a `kind` from `own_schema` over this column's type there is none.
    """
    if column.type == kind:
        return column
    if pa.types.is_string(kind) and pa.types.is_nested(column.type):
        texts = [
            None if value is None else json.dumps(value, ensure_ascii=False, default=str)
            for value in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(texts, kind)])
    return column.cast(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type that every reader of the folder gives the same values for `kind`."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def _common(kinds: Sequence[pa.DataType]) -> pa.DataType:
    common = kinds[0]
    for kind in kinds[1:]:
        try:
            unified = pa.unify_schemas(
                [pa.schema([("column", common)]), pa.schema([("column", kind)])], promote_options="permissive"
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.string()
        common = unified.field("column").type
    return common
