"""Pictures that were kept and paid for, and that no run has decoded because it was killed: a later run decodes them."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pandas as pd

from tests.cli.conftest import KONTEXT, Kontext
from tests.cli.provider import Provider
from tests.cli.test_reconcile import DAMAGED, rows
from tests.segmind.gateway import Reply

Manifest = Callable[..., Path]
RUN = ("run", "rows.csv", "--yes")


def table_of(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "out" / "metadata").set_index("id")


def settled(ledger: Path) -> int:
    if not ledger.exists():
        return 0
    with closing(sqlite3.connect(ledger)) as found:
        try:
            return int(found.execute("SELECT COUNT(*) FROM attempts WHERE state = 'charged'").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def test_a_picture_that_a_killed_run_has_not_decoded_is_decoded_by_the_next(
    kontext: Kontext, environment: dict[str, str], provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    """The first run is killed when one of two pictures is settled and its batch is not through."""
    answers = {"damaged": Reply(200, DAMAGED, {"x-cost": "0.1"}), "slow": Reply(hang=True)}
    provider.fault = lambda body, times: answers.get(str(body["prompt"])) if times == 1 else None
    manifest(rows("damaged", "slow"))
    killed = subprocess.Popen([KONTEXT, *RUN], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while settled(tmp_path / "out" / "ledger.db") < 1:
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()

    done = kontext(*RUN)
    assert done.returncode == 1, done.stderr
    assert "is damaged" in done.stderr
    assert table_of(tmp_path)["status"].to_dict() == {"damaged": "unknown", "slow": "succeeded"}
    assert kontext(*RUN).returncode == 0
    table = table_of(tmp_path)
    assert set(table["status"]) == {"succeeded"}
    assert round(table["cost_usd"]["damaged"], 6) == 0.2


def test_a_run_with_nothing_to_generate_decodes_what_no_table_lists(
    kontext: Kontext, provider: Provider, manifest: Manifest, tmp_path: Path
) -> None:
    manifest(rows("a fox", "an owl"))
    assert kontext(*RUN).returncode == 0
    posted = provider.posted
    path = tmp_path / "out" / table_of(tmp_path)["image_path"]["an owl"]
    path.write_bytes(DAMAGED + bytes(path.stat().st_size - len(DAMAGED)))
    # The table lists both pictures, so both were decoded: they are not decoded with each run.
    assert kontext(*RUN).returncode == 0
    shutil.rmtree(tmp_path / "out" / "metadata")
    done = kontext(*RUN)
    assert "Nothing to generate" in done.stdout
    assert done.returncode == 1, done.stderr
    assert "is damaged" in done.stderr
    assert table_of(tmp_path)["status"].to_dict() == {"a fox": "succeeded", "an owl": "unknown"}
    assert provider.posted == posted
