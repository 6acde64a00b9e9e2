"""Uploads: images that arrive as data: URIs and become files that `input_image` may name."""

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from kontext_pipeline.sandbox.admission import check_key, read_json, require_json_type, validated
from kontext_pipeline.sandbox.api_models import Upload, Uploaded
from kontext_pipeline.sandbox.gateway import Gateway
from kontext_pipeline.sandbox.input_resolver import MEDIA_TYPES, BadInput
from kontext_pipeline.sandbox.own_urls import base_url
from kontext_pipeline.sandbox.responses import Refusal, error, json_response

FILE_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
}
"""Headers that keep a browser from running an uploaded file."""


async def upload(gateway: Gateway, request: Request) -> Response:
    """POST /upload-asset: keep images and return their URLs."""
    session = gateway.session
    body, body_sha256 = await read_json(request, gateway.config.max_body_bytes)
    check_key(gateway, request)
    await gateway.strike(session, "upload", body_sha256)
    require_json_type(request)
    uris = validated(Upload, body).data_urls
    try:
        names = [await asyncio.to_thread(gateway.inputs.keep_data_uri, uri) for uri in uris]
    except BadInput as bad:
        raise Refusal(error(400, f"Invalid data URL: {bad}")) from None
    base = base_url(request)
    return json_response(Uploaded(file_urls=[f"{base}/files/uploads/{name}" for name in names]))


async def uploaded(gateway: Gateway, request: Request) -> Response:
    """GET /files/uploads/{name}: an uploaded file. It needs no key."""
    name = request.path_params["name"]
    data = await asyncio.to_thread(gateway.files.read, name)
    if data is None or "." not in name:
        raise file_not_found()
    return Response(data, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=FILE_HEADERS)


def file_not_found() -> Refusal:
    """Return the 404 of a file."""
    return Refusal(error(404, "File not found or expired"))
