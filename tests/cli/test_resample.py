"""`kontext verify --resample`: rows are asked for again, apart from the dataset, and on the books."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from tests.cli.conftest import KONTEXT, Done, Kontext
from tests.cli.provider import Provider, error, picture
from tests.sandbox.running import Sandbox, running_sandbox
from tests.segmind.gateway import Reply

pytestmark = pytest.mark.long

Manifest = Callable[..., Path]
RUN = ("run", "rows.csv", "--yes")
RESAMPLE = ("verify", "--resample", "3", "--resample-seed", "5", "--yes")


def rows(count: int) -> list[dict[str, object]]:
    return [{"id": f"r{n}", "prompt": f"number {n}"} for n in range(count)]


def result(folder: Path) -> pd.DataFrame:
    """Return the tables of all resamples."""
    tables = [pd.read_parquet(path) for path in sorted((folder / "out" / "resamples").glob("*/resample.parquet"))]
    return pd.concat(tables) if tables else pd.DataFrame()


def books(done: Done) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    [backend], [resamples] = found["backends"], found["resamples"]
    return {**backend, "resamples": resamples}


def digest(folder: Path) -> dict[str, bytes]:
    """Return the dataset's own files."""
    parts = ("images", "metadata", "plan", "kontext.lock.json")
    paths = [path for part in parts for path in [folder / part, *(folder / part).rglob("*")] if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture
def locked(kontext: Kontext, manifest: Manifest, tmp_path: Path) -> Path:
    manifest(rows(6))
    assert kontext(*RUN).returncode == 0
    assert kontext("lock").returncode == 0
    return tmp_path


def test_a_resample_is_apart_and_on_the_books(locked: Path, kontext: Kontext, provider: Provider) -> None:
    before = digest(locked / "out")
    done = kontext(*RESAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 to be asked again for 0.30 USD" in done.stdout
    again = [(body["prompt"], body["seed"]) for body in provider.billed[6:]]
    assert len(again) == 3
    assert set(again) <= {(body["prompt"], body["seed"]) for body in provider.billed[:6]}, "the same requests"
    table = result(locked)
    assert list(table["outcome"]) == ["identical"] * 3
    assert list(table["image_sha256"]) == list(table["locked_sha256"])
    assert all((locked / "out" / path).is_file() for path in table["image_path"])
    assert all(path.startswith("resamples/") for path in table["image_path"])
    assert table["cost_usd"].sum() == pytest.approx(0.3)

    assert digest(locked / "out") == before, "the dataset is as it was"
    assert kontext("verify").returncode == 0
    assert kontext("lock").returncode == 0
    assert digest(locked / "out") == before
    found = books(kontext("status", "--json"))
    assert (found["pictures"], found["spent_usd"]) == (6, pytest.approx(0.9))
    assert found["resamples"] == {
        "backend": "segmind",
        "pictures": 3,
        "without_picture": 0,
        "spent_usd": pytest.approx(0.3),
    }
    assert "resampled" in kontext("status").stdout
    assert "Nothing to generate" in kontext(*RUN).stdout
    assert pd.read_parquet(locked / "out" / "metadata")["cost_usd"].sum() == pytest.approx(0.6)
    assert len(provider.billed) == 9

    # The same seed chooses the same rows, in a resample of its own that is paid for again.
    assert kontext(*RESAMPLE).returncode == 0
    first, second = (group for _, group in result(locked).groupby("resample"))
    assert set(first["fingerprint"]) == set(second["fingerprint"])
    assert len(provider.billed) == 12


def test_nobody_pays_without_agreeing_and_budgets_hold(locked: Path, kontext: Kontext, provider: Provider) -> None:
    done = kontext(*RESAMPLE[:-1])
    assert (done.returncode, len(provider.billed)) == (2, 6)
    assert "pass --yes to agree" in done.stderr
    done = kontext(*RESAMPLE, "--budget", "0.20")
    assert (done.returncode, len(provider.billed)) == (3, 8)
    assert result(locked).empty, "it is not finished"
    done = kontext(*RESAMPLE, KONTEXT_BUDGET_USD="0.80")
    assert (done.returncode, len(provider.billed)) == (3, 8), "what it has cost counts against the standing budget"
    done = kontext(*RESAMPLE)
    assert done.returncode == 0
    assert "2 already there, 1 to be asked again" in done.stdout
    assert len(provider.billed) == 9
    assert len(list((locked / "out" / "resamples").iterdir())) == 1
    # A budget that runs held before the resample holds after it too.
    with (locked / "rows.csv").open("a") as file:
        file.write("more,number 7\n")
    assert kontext(*RUN, KONTEXT_BUDGET_USD="0.95").returncode == 3
    assert len(provider.billed) == 9


def test_a_row_that_brings_no_picture_and_a_lost_answer_are_told(
    locked: Path, kontext: Kontext, provider: Provider
) -> None:
    times: dict[str, int] = {}

    def fault(body: dict[str, object], _times: int) -> Reply | None:
        prompt = str(body["prompt"])
        times[prompt] = times.get(prompt, 0) + 1
        if prompt.endswith("1"):
            return error(400, "no more of these")
        return Reply(reset=True) if prompt.endswith("2") else None

    provider.fault = fault
    done = kontext("verify", "--resample", "6", "--yes")
    assert done.returncode == 1
    assert "no picture: rows id r1" in done.stdout
    assert "no more of these" in done.stdout
    table = result(locked).set_index("id")
    assert table.loc[["r1", "r2"], "outcome"].tolist() == ["no_picture"] * 2
    assert (table["outcome"] == "identical").sum() == 4
    assert times["number 2"] == 2, "asked again once, as any request is"
    assert table.loc["r2", "possibly_charged_usd"] == pytest.approx(0.2)
    found = books(kontext("status", "--json"))
    assert (found["resamples"]["pictures"], found["resamples"]["without_picture"]) == (4, 2)
    assert (found["failed"], found["unknown"]) == (0, 0), "of the dataset, nothing failed"
    assert "resample " in kontext("reconcile").stdout
    assert kontext("failures").returncode == 0


def test_only_the_locked_pictures_are_compared(locked: Path, kontext: Kontext, provider: Provider) -> None:
    provider.fault = lambda body, _times: picture({**body, "drift": 1})
    table = pd.read_parquet(locked / "out" / "metadata").set_index("id")
    (locked / "out" / str(table.loc["r3", "image_path"])).write_bytes(b"no picture any more")
    done = kontext("verify", "--resample", "6", "--yes")
    assert done.returncode == 1
    outcomes = result(locked).set_index("id")["outcome"].to_dict()
    assert outcomes.pop("r3") == "not_compared"
    assert set(outcomes.values()) <= {"near", "different"}
    done = kontext("verify", "--resample", "6", "--lock", "out/kontext.lock.json", "--yes")
    assert (done.returncode, "leave --lock out" in done.stderr) == (2, True)


def test_rows_that_the_plan_no_longer_has_are_refused(
    locked: Path, kontext: Kontext, manifest: Manifest, provider: Provider
) -> None:
    manifest([{"id": f"r{n}", "prompt": f"another {n}"} for n in range(6)])
    assert kontext("plan", "rows.csv").returncode == 0
    done = kontext(*RESAMPLE)
    assert (done.returncode, len(provider.billed)) == (2, 6)
    assert "not in the plan any more" in done.stderr
    (locked / "out" / "kontext.lock.json").unlink()
    assert kontext(*RESAMPLE).returncode == 2


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox(draw=True) as running:
        yield running


@pytest.mark.parametrize("api_version", ["v1", pytest.param("v2", marks=pytest.mark.long)])
def test_the_drift_of_the_provider_is_a_number_over_time(
    kontext: Kontext, manifest: Manifest, sandbox: Sandbox, tmp_path: Path, api_version: str
) -> None:
    settings = {
        "KONTEXT_BACKEND": "sandbox",
        "SEGMIND_BASE_URL": sandbox.url,
        "KONTEXT_API_VERSION": api_version,
    }
    manifest([{"id": f"r{n}", "prompt": f"a lighthouse number {n}", "aspect_ratio": "1:1"} for n in range(3)])
    assert kontext(*RUN, **settings).returncode == 0
    assert kontext("lock", **settings).returncode == 0
    ask = ("verify", "--backend", "sandbox", "--resample", "3")
    assert kontext(*ask, **settings).returncode == 0
    sandbox.set_faults({"kind": "drift", "factor": 0.02})
    assert kontext(*ask, **settings).returncode == 0, "all are near"
    sandbox.set_faults({"kind": "drift", "prompt": "number 1"})
    done = kontext(*ask, **settings)
    assert done.returncode == 1
    assert "different: rows id r1" in done.stdout
    history = [line.split() for line in done.stdout.splitlines()[-3:]]
    assert [line[1:4] for line in history] == [["3", "0", "0"], ["0", "3", "0"], ["2", "0", "1"]]
    assert [line[-2] for line in history] == ["0%", "0%", "33%"]
    table = result(tmp_path)
    assert (table[table["outcome"] == "near"]["distance"] <= 8).all()
    assert (table[table["outcome"] == "different"]["distance"] > 8).all()


def test_an_input_picture_that_has_changed_since_is_sent_as_it_was(
    kontext: Kontext, manifest: Manifest, sandbox: Sandbox, provider: Provider, tmp_path: Path
) -> None:
    def served(quality: int) -> Reply:
        file = io.BytesIO()
        Image.effect_mandelbrot((300, 300), (-2, -1.5, 1, 1.5), quality).save(file, "PNG")
        return Reply(200, file.getvalue(), {"Content-Type": "image/png"})

    settings = {
        "KONTEXT_BACKEND": "sandbox",
        "SEGMIND_BASE_URL": sandbox.url,
        "KONTEXT_PRIVATE_INPUTS": "true",
        "KONTEXT_INPUT_MAX_AGE_S": "0",
    }
    (tmp_path / "in.png").write_bytes(served(40).body)
    provider.gateway.routes["/in.png"] = served(20)
    address = f"{provider.gateway.url}/in.png"
    manifest([{"prompt": "make it winter", "input_image": one} for one in ("in.png", address)])
    assert kontext(*RUN, **settings).returncode == 0
    assert kontext("lock", **settings).returncode == 0
    (tmp_path / "in.png").unlink()
    provider.gateway.routes["/in.png"] = served(90)
    done = kontext("verify", "--resample", "2", **settings)
    assert list(result(tmp_path)["outcome"]) == ["identical"] * 2, done.stdout + done.stderr


@pytest.mark.long
def test_a_resample_that_is_killed_goes_on_and_pays_once(
    kontext: Kontext,
    environment: dict[str, str],
    manifest: Manifest,
    tmp_path: Path,
) -> None:
    with running_sandbox(speed=100) as sandbox:
        environment |= {
            "KONTEXT_BACKEND": "sandbox",
            "SEGMIND_BASE_URL": sandbox.url,
            "KONTEXT_API_VERSION": "v2",
            "KONTEXT_CONCURRENCY": "3",
        }
        manifest(rows(8))
        assert kontext(*RUN, **environment).returncode == 0
        assert kontext("lock", **environment).returncode == 0
        command = [KONTEXT, "verify", "--resample", "8"]
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        ledger = tmp_path / "out" / "ledger.db"
        jobs = "SELECT COUNT(*) FROM attempts WHERE batch LIKE 'resample.%' AND job IS NOT NULL"
        with closing(sqlite3.connect(ledger)) as found:
            while found.execute(jobs).fetchone()[0] < 4 and first.poll() is None:
                time.sleep(0.01)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        # The run of the dataset takes over what the resample has left, and keeps it where it belongs.
        with (tmp_path / "rows.csv").open("a") as file:
            file.write("more,number 9\n")
        assert kontext(*RUN, **environment).returncode == 0
        done = kontext("verify", "--resample", "8", **environment)
        assert "row added: rows id more" in done.stdout
        assert "extra" not in done.stdout
        table = result(tmp_path)
        assert list(table["outcome"]) == ["identical"] * 8
        assert all(path.startswith("resamples/") for path in table["image_path"])
        billed = sandbox.wait_idle()["totals"]["billed"]
        with closing(sqlite3.connect(ledger)) as found:
            states = dict(found.execute("SELECT state, COUNT(*) FROM attempts GROUP BY state").fetchall())
        assert states["charged"] + states.get("unknown", 0) >= billed
        assert billed == 17 + states.get("unknown", 0), "but for a submission whose answer the kill has lost"


def test_a_postgresql_ledger_counts_resamples_apart(
    kontext: Kontext, manifest: Manifest, provider: Provider, postgres: str
) -> None:
    settings = {"KONTEXT_LEDGER_URL": postgres}
    manifest(rows(3))
    assert kontext(*RUN, **settings).returncode == 0
    assert kontext("lock", **settings).returncode == 0
    assert kontext("verify", "--resample", "2", "--yes", **settings).returncode == 0
    found = books(kontext("status", "--json", **settings))
    assert (found["pictures"], found["spent_usd"], found["resamples"]["pictures"]) == (3, pytest.approx(0.5), 2)
    assert len(provider.billed) == 5


@pytest.mark.long
@pytest.mark.parametrize("moment", range(6))
def test_a_resample_that_is_killed_at_any_moment_pays_at_most_for_what_was_in_flight(
    locked: Path, kontext: Kontext, environment: dict[str, str], provider: Provider, moment: int
) -> None:
    provider.latency_s = 0.15
    command = [KONTEXT, "verify", "--resample", "6", "--yes", "--concurrency", "2"]
    killed = subprocess.Popen(command, cwd=locked, env=environment, stdout=subprocess.DEVNULL)
    while len(provider.billed) < 6 + moment and killed.poll() is None:
        time.sleep(0.001)
    time.sleep(0.02 * moment)
    killed.kill()
    killed.wait()
    if result(locked).empty:
        done = kontext("verify", "--resample", "6", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
    assert list(result(locked)["outcome"]) == ["identical"] * 6
    found = books(kontext("status", "--json"))
    lost = found["possibly_charged_attempts"]
    assert lost <= 2
    assert found["spent_usd"] == pytest.approx(1.2)
    assert 12 <= len(provider.billed) <= 12 + lost
    assert kontext("verify").returncode == 0


def test_a_run_that_reads_the_whole_ledger_misses_no_picture_of_a_resample(
    locked: Path, kontext: Kontext, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kontext(*RESAMPLE).returncode == 0
    monkeypatch.setattr("kontext_pipeline.settled_requests.WHOLE_LEDGER_FROM", 1)
    done = kontext(*RUN)
    assert (done.returncode, "gone" in done.stderr) == (0, False)
    (locked / "rows.csv").write_text((locked / "rows.csv").read_text() + "more,number 7\n")
    assert kontext(*RUN).returncode == 0
    assert len(provider.billed) == 10, "six, three again, and the new one"
    assert kontext(*RESAMPLE[:-1], "--yes").returncode == 1, "rows are added to the lock's"
    assert len(provider.billed) == 13
