"""Bytes over HTTP, once: connections, deadlines, and the exact knowledge of whether anything was sent.

Belongs here: what `requests` and urllib3 are told to do and not to do. There are no retries, redirects,
cookies or credentials files at this level, and every failure says whether the request had left.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.client import BadStatusLine, HTTPException, RemoteDisconnected
from types import TracebackType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ProxyError
from urllib3.exceptions import SSLError as WrappedSSLError
from urllib3.response import BaseHTTPResponse
from urllib3.util.ssl_ import create_urllib3_context

from kontext_pipeline.errors import SettingsError

IDLE_LIMIT_S: Final = 3.0
"""A kept connection that idled longer is not used again. Servers close idle ones after 5 s (uvicorn,
Node.js) to 75 s (nginx), and a POST that meets the close can't be told from one that was billed."""
CHUNK_BYTES: Final = 256 * 1024
"""Read at once: large enough that a picture costs few calls, small against 400 in flight."""
_SHORT_BODY_BYTES: Final = 1 << 16
_WATCH_INTERVAL_S: Final = 0.2
_HOSTS: Final = 32
"""Hosts whose connections are kept: the API, uploads, and the file servers that outputs lie on."""

_KEEP_ALIVE_AFTER_S: Final = 30
"""A blocking call is silent for minutes; address translators forget a silent connection after as few as
two, and without probes its loss would only be noticed at the deadline."""


class DisconnectedError(Exception):
    """No answer, or not all of it. `sent`: whether anything of the request may have arrived."""

    def __init__(self, reason: str, *, cause: str, sent: bool) -> None:
        """`reason`: for a reader; `cause`: the short name of it."""
        super().__init__(reason)
        self.cause = cause
        self.sent = sent


class _Flight:
    """One call in flight: how far it got, when it must end, and the socket by which to end it."""

    __slots__ = ("deadline", "ended", "lock", "sent", "sock", "timeout_s")

    def __init__(self, timeout_s: float, lock: threading.Lock) -> None:
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.lock = lock
        self.sock: socket.socket | None = None
        self.sent = False
        self.ended = ""

    def sending(self, sock: socket.socket) -> None:
        with self.lock:
            if self.ended:
                raise ConnectionAbortedError("the call was ended before it was sent")
            self.sock = sock
            self.sent = True

    def not_sent(self) -> None:
        with self.lock:
            self.sent = False

    def landed(self) -> None:
        with self.lock:
            self.sock = None

    def end(self, cause: str) -> None:
        """Make the call's thread stop waiting. The lock is held by the caller."""
        if not self.ended:
            self.ended = cause
        if self.sock is not None:
            with suppress(OSError):
                # Past the TLS layer: its own shutdown is not for another thread to call.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class _Request(NamedTuple):
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


class _ThreadState(threading.local):
    flight: _Flight | None = None


_thread = _ThreadState()


class _Watched:
    """Mixed into urllib3's connections: reports to the thread's flight, and ages."""

    sock: Any
    idle_since: float | None = None
    _head: bytes | None = None
    """Headers that wait for a short body, to leave with it in one piece: one system call, one packet."""
    _body_follows = False

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        self._head = None
        self._body_follows = isinstance(body, bytes) and 0 < len(body) <= _SHORT_BODY_BYTES
        super().request(method, url, body, headers, **options)  # type: ignore[misc]

    def connect(self) -> None:
        try:
            super().connect()  # type: ignore[misc]
        finally:
            # What a proxy was told on the way is not the request.
            if _thread.flight is not None:
                _thread.flight.not_sent()

    def send(self, data: Any) -> None:
        if self._body_follows:
            self._head, self._body_follows = data, False
            return
        if self._head is not None:
            data, self._head = self._head + data, None
        if self.sock is None:
            self.connect()
        if _thread.flight is not None:
            _thread.flight.sending(self.sock)
            # The library allows the whole body no more time than connecting: too little for a picture
            # in the request on a slow line.
            self.sock.settimeout(_thread.flight.timeout_s)
        super().send(data)  # type: ignore[misc]

    @property
    def is_connected(self) -> bool:
        idle_since, self.idle_since = self.idle_since, None
        if self.sock is None or (idle_since is not None and time.monotonic() - idle_since > IDLE_LIMIT_S):
            return False
        return bool(super().is_connected)  # type: ignore[misc]


class _PlainConnection(_Watched, HTTPConnection):
    pass


class _TlsConnection(_Watched, HTTPSConnection):
    pass


class _Returning:
    """Mixed into urllib3's pools: a connection that comes back is no longer its flight's."""

    def _put_conn(self, conn: Any) -> None:
        if _thread.flight is not None:
            _thread.flight.landed()
        if conn is not None:
            conn.idle_since = time.monotonic()
        super()._put_conn(conn)  # type: ignore[misc]


