"""The other end of the wire for benchmarks: v1 and v2 with a given latency and size, and books of what came when.

    python -m benchmarks.server

It prints its port and serves until its input ends. It draws nothing and checks nothing, so that a
picture costs it next to nothing; what it is to do is set over HTTP (`Settings`), and its books (`Books`)
are read over HTTP, on its own clock, so that no client measures itself.
"""

import asyncio
import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from PIL import Image

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_JSON = "application/json"
INPUT_SIDE = 1400
"""Pixels of an input picture, which then has about 1 MB."""


@dataclass(slots=True)
class Settings:
    """What the server does: seconds a generation takes, bytes of a picture, requests that a window allows."""

    latency_s: float = 0.5
    picture_bytes: int = 32_000
    limit: int | None = None
    window_s: float = 60.0
    sliding: bool = False
    """Whether the window slides (every span of `window_s` holds at most `limit`) or starts with a request."""


@dataclass(slots=True)
class Books:
    """What came of the generations since the settings were last given. Moments are Unix time in seconds."""

    answered: int = 0
    refused: int = 0
    polls: int = 0
    first_request: float = 0.0
    last_request: float = 0.0
    last_answer: float = 0.0
    most_in_flight: int = 0
    """On v2 a job is in flight until its file is sent."""

    @property
    def span_s(self) -> float:
        """From the first request's arrival to the end of the last answer."""
        return self.last_answer - self.first_request


@dataclass(slots=True)
class _Job:
    done_at: float
    arrived: float


@dataclass(slots=True)
class _Server:
    base: str = ""
    settings: Settings = field(default_factory=Settings)
    books: Books = field(default_factory=Books)
    picture: bytes = b""
    input: bytes = b""
    jobs: dict[str, _Job] = field(default_factory=dict)
    window: deque[float] = field(default_factory=deque)
    in_flight: int = 0

    def set(self, settings: Settings) -> None:
        self.settings = settings
        self.books = Books()
        self.jobs.clear()
        self.window.clear()
        self.in_flight = 0
        self.picture = _png(settings.picture_bytes)
        self.input = self.input or _jpeg(INPUT_SIDE)

    def refusal(self) -> str | None:
        """When the limit resets, where it is reached; else count one request."""
        limit, window = self.settings.limit, self.window
        if limit is None:
            return None
        now = time.time()
        if self.settings.sliding:
            while window and window[0] <= now - self.settings.window_s:
                window.popleft()
        elif window and window[0] <= now - self.settings.window_s:
            window.clear()
        if len(window) < limit:
            window.append(now)
            return None
        return datetime.fromtimestamp(window[0] + self.settings.window_s, UTC).isoformat()

    def take_off(self) -> None:
        now = time.time()
        books = self.books
        books.first_request = books.first_request or now
        books.last_request = now
        self.in_flight += 1
        books.most_in_flight = max(books.most_in_flight, self.in_flight)

    def land(self) -> None:
        self.in_flight -= 1
        self.books.answered += 1
        self.books.last_answer = time.time()

    async def serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting = bytearray()
        with sock, contextlib.suppress(ConnectionError):
            while True:
                while (end := waiting.find(b"\r\n\r\n")) < 0:
                    if not (piece := await loop.sock_recv(sock, 65536)):
                        return
                    waiting += piece
                head = bytes(waiting[:end])
                found = _LENGTH.search(head)
                whole = end + 4 + (int(found[1]) if found else 0)
                while len(waiting) < whole:
                    waiting += await loop.sock_recv(sock, 65536)
                body = bytes(waiting[end + 4 : whole])
                del waiting[:whole]
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                await self.answer(sock, method, path, body)

    async def answer(self, sock: socket.socket, method: str, path: str, body: bytes) -> None:
        now = time.time()
        if path.startswith("/benchmark/"):
            if method == "POST":
                self.set(Settings(**json.loads(body)))
            await _send(sock, 200, _JSON, json.dumps(asdict(self.books)).encode())
        elif path.startswith("/inputs/"):
            # What follows the end of a picture is ignored, and makes it another one.
            await _send(sock, 200, "image/jpeg", self.input + path.encode())
        elif path == "/upload-asset":
            await _send(sock, 200, _JSON, b'{"file_urls": ["https://uploads.example/input.jpg"]}')
        elif path == "/v1/get-user-credits":
            await _send(sock, 200, _JSON, b'{"credits": 1000000.0, "free-credits": 0.0}')
        elif method == "POST" and (resets := self.refusal()) is not None:
            self.books.refused += 1
            headers = f"x-rate-limit-reset-at-utc: {resets}\r\n"
            await _send(sock, 429, _JSON, b'{"error": "too many requests"}', headers)
        elif method == "POST" and path.startswith("/v1/"):
            self.take_off()
            await asyncio.sleep(self.settings.latency_s)
            await _send(sock, 200, "image/png", self.picture, _accounting(f"v1-{now}", self.settings))
            self.land()
        elif method == "POST":
            self.take_off()
            name = f"{len(self.jobs):032x}"
            self.jobs[name] = _Job(now + self.settings.latency_s, now)
            record = f"{self.base}/v2/requests/{name}"
            places = {
                "status_url": f"{record}/status",
                "poll_url": f"{record}/status",
                "response_url": record,
            }
            answer = {"request_id": name, "status": "QUEUED", **places}
            await _send(sock, 200, _JSON, json.dumps(answer).encode())
        elif path.endswith("/status"):
            self.books.polls += 1
            done = now >= self.jobs[path.split("/")[3]].done_at
            await _send(sock, 200, _JSON, b'{"status": "COMPLETED"}' if done else b'{"status": "PROCESSING"}')
        elif path.startswith("/v2/"):
            record_of_it = {
                "status": "COMPLETED",
                "output": f"{self.base}/files/{path.rsplit('/', 1)[1]}.png",
                "metrics": {
                    "cost": 0.1,
                    "remaining_credits": 1e6,
                    "inference_time": self.settings.latency_s,
                    "queue_time": 0.0,
                    "total_time": self.settings.latency_s,
                },
            }
            await _send(sock, 200, _JSON, json.dumps(record_of_it).encode())
        else:
            await _send(sock, 200, "image/png", self.picture)
            self.land()


