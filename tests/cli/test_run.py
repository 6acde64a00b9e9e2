"""`kontext run`, whole: a manifest, a provider that knows the source document alone, a folder of results."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import Kontext
from tests.cli.provider import KEY, Provider, data_uri, error, flaky
from tests.segmind.gateway import Reply

Manifest = Callable[..., Path]
PAID = ("--yes",)


def rows(count: int) -> list[dict[str, object]]:
    return [
        {
            "id": f"row-{n}",
            "prompt": f"Make it number {n}",
            "label": f"{n:03d}",
            "output_format": ("png", "jpg")[n % 2],
        }
        for n in range(count)
    ]


def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "out" / "metadata")


def test_sixty_rows_give_sixty_pictures_and_the_bill(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows(60))
    done = kontext("run", "rows.csv", "--batch-size", "25", *PAID)
    assert done.returncode == 0, done.stderr
    found = table(tmp_path)
    assert len(found) == 60
    assert set(found["status"]) == {"succeeded"}
    assert round(found["cost_usd"].sum(), 6) == provider.bill_usd == 6.0
    assert found["cost_estimated"].all(), "the provider sends no x-cost, so the list price is an estimate"
    assert sorted(found["label"]) == [f"{n:03d}" for n in range(60)], "own columns are carried untouched"
    assert sorted(found["batch"].astype(str).unique()) == [f"rows-0000{n}" for n in range(3)]
    for row in found.itertuples():
        path = tmp_path / "out" / str(row.image_path)
        assert path.stat().st_size == row.bytes
        assert path.suffix == f".{row.output_format}"
    sent = {(body["prompt"], body["seed"]) for body in provider.billed}
    assert sent == set(zip(found["prompt"], found["seed"], strict=True)), "what was asked for is what was sent"
    assert not any("input_image" in body for body in provider.billed), "no demo picture by default"

    again = kontext("run", "rows.csv", "--batch-size", "25", *PAID)
    assert again.returncode == 0
    assert "Nothing to generate" in again.stdout
    assert provider.posted == 60


def test_the_same_manifest_elsewhere_asks_for_the_same_pictures(
    kontext: Kontext, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows(5))
    kontext("run", "rows.csv", *PAID)
    kontext("run", "rows.csv", "--data-dir", "other", *PAID)
    mine, other = table(tmp_path), pd.read_parquet(tmp_path / "other" / "metadata")
    assert list(mine["fingerprint"]) == list(other["fingerprint"])
    assert list(mine["image_sha256"]) == list(other["image_sha256"])


def test_bad_rows_fail_with_the_servers_words_and_the_others_go_on(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    bad = {"Make it number 3", "Make it number 7"}
    provider.fault = lambda body, _: error(400, "prompt was flagged") if body["prompt"] in bad else None
    manifest(rows(12))
    done = kontext("run", "rows.csv", *PAID)
    assert done.returncode == 1
    found = table(tmp_path).set_index("prompt")
    assert set(found.index[found["status"] == "failed"]) == bad
    assert set(found.loc[sorted(bad), "error"]) == {"prompt was flagged"}
    assert set(found.loc[sorted(bad), "status_code"]) == {400}
    assert (found["status"] == "succeeded").sum() == 10
    assert found["cost_usd"].sum().round(6) == provider.bill_usd

    posted = provider.posted
    assert kontext("run", "rows.csv", *PAID).returncode == 1, "they stay failed"
    assert provider.posted == posted
    provider.fault = lambda _body, _times: None
    assert kontext("run", "rows.csv", "--retry-failed", *PAID).returncode == 0
    assert provider.posted == posted + 2


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "Invalid API key"),
        pytest.param(403, "Insufficient permissions", marks=pytest.mark.long),
        pytest.param(404, "Model not found", marks=pytest.mark.long),
        (406, "Not enough credits"),
    ],
)
def test_account_errors_stop_the_run_and_it_resumes(
    status: int, words: str, kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    provider.latency_s = 0.05
    provider.fault = lambda _body, _times: error(status, words) if len(provider.billed) >= 10 else None
    manifest(rows(40))
    done = kontext("run", "rows.csv", "--concurrency", "4", *PAID)
    assert done.returncode == 3, done.stderr
    assert str(status) in done.stderr
    assert words in done.stderr
    assert provider.posted <= len(provider.billed) + 4, "no more than one round of calls in flight"
    found = table(tmp_path)
    assert set(found["status"]) == {"succeeded", "pending"}
    assert found["cost_usd"].sum().round(6) == provider.bill_usd

    provider.fault = lambda _body, _times: None
    assert kontext("run", "rows.csv", *PAID).returncode == 0
    assert len(provider.billed) == 40


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 6))])
def test_every_row_ends_with_its_picture_over_a_flaky_line(
    seed: int, kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    provider.fault = flaky(0.2, seed)
    manifest(rows(60))
    done = kontext("run", "rows.csv", *PAID)
    assert done.returncode == 0, done.stdout + done.stderr
    found = table(tmp_path)
    assert set(found["status"]) == {"succeeded"}
    assert found["cost_usd"].sum().round(6) == provider.bill_usd == 6.0


def test_what_can_be_known_before_is_said_before(kontext: Kontext, provider: Provider, manifest: Manifest) -> None:
    manifest([{"prompt": "", "aspect_ratio": "16x9"}, {"prompt": "fine", "seed": "many"}])
    done = kontext("run", "rows.csv", *PAID)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 3, done.stderr
    assert all("rows.csv" in line and "row" in line for line in lines)

    manifest(rows(2))
    keyless = kontext("run", "rows.csv", *PAID, SEGMIND_API_KEY="")
    assert keyless.returncode == 2
    assert "SEGMIND_API_KEY" in keyless.stderr

    unasked = kontext("run", "rows.csv")
    assert unasked.returncode == 2, "no terminal to ask on, and no --yes"
    assert "0.20 USD" in unasked.stderr

    wrong = kontext("run", "rows.csv", "--concurrency", "0", *PAID)
    assert wrong.returncode == 2
    assert "KONTEXT_CONCURRENCY" in wrong.stderr
    assert provider.posted == 0
    for done in (keyless, unasked, wrong):
        assert "Traceback" not in done.stderr
        assert KEY not in done.stdout + done.stderr


def test_a_dead_server_is_no_traceback(kontext: Kontext, manifest: Manifest) -> None:
    manifest(rows(2))
    done = kontext("run", "rows.csv", *PAID, SEGMIND_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 3
    assert "can't be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_input_pictures_reach_the_api_as_uris(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (256, 256), "olive").save(tmp_path / "here.png")
    url = "https://images.example/cat.webp"
    manifest(
        [
            {"prompt": "a", "input_image": url},
            {"prompt": "b", "input_image": "here.png"},
            {"prompt": "c", "input_image": data_uri()},
            {"prompt": "d", "input_image": ""},
        ]
    )
    assert kontext("run", "rows.csv", *PAID, KONTEXT_KEEP_INPUTS="false").returncode == 0
    sent = {body["prompt"]: body.get("input_image") for body in provider.billed}
    assert sent["a"] == url
    assert str(sent["b"]).startswith("data:image/png;base64,"), "a server without uploads gets the file itself"
    assert sent["c"] == data_uri()
    assert sent["d"] is None


def test_a_budget_buys_exactly_what_it_pays_for(kontext: Kontext, provider: Provider, manifest: Manifest) -> None:
    manifest(rows(20))
    done = kontext("run", "rows.csv", "--budget", "0.70", *PAID)
    assert done.returncode == 3
    assert len(provider.billed) == 7
    assert "budget" in done.stderr


def test_status_tells_the_books(kontext: Kontext, provider: Provider, manifest: Manifest) -> None:
    assert kontext("status").returncode == 2, "there is no ledger yet, and asking makes none"
    manifest(rows(4))
    provider.fault = lambda body, _: error(400, "no") if body["prompt"] == "Make it number 0" else None
    kontext("run", "rows.csv", *PAID)
    told = json.loads(kontext("status", "--json").stdout)
    [books] = told["backends"]
    assert (books["backend"], books["pictures"], books["failed"]) == ("segmind", 3, 1)
    assert books["spent_usd"] == provider.bill_usd
    assert books["failed_by_cause"] == {"bad_parameters": 1}
    shown = kontext("status")
    assert shown.returncode == 0
    assert "0.30 USD" in shown.stdout


def test_the_key_is_nowhere_but_in_the_header(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    provider.fault = lambda _body, times: error(500, f"your key {KEY} is fine, we are not") if times == 1 else None
    manifest(rows(3))
    done = kontext("run", "rows.csv", *PAID)
    assert done.returncode == 0
    assert KEY not in done.stdout + done.stderr
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_help_is_there_at_once_and_names_every_command() -> None:
    from tests.cli.conftest import KONTEXT

    told = subprocess.run([str(KONTEXT), "--help"], capture_output=True, text=True, check=True).stdout
    for command in ("plan", "run", "status", "sandbox", "ui"):
        assert command in told


def test_plan_sends_nothing_and_says_what_it_would_cost(
    kontext: Kontext, provider: Provider, manifest: Manifest
) -> None:
    manifest([*rows(9), {"prompt": "three of them", "variants": 3}])
    done = kontext("plan", "rows.csv", SEGMIND_API_KEY="")
    assert done.returncode == 0, "planning needs no key"
    assert "12" in done.stdout
    assert "1.20 USD" in done.stdout
    assert not provider.gateway.requests


def test_a_timeout_is_said_to_be_possibly_charged(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    provider.fault = lambda body, _: Reply(delay=3) if body["prompt"] == "Make it number 1" else None
    manifest(rows(3))
    done = kontext("run", "rows.csv", *PAID, KONTEXT_ANSWER_TIMEOUT_S="0.5")
    assert done.returncode == 1
    assert max(provider.posts.values()) == 2, "tried once more, and no more"
    found = table(tmp_path).set_index("prompt")
    assert found.loc["Make it number 1", "status"] == "unknown"
    assert found.loc["Make it number 1", "possibly_charged_usd"] == pytest.approx(0.20)
    assert "possibly charged" in done.stdout
    assert kontext("run", "rows.csv", *PAID).returncode == 1
    assert max(provider.posts.values()) == 2
