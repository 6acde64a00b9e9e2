"""Admission: everything that is checked before the model runs. Key, faults, rate limit, parameters and balance."""

import asyncio
import hashlib
import json
import math
import random
import re
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from kontext_pipeline.sandbox.api_models import Generation
from kontext_pipeline.sandbox.config import KEY_FORM, SandboxConfig
from kontext_pipeline.sandbox.faults import describe
from kontext_pipeline.sandbox.input_resolver import BadInput, InputImage
from kontext_pipeline.sandbox.renderer import PictureSpec
from kontext_pipeline.sandbox.request_log import LogEntry, canonical_sha256
from kontext_pipeline.sandbox.responses import MESSAGES_406, Refusal, Reset, error, from_fault, rate_limited
from kontext_pipeline.sandbox.session import Gateway, Job, Session
from kontext_pipeline.segmind.model import MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE, MODEL

Model = TypeVar("Model", bound=BaseModel)
MAX_STRANGERS: Final = 16
"""Bodies of requests without an accepted key that are read at once."""
_CLOSE: Final = {"connection": "close"}
LARGE_BODY: Final = 256 * 1024
"""Bodies beyond this many bytes are parsed in a thread, so that other requests need not wait."""


async def admit(gateway: Gateway, request: Request, api: Literal["v1", "v2"]) -> Job:
    """Log a POST to the model, check it, and return the job with its price held.

    Raises:
        Refusal: the request is answered with an error.
        ClientDisconnect: the body did not arrive whole. Such a request is not logged.
    """
    session = gateway.session
    body, body_sha256 = await read_json(gateway, request, gateway.config.max_body_bytes)
    entry = LogEntry(len(session.log) + 1, api, body_sha256)
    session.log.append(entry)
    try:
        return await _check(gateway, session, request, entry, body)
    except Refusal as refusal:
        entry.state = "REFUSED"
        if not isinstance(refusal.response, Reset):
            entry.status = refusal.response.status_code
            refusal.response.headers["x-request-id"] = entry.request_id
        raise


async def _check(gateway: Gateway, session: Session, request: Request, entry: LogEntry, body: Any) -> Job:
    fields = body if isinstance(body, dict) else {}
    prompt = fields["prompt"] if isinstance(fields.get("prompt"), str) else ""
    entry.prompt = prompt[:2000] or None
    entry.seed = fields["seed"] if type(fields.get("seed")) is int else None
    key = check_key(gateway, request)
    if request.path_params["model"] != MODEL:
        raise Refusal(error(404, f"Model not found: {request.path_params['model'][:100]}"))
    hosts = _own_hosts(request)
    identity = _identity(fields, hosts) if fields else entry.body_sha256
    endpoint: Literal["v1", "submit"] = "v1" if entry.api == "v1" else "submit"
    slow, fault = session.faults.strike(endpoint, identity, prompt=prompt, posts=entry.sequence)
    kind = fault.kind if fault is not None else "slow" if slow else None
    if fault is not None and fault.refuses:
        entry.fault = kind
        await asyncio.sleep(sum(one.seconds for one in slow) / gateway.config.speed)
        raise Refusal(from_fault(fault))
    window_ends = session.account.over_rate(key, gateway.config.window_s)
    if window_ends is not None:
        raise Refusal(rate_limited(window_ends))
    require_json_type(request)
    given = validated(Generation, body)
    entry.seed = given.seed
    input_image = await _input_image(gateway, session, given.input_image, hosts)
    _check_money(gateway, session, given)
    entry.fault, entry.state = kind, "RUNNING"
    session.account.hold()
    occurrence = session.occurrence(entry.api, identity)
    seconds = _latency(gateway, occurrence)
    for one in slow:
        seconds = seconds * one.factor + one.seconds
    return Job(
        session=session,
        entry=entry,
        key=key,
        occurrence=occurrence,
        spec=PictureSpec(given.prompt, given.seed, given.aspect_ratio, given.output_format, input_image),
        fault=fault,
        total_s=seconds / gateway.config.speed,
    )


def validated(model: type[Model], body: Any) -> Model:
    """Return `body` as an instance of `model`.

    Raises:
        Refusal: a field is missing or not allowed. The answer names it.
    """
    try:
        return model.model_validate(body)
    except ValidationError as invalid:
        raise Refusal(error(400, f"Invalid parameters: {'; '.join(describe(invalid))}")) from None


async def _input_image(gateway: Gateway, session: Session, uri: str, hosts: frozenset[str]) -> InputImage | None:
    if not uri:
        return None
    output = session.outputs.find(_own_path(uri, hosts).removeprefix("files/outputs/"))
    try:
        if output is None:
            return await asyncio.to_thread(gateway.inputs.resolve, uri, hosts)
        return await asyncio.to_thread(gateway.inputs.keep, await gateway.renderer.picture(output.spec))
    except BadInput as bad:
        raise Refusal(error(400, f"Invalid parameters: {bad}")) from None


