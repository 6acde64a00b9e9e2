"""`kontext lock` and `kontext verify`: the lock is deterministic, and every difference is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from tests.cli.conftest import Done, Kontext
from tests.cli.provider import Provider

Manifest = Callable[..., Path]
RUN = ("run", "rows.csv", "--yes", "--batch-size", "3")


@pytest.fixture
def locked(kontext: Kontext, manifest: Manifest, tmp_path: Path) -> Path:
    """A dataset of five rows, two of them with input pictures, and its lock. Returns the data directory."""
    for number in range(2):
        Image.effect_mandelbrot((300, 300), (-2, -1.5, 1, 1.5), 20 + number).save(tmp_path / f"{number}.png")
    manifest([{"id": f"r{n}", "prompt": f"number {n}", "input_image": f"{n}.png" if n < 2 else ""} for n in range(5)])
    assert kontext(*RUN).returncode == 0
    done = kontext("lock")
    assert done.returncode == 0, done.stderr
    assert "5 rows locked" in done.stdout
    return tmp_path / "out"


def rows_of(folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((folder / "kontext.lock.json").read_text())["rows"]
    return rows


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def differences(done: Done) -> list[str]:
    """Return the differences that a command has listed, without its two last lines."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == f"{len(lines) - 2} difference{'' if len(lines) == 3 else 's'}."
    return lines[:-2]


def test_a_lock_has_every_row_sorted_and_is_the_same_again(locked: Path, kontext: Kontext) -> None:
    path = locked / "kontext.lock.json"
    first = path.read_bytes()
    rows = rows_of(locked)
    table = pd.read_parquet(locked / "metadata").set_index("fingerprint")
    assert [row["fingerprint"] for row in rows] == sorted(table.index)
    for row in rows:
        of_table = table.loc[str(row["fingerprint"])]
        assert row["seed"] == of_table["seed"]
        assert row["model"] == "flux-kontext-max"
        assert row["output_sha256"] == of_table["image_sha256"]
        kept = of_table["input_kept_sha256"]
        assert row["input_sha256"] == (None if pd.isna(kept) else kept)
        assert row["date"] == of_table["finished_at"].strftime("%Y-%m-%dT%H:%M:%SZ")
    assert sum(row["input_sha256"] is not None for row in rows) == 2
    assert sum(line.startswith(b'{"fingerprint"') for line in first.splitlines()) == 5
    [of_manifest] = json.loads(first)["manifests"]
    assert (of_manifest["name"], len(of_manifest["digest"]), of_manifest["backend"]) == ("rows", 64, "segmind")
    assert kontext("lock").returncode == 0
    assert kontext(*RUN).returncode == 0
    assert kontext("lock").returncode == 0
    assert path.read_bytes() == first


def test_nothing_differs_from_a_new_lock_and_nothing_is_sent(
    locked: Path, kontext: Kontext, provider: Provider
) -> None:
    (locked / "images" / "ab").mkdir(exist_ok=True)
    (locked / "images" / "ab" / "stray.png").write_bytes(b"of no row, and locked all the same")
    kontext("lock")
    posted = len(provider.gateway.requests)
    done = kontext("verify", SEGMIND_API_KEY="")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Nothing differs from the lock.")
    assert "5 of 5 rows are as in the lock; 5 of 5 pictures" in done.stdout
    assert len(provider.gateway.requests) == posted


def test_one_flipped_byte_is_found(locked: Path, kontext: Kontext) -> None:
    path = sorted((locked / "images").glob("[0-9a-f][0-9a-f]/*"))[2]
    flip(path)
    [line] = differences(kontext("verify"))
    assert line.startswith(f"picture changed: {path.relative_to(locked)}: its sha256 is ")


def test_files_that_are_missing_changed_or_extra_are_named(locked: Path, kontext: Kontext) -> None:
    pictures = sorted((locked / "images").glob("[0-9a-f][0-9a-f]/*"))
    kept = sorted((locked / "inputs").glob("[0-9a-f][0-9a-f]/*"))
    pictures[0].unlink()
    kept[0].unlink()
    flip(kept[1])
    (locked / "images" / "extra.png").write_bytes(b"")
    (locked / "inputs" / "00").mkdir(exist_ok=True)
    (locked / "inputs" / "00" / "extra.jpg").write_bytes(b"")
    found = [line.partition(": its")[0] for line in differences(kontext("verify"))]
    assert sorted(found) == sorted(
        [
            "picture extra: images/extra.png",
            f"picture missing: {pictures[0].relative_to(locked)}",
            "input picture extra: inputs/00/extra.jpg",
            f"input picture missing: {kept[0].relative_to(locked)}",
            f"input picture changed: {kept[1].relative_to(locked)}",
        ]
    )


