"""Which pictures the data directory has: a listing of a whole store, as a table.

Looks at a million single files take too long, on an object store above all.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from kontext_pipeline.files import is_local

_LISTED_AT_ONCE: Final = 16


class StoredFiles:
    """The files of one store, `images` or `inputs`, and their sizes."""

    def __init__(self, data_dir: UPath, store: str) -> None:
        """List the store.

        Raises:
            OSError: A folder can't be listed.
        """
        names: list[pa.Array] = []
        sizes: list[pa.Array] = []
        for found in _list_all(data_dir / store):
            names.append(pa.array([f"{store}/{name}" for name in found], pa.string()))
            sizes.append(pa.array(found.values(), pa.int64()))
        self._names = pa.chunked_array(names, pa.string()).combine_chunks()
        self._sizes = pa.chunked_array(sizes, pa.int64()).combine_chunks()

    def sizes_of(self, paths: pa.Array) -> pa.Array:
        """Return the size of each file in bytes, by its path relative to the data directory; null where there is none."""
        return self._sizes.take(pc.index_in(paths, self._names, skip_nulls=True))


def _list_all(store: UPath) -> Iterator[dict[str, int]]:
    prefixes = [f"{number:02x}" for number in range(256)]
    if is_local(store):
        for prefix in prefixes:
            yield _list_local(os.path.join(store.path, prefix), prefix)  # noqa: PTH118  a hot loop
        return
    with ThreadPoolExecutor(_LISTED_AT_ONCE) as pool:
        yield from pool.map(lambda prefix: _list_remote(store / prefix, prefix), prefixes)


def _list_local(folder: str, prefix: str) -> dict[str, int]:
    try:
        with os.scandir(folder) as entries:
            return {f"{prefix}/{entry.name}": entry.stat().st_size for entry in entries}
    except FileNotFoundError:
        return {}


def _list_remote(folder: UPath, prefix: str) -> dict[str, int]:
    # Another process may have written since this one has last looked.
    folder.fs.invalidate_cache(folder.path)
    try:
        entries = folder.fs.ls(folder.path, detail=True)
    except FileNotFoundError:
        return {}
    return {f"{prefix}/{PurePosixPath(entry['name']).name}": entry["size"] for entry in entries}
