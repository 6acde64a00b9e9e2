"""Each status that the API documents, and some that it does not, sent by a real server."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kontext_pipeline.segmind.answers import Answer, Job
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.outcomes import Charge, Outcome
from tests.segmind.conftest import BODY, KEY, picture
from tests.segmind.gateway import Gateway, Reply, Request

V1 = "/v1/flux-kontext-max"
V2 = "/v2/flux-kontext-max"

ERRORS: list[tuple[int, str, Outcome, str]] = [
    (400, '{"error":"bad aspect_ratio"}', Outcome.REJECTED, "bad_parameters"),
    (
        401,
        '{"error":"unauthorized","error_description":"bad key","status_code":401}',
        Outcome.STOPPED,
        "bad_key",
    ),
    (402, "{}", Outcome.STOPPED, "insufficient_credits"),
    (403, '{"error":"forbidden"}', Outcome.STOPPED, "no_permission"),
    (404, '{"error":"model not found"}', Outcome.STOPPED, "no_such_model"),
    (405, "<html><h1>405 Not Allowed</h1></html>", Outcome.STOPPED, "wrong_method"),
    (410, '{"error":"retired"}', Outcome.STOPPED, "model_retired"),
    (413, "<html>Request Entity Too Large</html>", Outcome.REJECTED, "too_large"),
    (415, "{}", Outcome.REJECTED, "unsupported_media"),
    (418, "teapot", Outcome.REJECTED, "refused"),
    (422, '{"status":"FAILED","error":"flagged"}', Outcome.REJECTED, "job_failed"),
    (408, "", Outcome.SERVER_ERROR, "request_timeout"),
    (429, '{"error":"slow down"}', Outcome.RATE_LIMITED, "rate_limited"),
    (500, '{"error":"internal"}', Outcome.SERVER_ERROR, "server_error"),
    (502, "<html>Bad Gateway</html>", Outcome.SERVER_ERROR, "bad_gateway"),
    (503, "", Outcome.SERVER_ERROR, "unavailable"),
    (520, "", Outcome.SERVER_ERROR, "server_error"),
    (599, "", Outcome.SERVER_ERROR, "server_error"),
]


@pytest.mark.parametrize(("status", "text", "outcome", "cause"), ERRORS)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_error_to_a_post(
    gateway: Gateway,
    client: SegmindClient,
    spool: Path,
    version: str,
    status: int,
    text: str,
    outcome: Outcome,
    cause: str,
) -> None:
    gateway.routes[V1] = gateway.routes[V2] = Reply(status, text.encode())
    answer = client.generate(BODY, spool) if version == "v1" else client.submit(BODY)
    assert (answer.outcome, answer.cause, answer.status_code) == (outcome, cause, status)
    assert answer.charge is Charge.NO
    assert answer.error
    assert "<" not in answer.error
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("status", [504, 524])
def test_a_gateway_timeout_may_be_charged_on_v1_alone(
    gateway: Gateway, client: SegmindClient, spool: Path, status: int
) -> None:
    gateway.routes[V1] = gateway.routes[V2] = Reply(status, b"<html>timeout</html>")
    answer = client.generate(BODY, spool)
    assert (answer.outcome, answer.charge) == (Outcome.GATEWAY_TIMEOUT, Charge.POSSIBLE)
    answer = client.submit(BODY)
    assert (answer.outcome, answer.charge) == (Outcome.SERVER_ERROR, Charge.NO)


@pytest.mark.parametrize(
    ("text", "outcome", "cause"),
    [
        ("Content-Type must be application/json", Outcome.STOPPED, "wrong_content_type"),
        ("Missing content type header", Outcome.STOPPED, "wrong_content_type"),
        ("Insufficient Credits", Outcome.STOPPED, "insufficient_credits"),
        ("Not enough credits to process request", Outcome.STOPPED, "insufficient_credits"),
        ("Your balance is too low, please top up", Outcome.STOPPED, "insufficient_credits"),
        ("Team spend limit reached", Outcome.STOPPED, "spend_limit"),
        ("The monthly limit of your workspace is exceeded", Outcome.STOPPED, "spend_limit"),
        (
            "Insufficient credits: the team spending limit is 10 USD",
            Outcome.STOPPED,
            "spend_limit",
        ),
        ("safety_tolerance: value exceeds limit 2", Outcome.REJECTED, "parameter_refused"),
        ("Invalid value for aspect_ratio", Outcome.REJECTED, "parameter_refused"),
        (
            "Invalid parameter prompt: 'a credit card on a table'",
            Outcome.REJECTED,
            "parameter_refused",
        ),
        ("Not Acceptable", Outcome.STOPPED, "not_acceptable"),
        ("", Outcome.STOPPED, "not_acceptable"),
    ],
)
def test_the_causes_of_a_406(
    gateway: Gateway, client: SegmindClient, spool: Path, text: str, outcome: Outcome, cause: str
) -> None:
    gateway.routes[V1] = Reply(406, b'{"error":"%b"}' % text.encode())
    answer = client.generate(BODY, spool)
    assert (answer.outcome, answer.cause) == (outcome, cause)
    assert answer.charge is Charge.NO


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_the_key_goes_nowhere(
    gateway: Gateway, elsewhere: Gateway, client: SegmindClient, spool: Path, status: int
) -> None:
    gateway.routes[V1] = gateway.routes[V2] = Reply(status, headers={"Location": f"{elsewhere.url}/trap"})
    for answer in (client.generate(BODY, spool), client.submit(BODY)):
        assert (answer.outcome, answer.cause) == (Outcome.STOPPED, "redirected")
        assert answer.error is not None
        assert f"{elsewhere.url}/trap" in answer.error
    assert elsewhere.requests == []


def test_a_redirect_to_what_is_no_url_is_a_redirect(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    gateway.routes[V1] = Reply(302, headers={"Location": "http://[::1"})
    answer = client.generate(BODY, spool)
    assert (answer.outcome, answer.cause, answer.charge) == (Outcome.STOPPED, "redirected", Charge.NO)


def test_a_success_says_what_it_cost(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    content = picture()
    gateway.routes[V1] = Reply(
        body=content,
        headers={
            "X-Cost": "0.08",
            "X-Remaining-Credits": "41.2",
            "X-Request-Id": "req-1",
            "X-Generation-Time": "24.34",
            "X-Seed-Value": "30699",
        },
    )
    answer = client.generate(BODY, spool)
    assert answer.outcome is Outcome.SUCCEEDED
    assert (answer.cost_usd, answer.charge) == (0.08, Charge.YES)
    assert answer.request_id == "req-1"
    assert answer.cause == ""
    assert answer.error is None
    assert answer.latency_s > 0
    assert answer.picture is not None
    assert answer.picture.path is not None
    assert answer.picture.path.parent == spool
    assert answer.picture.path.read_bytes() == content
    assert (answer.picture.format, answer.picture.width, answer.picture.height) == ("png", 48, 32)
    assert not answer.spilled


def test_a_success_without_accounting_is_still_a_success(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    for nonsense in ({}, {"x-cost": "nan"}, {"x-cost": "-1"}, {"x-cost": "free"}):
        gateway.routes[V1] = Reply(body=picture("JPEG"), headers=nonsense)
        answer = client.generate(BODY, spool)
        assert (answer.outcome, answer.cost_usd) == (Outcome.SUCCEEDED, None)
        assert answer.charge is Charge.YES


def test_what_is_sent(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    gateway.routes[V1] = Reply(body=picture())
    client.generate({"prompt": "Zürich \udc80 \U0001f600", "seed": 1}, spool)
    sent = gateway.requests[0]
    assert sent.method == "POST"
    assert sent.headers["x-api-key"] == KEY
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["content-length"] == str(len(sent.body))
    assert "authorization" not in sent.headers
    assert b'"seed":1' in sent.body


def test_cookies_are_not_sent_back(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    gateway.routes[V1] = Reply(body=picture(), headers={"Set-Cookie": "session=1; Path=/"})
    for _ in range(3):
        client.generate(BODY, spool)
    assert all("cookie" not in request.headers for request in gateway.requests)


def test_credentials_files_are_not_read(
    gateway: Gateway,
    connect: Callable[..., SegmindClient],
    spool: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    gateway.routes[V1] = Reply(body=picture())
    assert connect().generate(BODY, spool).outcome is Outcome.SUCCEEDED
    assert "authorization" not in gateway.requests[0].headers


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error": {"message": "too  long\\n\\n by far", "code": 7}}', "too long by far"),
        (b'{"error": "bad", "error_description": "worse"}', "bad: worse"),
        (b'{"detail": [{"loc": ["seed"], "msg": "not a number"}]}', "not a number"),
        (
            b"<html><head><style>b{}</style><script>if(a<b)</script><title>Oops</title></head><b>no&amp;no</b>",
            "Oops no&no",
        ),
        (b"plain words", "plain words"),
        (b'{"trace": 17}', '{"trace": 17}'),
        (b"\xff\xfe\x00", "\ufffd\ufffd"),
        (b"", "status 400 without a word"),
        (b"x" * 100_000, "x" * 497 + "..."),
    ],
)
def test_the_servers_words(gateway: Gateway, client: SegmindClient, spool: Path, body: bytes, expected: str) -> None:
    gateway.routes[V1] = Reply(400, body)
    assert client.generate(BODY, spool).error == expected


def test_the_key_is_struck_out_of_whatever_a_server_says(gateway: Gateway, client: SegmindClient, spool: Path) -> None:
    def echo(request: Request) -> Reply:
        key = request.headers["x-api-key"]
        pad = "." * (490 - len(gateway.requests))
        return Reply(
            401,
            f'{{"error": "{pad} invalid key {key}", "{key}": 1}}'.encode(),
            {"x-request-id": f"id-{key}", "location": f"/?key={key}", "x-cost": key},
        )

    gateway.routes[V1] = gateway.routes[V2] = echo
    gateway.routes["/v1/get-user-credits"] = echo
    answers: list[object] = [client.generate(BODY, spool) for _ in range(30)]
    answers += [client.submit(BODY), client.credits(), client]
    assert all(KEY not in repr(answer) and "89abcdef" not in repr(answer) for answer in answers)
    assert isinstance(answers[0], Answer)
    assert answers[0].request_id is None


JOB_ERRORS = [
    (404, b'{"error":"not found"}', Outcome.EXPIRED, "record_expired"),
    (410, b"", Outcome.EXPIRED, "record_expired"),
    (400, b"", Outcome.EXPIRED, "record_refused"),
    (422, b'{"status":"FAILED","error":"flagged"}', Outcome.REJECTED, "job_failed"),
    (401, b"", Outcome.STOPPED, "bad_key"),
    (403, b"", Outcome.STOPPED, "no_permission"),
    (429, b"", Outcome.RATE_LIMITED, "rate_limited"),
    (500, b"", Outcome.SERVER_ERROR, "server_error"),
    (502, b"", Outcome.SERVER_ERROR, "bad_gateway"),
    (503, b"", Outcome.SERVER_ERROR, "unavailable"),
    (504, b"", Outcome.SERVER_ERROR, "gateway_timeout"),
    (302, b"", Outcome.STOPPED, "redirected"),
]


@pytest.mark.parametrize(("status", "body", "outcome", "cause"), JOB_ERRORS)
def test_an_error_to_a_question_about_a_job(
    gateway: Gateway,
    client: SegmindClient,
    spool: Path,
    status: int,
    body: bytes,
    outcome: Outcome,
    cause: str,
) -> None:
    gateway.routes["/v2/requests/abc/status"] = gateway.routes["/v2/requests/abc"] = Reply(status, body)
    job = Job("abc", "", "")
    for answer in (client.poll(job), client.fetch(job, spool)):
        assert (answer.outcome, answer.cause, answer.request_id) == (outcome, cause, "abc")
        assert answer.charge is (Charge.NO if outcome is Outcome.REJECTED else Charge.POSSIBLE)
