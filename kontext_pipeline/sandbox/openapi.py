"""The sandbox's contract in OpenAPI 3.1: every path, every status, every shape of answer."""

from typing import Any, Final

from kontext_pipeline.sandbox.parameters import DEFAULT_SEED
from kontext_pipeline.segmind.model import (
    ASPECT_RATIOS,
    DEFAULT_ASPECT_RATIO,
    DEFAULT_OUTPUT_FORMAT,
    DEFAULT_SAFETY_TOLERANCE,
    MODEL,
    OUTPUT_FORMATS,
    SAFETY_TOLERANCES,
    SEEDS,
)

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_NUMBER: Final[Json] = {"type": "number"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Json, *, required: list[str] | None = None, closed: bool = False) -> Json:
    schema: Json = {
        "type": "object",
        "properties": properties,
        "required": sorted(properties) if required is None else required,
    }
    return {**schema, "additionalProperties": False} if closed else schema


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _answer(description: str, content: Json | None = None, headers: Json | None = None) -> Json:
    answer: Json = {"description": description}
    if content is not None:
        answer["content"] = content
    if headers is not None:
        answer["headers"] = {name: {"schema": schema} for name, schema in headers.items()}
    return answer


def _error(description: str, headers: Json | None = None) -> Json:
    return _answer(description, _json(_ref("Error")) | {"text/html": {"schema": _TEXT}}, headers)


_AUTH_ERRORS: Final[Json] = {
    "401": _answer("No key, or one that isn't known.", _json(_ref("AuthError"))),
    "403": _answer("A key that may not use this.", _json(_ref("AuthError"))),
}
_SERVER_ERRORS: Final[Json] = {
    "500": _error("A fault: the server failed."),
    "502": _error("A fault: the gateway is down."),
    "503": _error("A fault: the gateway is overloaded."),
    "504": _error("A fault: it took too long."),
}
_GENERATION_ERRORS: Final[Json] = {
    **_AUTH_ERRORS,
    **_SERVER_ERRORS,
    "400": _error("A parameter is missing or not allowed, or the input image can't be had."),
    "404": _error("No such model."),
    "406": _error("Content-Type isn't application/json, credits or the team's limit are used up, a value is refused."),
    "410": _error("A fault: the model has been retired."),
    "413": _error("The body is too large."),
    "429": _error("Too many requests.", {"x-rate-limit-reset-at-utc": {"type": "string", "format": "date-time"}}),
}
_MODEL_PARAMETER: Final[Json] = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "enum": [MODEL]},
}
_ID_PARAMETER: Final[Json] = {
    "name": "request_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}
_NAME_PARAMETER: Final[Json] = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}
_IMAGES: Final[Json] = {
    media: {"schema": {"type": "string", "contentMediaType": media}} for media in ("image/png", "image/jpeg")
}
_ACCOUNTING: Final[Json] = {
    "x-cost": _NUMBER,
    "x-remaining-credits": _NUMBER,
    "x-request-id": {"type": "string", "format": "uuid"},
    "x-generation-time": _NUMBER,
    "x-seed-value": {"type": "integer"},
}
_STATE: Final[Json] = {"type": "string", "enum": ["QUEUED", "PROCESSING", "COMPLETED", "FAILED"]}
_FAULT: Final[Json] = {"type": "object", "description": "One row of a fault file: see the guide."}

