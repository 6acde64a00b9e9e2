"""The application: routes, and the responses to errors."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kontext_pipeline.sandbox import admin, endpoints
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.openapi import OPENAPI
from kontext_pipeline.sandbox.responses import Refusal, error, html_error
from kontext_pipeline.sandbox.session import Gateway


def create_app(config: SandboxConfig) -> Starlette:
    """Return the sandbox as an ASGI application.

    Its account and its log are in memory, so it needs one process and one event loop. Faults that reset
    connections need the `kontext.reset` extension of `kontext_pipeline.sandbox.server`.
    """
    gateway = Gateway(config)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        gateway.close()

    table = [
        ("GET", "/v1/get-user-credits", endpoints.credits_left),
        ("POST", "/v1/{model}", endpoints.generate),
        ("GET", "/v2/requests/{request_id}/status", endpoints.status),
        ("GET", "/v2/requests/{request_id}", endpoints.result),
        ("POST", "/v2/{model}", endpoints.submit),
        ("POST", "/upload-asset", endpoints.upload),
        ("GET", "/files/uploads/{name}", endpoints.uploaded),
        ("GET", "/files/outputs/{name}", endpoints.output),
        ("GET", "/sandbox/books", admin.books),
        ("GET PUT", "/sandbox/faults", admin.faults),
        ("GET PUT", "/sandbox/account", admin.account),
        ("POST", "/sandbox/reset", admin.reset),
        ("GET", "/", admin.page),
        ("GET", "/sandbox/pictures/{name}", admin.picture),
    ]
    routes = [Route(path, partial(endpoint, gateway), methods=method.split()) for method, path, endpoint in table]
    routes.append(Route("/openapi.json", lambda _: JSONResponse(OPENAPI)))
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Refusal, _refusal)
    # Nobody receives this answer.
    app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=400))
    app.state.gateway = gateway
    return app


async def _http_error(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)
    make = html_error if exception.status_code == 405 else error
    return make(exception.status_code, headers=exception.headers)


async def _refusal(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, Refusal)
    return exception.response
