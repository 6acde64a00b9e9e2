"""Rows without a picture: which, why, what to do and what that costs; and asking again for lost answers."""

import csv
import os
import pty
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from kontext_pipeline.generation.ledger import Ledger, ReservationTerms, Reserved, Settlement
from kontext_pipeline.segmind.outcomes import Cause
from tests.cli.conftest import KONTEXT, Kontext
from tests.cli.provider import Provider, error
from tests.segmind.gateway import Reply

Manifest = Callable[..., Path]
RUN = ("run", "rows.csv", "--yes")


def refuse(body: dict[str, object], _times: int) -> Reply | None:
    prompt = str(body["prompt"])
    if prompt.startswith("bad"):
        return error(400, f"{prompt} was flagged")
    return Reply(reset=True) if prompt == "lost" else None


@pytest.fixture
def failed(kontext: Kontext, provider: Provider, manifest: Manifest) -> str:
    """A run with seven refused rows and one whose answers were lost twice; return what it said."""
    prompts = ["fine", *(f"bad {n}" for n in range(7)), "lost"]
    manifest([{"id": f"r{n}", "prompt": prompt, "label": f"L{n}"} for n, prompt in enumerate(prompts)])
    provider.fault = refuse
    done = kontext(*RUN)
    assert done.returncode == 1
    return done.stdout


def test_a_run_says_which_rows_failed_why_and_what_to_do(failed: str, kontext: Kontext, tmp_path: Path) -> None:
    done = kontext("failures", "--csv", "failed.csv")
    assert done.returncode == 1
    assert done.stdout.strip() in failed, "the end of a run says the same"
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines[0] == "7 rows failed: the API refuses the prompt or a parameter (bad_parameters)."
    assert lines[1] == "rows row 2, id r1: 400 bad 0 was flagged"
    assert lines[6:8] == ["... and 2 more", "Edit these rows; --retry-failed asks again as they are: 0.70 USD."]
    assert lines[8].startswith("1 row unknown: the connection broke before the answer came")
    assert lines[10] == "--retry-unknown asks once more, and the lost answers may have been charged already: 0.10 USD."
    with (tmp_path / "failed.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["label"] for row in found] == [f"L{n}" for n in range(1, 9)], "the manifest's own columns"
    assert (found[0]["id"], found[0]["prompt"], found[0]["failure_words"]) == ("r1", "bad 0", "bad 0 was flagged")
    assert (found[0]["failure_code"], found[7]["failure_status"]) == ("400", "unknown")
    # The file is a manifest again, once its rows are edited.
    assert kontext("plan", "failed.csv", "--data-dir", "again").returncode == 0


def test_retry_unknown_asks_once_more_and_says_what_that_costs(
    failed: str, kontext: Kontext, provider: Provider, tmp_path: Path
) -> None:
    assert "--retry-unknown" in failed
    posted = provider.posted
    assert kontext(*RUN).returncode == 1
    assert provider.posted == posted, "the bound holds"
    still = kontext(*RUN, "--retry-unknown")
    assert "1 picture whose answers were lost too often, requested once more for 0.10 USD" in still.stderr
    assert (still.returncode, provider.posted) == (1, posted + 1), "once, and not for ever"
    provider.fault = lambda _body, _times: None
    assert kontext(*RUN, "--retry-unknown").returncode == 1
    assert provider.posted == posted + 2
    table = pd.read_parquet(tmp_path / "out" / "metadata").set_index("prompt")
    assert table.loc["lost", "status"] == "succeeded"
    assert table["cost_usd"].sum().round(6) == provider.bill_usd
    assert kontext(*RUN, "--retry-failed").returncode == 0
    nothing = kontext("failures")
    assert (nothing.returncode, nothing.stdout.strip()) == (0, "No row has failed, and no answer is lost.")


def test_an_id_steers_no_terminal(kontext: Kontext, provider: Provider, manifest: Manifest) -> None:
    manifest([{"id": "a\u202eb", "prompt": "bad"}])
    provider.fault = refuse
    assert kontext(*RUN).returncode == 1
    assert "id a\\u202eb: 400 bad was flagged" in kontext("failures").stdout


def test_without_a_plan_there_is_nothing_to_list_and_no_ledger_is_made(kontext: Kontext, tmp_path: Path) -> None:
    done = kontext("failures")
    assert done.returncode == 2
    assert "there is no plan" in done.stderr
    assert not (tmp_path / "out").exists()


def crashed_twice(folder: Path) -> None:
    """Enter into the ledger two attempts at the only row whose runs were killed."""
    ledger = Ledger(f"sqlite:///{folder / 'out' / 'ledger.db'}", backend="segmind")
    ledger.register(run_id="killed", lease_s=60)
    plan = pd.read_parquet(folder / "out" / "plan" / "rows.parquet")
    for _ in range(2):
        (result,) = ledger.reserve([(plan["fingerprint"][0], "rows-00000")], ReservationTerms("v1", 100_000))
        assert isinstance(result, Reserved)
        died = Settlement("unknown", "lost", cause=Cause.RUN_DIED)
        ledger.settle(result.attempt, died, status="unknown")
    ledger.close()


def test_a_person_is_asked_about_rows_that_only_crashes_left(
    kontext: Kontext, environment: dict[str, str], provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    manifest([{"prompt": "one"}])
    assert kontext("plan", "rows.csv").returncode == 0
    crashed_twice(tmp_path)
    assert kontext(*RUN).returncode == 1
    assert provider.posted == 0, "an unattended run keeps the bound"

    def answered(words: bytes) -> tuple[int, str]:
        terminal, theirs = pty.openpty()
        with subprocess.Popen(
            [KONTEXT, "run", "rows.csv"], cwd=tmp_path, env=environment, stdin=theirs, stdout=subprocess.PIPE
        ) as process:
            os.write(terminal, words)
            said, _ = process.communicate(timeout=60)
        os.close(terminal)
        os.close(theirs)
        return process.returncode, said.decode()

    status, said = answered(b"n\n")
    assert "1 picture in flight when earlier runs were killed" in said
    assert "To ask again costs 0.10 USD" in said
    assert (status, provider.posted) == (1, 0)
    status, _ = answered(b"y\ny\n")
    assert (status, provider.posted) == (0, 1)
    with closing(Ledger(f"sqlite:///{tmp_path / 'out' / 'ledger.db'}", backend="segmind")) as ledger:
        (row,) = ledger.generations(list(pd.read_parquet(tmp_path / "out" / "metadata")["fingerprint"])).to_pylist()
    assert (row["cost_usd"], row["possibly_charged_usd"]) == (0.1, 0.2)
