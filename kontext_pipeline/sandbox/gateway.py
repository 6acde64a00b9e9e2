"""The gateway: what happens to a request between its arrival and its answer, on v1 and on v2."""

import asyncio
import base64
import functools
import hashlib
import json
import math
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from kontext_pipeline.sandbox import answers
from kontext_pipeline.sandbox.account import Account, to_usd
from kontext_pipeline.sandbox.answers import Refusal, error
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.faults import FRONT_KINDS, Endpoint, Fault, FaultPlan
from kontext_pipeline.sandbox.inputs import MEDIA_TYPES, BadInput, InputImage, Inputs, decode_data_uri
from kontext_pipeline.sandbox.jobs import Job, JobTable
from kontext_pipeline.sandbox.parameters import BadParameter, Parameters
from kontext_pipeline.sandbox.renderer import Recipe, Renderer
from kontext_pipeline.sandbox.request_log import MAX_PROMPT_CHARS, Books, Entry, canonical_sha256
from kontext_pipeline.sandbox.store import FileStore
from kontext_pipeline.segmind.model import MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE, MODEL

MAX_UPLOADS: Final = 32
"""Files in one call of upload-asset."""
GET_ONLY: Final = frozenset({"/v1/get-user-credits"})
"""Paths that look like a model's, and aren't."""
LARGE_BODY: Final = 256 * 1024
"""Bodies beyond this many bytes are parsed in a thread, so that other requests don't wait for it."""
RECENT: Final = 12
"""Pictures on the landing page."""
_GARBAGE: Final = b"\x00this is no picture, though the headers say so\x00" * 64


@dataclass(frozen=True, slots=True)
class Recent:
    """A picture that was billed lately."""

    name: str
    entry: Entry
    recipe: Recipe


class Run:
    """What a reset starts anew: account, books, jobs, faults. A job in flight stays with the run it began in."""

    def __init__(self, config: SandboxConfig, faults: Sequence[Fault]) -> None:
        self.account = Account(config)
        self.books = Books()
        self.faults = FaultPlan(faults, config.seed)
        self.jobs = JobTable(record_ttl_s=config.record_ttl_s, file_ttl_s=config.file_ttl_s)
        self.recent: deque[Recent] = deque(maxlen=RECENT)
        self._seen: Counter[tuple[str, str]] = Counter()

    def occurrence(self, api: str, identity: str) -> str:
        """Return an id for the nth time that this was asked for, the same in every run."""
        self._seen[api, identity] += 1
        return f"{api}|{identity}|{self._seen[api, identity]}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A POST that will be worked on, with its price held."""

    run: Run
    entry: Entry
    request_id: str
    key: str
    occurrence: str
    recipe: Recipe
    fault: Fault | None
    latency_s: float
    held: int


