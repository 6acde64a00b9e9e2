"""Where an answer's bytes go while they arrive: a file, hashed on the way, never a whole picture in memory.

Belongs here: writing, hashing and bounding what arrives, and not losing it when the disk is full. What
was paid for goes on to the rescue folder, and from there to memory, before it would be dropped.
"""

import hashlib
import io
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from kontext_pipeline.segmind.payloads import starts_like_json

_TEXT_BYTES: Final = 1 << 16
"""Of JSON that is not worth a file: the record of a job is some hundred bytes, and making a file costs more
than all else that is done with it."""


@dataclass(frozen=True, slots=True)
class Received:
    """A body that arrived: in the file at `file`, or in `data` where it is a short text or no disk would take it.

    `file` is text, as the interpreter interns the parts of every `Path`: its table of them doubles after some thousand
    pictures. `spilled`: it is not in the spool, which could not be written. `whole`: the bytes once more, where they
    came in one piece, so that whoever looks at them need not read them back.
    """

    file: str | None
    data: bytes | None
    sha256: str
    size: int
    spilled: bool
    whole: bytes | None = None

    @property
    def path(self) -> Path | None:
        """The file's path."""
        return None if self.file is None else Path(self.file)

    def open(self) -> BinaryIO:
        """Return a seekable file of the bytes."""
        if self.file is None:
            return io.BytesIO(self.data or b"")
        return io.FileIO(self.file)

    def head(self) -> bytes:
        """Return the first 4 KiB; nothing where they can't be read back."""
        return self._start(4096)

    def content(self) -> bytes:
        """Return all bytes at once: for JSON, not for pictures. Nothing where they can't be read back."""
        return self._start(self.size)

    def _start(self, count: int) -> bytes:
        try:
            with self.open() as file:
                return file.read(count)
        except OSError:
            return b""

    def discard(self) -> None:
        """Remove the file."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


class Spool:
    """Takes one body, piece by piece. `write` never fails: it goes where there is room."""

    def __init__(self, directory: Path, rescue: Path, *, name: str = "", as_file: bool = False) -> None:
        """`directory`: where the file goes, made when needed. `rescue`: where it goes if that fails. `name`: what
        the file's name begins with. Short texts get no file except with `as_file`.
        """
        self.size = 0
        self.spilled = False
        self._directory = directory
        self._rescue = rescue
        self._name = name
        self._text: bytes | None = None if as_file else b""
        self._whole: bytes | None = None
        self._hash = hashlib.sha256()
        self._path: str | None = None
        self._file: io.FileIO | None = None
        self._memory: bytearray | None = None

    def write(self, data: bytes) -> None:
        """Add `data`."""
        self._whole = None if self.size else data
        self._hash.update(data)
        self.size += len(data)
        if self._text is not None:
            data, self._text = self._text + data, None
            if len(data) <= _TEXT_BYTES and starts_like_json(data):
                self._text = data
                return
        if self._memory is None:
            try:
                if self._file is None:
                    self._open(self._directory)
                self._write_out(data)
            except OSError:
                self._spill(data)
        else:
            self._memory += data

    def finish(self) -> Received:
        """Return what was written; nothing can be added any more."""
        if self._file is None and self._memory is None:
            self._memory = bytearray(self._text or b"")
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                # Network file systems report a full disk here. The bytes stay where they are; whoever
                # flushes the file will meet the fault again.
                self.spilled = True
        data = None if self._memory is None else bytes(self._memory)
        return Received(self._path, data, self._hash.hexdigest(), self.size, self.spilled, self._whole)

    def discard(self) -> None:
        """Drop everything."""
        self._memory = self._text = None
        self._drop_file()

    def _open(self, directory: Path) -> None:
        path = f"{directory}{os.sep}{self._name}.{secrets.token_hex(8)}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags, 0o644)
        except FileNotFoundError:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, flags, 0o644)
        self._file = io.FileIO(descriptor, "r+b")
        self._path = path

    def _write_out(self, data: bytes) -> None:
        if self._file is None:
            raise OSError("no file")
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _spill(self, data: bytes) -> None:
        """Move what was written, and `data`, to the rescue folder, or to memory."""
        self.spilled = True
        # A part of `data` may be in the file as well.
        earlier = self._written(self.size - len(data))
        first, self._file, first_path, self._path = self._file, None, self._path, None
        try:
            self._open(self._rescue)
            self._write_out(earlier)
            self._write_out(data)
        except OSError:
            self._drop_file()
            self._memory = bytearray(earlier) + data
        if first is not None and first_path is not None:
            with suppress(OSError):
                first.close()
            with suppress(OSError):
                Path(first_path).unlink()

    def _written(self, count: int) -> bytes:
        if self._file is None:
            return b""
        self._file.seek(0)
        kept = bytearray()
        while len(kept) < count:
            piece = self._file.read(count - len(kept))
            if not piece:
                break
            kept += piece
        return bytes(kept)

    def _drop_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        if self._path is not None:
            with suppress(OSError):
                Path(self._path).unlink()
        self._file = self._path = None