def _accounting(request_id: str, settings: Settings) -> str:
    return (
        f"x-cost: 0.1\r\nx-remaining-credits: 1000000\r\nx-request-id: {request_id}\r\n"
        f"x-generation-time: {settings.latency_s}\r\nx-seed-value: 1\r\n"
    )


async def _send(sock: socket.socket, status: int, kind: str, body: bytes, headers: str = "") -> None:
    head = (
        f"HTTP/1.1 {status} OK\r\nDate: {datetime.now(UTC):%a, %d %b %Y %H:%M:%S GMT}\r\n"
        f"Content-Type: {kind}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    if len(body) < 65536:
        await asyncio.get_running_loop().sock_sendall(sock, head + body)
        return
    await asyncio.get_running_loop().sock_sendall(sock, head)
    await asyncio.get_running_loop().sock_sendall(sock, body)


def _png(size: int) -> bytes:
    """A whole PNG of noise, of about so many bytes."""
    side = max(8, round((size / 3) ** 0.5))
    image = Image.frombytes("RGB", (side, side), os.urandom(side * side * 3))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=0)
    return file.getvalue()


def _jpeg(side: int) -> bytes:
    """A JPEG of grey noise, of about 0.6 bytes for each pixel."""
    file = io.BytesIO()
    Image.effect_noise((side, side), 60).convert("RGB").save(file, "JPEG", quality=75)
    return file.getvalue()


async def _main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    server = _Server(base=f"http://127.0.0.1:{port}")
    server.set(Settings())
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: os._exit(0))
    connections = set()
    while True:
        sock, _ = await loop.sock_accept(listener)
        connection = loop.create_task(server.serve(sock))
        connections.add(connection)
        connection.add_done_callback(connections.discard)


class RunningServer:
    """A server in a process of its own."""

    def __init__(self, url: str) -> None:
        """`url`: where it is."""
        self.url = url

    def set(self, settings: Settings) -> None:
        """Say what it is to do from now on, and open new books."""
        self._ask(json.dumps(asdict(settings)).encode())

    def books(self) -> Books:
        """Read the books as they stand."""
        return Books(**json.loads(self._ask(None)))

    def _ask(self, body: bytes | None) -> bytes:
        request = urllib.request.Request(f"{self.url}/benchmark/books", data=body)
        with urllib.request.urlopen(request) as answer:
            content: bytes = answer.read()
        return content


@contextlib.contextmanager
def running_server() -> Iterator[RunningServer]:
    """Start a server and end it."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield RunningServer(f"http://127.0.0.1:{process.stdout.readline().strip()}")
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(_main())
