"""The files of the metadata table: a Parquet dataset with Hive partitions, one file for each batch.

    <data directory>/metadata/batch=<key>/part-0.parquet

As in Hive and Spark, the name of the folder has the batch and the file doesn't: pandas and `pyarrow.parquet` refuse
a column that is in both. pandas, Polars, DuckDB and `pyarrow.dataset` add the column, as the last one. `read_batch`
adds it where the schema has it. Readers without Hive partitions, such as Hugging Face `datasets`, read the same
files without the column.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from kontext_pipeline.columns import TABLE_SCHEMA
from kontext_pipeline.errors import KontextError
from kontext_pipeline.files import write_atomically

_MADE_FROM: Final = b"kontext.made_from"
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class DatasetError(KontextError):
    """A file of the dataset can't be read, or a batch has a key that no folder can have."""


def batch_path(root: UPath | Path, key: str) -> UPath:
    """Return the path of the metadata of batch `key` in the data directory `root`.

    Raises:
        DatasetError: Some readers would decode the name of a folder with this key differently.
    """
    if not _KEY.fullmatch(key):
        raise DatasetError(
            f"Batch {key!r} can't name a folder: letters, digits, '.', '_' and '-' are allowed, "
            "a letter or digit first. Rename the manifest that the batch belongs to."
        )
    return UPath(root) / "metadata" / f"batch={key}" / "part-0.parquet"


def write_batch(table: pa.Table, root: UPath | Path, key: str, *, made_from: str) -> UPath:
    """Write the metadata table of batch `key` into the data directory `root`, and return the path.

    An existing file is replaced atomically. The same table gives the same bytes. The footer has `made_from`, which names
    the state of plan and ledger that the table shows, for `is_current`.

    Raises:
        DatasetError: As `batch_path`.
        ValueError: The table has rows of another batch.
        OSError: The file can't be written; the old one is untouched.
    """
    path = batch_path(root, key)
    if not pc.all(pc.equal(table["batch"], key), min_count=0).as_py():
        raise ValueError(f"the table has rows of other batches than {key}")
    stored = table.drop_columns(["batch"]).combine_chunks()
    stored = stored.replace_schema_metadata({_MADE_FROM: made_from.encode()})

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, stored.schema, compression="zstd") as writer:
            # write_table would make a row group without rows of an empty table, which `datasets` can't read.
            if stored.num_rows:
                writer.write_table(stored, row_group_size=stored.num_rows)

    # Polars refuses a folder that has any other file than Parquet, so the temporary file is outside `metadata/`.
    write_atomically(path, write, temporary_folder=Path(UPath(root).path))
    return path


def is_current(root: UPath | Path, key: str, made_from: str) -> bool:
    """Return whether the file of batch `key` was made from this state of plan and ledger, so needs no rewriting.

    Reads only the footer. A file that can't be read isn't current.
    """
    return origin_of(root, key) == made_from


def origin_of(root: UPath | Path, key: str) -> str | None:
    """Return the name of the state of plan and ledger from which the file of batch `key` was made.

    Reads only the footer.

    Returns:
        None where there is no file, or it can't be read.
    """
    try:
        with batch_path(root, key).open("rb") as file:
            footer = pq.read_metadata(file).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return footer[_MADE_FROM].decode() if _MADE_FROM in footer else None


def written_batches(root: UPath | Path) -> list[str]:
    """Return the keys of the batches that have a file in the data directory `root`, sorted."""
    return sorted(_keys(UPath(root) / "metadata"))


def read_batch(root: UPath | Path, key: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the metadata table of batch `key`, or only some of its columns; `batch` can't be one of those.

    Raises:
        DatasetError: There is no file, or it can't be read.
    """
    path = batch_path(root, key)
    try:
        with path.open("rb") as file:
            table = pq.read_table(file, columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise DatasetError(f"Batch {key} has no metadata yet: {path} does not exist. Run the batch first.") from None
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"{path} can't be read as Parquet ({error}). Delete it and run the batch again: "
            "the ledger has all that the table needs, and no picture is requested twice."
        ) from error
    if columns is not None:
        return table
    batch = pa.repeat(pa.scalar(key, pa.string()), table.num_rows)
    return table.add_column(
        TABLE_SCHEMA.get_field_index("batch"), TABLE_SCHEMA.field("batch"), batch
    ).replace_schema_metadata(None)


def _keys(folder: UPath) -> Iterator[str]:
    if folder.is_dir():
        for path in folder.glob("batch=*/part-0.parquet"):
            yield path.parent.name.removeprefix("batch=")
