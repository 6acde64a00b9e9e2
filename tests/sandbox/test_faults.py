"""Faults: what they do to a client and to the books, and that a seed repeats them."""

import concurrent.futures
import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import requests

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.sandbox.config import SandboxConfig
from kontext_pipeline.sandbox.faults import Fault, FaultPlan, Kind, load_profile, profile_names
from tests.sandbox.conftest import Client, picture
from tests.sandbox.running import running_sandbox


@pytest.mark.parametrize("api", ["v1", "v2"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 406, 410, 429, 500, 502, 503, 504])
def test_any_status_can_be_answered_and_is_never_billed(client: Client, api: str, status: int) -> None:
    client.sandbox.set_faults({"kind": "status", "status": status, "times": 1})
    answer = client.post(api)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert client.post(api).status_code == 200
    books = client.sandbox.wait_idle()
    assert [entry["billed"] for entry in books["entries"]] == [False, True]
    assert [entry["fault"] for entry in books["entries"]] == ["status", None]


@pytest.mark.parametrize(
    ("cause", "word"),
    [
        ("content-type", "Content-Type"),
        ("credits", "credits"),
        ("team-limit", "Team"),
        ("parameter", "parameter"),
    ],
)
def test_a_406_has_the_words_of_its_cause(client: Client, cause: str, word: str) -> None:
    client.sandbox.set_faults({"kind": "status", "status": 406, "cause": cause})
    assert word in client.post().json()["error"]


def test_an_error_can_be_a_proxys_page(client: Client) -> None:
    client.sandbox.set_faults({"kind": "status", "status": 502, "html": True})
    answer = client.post()
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html")


def test_a_burst_of_429_lasts_as_many_requests_as_it_says(client: Client) -> None:
    client.sandbox.set_faults({"kind": "rate-limit", "burst": 3, "seconds": 0.5, "until": 1})
    answers = [client.post(seed=seed) for seed in range(5)]
    assert [answer.status_code for answer in answers] == [429, 429, 429, 200, 200]
    reset = datetime.fromisoformat(answers[2].headers["x-rate-limit-reset-at-utc"])
    assert (reset - datetime.now(UTC)).total_seconds() < 0.51


@pytest.mark.parametrize("api", ["v1", "v2"])
@pytest.mark.parametrize(("kind", "billed"), [("reset", False), ("bill-then-reset", True)])
def test_a_reset_leaves_no_answer_and_bills_only_where_it_says(
    client: Client, api: str, kind: str, billed: bool
) -> None:
    client.sandbox.set_faults({"kind": kind, "times": 1})
    with pytest.raises(requests.ConnectionError):
        client.post(api)
    (entry,) = client.sandbox.wait_idle()["entries"]
    assert (entry["billed"], entry["status"], entry["fault"]) == (billed, None, kind)
    assert client.post(api).status_code == 200


@pytest.mark.parametrize("path", ["v1", "output"])
@pytest.mark.parametrize("kind", ["cut-body", "garbage", "wrong-content-type"])
def test_a_broken_picture_is_billed_once(client: Client, path: str, kind: str) -> None:
    client.sandbox.set_faults({"kind": kind, "on": [path], "times": 1})

    def ask() -> requests.Response:
        if path == "v1":
            return client.post()
        return client.get(output)

    if path == "output":
        submission = client.post("v2").json()
        client.sandbox.wait_idle()
        output = client.get(submission["response_url"]).json()["output"]
    if kind == "cut-body":
        with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
            ask()
    else:
        answer = ask()
        assert answer.status_code == 200
        if kind == "garbage":
            assert answer.headers["content-type"] == "image/png"
            with pytest.raises(OSError, match="cannot identify"):
                picture(answer.content)
        else:
            assert answer.headers["content-type"] == "application/octet-stream"
            assert picture(answer.content).format == "PNG"
    assert client.sandbox.wait_idle()["totals"]["billed"] == 1
    assert picture(ask().content).format == "PNG"


