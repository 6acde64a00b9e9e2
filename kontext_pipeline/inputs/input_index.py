"""The index of the input store: which address had which picture, as `<data dir>/inputs.parquet`.

Several processes add to it, also on object storage, which has no locks. What is added is gathered and merged into the
file now and then: read, merged, written aside and renamed. A lost row costs a fetch and nothing else.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from kontext_pipeline.files import AnyPath, is_local, local_path, write_atomically
from kontext_pipeline.inputs.input_store import KeptInput, kept_path
from kontext_pipeline.inputs.pictures import MEDIA_TYPES

INDEX_SCHEMA: Final = pa.schema(
    [
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("type", pa.string()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fetched_at", pa.timestamp("us", tz="UTC")),
        ("etag", pa.string()),
        ("last_modified", pa.string()),
        ("private", pa.bool_()),
        ("problem", pa.string()),
    ]
)
"""A row for each address and content that it had. A row with a `problem` says why the latest look brought none."""
LEAST_MERGED: Final = 500
"""Rows that are gathered before the file is written again, at least: a quarter of the file's rows, if that is more."""
_MERGES: Final = 4
"""Tries to merge into a file on object storage, where another process may replace it in between."""
_FORMATS: Final = {media_type: kind for kind, media_type in MEDIA_TYPES.items()}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What was found at an address.

    `kept` is None where there was a `problem`. `etag` and `last_modified` are what the server said of the content's
    version; `private`: the address was one that only this network can reach.
    """

    uri: str
    kept: KeptInput | None
    fetched_at: datetime
    etag: str | None = None
    last_modified: str | None = None
    private: bool = False
    problem: str | None = None


def read_index(data_dir: AnyPath) -> pa.Table:
    """Return the index of a data directory as it is now, of `INDEX_SCHEMA`; no rows where there is none."""
    return _read_file(data_dir / "inputs.parquet")


class InputIndex:
    """The index of one data directory. Any number of threads may use it."""

    def __init__(self, data_dir: AnyPath) -> None:
        """Nothing is read yet."""
        self._path: AnyPath = data_dir / "inputs.parquet"
        self._local = local_path(data_dir) if is_local(data_dir) else None
        self._lock = threading.RLock()
        self._base: _Table | None = None
        self._added: dict[tuple[str, str | None], IndexEntry] = {}
        self._latest: dict[str, IndexEntry] = {}
        self._by_sha256: dict[str, KeptInput] = {}

    def find(self, uri: str) -> IndexEntry | None:
        """Return the latest picture that an address had; None where none was ever kept."""
        with self._lock:
            added = self._latest.get(uri)
            return added if added is not None else self._read().latest("uri", uri)

    def find_content(self, sha256: str) -> KeptInput | None:
        """Return a picture by the sha256 of its bytes, whatever address it came from."""
        with self._lock:
            if sha256 in self._by_sha256:
                return self._by_sha256[sha256]
            entry = self._read().latest("sha256", sha256)
            return None if entry is None else entry.kept

    def add(self, entry: IndexEntry) -> None:
        """Add what was found. It is in the file after the next merge.

        Raises:
            OSError: the file had to be written and can't be.
        """
        with self._lock:
            self._added[entry.uri, None if entry.kept is None else entry.kept.sha256] = entry
            if entry.kept is not None:
                self._latest[entry.uri] = entry
                self._by_sha256[entry.kept.sha256] = entry.kept
            if len(self._added) >= max(LEAST_MERGED, len(self._read()) // 4):
                self.merge()

    def merge(self) -> None:
        """Write what was added into the file.

        Raises:
            OSError: the file can't be written.
        """
        with self._lock:
            if not self._added:
                return
            added = _table_of(list(self._added.values()))
            with self._exclusively():
                for _ in range(1 if self._local is not None else _MERGES):
                    merged = _merged(_read_file(self._path), added)
                    write_atomically(self._path, partial(pq.write_table, merged, compression="zstd"))
                    if self._local is not None or _has(_read_file(self._path), added):
                        break
            self._base = _Table(merged)
            for lookup in (self._added, self._latest, self._by_sha256):
                lookup.clear()

    def _read(self) -> "_Table":
        if self._base is None:
            self._base = _Table(_read_file(self._path))
        return self._base

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        if self._local is None:
            yield
            return
        folder = self._local / "inputs"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".index.lock"):
            yield


class _Table:
    """The rows of the file, found by hashes: a million rows as Python objects would take a gigabyte."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._hashes = {name: _hashes(table[name]) for name in ("uri", "sha256")}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def latest(self, name: str, value: str) -> IndexEntry | None:
        """Return the last row of a picture with this value in the column `name`."""
        hashes, rows = self._hashes[name]
        wanted = np.int64(hash(value))
        first, end = np.searchsorted(hashes, wanted, "left"), np.searchsorted(hashes, wanted, "right")
        found = (self._table.slice(int(row), 1).to_pylist()[0] for row in rows[first:end])
        matching = [row for row in found if row[name] == value and row["sha256"] is not None]
        return _entry(max(matching, key=lambda row: row["fetched_at"])) if matching else None


