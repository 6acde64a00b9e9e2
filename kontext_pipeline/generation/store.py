"""The image store: pictures named by fingerprint, written once, never changed.

A picture arrives in a spool folder beside the store, is flushed to the disk and then renamed into its
place: under its name there is a whole picture or none, whatever happens to the process or the power.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from upath import UPath

from kontext_pipeline.errors import KontextError
from kontext_pipeline.generation.ledger import Stored
from kontext_pipeline.segmind.answers import Picture
from kontext_pipeline.segmind.images import NotAPicture, inspect

EXTENSIONS: Final = ("png", "jpg", "webp")
ROOM_A_PICTURE: Final = 8 * 2**20
"""Free bytes wanted for each picture that is in flight; the largest answers seen are under 4 MiB."""
CHUNK: Final = 2**20


class StoreFull(KontextError):
    """The image store can't take another picture. Nothing that was paid for is lost; no more is bought."""


class ImageStore:
    """Pictures under `<data directory>/images/`, on a local disk or any fsspec file system."""

    def __init__(self, data_dir: UPath, *, rescue: Path | None = None) -> None:
        """`rescue`: the local folder for paid pictures that the store can't take (default: the system's
        temporary folder), each under its fingerprint, where the next run looks for them.
        """
        self.root = data_dir
        self.local = data_dir.protocol in ("", "file", "local")
        self.rescue = rescue or Path(tempfile.gettempdir()) / "kontext-rescue"
        if self.local:
            self.spool = Path(data_dir.path) / "images" / ".incoming"
        else:
            self.spool = Path(tempfile.gettempdir()) / "kontext-incoming"
        try:
            self.spool.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreFull(
                f"the image store {self.spool.parent} can't be written: {error.strerror}"
            ) from None

    def check_room(self, in_flight: int) -> None:
        """Make sure that what is about to be paid for can be kept.

        Raises:
            StoreFull: the disk has no room for `in_flight` pictures.
        """
        free = shutil.disk_usage(self.spool).free
        if free < ROOM_A_PICTURE * in_flight:
            raise StoreFull(
                f"the disk of {self.spool.parent} has {free / 2**20:.0f} MiB left, too little for {in_flight} pictures in "
                "flight. No more is bought. Make room and start again: what is done stays done."
            )

    def path_of(self, fingerprint: str, extension: str) -> str:
        """Return where a picture lives, relative to the data directory."""
        return f"images/{fingerprint[:2]}/{fingerprint}.{extension}"

    def find(self, fingerprint: str) -> Stored | None:
        """Return the picture of a request if the store or the rescue folder has it, whole.

        One in the rescue folder is moved into the store first.
        """
        for extension in EXTENSIONS:
            rescued = self.rescue / f"{fingerprint}.{extension}"
            with contextlib.suppress(OSError, NotAPicture):
                if rescued.is_file():
                    inspect(rescued)
                    self._place(rescued, fingerprint, extension)
        for extension in EXTENSIONS:
            path = self.path_of(fingerprint, extension)
            with contextlib.suppress(FileNotFoundError, NotAPicture):
                return self._measure(path)
        return None

    def keep(self, fingerprint: str, picture: Picture) -> Stored:
        """Put a picture that has just arrived in its place, on the disk.

        Raises:
            StoreFull: it could not be written; the picture is kept in the rescue folder and the message
                says where.
        """
        path = self.path_of(fingerprint, picture.format)
        try:
            source = picture.path or self._write_down(self.spool, fingerprint, picture)
            self._place(source, fingerprint, picture.format)
        except OSError as error:
            kept = self._rescue(fingerprint, picture)
            raise StoreFull(
                f"{path} can't be written ({error.strerror or error}). The picture is paid for and kept as {kept}; the next "
                "run puts it in its place. No more is bought until there is room."
            ) from None
        return Stored(path, picture.sha256, picture.width, picture.height, picture.bytes)

    def set_aside(self, remains: Path, fingerprint: str, attempt: int) -> None:
        """Keep what came instead of a picture, for whoever wants to dispute the charge."""
        folder = self.spool.parent / ".unusable"
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            remains.replace(folder / f"{fingerprint}.{attempt}")

    def sweep(self, older_than_s: float) -> None:
        """Remove what dead processes left half-received in the spool."""
        for path in self.spool.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()

    def _place(self, source: Path, fingerprint: str, extension: str) -> None:
        relative = self.path_of(fingerprint, extension)
        target = self.root / relative
        if not self.local:
            if not target.exists():
                target.fs.put_file(str(source), target.path)
            source.unlink()
            return
        place = Path(target.path)
        if place.exists():
            source.unlink()
            return
        _flush(source)
        _rename(source, place)

    def _measure(self, path: str) -> Stored:
        target = self.root / path
        digest = hashlib.sha256()
        with target.open("rb") as file, self._local_copy(target) as local:
            info = inspect(local)
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return Stored(path, digest.hexdigest(), info.width, info.height, target.stat().st_size)

    @contextlib.contextmanager
    def _local_copy(self, target: UPath) -> Iterator[Path]:
        if self.local:
            yield Path(target.path)
            return
        with tempfile.NamedTemporaryFile(dir=self.spool) as copy:
            target.fs.get_file(target.path, copy.name)
            yield Path(copy.name)

    def _write_down(self, folder: Path, fingerprint: str, picture: Picture) -> Path:
        assert picture.data is not None, "a picture is in a file or in memory"
        path = folder / f"{fingerprint}.{picture.format}"
        path.write_bytes(picture.data)
        return path

    def _rescue(self, fingerprint: str, picture: Picture) -> Path:
        place = self.rescue / f"{fingerprint}.{picture.format}"
        try:
            self.rescue.mkdir(parents=True, exist_ok=True)
            if picture.path is None:
                self._write_down(self.rescue, fingerprint, picture)
            else:
                shutil.move(picture.path, place)
            _flush(place)
        except OSError:
            # Nowhere to put it. Where it is now is the best there is.
            return picture.path or place
        return place


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(source: Path, place: Path) -> None:
    try:
        source.replace(place)
    except FileNotFoundError:
        place.parent.mkdir(parents=True, exist_ok=True)
        source.replace(place)
        _flush(place.parent.parent)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The spill folder is on another disk: copy beside the place first, so that the rename is whole.
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f".{place.name}.{os.getpid()}")
        shutil.copyfile(source, aside)
        _flush(aside)
        aside.replace(place)
        source.unlink()
    _flush(place.parent)