@pytest.mark.parametrize("form", ["image-base64", "image-url", "output-url", "images-url", "image_url", "data-uri"])
def test_json_can_carry_the_picture_in_many_forms(client: Client, form: str) -> None:
    client.sandbox.set_faults({"kind": "json-image", "form": form, "times": 1})
    answer = client.post()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-cost"] == "0.1"
    text = str(answer.json())
    if form in {"image-base64", "data-uri"}:
        assert "iVBORw0KGgo" in text
    else:
        url = "http" + text.partition("http")[2].partition("'")[0]
        assert client.get(url).content == client.post().content


def test_headers_and_metrics_can_be_missing(client: Client) -> None:
    client.sandbox.set_faults({"kind": "no-headers"})
    answer = client.post()
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-")]
    submission = client.post("v2").json()
    client.sandbox.wait_idle()
    assert "metrics" not in client.get(submission["response_url"]).json()


def test_slow_multiplies_and_adds() -> None:
    with running_sandbox(speed=100, latency_spread=0) as sandbox:
        sandbox.set_faults({"kind": "slow", "factor": 2.0, "seconds": 5.0})
        began = time.monotonic()
        Client(sandbox).post()
        assert 0.53 <= time.monotonic() - began < 1.5


def test_what_hangs_ends_in_a_504_on_v1_and_never_on_v2() -> None:
    with running_sandbox(speed=100) as sandbox:
        sandbox.set_faults({"kind": "hang", "seconds": 10})
        client = Client(sandbox)
        assert client.post().status_code == 504
        submission = client.post("v2").json()
        time.sleep(0.4)
        assert client.get(submission["status_url"]).json()["status"] == "PROCESSING"
        assert sandbox.books()["totals"]["billed"] == 0


def test_a_record_can_expire_before_its_time(client: Client) -> None:
    client.sandbox.set_faults({"kind": "expired", "times": 1})
    submission = client.post("v2").json()
    assert client.get(submission["status_url"]).status_code == 404
    assert client.get(submission["response_url"]).status_code == 404, "gone is gone"
    assert client.sandbox.wait_idle()["totals"]["billed"] == 1


def test_polls_can_fail_and_be_repeated(client: Client) -> None:
    client.sandbox.set_faults({"kind": "status", "status": 502, "on": ["status"], "times": 2})
    submission = client.post("v2").json()
    assert [client.get(submission["status_url"]).status_code for _ in range(3)] == [502, 502, 200]


def test_a_fault_can_be_for_some_prompts_and_for_some_posts_alone(client: Client) -> None:
    client.sandbox.set_faults(
        {"kind": "status", "status": 400, "prompt": "FOX"},
        {"kind": "status", "status": 503, "after": 2, "until": 3},
    )
    prompts = ["a fox", "a cat", "a dog", "a dog"]
    assert [client.post(prompt=prompt).status_code for prompt in prompts] == [400, 200, 503, 200]


def test_a_faults_decision_does_not_hang_on_the_order_of_arrival() -> None:
    def struck(workers: int) -> dict[str, list[tuple[str, int]]]:
        with running_sandbox(profiles=("outage",), seed=5, speed=5000) as sandbox:
            sandbox.set_faults({"kind": "status", "status": 500, "share": 0.3}, {"kind": "reset", "share": 0.2})

            def ask(number: int) -> None:
                with contextlib.suppress(requests.ConnectionError):
                    Client(sandbox).post(prompt=f"picture {number % 20}")

            with concurrent.futures.ThreadPoolExecutor(workers) as pool:
                list(pool.map(ask, range(60)))
            entries = sandbox.wait_idle()["entries"]
        counts: dict[str, list[tuple[str, int]]] = {}
        for entry in entries:
            counts.setdefault(entry["prompt"], []).append((entry["fault"] or "", entry["status"] or 0))
        return {prompt: sorted(found) for prompt, found in counts.items()}

    alone = struck(1)
    assert alone == struck(8)
    assert 15 < sum(bool(fault) for found in alone.values() for fault, _ in found) < 40


