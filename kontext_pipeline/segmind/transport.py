"""HTTP requests, each sent exactly once, that end at a deadline and report exactly whether anything was sent."""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from http.client import BadStatusLine, HTTPException, RemoteDisconnected
from typing import Final
from urllib.parse import urlsplit

import requests
from requests.structures import CaseInsensitiveDict
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError, ProxyError
from urllib3.exceptions import SSLError as WrappedSSLError

from kontext_pipeline.segmind.addresses import is_loopback
from kontext_pipeline.segmind.connections import (
    ForbiddenAddressError,
    OpenCall,
    Session,
    current_call,
)
from kontext_pipeline.segmind.outcomes import Cause
from kontext_pipeline.threads import start_thread

CHUNK_BYTES: Final = 256 * 1024
"""Read at once: large enough that a picture takes few reads, small beside 400 calls in progress."""
_DEADLINE_CHECK_S: Final = 0.2
_NETWORK_ERRORS: Final = (requests.RequestException, HTTPError, HTTPException, OSError, ValueError)

_logger = logging.getLogger(__name__)


class DisconnectedError(Exception):
    """No answer came, or only a part of one."""

    def __init__(self, reason: str, *, cause: Cause, sent: bool) -> None:
        """`reason`: for a reader. `sent`: whether a part of the request may have reached the server."""
        super().__init__(reason)
        self.cause = cause
        self.sent = sent


class Transport:
    """Sends requests of any thread. Proxies and certificates come from the environment."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        pool_size: int,
        check_peer: Callable[[str, str], None] | None = None,
    ) -> None:
        """Configure the connections. `connect_timeout_s`: seconds. `pool_size` and errors: those of `Session`.

        `check_peer` is called with the host and the IP address of each new connection that uses no proxy, before
        anything is sent; it raises `ForbiddenAddressError` where the address is not allowed.
        """
        self._connect_timeout_s = connect_timeout_s
        self._check_peer = check_peer
        self._session = Session(pool_size)
        self._proxies = lru_cache(maxsize=1000)(_proxies_for)
        self._lock = threading.Lock()
        self._calls: set[OpenCall] = set()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    @contextmanager
    def send(
        self, method: str, url: str, headers: Mapping[str, str], *, body: bytes | None, timeout_s: float
    ) -> Iterator["Reply"]:
        """Send one request and give its answer, whose body can be read until the `with` block ends.

        `timeout_s` bounds the whole exchange, from now to the last byte of the body.

        Raises:
            DisconnectedError: no status and headers came.
        """
        call = OpenCall(timeout_s, time.monotonic() + timeout_s, self._lock, check_peer=self._check_peer)
        self._register(call)
        try:
            response = self._respond(call, _prepared(method, url, headers, body))
            try:
                yield Reply(call, response)
            finally:
                call.detach()
                with suppress(*_NETWORK_ERRORS):
                    # Keeps the connection if the body was read to its end.
                    response.close()
        finally:
            with self._lock:
                self._calls.discard(call)

    def close(self) -> None:
        """End every call in progress, refuse later ones, and close all connections."""
        self._closed.set()
        with self._lock:
            for call in self._calls:
                call.end(Cause.ABORTED)
        self._session.close()

    def _respond(self, call: OpenCall, request: requests.PreparedRequest) -> requests.Response:
        failure: DisconnectedError
        token = current_call.set(call)
        try:
            return self._session.send(
                request,
                stream=True,
                timeout=(self._connect_timeout_s, call.timeout_s),
                allow_redirects=False,
                proxies=self._proxies("/".join(str(request.url).split("/", 3)[:3])),
            )
        except _NETWORK_ERRORS as error:
            failure = _explained(error, call)
        finally:
            current_call.reset(token)
        # Raised outside the handler: the handled error holds the request and its key.
        raise failure

    def _register(self, call: OpenCall) -> None:
        with self._lock:
            if self._closed.is_set():
                raise DisconnectedError("the client is closed", cause=Cause.CLIENT_CLOSED, sent=False)
            self._calls.add(call)
            # A fork leaves threads behind, so the thread may be missing in a child process.
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = start_thread(self._watch, "segmind-deadlines")

    def _watch(self) -> None:
        while not self._closed.wait(_DEADLINE_CHECK_S):
            now = time.monotonic()
            with self._lock:
                for call in self._calls:
                    if now > call.deadline and not call.ended:
                        call.end(Cause.ANSWER_TIMEOUT)
                        _logger.debug("a call was ended at its deadline of %g s", call.timeout_s)


def _proxies_for(origin: str) -> dict[str, str]:
    """Return the proxies that the environment names for an origin. No proxy can reach this machine's loopback."""
    return {} if is_loopback(urlsplit(origin).hostname or "") else get_environ_proxies(origin)