class _PlainPool(_Returning, HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(_Returning, HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS: Final = {"http": _PlainPool, "https": _TlsPool}


def _socket_options() -> list[tuple[int, int, int]]:
    options = [
        *HTTPConnection.default_socket_options,
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    # Linux and macOS have different names for the same three numbers.
    for name, value in (
        ("TCP_KEEPIDLE", _KEEP_ALIVE_AFTER_S),
        ("TCP_KEEPALIVE", _KEEP_ALIVE_AFTER_S),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 4),
    ):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


class _Adapter(HTTPAdapter):
    """`requests`' adapter with one TLS context for all connections and without cookies.

    A context of its own for every connection, which is the default, reads the certificate bundle each
    time: tens of milliseconds, 400 times over.
    """

    def __init__(self, pool_size: int) -> None:
        self._context = _new_tls_context()
        super().__init__(pool_connections=_HOSTS, pool_maxsize=pool_size, max_retries=0, pool_block=False)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, socket_options=_socket_options(), **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, socket_options=_socket_options(), **proxy_kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        parts = urlsplit(request.url)
        host = {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port}
        if parts.scheme != "https":
            return host, {}
        return host, {"cert_reqs": "CERT_REQUIRED", "ssl_context": self._context}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: the context that every connection shares verifies."""

    def build_response(self, req: Any, resp: BaseHTTPResponse) -> requests.Response:
        response = requests.Response()
        response.status_code = resp.status
        response.raw = resp
        return response

    def send_by_proxy(self, request: _Request, timeout: Timeout, proxies: dict[str, str]) -> BaseHTTPResponse:
        """Send a request in the way that a proxy wants it."""
        prepared = requests.PreparedRequest()
        prepared.method = request.method
        prepared.url = request.url
        prepared.headers = request.headers  # type: ignore[assignment]
        prepared.body = request.body
        raw: BaseHTTPResponse = self.send(prepared, stream=True, timeout=timeout, proxies=proxies).raw  # type: ignore[arg-type]
        return raw

    def send_straight(self, request: _Request, timeout: Timeout) -> BaseHTTPResponse:
        """Send a request to its host itself, without what `requests` works out anew for each."""
        scheme, _, rest = request.url.partition("://")
        host, _, path = rest.partition("/")
        origin = f"{scheme}://{host}"
        pool = self.poolmanager.pools.get(origin) or self._new_pool(origin)
        raw: BaseHTTPResponse = pool.urlopen(
            request.method,
            f"/{path}",
            body=request.body,
            headers=request.headers,
            timeout=timeout,
            retries=self.max_retries,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
        return raw

    def _new_pool(self, origin: str) -> Any:
        parts = urlsplit(origin)
        context = {
            **self.poolmanager.connection_pool_kw,
            "scheme": parts.scheme,
            "host": parts.hostname,
            "port": parts.port,
            "cert_reqs": "CERT_REQUIRED",
            "ssl_context": self._context,
        }
        # The origin serves as the key. The manager sees to it that there is one pool of it, and drops it when
        # many others have been used since.
        return self.poolmanager.connection_from_pool_key(origin, context)


def _new_tls_context() -> ssl.SSLContext:
    bundle = (
        os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    )
    context = create_urllib3_context()
    try:
        if os.path.isdir(bundle):  # noqa: PTH112  # a plain string from the environment
            context.load_verify_locations(capath=bundle)
        else:
            context.load_verify_locations(cafile=bundle)
    except OSError as error:
        raise SettingsError(
            f"The certificate bundle {bundle} can't be read ({error}). "
            "Set REQUESTS_CA_BUNDLE to a PEM file or folder, or unset it to use the one that is shipped."
        ) from None
    return context


class Transport:
    """Sends requests, each exactly once, and ends those that outlive their deadline.

    One for all threads. Proxies and certificates come from the environment, as it is at construction.
    """

    def __init__(self, *, connect_timeout_s: float, pool_size: int) -> None:
        """`pool_size`: connections kept open to one host; more may be in use at a time.

        Raises `SettingsError` for a certificate bundle that can't be read.
        """
        self._connect_timeout_s = connect_timeout_s
        self._adapter = _Adapter(pool_size)
        self._lock = threading.Lock()
        self._flights: set[_Flight] = set()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        self._proxies: dict[tuple[str, str], dict[str, str]] = {}

    def send(
        self, method: str, url: str, headers: Mapping[str, str], *, body: bytes | None, timeout_s: float
    ) -> "Reply":
        """Send one request and return its answer's status and headers, the body still to be read.

        `timeout_s` bounds the whole exchange from now to the body's last byte. The reply must be closed.
        Raises `DisconnectedError`.
        """
        flight = _Flight(timeout_s, self._lock)
        if body is not None:
            # Without its length, a body would be sent in chunks.
            headers = {**headers, "Content-Length": str(len(body))}
        request = _Request(method, url, headers, body)
        timeout = Timeout(connect=self._connect_timeout_s, read=timeout_s)
        self._take_off(flight)
        _thread.flight = flight
        failure: DisconnectedError
        try:
            proxies = self._proxies_for(url)
            if proxies:
                raw = self._adapter.send_by_proxy(request, timeout, proxies)
            else:
                raw = self._adapter.send_straight(request, timeout)
            return Reply(self, flight, raw)
        except (requests.RequestException, HTTPError, HTTPException, OSError, ValueError) as error:
            failure = _disconnected(error, flight)
            self._land(flight)
        except BaseException:
            self._land(flight)
            raise
        # Outside the handler, so that no exception that holds the request (and its key) hangs on it.
        raise failure

    def close(self) -> None:
        """End every call in flight, refuse any further one, close all connections."""
        self._closed.set()
        with self._lock:
            for flight in self._flights:
                flight.end("aborted")
        self._adapter.close()

    def _proxies_for(self, url: str) -> dict[str, str]:
        scheme, rest = url.split("://", 1)
        origin = scheme, rest.split("/", 1)[0]
        found = self._proxies.get(origin)
        if found is None:
            if len(self._proxies) > 1000:
                self._proxies.clear()
            found = self._proxies[origin] = dict(get_environ_proxies(url, no_proxy=None))
        return found

    def _take_off(self, flight: _Flight) -> None:
        with self._lock:
            if self._closed.is_set():
                raise DisconnectedError("the client is closed", cause="client_closed", sent=False)
            self._flights.add(flight)
            # Also after a fork, which leaves threads behind.
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = threading.Thread(target=self._watch, name="segmind-deadlines", daemon=True)
                self._watcher.start()

    def _land(self, flight: _Flight) -> None:
        with self._lock:
            flight.sock = None
            self._flights.discard(flight)
        _thread.flight = None

    def _watch(self) -> None:
        while not self._closed.wait(_WATCH_INTERVAL_S):
            now = time.monotonic()
            with self._lock:
                for flight in self._flights:
                    if now > flight.deadline:
                        flight.end("answer_timeout")


class Reply:
    """An answer whose status and headers are here and whose body is read by `chunks`."""

    def __init__(self, transport: Transport, flight: _Flight, raw: BaseHTTPResponse) -> None:
        """Only `Transport.send` makes one."""
        self._transport = transport
        self._flight = flight
        self._raw = raw
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers

    def __enter__(self) -> "Reply":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def chunks(self) -> Iterator[bytes]:
        """Yield the body, at most `CHUNK_BYTES` at a time. Raises `DisconnectedError` where it is cut."""
        raw = self._raw
        # Copies less where nothing is encoded, which is what was asked for.
        decode = "content-encoding" in self.headers
        failure: DisconnectedError | None = None
        try:
            while chunk := raw.read(CHUNK_BYTES, decode_content=decode):
                yield chunk
        except (HTTPError, HTTPException, OSError, ValueError) as error:
            failure = _disconnected(error, self._flight)
        if failure is None and self._flight.ended:
            # Without a length, a socket that was shut down reads like a body that is complete.
            failure = DisconnectedError(_ended(self._flight), cause=self._flight.ended, sent=True)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        with suppress(HTTPError, HTTPException, OSError):
            # A body that has been read has already given its connection back.
            if not self._raw.closed:
                self._raw.close()
            self._raw.release_conn()
        self._transport._land(self._flight)


def _ended(flight: _Flight) -> str:
    if flight.ended == "answer_timeout":
        return f"no complete answer within {flight.timeout_s:g} s"
    return "the call was ended by this program"


def _disconnected(error: BaseException, flight: _Flight) -> DisconnectedError:
    chain = list(_chain(error))
    reason = _words(chain)
    if not flight.sent:
        if flight.ended:
            return DisconnectedError(_ended(flight), cause="client_closed", sent=False)
        return DisconnectedError(reason, cause=_cause_of_no_connection(chain), sent=False)
    if flight.ended:
        return DisconnectedError(_ended(flight), cause=flight.ended, sent=True)
    if any(isinstance(link, TimeoutError) for link in chain):
        return DisconnectedError(
            f"no complete answer within {flight.timeout_s:g} s", cause="answer_timeout", sent=True
        )
    return DisconnectedError(reason, cause="connection_lost", sent=True)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it wraps, by whichever of the libraries' ways."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting and len(seen) < 20:
        link = waiting.pop(0)
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [*link.args, getattr(link, "reason", None), link.__cause__, link.__context__]


def _words(chain: list[BaseException]) -> str:
    """Return the innermost error's words; the outer ones name objects and addresses in memory."""
    for link in reversed(chain):
        if isinstance(link, BadStatusLine) and not isinstance(link, RemoteDisconnected):
            return "the answer is not HTTP"
        if isinstance(link, (OSError, HTTPException)) and not isinstance(link, requests.RequestException):
            return str(link) or type(link).__name__
    return type(chain[0]).__name__


def _cause_of_no_connection(chain: list[BaseException]) -> str:
    kinds: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
        ((ProxyError, requests.exceptions.ProxyError), "proxy"),
        ((ssl.SSLError, WrappedSSLError), "tls"),
        (socket.gaierror, "dns"),
        (ConnectionRefusedError, "connection_refused"),
        (TimeoutError, "connect_timeout"),
    )
    for kind, cause in kinds:
        if any(isinstance(link, kind) for link in chain):
            return cause
    return "no_connection"