_SCHEMAS: Final[Json] = {
    "Generation": _object(
        {
            "prompt": {"type": "string", "minLength": 1, "pattern": r"\S", "description": "What to draw."},
            "input_image": {
                "type": "string",
                "format": "uri",
                "description": "The one reference image: an http(s) URL or a data: URI. Absent: text-to-image.",
            },
            "aspect_ratio": {"type": "string", "enum": list(ASPECT_RATIOS), "default": DEFAULT_ASPECT_RATIO},
            "output_format": {
                "type": "string",
                "enum": list(OUTPUT_FORMATS),
                "default": DEFAULT_OUTPUT_FORMAT,
            },
            "safety_tolerance": {
                "type": "integer",
                "minimum": SAFETY_TOLERANCES.start,
                "maximum": SAFETY_TOLERANCES.stop - 1,
                "default": DEFAULT_SAFETY_TOLERANCE,
            },
            "seed": {"type": "integer", "minimum": 0, "maximum": SEEDS.stop - 1, "default": DEFAULT_SEED},
        },
        required=["prompt"],
    ),
    "Error": _object({"error": _TEXT}),
    "AuthError": _object({"error": _TEXT, "error_description": _TEXT, "status_code": {"type": "integer"}}),
    "Submission": _object(
        {
            "request_id": {"type": "string", "format": "uuid"},
            "status": {"const": "QUEUED"},
            **{name: {"type": "string", "format": "uri"} for name in ("poll_url", "status_url", "response_url")},
        }
    ),
    "Metrics": _object(
        {
            **dict.fromkeys(("cost", "remaining_credits", "inference_time", "queue_time", "total_time"), _NUMBER),
            "retry_count": _COUNT,
        }
    ),
    "Status": _object(
        {"request_id": _TEXT, "status": _STATE, "metrics": _ref("Metrics"), "error": _TEXT},
        required=["request_id", "status"],
    ),
    "Result": _object(
        {
            "request_id": _TEXT,
            "status": _STATE,
            "metrics": _ref("Metrics"),
            "output": {"type": "string", "format": "uri"},
            "images": {
                "type": "array",
                "items": _object({"url": {"type": "string", "format": "uri"}, "content_type": _TEXT}),
            },
            "error": _TEXT,
        },
        required=["request_id", "status"],
    ),
    "Failure": _object(
        {"request_id": _TEXT, "status": {"const": "FAILED"}, "error": _TEXT, "metrics": _ref("Metrics")},
        required=["request_id", "status", "error"],
    ),
    "Credits": _object({"credits": _NUMBER, "free-credits": _NUMBER}),
    "Upload": _object(
        {
            "data_urls": {
                "type": "array",
                "minItems": 1,
                "maxItems": 32,
                "items": {
                    "type": "string",
                    "pattern": "^data:",
                    "description": "A whole image as a data: URI.",
                },
            }
        }
    ),
    "Uploaded": _object(
        {"file_urls": {"type": "array", "items": {"type": "string", "format": "uri"}}, "message": _TEXT}
    ),
    "Entry": _object(
        {
            "sequence": {"type": "integer", "minimum": 1},
            "request_id": {"type": ["string", "null"]},
            "api": {"enum": ["v1", "v2"]},
            "received_at": {"type": "string", "format": "date-time"},
            "body_sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "prompt": {"type": ["string", "null"]},
            "seed": {"type": ["integer", "null"]},
            "status": {"type": ["integer", "null"]},
            "state": {"enum": ["RECEIVED", "REFUSED", "RUNNING", "COMPLETED", "FAILED", "ABANDONED"]},
            "billed": {"type": "boolean"},
            "cost": _NUMBER,
            "fault": {"type": ["string", "null"]},
            "client_gone": {"type": "boolean"},
        }
    ),
    "Books": _object(
        {
            "totals": _object(
                {
                    **dict.fromkeys(("posts", "billed", "running"), _COUNT),
                    **dict.fromkeys(("cost", "balance", "held"), _NUMBER),
                }
            ),
            "entries": {"type": "array", "items": _ref("Entry")},
        }
    ),
    "Faults": _object(
        {
            "seed": {"type": "integer"},
            "faults": {"type": "array", "items": _FAULT},
            "struck": {"type": "array", "items": _COUNT},
        }
    ),
    "SetFaults": _object(
        {"profiles": {"type": "array", "items": _TEXT}, "faults": {"type": "array", "items": _FAULT}},
        required=[],
        closed=True,
    ),
    "Account": _object(
        {
            **dict.fromkeys(("balance", "held", "spent", "price"), _NUMBER),
            "rpm": {"type": ["integer", "null"]},
            "team_spend_limit": {"type": ["number", "null"]},
        }
    ),
    "SetAccount": _object(
        {
            "balance": {"type": ["number", "null"], "minimum": 0, "maximum": 1e9},
            "rpm": {"type": ["integer", "null"], "minimum": 1, "maximum": 1_000_000_000},
            "team_spend_limit": {"type": ["number", "null"], "minimum": 0, "maximum": 1e9},
        },
        required=[],
        closed=True,
    ),
}


def _generation(operation: str, summary: str, success: Json) -> Json:
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["model"],
        "parameters": [_MODEL_PARAMETER],
        "requestBody": {"required": True, "content": _json(_ref("Generation"))},
        "responses": {"200": success, **_GENERATION_ERRORS},
    }


def _get(operation: str, summary: str, tag: str, success: Json, **more: Any) -> Json:
    responses = {"200": success, **more.pop("responses", {})}
    return {"operationId": operation, "summary": summary, "tags": [tag], "responses": responses, **more}


def _poll(operation: str, summary: str, schema: str) -> Json:
    failed = {"422": _answer("The job ran and failed; it isn't billed.", _json(_ref("Failure")))}
    missing = {"404": _error("No such request of this key, or its record has expired.")}
    errors = {**failed, **missing, **_AUTH_ERRORS, **_SERVER_ERRORS}
    success = _answer("Where the job is.", _json(_ref(schema)))
    return _get(operation, summary, "jobs", success, parameters=[_ID_PARAMETER], responses=errors)


