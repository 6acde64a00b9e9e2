"""One ledger has one data directory: strangers are refused before anything is sent, and what moved together works."""

import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from upath import UPath

from kontext_pipeline.data_directory import StrangersError, bind
from kontext_pipeline.generation.ledger import DatasetLink, Ledger
from tests.cli.conftest import Kontext
from tests.cli.provider import Provider

Manifest = Callable[..., Path]
RUN = ("run", "rows.csv", "--yes")


@pytest.fixture
def three_rows(manifest: Manifest) -> None:
    manifest([{"prompt": f"number {n}"} for n in range(3)])


@pytest.mark.usefixtures("three_rows")
def test_one_ledger_takes_no_second_data_directory(kontext: Kontext, provider: Provider, tmp_path: Path) -> None:
    ledger = {"KONTEXT_LEDGER_URL": f"sqlite:///{tmp_path / 'one.db'}"}
    assert kontext(*RUN, **ledger).returncode == 0
    second = kontext(*RUN, "--data-dir", "other", **ledger)
    assert second.returncode == 2
    assert "belongs to another data directory" in second.stderr
    assert "Nothing was sent" in second.stderr
    assert provider.posted == 3
    # The documented step for a directory that has lost its file.
    (known,) = (tmp_path / "out" / "dataset.id").read_text().splitlines()[:1]
    (tmp_path / "out" / "dataset.id").unlink()
    refused = kontext(*RUN, **ledger)
    assert (refused.returncode, known in refused.stderr) == (2, True)
    (tmp_path / "out" / "dataset.id").write_text(f"{known}\n")
    assert kontext(*RUN, **ledger).returncode == 0
    assert provider.posted == 3


@pytest.mark.usefixtures("three_rows")
def test_one_data_directory_takes_no_second_ledger(kontext: Kontext, provider: Provider, tmp_path: Path) -> None:
    ledger = {"KONTEXT_LEDGER_URL": f"sqlite:///{tmp_path / 'one.db'}"}
    assert kontext(*RUN, **ledger).returncode == 0
    for stranger in ({}, {"KONTEXT_LEDGER_URL": f"sqlite:///{tmp_path / 'two.db'}"}):
        done = kontext(*RUN, **stranger)
        assert done.returncode == 2
        assert f"belongs to the ledger {tmp_path / 'one.db'}" in done.stderr
    assert kontext(*RUN, "--data-dir", "own", KONTEXT_LEDGER_URL=f"sqlite:///{tmp_path / 'three.db'}").returncode == 0
    swapped = kontext(*RUN, "--data-dir", "own", **ledger)
    assert swapped.returncode == 2
    assert "don't belong together" in swapped.stderr
    assert provider.posted == 6


@pytest.mark.usefixtures("three_rows")
def test_what_moves_together_or_loses_its_ledger_costs_nothing(
    kontext: Kontext, provider: Provider, tmp_path: Path
) -> None:
    assert kontext(*RUN).returncode == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    assert kontext(*RUN, "--data-dir", "moved").returncode == 0
    shutil.copytree(tmp_path / "moved", tmp_path / "copied")
    (tmp_path / "copied" / "dataset.id").unlink()
    assert kontext(*RUN, "--data-dir", "copied").returncode == 0, "its ledger is inside"
    for path in (tmp_path / "copied").glob("ledger.db*"):
        if path.is_file():
            path.unlink()
    assert kontext(*RUN, "--data-dir", "copied").returncode == 0, "a lost ledger: the pictures are found"
    assert provider.posted == 3


@pytest.mark.usefixtures("three_rows")
def test_a_ledger_and_a_directory_of_the_version_before_get_their_id(
    kontext: Kontext, provider: Provider, tmp_path: Path
) -> None:
    assert kontext(*RUN).returncode == 0
    (tmp_path / "out" / "dataset.id").unlink()
    with closing(sqlite3.connect(tmp_path / "out" / "ledger.db")) as ledger:
        ledger.executescript(
            "DROP TABLE alerts; DROP TABLE balances; DROP TABLE ledger_facts; "
            "ALTER TABLE generations DROP COLUMN revision; "
            "ALTER TABLE generations DROP COLUMN reopened_after; "
            "DROP TABLE inputs; DROP TABLE uploads; ALTER TABLE attempts DROP COLUMN input_sha256; "
            "UPDATE alembic_version SET version_num = '0002'"
        )
    assert kontext(*RUN).returncode == 0
    assert provider.posted == 3
    assert len((tmp_path / "out" / "dataset.id").read_text().splitlines()[0]) == 32


def test_of_two_new_ledgers_at_once_one_gets_the_directory(tmp_path: Path) -> None:
    ledgers = [Ledger(f"sqlite:///{tmp_path / name}.db", backend="sandbox") for name in "abcd"]

    def outcome(ledger: Ledger) -> bool:
        try:
            bind(UPath(tmp_path / "data"), ledger)
        except StrangersError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(outcome, ledgers))
    assert sum(outcomes) == 1
    (winner,) = [ledger for ledger, bound in zip(ledgers, outcomes, strict=True) if bound]
    assert DatasetLink(winner.database).dataset_id() == (tmp_path / "data" / "dataset.id").read_text().splitlines()[0]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["dataset.id"]
    for ledger in ledgers:
        ledger.close()


def test_a_remote_directory_has_an_id_too(tmp_path: Path) -> None:
    ledgers = [Ledger(f"sqlite:///{tmp_path / name}.db", backend="sandbox") for name in "ab"]
    remote = UPath(f"memory://{tmp_path.name}/data")
    bind(remote, ledgers[0])
    bind(remote, ledgers[0])
    with pytest.raises(StrangersError, match="belongs to the ledger"):
        bind(remote, ledgers[1])
    for ledger in ledgers:
        ledger.close()


def test_several_machines_share_a_ledger_on_a_server_and_a_directory(tmp_path: Path, postgres: str) -> None:
    ledgers = [Ledger(postgres, backend=backend) for backend in ("sandbox", "segmind", "segmind")]
    for ledger in ledgers:
        bind(UPath(tmp_path / "data"), ledger)
    place = (tmp_path / "data" / "dataset.id").read_text().splitlines()[1]
    assert place.startswith("postgresql+psycopg2://")
    assert "@" not in place, "neither user nor password"
    # The same directory, as another machine has mounted it.
    (tmp_path / "data").rename(tmp_path / "mounted")
    bind(UPath(tmp_path / "mounted"), ledgers[2])
    with pytest.raises(StrangersError, match="belongs to another data directory"):
        bind(UPath(tmp_path / "second"), ledgers[0])
    for ledger in ledgers:
        ledger.close()
