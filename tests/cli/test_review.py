"""`kontext review`: the served page's address, the offline file, and what is refused."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from upath import UPath

from kontext_pipeline.cli import main
from tests.dataset.exports.made_datasets import MadeDataset


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = MadeDataset(UPath(tmp_path / "data"))
    made.add([{}, {}])
    return tmp_path / "data"


def test_the_address_that_is_printed_shows_the_page(data_dir: Path) -> None:
    command = [sys.executable, "-m", "kontext_pipeline.cli", "review", "--data-dir", str(data_dir), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "40"}
    more = ["--batch", "demo-00000", "--reviewer", "ann"]
    with subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        url = next(line.strip() for line in process.stdout if line.startswith("http://127.0.0.1:"))
        assert url.endswith("&batch=demo-00000")
        session = requests.Session()
        assert "<title>Review</title>" in session.get(url).text
        summary = session.get(re.sub(r"/\?.*", "/api/summary", url)).json()
        assert (summary["reviewer"], summary["figures"]["rows"]) == ("ann", 2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_offline_file_says_what_it_holds(data_dir: Path) -> None:
    done = CliRunner().invoke(main, ["review", "--data-dir", str(data_dir), "--out", "page.html"])
    assert done.exit_code == 0, done.output
    assert "page.html holds 2 of 2 rows" in done.output
    assert Path("page.html").read_text().startswith("<!doctype html>")


def test_where_there_is_nothing_to_review_it_says_what_to_do(data_dir: Path) -> None:
    for options, words in (
        (["--data-dir", "nowhere"], "has no rows to review"),
        (["--data-dir", str(data_dir), "--batch", "demo-7"], "demo-00000"),
    ):
        done = CliRunner().invoke(main, ["review", *options, "--out", "page.html"])
        assert done.exit_code == 2
        assert words in done.output
    assert not Path("page.html").exists()


def test_a_broken_review_is_named(data_dir: Path) -> None:
    (data_dir / "review.csv").write_text("fingerprint,decision\nx,y\n")
    done = CliRunner().invoke(main, ["review", "--data-dir", str(data_dir), "--out", "page.html"])
    assert done.exit_code == 2
    assert "review.csv, line 1" in done.output
