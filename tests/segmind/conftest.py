"""A gateway and a client for each test, and pictures to send."""

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kontext_pipeline.segmind.client import SegmindClient
from tests.segmind.gateway import Gateway

KEY = "SG_0123456789abcdef"
BODY: dict[str, Any] = {"prompt": "a lovely day out", "seed": 30699}


def picture(kind: str = "PNG", size: tuple[int, int] = (48, 32), **options: Any) -> bytes:
    """A picture that does not compress, so that it is large for its size."""
    pixels = random.Random(7).randbytes(size[0] * size[1] * 3)
    file = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(autouse=True)
def no_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust nobody: reading the shipped certificates for each client would take most of the tests' time."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder))


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    server = Gateway()
    yield server
    server.stop()


@pytest.fixture
def elsewhere() -> Iterator[Gateway]:
    """Another origin."""
    server = Gateway()
    yield server
    server.stop()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def connect(gateway: Gateway, tmp_path: Path) -> Iterator[Callable[..., SegmindClient]]:
    """Makes clients of the gateway, closed behind the test."""
    made: list[SegmindClient] = []

    def make(**settings: Any) -> SegmindClient:
        defaults: dict[str, Any] = {"api_key": KEY, "base_url": gateway.url, "spill": tmp_path / "rescue"}
        client = SegmindClient(**{**defaults, **settings})
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(connect: Callable[..., SegmindClient]) -> SegmindClient:
    return connect()
