"""Tell a whole PNG, JPEG or WebP from a cut one, an error page or garbage, without decoding a pixel.

Pillow reads the header, this module looks for the end. A picture that passes may have damaged pixels, but a
picture that was cut at any byte does not pass.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from PIL import Image

ImageFormat = Literal["png", "jpg", "webp"]

_MAX_CHUNKS: Final = 100_000
"""Chunks of a PNG that are read, so that a hostile file takes no more than 0.1 s."""
_TAIL: Final = 65_536
"""Bytes of padding that are tolerated after the end of a JPEG."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_JPEG_END: Final = b"\xff\xd9"
_JPEG_PADDING: Final = b"\x00\xff\r\n\t "


class NotAPicture(Exception):
    """The bytes are not a whole picture; the text says why. `cut`: they may be the start of one."""

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        """`reason`: what is wrong, as a clause about the file."""
        super().__init__(reason)
        self.cut = cut


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Format and size in pixels of a whole picture."""

    format: ImageFormat
    width: int
    height: int


def inspect(path: Path) -> ImageInfo:
    """Return format and size of the picture in the file at `path`.

    Raises:
        NotAPicture: the file holds no whole picture.
        OSError: the file can't be read.
    """
    return inspect_bytes(path.read_bytes())


def inspect_bytes(data: bytes) -> ImageInfo:
    """Return format and size of the picture in `data`.

    Raises:
        NotAPicture: `data` is not a whole picture.
    """
    if not data:
        raise NotAPicture("it is empty", cut=True)
    if not is_start_of_picture(data[:64]):
        raise NotAPicture(f"it starts with {data[:16]!r}")
    kind: ImageFormat
    if data.startswith(_PNG[:1]):
        kind, whole = "png", _png_ends(data)
    elif data.startswith(_JPEG[:1]):
        kind, whole = "jpg", _jpeg_ends(data)
    else:
        kind, whole = "webp", len(data) >= int.from_bytes(data[4:8], "little") + 8
    if not whole:
        raise NotAPicture(f"the {kind} is cut: it ends after {len(data)} bytes without its end mark", cut=True)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            return ImageInfo(kind, image.width, image.height)
    except Exception as error:  # noqa: BLE001  # Pillow's parsers raise errors of many kinds
        raise NotAPicture(f"the {kind} is cut or damaged ({type(error).__name__})", cut=True) from None


def is_start_of_picture(head: bytes) -> bool:
    """Return whether bytes that start with `head` can be a picture of a known format."""
    if not head:
        return False
    if b"RIFF".startswith(head[:4]):
        return b"WEBP".startswith(head[8:12])
    return _PNG.startswith(head[: len(_PNG)]) or _JPEG.startswith(head[: len(_JPEG)])


def _png_ends(data: bytes) -> bool:
    offset = len(_PNG)
    pixels = False
    for _ in range(_MAX_CHUNKS):
        # A length of 4 bytes and the kind come before the data, a checksum of 4 bytes comes after them.
        kind = data[offset + 4 : offset + 8]
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")
        if offset > len(data) or not kind.isalpha():
            return False
        if kind == b"IEND":
            return pixels
        pixels = pixels or kind == b"IDAT"
    return False


def _jpeg_ends(data: bytes) -> bool:
    # FF D9 can't occur within a scan, where FF is followed by 00. After the start of a scan it is the end.
    tail = data[-_TAIL:]
    end = tail.rfind(_JPEG_END)
    return end >= 0 and not tail[end + 2 :].strip(_JPEG_PADDING)
