"""Connections of `requests` that know which call uses them and whether anything of it was sent.

This module configures `requests` and urllib3 through their public extension points: a transport adapter with
pool classes, and connection classes of our own. There are no retries, redirects, cookies or credentials files.
"""

import os
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from http.client import HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidProxyURL
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.files import wait_for_descriptor
from kontext_pipeline.plain_text import plain_text
from kontext_pipeline.segmind.outcomes import Cause

IDLE_LIMIT_S: Final = 3.0
"""A kept connection that was idle for longer is not used again. Servers close idle connections after 5 s
(uvicorn, Node.js) to 75 s (nginx), and a POST on a connection that the server is closing can't be told from a
billed one."""
_ANNOUNCEMENTS: Final = 100
"""Answers 102 and 103 that are skipped before the final one."""
_REST_PAUSE_S: Final = 0.5
"""How long bytes behind an announced length are waited for, seconds."""
_LENGTH: Final = re.compile(r"\s*[0-9]{1,18}\s*")
_HOSTS: Final = 32
"""Hosts whose connections are kept: the API, the upload address and the file servers of outputs."""


@dataclass(slots=True, eq=False)
class OpenCall:
    """A call in progress: whether anything was sent, when it must end, and the socket by which to end it."""

    timeout_s: float
    deadline: float
    """Monotonic time."""
    lock: threading.Lock
    """One for all calls. Held by the caller of `end`."""
    sent: bool = False
    """Whether a part of the request may have reached the server."""
    ended: Cause = Cause.NONE
    """Why this program ended the call, if it did."""
    sock: Any = None
    check_peer: Callable[[str, str], None] | None = None
    """Called with the host and the address of each new connection, before anything is sent on it."""
    response: "FinalResponse | None" = None
    """The answer, once its status and headers came."""

    def sending(self, sock: Any) -> None:
        """Record that bytes of the request are about to leave through `sock`.

        Raises:
            ConnectionAbortedError: the call was ended; nothing more may be sent.
        """
        with self.lock:
            if self.ended:
                raise ConnectionAbortedError("the call was ended while it was sent")
            self.sock = sock
            self.sent = True

    def detach(self) -> None:
        """Forget the socket, because the connection now belongs to another call, or to none."""
        with self.lock:
            self.sock = None

    def end(self, cause: Cause) -> None:
        """Make the thread of the call stop waiting for the network."""
        self.ended = self.ended or cause
        if self.sock is not None:
            _shut_down(self.sock)


def _shut_down(sock: Any) -> None:
    # TLS inside TLS, through a proxy, is an object around the socket. The method of `socket.socket` is
    # called, because that of a TLS socket discards the state that a waiting thread uses.
    plain = sock if isinstance(sock, socket.socket) else sock.socket
    with suppress(OSError):
        socket.socket.shutdown(plain, socket.SHUT_RDWR)


current_call: ContextVar[OpenCall | None] = ContextVar("current_call", default=None)
"""The call that this thread is sending. `requests` passes no parameter of ours on to a connection."""


class ForbiddenAddressError(ConnectionError):
    """The connection leads to an address that the caller does not allow. Nothing was sent on it."""


class FinalResponse(HTTPResponse):
    """An answer in HTTP/1: not one that only announces it (102, 103), and whole whatever length it announces.

    Bytes behind the announced length end the connection, because they would be read as the next answer.
    """

    _sock: Any
    _more_came = False
    """Bytes came behind the announced length. The answer stays open, so the connection is closed with it."""

    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self._sock = sock

    def begin(self) -> None:
        """Read status and headers."""
        super().begin()
        for _ in range(_ANNOUNCEMENTS):
            if not 102 <= self.status < 200:
                break
            # `begin` reads nothing where there are headers.
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        lengths = set(self.headers.get_all("content-length", ()))
        if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            # Not a length: the body ends with the connection.
            del self.headers["content-length"]
            if not self.chunked:
                self.length, self.will_close = None, True
        if (call := current_call.get()) is not None:
            call.response = self

    def rest(self, size: int) -> Iterator[bytes]:
        """Yield the bytes behind the announced length, in pieces of at most `size`, until none came for a moment."""
        with suppress(OSError, ValueError):
            while self._more_came:
                self._sock.settimeout(_REST_PAUSE_S)
                data = self.fp.read1(size)
                if not data:
                    return
                yield data

    def close(self) -> None:
        """Close the answer."""
        if not self._more_came:
            super().close()

    def _close_conn(self) -> None:
        # http.client calls this when the body was read to its end.
        if self._more_came:
            return
        if not self._is_followed():
            super()._close_conn()  # type: ignore[misc]
        elif self.chunked:
            # Its pool takes the connection for dropped.
            _shut_down(self._sock)
            super()._close_conn()  # type: ignore[misc]
        else:
            self._more_came = True

    def _is_followed(self) -> bool:
        """Return whether there are bytes that belong to no answer."""
        if self.will_close or self.fp is None:
            return False
        with suppress(OSError, ValueError):
            timeout = self._sock.gettimeout()
            self._sock.settimeout(0)
            try:
                return bool(self.fp.peek(1))
            finally:
                self._sock.settimeout(timeout)
        return False


