"""The image store: generated pictures, named by fingerprint, written once and never changed.

A picture arrives in the spool, a folder beside the store, and moves to the store when it is complete and on the disk.
Under its name there is the whole picture or none, whatever happens to the process or the power.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from upath import UPath

from kontext_pipeline.errors import KontextError
from kontext_pipeline.files import (
    is_local,
    make_private,
    temporary_folder,
    wait_for_descriptor,
    write_atomically,
)
from kontext_pipeline.generation.ledger import Stored
from kontext_pipeline.generation.resamples import folder_of
from kontext_pipeline.generation.rescue_folder import (
    EXTENSIONS,
    RescueFolder,
    digest_of,
    named,
    rescue_folder_of,
    take_over,
    whole_pictures,
    write_data,
)
from kontext_pipeline.segmind.answers import Picture
from kontext_pipeline.segmind.images import NotAPicture, decode, inspect
from kontext_pipeline.segmind.spool import HeldFile, is_abandoned

DISK_RESERVE: Final = 8 * 2**20
"""Free bytes that the disk must have for each picture in flight. The largest answers seen are under 4 MiB."""
ROOM_WAIT_S: Final = 60.0
"""How long a picture that no disk takes stays in memory until there is room, seconds."""
ROOM_PAUSE_S: Final = 1.0
ABANDONED_AFTER_S: Final = 60.0
"""Age of an empty file in the spool from which its process may have ended, seconds."""

log = logging.getLogger(__name__)


class StoreFull(KontextError):
    """The image store can't take another picture. Nothing that was paid for is lost, and no more is bought."""


