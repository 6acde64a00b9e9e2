"""Where the metadata table lies: a hive-partitioned Parquet dataset, one file a batch.

    <data directory>/metadata/batch=<key>/part-0.parquet

Belongs here: reading and writing of those files, and what their footers say.

The folder's name carries the batch, and the file doesn't, as in Hive and Spark: pandas and
`pyarrow.parquet` refuse a folder that says it in both places. pandas, Polars, DuckDB and `pyarrow.dataset`
add the column by themselves, last; `read_batch` and `read_dataset` put it where the schema has it. Readers
that know no hive folders (Hugging Face `datasets`) read the same files, without that column.

A file is whole or absent: it is written aside, flushed and renamed. Aside is not inside `metadata/`, for
Polars refuses a folder with any file that is not Parquet, hidden or not.
"""

import os
import re
import secrets
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from kontext_pipeline.dataset.schema import CORE_SCHEMA, cast_column, metadata_schema
from kontext_pipeline.errors import KontextError

_PLAN_DIGEST: Final = b"kontext.plan_digest"
_COMPLETE: Final = b"kontext.complete"
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class DatasetError(KontextError):
    """A file of the dataset can't be read, or a batch can't be named as asked."""


def batch_path(root: UPath | Path, key: str) -> UPath:
    """Return where the metadata of batch `key` lies in the data directory `root`.

    Raises `DatasetError` for a key that a folder's name can't carry the same for every reader.
    """
    if not _KEY.fullmatch(key):
        raise DatasetError(
            f"Batch {key!r} can't name a folder: letters, digits, '.', '_' and '-' are allowed, "
            "a letter or digit first. Rename the manifest it comes from."
        )
    return UPath(root) / "metadata" / f"batch={key}" / "part-0.parquet"


def write_batch(table: pa.Table, root: UPath | Path, key: str, *, plan_digest: str) -> UPath:
    """Write the metadata table of batch `key` into the data directory `root`; return where.

    What was there is replaced. The same table gives the same bytes. The footer says `plan_digest` and
    whether every picture is there, for `is_current`. On a remote filesystem the file is written in place:
    object stores show it when it is whole.
    """
    path = batch_path(root, key)
    if not pc.all(pc.equal(table["batch"], key), min_count=0).as_py():
        raise ValueError(f"the table holds rows of other batches than {key}")
    complete = pc.all(pc.equal(table["status"], "succeeded"), min_count=0).as_py()
    stored = table.drop_columns(["batch"]).combine_chunks()
    stored = stored.replace_schema_metadata(
        {_PLAN_DIGEST: plan_digest.encode(), _COMPLETE: str(complete).lower().encode()}
    )
    buffer = BytesIO()
    with pq.ParquetWriter(buffer, stored.schema, compression="zstd") as writer:
        # A row group without rows, which write_table makes of an empty table, stops `datasets`.
        if stored.num_rows:
            writer.write_table(stored, row_group_size=stored.num_rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_local(path):
        _write_aside(Path(path.path), buffer.getvalue(), aside=Path(UPath(root).path))
    else:
        path.write_bytes(buffer.getvalue())
    return path


def is_current(root: UPath | Path, key: str, plan_digest: str) -> bool:
    """Tell whether batch `key` is written from this plan and has every picture: rewriting changes nothing.

    Reads the footer alone. A file that can't be read is not current.
    """
    try:
        with batch_path(root, key).open("rb") as file:
            footer = pq.read_metadata(file).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return footer.get(_PLAN_DIGEST) == plan_digest.encode() and footer.get(_COMPLETE) == b"true"


def written_batches(root: UPath | Path) -> list[str]:
    """Return the keys of the batches whose metadata is in the data directory `root`, sorted."""
    return sorted(key for key, _ in _files(root))


def read_batch(root: UPath | Path, key: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the metadata table of batch `key`, `batch` where the schema has it, or only some of its columns.

    Raises `DatasetError` where there is none or it can't be read.
    """
    path = batch_path(root, key)
    return _read(path, key) if columns is None else _columns_of(path, key, columns)


def read_dataset(root: UPath | Path) -> pa.Table:
    """Return the metadata of all batches in the data directory `root`, in the order of their keys.

    Own columns that some files lack are null in their rows; an own column of several types is a string.
    No batch at all gives the empty table.
    """
    tables = [_read(path, key) for key, path in sorted(_files(root))]
    try:
        return pa.concat_tables(tables, promote_options="permissive") if tables else CORE_SCHEMA.empty_table()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.concat_tables([_own_as_text(table) for table in tables], promote_options="permissive")


def _own_as_text(table: pa.Table) -> pa.Table:
    own = pa.schema([(name, pa.string()) for name in table.column_names[len(CORE_SCHEMA) :]])
    schema = metadata_schema(own)
    return pa.table([cast_column(table[field.name], field.type) for field in schema], schema=schema)


def _read(path: UPath, key: str) -> pa.Table:
    table = _columns_of(path, key, None)
    column = pa.repeat(pa.scalar(key, pa.string()), table.num_rows)
    return table.add_column(
        CORE_SCHEMA.get_field_index("batch"), CORE_SCHEMA.field("batch"), column
    ).replace_schema_metadata(None)


def _columns_of(path: UPath, key: str, columns: Sequence[str] | None) -> pa.Table:
    try:
        with path.open("rb") as file:
            return pq.read_table(file, columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise DatasetError(f"Batch {key} has no metadata yet: {path} is not there. Run it first.") from None
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"{path} can't be read as Parquet ({error}). Delete it and run the batch again: "
            "the table is made anew from the ledger, no picture is asked for twice."
        ) from error


def _files(root: UPath | Path) -> Iterator[tuple[str, UPath]]:
    folder = UPath(root) / "metadata"
    if not folder.is_dir():
        return
    for path in folder.glob("batch=*/part-0.parquet"):
        yield path.parent.name.removeprefix("batch="), path


def _is_local(path: UPath) -> bool:
    return path.protocol in {"", "file", "local"}


def _write_aside(path: Path, content: bytes, *, aside: Path) -> None:
    """Put `content` at `path` so that a crash at any point leaves the old file or the new one."""
    temporary = aside / f".metadata-{path.parent.name}-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