class Gateway:
    """The endpoints that a client of the provider talks to."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.run = Run(config, config.faults)
        self.store = FileStore(max_bytes=config.store_bytes, ttl_s=config.file_ttl_s)
        self.renderer = Renderer(self.store, draw=config.draw, cache_bytes=config.cache_bytes)
        self._inputs = Inputs(config, self.store)
        self._ids = random.Random()  # noqa: S311 - ids must differ, not be secret
        self._underway: set[asyncio.Task[Response]] = set()

    def reset(self, faults: Sequence[Fault] | None = None) -> None:
        """Start a new run: full balance, empty books, no jobs, faults as configured or as given."""
        self.run.jobs.close()
        self.run = Run(self.config, self.config.faults if faults is None else faults)

    def close(self) -> None:
        """Stop drawing and delete what was stored."""
        self.run.jobs.close()
        self.renderer.close()
        self.store.close()

    # -- the model ------------------------------------------------------------------------------------

    async def generate(self, request: Request) -> Response:
        """POST /v1/{model}: the picture itself, after the time it takes."""
        return await self._post(request, "v1")

    async def submit(self, request: Request) -> Response:
        """POST /v2/{model}: a request id at once; the job goes on by itself."""
        return await self._post(request, "v2")

    async def _post(self, request: Request, api: Literal["v1", "v2"]) -> Response:
        run = self.run
        if request.url.path in GET_ONLY:
            raise HTTPException(405, headers={"Allow": "GET"})
        try:
            raw = await self._body(request)
        except Refusal as refusal:
            return refusal.response
        except ClientDisconnect:
            return Response(status_code=400)
        body, body_sha256 = await _parsed(raw)
        entry = run.books.open(api, body_sha256)
        entry.request_id = str(uuid.UUID(int=self._ids.getrandbits(128), version=4))
        try:
            accepted = await self._accept(request, run, entry, api, body)
        except Refusal as refusal:
            entry.state = "REFUSED"
            response = refusal.response
            if not isinstance(response, answers.Reset):
                entry.status = response.status_code
                response.headers["x-request-id"] = entry.request_id
            return response
        if api == "v2":
            return self._start_job(request, accepted)
        # A task of its own: the generation goes on, and is billed, whatever becomes of the connection.
        task = asyncio.ensure_future(self._answer_v1(request, accepted))
        self._underway.add(task)
        task.add_done_callback(self._underway.discard)
        return await asyncio.shield(task)

    async def _accept(self, request: Request, run: Run, entry: Entry, api: Literal["v1", "v2"], body: Any) -> Accepted:
        """Check everything that is checked before the model runs. Raises Refusal."""
        fields = body if isinstance(body, dict) else {}
        prompt = fields.get("prompt") if isinstance(fields.get("prompt"), str) else ""
        assert isinstance(prompt, str)
        entry.prompt = prompt[:MAX_PROMPT_CHARS] or None
        entry.seed = fields["seed"] if type(fields.get("seed")) is int else None
        key = self._key(request, run)
        if request.path_params["model"] != MODEL:
            raise Refusal(error(404, f"Model not found: {request.path_params['model'][:100]}"))
        own_hosts = _own_hosts(request)
        identity = _identity(body, own_hosts) if fields else entry.body_sha256
        endpoint: Endpoint = "v1" if api == "v1" else "submit"
        struck = run.faults.strike(endpoint, identity, prompt=prompt, posts=entry.sequence)
        fault = next((one for one in struck if one.kind != "slow"), None)
        if fault is not None and fault.kind in FRONT_KINDS:
            entry.fault = fault.kind
            await self._delay(struck)
            raise Refusal(answers.from_fault(fault))
        until = run.account.over_rate(key)
        if until is not None:
            raise Refusal(answers.rate_limited(until))
        if _media_type(request) != "application/json":
            raise Refusal(error(406, answers.WORDS_406["content-type"]))
        if body is _NOT_JSON:
            raise Refusal(error(400, "The request body is not valid JSON"))
        if not isinstance(body, dict):
            raise Refusal(error(400, "The request body must be a JSON object"))
        try:
            parameters = Parameters(body)
        except BadParameter as bad:
            raise Refusal(error(400, f"Invalid parameters: {bad}")) from None
        entry.seed = parameters.seed
        input_image = await self._input(run, parameters.input_image, own_hosts)
        self._check_safety(parameters)
        if not run.account.within_team_limit():
            raise Refusal(error(406, answers.WORDS_406["team-limit"]))
        if not run.account.can_pay():
            raise Refusal(error(406, answers.WORDS_406["credits"]))
        occurrence = run.occurrence(api, identity)
        entry.fault = fault.kind if fault is not None else ("slow" if struck else None)
        entry.state = "RUNNING"
        return Accepted(
            run=run,
            entry=entry,
            request_id=entry.request_id or "",
            key=key,
            occurrence=occurrence,
            recipe=parameters.recipe(input_image),
            fault=fault,
            latency_s=self._latency(occurrence, struck),
            held=run.account.hold(),
        )

    async def _answer_v1(self, request: Request, job: Accepted) -> Response:
        kind = job.fault.kind if job.fault is not None else None
        began = time.monotonic()
        if kind == "hang":
            assert job.fault is not None
            await self._unbilled_sleep(job, job.fault.seconds / self.config.speed)
            _release(job, "FAILED", 504)
            return answers.html_error(504)
        drawing = asyncio.ensure_future(self.renderer.picture(job.recipe))
        try:
            await self._unbilled_sleep(job, job.latency_s)
            picture = await drawing
        except BaseException:
            drawing.cancel()
            _release(job, "ABANDONED", None)
            raise
        self._bill(job.run, job.entry, job.held)
        name = f"{job.request_id}.{job.recipe.output_format}"
        job.run.jobs.add_output(name, job.recipe, job.occurrence)
        job.run.recent.appendleft(Recent(name, job.entry, job.recipe))
        job.entry.client_gone = await request.is_disconnected()
        headers = {
            "x-cost": _number(to_usd(job.held)),
            "x-remaining-credits": _number(job.run.account.remaining),
            "x-request-id": job.request_id,
            "x-generation-time": f"{time.monotonic() - began:.3f}",
            "x-seed-value": str(job.recipe.seed),
        }
        if kind == "bill-then-reset":
            return answers.Reset()
        if not job.entry.client_gone:
            job.entry.status = 200
        if kind == "json-image":
            assert job.fault is not None
            return JSONResponse(self._json_image(request, job.fault, job.recipe, picture, name), headers=headers)
        if kind == "no-headers":
            headers = {}
        return _picture(picture, job.recipe, kind, headers)

    async def _unbilled_sleep(self, job: Accepted, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            _release(job, "ABANDONED", None)
            raise

    def _start_job(self, request: Request, accepted: Accepted) -> Response:
        kind = accepted.fault.kind if accepted.fault is not None else None
        job = Job(
            id=accepted.request_id,
            key=accepted.key,
            identity=accepted.occurrence,
            entry=accepted.entry,
            recipe=accepted.recipe,
            held=accepted.held,
            started=time.monotonic(),
            total_s=accepted.latency_s,
            error="The model failed to generate an image" if kind == "failed" else None,
        )
        run = accepted.run
        run.jobs.add(
            job,
            runs_s=None if kind == "hang" else accepted.latency_s,
            at_end=functools.partial(self._end_job, run),
        )
        if kind == "bill-then-reset":
            return answers.Reset()
        accepted.entry.status = 200
        base = _base_url(request)
        status_url = f"{base}/v2/requests/{job.id}/status"
        return JSONResponse(
            {
                "request_id": job.id,
                "status": "QUEUED",
                "poll_url": status_url,
                "status_url": status_url,
                "response_url": f"{base}/v2/requests/{job.id}",
            },
            headers={"x-request-id": job.id},
        )

    def _end_job(self, run: Run, job: Job) -> None:
        if job.error is not None:
            run.account.release(job.held)
            job.entry.state = "FAILED"
            return
        self._bill(run, job.entry, job.held)
        job.cost = to_usd(job.held)
        job.remaining_credits = run.account.remaining
        name = f"{job.id}.{job.recipe.output_format}"
        run.jobs.add_output(name, job.recipe, job.identity)
        run.recent.appendleft(Recent(name, job.entry, job.recipe))

    def _bill(self, run: Run, entry: Entry, held: int) -> None:
        run.account.charge(held)
        run.books.bill(entry, held)
        entry.state = "COMPLETED"

    # -- v2: poll, fetch ------------------------------------------------------------------------------

    async def status(self, request: Request) -> Response:
        """GET /v2/requests/{id}/status: where the job is; 422 once it has failed."""
        try:
            job, _ = await self._job(request, "status")
        except Refusal as refusal:
            return refusal.response
        body: dict[str, Any] = {"request_id": job.id, "status": job.state, "metrics": _metrics(job)}
        if job.state == "FAILED":
            body["error"] = job.error
            return JSONResponse(body, 422)
        return JSONResponse(body)

    async def result(self, request: Request) -> Response:
        """GET /v2/requests/{id}: the output's URL, once the job is COMPLETED; 422 once it has failed."""
        try:
            job, fault = await self._job(request, "result")
        except Refusal as refusal:
            return refusal.response
        body: dict[str, Any] = {"request_id": job.id, "status": job.state, "metrics": _metrics(job)}
        if job.state == "FAILED":
            body["error"] = job.error
            return JSONResponse(body, 422)
        if job.state == "COMPLETED":
            url = f"{_base_url(request)}/files/outputs/{job.id}.{job.recipe.output_format}"
            body |= {"output": url, "images": [{"url": url, "content_type": job.recipe.media_type}]}
        if fault is not None and fault.kind == "no-headers":
            del body["metrics"]
        return JSONResponse(body)

    async def _job(self, request: Request, endpoint: Literal["status", "result"]) -> tuple[Job, Fault | None]:
        run = self.run
        key = self._key(request, run)
        job = run.jobs.find(request.path_params["request_id"], key)
        missing = Refusal(error(404, "Request not found or expired"))
        if job is None:
            raise missing
        fault = await self._get_fault(run, endpoint, job.identity, job.recipe.prompt)
        if fault is not None and fault.kind == "expired":
            job.expired = True
            raise missing
        return job, fault

    async def output(self, request: Request) -> Response:
        """GET /files/outputs/{name}: the picture. Needs no key."""
        run, name = self.run, request.path_params["name"]
        output = run.jobs.output(name)
        if output is None:
            return error(404, "File not found or expired")
        try:
            fault = await self._get_fault(run, "output", output.identity, output.recipe.prompt)
        except Refusal as refusal:
            return refusal.response
        kind = fault.kind if fault is not None else None
        if kind == "expired":
            run.jobs.drop_output(name)
            return error(404, "File not found or expired")
        return _picture(await self.renderer.picture(output.recipe), output.recipe, kind, _FILE_HEADERS)

    async def _get_fault(self, run: Run, endpoint: Endpoint, identity: str, prompt: str) -> Fault | None:
        """Return the fault that strikes a GET, after its delays. Raises Refusal for one that answers instead."""
        struck = run.faults.strike(endpoint, identity, prompt=prompt, posts=len(run.books.entries))
        await self._delay(struck)
        fault = next((one for one in struck if one.kind != "slow"), None)
        if fault is not None and fault.kind in FRONT_KINDS:
            raise Refusal(answers.from_fault(fault))
        return fault

    # -- account and files ----------------------------------------------------------------------------

    async def credits(self, request: Request) -> Response:
        """GET /v1/get-user-credits: what is left."""
        run = self.run
        try:
            self._key(request, run)
            await self._get_fault(run, "credits", "credits", "")
        except Refusal as refusal:
            return refusal.response
        return JSONResponse({"credits": run.account.remaining, "free-credits": run.account.free_credits})

    async def upload(self, request: Request) -> Response:
        """POST /upload-asset: images as data: URIs become files that `input_image` may name."""
        run = self.run
        try:
            raw = await self._body(request)
            self._key(request, run)
            body, body_sha256 = await _parsed(raw)
            await self._get_fault(run, "upload", body_sha256, "")
            if _media_type(request) != "application/json":
                raise Refusal(error(406, answers.WORDS_406["content-type"]))
            uris = body.get("data_urls") if isinstance(body, dict) else None
            if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
                raise Refusal(error(400, "data_urls must be a list of data: URIs"))
            if not 1 <= len(uris) <= MAX_UPLOADS:
                raise Refusal(error(400, f"data_urls must have 1 to {MAX_UPLOADS} entries"))
            names = [await asyncio.to_thread(self._keep_upload, uri) for uri in uris]
        except BadInput as bad:
            return error(400, f"Invalid data URL: {bad}")
        except Refusal as refusal:
            return refusal.response
        except ClientDisconnect:
            return Response(status_code=400)
        base = _base_url(request)
        urls = [f"{base}/files/uploads/{name}" for name in names]
        return JSONResponse({"file_urls": urls, "message": "Files uploaded successfully"})

    def _keep_upload(self, uri: str) -> str:
        if not uri[:5].lower() == "data:":
            raise BadInput("it must begin with data:")
        image = self._inputs.keep(decode_data_uri(uri, max_bytes=self.config.max_input_bytes))
        file = self.store.find(image.key)
        if file is None:
            raise BadInput("there is no room for it")
        return file.name

    async def uploaded(self, request: Request) -> Response:
        """GET /files/uploads/{name}: a file that was uploaded. Needs no key."""
        name = request.path_params["name"]
        data = await asyncio.to_thread(self.store.read, name)
        if data is None or "." not in name:
            return error(404, "File not found or expired")
        return Response(data, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=_FILE_HEADERS)

    # -- parts ----------------------------------------------------------------------------------------

    async def _body(self, request: Request) -> bytes:
        limit = self.config.max_body_bytes
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise Refusal(error(413, f"The request body is larger than {limit:,} bytes"))
        return bytes(body)

    def _key(self, request: Request, run: Run) -> str:
        key = request.headers.get("x-api-key", "")
        if not key:
            raise Refusal(error(401, "Missing API key: send it in the x-api-key header"))
        if not run.account.knows(key):
            raise Refusal(error(401, "Invalid API key"))
        if run.account.forbids(key):
            raise Refusal(error(403, "Insufficient permissions for this resource"))
        return key

    async def _input(self, run: Run, uri: str | None, own_hosts: frozenset[str]) -> InputImage | None:
        if uri is None:
            return None
        try:
            output = run.jobs.output(_own_path(uri, own_hosts).removeprefix("files/outputs/"))
            if output is not None:
                return await asyncio.to_thread(self._inputs.keep, await self.renderer.picture(output.recipe))
            return await asyncio.to_thread(self._inputs.resolve, uri, own_hosts)
        except BadInput as bad:
            raise Refusal(error(400, f"Invalid parameters: {bad}")) from None

    def _check_safety(self, parameters: Parameters) -> None:
        highest = MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE
        too_high = parameters.input_image is not None and parameters.safety_tolerance > highest
        if self.config.enforce_safety_note and too_high:
            text = f"Invalid value for parameter safety_tolerance: {highest} is the maximum with an input image"
            raise Refusal(error(406, text))

    def _latency(self, occurrence: str, struck: Sequence[Fault]) -> float:
        """Return the real seconds of a generation: seeded, log-normal, at speed, with what faults add."""
        spread = random.Random(f"{self.config.seed}|{occurrence}").gauss(0.0, self.config.latency_spread)  # noqa: S311
        seconds = self.config.latency_s * math.exp(max(-2.0, min(2.0, spread)))
        for fault in struck:
            if fault.kind == "slow":
                seconds = seconds * fault.factor + fault.seconds
        return seconds / self.config.speed

    async def _delay(self, struck: Sequence[Fault]) -> None:
        seconds = sum(fault.seconds for fault in struck if fault.kind == "slow")
        if seconds:
            await asyncio.sleep(seconds / self.config.speed)

    def _json_image(self, request: Request, fault: Fault, recipe: Recipe, picture: bytes, name: str) -> dict[str, Any]:
        url = f"{_base_url(request)}/files/outputs/{name}"
        text = base64.b64encode(picture).decode()
        match fault.form:
            case "image-base64":
                return {"image": text}
            case "data-uri":
                return {"image": f"data:{recipe.media_type};base64,{text}"}
            case "image-url":
                return {"image": url}
            case "output-url":
                return {"output": url}
            case "images-url":
                return {"images": [{"url": url}]}
            case "image_url":
                return {"image_url": url}
            case "no-image":
                return {"status": "done"}


