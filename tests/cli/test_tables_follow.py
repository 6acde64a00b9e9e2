"""Tables, ledger and bill agree: beside other runs, after late settlements, and when pictures are gone."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from kontext_pipeline.generation.ledger import Ledger, Settlement
from tests.cli.conftest import KONTEXT, Kontext
from tests.cli.provider import PRICE, Provider
from tests.segmind.gateway import Reply

Manifest = Callable[..., Path]
RUN = ("run", "rows.csv", "--yes")


def rows(count: int) -> list[dict[str, object]]:
    return [{"id": f"row-{n}", "prompt": f"Make it number {n}"} for n in range(count)]


def table_usd(folder: Path) -> float:
    return float(round(pd.read_parquet(folder / "out" / "metadata")["cost_usd"].sum(), 6))


def ledger_usd(folder: Path) -> float:
    with closing(sqlite3.connect(folder / "out" / "ledger.db")) as ledger:
        return float(ledger.execute("SELECT SUM(charged) / 1e6 FROM spending").fetchone()[0])


def test_a_late_settlement_reaches_a_table_that_was_complete(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    provider.fault = lambda body, times: Reply(reset=True) if times == 1 and body["prompt"].endswith("1") else None  # type: ignore[attr-defined]
    manifest(rows(3))
    assert kontext(*RUN).returncode == 0
    table = pd.read_parquet(tmp_path / "out" / "metadata")
    assert (table["cost_usd"].sum().round(6), table["possibly_charged_usd"].sum().round(6)) == (0.3, 0.1)
    written = next((tmp_path / "out" / "metadata").rglob("*.parquet"))
    before = written.stat().st_mtime_ns
    assert kontext(*RUN).returncode == 0
    assert written.stat().st_mtime_ns == before, "nothing has changed, so nothing is written"

    ledger = Ledger(f"sqlite:///{tmp_path / 'out' / 'ledger.db'}", backend="segmind")
    with closing(sqlite3.connect(tmp_path / "out" / "ledger.db")) as found:
        (lost,) = found.execute("SELECT id FROM attempts WHERE state = 'unknown'").fetchone()
    ledger.settle(lost, Settlement("charged", "lost", cost=100_000), status="unknown")
    ledger.close()
    assert kontext(*RUN).returncode == 0
    table = pd.read_parquet(tmp_path / "out" / "metadata")
    assert (table["cost_usd"].sum().round(6), table["possibly_charged_usd"].sum()) == (0.4, 0.0)
    assert ledger_usd(tmp_path) == 0.4


def test_pictures_that_are_gone_are_bought_again_at_a_price_that_is_said(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows(6))
    assert kontext(*RUN).returncode == 0
    gone, cut = sorted((tmp_path / "out" / "images").glob("[0-9a-f][0-9a-f]/*"))[:2]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:20])
    said = kontext("plan", "rows.csv").stderr
    assert "2 pictures are gone from the data directory and will be generated again for 0.20 USD" in said
    assert provider.posted == 6

    unasked = kontext("run", "rows.csv")
    assert unasked.returncode == 2
    assert provider.posted == 6
    assert table_usd(tmp_path) == 0.6

    done = kontext(*RUN)
    assert done.returncode == 0, done.stderr
    assert "generated again for 0.20 USD" in done.stderr
    assert gone.exists()
    assert table_usd(tmp_path) == ledger_usd(tmp_path) == provider.bill_usd == 0.8
    table = pd.read_parquet(tmp_path / "out" / "metadata")
    assert sorted(table["attempts"]) == [1, 1, 1, 1, 2, 2]
    for row in table.itertuples():
        assert (tmp_path / "out" / str(row.image_path)).stat().st_size == row.bytes
    assert "Nothing to generate" in kontext(*RUN).stdout


@pytest.mark.long
def test_a_run_that_is_suspended_between_storing_and_settling(
    environment: dict[str, str], provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    """The ledger is locked, so that the first run has stored its pictures and can't settle them; then it is suspended."""
    manifest(rows(6))
    environment = {**environment, "KONTEXT_LEASE_S": "2"}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([KONTEXT, *RUN], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)

    provider.latency_s = 1.0
    first = start()
    while provider.in_flight < 6:
        time.sleep(0.01)
    holder = sqlite3.connect(tmp_path / "out" / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    while len(list((tmp_path / "out" / "images").glob("[0-9a-f][0-9a-f]/*"))) < 6:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)
    holder.execute("ROLLBACK")
    holder.close()
    second = start()
    assert second.wait(60) == 0
    assert table_usd(tmp_path) == ledger_usd(tmp_path) == 0.6, (
        "each attempt was settled, and no picture adopted for nothing"
    )
    os.kill(first.pid, signal.SIGCONT)
    first.wait(60)
    assert start().wait(60) == 0
    assert table_usd(tmp_path) == ledger_usd(tmp_path) == provider.bill_usd == 0.6


@pytest.mark.long
@pytest.mark.parametrize("_number", range(int(os.environ.get("KONTEXT_TEST_REPEAT", "2"))))
def test_eight_runs_at_once_agree_with_the_bill(
    environment: dict[str, str], provider: Provider, manifest: Manifest, tmp_path: Path, _number: int
) -> None:
    manifest(rows(200))
    provider.latency_s = 0.2
    command = [KONTEXT, *RUN, "--batch-size", "25"]
    runs = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(8)
    ]
    ends = [(run.communicate(timeout=240)[1].decode(), run.returncode) for run in runs]
    assert [status for _, status in ends] == [0] * 8, ends
    assert provider.bill_usd == round(200 * PRICE, 6)
    assert ledger_usd(tmp_path) == provider.bill_usd
    assert table_usd(tmp_path) == provider.bill_usd
