"""The input store: input pictures, named by the sha256 of their bytes, each kept once.

A picture is `<data dir>/inputs/<first two hex>/<sha256>.<ext>`, with exactly the bytes that came. It is never changed.
"""

import contextlib
import errno
import hashlib
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kontext_pipeline.errors import KontextError
from kontext_pipeline.files import AnyPath, is_local, local_path, write_atomically
from kontext_pipeline.inputs.pictures import EXTENSIONS, MEDIA_TYPES, NotAnImage, PictureFacts, inspect_picture

__all__ = ["InputStore", "InputStoreFull", "KeptInput", "NotAnImage"]

SPOOL_KEPT_S: Final = 24 * 3600.0
"""Time for which half-received pictures of dead processes are kept, seconds."""


class InputStoreFull(KontextError):
    """The input store can't be written: most likely, its disk is full. What is kept already stays."""


@dataclass(frozen=True, slots=True)
class KeptInput:
    """A picture in the store.

    Attributes:
        sha256: sha256 of the bytes, 64 hex digits.
        path: Path relative to the data directory.
        format: Pillow's name of the format, such as `JPEG`.
        bytes: Size of the file.
        width, height: Pixels of the upright picture: an EXIF orientation is applied. The file is as it came.
    """

    sha256: str
    path: str
    format: str
    bytes: int
    width: int
    height: int

    @property
    def media_type(self) -> str:
        """The media type, such as `image/jpeg`."""
        return MEDIA_TYPES[self.format]


def kept_path(sha256: str, kind: str) -> str:
    """Return the path of a picture of the format `kind` (Pillow's name), relative to the data directory."""
    return f"inputs/{sha256[:2]}/{sha256}.{EXTENSIONS[kind]}"


class InputStore:
    """The input pictures of one data directory. Safe to use from several threads and processes."""

    def __init__(self, data_dir: AnyPath, *, reserve_bytes: int = 0) -> None:
        """Nothing is created yet.

        `data_dir`: the data directory, local or on any fsspec file system. `reserve_bytes`: room that pictures must
        leave on a local disk.
        """
        self.data_dir = data_dir
        self._reserve_bytes = reserve_bytes
        self._local = local_path(data_dir) if is_local(data_dir) else None
        self._temporary = tempfile.TemporaryDirectory(prefix="kontext-inputs-") if self._local is None else None
        self._swept = False
        self._lock = threading.Lock()

    def keep(self, data: bytes) -> KeptInput:
        """Keep a picture, unless the store has it, and return it.

        Raises:
            NotAnImage: `data` is no picture of a known format, or is damaged.
            InputStoreFull: the picture can't be written.
        """
        with self.spool_file() as path:
            with self.writing():
                path.write_bytes(data)
            return self.keep_file(path, hashlib.sha256(data).hexdigest(), inspect_picture(path))

    def keep_file(self, path: Path, sha256: str, facts: PictureFacts) -> KeptInput:
        """Move a picture in the file `path`, which `spool_file` gave, to the store, unless the store has it.

        Raises:
            InputStoreFull: the picture can't be written.
        """
        size = path.stat().st_size
        kept = KeptInput(sha256, kept_path(sha256, facts.format), facts.format, size, facts.width, facts.height)
        if not self.has(kept):
            with self.writing():
                self._check_room(size)
                target = (self._local or self.data_dir) / kept.path
                write_atomically(target, path.replace, temporary_folder=self._local and path.parent)
        return kept

    def has(self, kept: KeptInput) -> bool:
        """Return whether the store has the picture, with all its bytes."""
        target = (self._local or self.data_dir) / kept.path
        try:
            return int(target.stat().st_size) == kept.bytes
        except OSError:
            return False

    def read(self, kept: KeptInput) -> bytes:
        """Return the bytes of a picture.

        Raises:
            OSError: the picture is gone, or its bytes have changed.
        """
        data: bytes = ((self._local or self.data_dir) / kept.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != kept.sha256:
            raise OSError(errno.EIO, "the kept picture was changed", kept.path)
        return data

    @contextlib.contextmanager
    def spool_file(self) -> Iterator[Path]:
        """Give the path of a new empty file for a picture that arrives. The file is removed after the block.

        Raises:
            InputStoreFull: the file can't be made.
        """
        with self.writing():
            path = self._spool() / secrets.token_hex(16)
            path.touch(exist_ok=False)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn what goes wrong with a write in the block into `InputStoreFull`."""
        try:
            yield
        except InputStoreFull:
            raise
        except Exception as error:  # noqa: BLE001
            # Any error: remote file systems raise their own.
            reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
            raise InputStoreFull(
                f"the input store {self.data_dir / 'inputs'} can't be written: {reason}. Make room and start again: what "
                "is kept stays."
            ) from None

    def _spool(self) -> Path:
        if self._local is None:
            assert self._temporary is not None
            return Path(self._temporary.name)
        folder = self._local / "inputs" / ".incoming"
        with self._lock:
            if not self._swept:
                folder.mkdir(parents=True, exist_ok=True)
                _sweep(folder)
                self._swept = True
        return folder

    def _check_room(self, size: int) -> None:
        if self._local is None or not self._reserve_bytes:
            return
        free = shutil.disk_usage(self._local).free
        if free < self._reserve_bytes + size:
            raise OSError(
                errno.ENOSPC, f"its disk has {free / 2**20:.0f} MiB left, which generated pictures in flight need"
            )


def _sweep(folder: Path) -> None:
    """Remove what dead processes left."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > SPOOL_KEPT_S:
                path.unlink()