class _NotJson:
    pass


_NOT_JSON: Final = _NotJson()
_FILE_HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
}


async def _parsed(raw: bytes) -> tuple[Any, str]:
    """Return the JSON value of a body, or _NOT_JSON, and what the books know it by."""
    return await asyncio.to_thread(_parse, raw) if len(raw) > LARGE_BODY else _parse(raw)


def _parse(raw: bytes) -> tuple[Any, str]:
    try:
        body = json.loads(raw)
        return body, canonical_sha256(body)
    except (ValueError, RecursionError):
        return _NOT_JSON, hashlib.sha256(raw).hexdigest()


def _identity(body: dict[str, Any], own_hosts: frozenset[str]) -> str:
    """Return what a body asks for, without the host and port this sandbox happens to have this time."""
    uri = body.get("input_image")
    path = _own_path(uri, own_hosts) if isinstance(uri, str) else ""
    return canonical_sha256({**body, "input_image": path} if path else body)


def _own_path(uri: str, own_hosts: frozenset[str]) -> str:
    """Return the path of a URL of this sandbox, without its first slash; empty: it is none."""
    for host in own_hosts:
        if uri.startswith(f"http://{host}/"):
            return uri.removeprefix(f"http://{host}/")
    return ""


def _own_hosts(request: Request) -> frozenset[str]:
    own = {request.headers.get("host", "").lower()}
    server = request.scope.get("server")
    if server and server[1]:
        own |= {f"{server[0]}:{server[1]}", f"localhost:{server[1]}", f"127.0.0.1:{server[1]}"}
    return frozenset(own - {""})


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _metrics(job: Job) -> dict[str, Any]:
    waited = min(job.elapsed_s, job.queue_s)
    return {
        "cost": job.cost,
        "remaining_credits": job.remaining_credits,
        "queue_time": round(waited, 3),
        "inference_time": round(max(0.0, job.elapsed_s - waited), 3),
        "total_time": round(job.elapsed_s, 3),
        "retry_count": 0,
    }


def _picture(picture: bytes, recipe: Recipe, kind: str | None, headers: dict[str, str]) -> Response:
    if kind == "garbage":
        return Response(_GARBAGE, media_type=recipe.media_type, headers=headers)
    if kind == "wrong-content-type":
        return Response(picture, media_type="application/octet-stream", headers=headers)
    if kind == "cut-body":
        return answers.CutBody(picture, media_type=recipe.media_type, headers=headers)
    return Response(picture, media_type=recipe.media_type, headers=headers)


def _release(job: Accepted, state: str, status: int | None) -> None:
    if job.entry.state == "RUNNING":
        job.run.account.release(job.held)
        job.entry.state = state
        job.entry.status = status


def _number(usd: float) -> str:
    return f"{usd:.6f}".rstrip("0").rstrip(".")
