"""Keys, balance, limits, and the shapes in which they refuse."""

import concurrent.futures
import time
from datetime import UTC, datetime

import pytest
import requests

from kontext_pipeline.sandbox.faults import Fault
from tests.sandbox.conftest import MODEL, Client
from tests.sandbox.running import running_sandbox

APIS = pytest.mark.parametrize("api", ["v1", "v2"])


@APIS
@pytest.mark.parametrize("key", ["", "nonsense", "SG_0123", "SG_0123456789ABCDEF", "SG_0123456789abcdef0"])
def test_a_missing_or_malformed_key_is_a_401_in_its_own_shape(client: Client, api: str, key: str) -> None:
    answer = client.post(api, key=key)
    assert answer.status_code == 401
    assert answer.json() | {"error_description": ""} == {
        "error": "Unauthorized",
        "error_description": "",
        "status_code": 401,
    }
    assert client.sandbox.books()["totals"]["billed"] == 0


def test_a_key_as_a_bearer_token_is_refused(client: Client) -> None:
    headers = {"Authorization": f"Bearer {client.sandbox.api_key}"}
    answer = client.http.post(f"{client.sandbox.url}/v1/{MODEL}", json={"prompt": "x"}, headers=headers, timeout=10)
    assert answer.status_code == 401


def test_named_keys_are_the_only_ones_and_a_forbidden_one_is_a_403() -> None:
    good, barred = "SG_aaaaaaaaaaaaaaaa", "SG_bbbbbbbbbbbbbbbb"
    with running_sandbox(keys=(good,), forbidden_keys=(barred,)) as sandbox:
        client = Client(sandbox)
        assert sandbox.api_key == good
        assert client.post().status_code == 200
        assert client.post(key="SG_0123456789abcdef").status_code == 401
        answer = client.post(key=barred)
        assert (answer.status_code, answer.json()["status_code"]) == (403, 403)
        assert client.get("/v1/get-user-credits", key=barred).status_code == 403


@APIS
def test_another_model_is_a_404(client: Client, api: str) -> None:
    answer = client.post(api, model="flux-kontext-pro")
    assert answer.status_code == 404
    assert "flux-kontext-pro" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", f"/v1/{MODEL}"), ("DELETE", f"/v2/{MODEL}"), ("POST", "/v2/requests/x")]
)
def test_the_wrong_method_is_a_405_in_html(client: Client, method: str, path: str) -> None:
    answer = client.http.request(method, client.sandbox.url + path, timeout=10)
    assert answer.status_code == 405
    assert answer.headers["content-type"].startswith("text/html")
    assert "405" in answer.text
    assert answer.headers["allow"]


def test_an_unknown_path_is_a_404_in_json(client: Client) -> None:
    answer = client.get("/v3/nothing")
    assert (answer.status_code, "error" in answer.json()) == (404, True)


def test_the_credits_run_down_by_the_price_of_each_picture(client: Client) -> None:
    assert client.get("/v1/get-user-credits").json() == {"credits": 1000.0, "free-credits": 0.0}
    for _ in range(3):
        client.post()
    assert client.get("/v1/get-user-credits").json()["credits"] == 999.7
    assert client.get("/v1/get-user-credits", key="").status_code == 401


@APIS
@pytest.mark.parametrize("content_type", [None, "text/plain", "multipart/form-data"])
def test_406_for_a_wrong_or_missing_content_type(client: Client, api: str, content_type: str | None) -> None:
    headers = {"x-api-key": client.sandbox.api_key} | ({"Content-Type": content_type} if content_type else {})
    answer = client.http.post(
        f"{client.sandbox.url}/{api}/{MODEL}", data=b'{"prompt": "x"}', headers=headers, timeout=10
    )
    assert answer.status_code == 406
    assert "Content-Type" in answer.json()["error"]


@APIS
def test_406_for_credits_comes_exactly_when_they_are_used_up(client: Client, api: str) -> None:
    client.sandbox.set_account(balance=0.25)
    statuses = [client.post(api, seed=seed).status_code for seed in range(4)]
    assert statuses == [200, 200, 406, 406]
    assert "credits" in client.post(api).json()["error"]
    totals = client.sandbox.wait_idle()["totals"]
    assert (totals["billed"], totals["balance"]) == (2, 0.05)
    client.sandbox.set_account(balance=5)
    assert client.post(api).status_code == 200


def test_many_at_once_never_take_the_balance_below_zero(client: Client) -> None:
    client.sandbox.set_account(balance=0.5)
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        statuses = list(pool.map(lambda seed: Client(client.sandbox).post(seed=seed).status_code, range(24)))
    assert sorted(statuses) == [200] * 5 + [406] * 19
    assert client.sandbox.books()["totals"]["balance"] == 0


def test_406_for_the_teams_limit(client: Client) -> None:
    client.sandbox.set_account(team_spend_limit=0.2)
    assert [client.post(seed=seed).status_code for seed in range(3)] == [200, 200, 406]
    assert "Team" in client.post().json()["error"]


def test_406_for_a_refused_parameter_where_the_sources_note_is_enforced() -> None:
    with running_sandbox(enforce_safety_note=True) as sandbox:
        client = Client(sandbox)
        answer = client.post(input_image="https://example.com/a.png", safety_tolerance=6)
        assert answer.status_code == 406
        assert "safety_tolerance" in answer.json()["error"]
        assert client.post(input_image="https://example.com/a.png", safety_tolerance=2).status_code == 200
        assert client.post(safety_tolerance=6).status_code == 200


def test_the_rate_limit_says_when_its_window_resets_and_then_lets_go() -> None:
    with running_sandbox(rpm=3, rate_window_s=0.6) as sandbox:
        client = Client(sandbox)
        answers = [client.post("v2", seed=seed) for seed in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        reset = datetime.fromisoformat(answers[3].headers["x-rate-limit-reset-at-utc"])
        left = (reset - datetime.now(UTC)).total_seconds()
        assert 0 < left <= 0.61
        assert "retry-after" not in answers[3].headers
        assert client.post("v2", key="SG_ffffffffffffffff").status_code == 200, "another key has its own window"
        time.sleep(left)
        assert client.post("v2").status_code == 200
        assert client.get("/v1/get-user-credits").status_code == 200, "only generations count"


def test_a_window_is_a_minute_at_the_sandboxs_speed() -> None:
    with running_sandbox(rpm=1, speed=600) as sandbox:
        client = Client(sandbox)
        client.post("v2")
        answer = client.post("v2")
        reset = datetime.fromisoformat(answer.headers["x-rate-limit-reset-at-utc"])
        assert (reset - datetime.now(UTC)).total_seconds() <= 0.11


def test_every_answer_of_a_post_has_a_request_id(client: Client) -> None:
    for answer in (client.post(), client.post("v2"), client.post(key="nonsense"), client.post(prompt="")):
        assert len(answer.headers["x-request-id"]) == 36


def test_a_fault_on_the_balance_strikes_before_the_first_post() -> None:
    with running_sandbox(faults=(Fault(kind="status", status=503, on=("credits",)),)) as sandbox:
        answer = requests.get(f"{sandbox.url}/v1/get-user-credits", headers={"x-api-key": sandbox.api_key}, timeout=10)
        assert answer.status_code == 503
