"""v2: submit, poll, fetch, by another process if need be."""

import json
from pathlib import Path

import pytest

from kontext_pipeline.segmind.answers import Job
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Charge, Outcome
from tests.segmind.conftest import BODY, KEY, picture
from tests.segmind.gateway import Gateway, Reply

SUBMIT = "/v2/flux-kontext-max"
STATUS = "/v2/requests/abc/status"
RECORD = "/v2/requests/abc"
FILE = "/files/abc.png"


def reply(**document: object) -> Reply:
    return Reply(body=json.dumps(document).encode())


def submitted(gateway: Gateway) -> Reply:
    return reply(
        request_id="abc",
        status="QUEUED",
        poll_url=f"{gateway.url}{STATUS}",
        status_url=f"{gateway.url}{STATUS}",
        response_url=f"{gateway.url}{RECORD}",
    )


def test_the_whole_path_through_the_ledgers_text(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    metrics = {
        "cost": 0.1,
        "remaining_credits": 9.9,
        "inference_time": 20.5,
        "queue_time": 1.5,
        "total_time": 22.0,
    }
    gateway.routes[SUBMIT] = submitted(gateway)
    gateway.routes[STATUS] = [
        reply(status="QUEUED"),
        reply(status="PROCESSING"),
        reply(status="COMPLETED", metrics=metrics),
    ]
    gateway.routes[RECORD] = reply(
        request_id="abc", status="COMPLETED", output=f"{gateway.url}{FILE}", images=[], metrics=metrics
    )
    gateway.routes[FILE] = Reply(body=picture())
    answer = client.submit(BODY)
    assert (answer.outcome, answer.request_id) == (Outcome.ACCEPTED, "abc")
    assert answer.job is not None
    job = Job.from_json(answer.job.to_json())
    assert job == answer.job
    states = [client.poll(job).outcome for _ in range(3)]
    assert states == [Outcome.PENDING, Outcome.PENDING, Outcome.COMPLETED]
    answer = client.fetch(job, spool)
    assert (answer.outcome, answer.charge, answer.cost_usd) == (Outcome.SUCCEEDED, Charge.YES, 0.1)
    assert answer.total_time_s == 22.0
    assert answer.picture is not None
    assert answer.picture.path is not None
    assert list(spool.iterdir()) == [answer.picture.path]
    assert "x-api-key" not in gateway.seen(FILE)[0].headers
    assert gateway.seen(STATUS)[0].headers["x-api-key"] == KEY


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:{other}/v2/requests/abc",
        "http://127.0.0.1:{own}@127.0.0.1:{other}/v2/requests/abc",
        "http://127.0.0.1:{other}\\@127.0.0.1:{own}/v2/requests/abc",
        "//127.0.0.1:{other}/v2/requests/abc",
        "https://127.0.0.1:{own}/v2/requests/abc",
        "http://localhost:{own}/v2/requests/abc",
        "http://127.0.0.1:{own}.example.com/v2/requests/abc",
        "file:///etc/passwd",
        "http://127.0.0.1:{own}/v2/requests/abc\r\nx: y",
        "http://127.0.0.1:{own}/?key=" + KEY,
        "http://127.0.0.1:99999/",
        "",
    ],
)
def test_the_key_stays_on_the_apis_origin(
    gateway: Gateway, elsewhere: Gateway, client: SegmindClient, spool: Path, address: str
) -> None:
    url = address.format(own=gateway.port, other=elsewhere.port)
    gateway.routes[SUBMIT] = reply(request_id="abc", status="QUEUED", status_url=url, response_url=url)
    gateway.routes[STATUS] = reply(status="PROCESSING")
    gateway.routes[RECORD] = reply(status="PROCESSING")
    answer = client.submit(BODY)
    assert answer.job == Job("abc", f"{gateway.url}{STATUS}", f"{gateway.url}{RECORD}")
    stored = Job("abc", url, url)
    assert client.poll(stored).outcome is Outcome.PENDING
    assert client.fetch(stored, spool).outcome is Outcome.PENDING
    assert elsewhere.requests == []


def test_addresses_of_the_servers_own_choice_are_used(gateway: Gateway, client: SegmindClient) -> None:
    gateway.routes[SUBMIT] = reply(request_id="a/../b?", status="QUEUED", poll_url="/jobs/7?x=1")
    gateway.routes["/jobs/7?x=1"] = reply(status="COMPLETED")
    answer = client.submit(BODY)
    assert answer.job is not None
    assert answer.job.response_url == f"{gateway.url}/v2/requests/a%2F..%2Fb%3F"
    assert client.poll(answer.job).outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"<html></html>",
        b'{"request_id": 7}',
        b'{"request_id": ""}',
        b'{"request_id": ".."}',
        b'{"request_id": "a b"}',
        b'{"request_id": "' + b"x" * 300 + b'"}',
    ],
)
def test_a_submit_that_names_no_job_may_be_charged(gateway: Gateway, client: SegmindClient, body: bytes) -> None:
    gateway.routes[SUBMIT] = Reply(body=body)
    answer = client.submit(BODY)
    assert (answer.outcome, answer.cause, answer.charge) == (
        Outcome.UNUSABLE,
        "unknown_json",
        Charge.POSSIBLE,
    )


