"""The input store: input pictures, named by the sha256 of their bytes, each kept once.

A picture is `<data dir>/inputs/<first two hex>/<sha256>.<ext>`, with exactly the bytes that came. It is never changed.
"""

import hashlib
import io
from dataclasses import dataclass
from typing import Final

from PIL import Image

from kontext_pipeline.files import AnyPath, write_atomically

_EXTENSIONS: Final = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "AVIF": "avif",
}
"""The extension of a kept picture, by Pillow's name of its format."""


class NotAnImage(Exception):
    """Bytes are no picture of a known format. The text says why."""


@dataclass(frozen=True, slots=True)
class KeptInput:
    """A picture in the store.

    Attributes:
        sha256: sha256 of the bytes, 64 hex digits.
        path: Path relative to the data directory.
        format: Pillow's name of the format, such as `JPEG`.
        bytes: Size of the file.
        width, height: Pixels, as stored: an EXIF orientation is not applied.
    """

    sha256: str
    path: str
    format: str
    bytes: int
    width: int
    height: int


class InputStore:
    """The input pictures of one data directory. Safe to use from several threads and processes."""

    def __init__(self, data_dir: AnyPath) -> None:
        """`data_dir`: the data directory, local or on any fsspec file system. Nothing is created yet."""
        self._data_dir = data_dir

    def keep(self, data: bytes) -> KeptInput:
        """Keep a picture, unless the store has it, and return it.

        Raises:
            NotAnImage: `data` is no picture of a known format.
            OSError: the picture can't be written.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            with Image.open(io.BytesIO(data), formats=tuple(_EXTENSIONS)) as image:
                kind, width, height = str(image.format), image.width, image.height
        except Exception as error:  # noqa: BLE001  Pillow's parsers raise errors of many kinds
            raise NotAnImage(f"the bytes are no picture of a known format ({type(error).__name__})") from None
        kept = KeptInput(sha256, _path(sha256, _EXTENSIONS[kind]), kind, len(data), width, height)
        target = self._data_dir / kept.path
        if not target.is_file():
            write_atomically(target, lambda path: path.write_bytes(data))
        return kept


def _path(sha256: str, extension: str) -> str:
    return f"inputs/{sha256[:2]}/{sha256}.{extension}"
