"""One sandbox for all of these tests, started anew before each."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from tests.sandbox.running import Sandbox, running_sandbox

MODEL = "flux-kontext-max"


class Client:
    """A client that sends the key and valid defaults."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.http = requests.Session()
        self.http.trust_env = False

    def post(self, api: str = "v1", *, key: str | None = None, model: str = MODEL, **body: Any) -> requests.Response:
        body.setdefault("prompt", "a red fox in the snow")
        headers = {"x-api-key": self.sandbox.api_key if key is None else key}
        return self.http.post(f"{self.sandbox.url}/{api}/{model}", json=body, headers=headers, timeout=30)

    def get(self, path: str, *, key: str | None = None) -> requests.Response:
        url = path if path.startswith("http") else self.sandbox.url + path
        return self.http.get(url, headers={"x-api-key": self.sandbox.api_key if key is None else key}, timeout=30)

    def upload(self, *images: bytes, media: str = "image/png") -> list[str]:
        uris = [data_uri(image, media) for image in images]
        answer = self.http.post(
            f"{self.sandbox.url}/upload-asset",
            json={"data_urls": uris},
            headers={"x-api-key": self.sandbox.api_key},
            timeout=30,
        )
        answer.raise_for_status()
        urls: list[str] = answer.json()["file_urls"]
        return urls


def data_uri(image: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(image).decode()}"


def picture(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def png(size: tuple[int, int] = (60, 40), colour: tuple[int, int, int] = (40, 120, 60)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def _server() -> Iterator[Sandbox]:
    # A generation takes 5 ms.
    with running_sandbox(speed=5000) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(_server: Sandbox) -> Sandbox:
    _server.reset()
    return _server


@pytest.fixture
def client(sandbox: Sandbox) -> Client:
    return Client(sandbox)
