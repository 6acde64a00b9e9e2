"""What is written again, what isn't, and what a kill or a full disk leaves."""

import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from upath import UPath

from kontext_pipeline.dataset.exports.export_lock import LOCK, locked
from kontext_pipeline.dataset.exports.export_options import ExportError
from kontext_pipeline.dataset.exports.staging import STAGING
from tests.dataset.exports.made_datasets import MadeDataset, export, picture, tree

LAYOUTS = ["imagefolder", "parquet", "webdataset", "pairs"]
# Shards alone, and files alone; the others are like these.
TWO_OR_ALL = [
    *("parquet", "pairs"),
    *(pytest.param(layout, marks=pytest.mark.long) for layout in ("webdataset", "imagefolder")),
]


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return which file is at each path, and when it was written."""
    found = ((path, path.stat()) for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {path.relative_to(folder).as_posix(): (stat.st_ino, stat.st_mtime_ns) for path, stat in found}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_again_writes_nothing(dataset: MadeDataset, tmp_path: Path, layout: Any) -> None:
    dataset.add([{}, {}, {"input": None}])
    assert export(dataset, tmp_path / "out", layout, validation=0.3).changed
    before = stamps(tmp_path / "out")
    again = export(dataset, tmp_path / "out", layout, validation=0.3)
    assert not again.changed
    assert again.written == 0
    assert stamps(tmp_path / "out") == before


@pytest.mark.parametrize("layout", TWO_OR_ALL)
def test_an_export_of_a_grown_dataset_is_that_of_a_new_folder(
    dataset: MadeDataset, tmp_path: Path, layout: Any
) -> None:
    big = {"size": (400, 300)}
    rows = [{"image": picture(f"large {number}", "png", **big)} for number in range(12)]
    dataset.add(rows)
    # A megabyte a shard, so that there are several.
    options = {"max_shard_mb": 1} if layout in ("parquet", "webdataset") else {}
    export(dataset, tmp_path / "grown", layout, **options)
    before = stamps(tmp_path / "grown")
    dataset.add([{"image": picture(f"new {number}", "png", **big)} for number in range(3)])
    export(dataset, tmp_path / "grown", layout, **options)
    export(dataset, tmp_path / "new", layout, **options)
    assert tree(tmp_path / "grown") == tree(tmp_path / "new")
    kept = set(before.values()) & set(stamps(tmp_path / "grown").values())
    assert len(kept) >= (3 if options else 24)
    assert not list((tmp_path / "grown").rglob(".kontext-export/*"))


@pytest.mark.parametrize("layout", ["parquet", pytest.param("webdataset", marks=pytest.mark.long)])
def test_a_row_that_leaves_changes_the_shards_beside_it_alone(
    dataset: MadeDataset, tmp_path: Path, layout: Any
) -> None:
    rows = dataset.add([{"image": picture(f"large {number}", "png", (400, 300))} for number in range(40)])
    export(dataset, tmp_path / "out", layout, max_shard_mb=1)
    before = set(stamps(tmp_path / "out").values())
    count = len(list((tmp_path / "out/data").iterdir()))
    (dataset.data_dir / rows[2]["image_path"]).unlink()
    export(dataset, tmp_path / "out", layout, max_shard_mb=1)
    after = set(stamps(tmp_path / "out").values())
    assert count > 12
    # At most two shards, the record, the card and the Croissant file are new.
    assert len(after - before) <= 5


def test_the_record_names_every_file(dataset: MadeDataset, tmp_path: Path) -> None:
    dataset.add([{}, {}, {"input": None}])
    for layout in LAYOUTS:
        out = tmp_path / layout
        export(dataset, out, layout)  # type: ignore[arg-type]
        record = json.loads((out / "export.json").read_text())
        listed = {entry["path"]: (entry["bytes"], entry["sha256"]) for entry in record["files"]}
        found = {path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in tree(out).items()}
        found.pop("export.json")
        assert listed == found
        assert sum(record["samples"].values()) == 3


def test_files_that_are_no_longer_part_go_and_others_stay(dataset: MadeDataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    dataset.add([{}, {}])
    export(dataset, out, "pairs")
    (out / "notes.txt").write_text("mine")
    export(dataset, out, "parquet")
    assert set(tree(out)) == {
        *("README.md", "croissant.json", "export.json", "notes.txt"),
        "data/train-00000-of-00001.parquet",
    }
    assert not (out / "edited").exists()


def test_the_owners_lines_of_the_card_stay(dataset: MadeDataset, tmp_path: Path) -> None:
    dataset.add([{}])
    card = tmp_path / "out/README.md"
    export(dataset, tmp_path / "out", "parquet")
    text = card.read_text()
    assert "license: unknown" in text
    assert "not filled in" in text
    card.write_text(text.replace("license: unknown", "license: cc-by-4.0").replace("not filled in", "CC BY 4.0, by me"))
    dataset.add([{}])
    export(dataset, tmp_path / "out", "parquet")
    assert "license: cc-by-4.0" in card.read_text()
    assert "CC BY 4.0, by me" in card.read_text()
    assert "| `default` | `train` | 2 |" in card.read_text()


@pytest.mark.parametrize("path", ["../mine.txt", "{folder}/mine.txt", "data/../../mine.txt"])
def test_an_export_of_somebody_else_moves_and_removes_nothing_outside(
    dataset: MadeDataset, tmp_path: Path, path: str
) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine.txt"
    dataset.add([{}])
    export(dataset, out, "parquet")
    mine.write_text("mine")
    path = path.format(folder=tmp_path)
    record = (out / "export.json").read_text()
    entry = json.dumps({"path": path, "bytes": 4, "sha256": "0", "made_from": "0"})
    (out / "export.json").write_text(record.replace('"files": [\n', f'"files": [\n    {entry},\n'))
    with pytest.raises(ExportError, match="no path of a file in the export"):
        export(dataset, out, "parquet")
    (out / "export.json").write_text(record)
    journal = out / STAGING / "commit.jsonl"
    for item in (path, [path, "00aa", "data/taken.txt"], [None, "00aa", path]):
        journal.parent.mkdir(exist_ok=True)
        journal.write_text(f'"placing"\n{json.dumps(item)}\n')
        with pytest.raises(ExportError, match="no journal of an export"):
            export(dataset, out, "parquet")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("inside", ["", "images", "metadata/out", "inputs/aa", "resamples"])
def test_the_data_directorys_own_folders_are_refused(dataset: MadeDataset, inside: str) -> None:
    dataset.add([{}])
    before = tree(Path(dataset.data_dir.path))
    with pytest.raises(ExportError, match="belongs to the data directory"):
        export(dataset, Path(dataset.data_dir.path) / inside, "parquet")
    assert tree(Path(dataset.data_dir.path)) == before


def test_a_folder_in_the_data_directory_is_allowed(dataset: MadeDataset) -> None:
    dataset.add([{}])
    out = Path(dataset.data_dir.path) / "export"
    assert export(dataset, out, "imagefolder").changed
    assert not export(dataset, out, "imagefolder").changed


def test_a_folder_with_something_else_is_refused(dataset: MadeDataset, tmp_path: Path) -> None:
    dataset.add([{}])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    with pytest.raises(ExportError, match=r"no export \(thesis.tex\)"):
        export(dataset, tmp_path / "out", "parquet")
    (tmp_path / "out/export.json").write_text("{}")
    with pytest.raises(ExportError, match="no record of an export"):
        export(dataset, tmp_path / "out", "parquet")
    with pytest.raises(ExportError, match="is a file"):
        export(dataset, tmp_path / "out/thesis.tex", "parquet")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name != LOCK) == [
        "export.json",
        "thesis.tex",
    ]


def test_two_exports_at_once_are_refused(dataset: MadeDataset, tmp_path: Path) -> None:
    dataset.add([{}])
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / LOCK), pytest.raises(ExportError, match="Another export writes"):
        export(dataset, tmp_path / "out", "parquet")
    export(dataset, tmp_path / "out", "parquet")
    bucket = UPath("memory://bucket/out")
    with locked(bucket), pytest.raises(ExportError, match="Another export writes"):
        export(dataset, bucket, "parquet")
    export(dataset, bucket, "parquet")


def test_an_export_to_a_url_is_that_of_a_folder(dataset: MadeDataset, tmp_path: Path) -> None:
    dataset.add([{}, {}, {"input": None}])
    for layout in LAYOUTS:
        bucket = UPath(f"memory://bucket/{tmp_path.name}-{layout}")
        assert export(dataset, bucket, layout).changed  # type: ignore[arg-type]
        assert not export(dataset, bucket, layout).changed  # type: ignore[arg-type]
        export(dataset, tmp_path / layout, layout)  # type: ignore[arg-type]
        prefix = f"{bucket.path}/"
        found = {name.removeprefix(prefix): bucket.fs.cat_file(name) for name in bucket.fs.find(bucket.path)}
        assert found == tree(tmp_path / layout)


def run_and_kill(data_dir: str, out: str, layout: str, calls: int) -> None:
    """Export in this process, and kill it at the n-th change of the folder."""
    left = calls

    def count(name: str, _: tuple[Any, ...]) -> None:
        nonlocal left
        if name in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    dataset = MadeDataset(UPath(data_dir))
    sys.addaudithook(count)
    export(dataset, Path(out), layout, validation=0.3)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", TWO_OR_ALL)
def test_an_export_that_was_killed_goes_on_to_the_same_tree(dataset: MadeDataset, tmp_path: Path, layout: Any) -> None:
    """Killed again and again, at later and later changes of the folder, over an export of a smaller dataset."""
    dataset.add([{}, {}, {"input": None}])
    export(dataset, tmp_path / "out", layout, validation=0.3)
    dataset.add([{}, {}, {"input": None}])
    export(dataset, tmp_path / "whole", layout, validation=0.3)
    context = multiprocessing.get_context("fork")
    killed = 0
    for calls in (0, 1, 2, 4, 7, 11, 16, 22, 29, 37, 46, 200):
        process = context.Process(
            target=run_and_kill, args=(str(dataset.data_dir), str(tmp_path / "out"), layout, calls)
        )
        process.start()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed >= 3
    assert process.exitcode == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def limited(data_dir: str, out: str, most_bytes: int) -> None:
    """Export in this process, in which no file may be larger."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        export(MadeDataset(UPath(data_dir)), Path(out), "parquet")
    except ExportError as error:
        os._exit(3 if "An earlier export there is as it was" in str(error) else 4)
    os._exit(0)


