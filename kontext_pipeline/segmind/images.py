"""Tell a whole PNG, JPEG or WebP from a cut one, an error page or garbage.

While an answer is handled, no pixel is decoded: Pillow reads the header, this module looks for the end and compares
the checksums of a PNG. A picture that passes may have damaged pixels, but a picture that was cut at any byte does not
pass. `decode` reads every pixel, and takes ten times as long.
"""

import io
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from PIL import Image

ImageFormat = Literal["png", "jpg", "webp"]

MAX_PIXELS: Final = 50_000_000
"""Pixels of the largest picture that is taken. The model makes pictures of one or two million; decoding this many takes
about 200 MB."""
_MAX_CHUNKS: Final = 100_000
"""Chunks of a PNG that are read, so that a hostile file takes no more than 0.1 s."""
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_JPEG_END: Final = b"\xff\xd9"
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
"""A segment's start. Within pixels, FF is followed by 00 or by a restart mark, which are none."""


# `inspect` refuses large pictures itself.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class NotAPicture(Exception):
    """The bytes are not a whole picture; the text says why. `cut`: they may be the start of one."""

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        """`reason`: what is wrong, as a clause about the file."""
        super().__init__(reason)
        self.cut = cut


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Format and size in pixels of a whole picture. `bytes`: its length, without what follows its end."""

    format: ImageFormat
    width: int
    height: int
    bytes: int


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
        kind, end = "png", _end_of_png(data)
    elif data.startswith(_JPEG[:1]):
        kind, end = "jpg", _end_of_jpeg(data)
    else:
        kind, end = "webp", int.from_bytes(data[4:8], "little") + 8
    if not 0 < end <= len(data):
        raise NotAPicture(f"the {kind} is cut: it ends after {len(data)} bytes without its end mark", cut=True)
    try:
        with _opened(data) as image:
            width, height = image.size
    except Exception as error:  # noqa: BLE001  # Pillow's parsers raise errors of many kinds
        raise NotAPicture(f"the {kind} is cut or damaged ({type(error).__name__})", cut=True) from None
    if width * height > MAX_PIXELS:
        raise NotAPicture(f"the {kind} has {width} x {height} pixels; at most {MAX_PIXELS:,} are taken")
    return ImageInfo(kind, width, height, end)


def decode(path: Path) -> None:
    """Decode every pixel of the picture in the file at `path`, which `inspect` has taken.

    Raises:
        NotAPicture: a pixel is missing or damaged.
        OSError: the file can't be read.
    """
    data = path.read_bytes()
    try:
        with _opened(data) as image:
            image.load()
    except Exception as error:  # noqa: BLE001  # Pillow's decoders raise errors of many kinds
        raise NotAPicture(f"the picture can't be decoded ({type(error).__name__}: {error})", cut=True) from None


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))


def is_start_of_picture(head: bytes) -> bool:
    """Return whether bytes that start with `head` can be a picture of a known format."""
    if not head:
        return False
    if b"RIFF".startswith(head[:4]):
        return b"WEBP".startswith(head[8:12])
    return _PNG.startswith(head[: len(_PNG)]) or _JPEG.startswith(head[: len(_JPEG)])


def _end_of_png(data: bytes) -> int:
    """Return the length of the PNG that `data` starts with, 0 where it is cut.

    Raises:
        NotAPicture: a part of it has a wrong checksum.
    """
    view = memoryview(data)
    offset = len(_PNG)
    pixels = False
    for _ in range(_MAX_CHUNKS):
        # A length of 4 bytes and the kind come before the data, a checksum of 4 bytes comes after them.
        kind = data[offset + 4 : offset + 8]
        end = offset + 12 + int.from_bytes(data[offset : offset + 4], "big")
        if end > len(data) or not kind.isalpha():
            return 0
        if zlib.crc32(view[offset + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise NotAPicture(f"the png is damaged: its {kind.decode('ascii')} chunk has a wrong checksum", cut=True)
        if kind == b"IEND":
            return end if pixels else 0
        pixels = pixels or kind == b"IDAT"
        offset = end
    return 0


def _end_of_jpeg(data: bytes) -> int:
    """Return the length of the JPEG that `data` starts with, 0 where it is cut."""
    offset = 2
    for _ in range(_MAX_CHUNKS):
        marker = _JPEG_MARKER.search(data, offset)
        if marker is None:
            break
        offset = marker.end()
        if marker.group() == _JPEG_END:
            return offset
        # A length of 2 bytes, which counts itself. The pixels of a scan follow without a length.
        offset += int.from_bytes(data[offset : offset + 2], "big")
    return 0
