"""Where the bytes of an answer go while they arrive: into a file, hashed on the way.

The file of an answer that will cost money is there before the request is sent, with room on the disk for a typical
picture: nothing that happens to the disk meanwhile can take the room away. Larger answers, and those that cost nothing to
ask for again, go to the rescue folder when the spool can't be written, and to memory when the rescue folder can't be
written either, or when too many files are open.
"""

import ctypes
import errno
import hashlib
import io
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from kontext_pipeline.files import lacks_descriptor, make_private
from kontext_pipeline.segmind.payloads import starts_like_json

HELD_BYTES: Final = 4 * 2**20
"""Room on the disk that a file has before its answer comes. The largest answers seen are smaller."""
_KEEP_SIZE: Final = 1
"""Flag of Linux's `fallocate`: the file gets the room and stays empty, so that a reader sees only what has arrived."""
_NOT_POSSIBLE: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What `fallocate` answers on a file system that can't hold room."""


@dataclass(frozen=True, slots=True)
class Received:
    """A body that arrived, in the file at `path` or, where `path` is None, in `data`.

    `data` holds JSON, which is only read once, and pictures that no disk took. `sha256`: 64 hex digits.
    `size`: bytes. `spilled`: the spool could not be written.
    """

    path: Path | None
    data: bytes
    sha256: str
    size: int
    spilled: bool

    def start(self, count: int) -> bytes:
        """Return the first `count` bytes, or nothing where the file can't be read."""
        if self.path is None:
            return self.data[:count]
        try:
            with self.path.open("rb") as file:
                return file.read(count)
        except OSError:
            return b""

    def first(self, size: int) -> "Received":
        """Return this body without what follows its first `size` bytes, which is removed from the file, too.

        Raises:
            OSError: the file can't be read or changed.
        """
        content = self.start(size)
        if self.path is not None:
            os.truncate(self.path, size)
        data = content if self.path is None else b""
        return replace(self, data=data, sha256=hashlib.sha256(content).hexdigest(), size=size)

    def discard(self) -> None:
        """Remove the file."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


class HeldFile:
    """An empty file for an answer that has not come, open, and with room on the disk. A context manager.

    While the file is empty and locked, a process waits for its answer (`is_abandoned`).
    """

    def __init__(self, folder: Path, prefix: str, *, size: int = HELD_BYTES) -> None:
        """Create the file in `folder`, under a name that starts with `prefix`, with room for `size` bytes.

        Room is held on Linux, on file systems that can do so.

        Raises:
            OSError: the file can't be created, or the disk has no room.
        """
        self._path, self._file = _create(folder, prefix)
        self._taken = False
        try:
            _lock(self._file.fileno())
            _hold_room(self._file.fileno(), size)
        except OSError:
            self.discard()
            raise

    def __enter__(self) -> "HeldFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def take(self) -> tuple[Path, io.FileIO] | None:
        """Return path and file to the first caller, who has to close or remove them; None to later callers."""
        if self._taken:
            return None
        self._taken = True
        return self._path, self._file

    def discard(self) -> None:
        """Remove the file, unless it was taken."""
        if not self._taken:
            self._taken = True
            _remove(self._path, self._file)


def is_abandoned(path: Path) -> bool:
    """Return whether an empty file was held by a process that has ended."""
    with suppress(OSError), path.open("rb+") as file:
        return _lock(file.fileno()) and os.fstat(file.fileno()).st_size == 0
    return False


class Spool:
    """Receives one body, piece by piece."""

    def __init__(
        self,
        folder: Path,
        rescue: Path,
        *,
        prefix: str = "",
        json_in_file: bool = False,
        held: HeldFile | None = None,
    ) -> None:
        """Create nothing yet.

        `folder`: where the file is created. `rescue`: the folder that is used when that fails. `prefix`: start of
        the file's name. `json_in_file`: write JSON to a file as well, not to memory. `held`: the file to use, unless
        another spool has taken it.
        """
        self.size = 0
        self._folder = folder
        self._rescue = rescue
        self._prefix = prefix
        self._json_in_file = json_in_file
        self._held = held
        self._hash = hashlib.sha256()
        self._file: io.FileIO | None = None
        self._path: Path | None = None
        self._memory: bytearray | None = None
        self._spilled = False

    @property
    def holds_json(self) -> bool:
        """Whether what was written may be JSON."""
        return self._memory is not None and not self._spilled

    def write(self, data: bytes) -> None:
        """Add `data`. Never fails: the bytes go where there is room."""
        if not self.size and not self._json_in_file and starts_like_json(data):
            self._memory = bytearray()
        self._hash.update(data)
        self.size += len(data)
        if self._memory is not None:
            self._memory += data
            return
        try:
            if self._file is None:
                self._path, self._file = self._open()
            _write_all(self._file, data)
        except OSError as error:
            if self._file is None and lacks_descriptor(error):
                # The bytes can't come again; a descriptor can.
                self._memory = bytearray(data)
            else:
                self._spill(data)

    def finish(self) -> Received:
        """Return what was written. Nothing can be added afterwards."""
        if self._file is not None:
            try:
                # Gives back the room that the answer did not need.
                self._file.truncate(self.size)
                self._file.close()
            except OSError:
                # Network file systems report a full disk here. The file stays: flushing it to the disk will
                # report the failure again.
                self._spilled = True
        return Received(self._path, bytes(self._memory or b""), self._hash.hexdigest(), self.size, self._spilled)

    def discard(self) -> None:
        """Drop everything that was written."""
        self._memory = None
        self._drop_file()

    def _open(self) -> tuple[Path, io.FileIO]:
        held = self._held.take() if self._held is not None else None
        if held is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            held = _create(self._folder, self._prefix)
        return held

    def _spill(self, data: bytes) -> None:
        """Move what was written, and `data`, to the rescue folder or to memory."""
        self._spilled = True
        # A part of `data` may have reached the file, so only the bytes before it are taken from there.
        earlier = b""
        if self._file is not None:
            with suppress(OSError):
                self._file.seek(0)
                earlier = self._file.readall()[: self.size - len(data)]
        self._drop_file()
        try:
            make_private(self._rescue)
            self._path, self._file = _create(self._rescue, self._prefix)
            _write_all(self._file, earlier + data)
        except OSError:
            self._drop_file()
            self._memory = bytearray(earlier + data)

    def _drop_file(self) -> None:
        if self._file is not None and self._path is not None:
            _remove(self._path, self._file)
        self._file = self._path = None


def _create(folder: Path, prefix: str) -> tuple[Path, io.FileIO]:
    path = folder / f"{prefix}.{secrets.token_hex(8)}.part"
    return path, path.open("xb+", buffering=0)


def _remove(path: Path, file: io.FileIO) -> None:
    with suppress(OSError):
        file.close()
    with suppress(OSError):
        path.unlink()


def _lock(descriptor: int) -> bool:
    """Lock a file for as long as it is open; return False where another process has."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _hold_room(descriptor: int, size: int) -> None:
    """Give a file room on the disk, where the file system can.

    Raises:
        OSError: there is no room.
    """
    fallocate = _fallocate()
    if fallocate is not None and fallocate(descriptor, _KEEP_SIZE, 0, size) != 0:
        number = ctypes.get_errno()
        if number not in _NOT_POSSIBLE:
            raise OSError(number, os.strerror(number))


@cache
def _fallocate() -> Any:
    # `os.posix_fallocate` would make the file longer, and would write every block where the file system can't do it.
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    return function


def _write_all(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
