"""The rescue folder: paid pictures that the image store could not take, until a later run moves them there."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from kontext_pipeline.files import flush
from kontext_pipeline.segmind.answers import Picture
from kontext_pipeline.segmind.images import NotAPicture, inspect

EXTENSIONS: Final = ("png", "jpg", "webp")


class RescueFolder:
    """A local folder of pictures, each under its fingerprint."""

    def __init__(self, path: Path) -> None:
        """The folder is created with the first picture."""
        self.path = path

    def keep(self, fingerprint: str, picture: Picture) -> str:
        """Keep a picture if that is possible. Return a clause that tells the user where the picture is now."""
        target = self.path / f"{fingerprint}.{picture.format}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if picture.path is None:
                write_data(target, picture)
            else:
                shutil.move(picture.path, target)
            flush(target)
        except OSError as error:
            reason = f"{target} can't be written either ({error.strerror})"
            return f"lost: {reason}" if picture.path is None else f"left as {picture.path}, as {reason}"
        return f"kept as {target}; the next run moves it to the store"

    def find(self, fingerprint: str) -> Iterator[tuple[Path, str]]:
        """Yield each whole picture of a request, and its format."""
        if self.path.is_dir():
            yield from whole_pictures(self.path / f"{fingerprint}.{extension}" for extension in EXTENSIONS)


def whole_pictures(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield those files that are whole pictures, each with its format."""
    for path in paths:
        with contextlib.suppress(OSError, NotAPicture):
            yield path, inspect(path).format


def write_data(path: Path, picture: Picture) -> Path:
    """Write a picture that is in memory to a file."""
    assert picture.data is not None, "a picture is in a file or in memory"
    path.write_bytes(picture.data)
    return path
