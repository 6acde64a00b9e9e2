"""What `kontext run` tells at KONTEXT_ALERT_URL, once each, and that no receiver holds it up."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kontext_pipeline.alerts import delivery, run_alerts
from tests.cli.conftest import KONTEXT, Kontext
from tests.cli.provider import Provider, error
from tests.segmind.gateway import Gateway, Reply

pytestmark = pytest.mark.long

Manifest = Callable[..., Path]
TARGET = "/services/T0123/B4567/89abcdefghij"


@pytest.fixture
def receiver() -> Iterator[Gateway]:
    gateway = Gateway()
    gateway.routes[TARGET] = Reply(200, b"ok")
    yield gateway
    gateway.stop()


@pytest.fixture
def alerts(receiver: Gateway) -> dict[str, str]:
    template = '{"event": "$event", "text": "$text", "cause": "$cause", "left": $left, "percent": $percent}'
    return {"KONTEXT_ALERT_URL": receiver.url + TARGET, "KONTEXT_ALERT_TEMPLATE": template}


def told(receiver: Gateway) -> list[dict[str, object]]:
    return [json.loads(request.body) for request in receiver.seen(TARGET)]


def rows(count: int) -> list[dict[str, object]]:
    return [{"id": f"row-{number}", "prompt": f"a fox {number}"} for number in range(count)]


def test_budgets_stop_and_end_are_told_once_each(
    kontext: Kontext, receiver: Gateway, alerts: dict[str, str], manifest: Manifest
) -> None:
    manifest(rows(12))
    run = ("run", "rows.csv", "--yes")
    assert kontext(*run, KONTEXT_BUDGET_USD="1.05", **alerts).returncode == 3
    first = told(receiver)
    assert sorted((one["event"], one["percent"]) for one in first if one["event"] == "budget") == [
        ("budget", 50),
        ("budget", 80),
        ("budget", 100),
    ]
    [stop] = [one for one in first if one["event"] == "stopped"]
    assert (stop["cause"], stop["left"]) == ("budget", 2)
    assert "out: the run stopped: the budget of 1.05 USD for all runs leaves no room for another image" in str(
        stop["text"]
    )
    assert "10 pictures, 0 failed, 0 unknown; charged 1.00 USD." in str(stop["text"])
    assert len(first) == 4
    # The same budget, in another run: the stop is another one, and the budget is the same.
    assert kontext(*run, KONTEXT_BUDGET_USD="1.05", **alerts).returncode in (2, 3)
    assert {one["event"] for one in told(receiver)[4:]} == {"stopped"}
    before = len(told(receiver))
    # A higher budget is another one, of which more than half is used.
    assert kontext(*run, KONTEXT_BUDGET_USD="2", **alerts).returncode == 0
    assert sorted((one["event"], one["percent"]) for one in told(receiver)[before:]) == [
        ("budget", 50),
        ("finished", 0),
    ]
    # Nothing to generate, nothing to tell.
    assert kontext(*run, KONTEXT_BUDGET_USD="2", **alerts).returncode == 0
    assert len(told(receiver)) == before + 2


def test_a_share_of_failures_is_told_once(
    kontext: Kontext, receiver: Gateway, provider: Provider, alerts: dict[str, str], manifest: Manifest
) -> None:
    provider.fault = lambda body, _times: error(400, "no foxes") if str(body["prompt"])[-1] in "012" else None
    manifest(rows(40))
    assert kontext("run", "rows.csv", "--yes", **alerts).returncode == 1
    failures = [one for one in told(receiver) if one["event"] == "failures"]
    assert len(failures) == 1
    assert "told above 20 %" in str(failures[0]["text"])
    assert "28 pictures, 12 failed" in str(told(receiver)[-1]["text"]) + str(told(receiver)[-2]["text"])


def test_a_share_of_failures_below_the_threshold_is_not_told(
    kontext: Kontext, receiver: Gateway, provider: Provider, alerts: dict[str, str], manifest: Manifest
) -> None:
    provider.fault = lambda body, _times: error(400, "no foxes") if str(body["prompt"])[-1] in "012" else None
    manifest(rows(40))
    assert kontext("run", "rows.csv", "--yes", KONTEXT_ALERT_FAILURE_SHARE="0.3", **alerts).returncode == 1
    assert [one["event"] for one in told(receiver)] == ["finished"]


def test_a_run_that_can_not_start_is_told_once_a_day(
    kontext: Kontext, receiver: Gateway, provider: Provider, alerts: dict[str, str], manifest: Manifest
) -> None:
    provider.gateway.routes["/v1/get-user-credits"] = Reply(401, b'{"error": "Invalid API key"}')
    manifest(rows(3))
    for _ in range(2):
        assert kontext("run", "rows.csv", "--yes", **alerts).returncode == 2
    [one] = told(receiver)
    assert (one["event"], one["cause"], one["left"]) == ("stopped", "bad_key", 3)
    assert "the API refuses the key" in str(one["text"])


@pytest.mark.parametrize(
    "answer", [Reply(hang=True), Reply(500), Reply(reset=True), Reply(302, headers={"Location": "/"})]
)
def test_no_receiver_changes_what_a_run_does(
    answer: Reply,
    kontext: Kontext,
    receiver: Gateway,
    provider: Provider,
    alerts: dict[str, str],
    manifest: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_alerts, "END_S", 1.3)
    monkeypatch.setattr(delivery, "ANSWER_S", 30.0)
    receiver.routes[TARGET] = answer
    manifest(rows(6))
    done = kontext("run", "rows.csv", "--yes", "--log-file", "log.txt", KONTEXT_BUDGET_USD="1", **alerts)
    assert (done.returncode, provider.bill_usd) == (0, 0.6), done.stderr
    shown = done.stdout + done.stderr + (tmp_path / "log.txt").read_text()
    assert "generation loop" not in shown
    assert not any(part in shown for part in (TARGET, receiver.url, "B4567"))
    assert "Traceback" not in shown
    receiver.routes[TARGET] = Reply(200)
    before = len(told(receiver))
    # The next run tells what is still to be told.
    manifest(rows(7))
    assert kontext("run", "rows.csv", "--yes", **alerts).returncode == 0
    late = [str(one["text"]) for one in told(receiver)[before:]]
    assert any("This run: 1 pictures" in text for text in late)
    if not answer.hang:
        assert any("This run: 6 pictures" in text for text in late)


def test_a_termination_is_told(
    environment: dict[str, str],
    receiver: Gateway,
    provider: Provider,
    alerts: dict[str, str],
    manifest: Manifest,
    tmp_path: Path,
) -> None:
    provider.latency_s = 0.3
    manifest(rows(200))
    process = subprocess.Popen(
        [KONTEXT, "run", "rows.csv", "--yes"], cwd=tmp_path, env={**environment, **alerts, "KONTEXT_CONCURRENCY": "4"}
    )
    deadline = time.monotonic() + 60
    while provider.posted < 8:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 3
    [stop] = [one for one in told(receiver) if one["event"] == "stopped"]
    assert stop["cause"] == "interrupted"
    assert isinstance(stop["left"], int)
    assert stop["left"] >= 100