def _check_money(gateway: Gateway, session: Session, parameters: Generation) -> None:
    """Check what is answered 406: the safety tolerance, the team's limit and the balance."""
    highest = MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE
    too_high = parameters.input_image and parameters.safety_tolerance > highest
    if gateway.config.enforce_safety_note and too_high:
        text = f"Invalid value for parameter safety_tolerance: {highest} is the maximum with an input image"
        raise Refusal(error(406, text))
    if (obstacle := session.account.obstacle()) is not None:
        raise Refusal(error(406, MESSAGES_406[obstacle]))


def check_key(gateway: Gateway, request: Request) -> str:
    """Return the request's key.

    Raises:
        Refusal: the key is missing, unknown or forbidden.
    """
    config, key = gateway.config, request.headers.get("x-api-key", "")
    if not key:
        raise Refusal(error(401, "Missing API key: send it in the x-api-key header"))
    if key in config.forbidden_keys:
        raise Refusal(error(403, "Insufficient permissions for this resource"))
    if not _is_known(config, key):
        raise Refusal(error(401, "Invalid API key"))
    return key


def _is_known(config: SandboxConfig, key: str) -> bool:
    return key in config.keys if config.keys else re.fullmatch(KEY_FORM, key) is not None


def require_json_type(request: Request) -> None:
    """Check the Content-Type.

    Raises:
        Refusal: it is not application/json.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(error(406, MESSAGES_406["content-type"]))


async def read_json(gateway: Gateway, request: Request, max_bytes: int) -> tuple[Any, str]:
    """Return the JSON value of the body (None if it is not JSON), and the sha256 by which the request log knows it.

    Raises:
        Refusal: the body is larger than `max_bytes`, or there is no accepted key and the body takes too long or comes
            beside too many others.
    """
    if _is_known(gateway.config, request.headers.get("x-api-key", "")):
        raw = await _read(request, max_bytes)
    else:
        if gateway.strangers >= MAX_STRANGERS:
            raise Refusal(error(503, f"{MAX_STRANGERS} requests without a key are being read", _CLOSE))
        gateway.strangers += 1
        try:
            async with asyncio.timeout(gateway.config.stranger_s):
                raw = await _read(request, max_bytes)
        except TimeoutError:
            text = f"The request body did not arrive within {gateway.config.stranger_s:g} s"
            raise Refusal(error(408, text, _CLOSE)) from None
        finally:
            gateway.strangers -= 1
    return await asyncio.to_thread(_parse, raw) if len(raw) > LARGE_BODY else _parse(raw)


async def _read(request: Request, max_bytes: int) -> bytearray:
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > max_bytes:
            raise Refusal(error(413, f"The request body is larger than {max_bytes:,} bytes"))
    return raw


def _parse(raw: bytearray) -> tuple[Any, str]:
    try:
        body = json.loads(raw)
        return body, canonical_sha256(body)
    except (ValueError, RecursionError):
        # Also a lone surrogate, which is no text: neither an answer nor a page could show it.
        return None, hashlib.sha256(raw).hexdigest()


def _identity(body: dict[str, Any], hosts: frozenset[str]) -> str:
    """Return the identity of a request. The host and port of this sandbox, which change, are no part of it."""
    uri = body.get("input_image")
    path = _own_path(uri, hosts) if isinstance(uri, str) else ""
    return canonical_sha256({**body, "input_image": path} if path else body)


def _latency(gateway: Gateway, occurrence: str) -> float:
    """Return the seconds of a generation before `speed`: log-normal, and seeded by its occurrence."""
    config = gateway.config
    spread = random.Random(f"{config.seed}|{occurrence}").gauss(0.0, config.latency_spread)  # noqa: S311
    return config.latency_s * math.exp(max(-2.0, min(2.0, spread)))


def base_url(request: Request) -> str:
    """Return the sandbox's URL as the client knows it, without a slash at its end."""
    return str(request.base_url).rstrip("/")


def _own_hosts(request: Request) -> frozenset[str]:
    """Return every `host:port` by which this sandbox can be reached."""
    server, port = request.scope["server"]
    named = request.headers.get("host", "").lower() or server
    return frozenset({named, f"{server}:{port}", f"localhost:{port}", f"127.0.0.1:{port}"})


def _own_path(uri: str, hosts: frozenset[str]) -> str:
    """Return the path of a URL on one of `hosts`, without its first slash; empty for every other URL."""
    host, slash, path = uri.removeprefix("http://").partition("/")
    return path if slash and uri.startswith("http://") and host in hosts else ""
