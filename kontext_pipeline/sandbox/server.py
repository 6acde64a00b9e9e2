"""Serving: uvicorn with the one thing it lacks here, a way for an answer to reset its connection."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.sandbox.answers import RESET_EXTENSION
from kontext_pipeline.sandbox.app import create_app
from kontext_pipeline.sandbox.config import SandboxConfig

KEEP_ALIVE_S: Final = 75
"""Seconds an idle connection stays open: what proxies in front of real gateways commonly allow."""
SHUTDOWN_S: Final = 1
"""Seconds that jobs in flight are given when the sandbox is stopped; later they're unbilled."""


class _Resettable(asyncio.Protocol):
    """Mixed into uvicorn's HTTP protocol: puts a function into each request's scope that resets its connection."""

    app: ASGIApp

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        inner = self.app

        def reset() -> None:
            connection = transport.get_extra_info("socket")
            if connection is not None:
                # Not lingering is what makes closing a socket a reset rather than an orderly end.
                with contextlib.suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            cast("asyncio.WriteTransport", transport).abort()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[RESET_EXTENSION] = reset
            await inner(scope, receive, send)

        self.app = app


_PROTOCOL: Final = cast("type[asyncio.Protocol]", type("ResettableProtocol", (_Resettable, AutoHTTPProtocol), {}))


def build_server(config: SandboxConfig, *, host: str = "127.0.0.1", **options: Any) -> uvicorn.Server:
    """Return a uvicorn server of a new sandbox; `options` are uvicorn's and win over what is set here."""
    settings: dict[str, Any] = {
        "host": host,
        "http": _PROTOCOL,
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "log_level": "warning",
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": SHUTDOWN_S,
        "proxy_headers": False,
        "server_header": False,
    }
    return uvicorn.Server(uvicorn.Config(create_app(config), **{**settings, **options}))


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port` (0: any free one). Raises SettingsError if it can't."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"The sandbox can't listen on {host} port {port}: {error.strerror}. Choose another with --port."
        ) from error


def serve(
    host: str = "127.0.0.1",
    port: int = 8765,
    *,
    config: SandboxConfig,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve a sandbox until it is interrupted; `announce` is told its base URL once the port is open.

    Raises SettingsError if the address can't be had.
    """
    with listen(host, port) as listener, contextlib.suppress(KeyboardInterrupt):
        if announce is not None:
            shown = f"[{host}]" if ":" in host else host
            announce(f"http://{shown}:{listener.getsockname()[1]}")
        build_server(config, host=host).run(sockets=[listener])