def test_another_seed_strikes_others() -> None:
    faults = (Fault(kind="status", status=500, share=0.5),)

    def pattern(seed: int) -> list[bool]:
        plan = FaultPlan(faults, seed)
        return [bool(plan.strike("v1", str(n), prompt="", posts=n)[1]) for n in range(64)]

    assert pattern(1) == pattern(1)
    assert pattern(1) != pattern(2)
    assert 18 < sum(pattern(1)) < 46


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_loads_and_its_books_stay_exact(name: str) -> None:
    with running_sandbox(profiles=(name,), rate_window_s=0.1, seed=3, speed=5000) as sandbox:
        received = 0
        client = Client(sandbox)
        for number in range(50):
            with contextlib.suppress(requests.RequestException):
                received += client.post(prompt=f"picture {number}").status_code == 200
        totals = sandbox.wait_idle()["totals"]
        assert totals["held"] == 0
        assert totals["billed"] >= received
        assert totals["cost"] == pytest.approx(totals["billed"] * 0.1)
        start = sandbox.config.balance
        assert totals["balance"] == pytest.approx(start - totals["cost"])


def test_the_shipped_profiles_are_the_named_ones() -> None:
    assert {"rate-limited", "outage", "slow", "out-of-credits", "lossy", "expired-key"} <= set(profile_names())


def test_profiles_and_files_mix_and_fields_win(tmp_path: Path) -> None:
    file = tmp_path / "flaky.toml"
    file.write_text('seed = 9\n[account]\nbalance = 3.0\nrpm = 7\n[[fault]]\nkind = "reset"\nshare = 0.5\n')
    config = SandboxConfig.create(profiles=("out-of-credits", "lossy"), fault_files=(file,), rpm=8)
    assert (config.balance, config.rpm, config.seed) == (3.0, 8, 9)
    assert config.faults[-1].kind == "reset"
    assert len(config.faults) == len(load_profile("lossy").fault) + 1
    assert config.fault_sources == ("out-of-credits", "lossy", "flaky.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[fault]]\nkind = 'resett'", "reset"),
        ("[[fault]]\nkind = 'status'", "needs a status"),
        ("[[fault]]\nkind = 'reset'\nshare = 2", "share"),
        ("[[fault]]\nkind = 'reset'\nshere = 1", "shere"),
        ("[[fault]]\nkind = 'json-image'\non = ['output']", "allowed: v1"),
        ("[[fault]\n", "TOML"),
        ("balance = 3", "balance"),
    ],
)
def test_a_wrong_fault_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=says) as caught:
        SandboxConfig.create(fault_files=(file,))
    assert "bad.toml" in str(caught.value)


def test_wrong_names_and_values_are_settings_errors(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lossy"):
        SandboxConfig.create(profiles=("losy",))
    with pytest.raises(SettingsError, match="can't be read"):
        SandboxConfig.create(fault_files=(tmp_path / "none.toml",))
    with pytest.raises(SettingsError, match="speed"):
        SandboxConfig.create(speed=0)


def test_faults_can_be_put_and_read_over_http(client: Client) -> None:
    url = client.sandbox.url + "/sandbox/faults"
    assert client.http.put(url, json={"profiles": ["lossy"]}, timeout=10).status_code == 200
    shown = client.http.get(url, timeout=10).json()
    assert len(shown["faults"]) == len(shown["struck"]) == len(load_profile("lossy").fault)
    refused: tuple[Any, ...] = ({"profiles": ["none"]}, {"faults": [{"kind": "none"}]}, {"fault": []}, [])
    for wrong in refused:
        assert client.http.put(url, json=wrong, timeout=10).status_code == 400


def test_the_guides_example_is_a_valid_fault_file(tmp_path: Path) -> None:
    guide = Path(__file__).parents[2].joinpath("docs", "sandbox.md").read_text("utf-8")
    file = tmp_path / "guide.toml"
    file.write_text(guide.partition("```toml\n")[2].partition("```")[0])
    config = SandboxConfig.create(fault_files=(file,))
    assert [fault.kind for fault in config.faults] == ["status", "bill-then-reset"]
    for kind in get_args(Kind):
        assert f"| `{kind}` |" in guide, "every kind is in the guide's table"
    for name in profile_names():
        assert f"| `{name}` |" in guide
