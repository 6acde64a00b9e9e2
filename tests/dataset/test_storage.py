"""The metadata folder: what is written, and that the readers people use all read it."""

import resource
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from upath import UPath

from kontext_pipeline.columns import TABLE_SCHEMA
from kontext_pipeline.dataset.metadata import metadata_table
from kontext_pipeline.dataset.own_columns import own_schema
from kontext_pipeline.dataset.storage import (
    DatasetError,
    batch_path,
    is_current,
    read_batch,
    write_batch,
    written_batches,
)
from tests.dataset.tables import generations, plan

KEYS = ["2026-01-00002", "demo-00000", "demo-00001", "00-00007"]
DIGEST = "d" * 64


def table_of(key: str, names: str = "ab") -> pa.Table:
    batch = plan(names, batch=key, manifest=key.rsplit("-", 1)[0], label=pa.array(["cat"] * len(names)))
    return metadata_table(batch, generations({"fingerprint": "a"}), backend="sandbox")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a data directory of four batches, one of them without a row."""
    for key in KEYS:
        write_batch(table_of(key, "" if key == "demo-00001" else "ab"), tmp_path, key, made_from=DIGEST)
    return tmp_path


EXPECTED = [(key, status) for key in sorted(KEYS) if key != "demo-00001" for status in ("pending", "succeeded")]


def test_what_is_written_is_read_back(root: Path) -> None:
    assert written_batches(root) == sorted(KEYS)
    for key in KEYS:
        assert read_batch(root, key).equals(table_of(key, "" if key == "demo-00001" else "ab"))


def test_pandas_reads_the_folder(root: Path) -> None:
    frame = pd.read_parquet(root / "metadata")
    assert sorted(zip(frame["batch"].astype(object), frame["status"], strict=True)) == EXPECTED
    assert all(type(key) is str for key in frame["batch"])
    assert str(frame["started_at"].dtype) == "datetime64[us, UTC]"
    assert set(TABLE_SCHEMA.names) | {"label"} == set(frame.columns)


def test_duckdb_reads_the_folder(root: Path) -> None:
    for options in ("", ", hive_partitioning=true"):
        folder = f"read_parquet('{root}/metadata/**/*.parquet'{options})"
        types = {row[0]: row[1] for row in duckdb.execute(f"describe from {folder}").fetchall()}
        assert types["batch"] == "VARCHAR"
        assert types["started_at"] == "TIMESTAMP WITH TIME ZONE"
        assert sorted(duckdb.execute(f"select batch, status from {folder}").fetchall()) == EXPECTED


def test_duckdb_opens_no_other_batch_than_asked_for(root: Path) -> None:
    batch_path(root, "demo-00000").write_bytes(b"broken")
    folder = f"'{root}/metadata/*/*.parquet'"
    counted = duckdb.execute(f"select count(*) from {folder} where batch = '2026-01-00002'").fetchall()
    assert counted == [(2,)]


def test_polars_reads_the_folder(root: Path) -> None:
    for frame in (pl.read_parquet(root / "metadata"), pl.scan_parquet(root / "metadata").collect()):
        assert frame.schema["batch"] == pl.String
        assert frame.schema["finished_at"] == pl.Datetime("us", "UTC")
        assert sorted(frame.select("batch", "status").rows()) == EXPECTED


def test_pyarrow_reads_the_folder(root: Path) -> None:
    for table in (
        ds.dataset(root / "metadata", partitioning="hive").to_table(),
        pq.read_table(root / "metadata"),
    ):
        pairs = zip(table["batch"].to_pylist(), table["status"].to_pylist(), strict=True)
        assert sorted(pairs) == EXPECTED


def test_a_reader_without_hive_folders_reads_the_files(root: Path) -> None:
    # As Hugging Face `datasets` does: a list of files, one schema.
    files = sorted(str(path) for path in (root / "metadata").rglob("*.parquet"))
    table = ds.dataset(files, format="parquet").to_table()
    assert set(table.column_names) == (set(TABLE_SCHEMA.names) | {"label"}) - {"batch"}
    assert table.num_rows == 6
    # It sizes its batches by a file's first row group, so there may be none without rows.
    for file in files:
        footer = pq.read_metadata(file)
        assert all(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
    assert len({pq.read_schema(file).to_string(show_schema_metadata=False) for file in files}) == 1


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    table = table_of("demo-00000")
    path = write_batch(table, tmp_path, "demo-00000", made_from=DIGEST)
    first = path.read_bytes()
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    write_batch(chunked, tmp_path, "demo-00000", made_from=DIGEST)
    assert path.read_bytes() == first


def test_nothing_but_the_files_is_left(root: Path) -> None:
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert files == sorted(f"metadata/batch={key}/part-0.parquet" for key in KEYS)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(root: Path) -> None:
    path = batch_path(root, "demo-00000")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_batch(table_of("demo-00000"), root, "demo-00000", made_from="new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    test_nothing_but_the_files_is_left(root)


def test_a_rename_that_fails_leaves_nothing_aside(tmp_path: Path) -> None:
    batch_path(tmp_path, "demo-00000").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_batch(table_of("demo-00000"), tmp_path, "demo-00000", made_from=DIGEST)
    assert [path.name for path in tmp_path.iterdir()] == ["metadata"]


def test_a_batch_is_current_when_whole_and_made_from_the_same(tmp_path: Path) -> None:
    key = "demo-00000"
    assert not is_current(tmp_path, key, DIGEST)
    write_batch(table_of(key, "a"), tmp_path, key, made_from=DIGEST)
    assert is_current(tmp_path, key, DIGEST)
    assert not is_current(tmp_path, key, "e" * 64)
    path = batch_path(tmp_path, key)
    path.write_bytes(path.read_bytes()[:-10])
    assert not is_current(tmp_path, key, DIGEST)


def test_a_broken_or_absent_batch_says_what_to_do(root: Path) -> None:
    batch_path(root, "demo-00000").write_bytes(b"PAR1 not really")
    with pytest.raises(DatasetError, match=r"part-0\.parquet can't be read.*Delete it"):
        read_batch(root, "demo-00000")
    with pytest.raises(DatasetError, match=r"Batch demo-00009 has no metadata yet.*Run the batch first"):
        read_batch(root, "demo-00009")


@pytest.mark.parametrize("key", ["", "../up", "a/b", "a=b", "a b", "ä-1", ".hidden", "a%2Fb"])
def test_a_key_that_folders_cannot_carry_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(DatasetError, match="can't name a folder"):
        write_batch(table_of("x-1"), tmp_path, key, made_from=DIGEST)


def test_a_table_of_another_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other batches"):
        write_batch(table_of("demo-00000"), tmp_path, "demo-00001", made_from=DIGEST)


def test_an_empty_data_directory_is_an_empty_dataset(tmp_path: Path) -> None:
    assert written_batches(tmp_path) == []


def test_batches_of_manifests_with_other_own_columns_read_as_one(tmp_path: Path) -> None:
    plans = {
        "a-00000": plan(["a"], batch="a-00000", label=pa.array(["cat"])),
        "b-00000": plan(["a"], batch="b-00000", label=pa.array([7]), x=pa.array([[1]])),
    }
    own = own_schema(batch.schema for batch in plans.values())
    for key, batch in plans.items():
        table = metadata_table(batch, generations(), backend="sandbox", own=own)
        write_batch(table, tmp_path, key, made_from=DIGEST)
    table = pa.concat_tables(read_batch(tmp_path, key) for key in plans)
    assert table["label"].to_pylist() == ["cat", "7"]
    assert table["x"].to_pylist() == [None, [1]]


def test_a_remote_data_directory_works_the_same() -> None:
    root = UPath("memory://dataset-storage")
    write_batch(table_of("demo-00000", "a"), root, "demo-00000", made_from=DIGEST)
    assert written_batches(root) == ["demo-00000"]
    assert is_current(root, "demo-00000", DIGEST)
    assert read_batch(root, "demo-00000").equals(table_of("demo-00000", "a"))


def test_a_file_url_is_written_atomically_too(tmp_path: Path) -> None:
    root = UPath(f"file://{tmp_path}")
    path = write_batch(table_of("demo-00000", "a"), root, "demo-00000", made_from=DIGEST)
    assert path.read_bytes() == (tmp_path / "metadata/batch=demo-00000/part-0.parquet").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["metadata"]