class ImageStore:
    """Pictures under `<data directory>/images/`, on a local disk or on any fsspec file system.

    Raises:
        StoreFull: The store's folder can't be created.
    """

    def __init__(self, data_dir: UPath, *, rescue: Path | None = None) -> None:
        """`rescue`: the local folder for paid pictures that the store can't take.

        By default it is in the user's state folder, one for each data directory.
        """
        self.local = is_local(data_dir)
        # Not a UPath where there is a choice: it is slow, and used for every picture.
        self.root: Path | UPath = Path(data_dir.path) if self.local else data_dir
        own = digest_of(data_dir)
        temporary = Path(tempfile.gettempdir())
        self.rescue = rescue or rescue_folder_of(data_dir)
        self._rescue_folder = RescueFolder(self.rescue)
        images = Path(data_dir.path) / "images"
        self.spool = images / ".incoming" if self.local else temporary_folder("incoming", own)
        try:
            if self.local:
                self.spool.mkdir(parents=True, exist_ok=True)
            else:
                make_private(self.spool)
                take_over(temporary / "kontext-incoming" / own, self.spool)
            if rescue is None:
                take_over(temporary / "kontext-rescue" / own, self.rescue)
        except OSError as error:
            place = error.filename or self.spool.parent
            raise StoreFull(f"the image store can't be used: {place}: {error.strerror}. Nothing was sent.") from None

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

    def hold(self, fingerprint: str) -> HeldFile:
        """Return an empty file for an answer, with room on the disk, before the answer is paid for.

        Raises:
            StoreFull: There is no room, or the spool can't be written.
        """
        try:
            return wait_for_descriptor(lambda: HeldFile(self.spool, fingerprint))
        except OSError as error:
            raise StoreFull(
                f"{self.spool} has no room for another picture ({_reason(error)}). No more is bought. Make room and start "
                "again: what is done stays done."
            ) from None

    def path_of(self, fingerprint: str, extension: str, batch: str = "") -> str:
        """Return the path of a picture, relative to the data directory. Those of resamples are kept apart, by batch."""
        folder = folder_of(batch)
        path = f"images/{fingerprint[:2]}/{fingerprint}.{extension}"
        return f"{folder}/{path}" if folder else path

    def find(self, fingerprint: str, batch: str = "") -> Stored | None:
        """Return the picture of a request, if it is in the store or waits to be moved there.

        It waits in the rescue folder or, where that could not be written either, in the spool.

        Raises:
            StoreFull: The picture waits, and the store still can't take it.
        """
        for place in (self._rescue_folder.find(fingerprint), whole_pictures(named(self.spool, fingerprint))):
            for waiting, extension in place:
                self._adopt(waiting, self.path_of(fingerprint, extension, batch))
        for extension in EXTENSIONS:
            stored = wait_for_descriptor(partial(self._measure, self.path_of(fingerprint, extension, batch)))
            if stored is not None:
                return stored
        return None

    def recover(self, fingerprint: str, batch: str = "") -> Stored | None:
        """Return the picture of a request whose run has ended, if it had arrived: in the store, or still in the spool.

        Raises:
            StoreFull: As for `find`.
        """
        stored = self.find(fingerprint, batch)
        if stored is None:
            arrived = [*sorted(self.spool.glob(f"{fingerprint}.*")), *self._rescue_folder.arrived(fingerprint)]
            for spooled, extension in whole_pictures(arrived):
                self._adopt(spooled, self.path_of(fingerprint, extension, batch))
                return self.find(fingerprint, batch)
        return stored

    def keep(self, fingerprint: str, picture: Picture, batch: str = "") -> Stored:
        """Move a picture that has just arrived to the store, and to the disk.

        A picture that is in memory, and that nothing takes, is tried again for `ROOM_WAIT_S`.

        Raises:
            StoreFull: The picture can't be written. The message says where it is instead.
        """
        path = self.path_of(fingerprint, picture.format, batch)
        spooled = self.spool / f"{fingerprint}.{picture.format}"
        until = time.monotonic() + ROOM_WAIT_S
        while True:
            try:
                self._store_waiting(lambda: picture.path or write_data(spooled, picture), path)
            except Exception as error:  # noqa: BLE001
                # Any error: remote file systems raise their own, and this picture was paid for.
                kept = self._keep_elsewhere(fingerprint, picture, spooled)
                if kept is None and time.monotonic() < until:
                    log.debug("no disk takes a picture; it waits in memory", extra={"fingerprint": fingerprint})
                    time.sleep(ROOM_PAUSE_S)
                    continue
                kept = kept or "lost: no disk took it"
                raise StoreFull(
                    f"{path} can't be written ({_reason(error)}). The picture is paid for and {kept}. "
                    "No more is bought until there is room."
                ) from None
            return Stored(path, picture.sha256, picture.width, picture.height, picture.bytes)

    def _keep_elsewhere(self, fingerprint: str, picture: Picture, spooled: Path) -> str | None:
        """Keep a picture that the store can't take. Return a clause that tells the user where; None: in memory alone."""
        try:
            kept = self._rescue_folder.keep(fingerprint, picture)
        except OSError as error:
            if picture.path is None:
                return None
            left = picture.path
            # A name that `find` looks for. No room is needed for it: the folder has the file already.
            with contextlib.suppress(OSError):
                left = left.replace(spooled)
            return f"left as {left}, as {self.rescue} can't be written either ({_reason(error)})"
        return f"kept as {kept}; the next run moves it to the store"

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
        """Remove what dead processes left in the spool: room that they held, and old incomplete files."""
        for path in self.spool.iterdir():
            with contextlib.suppress(OSError):
                found = path.stat()
                age_s = time.time() - found.st_mtime
                held = found.st_size == 0 and age_s > ABANDONED_AFTER_S and is_abandoned(path)
                # A whole picture was paid for, and belongs to an attempt that is not settled yet.
                if held or (age_s > older_than_s and not any(whole_pictures([path]))):
                    path.unlink()

    def _adopt(self, source: Path, path: str) -> None:
        """Move a picture of an earlier run to the store."""
        try:
            self._store_waiting(lambda: source, path)
        except Exception as error:  # noqa: BLE001  any error, as in keep()
            # Without a source, another run has moved the picture.
            if source.exists():
                raise StoreFull(
                    f"{path} still can't be written ({_reason(error)}). The picture is paid for and kept as {source}. No "
                    "more is bought until there is room."
                ) from None

    def _store_waiting(self, source: Callable[[], Path], path: str) -> None:
        """Store a file, as soon as this process may open files."""
        wait_for_descriptor(lambda: self._store(source(), path))

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
