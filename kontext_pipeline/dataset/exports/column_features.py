"""The features of Hugging Face `datasets` for Arrow columns, as its JSON and as the YAML of a dataset card has them."""

from typing import Any

import pyarrow as pa


def features_of(schema: pa.Schema, pictures: tuple[str, ...]) -> dict[str, Any]:
    """Return the features of a schema, as the schema metadata `huggingface` has them."""
    return {field.name: {"_type": "Image"} if field.name in pictures else _feature(field.type) for field in schema}


def card_features(schema: pa.Schema, pictures: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the features of a schema, as `dataset_info` of a dataset card has them."""
    return [
        {"name": field.name, **({"dtype": "image"} if field.name in pictures else _card_feature(field.type))}
        for field in schema
    ]


def json_schema(schema: pa.Schema) -> pa.Schema:
    """Return the types that columns have after `json_value`."""
    return pa.schema([pa.field(field.name, _json_type(field.type)) for field in schema])


def dtype_of(kind: pa.DataType) -> str:
    """Return the name of a plain type."""
    names = {
        pa.float64(): "float64",
        pa.float32(): "float32",
        pa.float16(): "float16",
        pa.date32(): "date32",
        pa.date64(): "date64",
    }
    return names.get(kind) or str(kind)


def _feature(kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if _is_list(kind):
        inner = _feature(kind.value_type)
        # Readers of all versions know both forms.
        return [inner] if pa.types.is_struct(kind.value_type) else {"feature": inner, "_type": "Sequence"}
    return {"dtype": dtype_of(kind), "_type": "Value"}


def _card_feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **_card_feature(field.type)} for field in kind]}
    if _is_list(kind):
        inner = _card_feature(kind.value_type)
        if "struct" in inner:
            return {"list": inner["struct"]}
        return {"sequence": inner["dtype"] if list(inner) == ["dtype"] else inner}
    return {"dtype": dtype_of(kind)}


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _json_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _json_type(field.type)) for field in kind])
    if _is_list(kind):
        return pa.list_(_json_type(kind.value_type))
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return kind
    return pa.float64() if pa.types.is_floating(kind) else pa.string()
