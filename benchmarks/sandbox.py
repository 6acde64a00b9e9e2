"""Measure the sandbox: requests a second, memory with v2 jobs in flight, and the time of drawings.

    python benchmarks/sandbox.py

The server is a process of its own. The client shares the machine with it, so the server alone is faster than the
printed figures.
"""

import asyncio
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import requests
from PIL import Image

from kontext_pipeline.sandbox.drawing.encoding import encode
from kontext_pipeline.sandbox.drawing.picture import draw_picture
from kontext_pipeline.sandbox.drawing.sizes import SIZES

KEY = "SG_0123456789abcdef"
SERVER = """
import sys
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.server import serve
serve(port=int(sys.argv[1]), config=SandboxConfig(draw=sys.argv[2] == "draw", speed=float(sys.argv[3]), balance=1e6))
"""


class Server:
    def __init__(self, *, draw: bool, speed: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        command = [sys.executable, "-c", SERVER, str(self.port), "draw" if draw else "plain", str(speed)]
        self.process = subprocess.Popen(command)
        self.memory = psutil.Process(self.process.pid)
        while True:
            try:
                self.books()
                break
            except requests.ConnectionError:
                time.sleep(0.05)

    def books(self) -> dict[str, float]:
        answer = requests.get(f"http://127.0.0.1:{self.port}/sandbox/books?after=99999999", timeout=30)
        totals: dict[str, float] = answer.json()["totals"]
        return totals

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


def request(path: str, body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def many(port: int, path: str, bodies: list[dict[str, object]], connections: int) -> float:
    """Send every body over so many kept connections; return the seconds it took."""
    queue = list(reversed(bodies))

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while queue:
            writer.write(request(path, queue.pop()))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    return time.perf_counter() - began


def throughput(*, draw: bool, path: str, distinct: int, count: int) -> None:
    with Server(draw=draw, speed=1000) as server:
        bodies: list[dict[str, object]] = [{"prompt": "a lake at dawn", "seed": n % distinct} for n in range(count)]
        asyncio.run(many(server.port, path, bodies[:distinct], min(distinct, 64)))
        seconds = asyncio.run(many(server.port, path, bodies, 64))
        label = f"{path[:3]} {'drawn, from memory' if draw else 'plain'}"
        print(f"{label:28} {count / seconds:7,.0f} requests/s, {server.memory.memory_info().rss / 1e6:.0f} MB")


def in_flight(jobs: int) -> None:
    with Server(draw=True, speed=1) as server:
        before = server.memory.memory_info().rss / 1e6
        bodies: list[dict[str, object]] = [{"prompt": f"picture {n} " + "x" * 200, "seed": n} for n in range(jobs)]
        asyncio.run(many(server.port, "/v2/flux-kontext-max", bodies, 32))
        running = server.books()["running"]
        print(
            f"v2 {running:,.0f} jobs in flight      {server.memory.memory_info().rss / 1e6:7.0f} MB ({before:.0f} MB before)"
        )
    with Server(draw=True, speed=2) as server:
        bodies = [{"prompt": f"picture {n}", "seed": n} for n in range(jobs)]
        thread = threading.Thread(
            target=lambda: asyncio.run(many(server.port, "/v1/flux-kontext-max", bodies[:200], 200))
        )
        thread.start()
        worst = peak = 0.0
        while thread.is_alive():
            began = time.perf_counter()
            server.books()
            worst = max(worst, time.perf_counter() - began)
            peak = max(peak, server.memory.memory_info().rss / 1e6)
            time.sleep(0.05)
        print(f"v1 200 drawn at once          {peak:7.0f} MB at most, slowest answer beside it {worst * 1e3:.0f} ms")


def drawing() -> None:
    photos = Path(__file__).parents[1] / "data" / "photos"
    for prompt, name in (
        ("a mountain lake at dawn", None),
        ("a city at night in the rain", None),
        ("in winter", "horses"),
        ("at sunset", "mont-saint-michel"),
        ("a watercolour painting", "macaw"),
    ):
        photo = Image.open(photos / f"{name}.jpg").convert("RGB") if name else None
        times: list[float] = []
        for number in range(5):
            digest = hashlib.sha256(f"{prompt}{number}".encode()).hexdigest()
            began = time.process_time()
            encode(draw_picture(prompt, SIZES["16:9"], digest, photo), "png")
            times.append(time.process_time() - began)
        kind = "edit " if photo else "scene"
        print(f"{kind} {prompt:30} {sorted(times)[2] * 1e3:5.0f} ms of CPU with its PNG")


if __name__ == "__main__":
    throughput(draw=False, path="/v1/flux-kontext-max", distinct=64, count=3000)
    throughput(draw=True, path="/v1/flux-kontext-max", distinct=16, count=2000)
    throughput(draw=False, path="/v2/flux-kontext-max", distinct=64, count=3000)
    in_flight(1000)
    drawing()
