"""`kontext run` against a gateway with an account: balance, refused keys, v2, interruptions, a person at a terminal."""

import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import KONTEXT, Kontext
from tests.sandbox.running import Sandbox, running_sandbox

Manifest = Callable[..., Path]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(balance=2.0, speed=100.0) as running:
        yield running


@pytest.fixture
def at_sandbox(sandbox: Sandbox, environment: dict[str, str]) -> dict[str, str]:
    environment |= {"SEGMIND_API_KEY": sandbox.api_key, "SEGMIND_BASE_URL": sandbox.url}
    return environment


@pytest.mark.usefixtures("at_sandbox")
def test_a_refused_key_is_found_before_anything_is_asked_for(
    kontext: Kontext, sandbox: Sandbox, manifest: Manifest
) -> None:
    manifest([{"prompt": "one"}])
    done = kontext("run", "rows.csv", "--yes", SEGMIND_API_KEY="not-a-key")
    assert done.returncode == 2
    assert "refuses the key" in done.stderr
    assert "not-a-key" not in done.stderr
    assert sandbox.books()["totals"]["posts"] == 0


@pytest.mark.usefixtures("at_sandbox")
def test_a_short_balance_is_said_and_bought_up_to_only_if_asked(
    kontext: Kontext, sandbox: Sandbox, manifest: Manifest, tmp_path: Path
) -> None:
    sandbox.set_account(balance=0.35)
    manifest([{"prompt": f"number {n}"} for n in range(6)])
    within = kontext("run", "rows.csv", "--budget", "0", "--yes")
    assert within.returncode == 3, "a budget of nothing buys nothing, and asks nothing of the balance"
    assert sandbox.books()["totals"]["posts"] == 0

    done = kontext("run", "rows.csv", "--yes", "--concurrency", "1")
    assert done.returncode == 3
    assert "buys 3 of the 6 pictures" in done.stderr
    assert "406" in done.stderr
    assert sandbox.books()["totals"]["billed"] == 3

    sandbox.set_account(balance=10.0)
    assert kontext("run", "rows.csv", "--yes").returncode == 0
    assert sandbox.books()["totals"]["billed"] == 6
    found = pd.read_parquet(tmp_path / "out" / "metadata")
    assert round(found["cost_usd"].sum(), 6) == sandbox.books()["totals"]["cost"] == 0.6


@pytest.mark.usefixtures("at_sandbox")
def test_v2_does_the_same(kontext: Kontext, sandbox: Sandbox, manifest: Manifest, tmp_path: Path) -> None:
    manifest([{"prompt": f"number {n}", "output_format": "jpg"} for n in range(12)])
    done = kontext("run", "rows.csv", "--api-version", "v2", "--yes")
    assert done.returncode == 0, done.stderr
    found = pd.read_parquet(tmp_path / "out" / "metadata")
    assert set(found["status"]) == {"succeeded"}
    assert not found["cost_estimated"].any()
    assert {entry["api"] for entry in sandbox.books()["entries"]} == {"v2"}
    assert round(found["cost_usd"].sum(), 6) == sandbox.books()["totals"]["cost"]


@pytest.mark.parametrize(
    ("number", "version"),
    [
        (signal.SIGINT, "v1"),
        (signal.SIGTERM, "v2"),
        pytest.param(signal.SIGTERM, "v1", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "v2", marks=pytest.mark.long),
    ],
)
def test_an_interruption_collects_what_is_in_flight(
    number: int,
    version: str,
    at_sandbox: dict[str, str],
    sandbox: Sandbox,
    manifest: Manifest,
    tmp_path: Path,
) -> None:
    sandbox.set_account(balance=100.0)
    manifest([{"prompt": f"number {n}"} for n in range(200)])
    command = [str(KONTEXT), "run", "rows.csv", "--yes", "--concurrency", "4", "--api-version", version]
    with subprocess.Popen(
        command, cwd=tmp_path, env=at_sandbox, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 60
        while sandbox.books()["totals"]["billed"] < 8 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 3, complaint
    assert "Traceback" not in complaint
    totals = sandbox.wait_idle()["totals"]
    assert 8 <= totals["billed"] < 200
    found = pd.read_parquet(tmp_path / "out" / "metadata")
    assert round(found["cost_usd"].sum(), 6) == totals["cost"], "what was in flight was collected"
    assert (found["status"] == "succeeded").sum() == totals["billed"]
    assert found["possibly_charged_usd"].sum() == 0
    assert "start again" in complaint


@pytest.mark.usefixtures("sandbox")
def test_a_person_is_asked_before_money_is_spent(
    at_sandbox: dict[str, str], sandbox: Sandbox, manifest: Manifest, tmp_path: Path
) -> None:
    manifest([{"prompt": "one"}, {"prompt": "two"}])

    def answer(words: bytes) -> tuple[int, str]:
        mine, theirs = pty.openpty()
        with subprocess.Popen(
            [str(KONTEXT), "run", "rows.csv"],
            cwd=tmp_path,
            env={**at_sandbox, "COLUMNS": "120", "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            seen = b""
            while b"Spend" not in seen:
                seen += os.read(mine, 4096)
            os.write(mine, words)
            while True:
                try:
                    seen += os.read(mine, 4096)
                except OSError:
                    break
        os.close(mine)
        return process.returncode, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode())

    status, seen = answer(b"n\n")
    assert status == 2
    assert "0.20 USD" in seen
    assert sandbox.books()["totals"]["posts"] == 0
    status, seen = answer(b"y\n")
    assert status == 0
    assert "2/2" in seen, "the bar"
    assert sandbox.books()["totals"]["billed"] == 2


def test_the_sandbox_backend_needs_nothing_else(kontext: Kontext, manifest: Manifest, tmp_path: Path) -> None:
    manifest([{"prompt": "a lighthouse at dusk", "aspect_ratio": "1:1"}])
    done = kontext(
        "run",
        "rows.csv",
        "--backend",
        "sandbox",
        SEGMIND_API_KEY="",
        SEGMIND_BASE_URL="",
        KONTEXT_DATA_DIR="free",
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_parquet(tmp_path / "free" / "metadata")
    assert list(found["backend"]) == ["sandbox"]
    assert list(found["width"]) == list(found["height"])
