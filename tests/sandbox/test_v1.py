"""POST /v1/flux-kontext-max: pictures, parameters and accounting."""

import concurrent.futures
import socket
import struct
import time
from typing import Any

import pytest
import requests
import urllib3

from kontext_pipeline.sandbox.drawing.sizes import SIZES
from kontext_pipeline.sandbox.request_log import canonical_sha256
from tests.sandbox.conftest import MODEL, Client, picture, png
from tests.sandbox.running import TEST_KEY, running_sandbox

SAMPLE: dict[str, Any] = {
    "seed": 30699,
    "prompt": "Make her take a selfie in the streets of Freiburg, it's a lovely day out",
    "input_image": "https://segmind-resources.s3.amazonaws.com/input/a1adf47e-bfba-45c4-a11f-ae2b732102ad-kontext-max-ip.webp",
    "aspect_ratio": "16:9",
    "output_format": "png",
    "safety_tolerance": 6,
}


def test_the_source_documents_sample_is_answered_with_a_picture_and_its_accounting(client: Client) -> None:
    answer = client.post(**SAMPLE)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    assert picture(answer.content).size == SIZES["16:9"]
    assert answer.headers["x-cost"] == "0.1"
    assert answer.headers["x-remaining-credits"] == "999.9"
    assert answer.headers["x-seed-value"] == "30699"
    assert float(answer.headers["x-generation-time"]) > 0
    assert "date" in answer.headers
    (entry,) = client.sandbox.books()["entries"]
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert entry["body_sha256"] == canonical_sha256(SAMPLE)
    assert (entry["status"], entry["state"], entry["billed"], entry["cost"]) == (200, "COMPLETED", True, 0.1)


@pytest.mark.parametrize("ratio", [*SIZES])
@pytest.mark.parametrize(("output_format", "kind"), [("png", "PNG"), ("jpg", "JPEG")])
def test_pictures_have_the_size_of_their_ratio_and_the_asked_for_format(
    client: Client, ratio: str, output_format: str, kind: str
) -> None:
    image = picture(client.post(aspect_ratio=ratio, output_format=output_format).content)
    assert (image.size, image.format) == (SIZES[ratio], kind)


def test_what_is_left_out_gets_the_providers_defaults(client: Client) -> None:
    answer = client.post(prompt="a fox")
    assert answer.headers["x-seed-value"] == "123"
    assert (picture(answer.content).size, answer.headers["content-type"]) == (SIZES["16:9"], "image/png")


def test_the_same_request_gives_the_same_bytes_and_another_seed_others(client: Client) -> None:
    first, again, other = (client.post(prompt="a fox", seed=seed).content for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_match_input_image_follows_the_input(client: Client) -> None:
    (url,) = client.upload(png((300, 100)))
    wide, high = picture(client.post(input_image=url, aspect_ratio="match_input_image").content).size
    assert wide / high == pytest.approx(3.0, rel=0.03)
    assert wide % 16 == high % 16 == 0
    assert wide * high == pytest.approx(1024 * 1024, rel=0.1)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  \n"}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"aspect_ratio": "7:3"}, "aspect_ratio"),
        ({"aspect_ratio": None}, "aspect_ratio"),
        ({"output_format": "webp"}, "output_format"),
        ({"output_format": ["png"]}, "output_format"),
        ({"safety_tolerance": 0}, "safety_tolerance"),
        ({"safety_tolerance": 7}, "safety_tolerance"),
        ({"safety_tolerance": "2"}, "safety_tolerance"),
        ({"safety_tolerance": True}, "safety_tolerance"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": "123"}, "seed"),
        ({"input_image": 5}, "input_image"),
        ({"input_image": "fox.png"}, "input_image"),
        ({"input_image": "file:///etc/passwd"}, "input_image"),
        ({"input_image": "ftp://example.com/fox.png"}, "input_image"),
        ({"input_image": "data:image/png;base64,AAAA"}, "image"),
    ],
)
def test_a_parameter_that_is_not_allowed_is_a_400_that_names_it_unbilled(
    client: Client, body: dict[str, Any], names: str
) -> None:
    answer = client.post(**body)
    assert answer.status_code == 400
    assert names in answer.json()["error"]
    books = client.sandbox.books()
    assert books["totals"]["billed"] == 0
    assert books["entries"][0]["state"] == "REFUSED"


