"""Answers: every shape in which the gateway can reply, the broken ones included."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from kontext_pipeline.sandbox.faults import Cause, Fault

RESET_EXTENSION: Final = "kontext.reset"
"""Name of the ASGI extension with which `server` lets an answer reset its connection."""

WORDS_406: Final[Mapping[Cause, str]] = {
    "content-type": "Not Acceptable: Content-Type must be application/json",
    "credits": "Insufficient credits: please add credits to your account to continue",
    "team-limit": "Team spend limit reached: ask your team's admin to raise it",
    "parameter": "Invalid value for parameter: the model does not accept this request",
}
"""The four causes of a 406, which nothing but the text tells apart."""

_WORDS: Final[Mapping[int, str]] = {
    400: "Invalid parameters or request format",
    401: "Missing or invalid API key",
    403: "Insufficient permissions",
    404: "Model or endpoint not found",
    410: "This model has been retired",
    429: "Rate limit exceeded: too many requests",
    500: "Internal server error",
    502: "Service temporarily unavailable",
    503: "Service unavailable",
    504: "Request timed out",
}


class Refusal(Exception):
    """A request that is answered with an error; nothing runs and nothing is billed."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def error(status: int, message: str | None = None, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON error as the gateway words it; auth errors have a shape of their own."""
    text = message or _WORDS.get(status) or _phrase(status)
    body: dict[str, Any] = {"error": text}
    if status in {401, 403}:
        body = {"error": _phrase(status), "error_description": text, "status_code": status}
    return JSONResponse(body, status, headers=dict(headers or {}))


def html_error(status: int, *, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as the proxy in front of the gateway words it."""
    title = f"{status} {_phrase(status)}"
    page = f"<html>\n<head><title>{title}</title></head>\n<body><center><h1>{title}</h1></center></body>\n</html>\n"
    return HTMLResponse(page, status, headers=dict(headers or {}))


def rate_limited(until: datetime) -> Response:
    """Return a 429 that names when the window resets, rounded up to the next millisecond."""
    later = until + timedelta(microseconds=999)
    reset = later.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return error(429, headers={"x-rate-limit-reset-at-utc": reset})


def from_fault(fault: Fault) -> Response:
    """Return what a fault that needs no picture answers with."""
    if fault.kind == "reset":
        return Reset()
    if fault.kind == "rate-limit":
        return rate_limited(datetime.now(UTC) + timedelta(seconds=fault.seconds))
    status = fault.status or 500
    if fault.html:
        return html_error(status)
    if status == 429:
        return rate_limited(datetime.now(UTC) + timedelta(seconds=fault.seconds))
    return error(status, fault.message or (WORDS_406[fault.cause or "credits"] if status == 406 else None))


class Reset(Response):
    """No answer at all: the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reset the connection that the request came on."""
        await _reset(scope, receive)


class CutBody(Response):
    """An answer whose body ends half-way: the connection is reset after half of it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers and half of the body, then reset the connection."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body[: len(self.body) // 2])
        await send({"type": "http.response.body", "body": half, "more_body": True})
        # What the server still has in its buffers is lost with a reset; let the half arrive.
        await asyncio.sleep(0.05)
        await _reset(scope, receive)


async def _reset(scope: Scope, receive: Receive) -> None:
    reset: Callable[[], None] | None = scope.get("extensions", {}).get(RESET_EXTENSION)
    if reset is None:
        raise RuntimeError(
            "This server can't reset connections; serve the sandbox with kontext_pipeline.sandbox.server"
        )
    reset()
    # The server would complain of an answer that never came if this returned before it noticed.
    while (await receive())["type"] != "http.disconnect":
        pass


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
