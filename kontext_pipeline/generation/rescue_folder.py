"""The rescue folder: paid pictures that the image store could not take, until a later run moves them there."""

import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from upath import UPath

from kontext_pipeline.files import (
    flush,
    is_own_folder,
    lacks_descriptor,
    make_private,
    open_own_folder,
    state_folder,
    wait_for_descriptor,
    write_atomically,
)
from kontext_pipeline.segmind.answers import Picture
from kontext_pipeline.segmind.images import NotAPicture, inspect

EXTENSIONS: Final = ("png", "jpg", "webp")

log = logging.getLogger(__name__)


def digest_of(data_dir: UPath) -> str:
    """Return what names a data directory among others: equal fingerprints in another one are other pictures."""
    return hashlib.sha256(str(data_dir).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def rescue_folder_of(data_dir: UPath) -> Path:
    """Return the path of the rescue folder of a data directory, in the user's state folder."""
    return state_folder("rescue", digest_of(data_dir))


class RescueFolder:
    """A local folder of pictures, each under its fingerprint. Only this user can write to it."""

    def __init__(self, path: Path) -> None:
        """The folder is created with the first picture."""
        self.path = path

    def keep(self, fingerprint: str, picture: Picture) -> Path:
        """Keep a picture, and return where.

        Raises:
            OSError: The folder can't be written, or another user owns it. The picture is where it was.
        """
        target = self.path / f"{fingerprint}.{picture.format}"
        make_private(self.path)
        if picture.path is None:
            write_data(target, picture)
        else:
            shutil.move(picture.path, target)
        flush(target)
        return target

    def find(self, fingerprint: str) -> Iterator[tuple[Path, str]]:
        """Yield each whole picture of a request, and its format."""
        if is_own_folder(self.path):
            yield from whole_pictures(named(self.path, fingerprint))

    def arrived(self, fingerprint: str) -> list[Path]:
        """Return all files of a request: also those of answers that were arriving when their process died."""
        return sorted(self.path.glob(f"{fingerprint}.*")) if is_own_folder(self.path) else []


def named(folder: Path, fingerprint: str) -> Iterator[Path]:
    """Yield the paths under which a folder may have the picture of a request."""
    return (folder / f"{fingerprint}.{extension}" for extension in EXTENSIONS)


def take_over(earlier: Path, folder: Path) -> None:
    """Move this user's files from the folder that an earlier release used into the private `folder`.

    Every user could write to the parent of `earlier`: what others own, and links, are left alone.

    Raises:
        OSError: A file can't be moved. It is where it was.
    """
    if not hasattr(os, "O_NOFOLLOW") or not earlier.is_dir():
        return
    try:
        opened = open_own_folder(earlier)
    except OSError as error:
        log.warning("%s is not used: %s", earlier, error.strerror)
        return
    try:
        for name in os.listdir(opened):  # noqa: PTH208  of the folder that was checked, whatever has its name now
            found = os.stat(name, dir_fd=opened, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                continue
            make_private(folder)
            with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=opened), "rb") as file:
                write_atomically(folder / name, partial(_copy, file))
            os.unlink(name, dir_fd=opened)
    finally:
        os.close(opened)


def _copy(source: BinaryIO, target: Path) -> None:
    with target.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def whole_pictures(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield those files that are whole pictures, each with its format."""
    for path in paths:
        try:
            # Without a descriptor, a picture that was paid for would look like none.
            info = wait_for_descriptor(partial(inspect, path))
        except (OSError, NotAPicture) as error:
            if lacks_descriptor(error):
                raise
            continue
        yield path, info.format


def write_data(path: Path, picture: Picture) -> Path:
    """Write a picture that is in memory to a file.

    Raises:
        OSError: It can't be written. No part of it is left.
    """
    assert picture.data is not None, "a picture is in a file or in memory"
    try:
        path.write_bytes(picture.data)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path
