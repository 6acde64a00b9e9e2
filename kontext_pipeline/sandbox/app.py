"""The application: routes, and the responses to errors."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kontext_pipeline.sandbox import admin, page, uploads, v1, v2
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.gateway import Gateway
from kontext_pipeline.sandbox.openapi import OPENAPI
from kontext_pipeline.sandbox.responses import Refusal, error, html_error


def create_app(config: SandboxConfig) -> Starlette:
    """Return the sandbox as an ASGI application.

    Its account and its log are in memory, so it needs one process and one event loop. Faults that reset
    connections need a server with the `kontext.reset` extension (see `server`).
    """
    gateway = Gateway(config)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        gateway.close()

    rooms = (v1, v2, uploads, admin, page)
    routes = [route for room in rooms for route in room.routes(gateway)]
    routes.append(Route("/openapi.json", _openapi, methods=["GET"]))
    handlers = {HTTPException: _http_error, Refusal: _refusal, ClientDisconnect: _disconnected}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    app.state.gateway = gateway
    return app


async def _openapi(_: Request) -> Response:
    return JSONResponse(OPENAPI)


async def _http_error(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)
    make = html_error if exception.status_code == 405 else error
    return make(exception.status_code, headers=exception.headers)


async def _refusal(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, Refusal)
    return exception.response


async def _disconnected(_: Request, exception: Exception) -> Response:
    # Nobody receives it.
    return Response(status_code=400)
