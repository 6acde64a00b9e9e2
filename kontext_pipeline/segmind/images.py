"""Tell a whole PNG, JPEG or WebP from a cut one, an error page or garbage, without decoding a pixel.

Only the structure is checked: a picture that passes may have damaged pixels, but a picture that was cut at any
byte does not pass.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ImageFormat = Literal["png", "jpg", "webp"]

MAX_SIDE: Final = 65_535
"""Pixels: the maximum of JPEG, far beyond what the model draws (about one megapixel)."""
_MAX_PARTS: Final = 100_000
"""Chunks or segments that are read, so that a hostile file takes no more than 0.1 s."""
_TAIL: Final = 65_536
"""Bytes of padding that are tolerated after the end of a JPEG."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_JPEG_PADDING: Final = b"\x00\xff\r\n\t "
_START_OF_FRAME: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_START_OF_SCAN: Final = 0xDA


class NotAPicture(Exception):
    """The bytes are not a whole picture; the text says why. `cut`: they are the start of one."""

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
    size = len(data)
    head = data[:64]
    if head.startswith(_PNG):
        info = _png(data, head, size)
    elif head.startswith(_JPEG):
        info = _jpeg(data, size)
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        info = _webp(head, size)
    elif size == 0:
        raise NotAPicture("it is empty", cut=True)
    elif is_start_of_picture(head):
        raise NotAPicture(f"it ends after {size} bytes", cut=True)
    else:
        raise NotAPicture(f"it starts with {head[:16]!r}")
    if not (0 < info.width <= MAX_SIDE and 0 < info.height <= MAX_SIDE):
        raise NotAPicture(f"its header names {info.width} x {info.height} pixels")
    return info


def is_start_of_picture(head: bytes) -> bool:
    """Return whether bytes that start with `head` can be a picture of a known format."""
    if not head:
        return False
    if b"RIFF".startswith(head[:4]):
        return b"WEBP".startswith(head[8:12])
    return _PNG.startswith(head[: len(_PNG)]) or _JPEG.startswith(head[: len(_JPEG)])


def _png(data: bytes, head: bytes, size: int) -> ImageInfo:
    if len(head) < 33:
        raise NotAPicture(f"the PNG ends after {size} bytes", cut=True)
    if head[8:16] != b"\x00\x00\x00\x0dIHDR" or zlib.crc32(head[12:29]) != int.from_bytes(head[29:33], "big"):
        raise NotAPicture("the PNG's header is damaged")
    width, height = struct.unpack(">II", head[16:24])
    offset = 33
    data_seen = False
    for _ in range(_MAX_PARTS):
        chunk = data[offset : offset + 8]
        if len(chunk) < 8:
            break
        length = int.from_bytes(chunk[:4], "big")
        kind = chunk[4:]
        if not kind.isalpha():
            raise NotAPicture(f"the PNG is damaged at byte {offset}")
        offset += 12 + length
        if offset > size:
            break
        data_seen = data_seen or kind == b"IDAT"
        if kind == b"IEND":
            if not data_seen:
                raise NotAPicture("the PNG has no pixels")
            return ImageInfo("png", width, height)
    else:
        raise NotAPicture(f"the PNG has more than {_MAX_PARTS} chunks")
    raise NotAPicture(f"the PNG is cut: it ends after {size} bytes without its end mark", cut=True)


def _jpeg(data: bytes, size: int) -> ImageInfo:
    info: ImageInfo | None = None
    offset = 2
    for _ in range(_MAX_PARTS):
        segment = data[offset : offset + 9]
        if len(segment) < 2:
            break
        if segment[0] != 0xFF:
            raise NotAPicture(f"the JPEG is damaged at byte {offset}")
        marker = segment[1]
        if marker == 0xFF:
            offset += 1
            continue
        if marker in _STANDALONE:
            offset += 2
            continue
        if len(segment) < 4:
            break
        length = int.from_bytes(segment[2:4], "big")
        if marker in _START_OF_FRAME and len(segment) == 9:
            height, width = struct.unpack(">HH", segment[5:9])
            info = ImageInfo("jpg", width, height)
        offset += 2 + length
        if marker == _START_OF_SCAN:
            if info is None:
                raise NotAPicture("the JPEG names no size")
            if not _jpeg_ends(data, offset, size):
                break
            return info
        if length < 2:
            raise NotAPicture(f"the JPEG is damaged at byte {offset}")
    else:
        raise NotAPicture(f"the JPEG has more than {_MAX_PARTS} segments")
    raise NotAPicture(f"the JPEG is cut: it ends after {size} bytes without its end mark", cut=True)


def _jpeg_ends(data: bytes, scan: int, size: int) -> bool:
    # FF D9 can't occur within a scan, where FF is followed by 00. After the start of a scan it is the end.
    if scan >= size:
        return False
    tail = data[max(scan, size - _TAIL) :]
    end = tail.rfind(b"\xff\xd9")
    return end >= 0 and not tail[end + 2 :].strip(_JPEG_PADDING)


def _webp(head: bytes, size: int) -> ImageInfo:
    if len(head) < 30:
        raise NotAPicture(f"the WebP ends after {size} bytes", cut=True)
    length = int.from_bytes(head[4:8], "little") + 8
    if length > size:
        raise NotAPicture(f"the WebP is cut: it ends after {size} of {length} bytes", cut=True)
    kind = head[12:16]
    if kind == b"VP8X":
        return ImageInfo("webp", int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1)
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return ImageInfo("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[26:30])
        return ImageInfo("webp", width & 0x3FFF, height & 0x3FFF)
    raise NotAPicture("the WebP's header is damaged")
