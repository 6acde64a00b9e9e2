"""Files that are complete or absent, on a local disk or on any fsspec file system.

Code that only one room needs does not belong here.
"""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from upath import UPath

AnyPath: TypeAlias = "Path | UPath"
"""A path on a local disk or on any fsspec file system."""


def is_local(path: "AnyPath | str") -> bool:
    """Return whether a path or URL names a file of this machine."""
    protocol = path.rpartition("://")[0] if isinstance(path, str) else getattr(path, "protocol", "")
    return protocol in {"", "file", "local"}


def local_path(path: AnyPath) -> Path:
    """Return a path on a local disk as a `Path`, which is faster than a `UPath`."""
    return Path(path.path) if hasattr(path, "path") else path


def write_atomically(path: AnyPath, write: Callable[[Path], object], *, temporary_folder: Path | None = None) -> None:
    """Create or replace the file at `path`, so that a crash at any moment leaves the old file or the new one.

    A local file is written under a temporary name, flushed to the disk and renamed; then its folder is
    flushed. For a remote file, a local temporary file is uploaded: object stores show an upload when it is
    complete.

    Args:
        path: The file. Missing parent folders are created.
        write: Writes the content to the local path that it is given, where no file is.
        temporary_folder: Where the temporary file of a local `path` is written; the default is the file's own
            folder. It must exist, on the same file system.

    Raises:
        OSError: The file can't be written. The old file, if any, is untouched, and the temporary file removed.
    """
    if not is_local(path):
        with tempfile.TemporaryDirectory(prefix="kontext-") as folder:
            temporary = Path(folder) / "file"
            write(temporary)
            path.fs.put_file(str(temporary), path.path)  # type: ignore[union-attr]
        return
    target = local_path(path)
    _make_folder(target.parent)
    temporary = (temporary_folder or target.parent) / f".{target.name}.{secrets.token_hex(8)}.tmp"
    try:
        write(temporary)
        flush(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    flush(target.parent)


def flush(path: Path) -> None:
    """Wait until a local file's content, or the names in a local folder, are on the disk."""
    if os.name != "posix" and path.is_dir():
        return  # Windows can't open a folder, and doesn't need to.
    descriptor = os.open(path, os.O_RDWR if os.name != "posix" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            flush(folder.parent)