def test_a_submit_whose_answer_is_cut_may_be_charged(gateway: Gateway, client: SegmindClient) -> None:
    body = submitted(gateway).body
    gateway.routes[SUBMIT] = [Reply(body=body, cut=20), Reply(reset=True)]
    answer = client.submit(BODY)
    assert (answer.outcome, answer.charge) == (Outcome.UNUSABLE, Charge.POSSIBLE)
    answer = client.submit(BODY)
    assert (answer.outcome, answer.charge) == (Outcome.LOST, Charge.POSSIBLE)
    assert len(gateway.requests) == 2


def test_a_job_that_failed_is_not_billed(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    failed = reply(status="FAILED", error="content flagged", metrics={"cost": 0.0})
    gateway.routes[SUBMIT] = gateway.routes[STATUS] = gateway.routes[RECORD] = failed
    job = Job("abc", "", "")
    for answer in (client.submit(BODY), client.poll(job), client.fetch(job, spool)):
        assert (answer.outcome, answer.cause, answer.error, answer.charge) == (
            Outcome.REJECTED,
            "job_failed",
            "content flagged",
            Charge.NO,
        )
    assert not spool.exists()


def test_polls_that_go_wrong_say_nothing_of_the_job(gateway: Gateway, client: SegmindClient) -> None:
    job = Job("abc", "", "")
    gateway.routes[STATUS] = [
        Reply(reset=True),
        Reply(body=b'{"status":"COMPLETED"}', cut=5),
        reply(status="DREAMING"),
        Reply(body=b"\x00"),
        reply(status="completed"),
    ]
    outcomes = [client.poll(job).outcome for _ in range(5)]
    assert outcomes == [Outcome.LOST, Outcome.LOST, Outcome.UNUSABLE, Outcome.UNUSABLE, Outcome.COMPLETED]


@pytest.mark.parametrize(
    ("of_file", "outcome", "cause"),
    [
        (Reply(404), Outcome.EXPIRED, "output_expired"),
        (Reply(403), Outcome.EXPIRED, "output_expired"),
        (Reply(500), Outcome.SERVER_ERROR, "server_error"),
        (Reply(429, headers={"Retry-After": "3"}), Outcome.RATE_LIMITED, "rate_limited"),
        (Reply(302, headers={"Location": "/other.png"}), Outcome.UNUSABLE, "output_unavailable"),
        (Reply(401), Outcome.UNUSABLE, "output_unavailable"),
        (Reply(reset=True), Outcome.LOST, "connection_lost"),
        (Reply(body=picture(), cut=1000), Outcome.LOST, "cut"),
        (Reply(body=b"<html>soon</html>"), Outcome.UNUSABLE, "not_a_picture"),
        (Reply(body=b'{"image": "http://127.0.0.1:1/"}'), Outcome.UNUSABLE, "not_a_picture"),
    ],
)
def test_an_output_that_cannot_be_had_keeps_its_cost(
    gateway: Gateway, client: SegmindClient, spool: Path, of_file: Reply, outcome: Outcome, cause: str
) -> None:
    gateway.routes[RECORD] = reply(status="COMPLETED", output=f"{gateway.url}{FILE}", metrics={"cost": 0.1})
    gateway.routes[FILE] = [of_file, Reply(body=picture())]
    job = Job("abc", "", "")
    answer = client.fetch(job, spool)
    assert (answer.outcome, answer.cause, answer.cost_usd) == (outcome, cause, 0.1)
    assert answer.charge in {Charge.YES, Charge.POSSIBLE}
    assert answer.retry_after_s == (3 if outcome is Outcome.RATE_LIMITED else None)
    assert len(gateway.seen(FILE)) == 1
    assert client.fetch(job, spool).outcome is Outcome.SUCCEEDED


def test_a_record_may_be_the_picture_or_carry_it(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    job = Job("abc", "", "")
    gateway.routes[RECORD] = Reply(body=picture("WEBP"))
    answer = client.fetch(job, spool)
    assert answer.picture is not None
    assert answer.picture.format == "webp"
    gateway.routes[RECORD] = reply(status="COMPLETED", images=[{"url": f"{gateway.url}{FILE}"}])
    gateway.routes[FILE] = Reply(body=picture())
    assert client.fetch(job, spool).outcome is Outcome.SUCCEEDED
    gateway.routes[RECORD] = reply(status="COMPLETED", output=None)
    answer = client.fetch(job, spool)
    assert (answer.outcome, answer.cause) == (Outcome.UNUSABLE, "no_image")
