"""What comes over the wire passes one gate: texts, numbers, JSON and bodies that no honest server sends."""

import base64
import json
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kontext_pipeline.segmind import client as client_module
from kontext_pipeline.segmind.answers import Job
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.model import HIGHEST_COST_USD
from kontext_pipeline.segmind.outcomes import Cause, Charge, Outcome
from kontext_pipeline.segmind.payloads import MAX_JSON_BYTES, find_image, number, parse_json
from tests.segmind.conftest import BODY, KEY, picture
from tests.segmind.gateway import Gateway, Reply

V1, V2 = "/v1/flux-kontext-max", "/v2/flux-kontext-max"
PNG = picture()
Connect = Callable[..., SegmindClient]


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode()


# --- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 500, 200])
def test_an_error_of_half_an_emoji_is_text_that_can_be_written(
    gateway: Gateway, client: SegmindClient, spool: Path, status: int
) -> None:
    gateway.routes[V1] = Reply(status, b'{"error":"x \\ud83d\\u001b[2J\\u202e"}')
    answer = client.generate(BODY, spool)
    assert answer.error is not None
    assert "x \ufffd [2J" in answer.error
    assert answer.error.encode().decode().isprintable()


def test_the_failure_of_a_job_is_text_that_can_be_written(gateway: Gateway, client: SegmindClient) -> None:
    job = Job("a", f"{gateway.url}/s", f"{gateway.url}/r")
    gateway.routes["/s"] = Reply(body=b'{"status":"FAILED","error":"x \\ud83d"}')
    answer = client.poll(job)
    assert (answer.outcome, answer.error) == (Outcome.REJECTED, "x \ufffd")


def test_headers_pass_too(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    gateway.routes[V1] = Reply(302, b"", {"Location": "https://x/\x9b31m", "x-request-id": "a\x1bb"})
    answer = client.generate(BODY, spool)
    assert answer.request_id is None
    assert answer.error is not None
    assert answer.error.isprintable()


def test_an_answer_that_carries_the_key_is_kept_without_it(
    gateway: Gateway, client: SegmindClient, spool: Path
) -> None:
    for body in (json.dumps({"you sent": KEY}).encode(), b"<html>" + KEY.encode() + b"</html>"):
        gateway.routes[V1] = Reply(body=body)
        answer = client.generate(BODY, spool)
        assert answer.remains is not None
        assert answer.remains.read_bytes() == body.replace(KEY.encode(), b"***")
        assert KEY not in repr(answer)
    assert len(list(spool.iterdir())) == 2


# --- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"cost":' + b"9" * 100_000 + b"}",
        b"[" + b"[]," * MAX_JSON_BYTES + b"1]",
        b"[" + b'"",' * MAX_JSON_BYTES + b"1]",
        b'{"image":"' + b"A" * 100_000 + b'","more":[' + b'"x",' * 300_000 + b"1]}",
    ],
    ids=["open", "deep", "digits", "lists", "texts", "beside a picture"],
)
def test_json_without_bounds_is_not_read(content: bytes) -> None:
    began = time.process_time()
    assert parse_json(content) is None
    assert time.process_time() - began < 1


def test_json_is_read_to_a_depth() -> None:
    document = parse_json(b'{"a":' + b"[" * 100 + b"]" * 100 + b',"status":"QUEUED"}')
    assert document is not None
    assert document["status"] == "QUEUED"
    assert len(str(document)) < 150


def test_a_large_picture_in_json_is_found() -> None:
    large = PNG + bytes(2 * MAX_JSON_BYTES)
    text = base64.b64encode(large).decode()
    for image in (text, f"data:image/png;base64,{text}", text.replace("/", "\\/")):
        assert find_image(parse_json(f'{{"image":"{image}","seed":1}}'.encode())) == large


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1_000", "infinity", "nan", "1e400", "１", "0x10", "", "1" * 100, "1,5", True, None])
def test_what_is_no_number(text: Any) -> None:
    assert number(text) is None


@pytest.mark.parametrize("text", ["0.1", " 0.1 ", ".1", "1e-1", 0.1])
def test_what_is_a_number(text: Any) -> None:
    assert number(text) == 0.1


