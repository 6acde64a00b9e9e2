"""Verification: a dataset compared with its lock, for nothing. Every difference is named."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
from upath import UPath

from kontext_pipeline.dataset.lock.listed_files import join_path, with_hashes
from kontext_pipeline.dataset.lock.lock_file import file_of, files_of, key_of, read_lock, sorted_rows
from kontext_pipeline.dataset.lock.sorted_files import SortedFiles, merged

_NAMES: Final = {"images": "picture", "inputs": "input picture"}


class Verification:
    """One comparison. `differences` reads the disk; the counts are complete when it has ended."""

    def __init__(self, data_dir: UPath, lock: UPath, *, model: str, rebuilt: bool = False) -> None:
        """Compare `data_dir` with `lock`.

        `rebuilt`: the lock is of the dataset that this one was built again from, so dates are others, and files that no row
        names stay behind.
        """
        self._data_dir = data_dir
        self._lock = lock
        self._model = model
        self._rebuilt = rebuilt
        self.counts: Counter[str] = Counter()
        """`rows` and `same_rows` of the lock, `pictures` and `same_pictures` that its rows name, and `differences`."""

    def differences(self, tables: Iterable[pa.Table], manifests: Iterable[Mapping[str, Any]] | None) -> Iterator[str]:
        """Yield a line for each difference.

        Args:
            tables: The metadata tables of the dataset, with `TABLE_COLUMNS`.
            manifests: What the plan was made from; None: not known, so not compared.

        Raises:
            LockError: There is no lock, or it can't be read.
            OSError: A folder or a file can't be read.
        """
        for line in self._all(tables, manifests):
            self.counts["differences"] += 1
            yield line

    def _all(self, tables: Iterable[pa.Table], manifests: Iterable[Mapping[str, Any]] | None) -> Iterator[str]:
        records = read_lock(self._lock)
        locked_manifests: dict[str, Mapping[str, Any]] = {}
        with SortedFiles() as files:

            def locked_rows() -> Iterator[tuple[str, str]]:
                """Yield the rows of the lock. Set aside what comes before and behind them."""
                for section, line, record in records:
                    if section == "manifests":
                        locked_manifests[record["name"]] = record
                    elif section == "others" and not self._rebuilt:
                        files.add(*file_of(record))
                    elif section == "rows":
                        self.counts["rows"] += 1
                        yield key_of(line), line

            # The first row now: the manifests are before it, and where there is no lock, nothing else is read.
            locked = locked_rows()
            first = list(itertools.islice(locked, 1))
            if manifests is not None:
                yield from _manifest_differences(locked_manifests, {one["name"]: one for one in manifests})
            with sorted_rows(tables, model=self._model) as rows:
                there = ((key_of(line), line) for _, line in rows)
                yield from self._row_differences(itertools.chain(first, locked), there, files)
            yield from self._file_differences(files)

    def _row_differences(
        self, locked: Iterator[tuple[str, str]], there: Iterator[tuple[str, str]], files: SortedFiles
    ) -> Iterator[str]:
        for _, old, new in merged(locked, there):
            was: dict[str, Any] | None = None if old is None else json.loads(old)
            now: dict[str, Any] | None = None if new is None else json.loads(new)
            # A row that is new, or a dataset that was built again, is compared with its own table.
            expected = now if was is None or self._rebuilt else was
            for path, sha256 in files_of(expected) if expected is not None else ():
                files.add(path, sha256)
            if was is not None and now is not None:
                yield from self._changes(was, now)
            elif was is not None:
                yield f"row gone: {_named(was)}"
            elif now is not None:
                yield f"row added: {_named(now)}"

    def _changes(self, was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
        if was["output_sha256"] is not None:
            self.counts["pictures"] += 1
            self.counts["same_pictures"] += was["output_sha256"] == now["output_sha256"]
        ignored = {"date"} if self._rebuilt else set()
        changed = [name for name in now if name not in ignored and was.get(name) != now[name]]
        self.counts["same_rows"] += not changed
        for name in changed:
            yield f"row changed: {_named(was)}: {name} is {_said(now[name])}, and {_said(was.get(name))} in the lock"

    def _file_differences(self, files: SortedFiles) -> Iterator[str]:
        both = ((path, sha256) for path, sha256, _ in files.beside(self._data_dir))
        for path, sha256, digest in with_hashes(self._data_dir, both):
            what, where = _NAMES[path[0]], join_path(path)
            if sha256 is None:
                yield f"{what} extra: {where}"
            elif digest is None and sha256:
                yield f"{what} missing: {where}"
            elif (digest or "") != sha256:
                yield f"{what} changed: {where}: its sha256 is {digest}, and {sha256} in the lock"


def _manifest_differences(
    locked: Mapping[str, Mapping[str, Any]], there: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    for name in sorted(locked.keys() | there.keys()):
        if name not in there:
            yield f"manifest gone: {name}"
        elif name not in locked:
            yield f"manifest added: {name}"
        else:
            was, now = locked[name], there[name]
            for field in sorted(was.keys() | now.keys()):
                if was.get(field) != now.get(field):
                    is_now, was_then = _said(now.get(field)), _said(was.get(field))
                    yield f"manifest changed: {name}: {field} is {is_now}, and {was_then} in the lock"


def _named(row: Mapping[str, Any]) -> str:
    variant = f" variant {row['variant']}" if row["variant"] != 1 else ""
    return f"{row['manifest']} id {row['id']}{variant} ({row['fingerprint'][:12]})"


def _said(value: object) -> str:
    return "absent" if value is None else str(value)
