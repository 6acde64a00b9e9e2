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
        # Another data directory may well have the same fingerprints, and pays for its own.
        own = hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
        self.rescue = rescue or Path(tempfile.gettempdir()) / "kontext-rescue" / own
        if self.local:
            self.spool = Path(data_dir.path) / "images" / ".incoming"
        else:
            self.spool = Path(tempfile.gettempdir()) / "kontext-incoming" / own
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

        Raises:
            StoreFull: it is in the rescue folder, and the store still can't take it.
        """
        for extension in EXTENSIONS if self.rescue.is_dir() else ():
            rescued = self.rescue / f"{fingerprint}.{extension}"
            if _is_whole(rescued):
                self._place_or_raise(rescued, fingerprint, extension)
        for extension in EXTENSIONS:
            path = self.path_of(fingerprint, extension)
            if self._may_be_there(path):
                with contextlib.suppress(FileNotFoundError, NotAPicture):
                    return self._measure(path)
        return None

    def recover(self, fingerprint: str) -> Stored | None:
        """Return the picture of a request whose run is gone, if it had arrived: stored or not yet.

        Raises:
            StoreFull: as `find`.
        """
        stored = self.find(fingerprint)
        if stored is not None:
            return stored
        for path in sorted(self.spool.glob(f"{fingerprint}.*")):
            try:
                extension = inspect(path).format
            except (OSError, NotAPicture):
                continue
            self._place_or_raise(path, fingerprint, extension)
            return self.find(fingerprint)
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
        except Exception as error:  # noqa: BLE001
            # Not OSError alone: file systems on the network raise what they like, and this was paid for.
            kept = self._rescue(fingerprint, picture)
            raise StoreFull(
                f"{path} can't be written ({_words(error)}). The picture is paid for and {kept}. No more is bought until "
                "there is room."
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

    def _place_or_raise(self, source: Path, fingerprint: str, extension: str) -> None:
        try:
            self._place(source, fingerprint, extension)
        except Exception as error:  # noqa: BLE001  as in keep()
            if not source.exists():
                # Another run was quicker.
                return
            raise StoreFull(
                f"{self.path_of(fingerprint, extension)} still can't be written ({_words(error)}). The picture is paid "
                f"for and kept as {source}. No more is bought until there is room."
            ) from None

    def _place(self, source: str | Path, fingerprint: str, extension: str) -> None:
        path = self.path_of(fingerprint, extension)
        if self._may_be_there(path):
            try:
                self._measure(path)
            except FileNotFoundError:
                pass
            except NotAPicture:
                # What is there was damaged: anything whole is better.
                (self.root / path).unlink()
            else:
                # Another run may have recovered this very file.
                Path(source).unlink(missing_ok=True)
                return
        if self.local:
            _flush(source)
            _rename(source, f"{self.root.path}/{path}")
        else:
            target = self.root / path
            target.fs.put_file(str(source), target.path)
            Path(source).unlink(missing_ok=True)

    def _may_be_there(self, path: str) -> bool:
        # Asked for every new picture, of which there is none: the dearer ways of finding that out add up.
        return not self.local or os.path.exists(f"{self.root.path}/{path}")  # noqa: PTH110

    def _measure(self, path: str) -> Stored:
        with self._local_copy(self.root / path) as local:
            info = inspect(local)
            with local.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Stored(path, digest, info.width, info.height, local.stat().st_size)

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

    def _rescue(self, fingerprint: str, picture: Picture) -> str:
        """Keep a picture that the store can't take; say what became of it."""
        place = self.rescue / f"{fingerprint}.{picture.format}"
        try:
            self.rescue.mkdir(parents=True, exist_ok=True)
            if picture.path is None:
                self._write_down(self.rescue, fingerprint, picture)
            else:
                shutil.move(picture.path, place)
            _flush(place)
        except OSError as error:
            if picture.path is None:
                return f"lost: {place} can't be written either ({_words(error)})"
            # Nowhere to put it. Where it is now is the best there is.
            return f"left as {picture.path}, as {place} can't be written either ({_words(error)})"
        return f"kept as {place}; the next run puts it in its place"


def _words(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _is_whole(path: Path) -> bool:
    try:
        inspect(path)
    except (OSError, NotAPicture):
        return False
    return True


def _flush(path: str | Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(source: str | Path, place: str) -> None:
    # Texts, no Paths: `Received` says why.
    folder = place.rpartition("/")[0]
    try:
        os.replace(source, place)  # noqa: PTH105
    except FileNotFoundError:
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(source).replace(place)
        _flush(Path(folder).parent)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The spill folder is on another disk: copy beside the place first, so that the rename is whole.
        Path(folder).mkdir(parents=True, exist_ok=True)
        aside = Path(folder, f".{Path(place).name}.{os.getpid()}")
        try:
            shutil.copyfile(source, aside)
            _flush(aside)
            aside.replace(place)
            Path(source).unlink()
        except OSError:
            aside.unlink(missing_ok=True)
            raise
    _flush(folder)
