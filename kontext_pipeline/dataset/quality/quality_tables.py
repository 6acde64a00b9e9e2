"""The files of the quality tables: a row for each different picture of a batch.

    <data directory>/quality/batch=<key>/quality.parquet

A file has the numbers that were measured, what was measured with which version, and the issues under the thresholds that
its footer names. It holds nothing that can't be measured again: delete it, and the next run writes it.
"""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from upath import UPath

from kontext_pipeline.dataset.quality.measures import MEASURES
from kontext_pipeline.dataset.storage import batch_path
from kontext_pipeline.files import is_local, write_atomically

log: Final = logging.getLogger(__name__)

_FIRST: Final = [pa.field("fingerprint", pa.string())]
_MEASURED: Final = [pa.field(measure.name, measure.type) for measure in MEASURES]
_DERIVED: Final = [
    pa.field("variant_distance", pa.float64()),
    pa.field("near_duplicate_distance", pa.float64()),
    pa.field("near_duplicate_of", pa.string()),
    pa.field("input_group", pa.string()),
    pa.field("issues", pa.list_(pa.string())),
]
_STATE: Final = [
    pa.field("measured_image_sha256", pa.string()),
    pa.field("measured_input_sha256", pa.string()),
    pa.field("versions", pa.string()),
    pa.field("errors", pa.list_(pa.string())),
]
OWN_COLUMNS: Final = frozenset(field.name for field in (*_FIRST, *_MEASURED, *_DERIVED, *_STATE))
"""Every column that is not a plug-in's."""
_INTERNAL: Final = frozenset({"perceptual_hash", "input_perceptual_hash", "color_layout", *(f.name for f in _STATE)})
"""Columns that are of use to the next measuring alone."""
FOOTER: Final = b"kontext_quality"
_LOCK: Final = ".quality.lock"
LOCK_TIMEOUT_S: Final = 120.0

Row = dict[str, Any]


def read_quality(data_dir: UPath, key: str) -> pa.Table | None:
    """Return what was measured of batch `key`: a row for each different picture.

    Columns: `fingerprint`; a float64 column for each measure, null where a picture has no such number; `near_duplicate_of`
    (the fingerprint of the nearest picture); `input_group` (equal for input pictures that are near-duplicates);
    `issues`, a list of names.

    Returns:
        None where nothing was measured, or the file can't be read.

    Raises:
        DatasetError: `key` can't be the key of a batch.
    """
    table = read_table(data_dir, key)
    return None if table is None else table.drop_columns([name for name in table.column_names if name in _INTERNAL])


def quality_path(data_dir: UPath, key: str) -> UPath:
    """Return the path of the quality table of batch `key`.

    Raises:
        DatasetError: As `storage.batch_path`.
    """
    batch_path(data_dir, key)
    return UPath(data_dir) / "quality" / f"batch={key}" / "quality.parquet"


def count_issues(data_dir: UPath, keys: Iterable[str]) -> tuple[int, int, Counter[str]]:
    """Return how many pictures of these batches are measured, how many have an issue, and how many have each issue."""
    found: dict[str, list[str]] = {}
    for key in keys:
        if (table := read_table(data_dir, key, ["fingerprint", "versions", "issues"])) is not None:
            rows = table.to_pylist()
            found.update((row["fingerprint"], row["issues"]) for row in rows if row["versions"] != "{}")
    counts = Counter(issue for issues in found.values() for issue in issues)
    return len(found), sum(1 for issues in found.values() if issues), counts


def is_measured(data_dir: UPath, key: str) -> bool:
    """Return whether batch `key` has a quality table."""
    return quality_path(data_dir, key).exists()


def measured_batches(data_dir: UPath) -> list[str]:
    """Return the keys of the batches that have a quality table, sorted."""
    folder = UPath(data_dir) / "quality"
    if not folder.is_dir():
        return []
    return sorted(path.parent.name.removeprefix("batch=") for path in folder.glob("batch=*/quality.parquet"))


def number_names(table: pa.Table) -> list[str]:
    """Return the names of the columns of numbers."""
    return [field.name for field in table.schema if pa.types.is_float64(field.type)]


def read_table(data_dir: UPath, key: str, columns: Sequence[str] | None = None) -> pa.Table | None:
    """Return a quality table with all its columns, or those of `columns` that it has; None as `read_quality`."""
    path = quality_path(data_dir, key)
    try:
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            names = parquet.schema_arrow.names
            return parquet.read([name for name in columns or names if name in names]).replace_schema_metadata(None)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        log.warning("%s can't be read (%s); the pictures of the batch are measured again", path, error)
        return None


def read_rows(data_dir: UPath, key: str) -> dict[str, Row]:
    """Return the rows of a quality table by fingerprint; none where there is no table."""
    table = read_table(data_dir, key)
    return {} if table is None else {row["fingerprint"]: row for row in table.to_pylist()}


def read_footer(data_dir: UPath, key: str) -> dict[str, Any]:
    """Return what the footer of a quality table says; empty where there is none."""
    try:
        with quality_path(data_dir, key).open("rb") as file:
            footer = json.loads((pq.read_metadata(file).metadata or {})[FOOTER])
            return footer if isinstance(footer, dict) else {}
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return {}


def write_rows(data_dir: UPath, key: str, rows: Iterable[Row], footer: Mapping[str, Any]) -> None:
    """Write the quality table of a batch. An existing file is replaced atomically.

    Raises:
        OSError: The file can't be written; the old one is untouched.
    """
    listed = list(rows)
    plug_ins = sorted({name for row in listed for name in row} - OWN_COLUMNS)
    schema = pa.schema(
        [*_FIRST, *_MEASURED, *(pa.field(name, pa.float64()) for name in plug_ins), *_DERIVED, *_STATE],
        metadata={FOOTER: json.dumps(footer).encode()},
    )
    table = pa.Table.from_pylist(listed, schema=schema)

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            # As for metadata tables: `datasets` can't read a row group without rows.
            if table.num_rows:
                writer.write_table(table, row_group_size=table.num_rows)

    # As for metadata tables: Polars refuses a folder that has any other file.
    write_atomically(quality_path(data_dir, key), write, temporary_folder=Path(UPath(data_dir).path))


@contextlib.contextmanager
def exclusive(data_dir: UPath) -> Iterator[None]:
    """Hold off other processes that would merge rows into quality tables, on a local data directory.

    On a remote one, and where the lock can't be had, two processes may each write a table without the other's rows. The
    next run measures those again.
    """
    with contextlib.ExitStack() as stack:
        if is_local(data_dir):
            with contextlib.suppress(OSError, Timeout, NotImplementedError):
                stack.enter_context(FileLock(Path(UPath(data_dir).path) / _LOCK, timeout=LOCK_TIMEOUT_S))
        yield
