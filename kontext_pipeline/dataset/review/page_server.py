"""`kontext review`: the page on this machine's loopback address, for one reviewer's browser."""

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from upath import UPath

from kontext_pipeline.dataset.review.page_app import create_app
from kontext_pipeline.errors import SettingsError
from kontext_pipeline.threads import start_thread

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8770
_START_S: Final = 10.0


def serve(data_dir: UPath, *, port: int, reviewer: str, announce: Callable[[str], None]) -> None:
    """Serve the page until it is interrupted. `announce` is called with its address, which has the token.

    Raises:
        SettingsError: The port is not available.
        ReviewError: There are no rows, or the decisions can't be read.
        DatasetError: A table can't be read.
    """
    with _listen(port) as listener, contextlib.suppress(KeyboardInterrupt):
        server, url = _build(data_dir, listener, reviewer)
        announce(url)
        server.run(sockets=[listener])


@contextlib.contextmanager
def serve_in_thread(data_dir: UPath, *, reviewer: str = "") -> Iterator[str]:
    """Serve the page in a thread of this process on a free port, and yield its address.

    Raises:
        RuntimeError: The server did not start.
        ReviewError, DatasetError: As `serve`.
    """
    with _listen(0) as listener:
        server, url = _build(data_dir, listener, reviewer)
        thread = start_thread(lambda: server.run(sockets=[listener]), name="review")
        deadline = time.monotonic() + _START_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("The review page did not start.")
            time.sleep(0.005)
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(_START_S)


def _build(data_dir: UPath, listener: socket.socket, reviewer: str) -> tuple[uvicorn.Server, str]:
    token, port = secrets.token_urlsafe(24), listener.getsockname()[1]
    settings = uvicorn.Config(
        create_app(data_dir, token=token, port=port, reviewer=reviewer),
        ws="none",
        lifespan="off",
        # The address of the page has the token.
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
        proxy_headers=False,
        server_header=False,
    )
    return uvicorn.Server(settings), f"http://{HOST}:{port}/?token={token}"


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port), backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"The review page can't listen on {HOST} port {port}: {reason}. Choose another port with --port, or 0 for any "
            "free one."
        ) from error
