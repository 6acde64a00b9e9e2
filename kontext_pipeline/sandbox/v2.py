"""v2: a POST submits a job, GETs poll its status, fetch its result and download its picture."""

import time
from functools import partial
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kontext_pipeline.sandbox.account import to_usd
from kontext_pipeline.sandbox.admission import Admitted, admit, check_key
from kontext_pipeline.sandbox.api_models import Failure, Image, Metrics, Result, Status, Submission
from kontext_pipeline.sandbox.faults import Fault
from kontext_pipeline.sandbox.gateway import Gateway
from kontext_pipeline.sandbox.job_table import Job
from kontext_pipeline.sandbox.own_urls import base_url
from kontext_pipeline.sandbox.responses import Refusal, Reset, error, json_response
from kontext_pipeline.sandbox.uploads import FILE_HEADERS, file_not_found
from kontext_pipeline.sandbox.v1 import picture_response


def routes(gateway: Gateway) -> list[Route]:
    """Return the routes of v2, and that of the pictures."""
    return [
        Route("/v2/requests/{request_id}/status", partial(status, gateway), methods=["GET"]),
        Route("/v2/requests/{request_id}", partial(result, gateway), methods=["GET"]),
        Route("/v2/{model}", partial(submit, gateway), methods=["POST"]),
        Route("/files/outputs/{name}", partial(output, gateway), methods=["GET"]),
    ]


async def submit(gateway: Gateway, request: Request) -> Response:
    """POST /v2/{model}: a request id at once; the job goes on by itself."""
    admitted = await admit(gateway, request, "v2")
    kind = admitted.fault.kind if admitted.fault is not None else None
    job = Job(
        id=admitted.entry.request_id,
        key=admitted.key,
        occurrence=admitted.occurrence,
        spec=admitted.spec,
        started=time.monotonic(),
        total_s=admitted.latency_s,
        error="The model failed to generate an image" if kind == "failed" else None,
    )
    runs_s = None if kind == "hang" else admitted.latency_s
    admitted.session.jobs.add(job, runs_s=runs_s, at_end=partial(_end, admitted))
    if kind == "bill-then-reset":
        return Reset()
    admitted.entry.status = 200
    record = f"{base_url(request)}/v2/requests/{job.id}"
    status_url = f"{record}/status"
    submission = Submission(
        request_id=job.id, poll_url=status_url, status_url=status_url, response_url=record
    )
    return json_response(submission, headers={"x-request-id": job.id})


def _end(admitted: Admitted, job: Job) -> None:
    if job.error is not None:
        admitted.release("FAILED", admitted.entry.status)
        return
    admitted.bill()
    job.cost = to_usd(admitted.held)
    job.remaining_credits = admitted.session.account.remaining


async def status(gateway: Gateway, request: Request) -> Response:
    """GET /v2/requests/{id}/status: the state of the job; 422 once it has failed."""
    job, _ = await _find_job(gateway, request, "status")
    return _failure(job) or json_response(Status(request_id=job.id, status=job.state, metrics=_metrics(job)))


async def result(gateway: Gateway, request: Request) -> Response:
    """GET /v2/requests/{id}: the picture's URL once the job is COMPLETED; 422 once it has failed."""
    job, fault = await _find_job(gateway, request, "result")
    answer = Result(request_id=job.id, status=job.state)
    if job.state == "COMPLETED":
        answer.output = f"{base_url(request)}/files/outputs/{job.id}.{job.spec.output_format}"
        answer.images = [Image(url=answer.output, content_type=job.spec.media_type)]
    if fault is None or fault.kind != "no-headers":
        answer.metrics = _metrics(job)
    return _failure(job) or json_response(answer)


async def _find_job(
    gateway: Gateway, request: Request, endpoint: Literal["status", "result"]
) -> tuple[Job, Fault | None]:
    session = gateway.session
    key = check_key(request, session.account)
    job = session.jobs.find(request.path_params["request_id"], key)
    missing = Refusal(error(404, "Request not found or expired"))
    if job is None:
        raise missing
    fault = await gateway.strike(session, endpoint, job.occurrence, job.spec.prompt)
    if fault is not None and fault.kind == "expired":
        job.expired = True
        raise missing
    return job, fault


async def output(gateway: Gateway, request: Request) -> Response:
    """GET /files/outputs/{name}: the picture. It needs no key."""
    session, name = gateway.session, request.path_params["name"]
    found = session.jobs.output(name)
    if found is None:
        raise file_not_found()
    fault = await gateway.strike(session, "output", found.occurrence, found.spec.prompt)
    kind = fault.kind if fault is not None else None
    if kind == "expired":
        session.jobs.drop_output(name)
        raise file_not_found()
    return picture_response(await gateway.renderer.picture(found.spec), found.spec, kind, FILE_HEADERS)


def _failure(job: Job) -> Response | None:
    if job.state != "FAILED":
        return None
    failure = Failure(request_id=job.id, status="FAILED", error=job.error or "", metrics=_metrics(job))
    return json_response(failure, 422)


def _metrics(job: Job) -> Metrics:
    waited = min(job.elapsed_s, job.queue_s)
    return Metrics(
        cost=job.cost,
        remaining_credits=job.remaining_credits,
        queue_time=round(waited, 3),
        inference_time=round(max(0.0, job.elapsed_s - waited), 3),
        total_time=round(job.elapsed_s, 3),
    )
