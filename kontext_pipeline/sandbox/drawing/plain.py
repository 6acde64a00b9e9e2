"""Plain pictures: one colour and the badge, for runs where only the traffic matters.

A picture is encoded once per size, format and colour; what makes each request's bytes its own is a text
chunk (PNG) or comment (JPEG) with the request's digest.
"""

import functools
import struct
import zlib

from PIL import Image

from kontext_pipeline.sandbox.drawing.encode import encode
from kontext_pipeline.sandbox.drawing.lettering import stamp_badge

_COLOURS = 16
_PNG_END = 12
"""Bytes of the IEND chunk that closes every PNG."""


def plain_picture(size: tuple[int, int], output_format: str, digest: str) -> bytes:
    """Return a small valid picture of `size`, as `png` or `jpg`, different for every `digest` (64 hex digits)."""
    base = _base(size, output_format, int(digest[:8], 16) % _COLOURS)
    text = b"sandbox\0" + digest.encode()
    if output_format == "png":
        chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
        return base[:-_PNG_END] + chunk + base[-_PNG_END:]
    return base[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + base[2:]


@functools.lru_cache(maxsize=256)
def _base(size: tuple[int, int], output_format: str, colour: int) -> bytes:
    tint = Image.new("HSV", (1, 1), (colour * 256 // _COLOURS, 70, 190)).convert("RGB").getpixel((0, 0))
    image = Image.new("RGB", size, tint)
    stamp_badge(image)
    return encode(image, output_format)
