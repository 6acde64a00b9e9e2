"""Where the bytes of an answer go while they arrive: into a file, hashed on the way.

A picture is never held in memory as a whole, unless no disk takes it: bytes that were paid for go to the
rescue folder when the spool can't be written, and to memory when the rescue folder can't be written either.
"""

import hashlib
import io
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kontext_pipeline.segmind.payloads import starts_like_json


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


class Spool:
    """Receives one body, piece by piece."""

    def __init__(self, folder: Path, rescue: Path, *, prefix: str = "", json_in_file: bool = False) -> None:
        """Create nothing yet.

        `folder`: where the file is created. `rescue`: the folder that is used when that fails. `prefix`: start of
        the file's name. `json_in_file`: write JSON to a file as well, not to memory.
        """
        self.size = 0
        self._folder = folder
        self._rescue = rescue
        self._prefix = prefix
        self._json_in_file = json_in_file
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
                self._file = self._create(self._folder)
            _write_all(self._file, data)
        except OSError:
            self._spill(data)

    def finish(self) -> Received:
        """Return what was written. Nothing can be added afterwards."""
        if self._file is not None:
            try:
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

    def _create(self, folder: Path) -> io.FileIO:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._prefix}.{secrets.token_hex(8)}.part"
        file = path.open("xb+", buffering=0)
        self._path = path
        return file

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
            self._file = self._create(self._rescue)
            _write_all(self._file, earlier + data)
        except OSError:
            self._drop_file()
            self._memory = bytearray(earlier + data)

    def _drop_file(self) -> None:
        if self._file is not None and self._path is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._path.unlink()
        self._file = self._path = None


def _write_all(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
