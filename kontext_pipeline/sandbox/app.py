"""The application: which path leads where."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kontext_pipeline.sandbox import answers
from kontext_pipeline.sandbox.admin import Backstage
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.gateway import Gateway
from kontext_pipeline.sandbox.openapi import OPENAPI
from kontext_pipeline.sandbox.page import Page


def create_app(config: SandboxConfig) -> Starlette:
    """Return the sandbox as an ASGI application.

    It needs one process and one event loop, since its account and books live in memory, and a server
    with the `kontext.reset` extension (see `server`) for faults that reset connections.
    """
    gateway = Gateway(config)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        gateway.close()

    routes = [
        Route("/v1/get-user-credits", gateway.credits, methods=["GET"]),
        Route("/v1/{model}", gateway.generate, methods=["POST"]),
        Route("/v2/requests/{request_id}/status", gateway.status, methods=["GET"]),
        Route("/v2/requests/{request_id}", gateway.result, methods=["GET"]),
        Route("/v2/{model}", gateway.submit, methods=["POST"]),
        Route("/upload-asset", gateway.upload, methods=["POST"]),
        Route("/files/uploads/{name}", gateway.uploaded, methods=["GET"]),
        Route("/files/outputs/{name}", gateway.output, methods=["GET"]),
        *Backstage(gateway).routes(),
        *Page(gateway).routes(),
        Route("/openapi.json", _openapi, methods=["GET"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _http_error})
    app.state.gateway = gateway
    return app


async def _openapi(_: Request) -> Response:
    return JSONResponse(OPENAPI)


async def _http_error(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)
    if exception.status_code == 405:
        return answers.html_error(405, headers=exception.headers)
    return answers.error(exception.status_code, headers=exception.headers)
