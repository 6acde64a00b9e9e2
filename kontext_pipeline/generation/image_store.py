"""The image store: generated pictures, named by fingerprint, written once and never changed.

A picture arrives in the spool, a folder beside the store, and moves to the store when it is complete and on the disk.
Under its name there is the whole picture or none, whatever happens to the process or the power.
"""

import contextlib
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
from kontext_pipeline.files import is_local, write_atomically
from kontext_pipeline.generation.ledger import Stored
from kontext_pipeline.generation.rescue_folder import EXTENSIONS, RescueFolder, whole_pictures, write_data
from kontext_pipeline.segmind.answers import Picture
from kontext_pipeline.segmind.images import NotAPicture, decode, inspect

DISK_RESERVE: Final = 8 * 2**20
"""Free bytes that the disk must have for each picture in flight. The largest answers seen are under 4 MiB."""


class StoreFull(KontextError):
    """The image store can't take another picture. Nothing that was paid for is lost, and no more is bought."""


class ImageStore:
    """Pictures under `<data directory>/images/`, on a local disk or on any fsspec file system.

    Raises:
        StoreFull: The store's folder can't be created.
    """

    def __init__(self, data_dir: UPath, *, rescue: Path | None = None) -> None:
        """`rescue`: the local folder for paid pictures that the store can't take.

        By default it is a folder in the system's temporary folder, one for each data directory.
        """
        self.local = is_local(data_dir)
        # Not a UPath where there is a choice: it is slow, and used for every picture.
        self.root: Path | UPath = Path(data_dir.path) if self.local else data_dir
        # Another data directory may have the same fingerprints. It pays for its own pictures.
        own = hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
        temporary = Path(tempfile.gettempdir())
        self.rescue = rescue or temporary / "kontext-rescue" / own
        self._rescue_folder = RescueFolder(self.rescue)
        images = Path(data_dir.path) / "images"
        self.spool = images / ".incoming" if self.local else temporary / "kontext-incoming" / own
        try:
            self.spool.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreFull(f"the image store {self.spool.parent} can't be written: {error.strerror}") from None

    def check_room(self, in_flight: int) -> None:
        """Make sure that what is about to be paid for can be kept.

        Raises:
            StoreFull: The disk has no room for `in_flight` pictures.
        """
        free = shutil.disk_usage(self.spool).free
        if free < DISK_RESERVE * in_flight:
            raise StoreFull(
                f"the disk of {self.spool.parent} has {free / 2**20:.0f} MiB left, too little for {in_flight} pictures in "
                "flight. No more is bought. Make room and start again: what is done stays done."
            )

    def path_of(self, fingerprint: str, extension: str) -> str:
        """Return the path of a picture, relative to the data directory."""
        return f"images/{fingerprint[:2]}/{fingerprint}.{extension}"

    def find(self, fingerprint: str) -> Stored | None:
        """Return the picture of a request if the store or the rescue folder has it. It moves to the store first.

        Raises:
            StoreFull: The picture is in the rescue folder, and the store still can't take it.
        """
        for rescued, extension in self._rescue_folder.find(fingerprint):
            self._adopt(rescued, fingerprint, extension)
        for extension in EXTENSIONS:
            stored = self._measure(self.path_of(fingerprint, extension))
            if stored is not None:
                return stored
        return None

    def recover(self, fingerprint: str) -> Stored | None:
        """Return the picture of a request whose run has ended, if it had arrived: in the store, or still in the spool.

        Raises:
            StoreFull: As for `find`.
        """
        stored = self.find(fingerprint)
        if stored is None:
            for spooled, extension in whole_pictures(sorted(self.spool.glob(f"{fingerprint}.*"))):
                self._adopt(spooled, fingerprint, extension)
                return self.find(fingerprint)
        return stored

    def keep(self, fingerprint: str, picture: Picture) -> Stored:
        """Move a picture that has just arrived to the store, and to the disk.

        Raises:
            StoreFull: The picture can't be written. It is in the rescue folder, and the message says so.
        """
        path = self.path_of(fingerprint, picture.format)
        try:
            spooled = self.spool / f"{fingerprint}.{picture.format}"
            self._store(picture.path or write_data(spooled, picture), path)
        except Exception as error:  # noqa: BLE001
            # Any error: remote file systems raise their own, and this picture was paid for.
            kept = self._rescue_folder.keep(fingerprint, picture)
            raise StoreFull(
                f"{path} can't be written ({_reason(error)}). The picture is paid for and {kept}. No more is bought until "
                "there is room."
            ) from None
        return Stored(path, picture.sha256, picture.width, picture.height, picture.bytes)

    def set_aside(self, remains: Path, fingerprint: str, attempt: int) -> None:
        """Keep what came instead of a picture, as evidence against the charge."""
        folder = self.spool.parent / ".unusable"
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            remains.replace(folder / f"{fingerprint}.{attempt}")

    def damage(self, path: str) -> str | None:
        """Decode the picture at `path`, relative to the data directory. Return what is wrong with it, None if nothing.

        A file that is gone, or can't be read, is not damaged.
        """
        try:
            with self._local_copy(path) as local:
                decode(local)
        except NotAPicture as error:
            return str(error)
        except OSError:
            return None
        return None

    def withdraw(self, path: str, fingerprint: str, attempt: int) -> str:
        """Set aside a damaged picture of the store. Return where it is now."""
        with contextlib.suppress(FileNotFoundError):
            with self._local_copy(path) as local:
                aside = self.spool / f"{fingerprint}.{attempt}.damaged"
                shutil.copyfile(local, aside)
            self.set_aside(aside, fingerprint, attempt)
            (self.root / path).unlink()
        return str(self.spool.parent / ".unusable" / f"{fingerprint}.{attempt}")

    def sweep(self, older_than_s: float) -> None:
        """Remove the incomplete files that dead processes left in the spool."""
        for path in self.spool.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()

    def _adopt(self, source: Path, fingerprint: str, extension: str) -> None:
        """Move a picture of an earlier run to the store."""
        path = self.path_of(fingerprint, extension)
        try:
            self._store(source, path)
        except Exception as error:  # noqa: BLE001  any error, as in keep()
            # Without a source, another run has moved the picture.
            if source.exists():
                raise StoreFull(
                    f"{path} still can't be written ({_reason(error)}). The picture is paid for and kept as {source}. No "
                    "more is bought until there is room."
                ) from None

    def _store(self, source: Path, path: str) -> None:
        """Store a file, unless the store has a whole picture under its name. Only then remove the file."""
        if self._measure(path) is None:
            write_atomically(self.root / path, lambda temporary: _copy(source, temporary), temporary_folder=self.spool)
        source.unlink(missing_ok=True)

    def _measure(self, path: str) -> Stored | None:
        """Return the picture under a name, if there is a whole one."""
        # First the cheapest test, as most pictures that are looked for are new.
        if self.local and not os.path.exists(f"{self.root}/{path}"):  # noqa: PTH110
            return None
        with contextlib.suppress(FileNotFoundError, NotAPicture), self._local_copy(path) as local:
            info = inspect(local)
            with local.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Stored(path, digest, info.width, info.height, local.stat().st_size)
        return None

    @contextlib.contextmanager
    def _local_copy(self, path: str) -> Iterator[Path]:
        target = self.root / path
        if not isinstance(target, UPath):
            yield target
            return
        with tempfile.NamedTemporaryFile(dir=self.spool) as copy:
            target.fs.get_file(target.path, copy.name)
            yield Path(copy.name)


def _copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that is impossible: on another disk, or on some file systems."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
