"""The index: written seldom, merged by several processes at once, on a disk and on object storage."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from upath import UPath

from kontext_pipeline.inputs.input_address import InputAddress
from kontext_pipeline.inputs.input_index import LEAST_MERGED, IndexEntry, InputIndex
from kontext_pipeline.inputs.input_store import InputStore, KeptInput, kept_path
from tests.inputs.collecting import collector, picture
from tests.s3 import s3_server

PROCESSES = 4
SHARED, OWN = 8, 5
_context = multiprocessing.get_context("forkserver")


def entry(number: int, *, second: int = 0, problem: str | None = None) -> IndexEntry:
    sha256 = f"{number:064x}"
    kept = None if problem else KeptInput(sha256, kept_path(sha256, "JPEG"), "JPEG", 1000, 640, 480)
    at = datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)
    return IndexEntry(f"https://pictures.example/{number}", kept, at, etag=f'"{number}"', problem=problem)


def test_what_was_added_is_found_again(tmp_path: Path) -> None:
    index = InputIndex(tmp_path)
    assert index.find("https://pictures.example/1") is None
    for number in range(3):
        index.add(entry(number))
    assert not (tmp_path / "inputs.parquet").exists()
    for one in (index, InputIndex(tmp_path)):
        index.merge()
        assert one.find("https://pictures.example/1") == entry(1)
        found = one.find_content(f"{2:064x}")
        assert found == entry(2).kept
        assert one.find("https://pictures.example/9") is None


def test_the_file_is_not_written_for_every_picture(tmp_path: Path) -> None:
    index, path = InputIndex(tmp_path), tmp_path / "inputs.parquet"
    versions = set()
    for number in range(3 * LEAST_MERGED):
        index.add(entry(number))
        if path.exists():
            versions.add(pq.read_metadata(path).num_rows)
    assert versions == {LEAST_MERGED, 2 * LEAST_MERGED, 3 * LEAST_MERGED}
    assert pq.read_table(tmp_path / "inputs.parquet").num_rows == 3 * LEAST_MERGED


def test_the_latest_look_counts(tmp_path: Path) -> None:
    first, second = InputIndex(tmp_path), InputIndex(tmp_path)
    first.add(entry(1, second=1, problem="gone"))
    first.merge()
    assert InputIndex(tmp_path).find("https://pictures.example/1") is None
    second.add(entry(1, second=2))
    second.merge()
    assert pq.read_table(tmp_path / "inputs.parquet")["problem"].to_pylist() == [None]
    first.add(entry(1, second=3, problem="gone again"))
    first.merge()
    assert pq.read_table(tmp_path / "inputs.parquet")["problem"].to_pylist() == [None, "gone again"]
    assert InputIndex(tmp_path).find("https://pictures.example/1") == entry(1, second=2)


def test_an_index_that_cannot_be_read_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "inputs.parquet").write_bytes(b"no parquet")
    index = InputIndex(tmp_path)
    index.add(entry(1))
    index.merge()
    assert "is made again" in caplog.text
    assert InputIndex(tmp_path).find("https://pictures.example/1") == entry(1)


def sources(folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(SHARED + PROCESSES * OWN)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(size=(10 + number, 10)))
    return paths


def keep(data_dir: Path, paths: list[Path]) -> None:
    with collector(data_dir) as inputs:
        for path in paths:
            inputs.get(InputAddress(str(path)))
            # Many merges at the same time, which is what is tested.
            inputs.keeper._index.merge()


def test_four_processes_keep_the_same_pictures_at_once(tmp_path: Path) -> None:
    paths = sources(tmp_path / "photos")
    shared, own = paths[:SHARED], paths[SHARED:]
    runs = [
        _context.Process(target=keep, args=(tmp_path / "data", shared + own[number::PROCESSES]))
        for number in range(PROCESSES)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
        assert run.exitcode == 0
    rows = pq.read_table(tmp_path / "data" / "inputs.parquet").to_pylist()
    assert sorted(row["uri"] for row in rows) == sorted(map(str, paths)), "no row was lost, and none is there twice"
    files = sorted(path.name for path in (tmp_path / "data").glob("inputs/??/*"))
    assert files == sorted(f"{row['sha256']}.png" for row in rows)
    assert list((tmp_path / "data" / "inputs" / ".incoming").iterdir()) == []


def test_a_process_that_is_killed_while_it_keeps_leaves_whole_pictures(tmp_path: Path) -> None:
    paths = sources(tmp_path / "photos")
    run = _context.Process(target=keep, args=(tmp_path / "data", paths))
    run.start()
    deadline = time.monotonic() + 30
    while len(list((tmp_path / "data").glob("inputs/??/*"))) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert run.pid is not None
    os.kill(run.pid, signal.SIGKILL)
    run.join(30)
    store = InputStore(tmp_path / "data")
    for path in (tmp_path / "data").glob("inputs/??/*"):
        assert store.keep(path.read_bytes()).sha256 == path.stem
    keep(tmp_path / "data", paths)
    assert pq.read_table(tmp_path / "data" / "inputs.parquet").num_rows == len(paths)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[UPath]:
    with s3_server(monkeypatch):
        UPath("s3://bucket").mkdir()
        yield UPath("s3://bucket")


def test_everything_lies_on_object_storage(bucket: UPath) -> None:
    (bucket / "photos/a.png").write_bytes(picture())
    data_dir, address = bucket / "out", InputAddress("s3://bucket/photos/a.png")
    with collector(data_dir) as inputs:
        found = inputs.get(address)
        with pytest.raises(Exception, match="no file is there"):
            inputs.get(InputAddress("s3://bucket/photos/b.png"))
    assert found.upload
    assert (data_dir / found.kept.path).read_bytes() == picture()
    index = InputIndex(data_dir).find(address.uri)
    assert index is not None
    assert index.etag
    # Unchanged: not read again. Deleted: the kept one is used.
    with collector(data_dir) as inputs:
        assert inputs.get(address) == found
        assert inputs.keeper.store.read(found.kept) == picture()
    (bucket / "photos/a.png").unlink()
    with collector(data_dir) as inputs:
        assert inputs.get(address).dead