def _prepared(method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> requests.PreparedRequest:
    """Return the request as it is sent. The callers checked the URL, and checking it again would take 0.1 ms."""
    request = requests.PreparedRequest()
    request.method, request.url, request.body = method, url, body
    request.headers = CaseInsensitiveDict(headers)
    request.prepare_content_length(body)
    return request


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: status and headers are in `response`, `chunks` reads the body."""

    call: OpenCall
    response: requests.Response

    def chunks(self) -> Iterator[bytes]:
        """Yield the body in pieces of at most `CHUNK_BYTES`.

        Raises:
            DisconnectedError: the body is incomplete.
        """
        encoded = "content-encoding" in self.response.headers
        try:
            # `iter_content` would copy every byte twice more, even where nothing is encoded.
            while chunk := self.response.raw.read(CHUNK_BYTES, decode_content=encoded):
                yield chunk
            # A body without a length looks complete when its socket is shut down.
            failure = _ended(self.call) if self.call.ended else None
        except _NETWORK_ERRORS as error:
            failure = _explained(error, self.call)
        if failure is not None:
            raise failure

    def rest(self) -> Iterator[bytes]:
        """Yield what came behind the announced length, once `chunks` has reached it. Most often nothing did."""
        if self.call.response is not None:
            yield from self.call.response.rest(CHUNK_BYTES)


def _ended(call: OpenCall) -> DisconnectedError:
    late = call.ended is Cause.ANSWER_TIMEOUT
    if call.sent:
        reason = f"no complete answer within {call.timeout_s:g} s" if late else "this program ended the call"
        return DisconnectedError(reason, cause=call.ended, sent=True)
    if late:
        reason = f"no connection within {call.timeout_s:g} s"
        return DisconnectedError(reason, cause=Cause.CONNECT_TIMEOUT, sent=False)
    return DisconnectedError("this program ended the call before it was sent", cause=Cause.CLIENT_CLOSED, sent=False)


def _explained(error: BaseException, call: OpenCall) -> DisconnectedError:
    if call.ended:
        return _ended(call)
    chain = list(_chain(error))
    if not call.sent:
        return DisconnectedError(_words(chain), cause=_cause_of_no_connection(chain), sent=False)
    if any(isinstance(link, TimeoutError) for link in chain):
        reason = f"no complete answer within {call.timeout_s:g} s"
        return DisconnectedError(reason, cause=Cause.ANSWER_TIMEOUT, sent=True)
    return DisconnectedError(_words(chain), cause=Cause.CONNECTION_LOST, sent=True)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the errors that led to it."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _words(chain: list[BaseException]) -> str:
    """Return the innermost error's message. The outer messages name objects and memory addresses."""
    for link in reversed(chain):
        if isinstance(link, BadStatusLine) and not isinstance(link, RemoteDisconnected):
            return "the answer is not HTTP"
        if isinstance(link, (OSError, HTTPException)) and not isinstance(link, requests.RequestException):
            return str(link) or type(link).__name__
    if isinstance(chain[0], requests.exceptions.InvalidProxyURL):
        return str(chain[0])
    return type(chain[0]).__name__


def _cause_of_no_connection(chain: list[BaseException]) -> Cause:
    kinds: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], Cause], ...] = (
        (ForbiddenAddressError, Cause.FORBIDDEN_ADDRESS),
        ((ProxyError, requests.exceptions.ProxyError, requests.exceptions.InvalidProxyURL), Cause.PROXY),
        ((ssl.SSLError, WrappedSSLError), Cause.TLS),
        (socket.gaierror, Cause.DNS),
        (ConnectionRefusedError, Cause.CONNECTION_REFUSED),
        (TimeoutError, Cause.CONNECT_TIMEOUT),
    )
    for kind, cause in kinds:
        if any(isinstance(link, kind) for link in chain):
            return cause
    return Cause.NO_CONNECTION