def _hashes(column: pa.ChunkedArray) -> tuple[Any, Any]:
    values = (hash(value) for chunk in column.chunks for value in chunk.to_pylist())
    hashes = np.fromiter(values, np.int64, count=len(column))
    rows = np.argsort(hashes, kind="stable")
    return hashes[rows], rows


def _read_file(path: AnyPath) -> pa.Table:
    try:
        with path.open("rb") as file:
            table = pq.read_table(file)
        # Later releases may add columns.
        return pa.table([table[field.name].cast(field.type) for field in INDEX_SCHEMA], schema=INDEX_SCHEMA)
    except FileNotFoundError:
        pass
    except (OSError, pa.ArrowException, KeyError) as error:
        log.warning("%s can't be read (%s). It is made again: input pictures are fetched once more.", path, error)
    return INDEX_SCHEMA.empty_table()


def _merged(base: pa.Table, added: pa.Table) -> pa.Table:
    """Return the rows of both: of each address and content the latest, without problems that a picture has ended."""
    table = pa.concat_tables([base, added]).sort_by("fetched_at").combine_chunks()
    table = table.append_column("number", pa.array(np.arange(table.num_rows)))
    last = table.group_by(["uri", "sha256"]).aggregate([("number", "max")])["number_max"]
    table = table.take(last.combine_chunks().sort())
    latest = table.group_by(["uri"]).aggregate([("number", "max")])["number_max"]
    is_latest = pc.is_in(table["number"], value_set=latest.combine_chunks())
    return table.filter(pc.or_(pc.is_valid(table["sha256"]), is_latest)).drop_columns(["number"])


def _has(table: pa.Table, added: pa.Table) -> bool:
    """Return whether every added address is in the table."""
    return bool(pc.all(pc.is_in(added["uri"], value_set=table["uri"].combine_chunks()), min_count=0).as_py())


def _table_of(entries: list[IndexEntry]) -> pa.Table:
    rows = [
        {
            "uri": entry.uri,
            "fetched_at": entry.fetched_at,
            "etag": entry.etag,
            "last_modified": entry.last_modified,
            "private": entry.private,
            "problem": entry.problem,
            **(_facts(entry.kept) if entry.kept else {}),
        }
        for entry in entries
    ]
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def _facts(kept: KeptInput) -> dict[str, Any]:
    facts = {name: getattr(kept, name) for name in ("sha256", "bytes", "width", "height")}
    return {**facts, "type": kept.media_type}


def _entry(row: dict[str, Any]) -> IndexEntry:
    kind = _FORMATS.get(row["type"], "PNG")
    path = kept_path(row["sha256"], kind)
    kept = KeptInput(row["sha256"], path, kind, row["bytes"], row["width"], row["height"])
    names = ("uri", "fetched_at", "etag", "last_modified", "problem")
    return IndexEntry(kept=kept, private=bool(row["private"]), **{name: row[name] for name in names})
