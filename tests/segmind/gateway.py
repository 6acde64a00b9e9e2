"""A server on loopback that does what a script says, down to the bytes, and remembers what it was sent.

It speaks HTTP over plain sockets, because the faults it plays (a cut body, a reset before the answer, a
header that trickles) are what HTTP servers exist to prevent.
"""

import errno
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass
class Request:
    """What arrived. Header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass
class Reply:
    """What is sent back, and how badly."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Bytes of the body after which the connection closes."""
    reset: bool = False
    """Answer with a TCP reset instead."""
    hang: bool = False
    """Answer nothing until the server stops."""
    delay: float = 0.0
    trickle: float = 0.0
    """Seconds between the bytes of the body."""
    trickle_head: float = 0.0
    chunked: bool = False
    close: bool = False
    """Close the connection behind the answer, without saying so."""
    no_length: bool = False
    raw: bytes | None = None
    """Sent instead of everything."""


Script = Callable[[Request], Reply]


class Gateway:
    """`routes` maps a path to a reply, a list of replies (the last one stays), or a function."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Reply | list[Reply] | Script] = {}
        self.requests: list[Request] = []
        self.connections = 0
        self.reads_after = 0.0
        """Seconds before a new connection is read from."""
        self._context = context
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def seen(self, path: str) -> list[Request]:
        with self._lock:
            return [request for request in self.requests if request.path == path]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                # The limit of open files is one of the whole process, so a test that reaches it stops the server too.
                if error.errno != errno.EMFILE or self._stop.wait(0.01):
                    return
                continue
            with self._lock:
                self.connections += 1
                number = self.connections
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        plain = connection
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._stop.wait(self.reads_after)
            reader = connection.makefile("rb")
            while (request := _read(reader, number)) is not None:
                with self._lock:
                    self.requests.append(request)
                if not self._answer(connection, self._reply(request)):
                    break
            reader.close()
        except (OSError, ValueError):
            pass
        finally:
            with self._lock:
                self._open.discard(plain)
            connection.close()

    def _reply(self, request: Request) -> Reply:
        route = self.routes.get(request.path, Reply(404, b'{"error":"no such route"}'))
        if isinstance(route, list):
            with self._lock:
                return route.pop(0) if len(route) > 1 else route[0]
        return route if isinstance(route, Reply) else route(request)

    def _answer(self, connection: socket.socket, reply: Reply) -> bool:
        if reply.hang:
            self._stop.wait(60)
            return False
        if reply.delay:
            self._stop.wait(reply.delay)
        if reply.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if reply.raw is not None:
            connection.sendall(reply.raw)
            return False
        headers = {"Date": "Mon, 01 Jan 2024 00:00:00 GMT", **reply.headers}
        body = reply.body
        if reply.chunked:
            headers["Transfer-Encoding"] = "chunked"
            body = b"".join(
                b"%x\r\n%b\r\n" % (len(body[i : i + 1000]), body[i : i + 1000]) for i in range(0, len(body), 1000)
            )
            body += b"0\r\n\r\n"
        elif not reply.no_length:
            headers["Content-Length"] = str(len(body))
        lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{name}: {text}" for name, text in headers.items())]
        head = "\r\n".join([*lines, "", ""]).encode()
        if reply.trickle_head and not self._drip(connection, head, reply.trickle_head):
            return False
        if reply.trickle:
            connection.sendall(head)
            return self._drip(connection, body, reply.trickle)
        if reply.cut is not None:
            connection.sendall(head + body[: reply.cut])
            return False
        if not reply.trickle_head:
            connection.sendall(head + body)
        return not (reply.close or reply.no_length)

    def _drip(self, connection: socket.socket, data: bytes, pause: float) -> bool:
        for i in range(len(data)):
            connection.sendall(data[i : i + 1])
            if self._stop.wait(pause):
                return False
        return True


class Tunnel:
    """A proxy that takes CONNECT and passes bytes on to `gateway`, whatever host it was asked for."""

    def __init__(self, gateway: Gateway) -> None:
        self.connects = 0
        self._gateway = gateway
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connects += 1
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(1)
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                server = socket.create_connection(("127.0.0.1", self._gateway.port))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()


def _read(reader: object, number: int) -> Request | None:
    line = reader.readline()  # type: ignore[attr-defined]
    if not line.strip():
        return None
    method, path, _ = line.decode().split(" ", 2)
    headers = {}
    while (line := reader.readline().decode().strip()) != "":  # type: ignore[attr-defined]
        name, _, text = line.partition(":")
        headers[name.lower()] = text.strip()
    body = reader.read(int(headers.get("content-length", 0)))  # type: ignore[attr-defined]
    return Request(method, path, headers, body, number)


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)