def test_a_full_disk_leaves_the_old_export_whole(dataset: MadeDataset, tmp_path: Path) -> None:
    dataset.add([{}])
    export(dataset, tmp_path / "out", "parquet")
    before = tree(tmp_path / "out")
    dataset.add([{"image": picture("large", "png", (400, 300))}])
    context = multiprocessing.get_context("fork")
    process = context.Process(target=limited, args=(str(dataset.data_dir), str(tmp_path / "out"), 200_000))
    process.start()
    process.join()
    assert process.exitcode == 3
    left = {path: data for path, data in tree(tmp_path / "out").items() if not path.startswith(".kontext-export/")}
    assert left == before
    assert export(dataset, tmp_path / "out", "parquet").samples == 2


class Interrupted(Exception):
    """Stands for the end of a process, which the file system in this process's memory would not outlive."""


@pytest.mark.parametrize("layout", TWO_OR_ALL)
def test_an_export_to_an_object_store_goes_on_too(
    dataset: MadeDataset, tmp_path: Path, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at each request that changes the store, over an export of a smaller dataset."""
    from fsspec.implementations.memory import MemoryFileSystem

    dataset.add([{}, {}, {"input": None}])
    bucket = UPath(f"memory://bucket/killed-{tmp_path.name}-{layout}")
    export(dataset, bucket, layout, validation=0.3)
    dataset.add([{}, {}, {"input": None}])
    whole = UPath(f"memory://bucket/whole-{tmp_path.name}-{layout}")
    export(dataset, whole, layout, validation=0.3)
    left = 0

    def counted(name: str) -> Any:
        real = getattr(MemoryFileSystem, name)

        def call(self: MemoryFileSystem, *arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Interrupted
            return real(self, *arguments, **options)

        return call

    interrupted = 0
    for calls in (*range(0, 60, 3), 10_000):
        left = calls
        with monkeypatch.context() as patched:
            for name in ("put_file", "mv", "rm_file", "rm"):
                patched.setattr(MemoryFileSystem, name, counted(name))
            try:
                export(dataset, bucket, layout, validation=0.3)
            except Interrupted:
                interrupted += 1
        # The lease of the dead process.
        bucket.fs.pipe_file(f"{bucket.path}/{LOCK}", b"{}")
        bucket.fs.rm_file(f"{bucket.path}/{LOCK}")
    assert interrupted >= 3
    assert store_of(bucket) == store_of(whole)


def store_of(folder: UPath) -> dict[str, bytes]:
    """Return all files of a folder of an object store, by their paths."""
    prefix = f"{folder.path}/"
    return {name.removeprefix(prefix): folder.fs.cat_file(name) for name in folder.fs.find(folder.path)}


def test_staged_files_of_a_dead_export_are_not_written_again(dataset: MadeDataset, tmp_path: Path) -> None:
    """Killed after it had staged all pictures of a folder of pairs, before any took its place."""
    dataset.add([{}, {}, {}])
    context = multiprocessing.get_context("fork")
    process = context.Process(target=run_until_commit, args=(str(dataset.data_dir), str(tmp_path / "out")))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    staged = stamps(tmp_path / "out/.kontext-export/staged")
    assert len(staged) >= 9
    made = export(dataset, tmp_path / "out", "pairs")
    # Six pictures and three captions were there.
    assert made.written == made.files - len(staged)
    assert set(staged.values()) <= set(stamps(tmp_path / "out").values())


def run_until_commit(data_dir: str, out: str) -> None:
    """Export in this process, and kill it when it writes the list of pairs."""

    def stop(name: str, arguments: tuple[Any, ...]) -> None:
        staged = Path(out, ".kontext-export/staged.jsonl")
        if name == "open" and str(arguments[0]).endswith("writing") and staged.read_text().count("\n") >= 9:
            os.kill(os.getpid(), signal.SIGKILL)

    dataset = MadeDataset(UPath(data_dir))
    Path(out, ".kontext-export").mkdir(parents=True)
    Path(out, ".kontext-export/staged.jsonl").touch()
    sys.addaudithook(stop)
    export(dataset, Path(out), "pairs")