@pytest.mark.parametrize("cost", ["1e308", "1e12", "10.5", "-1", "1_000", "nan", "free"])
def test_a_cost_that_cannot_be_true_is_not_taken_and_said_once(
    gateway: Gateway, connect: Connect, spool: Path, cost: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect()
    gateway.routes[V1] = Reply(body=PNG, headers={"x-cost": cost})
    answers = [client.generate(BODY, spool) for _ in range(3)]
    assert [(answer.cost_usd, answer.charge) for answer in answers] == [(None, Charge.YES)] * 3
    client.close()
    first, more = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "estimate" in first
    assert repr(cost) in first
    assert more.startswith("2 more answers")


def test_costs_to_the_bound_are_taken(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    for cost in (0.0, 0.08, HIGHEST_COST_USD):
        gateway.routes[V1] = Reply(body=PNG, headers={"x-cost": str(cost)})
        assert client.generate(BODY, spool).cost_usd == cost


def test_a_jobs_cost_is_judged_the_same(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    record = {"status": "COMPLETED", "output": f"{gateway.url}/a.png", "metrics": {"cost": 1e12, "total_time": 1e300}}
    gateway.routes["/r"] = Reply(body=json.dumps(record).encode())
    gateway.routes["/a.png"] = Reply(body=PNG)
    answer = client.fetch(Job("a", f"{gateway.url}/s", f"{gateway.url}/r"), spool)
    assert (answer.outcome, answer.cost_usd, answer.total_time_s) == (Outcome.SUCCEEDED, None, None)


@pytest.mark.parametrize("balance", [b"1e303", b"1e400", b'"1_000"', b"9" * 400])
def test_a_balance_that_cannot_be_true_is_none(gateway: Gateway, client: SegmindClient, balance: bytes) -> None:
    gateway.routes["/v1/get-user-credits"] = Reply(body=b'{"credits":' + balance + b"}")
    assert client.credits().total is None


def test_a_picture_that_contradicts_its_request_is_kept_and_said(
    gateway: Gateway, connect: Connect, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect()
    gateway.routes[V1] = [Reply(body=PNG, headers={"x-seed-value": seed}) for seed in ("30699", "7", "8")]
    for _ in range(3):
        assert client.generate({**BODY, "aspect_ratio": "9:16"}, spool).outcome is Outcome.SUCCEEDED
    assert client.generate({**BODY, "aspect_ratio": "match_input_image"}, spool).picture is not None
    assert client.generate({**BODY, "aspect_ratio": "3:2"}, spool).picture is not None
    client.close()
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 4
    assert "48 x 32 pixels came, and 9:16 was sent" in said[0]
    assert "the seed 7, and 30699 was sent" in said[1]


# --- HTTP ---------------------------------------------------------------------------------------


def test_announcements_of_an_answer_are_skipped(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    announced = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\nx-cost: 5\r\n\r\n"
    gateway.routes[V1] = Reply(raw=announced + head(f"Content-Length: {len(PNG)}", "x-cost: 0.1") + PNG)
    answer = client.generate(BODY, spool)
    assert (answer.outcome, answer.status_code, answer.cost_usd) == (Outcome.SUCCEEDED, 200, 0.1)
    gateway.routes[V1] = Reply(raw=b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)
    assert client.generate(BODY, spool).charge is Charge.POSSIBLE


@pytest.mark.parametrize(
    "lengths",
    [
        [len(PNG) + 10],
        [len(PNG) - 10],
        [64],
        ["1_000"],
        ["many"],
        [-1],
        [len(PNG), len(PNG) + 1],
    ],
    ids=["too large", "too small", "much too small", "underscore", "word", "negative", "two"],
)
def test_a_picture_that_came_whole_is_kept_whatever_its_announced_length(
    gateway: Gateway, client: SegmindClient, spool: Path, lengths: list[object]
) -> None:
    gateway.routes[V1] = Reply(raw=head(*(f"Content-Length: {length}" for length in lengths)) + PNG)
    answer = client.generate(BODY, spool)
    assert answer.outcome is Outcome.SUCCEEDED, answer.error
    assert answer.picture is not None
    assert answer.picture.path is not None
    assert answer.picture.path.read_bytes() == PNG


@pytest.mark.parametrize("chunked", [False, True])
def test_bytes_behind_an_answer_are_no_part_of_the_next_one(
    gateway: Gateway, client: SegmindClient, spool: Path, chunked: bool
) -> None:
    smuggled = head("Content-Length: 3", "x-cost: 9") + b"abc"
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(PNG)}"
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PNG), PNG) if chunked else PNG
    raw = head(length) + body + smuggled

    def reply(_: object) -> Reply:
        return Reply(body=PNG) if len(gateway.requests) > 1 else Reply(raw=raw, hang=False)

    gateway.routes[V1] = reply
    first, second = client.generate(BODY, spool), client.generate(BODY, spool)
    assert [answer.outcome for answer in (first, second)] == [Outcome.SUCCEEDED] * 2
    assert first.picture is not None
    assert first.picture.bytes == len(PNG)
    assert second.cost_usd is None
    assert [request.connection for request in gateway.requests] == [1, 2]


def test_a_connection_on_which_bytes_came_is_not_used_again(
    gateway: Gateway, client: SegmindClient, spool: Path
) -> None:
    gateway.routes[V1] = Reply(body=PNG)
    assert client.generate(BODY, spool).picture is not None
    (connection,) = gateway._open
    connection.sendall(head("Content-Length: 3") + b"abc")
    time.sleep(0.05)
    assert client.generate(BODY, spool).picture is not None
    assert [request.connection for request in gateway.requests] == [1, 2]


@pytest.mark.parametrize("value", [7, {"a": 1}, ["x"], True])
def test_a_status_url_that_is_no_text_is_not_followed(
    gateway: Gateway, connect: Connect, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect()
    gateway.routes[V2] = Reply(
        body=json.dumps({"request_id": "a-1", "status_url": value, "response_url": value}).encode()
    )
    answer = client.submit(BODY)
    # The job may be billed: it is collected from where the documentation says.
    assert answer.job == Job("a-1", f"{gateway.url}/v2/requests/a-1/status", f"{gateway.url}/v2/requests/a-1")
    assert "status_url that is no text" in caplog.text


# --- the connection -----------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_not_asked_through_a_proxy(
    gateway: Gateway, connect: Connect, spool: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        gateway.routes[V1] = Reply(body=PNG)
        client = connect(base_url=f"http://{host}:{gateway.port}", answer_timeout_s=5)
        assert client.generate(BODY, spool).outcome is Outcome.SUCCEEDED


def test_a_plain_address_that_is_not_loopback_is_warned_of_once(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client_module._warn_of_plain_http.cache_clear()
    for url in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://api.example.com"):
        connect(base_url=url)
    assert caplog.records == []
    for _ in range(2):
        connect(base_url="http://api.example.com")
    (record,) = caplog.records
    assert "http://api.example.com is not encrypted" in record.message


# --- defects ------------------------------------------------------------------------------------


def test_an_answer_that_cannot_be_handled_is_possibly_charged_and_ends_nothing(
    gateway: Gateway, client: SegmindClient, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> None:
        raise TypeError("a defect beside " + KEY)

    gateway.routes.update({V1: Reply(body=b'{"a":1}'), V2: Reply(body=b"{}"), "/s": Reply(body=b"{}")})
    monkeypatch.setattr("kontext_pipeline.segmind.received_pictures.find_image", defect)
    monkeypatch.setattr("kontext_pipeline.segmind.client.job_state", defect)
    monkeypatch.setattr("kontext_pipeline.segmind.exchange.job_state", defect)
    job = Job("a", f"{gateway.url}/s", f"{gateway.url}/s")
    for answer in (client.generate(BODY, spool), client.submit(BODY), client.poll(job)):
        assert (answer.outcome, answer.cause, answer.charge) == (Outcome.UNUSABLE, Cause.FAULT, Charge.POSSIBLE)
        assert answer.error == "TypeError: a defect beside ***"
    assert replace(answer, latency_s=0).job == job


def test_a_failure_of_the_machine_is_not_about_the_answer(
    gateway: Gateway, client: SegmindClient, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    gateway.routes[V1] = Reply(body=b'{"a":1}')
    monkeypatch.setattr("kontext_pipeline.segmind.received_pictures.find_image", no_memory)
    with pytest.raises(MemoryError):
        client.generate(BODY, spool)
