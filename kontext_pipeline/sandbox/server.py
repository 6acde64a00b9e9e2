"""The server: uvicorn, extended so that a response can reset its connection."""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.sandbox.app import create_app
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.responses import RESET_EXTENSION

KEEP_ALIVE_S: Final = 75
"""Seconds for which an idle connection stays open, as is usual for proxies before real gateways."""
SHUTDOWN_S: Final = 1
"""Seconds that jobs in flight have to finish when the sandbox is stopped."""
START_S: Final = 10.0
"""Seconds to wait for a server that starts in a thread."""


class _ResettableProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol, with a function in each request's scope that resets the connection."""

    app: ASGIApp

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        inner = self.app

        def reset() -> None:
            connection = transport.get_extra_info("socket")
            if connection is not None:
                # A socket that does not linger sends a reset when it is closed.
                with contextlib.suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[RESET_EXTENSION] = reset
            await inner(scope, receive, send)

        self.app = app


def _build_server(
    config: SandboxConfig, *, host: str = "127.0.0.1", shutdown_s: int = SHUTDOWN_S, log_level: str = "warning"
) -> uvicorn.Server:
    settings = uvicorn.Config(
        create_app(config, host=host),
        http=_ResettableProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_level=log_level,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=shutdown_s,
        proxy_headers=False,
        server_header=False,
    )
    return uvicorn.Server(settings)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"The sandbox can't listen on {host} port {port}: {error.strerror}. Choose another port with --port."
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    host: str = "127.0.0.1",
    port: int = 8765,
    *,
    config: SandboxConfig,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve a sandbox until it is interrupted. `announce` is called with its URL once the port is open.

    Raises:
        SettingsError: the address is not available.
    """
    with _listen(host, port) as listener, contextlib.suppress(KeyboardInterrupt):
        if announce is not None:
            announce(_url(listener))
        _build_server(config, host=host).run(sockets=[listener])


@contextlib.contextmanager
def serve_in_thread(config: SandboxConfig) -> Iterator[str]:
    """Serve a sandbox in a thread of this process, on a free port of 127.0.0.1, and yield its URL.

    Generations that still run at the end are abandoned.

    Raises:
        RuntimeError: the server did not start.
    """
    with _listen("127.0.0.1", 0) as listener:
        server = _build_server(config, shutdown_s=0, log_level="critical")
        thread = threading.Thread(target=server.run, args=([listener],), name="sandbox", daemon=True)
        thread.start()
        deadline = time.monotonic() + START_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("The sandbox did not start.")
            time.sleep(0.005)
        try:
            yield _url(listener)
        finally:
            server.should_exit = True
            thread.join(START_S)
