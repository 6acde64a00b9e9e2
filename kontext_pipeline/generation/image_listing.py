"""The listing of the image store: which pictures that should be there are not.

A folder of the store is listed as a whole, because a million single looks take too long, on an object store above all.
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Final

from upath import UPath

from kontext_pipeline.errors import KontextError
from kontext_pipeline.files import is_local

LISTED_AT_ONCE: Final = 16
"""Folders of a remote store that are listed at the same time."""

Listing = dict[str, int | None]
"""Fingerprints in a folder, and the sizes of their files in bytes, where they were looked at."""


class ListingError(KontextError):
    """The image store can't be listed. Nothing was sent."""


def absent_pictures(data_dir: UPath, fingerprints: Collection[str], sizes: Mapping[str, int] | None = None) -> set[str]:
    """Return those of `fingerprints` that have no picture in the store of a data directory.

    With `sizes` (bytes, by fingerprint), a picture of another size counts as absent too. In a local store that takes a
    look at each file, which is five times as slow as the names alone.

    Raises:
        ListingError: A folder can't be listed.
    """
    absent = set(fingerprints)
    folders = [data_dir / "images" / prefix for prefix in sorted({fingerprint[:2] for fingerprint in absent})]
    try:
        for found in _list_all(folders, with_sizes=sizes is not None):
            if sizes is None:
                absent.difference_update(found)
            else:
                absent.difference_update(name for name, size in found.items() if sizes.get(name) == size)
    except OSError as error:
        raise ListingError(
            f"the pictures in {data_dir / 'images'} can't be listed ({error.strerror or error}), so nobody can tell which "
            "are there. Nothing was sent."
        ) from None
    return absent


def _list_all(folders: list[UPath], *, with_sizes: bool) -> Iterator[Listing]:
    if folders and is_local(folders[0]):
        for folder in folders:
            yield _list_local(folder.path, with_sizes=with_sizes)
    elif folders:
        with ThreadPoolExecutor(LISTED_AT_ONCE) as pool:
            yield from pool.map(_list_remote, folders)


def _list_local(folder: str, *, with_sizes: bool) -> Listing:
    found: Listing = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        if not with_sizes:
            return {entry.name.partition(".")[0]: None for entry in entries}
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                found[entry.name.partition(".")[0]] = entry.stat().st_size
    return found


def _list_remote(folder: UPath) -> Listing:
    # Another process may have written since this one has last looked.
    folder.fs.invalidate_cache(folder.path)
    try:
        entries = folder.fs.ls(folder.path, detail=True)
    except FileNotFoundError:
        return {}
    return {PurePosixPath(entry["name"]).name.partition(".")[0]: entry["size"] for entry in entries}
