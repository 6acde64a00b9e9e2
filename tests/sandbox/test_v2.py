"""Submit, poll, fetch: jobs, records that expire, files that outlive them."""

import time
from typing import Any

import pytest
import requests

from kontext_pipeline.sandbox.drawing.sizes import SIZES
from tests.sandbox.conftest import Client, picture
from tests.sandbox.running import running_sandbox


def finished(client: Client, submission: dict[str, Any]) -> requests.Response:
    client.sandbox.wait_idle()
    return client.get(submission["response_url"])


def test_a_job_goes_from_queued_to_completed_and_its_file_needs_no_key() -> None:
    with running_sandbox(speed=60, latency_spread=0) as sandbox:
        client = Client(sandbox)
        submission = client.post("v2", seed=7).json()
        assert submission["status"] == "QUEUED"
        assert set(submission) == {"request_id", "status", "poll_url", "status_url", "response_url"}
        states: list[str] = []
        while not states or states[-1] not in {"COMPLETED", "FAILED"}:
            body = client.get(submission["status_url"]).json()
            if states[-1:] != [body["status"]]:
                states.append(body["status"])
        assert states == ["QUEUED", "PROCESSING", "COMPLETED"]
        body = client.get(submission["response_url"]).json()
        assert body["images"] == [{"url": body["output"], "content_type": "image/png"}]
        metrics = body["metrics"]
        assert set(metrics) == {
            "cost",
            "remaining_credits",
            "inference_time",
            "queue_time",
            "total_time",
            "retry_count",
        }
        assert (metrics["cost"], metrics["remaining_credits"]) == (0.1, 999.9)
        assert metrics["total_time"] == pytest.approx(24.34 / 60, rel=0.2)
        answer = requests.get(body["output"], timeout=10)
        assert picture(answer.content).size == SIZES["16:9"]


def test_v1_and_v2_draw_the_same_picture_of_the_same_request(client: Client) -> None:
    job = finished(client, client.post("v2", prompt="a fox", seed=5).json()).json()
    assert client.get(job["output"]).content == client.post("v1", prompt="a fox", seed=5).content


def test_a_job_is_billed_when_it_ends_though_nobody_asks(client: Client) -> None:
    client.post("v2")
    totals = client.sandbox.wait_idle()["totals"]
    assert (totals["billed"], totals["balance"]) == (1, 999.9)


def test_a_running_job_holds_its_price_and_has_no_output_yet() -> None:
    with running_sandbox(speed=1) as sandbox:
        client = Client(sandbox)
        submission = client.post("v2").json()
        totals = sandbox.books()["totals"]
        assert (totals["held"], totals["billed"], totals["running"], totals["balance"]) == (0.1, 0, 1, 1000.0)
        assert "output" not in client.get(submission["response_url"]).json()


def test_a_failed_job_is_a_422_on_both_endpoints_and_free(client: Client) -> None:
    client.sandbox.set_faults({"kind": "failed"})
    submission = client.post("v2").json()
    client.sandbox.wait_idle()
    for url in (submission["status_url"], submission["response_url"]):
        answer = client.get(url)
        assert answer.status_code == 422
        assert answer.json()["status"] == "FAILED"
        assert answer.json()["error"]
    books = client.sandbox.books()
    assert (books["totals"]["billed"], books["totals"]["held"], books["entries"][0]["state"]) == (
        0,
        0,
        "FAILED",
    )


def test_records_expire_and_files_stay() -> None:
    with running_sandbox(record_ttl_s=0.3) as sandbox:
        client = Client(sandbox)
        submission = client.post("v2").json()
        output = finished(client, submission).json()["output"]
        time.sleep(0.35)
        for name in ("poll_url", "status_url", "response_url"):
            assert client.get(submission[name]).status_code == 404
        assert client.get(output).status_code == 200
        client.post("v2", seed=2)
        assert client.get(submission["status_url"]).status_code == 404


def test_files_expire_too() -> None:
    with running_sandbox(file_ttl_s=0.3) as sandbox:
        client = Client(sandbox)
        output = finished(client, client.post("v2").json()).json()["output"]
        assert client.get(output).status_code == 200
        time.sleep(0.35)
        assert client.get(output).status_code == 404


def test_a_request_of_another_key_or_of_nobody_is_a_404(client: Client) -> None:
    submission = client.post("v2").json()
    assert client.get(submission["status_url"], key="SG_ffffffffffffffff").status_code == 404
    assert client.get(submission["status_url"], key="").status_code == 401
    assert client.get("/v2/requests/00000000-0000-0000-0000-000000000000").status_code == 404
    assert client.get("/files/outputs/../../etc/passwd").status_code == 404
    assert client.get("/files/outputs/..%2f..%2fetc%2fpasswd").status_code == 404


def test_a_reset_ends_what_is_running_and_forgets_it() -> None:
    with running_sandbox(speed=200, latency_spread=0) as sandbox:
        client = Client(sandbox)
        submission = client.post("v2").json()
        sandbox.reset()
        time.sleep(0.2)
        assert client.get(submission["status_url"]).status_code == 404
        assert sandbox.books() == {
            "totals": {"posts": 0, "billed": 0, "cost": 0.0, "running": 0, "balance": 1000.0, "held": 0.0},
            "entries": [],
        }


def test_an_output_may_be_the_input_of_another_request(client: Client) -> None:
    output = finished(client, client.post("v2", aspect_ratio="9:21").json()).json()["output"]
    answer = client.post(input_image=output, aspect_ratio="match_input_image")
    assert answer.status_code == 200, answer.text
    assert picture(answer.content).size == SIZES["9:21"]
