"""Files that are complete or absent, on a local disk or on any fsspec file system; folders of one user alone.

Code that only one room needs does not belong here.
"""

import contextlib
import errno
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

if TYPE_CHECKING:
    from upath import UPath

AnyPath: TypeAlias = "Path | UPath"
"""A path on a local disk or on any fsspec file system."""

T = TypeVar("T")

DESCRIPTOR_WAIT_S: Final = 60.0
"""Longest wait for other files of this process or system to be closed, seconds."""
DESCRIPTOR_PAUSE_S: Final = 0.1
_TOO_MANY_OPEN: Final = frozenset({errno.EMFILE, errno.ENFILE})


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
    flags = os.O_RDWR if os.name != "posix" else os.O_RDONLY
    descriptor = wait_for_descriptor(lambda: os.open(path, flags))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lacks_descriptor(error: BaseException) -> bool:
    """Return whether something failed because this process, or the system, has too many files open."""
    return isinstance(error, OSError) and error.errno in _TOO_MANY_OPEN


def wait_for_descriptor(work: Callable[[], T]) -> T:
    """Return `work()`. While it fails because too many files are open, do it again, for `DESCRIPTOR_WAIT_S` at most."""
    until = time.monotonic() + DESCRIPTOR_WAIT_S
    while True:
        try:
            return work()
        except OSError as error:
            if not lacks_descriptor(error) or time.monotonic() >= until:
                raise
        time.sleep(DESCRIPTOR_PAUSE_S)


def state_folder(*names: str) -> Path:
    """Return the folder `names` among what this user's programs must not lose: in `XDG_STATE_HOME` or `~/.local/state`.

    `make_private` makes the folder.
    """
    home = Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"))  # noqa: PTH111  never raises
    # Some users of containers have no home.
    return home.joinpath("kontext-pipeline", *names) if home.is_absolute() else temporary_folder(*names)


def cache_folder(*names: str) -> Path:
    """Return the folder `names` among what this user's programs can make again: in `XDG_CACHE_HOME` or `~/.cache`.

    `make_private` makes the folder.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111  never raises
    return home.joinpath("kontext-pipeline", *names) if home.is_absolute() else temporary_folder(*names)


def temporary_folder(*names: str) -> Path:
    """Return the folder `names` of this user among the system's temporary files. `make_private` makes the folder."""
    user = str(os.geteuid()) if hasattr(os, "geteuid") else "user"
    # One folder, without parents: another user could own those.
    return Path(tempfile.gettempdir()) / "-".join(["kontext", user, *names])


def make_private(folder: Path) -> None:
    """Create a folder, with its parents, that no other user can read or write.

    Raises:
        OSError: It can't be made, or it is a link or another user's: nothing in it can be trusted.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_own_folder(folder):
        raise PermissionError(errno.EPERM, "it is not a folder of this user", str(folder))
    if folder.lstat().st_mode & 0o077:
        folder.chmod(0o700)


def is_own_folder(folder: Path) -> bool:
    """Return whether a path is a folder that belongs to this user, and no link to one."""
    try:
        return _is_own(folder.lstat())
    except OSError:
        return False


def open_own_folder(folder: Path) -> int:
    """Open a folder and return its descriptor.

    Raises:
        OSError: There is none, or it is a link, or another user may write to it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        if not _is_own(found) or found.st_mode & stat.S_IWOTH:
            raise PermissionError(errno.EPERM, "another user may write to it", str(folder))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_own(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and (not hasattr(os, "geteuid") or found.st_uid == os.geteuid())


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            flush(folder.parent)
