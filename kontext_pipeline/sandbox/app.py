"""The application: routes, and the responses to errors."""

import contextlib
import ipaddress
import re
from collections.abc import AsyncIterator
from functools import partial

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kontext_pipeline.sandbox import admin, endpoints
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.openapi import OPENAPI
from kontext_pipeline.sandbox.responses import Refusal, error, html_error
from kontext_pipeline.sandbox.session import Gateway
from kontext_pipeline.segmind.addresses import is_loopback


def create_app(config: SandboxConfig, *, host: str = "127.0.0.1") -> Starlette:
    """Return the sandbox as an ASGI application. `host`: the address that it listens on.

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
    names = frozenset(map(str.lower, (host, *config.hosts)))
    app = Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(_KnownHost, names=names)])
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Refusal, _refusal)
    # Nobody receives this answer.
    app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=400))
    app.state.gateway = gateway
    return app


class _KnownHost:
    """Refuses requests for other hosts: a web page can give a name of its own to this machine's address."""

    def __init__(self, app: ASGIApp, *, names: frozenset[str]) -> None:
        self._app = app
        self._names = names
        # Listening on every address, the sandbox can be asked for by any of them. No page can give a name to a number.
        self._any_address = not names.isdisjoint({"0.0.0.0", "::"})  # noqa: S104  compared, not bound to

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_known(Headers(scope=scope).get("host", "")):
            await self._app(scope, receive, send)
        else:
            text = "This sandbox is not asked for by this name. Use localhost, or name it with --host or --allow-host."
            await error(421, text)(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        name = re.sub(r":\d*$", "", host).strip("[]").lower()
        if name in self._names or is_loopback(name):
            return True
        with contextlib.suppress(ValueError):
            return self._any_address and bool(ipaddress.ip_address(name))
        return False


async def _http_error(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)
    make = html_error if exception.status_code == 405 else error
    return make(exception.status_code, headers=exception.headers)


async def _refusal(_: Request, exception: Exception) -> Response:
    assert isinstance(exception, Refusal)
    return exception.response
