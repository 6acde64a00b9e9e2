"""JSON that carries a picture, and successes that carry none."""

import base64
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kontext_pipeline.segmind import received_pictures
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Call, Charge, Outcome
from tests.segmind.conftest import BODY, KEY, picture
from tests.segmind.gateway import Gateway, Reply

V1 = "/v1/flux-kontext-max"
CONTENT = picture("JPEG")
BASE64 = base64.b64encode(CONTENT).decode()
URL = "URL"


def _with_url(document: Any, url: str) -> bytes:
    return json.dumps(document).replace(f'"{URL}"', json.dumps(url)).encode()


@pytest.mark.parametrize(
    "document",
    [
        BASE64,
        f"data:image/jpeg;base64,{BASE64}",
        {"image": BASE64},
        {"image": f"data:image/jpeg;base64,{BASE64}"},
        {"image": "\n".join(BASE64[i : i + 76] for i in range(0, len(BASE64), 76))},
        {"image": base64.urlsafe_b64encode(CONTENT).decode().rstrip("=")},
        {"image": URL},
        {"image_url": URL},
        {"output": URL},
        {"output": [URL]},
        {"output": {"images": [{"url": URL}]}},
        {"images": [{"url": URL, "content_type": "image/jpeg"}]},
        {"images": [BASE64]},
        {"data": [{"b64_json": BASE64}]},
        {"status": "succeeded", "result": {"image": URL}},
        [{"image": URL}],
        {"image": None, "output": "", "images": [], "url": URL},
    ],
)
def test_json_that_carries_a_picture(gateway: Gateway, client: SegmindClient, spool: Path, document: Any) -> None:
    gateway.routes[V1] = Reply(
        body=_with_url(document, f"{gateway.url}/files/a.jpg?x=1"),
        headers={"x-cost": "0.1", "Content-Type": "image/png"},
    )
    gateway.routes["/files/a.jpg?x=1"] = Reply(body=CONTENT)
    answer = client.generate(BODY, spool)
    assert (answer.outcome, answer.cost_usd) == (Outcome.SUCCEEDED, 0.1)
    assert answer.picture is not None
    assert answer.picture.path is not None
    assert answer.picture.path.read_bytes() == CONTENT
    assert answer.remains is None
    assert [file.name for file in spool.iterdir()] == [answer.picture.path.name]


def test_a_pictures_address_is_asked_without_the_key(
    gateway: Gateway, elsewhere: Gateway, client: SegmindClient, spool: Path
) -> None:
    gateway.routes[V1] = Reply(body=_with_url({"image": URL}, f"{elsewhere.url}/a.jpg"))
    elsewhere.routes["/a.jpg"] = Reply(body=CONTENT)
    assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED
    assert KEY not in repr(elsewhere.requests)
    assert "x-api-key" not in elsewhere.requests[0].headers


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_pictures, "DOWNLOAD_PAUSES_S", (0.0, 0.01, 0.01))


@pytest.mark.usefixtures("no_pauses")
def test_a_paid_pictures_file_is_asked_for_again(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    gateway.routes[V1] = Reply(body=_with_url({"image": URL}, f"{gateway.url}/a.jpg"))
    gateway.routes["/a.jpg"] = [Reply(503), Reply(body=CONTENT, cut=100), Reply(body=CONTENT)]
    assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED
    assert len(gateway.seen(V1)) == 1
    assert len(list(spool.iterdir())) == 1


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    "of_file", [Reply(404), Reply(302), Reply(500), Reply(body=b"<html>"), Reply(body=CONTENT[:200])]
)
def test_a_paid_picture_whose_file_is_not_to_be_had_leaves_its_address(
    gateway: Gateway, client: SegmindClient, spool: Path, of_file: Reply
) -> None:
    gateway.routes[V1] = Reply(body=_with_url({"image": URL}, f"{gateway.url}/a.jpg"), headers={"x-cost": "0.1"})
    gateway.routes["/a.jpg"] = of_file
    answer = client.generate(BODY, spool)
    assert answer.call is Call.GENERATE
    assert (answer.outcome, answer.charge, answer.cost_usd) == (Outcome.UNUSABLE, Charge.YES, 0.1)
    assert answer.remains is not None
    assert b"/a.jpg" in answer.remains.read_bytes()
    assert list(spool.iterdir()) == [answer.remains]