class _CallConnection:
    """Mixin for urllib3's connections: reports to the call that uses the connection, and measures idleness."""

    response_class: Any = FinalResponse
    sock: Any
    host: str
    proxy: Any
    timeout: float | None
    _call: OpenCall | None = None
    _idle_since: float | None = None

    def _new_conn(self) -> socket.socket:
        call = current_call.get()
        connected = wait_for_descriptor(lambda: self._connected(call))
        if call is not None and call.check_peer is not None and self.proxy is None:
            try:
                call.check_peer(self.host, connected.getpeername()[0])
            except BaseException:
                connected.close()
                raise
        return connected

    def _connected(self, call: OpenCall | None) -> socket.socket:
        if call is not None and call.ended:
            raise ConnectionAbortedError("the call was ended before it was sent")
        try:
            return super()._new_conn()  # type: ignore[misc,no-any-return]
        except NewConnectionError:
            # This program may have too many files open, which a failed look-up of a name doesn't say. Opening one does.
            os.close(os.open(os.devnull, os.O_RDONLY))
            raise

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        # Connect before the call is known: what a proxy is told while connecting is not the request.
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        call = self._call = current_call.get()
        if call is not None:
            # urllib3 would allow the whole body no more time than connecting: too little for a picture in
            # the request on a slow line.
            self.timeout = call.timeout_s
        super().request(method, url, body, headers, **options)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self._call is not None:
            self._call.sending(self.sock)
        super().send(data)  # type: ignore[misc]

    @property
    def is_connected(self) -> bool:
        if self._idle_since is not None and time.monotonic() - self._idle_since > IDLE_LIMIT_S:
            return False
        return bool(super().is_connected)  # type: ignore[misc]

    def returned(self) -> None:
        """Leave the call, because the connection goes back to its pool."""
        call, self._call = self._call, None
        if call is not None:
            call.detach()
        self._idle_since = time.monotonic()


class _PlainConnection(_CallConnection, HTTPConnection): ...


class _TlsConnection(_CallConnection, HTTPSConnection): ...


class _ConnectionQueue(queue.LifoQueue[Any]):
    """The connections that a pool keeps."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if isinstance(item, _CallConnection):
            # Before another thread can take it: from then on, ending the former call must not touch it.
            item.returned()
        super().put(item, block, timeout)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection
    QueueCls = _ConnectionQueue


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
    QueueCls = _ConnectionQueue


_POOL_CLASSES: Final = {"http": _PlainPool, "https": _TlsPool}


class _Adapter(HTTPAdapter):
    """An adapter with our connections, and one TLS context for all: reading certificates takes tens of milliseconds."""

    def __init__(self, pool_size: int) -> None:
        self._options = {"socket_options": _socket_options(), "ssl_context": _tls_context()}
        super().__init__(pool_connections=_HOSTS, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **self._options, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOL_CLASSES

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        if proxy.lower().startswith("socks"):
            # Its connections are none of ours: a request that was sent would count as not sent.
            raise InvalidProxyURL("SOCKS proxies are not supported; set an http:// or https:// proxy")
        manager = super().proxy_manager_for(proxy, **self._options, **proxy_kwargs)
        manager.pool_classes_by_scheme = _POOL_CLASSES
        return manager

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Return the answer without cookies and encodings, which nobody reads."""
        response = requests.Response()
        response.status_code, response.headers, response.raw = resp.status, _gated(resp.headers), resp
        return response

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: the shared TLS context verifies every connection."""


class Session(requests.Session):
    """Sends each request exactly as it is given, once: without headers, cookies, credentials or proxies of its own."""

    def __init__(self, pool_size: int) -> None:
        """Configure the connections. `pool_size`: connections kept open to one host; more may be in use at a time.

        Raises:
            SettingsError: the certificate bundle can't be read.
        """
        super().__init__()
        self.headers.clear()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        adapter = _Adapter(pool_size)
        for prefix in ("https://", "http://"):
            self.mount(prefix, adapter)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return None: a redirect is an answer like any other, and its body is not read here."""
        return None


def _gated(headers: Mapping[str, str]) -> CaseInsensitiveDict[str]:
    return CaseInsensitiveDict({plain_text(name): plain_text(headers[name]) for name in headers})


def _socket_options() -> list[tuple[int, int, int]]:
    """Return options that make a connection probe its other end: address translators forget a silent one in minutes."""
    # Seconds until the first probe (as Linux and as macOS name it) and between probes, and their number.
    probes = {"TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
    named = {getattr(socket, name): value for name, value in probes.items() if hasattr(socket, name)}
    options = [(socket.IPPROTO_TCP, option, value) for option, value in named.items()]
    return [*HTTPConnection.default_socket_options, (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *options]


def _tls_context() -> ssl.SSLContext:
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    context = create_urllib3_context()
    try:
        context.load_verify_locations(**{"capath" if Path(bundle).is_dir() else "cafile": bundle})
    except OSError as error:
        raise SettingsError(
            f"The certificate bundle {bundle} can't be read ({error}). "
            "Set REQUESTS_CA_BUNDLE to a PEM file or folder, or unset it to use the one that is shipped."
        ) from None
    return context
