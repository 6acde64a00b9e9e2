"""The OpenAPI 3.1 document: the operations of `openapi.toml`, with the schemas of the models in `api_models`."""

import re
import tomllib
from importlib import resources
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from kontext_pipeline.sandbox import api_models
from kontext_pipeline.segmind.model import MODEL

Json = dict[str, Any]
_REF: Final = "#/components/schemas/{model}"


class _Schemas(GenerateJsonSchema):
    """Schemas without field titles, and without defaults of null: such fields are absent."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        absent = schema.get("default", ...) in (None, "")
        return self.generate_inner(schema["schema"]) if absent else super().default_schema(schema)


def build_document() -> Json:
    """Return the document as JSON."""
    table = tomllib.loads(resources.files(__package__).joinpath("openapi.toml").read_text("utf-8"))
    table["parameters"]["model"]["schema"]["enum"] = [MODEL]
    modes: dict[str, JsonSchemaMode] = dict.fromkeys(("Error", "AuthError", "Failure"), "serialization")
    for operation in table["operation"]:
        modes |= {operation["body"]: "validation"} if "body" in operation else {}
        modes[operation["answer"]] = "serialization"
    names = modes.keys() - table["content"].keys()
    inputs = [(name, modes[name], TypeAdapter(getattr(api_models, name))) for name in sorted(names)]
    _, schemas = TypeAdapter.json_schemas(inputs, ref_template=_REF, schema_generator=_Schemas)
    paths: Json = {}
    for operation in table["operation"]:
        paths.setdefault(operation["path"], {})[operation["method"]] = _operation(operation, table)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kontext sandbox",
            "version": "1",
            "description": "A local stand-in for the gateway of FLUX.1 Kontext [max]. Nothing here costs money.",
        },
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "x-api-key"}},
        },
    }


def _operation(operation: Json, table: Json) -> Json:
    document: Json = {
        "operationId": operation["id"],
        "summary": operation["summary"],
        "tags": [operation["tag"]],
        "responses": {"200": _answer(operation["summary"], operation["answer"], table)},
    }
    names = re.findall(r"{(\w+)}", operation["path"]) + operation.get("query", [])
    if names:
        document["parameters"] = [{"name": name, **table["parameters"][name]} for name in names]
    if "body" in operation:
        document["requestBody"] = {"required": True, "content": _content(operation["body"], table)}
    if operation.get("open"):
        document["security"] = []
    for status in map(str, operation.get("errors", [])):
        words = operation.get("words", {}).get(status, table["errors"][status])
        model = {"401": "AuthError", "403": "AuthError", "422": "Failure"}.get(status, "Error")
        error = document["responses"][status] = _answer(words, model, table)
        if model == "Error":
            # The proxy before the gateway answers with HTML.
            error["content"] |= table["content"]["page"]
        if status == "429":
            error["headers"] = table["rate-limit-headers"]
    if operation["id"] == "generate":
        document["responses"]["200"]["headers"] = table["accounting-headers"]
    return document


def _answer(description: str, content: str, table: Json) -> Json:
    return {"description": description, "content": _content(content, table)}


def _content(name: str, table: Json) -> Json:
    kind = table["content"].get(name, {"application/json": {"schema": {"$ref": _REF.format(model=name)}}})
    return dict(kind)


OPENAPI: Final = build_document()