@pytest.mark.parametrize(
    "address",
    [
        "http://user:secret@127.0.0.1:1/a.jpg",
        "http://",
        "http://[::1",
        "https://exa mple.com\\@127.0.0.1/a.jpg",
        f"http://example.com/{KEY}",
    ],
)
def test_an_address_that_cannot_be_used(gateway: Gateway, client: SegmindClient, spool: Path, address: str) -> None:
    gateway.routes[V1] = Reply(body=_with_url({"image": URL}, address))
    answer = client.generate(BODY, spool)
    assert answer.outcome is Outcome.UNUSABLE
    assert answer.charge is Charge.POSSIBLE
    assert KEY not in repr(answer)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1/a.jpg", "gopher://127.0.0.1/", "/etc/passwd", "//127.0.0.1/a"],
)
def test_only_web_addresses_count_as_pictures(gateway: Gateway, client: SegmindClient, spool: Path, url: str) -> None:
    gateway.routes[V1] = Reply(body=_with_url({"image": URL}, url))
    answer = client.generate(BODY, spool)
    assert (answer.outcome, answer.cause) == (Outcome.UNUSABLE, "no_image")


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b'{"status":"ok"}', "no_image"),
        (b'{"error":"model crashed"}', "no_image"),
        (b'{"image":"bm90IGEgcGljdHVyZSBhdCBhbGw="}', "no_image"),
        (b"[[[[[[[[[[[[]]]]]]]]]]]]", "no_image"),
        (b"[" * 100_000, "not_a_picture"),
        (b"<html><body>Welcome</body></html>", "not_a_picture"),
        (b"\x00\x01\x02garbage", "not_a_picture"),
        (b'{"image": "' + BASE64[:-400].encode() + b'"}', "cut"),
        (picture()[:3000], "cut"),
        (b"", "cut"),
    ],
)
def test_a_success_without_a_whole_picture_keeps_what_came(
    gateway: Gateway, client: SegmindClient, spool: Path, body: bytes, cause: str
) -> None:
    gateway.routes[V1] = [Reply(body=body), Reply(body=body, headers={"x-cost": "0.1"})]
    answer = client.generate(BODY, spool)
    assert (answer.outcome, answer.cause, answer.charge) == (Outcome.UNUSABLE, cause, Charge.POSSIBLE)
    assert answer.error
    assert (answer.remains is None) == (body == b"")
    if answer.remains is not None and cause != "cut":
        assert answer.remains.read_bytes() == body
    assert client.generate(BODY, spool).charge is Charge.YES


def test_a_compressed_answer_is_understood(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    gateway.routes[V1] = Reply(body=gzip.compress(picture()), headers={"Content-Encoding": "gzip"})
    assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED
    gateway.routes[V1] = Reply(body=picture(), headers={"Content-Encoding": "gzip"})
    answer = client.generate(BODY, spool)
    assert answer.outcome is Outcome.UNUSABLE
    gateway.routes[V1] = Reply(body=picture(), chunked=True)
    assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED


def test_an_answer_that_never_ends_is_bounded(
    gateway: Gateway, connect: Callable[..., SegmindClient], spool: Path
) -> None:
    client = connect(max_answer_bytes=100_000)
    bomb = gzip.compress(picture()[:200] + bytes(50_000_000))
    for reply in (
        Reply(body=picture()[:200] + bytes(300_000)),
        Reply(body=picture()[:200] + bytes(300_000), chunked=True),
        Reply(body=bomb, headers={"Content-Encoding": "gzip"}),
    ):
        gateway.routes[V1] = reply
        answer = client.generate(BODY, spool)
        assert (answer.outcome, answer.cause) == (Outcome.UNUSABLE, "answer_too_large")
        assert answer.remains is not None
        assert answer.remains.stat().st_size == 100_000
    gateway.routes[V1] = Reply(body=b"", headers={"x-cost": "0.1"})
    gateway.routes["/v2/flux-kontext-max"] = Reply(body=b'"' + b"x" * 3_000_000)
    assert client.submit(BODY).cause == "answer_too_large"
    gateway.routes[V1] = Reply(500, b"x" * 3_000_000)
    assert client.generate(BODY, spool).outcome is Outcome.SERVER_ERROR


def test_a_picture_that_is_whole_counts_though_its_answer_is_cut(
    gateway: Gateway, client: SegmindClient, spool: Path
) -> None:
    content = picture()
    gateway.routes[V1] = Reply(body=content + b"\n" * 50, cut=len(content))
    assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED


def test_a_picture_is_stored_without_what_follows_it(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    png = picture()
    document = json.dumps({"image": base64.b64encode(png + bytes(5000)).decode()}).encode()
    for body in (png + b"junk" * 50_000, document):
        gateway.routes[V1] = Reply(body=body, headers={"x-cost": "0.1"})
        answer = client.generate(BODY, spool)
        assert answer.picture is not None
        assert answer.picture.path is not None
        assert answer.picture.path.read_bytes() == png
        assert (answer.picture.bytes, answer.picture.sha256) == (len(png), hashlib.sha256(png).hexdigest())


def test_endless_junk_behind_a_picture_does_not_drop_it(
    gateway: Gateway, connect: Callable[..., SegmindClient], spool: Path
) -> None:
    png = picture()
    gateway.routes[V1] = Reply(body=png + bytes(1 << 20))
    answer = connect(max_answer_bytes=100_000).generate(BODY, spool)
    assert answer.outcome is Outcome.SUCCEEDED
    assert answer.picture is not None
    assert answer.picture.bytes == len(png)
