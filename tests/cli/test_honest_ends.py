"""How a run ends: with a status that says what was sent and why it ended, and never with a traceback."""

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from kontext_pipeline import exits
from kontext_pipeline.errors import SettingsError
from kontext_pipeline.exits import Exit
from tests.cli.conftest import KONTEXT, Done, Kontext
from tests.cli.provider import Provider
from tests.segmind.gateway import Reply

Manifest = Callable[..., Path]
RUN = ("run", "rows.csv", "--yes", "--batch-size", "2", "--concurrency", "2")


@pytest.fixture
def ten_rows(manifest: Manifest) -> None:
    manifest([{"prompt": f"number {n}"} for n in range(10)])


def said_why(done: Done) -> None:
    assert "Traceback" not in done.stdout + done.stderr
    assert "Nothing was sent" not in done.stderr


def at_the_fourth_post(provider: Provider, do: Callable[[], object]) -> None:
    def fault(_body: dict[str, object], _times: int) -> Reply | None:
        if provider.posted == 4:
            do()
        return None

    provider.fault = fault


@pytest.mark.usefixtures("ten_rows")
def test_a_ledger_that_vanishes_in_mid_run(kontext: Kontext, provider: Provider, tmp_path: Path) -> None:
    def vanish() -> None:
        for path in (tmp_path / "out").glob("ledger.db*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    at_the_fourth_post(provider, vanish)
    done = kontext(*RUN)
    assert done.returncode in (0, 3), "SQLite may go on in the file that has no name any more"
    said_why(done)


@pytest.mark.usefixtures("ten_rows")
def test_a_folder_of_tables_that_vanishes_in_mid_run(kontext: Kontext, provider: Provider, tmp_path: Path) -> None:
    metadata = tmp_path / "out" / "metadata"

    def become_a_file() -> None:
        shutil.rmtree(metadata, ignore_errors=True)
        metadata.write_text("not a folder")

    at_the_fourth_post(provider, become_a_file)
    done = kontext(*RUN)
    assert done.returncode == 3
    assert str(metadata) in done.stderr
    said_why(done)
    assert provider.posted == 10, "tables are no reason to send less"
    metadata.unlink()
    provider.fault = lambda _body, _times: None
    assert kontext(*RUN).returncode == 0
    assert provider.posted == 10


@pytest.mark.usefixtures("ten_rows")
def test_tables_that_meet_a_full_disk(
    kontext: Kontext, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for the tables alone, which a test can't do to a real disk."""
    with monkeypatch.context() as full:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        full.setattr("kontext_pipeline.batch_tables.write_batch", refuse)
        done = kontext(*RUN)
    assert done.returncode == 3
    assert "No space left on device. Make room" in done.stderr
    said_why(done)
    assert len(list((tmp_path / "out" / "images").glob("[0-9a-f][0-9a-f]/*"))) == 10
    assert kontext(*RUN).returncode == 0
    assert provider.posted == 10


@pytest.mark.parametrize(
    ("error", "posts", "status"),
    [
        (SettingsError("wrong"), 0, Exit.NOTHING_SENT),
        (SettingsError("wrong"), 1, Exit.STOPPED),
        (OSError(errno.ENOSPC, "full"), 0, Exit.STOPPED),
        (PermissionError(errno.EACCES, "no"), 0, Exit.NOTHING_SENT),
        (ZeroDivisionError("ours"), 0, Exit.NOTHING_SENT),
        (ZeroDivisionError("ours"), 7, Exit.STOPPED),
        (KeyboardInterrupt(), 0, Exit.STOPPED),
    ],
)
def test_the_status_follows_from_what_was_sent_and_why_it_ended(error: BaseException, posts: int, status: Exit) -> None:
    assert exits.of_error(error, posts=posts) == status
    assert all("\n" not in line for line in exits.lines_of(error))


@pytest.mark.usefixtures("ten_rows")
def test_a_data_directory_that_cannot_be_written_is_said_in_a_line(kontext: Kontext, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan").write_text("a file where the folder must be")
    done = kontext(*RUN)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "out" / "plan") in done.stderr


@pytest.mark.usefixtures("ten_rows")
@pytest.mark.parametrize("home", [pytest.param("relative/home", marks=pytest.mark.long), "file/home"])
def test_a_dagster_home_changes_no_status_and_is_tried_first(
    home: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    done = subprocess.run(
        [KONTEXT, "run", "rows.csv"],
        check=False,
        cwd=tmp_path,
        env={**environment, "DAGSTER_HOME": home},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, "nobody agreed to the cost"
    assert "Traceback" not in done.stderr
    warnings = re.findall(r"^.*DAGSTER_HOME.*$", done.stderr, re.MULTILINE)
    assert len(warnings) == (home == "file/home"), done.stderr
    assert ("is not reported to Dagster" in done.stderr) == (home == "file/home")
    assert "No dagster instance configuration" not in done.stderr
    assert (tmp_path / home / "dagster.yaml").exists() == (home == "relative/home")


@pytest.mark.long
def test_four_processes_share_a_new_dagster_home(
    environment: dict[str, str], manifest: Manifest, tmp_path: Path
) -> None:
    environment = {**environment, "DAGSTER_HOME": str(tmp_path / "home")}
    runs = []
    for number in range(4):
        environment = {**environment, "KONTEXT_DATASET": f"dataset{number}"}
        manifest([{"prompt": f"number {number}"}], f"rows{number}.csv")
        command = [KONTEXT, "run", f"rows{number}.csv", "--yes", "--data-dir", f"out{number}"]
        runs.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True))
    for run in runs:
        _, words = run.communicate(timeout=240)
        assert run.returncode == 0
        assert "DAGSTER_HOME" not in words
        assert "dagster" not in words


@pytest.mark.usefixtures("ten_rows")
def test_a_reader_of_the_output_that_ends_in_mid_run(
    environment: dict[str, str], provider: Provider, tmp_path: Path
) -> None:
    """As in `kontext run … | head`."""
    reading, writing = os.pipe()
    at_the_fourth_post(provider, lambda: os.close(reading))
    done = subprocess.run(
        [KONTEXT, *RUN], check=False, cwd=tmp_path, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert "Traceback" not in done.stderr
    assert provider.posted == 10
    assert len(list((tmp_path / "out" / "images").glob("[0-9a-f][0-9a-f]/*"))) == 10
    assert len(pd.read_parquet(tmp_path / "out" / "metadata")) == 10
    assert done.returncode == 0, done.stderr
