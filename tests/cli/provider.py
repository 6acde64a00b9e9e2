"""A server that implements the source document and no more: v1, its statuses, an image. It keeps a bill."""

import base64
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from tests.segmind.gateway import Gateway, Reply, Request

KEY = "SG_00112233aabbccdd"
PRICE = 0.10
PATH = "/v1/flux-kontext-max"

Fault = Callable[[dict[str, object], int], Reply | None]
"""Given the body and which POST of that body it is (from 1): a reply in place of the picture, or None."""


@dataclass
class Provider:
    """Pictures for a key, each billed when its answer is complete."""

    gateway: Gateway
    latency_s: float = 0.02
    fault: Fault = lambda _body, _times: None
    billed: list[dict[str, object]] = field(default_factory=list)
    posts: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    most_in_flight: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bill_usd(self) -> float:
        return round(len(self.billed) * PRICE, 6)

    @property
    def posted(self) -> int:
        return sum(self.posts.values())

    def answer(self, request: Request) -> Reply:
        if request.headers.get("x-api-key") != KEY:
            return error(401, "Invalid API key")
        body = json.loads(request.body)
        identity = hashlib.sha256(request.body).hexdigest()
        with self._lock:
            self.posts[identity] = times = self.posts.get(identity, 0) + 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if (reply := self.fault(body, times)) is not None:
                return reply
            time.sleep(self.latency_s)
            with self._lock:
                self.billed.append(body)
            return picture(body)
        finally:
            with self._lock:
                self.in_flight -= 1


@contextmanager
def running_provider() -> Iterator[Provider]:
    gateway = Gateway()
    provider = Provider(gateway)
    gateway.routes[PATH] = provider.answer
    try:
        yield provider
    finally:
        gateway.stop()


def error(status: int, words: str) -> Reply:
    return Reply(status, json.dumps({"error": words}).encode(), {"Content-Type": "application/json"})


def picture(body: dict[str, object]) -> Reply:
    kind = "JPEG" if body["output_format"] == "jpg" else "PNG"
    buffer = BytesIO()
    colour = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()[:3]
    Image.new("RGB", (64, 36), tuple(colour)).save(buffer, kind)
    return Reply(200, buffer.getvalue(), {"Content-Type": f"image/{kind.lower()}"})


def flaky(share: float, seed: int) -> Fault:
    """The source document's server faults, a 429 and a reset, drawn with a fixed seed for each POST.

    A body meets each kind of answer that may have been charged (504, a reset) once at most: as often as a row
    is tried again after one, unless `KONTEXT_UNKNOWN_RETRIES` says otherwise.
    """
    draw = random.Random(seed)
    lock = threading.Lock()
    met: set[tuple[str, int]] = set()

    def fault(body: dict[str, object], _times: int) -> Reply | None:
        with lock:
            if draw.random() >= share:
                return None
            kind = draw.choice([500, 502, 503, 504, 429, 0])
            if kind in (504, 0):
                if (str(body["prompt"]), kind) in met:
                    return None
                met.add((str(body["prompt"]), kind))
        if kind == 429:
            return Reply(429, b'{"error":"Too many requests"}', {"Retry-After": "0"})
        return Reply(reset=True) if kind == 0 else error(kind, "server side")

    return fault


def data_uri() -> str:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), "navy").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
