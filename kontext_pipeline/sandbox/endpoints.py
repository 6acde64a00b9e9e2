"""The provider's endpoints: v1 and v2 of the model, jobs, credits, uploads and files."""

import asyncio
import base64
from typing import Any, Final, Literal

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kontext_pipeline.sandbox import api_models as models
from kontext_pipeline.sandbox.account import MICRO
from kontext_pipeline.sandbox.admission import admit, base_url, check_key, read_json, require_json_type, validated
from kontext_pipeline.sandbox.drawing.encoding import drifted
from kontext_pipeline.sandbox.input_resolver import MEDIA_TYPES, BadInput
from kontext_pipeline.sandbox.responses import Refusal, Reset, error, html_error, json_response
from kontext_pipeline.sandbox.session import QUEUED_SHARE, Gateway, Job

FILE_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
}
"""Headers that keep a browser from running an uploaded file."""
_GARBAGE: Final = b"\x00this is no picture, though the headers say so\x00" * 64


async def credits_left(gateway: Gateway, request: Request) -> Response:
    """GET /v1/get-user-credits: what is left on the account."""
    session = gateway.session
    check_key(gateway, request)
    await gateway.strike(session, "credits", "credits")
    return json_response(models.Credits(credits=session.account.balance / MICRO))


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
    try:
        if fault is not None and fault.kind == "hang":
            await asyncio.sleep(fault.seconds / gateway.config.speed)
            job.end("FAILED")
            entry.status = 504
            return html_error(504)
        drawing = asyncio.ensure_future(gateway.renderer.picture(spec))
        try:
            await asyncio.sleep(job.total_s)
            picture = await drawing
        finally:
            drawing.cancel()
    except BaseException:
        job.end("ABANDONED")
        raise
    job.end("COMPLETED")
    entry.client_gone = await request.is_disconnected()
    if job.fault_kind == "bill-then-reset":
        return Reset()
    entry.status = None if entry.client_gone else 200
    headers = {
        "x-cost": _decimal(entry.cost),
        "x-remaining-credits": _decimal(job.remaining_credits),
        "x-request-id": entry.request_id,
        "x-generation-time": f"{job.elapsed_s:.3f}",
        "x-seed-value": str(spec.seed),
    }
    if fault is not None and fault.kind == "json-image":
        text, url = base64.b64encode(picture).decode(), _output_url(request, job)
        forms: dict[str, dict[str, Any]] = {
            "image-base64": {"image": text},
            "data-uri": {"image": f"data:{spec.media_type};base64,{text}"},
            "image-url": {"image": url},
            "output-url": {"output": url},
            "images-url": {"images": [{"url": url}]},
            "image_url": {"image_url": url},
            "no-image": {"status": "done"},
        }
        return JSONResponse(forms[fault.form], headers=headers)
    return _picture(picture, job, job.fault_kind, {} if job.fault_kind == "no-headers" else headers)


def _picture(picture: bytes, job: Job, fault_kind: str | None, headers: dict[str, str]) -> Response:
    """Return a picture as its bytes, broken in the way of `fault_kind`."""
    if job.fault is not None and job.fault.kind == "drift":
        picture = drifted(picture, job.spec.output_format, job.fault.factor)
    media_type = "application/octet-stream" if fault_kind == "wrong-content-type" else job.spec.media_type
    response = Reset if fault_kind == "cut-body" else Response
    return response(_GARBAGE if fault_kind == "garbage" else picture, media_type=media_type, headers=headers)


def _decimal(usd: float) -> str:
    return f"{usd:.6f}".rstrip("0").rstrip(".")


def _output_url(request: Request, job: Job) -> str:
    return f"{base_url(request)}/files/outputs/{job.file_name}"


async def submit(gateway: Gateway, request: Request) -> Response:
    """POST /v2/{model}: a request id at once; the job goes on by itself."""
    job = await admit(gateway, request, "v2")
    job.session.start(job)
    if job.fault_kind == "bill-then-reset":
        return Reset()
    job.entry.status = 200
    request_id = job.entry.request_id
    record = f"{base_url(request)}/v2/requests/{request_id}"
    urls = {"poll_url": f"{record}/status", "status_url": f"{record}/status", "response_url": record}
    return json_response(models.Submission(request_id=request_id, **urls), headers={"x-request-id": request_id})


