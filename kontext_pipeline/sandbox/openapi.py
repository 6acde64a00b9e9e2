"""The OpenAPI 3.1 document: the operations of `openapi.toml`, with the schemas of the models in `api_models`."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue

from kontext_pipeline.sandbox import api_models
from kontext_pipeline.sandbox.account import Account
from kontext_pipeline.segmind.model import MODEL

Json = dict[str, Any]
_REF: Final = "#/components/schemas/{model}"


class _Schemas(GenerateJsonSchema):
    """Schemas without defaults of null: such fields are absent."""

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        absent = schema.get("default", ...) in (None, "")
        return self.generate_inner(schema["schema"]) if absent else super().default_schema(schema)


def build_document() -> Json:
    """Return the document as JSON."""
    table = tomllib.loads(Path(__file__).with_name("openapi.toml").read_text("utf-8"))
    table["parameters"]["model"]["schema"]["enum"] = [MODEL]
    modes: dict[str, JsonSchemaMode] = dict.fromkeys(("Error", "AuthError", "Failure"), "serialization")
    for operation in table["operation"]:
        modes |= {operation["body"]: "validation"} if "body" in operation else {}
        modes[operation["answer"]] = "serialization"
    names = modes.keys() - table["content"].keys()
    models = {**vars(api_models), "Account": Account}
    inputs = [(name, modes[name], TypeAdapter(models[name])) for name in sorted(names)]
    _, schemas = TypeAdapter.json_schemas(inputs, ref_template=_REF, schema_generator=_Schemas)
    paths: Json = {}
    for operation in table["operation"]:
        paths.setdefault(operation["path"], {})[operation["method"]] = _operation(operation, table)
    document: Json = table["document"]
    document["components"]["schemas"] = schemas["$defs"]
    return document | {"paths": paths}


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
    return {**table["content"].get(name, {"application/json": {"schema": {"$ref": _REF.format(model=name)}}})}


OPENAPI: Final = build_document()
