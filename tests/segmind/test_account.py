"""Balance and uploads."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kontext_pipeline.segmind.client import SegmindClient, UploadFailed, UploadUnsupported
from kontext_pipeline.segmind.outcomes import Outcome
from tests.segmind.conftest import BODY, KEY, picture
from tests.segmind.gateway import Gateway, Reply

CREDITS = "/v1/get-user-credits"
UPLOAD = "/upload-asset"


def test_the_balance(gateway: Gateway, client: SegmindClient) -> None:
    gateway.routes[CREDITS] = Reply(body=b'{"credits": 4.25, "free-credits": 0.5}')
    balance = client.credits()
    assert (balance.outcome, balance.credits, balance.free_credits) == (Outcome.SUCCEEDED, 4.25, 0.5)
    assert balance.total == 4.75
    assert gateway.requests[0].method == "GET"
    gateway.routes[CREDITS] = Reply(body=b'{"credits": 0}')
    assert client.credits().total == 0.0


@pytest.mark.parametrize(
    ("reply", "outcome", "refused"),
    [
        (Reply(401, b'{"error":"bad key"}'), Outcome.STOPPED, True),
        (Reply(403), Outcome.STOPPED, True),
        (Reply(404), Outcome.UNSUPPORTED, False),
        (Reply(405, b"<html>"), Outcome.UNSUPPORTED, False),
        (Reply(429), Outcome.RATE_LIMITED, False),
        (Reply(500), Outcome.SERVER_ERROR, False),
        (Reply(504), Outcome.SERVER_ERROR, False),
        (Reply(302, headers={"Location": "/login"}), Outcome.STOPPED, False),
        (Reply(reset=True), Outcome.LOST, False),
        (Reply(body=b"<html>hello</html>"), Outcome.UNUSABLE, False),
        (Reply(body=b'{"credits": "plenty"}'), Outcome.UNUSABLE, False),
        (Reply(body=b'{"credits": NaN}'), Outcome.UNUSABLE, False),
    ],
)
def test_why_the_balance_is_unknown(
    gateway: Gateway, client: SegmindClient, reply: Reply, outcome: Outcome, refused: bool
) -> None:
    gateway.routes[CREDITS] = reply
    balance = client.credits()
    assert (balance.outcome, balance.status_code in {401, 403}, balance.total) == (outcome, refused, None)
    assert balance.error


def test_an_upload_gives_an_address(gateway: Gateway, client: SegmindClient) -> None:
    content = picture()
    gateway.routes[UPLOAD] = Reply(body=b'{"file_urls": ["https://files.example.com/1.png"]}')
    assert client.upload(content, "image/png") == "https://files.example.com/1.png"
    sent = json.loads(gateway.requests[0].body)
    head, _, data = sent["data_urls"][0].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == content


def test_a_server_without_uploads_says_so(gateway: Gateway, client: SegmindClient) -> None:
    for status in (404, 405):
        gateway.routes[UPLOAD] = Reply(status)
        with pytest.raises(UploadUnsupported, match=UPLOAD):
            client.upload(b"x", "image/png")


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (Reply(401), Outcome.STOPPED),
        (Reply(413), Outcome.REJECTED),
        (Reply(503), Outcome.SERVER_ERROR),
        (Reply(reset=True), Outcome.LOST),
        (Reply(body=b'{"file_urls": []}'), Outcome.UNUSABLE),
        (Reply(body=b'{"file_urls": ["file:///etc/passwd"]}'), Outcome.UNUSABLE),
    ],
)
def test_an_upload_that_fails_says_how(gateway: Gateway, client: SegmindClient, reply: Reply, outcome: Outcome) -> None:
    gateway.routes[UPLOAD] = reply
    with pytest.raises(UploadFailed) as caught:
        client.upload(b"x", "image/png")
    assert caught.value.answer.outcome is outcome
    assert KEY not in str(caught.value)


def test_the_upload_address_follows_the_base_unless_set(
    gateway: Gateway, elsewhere: Gateway, connect: Callable[..., SegmindClient]
) -> None:
    assert connect()._upload_url == f"{gateway.url}/upload-asset"
    elsewhere.routes["/put"] = Reply(body=b'{"file_urls": ["http://127.0.0.1/1.png"]}')
    assert connect(upload_url=f"{elsewhere.url}/put").upload(b"x", "image/png") == "http://127.0.0.1/1.png"


def test_a_base_address_may_have_a_path(gateway: Gateway, connect: Callable[..., SegmindClient], spool: Path) -> None:
    gateway.routes["/proxy/v1/flux-kontext-max"] = Reply(body=picture())
    client = connect(base_url=f"{gateway.url}/proxy")
    assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED
