"""How the user's own columns, which a manifest has besides ours, join the metadata table.

Every table of a data directory has the same columns with the same types, so that any reader can read the folder
as one table.
"""

import json
from collections.abc import Iterable, Sequence

import pyarrow as pa

from kontext_pipeline.columns import PLAN_SCHEMA, TABLE_SCHEMA


def metadata_schema(own: pa.Schema) -> pa.Schema:
    """Return the schema of a metadata table with the own columns `own`, as `own_schema` returns them."""
    return pa.schema([*TABLE_SCHEMA, *own])


def own_schema(plans: Iterable[pa.Schema]) -> pa.Schema:
    """Return the names and types that the own columns of all `plans` have in the metadata table.

    A column that only some plans have is null in the rows of the others. A column that has several types gets the
    narrowest type that holds them all, or else string. Encodings that readers treat differently are dropped:
    dictionary, large and view strings become plain strings. A column without any value is a string column. The
    columns are in the order of their first appearance.
    """
    found: dict[str, list[pa.DataType]] = {}
    for plan in plans:
        for name, new_name in own_names(plan).items():
            found.setdefault(new_name, []).append(_plain(plan.field(name).type))
    return pa.schema([(name, _common(kinds)) for name, kinds in found.items()])


def own_names(plan: pa.Schema) -> dict[str, str]:
    """Return the own columns of a plan: from the name in the manifest to the name in the metadata table.

    Both are equal, except for a column with a name of ours, such as `width` or `Status` (DuckDB ignores case). The
    metadata table has that column as `manifest_width`.
    """
    ours = {name.casefold() for name in TABLE_SCHEMA.names}
    own = [name for name in plan.names if name not in PLAN_SCHEMA.names]
    names = {}
    for name in own:
        new_name = name
        while new_name.casefold() in ours or (new_name != name and new_name in own):
            new_name = f"manifest_{new_name}"
        names[name] = new_name
    return names


def cast_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return `column` as `kind`; lists and structs become JSON text where `kind` is string.

    Raises:
        pyarrow.ArrowInvalid: `kind` can't hold a value. A type from `own_schema` over this column can hold all.
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
    """Return the type without an encoding that readers treat differently."""
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
