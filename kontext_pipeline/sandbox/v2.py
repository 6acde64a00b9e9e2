"""v2: a POST submits a job, GETs poll its status, fetch its result and download its picture."""

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from kontext_pipeline.sandbox.admission import admit, check_key
from kontext_pipeline.sandbox.api_models import Image, Metrics, Result, Status, Submission
from kontext_pipeline.sandbox.faults import Fault
from kontext_pipeline.sandbox.gateway import Gateway
from kontext_pipeline.sandbox.own_urls import base_url
from kontext_pipeline.sandbox.responses import Refusal, Reset, error, json_response
from kontext_pipeline.sandbox.session import QUEUED_SHARE, Job
from kontext_pipeline.sandbox.uploads import FILE_HEADERS, file_not_found
from kontext_pipeline.sandbox.v1 import picture_response


async def submit(gateway: Gateway, request: Request) -> Response:
    """POST /v2/{model}: a request id at once; the job goes on by itself."""
    job = await admit(gateway, request, "v2")
    job.session.start(job)
    if job.fault is not None and job.fault.kind == "bill-then-reset":
        return Reset()
    job.entry.status = 200
    request_id = job.entry.request_id
    record = f"{base_url(request)}/v2/requests/{request_id}"
    status_url = f"{record}/status"
    submission = Submission(request_id=request_id, poll_url=status_url, status_url=status_url, response_url=record)
    return json_response(submission, headers={"x-request-id": request_id})


async def status(gateway: Gateway, request: Request) -> Response:
    """GET /v2/requests/{id}/status: the state of the job; 422 once it has failed."""
    job, _ = await _find_job(gateway, request, "status")
    return _answer(job, Status(request_id=job.entry.request_id, status=job.state, metrics=_metrics(job)))


async def result(gateway: Gateway, request: Request) -> Response:
    """GET /v2/requests/{id}: the picture's URL once the job is COMPLETED; 422 once it has failed."""
    job, fault = await _find_job(gateway, request, "result")
    answer = Result(request_id=job.entry.request_id, status=job.state)
    if answer.status == "COMPLETED":
        answer.output = f"{base_url(request)}/files/outputs/{job.file_name}"
        answer.images = [Image(url=answer.output, content_type=job.spec.media_type)]
    if fault is None or fault.kind != "no-headers":
        answer.metrics = _metrics(job)
    return _answer(job, answer)


async def _find_job(
    gateway: Gateway, request: Request, endpoint: Literal["status", "result"]
) -> tuple[Job, Fault | None]:
    session = gateway.session
    key = check_key(gateway, request)
    job = session.records.find(request.path_params["request_id"])
    missing = Refusal(error(404, "Request not found or expired"))
    if job is None or job.key != key or job.expired:
        raise missing
    fault = await gateway.strike(session, endpoint, job.occurrence, job.spec.prompt)
    if fault is not None and fault.kind == "expired":
        job.expired = True
        raise missing
    return job, fault


async def output(gateway: Gateway, request: Request) -> Response:
    """GET /files/outputs/{name}: the picture. It needs no key."""
    session, name = gateway.session, request.path_params["name"]
    job = session.outputs.find(name)
    if job is None:
        raise file_not_found()
    fault = await gateway.strike(session, "output", job.occurrence, job.spec.prompt)
    kind = fault.kind if fault is not None else None
    if kind == "expired":
        session.outputs.drop(name)
        raise file_not_found()
    return picture_response(await gateway.renderer.picture(job.spec), job.spec, kind, FILE_HEADERS)


def _answer(job: Job, state: Status) -> Response:
    state.error = job.error
    return json_response(state, 422 if state.status == "FAILED" else 200)


def _metrics(job: Job) -> Metrics:
    queued = min(job.elapsed_s, job.total_s * QUEUED_SHARE)
    return Metrics(
        cost=job.entry.cost,
        remaining_credits=job.remaining_credits,
        queue_time=round(queued, 3),
        inference_time=round(job.elapsed_s - queued, 3),
        total_time=round(job.elapsed_s, 3),
    )
