"""Responses: every shape in which the gateway can answer, including broken ones."""

import asyncio
import http.client
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import BaseModel
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from kontext_pipeline.sandbox.api_models import AuthError, Error
from kontext_pipeline.sandbox.faults import Cause, Fault

RESET_EXTENSION: Final = "kontext.reset"
"""Name of the ASGI extension with which `server` lets a response reset its connection."""

MESSAGES_406: Final[Mapping[Cause, str]] = {
    "content-type": "Not Acceptable: Content-Type must be application/json",
    "credits": "Insufficient credits: please add credits to your account to continue",
    "team-limit": "Team spend limit reached: ask your team's admin to raise it",
    "parameter": "Invalid value for parameter: the model does not accept this request",
}
"""The four causes of a 406. Only the text tells them apart."""

_MESSAGES: Final = {
    400: "Invalid parameters or request format",
    401: "Missing or invalid API key",
    403: "Insufficient permissions",
    404: "Model or endpoint not found",
    410: "This model has been retired",
    429: "Rate limit exceeded: too many requests",
    502: "Service temporarily unavailable",
    504: "Request timed out",
}


class Refusal(Exception):
    """Ends the handling of a request with an error response. Nothing runs and nothing is billed."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def json_response(
    model: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None, *, nulls: bool = False
) -> Response:
    """Return a model as JSON; fields that are None are left out unless `nulls`."""
    body = model.model_dump_json(exclude_none=not nulls, by_alias=True)
    return Response(body, status, headers, media_type="application/json")


def error(status: int, message: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON error in the gateway's words. Errors about the key have a shape of their own."""
    text = message or _MESSAGES.get(status) or _phrase(status)
    if status in {401, 403}:
        auth = AuthError(error=_phrase(status), error_description=text, status_code=status)
        return json_response(auth, status, headers)
    return json_response(Error(error=text), status, headers)


def html_error(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error in the words of the proxy before the gateway."""
    title = f"{status} {_phrase(status)}"
    page = f"<html>\n<head><title>{title}</title></head>\n<body><center><h1>{title}</h1></center></body>\n</html>\n"
    return HTMLResponse(page, status, headers)


def rate_limited(until: datetime) -> Response:
    """Return a 429 that names the end of the window, rounded up to a millisecond."""
    later = until + timedelta(microseconds=999)
    reset = later.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return error(429, headers={"x-rate-limit-reset-at-utc": reset})


def from_fault(fault: Fault) -> Response:
    """Return the response of a fault that needs no picture."""
    if fault.kind == "reset":
        return Reset()
    status = 429 if fault.kind == "rate-limit" else fault.status or 500
    if fault.html:
        return html_error(status)
    if status == 429:
        return rate_limited(datetime.now(UTC) + timedelta(seconds=fault.seconds))
    return error(status, fault.message or (MESSAGES_406[fault.cause or "credits"] if status == 406 else None))


class Reset(Response):
    """An answer that is cut off: the connection is reset after half of the body, or at once if there is no body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send half of the answer, then reset the connection that the request came on."""
        reset: Callable[[], None] = scope["extensions"][RESET_EXTENSION]
        if self.body:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            half = bytes(self.body[: len(self.body) // 2])
            await send({"type": "http.response.body", "body": half, "more_body": True})
            # A reset discards what is still in the server's buffers: wait until the half has left them.
            await asyncio.sleep(0.05)
        reset()
        # The server reports a missing answer as an error if this returns before it has noticed the reset.
        while (await receive())["type"] != "http.disconnect":
            pass


def _phrase(status: int) -> str:
    return http.client.responses.get(status, "Error")