def _file(operation: str, summary: str, media: Json) -> Json:
    errors = {"404": _error("No such file, or it has expired."), **_SERVER_ERRORS}
    success = _answer("The picture.", media)
    return _get(operation, summary, "files", success, parameters=[_NAME_PARAMETER], responses=errors, security=[])


def _put(operation: str, summary: str, body: str, answer: str) -> Json:
    return {
        "operationId": operation,
        "summary": summary,
        "tags": ["sandbox"],
        "requestBody": {"required": True, "content": _json(_ref(body))},
        "responses": {
            "200": _answer("As it is now.", _json(_ref(answer))),
            "400": _error("The body isn't allowed."),
        },
        "security": [],
    }


def _own(operation: str, summary: str, schema: str, **more: Any) -> Json:
    return _get(operation, summary, "sandbox", _answer(summary, _json(_ref(schema))), security=[], **more)


_AFTER: Final[Json] = {
    "name": "after",
    "in": "query",
    "description": "Only entries after this sequence number.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999_999},
}

OPENAPI: Final[Json] = {
    "openapi": "3.1.0",
    "info": {
        "title": "kontext sandbox",
        "version": "1",
        "description": "A local stand-in for the gateway of FLUX.1 Kontext [max]. Nothing here costs money.",
    },
    "security": [{"key": []}],
    "paths": {
        "/v1/{model}": {
            "post": _generation(
                "generate",
                "Generate a picture and wait for it.",
                _answer("The picture, billed.", {**_IMAGES, **_json({"type": "object"})}, _ACCOUNTING),
            )
        },
        "/v1/get-user-credits": {
            "get": _get(
                "credits",
                "What is left on the account.",
                "account",
                _answer("Credits, in USD.", _json(_ref("Credits"))),
                responses={**_AUTH_ERRORS, **_SERVER_ERRORS},
            )
        },
        "/v2/{model}": {
            "post": _generation("submit", "Submit a job.", _answer("The job is queued.", _json(_ref("Submission"))))
        },
        "/v2/requests/{request_id}/status": {"get": _poll("status", "Where a job is.", "Status")},
        "/v2/requests/{request_id}": {"get": _poll("result", "What a job made.", "Result")},
        "/upload-asset": {
            "post": {
                "operationId": "upload",
                "summary": "Upload images, to be named as input_image.",
                "tags": ["files"],
                "requestBody": {"required": True, "content": _json(_ref("Upload"))},
                "responses": {
                    "200": _answer("Where they are now.", _json(_ref("Uploaded"))),
                    "400": _error("Not a list of images as data: URIs."),
                    "406": _error("Content-Type isn't application/json."),
                    "413": _error("The body is too large."),
                    **_AUTH_ERRORS,
                    **_SERVER_ERRORS,
                },
            }
        },
        "/files/outputs/{name}": {"get": _file("output", "A picture that was made.", _IMAGES)},
        "/files/uploads/{name}": {
            "get": _file(
                "uploaded",
                "A file that was uploaded.",
                {**_IMAGES, **{f"image/{kind}": {"schema": _TEXT} for kind in ("webp", "gif", "bmp")}},
            )
        },
        "/sandbox/books": {
            "get": _own(
                "books",
                "Every POST that was received, and what was billed.",
                "Books",
                parameters=[_AFTER],
                responses={"400": _error("after is no sequence number.")},
            )
        },
        "/sandbox/faults": {
            "get": _own("faults", "The faults in force.", "Faults"),
            "put": _put("set-faults", "Put other faults in force.", "SetFaults", "Faults"),
        },
        "/sandbox/account": {
            "get": _own("account", "The account.", "Account"),
            "put": _put("set-account", "Set balance or limits.", "SetAccount", "Account"),
        },
        "/sandbox/reset": {
            "post": {
                "operationId": "reset",
                "summary": "Start anew: full balance, empty books, no jobs.",
                "tags": ["sandbox"],
                "requestBody": {"required": True, "content": _json({"type": "object"})},
                "responses": {
                    "200": _answer("Done.", _json(_object({"reset": {"const": True}}))),
                    "400": _error("The body is no JSON object."),
                    "406": _error("Content-Type isn't application/json."),
                },
                "security": [],
            }
        },
        "/": {
            "get": _get(
                "page",
                "The landing page.",
                "sandbox",
                _answer("HTML.", {"text/html": {"schema": _TEXT}}),
                security=[],
            )
        },
        "/sandbox/thumbnails/{name}": {"get": _file("thumbnail", "A recent picture, small.", _IMAGES)},
        "/openapi.json": {
            "get": _get(
                "openapi",
                "This document.",
                "sandbox",
                _answer("OpenAPI.", _json({"type": "object"})),
                security=[],
            )
        },
    },
    "components": {
        "schemas": _SCHEMAS,
        "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "x-api-key"}},
    },
}
