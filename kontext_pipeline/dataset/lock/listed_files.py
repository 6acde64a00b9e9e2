"""The files of the image store and the input store: listed folder by folder, and hashed.

Works on a local disk and on any fsspec file system. Folders whose names begin with a dot are the stores' own.
"""

import hashlib
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Final

from upath import UPath

from kontext_pipeline.files import is_local

STORES: Final = ("images", "inputs")
"""Folders of the data directory whose files are locked."""
_HASHED_AT_ONCE: Final = 256
_THREADS: Final = 16
"""Files that are read at the same time: on an object store each waits for the network."""

FilePath = tuple[str, str, str]
"""Store, folder and name of a file; the folder is empty for a file in the store's own folder. Sorts as `list_files` does."""


def split_path(path: str) -> FilePath | None:
    """Return the parts of a path relative to the data directory; None where it is no path of a file in a store."""
    parts = path.split("/")
    if len(parts) not in (2, 3) or parts[0] not in STORES or any(part in ("", ".", "..") for part in parts):
        return None
    return parts[0], parts[1] if len(parts) == 3 else "", parts[-1]


def join_path(path: FilePath) -> str:
    """Return a file's path relative to the data directory."""
    return "/".join(part for part in path if part)


def list_files(data_dir: UPath) -> Iterator[FilePath]:
    """Yield the files of both stores, sorted.

    Raises:
        OSError: A folder can't be listed.
    """
    for store in STORES:
        entries = sorted(_entries(data_dir / store))
        yield from ((store, "", name) for name, is_folder in entries if not is_folder)
        for folder, is_folder in entries:
            if is_folder:
                names = sorted(name for name, _ in _entries(data_dir / store / folder))
                yield from ((store, folder, name) for name in names)


def _entries(folder: UPath) -> list[tuple[str, bool]]:
    """Return name and kind (True: a folder) of what is in a folder, and nothing where there is none."""
    try:
        if is_local(folder):
            with os.scandir(folder.path) as found:
                entries = [(entry.name, entry.is_dir()) for entry in found]
        else:
            # Another process may have written since this one has last looked.
            folder.fs.invalidate_cache(folder.path)
            listed = folder.fs.ls(folder.path, detail=True)
            entries = [(PurePosixPath(one["name"]).name, one["type"] == "directory") for one in listed]
    except FileNotFoundError:
        return []
    return [(name, is_folder) for name, is_folder in entries if not name.startswith(".")]


def sha256_of(data_dir: UPath, path: FilePath) -> str | None:
    """Return the sha256 of a file (64 hex digits); None where there is no file.

    Raises:
        OSError: The file can't be read.
    """
    file_path = data_dir.joinpath(*(part for part in path if part))
    try:
        if is_local(data_dir):
            # A pipe or a device would block for ever.
            if not stat.S_ISREG(os.stat(file_path.path).st_mode):  # noqa: PTH116  a UPath is slow
                return None
            with open(file_path.path, "rb") as local:  # noqa: PTH123
                return hashlib.file_digest(local, "sha256").hexdigest()
        digest = hashlib.sha256()
        with file_path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
        return digest.hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return None


def with_hashes(
    data_dir: UPath, files: Iterable[tuple[FilePath, str | None]]
) -> Iterator[tuple[FilePath, str | None, str | None]]:
    """Yield each file with the sha256 that is expected and the one that it has, in order.

    Files of which nothing is expected (None) are not read. Several files are read at the same time.

    Raises:
        OSError: A file can't be read.
    """
    files = iter(files)

    def read(one: tuple[FilePath, str | None]) -> str | None:
        return None if one[1] is None else sha256_of(data_dir, one[0])

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="sha256") as pool:
        while some := list(itertools.islice(files, _HASHED_AT_ONCE)):
            digests = pool.map(read, some)
            yield from ((path, expected, digest) for (path, expected), digest in zip(some, digests, strict=True))