async def status(gateway: Gateway, request: Request) -> Response:
    """GET /v2/requests/{id}/status: the state of the job; 422 once it has failed."""
    job, _ = await _find_job(gateway, request, "status")
    return _answer(job, models.Status(request_id=job.entry.request_id, status=job.state), with_metrics=True)


async def result(gateway: Gateway, request: Request) -> Response:
    """GET /v2/requests/{id}: the picture's URL once the job is COMPLETED; 422 once it has failed."""
    job, fault_kind = await _find_job(gateway, request, "result")
    answer = models.Result(request_id=job.entry.request_id, status=job.state)
    if answer.status == "COMPLETED":
        answer.output = _output_url(request, job)
        answer.images = [models.Image(url=answer.output, content_type=job.spec.media_type)]
    return _answer(job, answer, with_metrics=fault_kind != "no-headers")


async def _find_job(
    gateway: Gateway, request: Request, endpoint: Literal["status", "result"]
) -> tuple[Job, str | None]:
    session = gateway.session
    key = check_key(gateway, request)
    job = session.records.find(request.path_params["request_id"])
    missing = Refusal(error(404, "Request not found or expired"))
    if job is None or job.key != key or job.expired:
        raise missing
    fault_kind = await gateway.strike(session, endpoint, job.occurrence, job.spec.prompt)
    if fault_kind == "expired":
        job.expired = True
        raise missing
    return job, fault_kind


def _answer(job: Job, answer: models.Status, *, with_metrics: bool) -> Response:
    answer.error = job.error
    if with_metrics:
        queued = min(job.elapsed_s, job.total_s * QUEUED_SHARE)
        answer.metrics = models.Metrics(
            cost=job.entry.cost,
            remaining_credits=job.remaining_credits,
            queue_time=round(queued, 3),
            inference_time=round(job.elapsed_s - queued, 3),
            total_time=round(job.elapsed_s, 3),
        )
    return json_response(answer, 422 if answer.status == "FAILED" else 200)


async def output(gateway: Gateway, request: Request) -> Response:
    """GET /files/outputs/{name}: the picture. It needs no key."""
    session, name = gateway.session, request.path_params["name"]
    job = session.outputs.find(name)
    if job is None:
        raise file_not_found()
    fault_kind = await gateway.strike(session, "output", job.occurrence, job.spec.prompt)
    if fault_kind == "expired":
        session.outputs.drop(name)
        raise file_not_found()
    return _picture(await gateway.renderer.picture(job.spec), job, fault_kind, FILE_HEADERS)


async def upload(gateway: Gateway, request: Request) -> Response:
    """POST /upload-asset: keep images and return their URLs."""
    session = gateway.session
    body, body_sha256 = await read_json(gateway, request, gateway.config.max_body_bytes)
    check_key(gateway, request)
    await gateway.strike(session, "upload", body_sha256)
    require_json_type(request)
    uris = validated(models.Upload, body).data_urls
    try:
        images = [await asyncio.to_thread(gateway.inputs.keep_data_uri, uri) for uri in uris]
    except BadInput as bad:
        raise Refusal(error(400, f"Invalid data URL: {bad}")) from None
    base = base_url(request)
    return json_response(models.Uploaded(file_urls=[f"{base}/files/uploads/{image.file_name}" for image in images]))


async def uploaded(gateway: Gateway, request: Request) -> Response:
    """GET /files/uploads/{name}: an uploaded file. It needs no key."""
    name = request.path_params["name"]
    data = await asyncio.to_thread(gateway.inputs.read, name)
    if data is None:
        raise file_not_found()
    return Response(data, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=FILE_HEADERS)


def file_not_found() -> Refusal:
    """Return the 404 of a file."""
    return Refusal(error(404, "File not found or expired"))
