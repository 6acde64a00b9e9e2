"""v1: one POST, answered with the picture itself after the time that a generation takes."""

import asyncio
import base64
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kontext_pipeline.sandbox.admission import admit, check_key
from kontext_pipeline.sandbox.api_models import Credits
from kontext_pipeline.sandbox.faults import JsonForm
from kontext_pipeline.sandbox.gateway import Gateway
from kontext_pipeline.sandbox.own_urls import base_url
from kontext_pipeline.sandbox.renderer import PictureSpec
from kontext_pipeline.sandbox.responses import Reset, html_error, json_response
from kontext_pipeline.sandbox.session import Job

_GARBAGE: Final = b"\x00this is no picture, though the headers say so\x00" * 64


async def credits_left(gateway: Gateway, request: Request) -> Response:
    """GET /v1/get-user-credits: what is left on the account."""
    session = gateway.session
    check_key(gateway, request)
    await gateway.strike(session, "credits", "credits")
    account = session.account
    return json_response(Credits(credits=account.remaining, free_credits=account.free_credits))


async def generate(gateway: Gateway, request: Request) -> Response:
    """POST /v1/{model}: the picture, after the time that it takes."""
    if request.path_params["model"] == "get-user-credits":
        raise HTTPException(405, headers={"Allow": "GET"})
    job = await admit(gateway, request, "v1")
    # In a task of its own the generation goes on, and is billed, whether or not the client stays connected.
    task = asyncio.ensure_future(_run(gateway, request, job))
    gateway.in_flight.add(task)
    task.add_done_callback(gateway.in_flight.discard)
    return await asyncio.shield(task)


async def _run(gateway: Gateway, request: Request, job: Job) -> Response:
    fault, spec, entry = job.fault, job.spec, job.entry
    kind = fault.kind if fault is not None else None
    try:
        if fault is not None and kind == "hang":
            await asyncio.sleep(fault.seconds / gateway.config.speed)
            job.release("FAILED")
            entry.status = 504
            return html_error(504)
        drawing = asyncio.ensure_future(gateway.renderer.picture(spec))
        try:
            await asyncio.sleep(job.total_s)
            picture = await drawing
        finally:
            drawing.cancel()
    except BaseException:
        job.release("ABANDONED")
        raise
    job.complete()
    entry.client_gone = await request.is_disconnected()
    if kind == "bill-then-reset":
        return Reset()
    entry.status = None if entry.client_gone else 200
    headers = {
        "x-cost": _decimal(entry.cost),
        "x-remaining-credits": _decimal(job.remaining_credits),
        "x-request-id": entry.request_id,
        "x-generation-time": f"{job.elapsed_s:.3f}",
        "x-seed-value": str(spec.seed),
    }
    if fault is not None and kind == "json-image":
        url = f"{base_url(request)}/files/outputs/{job.file_name}"
        return JSONResponse(_json_image(fault.form, spec, picture, url), headers=headers)
    return picture_response(picture, spec, kind, {} if kind == "no-headers" else headers)


def picture_response(picture: bytes, spec: PictureSpec, fault_kind: str | None, headers: dict[str, str]) -> Response:
    """Return a picture as its bytes, broken in the way of `fault_kind`."""
    if fault_kind == "garbage":
        return Response(_GARBAGE, media_type=spec.media_type, headers=headers)
    if fault_kind == "cut-body":
        return Reset(picture, media_type=spec.media_type, headers=headers)
    wrong = fault_kind == "wrong-content-type"
    return Response(picture, media_type="application/octet-stream" if wrong else spec.media_type, headers=headers)


def _json_image(form: JsonForm, spec: PictureSpec, picture: bytes, url: str) -> dict[str, Any]:
    text = base64.b64encode(picture).decode()
    forms: dict[JsonForm, dict[str, Any]] = {
        "image-base64": {"image": text},
        "data-uri": {"image": f"data:{spec.media_type};base64,{text}"},
        "image-url": {"image": url},
        "output-url": {"output": url},
        "images-url": {"images": [{"url": url}]},
        "image_url": {"image_url": url},
        "no-image": {"status": "done"},
    }
    return forms[form]


def _decimal(usd: float) -> str:
    return f"{usd:.6f}".rstrip("0").rstrip(".")