def test_rows_that_are_added_or_gone_and_an_edited_manifest_are_named(
    locked: Path, kontext: Kontext, manifest: Manifest
) -> None:
    row = next(row for row in rows_of(locked) if row["id"] == "r4")
    manifest([{"id": f"r{n}", "prompt": f"number {n}", "input_image": f"{n}.png" if n < 2 else ""} for n in range(4)])
    with (locked.parent / "rows.csv").open("a") as file:
        file.write("new,one more,\n")
    assert kontext(*RUN).returncode == 0
    found = differences(kontext("verify"))
    assert any(line.startswith("manifest changed: rows: digest is ") for line in found)
    assert f"row gone: rows id r4 ({str(row['fingerprint'])[:12]})" in found
    assert sum(line.startswith("row added: rows id new (") for line in found) == 1
    assert len(found) == 3, "the picture of the new row is there and whole"


def test_a_table_that_says_something_else_is_named(locked: Path, kontext: Kontext) -> None:
    path = sorted((locked / "metadata").rglob("*.parquet"))[0]
    table = pq.ParquetFile(path).read()
    changed = pa.array(["0" * 64, *table["image_sha256"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.column_names.index("image_sha256"), "image_sha256", changed), path)
    [line] = differences(kontext("verify"))
    assert line.startswith("row changed: rows id r0 (")
    assert f"output_sha256 is {'0' * 64}, and " in line

    path.write_bytes(b"no Parquet")
    found = differences(kontext("verify"))
    assert any(line.startswith("table can't be read: ") for line in found)
    path.unlink()
    assert "table missing: batch rows-00000" in differences(kontext("verify"))
    assert kontext("lock").returncode == 2
    assert kontext(*RUN).returncode == 0, "the next run writes the table"
    assert kontext("verify").returncode == 0


def test_a_copy_without_plan_and_ledger_can_be_verified(locked: Path, kontext: Kontext, tmp_path: Path) -> None:
    for name in ("images", "inputs", "metadata"):
        shutil.copytree(locked / name, tmp_path / "copy" / name)
    shutil.copy(locked / "kontext.lock.json", tmp_path / "copy")
    assert kontext("verify", "--data-dir", "copy").returncode == 0
    assert not (tmp_path / "copy" / "ledger.db").exists()


def test_a_remote_data_directory_can_be_verified(locked: Path, kontext: Kontext) -> None:
    remote = UPath("memory://locked/out")
    for path in locked.rglob("*"):
        if path.is_file() and path.parts[-2] != ".incoming":
            (remote / path.relative_to(locked).as_posix()).write_bytes(path.read_bytes())
    assert kontext("verify", "--data-dir", str(remote)).returncode == 0
    before = (remote / "kontext.lock.json").read_bytes()
    assert kontext("lock", "--data-dir", str(remote)).returncode == 0
    assert (remote / "kontext.lock.json").read_bytes() == before
    victim = sorted((locked / "images").glob("[0-9a-f][0-9a-f]/*"))[0].relative_to(locked).as_posix()
    (remote / victim).write_bytes(b"changed")
    [line] = differences(kontext("verify", "--data-dir", str(remote)))
    assert line.startswith(f"picture changed: {victim}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "kontext.lock.json"),
        (lambda text: text.rpartition('"others"')[0], "ends too early"),
        (lambda text: text.replace('"lock_version": 1', '"lock_version": 2'), "version 1 is expected"),
        (lambda text: text.replace('"image_path":"images/', '"image_path":"../images/', 1), "is no file of images/"),
        (lambda text: json.dumps(json.loads(text), indent=1), "line 2"),
    ],
)
def test_a_lock_that_is_missing_or_damaged_is_refused(
    locked: Path, kontext: Kontext, change: Callable[[str], str], words: str
) -> None:
    path = locked / "kontext.lock.json"
    path.write_text(change(path.read_text()))
    done = kontext("verify")
    assert done.returncode == 2
    assert words in done.stderr
    path.unlink()
    done = kontext("verify")
    assert (done.returncode, "there is no lock" in done.stderr) == (2, True)
