"""Input images: uploads, data: URIs, fetched URLs; and everything that must not be had."""

import io
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from PIL import Image

from kontext_pipeline.segmind.addresses import is_public_host
from tests.sandbox.conftest import Client, data_uri, picture, png
from tests.sandbox.running import running_sandbox


class _Site(BaseHTTPRequestHandler):
    """A site of photographs, some of them traps."""

    def do_GET(self) -> None:
        if self.path == "/photo.png":
            self._send(200, png((300, 100)))
        elif self.path == "/redirect":
            self._send(302, b"", location="/photo.png")
        elif self.path == "/to-private":
            self._send(302, b"", location="http://127.0.0.2:1/photo.png")
        elif self.path == "/to-file":
            self._send(302, b"", location="file:///etc/passwd")
        elif self.path == "/loop":
            self._send(302, b"", location="/loop")
        elif self.path == "/large":
            self._send(200, b"\x89PNG" + b"0" * 40_000)
        elif self.path == "/page":
            self._send(200, b"<html>")
        else:
            self._send(404, b"")

    def _send(self, status: int, body: bytes, *, location: str | None = None) -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def fetching(site: str) -> Iterator[Client]:
    with running_sandbox(trusted_input_hosts=(site,), fetch_inputs=True, max_input_bytes=20_000, draw=True) as sandbox:
        yield Client(sandbox)


def test_an_upload_is_stored_served_and_drawn_from(client: Client) -> None:
    first, second = png(colour=(200, 0, 0)), png((50, 90))
    urls = client.upload(first, second)
    assert [requests.get(url, timeout=10).content for url in urls] == [first, second]
    served = requests.get(urls[0], timeout=10).headers
    assert served["content-type"] == "image/png"
    assert served["x-content-type-options"] == "nosniff"
    size = picture(client.post(input_image=urls[1], aspect_ratio="match_input_image").content).size
    assert size[0] < size[1]
    assert client.upload(first) == urls[:1], "named by its content"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data_urls": []},
        {"data_urls": "data:"},
        {"data_urls": [1]},
        {"data_urls": ["http://x/"]},
        [],
        "x",
        {"data_urls": ["data:image/png;base64,%%"]},
        {"data_urls": ["data:text/html,<script>"]},
    ],
)
def test_what_is_no_image_is_not_stored(client: Client, body: object) -> None:
    headers = {"x-api-key": client.sandbox.api_key}
    answer = client.http.post(client.sandbox.url + "/upload-asset", json=body, headers=headers, timeout=10)
    assert answer.status_code == 400


def test_an_upload_needs_a_key_and_json(client: Client) -> None:
    url = client.sandbox.url + "/upload-asset"
    assert client.http.post(url, json={"data_urls": [data_uri(png())]}, timeout=10).status_code == 401
    headers = {"x-api-key": client.sandbox.api_key, "Content-Type": "text/plain"}
    assert client.http.post(url, data=b"{}", headers=headers, timeout=10).status_code == 406


def test_uploads_are_limited_in_space_and_the_oldest_go_first() -> None:
    with running_sandbox(store_bytes=2000) as sandbox:
        client = Client(sandbox)
        noisy = [Image.effect_noise((28, 28), 90).tobytes() for _ in range(4)]
        images = []
        for data in noisy:
            out = io.BytesIO()
            Image.frombytes("L", (28, 28), data).save(out, "PNG")
            images.append(out.getvalue())
        urls = [client.upload(image)[0] for image in images]
        assert requests.get(urls[0], timeout=10).status_code == 404
        assert requests.get(urls[-1], timeout=10).status_code == 200
        assert client.post(input_image=urls[0]).status_code == 400


@pytest.mark.parametrize("uri", [data_uri(png()), "data:image/png," + "".join(f"%{b:02x}" for b in png())])
def test_a_data_uri_is_an_input_image(client: Client, uri: str) -> None:
    assert client.post(input_image=uri).status_code == 200


def test_an_input_that_is_too_large_in_bytes_or_pixels_is_refused() -> None:
    with running_sandbox(max_input_bytes=3000, max_input_pixels=10_000) as sandbox:
        client = Client(sandbox)
        bytes_answer = client.post(input_image=data_uri(b"\x89PNG" + b"x" * 3000))
        assert (bytes_answer.status_code, "3,000 bytes" in bytes_answer.text) == (400, True)
        pixels_answer = client.post(input_image=data_uri(png((101, 100))))
        assert (pixels_answer.status_code, "pixels" in pixels_answer.text) == (400, True)


def test_a_decompression_bomb_is_refused_by_its_header(client: Client) -> None:
    header = (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    chunks = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1_000_000)), (b"IEND", b""))
    )
    answer = client.post(input_image=data_uri(b"\x89PNG\r\n\x1a\n" + chunks))
    assert answer.status_code == 400
    assert "pixels" in answer.json()["error"]


def test_half_a_picture_is_refused(client: Client) -> None:
    whole = png((200, 200), (1, 2, 3))
    assert client.post(input_image=data_uri(whole[: len(whole) // 2])).status_code == 400


@pytest.mark.parametrize("path", ["/photo.png", "/redirect"])
def test_a_trusted_hosts_picture_is_fetched(fetching: Client, site: str, path: str) -> None:
    answer = fetching.post(input_image=f"http://{site}{path}", aspect_ratio="match_input_image")
    assert answer.status_code == 200, answer.text
    wide, high = picture(answer.content).size
    assert wide > 2 * high


@pytest.mark.parametrize("path", ["/none", "/page", "/large", "/loop", "/to-private", "/to-file"])
def test_what_cannot_be_fetched_is_a_400_unbilled(fetching: Client, site: str, path: str) -> None:
    before = fetching.sandbox.books()["totals"]["billed"]
    assert fetching.post(input_image=f"http://{site}{path}").status_code == 400
    assert fetching.sandbox.books()["totals"]["billed"] == before


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://localhost/a.png",
        "http://[::1]/a.png",
        "http://[::ffff:127.0.0.1]/a.png",
        "http://10.1.2.3/a.png",
        "http://192.168.0.1/a.png",
        "http://169.254.169.254/latest/meta-data",
        "http://0.0.0.0/a.png",
        "http://[64:ff9b::7f00:1]/a.png",
        "http://[fe80::1]/a.png",
        "http://user:password@example.com/a.png",
        "http:///a.png",
        "http://[/a.png",
    ],
)
@pytest.mark.parametrize("fetch", [False, True])
def test_private_addresses_and_malformed_urls_are_refused_whether_or_not_it_fetches(
    client: Client, fetching: Client, url: str, fetch: bool
) -> None:
    answer = (fetching if fetch else client).post(input_image=url)
    assert answer.status_code == 400
    assert "input_image" in answer.json()["error"]


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public_host(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.1.1.1",
        "10.0.0.1",
        "172.16.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1%eth0",
        "fc00::1",
        "ff02::1",
        "::",
        "2002:7f00:1::",
        "64:ff9b::a00:1",
    ],
)
def test_addresses_that_lead_inside_are_not(address: str) -> None:
    assert not is_public_host(address)


def test_a_public_url_that_is_not_fetched_is_stood_in_for_equally_every_time(client: Client) -> None:
    first, again, other = (
        client.post(input_image=f"https://photos.example.com/{name}.jpg").content for name in ("a", "a", "b")
    )
    assert first == again
    assert first != other