def test_a_whole_number_written_as_3_0_is_an_integer_and_unknown_fields_are_ignored(client: Client) -> None:
    answer = client.post(seed=3.0, colour="red")
    assert (answer.status_code, answer.headers["x-seed-value"]) == (200, "3")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"fox"', b"\xff", b"[" * 100_000, b'{"prompt":"a"' + b"}" * 3])
def test_a_body_that_is_no_json_object_is_a_400(client: Client, body: bytes) -> None:
    headers = {"x-api-key": client.sandbox.api_key, "Content-Type": "application/json"}
    answer = client.http.post(f"{client.sandbox.url}/v1/{MODEL}", data=body, headers=headers, timeout=10)
    assert answer.status_code == 400
    assert "error" in answer.json()


def test_a_body_over_the_limit_is_refused_before_it_is_read_whole(client: Client) -> None:
    with running_sandbox(max_body_bytes=4096) as small:
        answer = Client(small).post(prompt="x" * 5000)
        assert answer.status_code == 413
        assert small.books()["entries"] == []


def test_sixty_four_at_once_each_get_their_own_and_are_billed_once(client: Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda seed: Client(client.sandbox).post(seed=seed), range(64)))
    assert [answer.headers["x-seed-value"] for answer in answers] == [str(seed) for seed in range(64)]
    assert len({answer.content for answer in answers}) == 64
    totals = client.sandbox.books()["totals"]
    assert (totals["billed"], totals["cost"], totals["held"]) == (64, 6.4, 0)


@pytest.mark.parametrize("how", ["orderly", "reset"])
def test_a_client_that_hangs_up_is_billed_when_the_generation_finishes(how: str) -> None:
    with running_sandbox(speed=100, latency_spread=0) as sandbox:
        body = b'{"prompt": "gone"}'
        head = f"POST /v1/{MODEL} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {TEST_KEY}\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2]))) as wire:
            wire.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(0.05)
            if how == "reset":
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert sandbox.books()["totals"]["running"] == 1
        books = sandbox.wait_idle()
        (entry,) = books["entries"]
        assert (entry["billed"], entry["client_gone"], entry["status"]) == (True, True, None)
        assert books["totals"] == {
            "posts": 1,
            "billed": 1,
            "cost": 0.1,
            "running": 0,
            "balance": 999.9,
            "held": 0.0,
        }


def test_a_request_that_never_arrives_whole_is_not_in_the_books(client: Client) -> None:
    head = f"POST /v1/{MODEL} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {TEST_KEY}\r\nContent-Length: 500\r\n\r\nhalf"
    with socket.create_connection(("127.0.0.1", int(client.sandbox.url.rpartition(":")[2]))) as wire:
        wire.sendall(head.encode())
        time.sleep(0.05)
    assert client.post().status_code == 200
    assert client.sandbox.books()["totals"]["posts"] == 1


def test_latencies_are_spread_around_the_sources_figure() -> None:
    with running_sandbox(speed=200) as sandbox:
        client = Client(sandbox)
        for number in range(40):
            client.post("v2", prompt=f"picture {number}")
        ids = [entry["request_id"] for entry in sandbox.wait_idle()["entries"]]
        times = sorted(client.get(f"/v2/requests/{one}").json()["metrics"]["total_time"] for one in ids)
    assert times[20] == pytest.approx(24.34 / 200, rel=0.15)
    assert times[-1] > 1.2 * times[0]


def test_the_connection_is_kept_alive(client: Client) -> None:
    client.post()
    client.post()
    prepared = requests.Request("GET", client.sandbox.url).prepare()
    adapter = client.http.get_adapter(client.sandbox.url)
    assert isinstance(adapter, requests.adapters.HTTPAdapter)
    pool = adapter.get_connection_with_tls_context(prepared, verify=True)
    assert isinstance(pool, urllib3.HTTPConnectionPool)
    assert pool.num_connections == 1
