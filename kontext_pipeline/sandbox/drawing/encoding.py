"""Encoding: the bytes of a drawn picture, and plain pictures that cost next to nothing."""

import functools
import io
import struct
import zlib

from PIL import Image, ImageOps

from kontext_pipeline.sandbox.drawing.lettering import stamp_badge


def encode(image: Image.Image, output_format: str) -> bytes:
    """Return an RGB picture as `png` or `jpg`, without metadata."""
    out = io.BytesIO()
    if output_format == "jpg":
        image.save(out, "JPEG", quality=90, subsampling=2)
    else:
        # Run lengths take a third of the time of a full search for matches, for files of about the same size.
        image.save(out, "PNG", compress_level=6, compress_type=zlib.Z_RLE)
    return out.getvalue()


def drifted(picture: bytes, output_format: str, factor: float) -> bytes:
    """Return what another version of the model would make in place of an encoded picture.

    It is the picture with its mirror image over it, as opaque as `factor` says: from 0 (the same pixels) to 1 (the mirror
    image alone).
    """
    with Image.open(io.BytesIO(picture)) as image:
        rgb = image.convert("RGB")
    return encode(Image.blend(rgb, ImageOps.mirror(rgb), min(factor, 1.0)), output_format)


def plain_picture(size: tuple[int, int], output_format: str, digest: str) -> bytes:
    """Return a small valid picture of one colour, as `png` or `jpg`, different for every `digest` (64 hex digits).

    Each size, format and colour is encoded once. The digest is added as a text chunk (PNG) or a comment (JPEG).
    """
    base = _plain_base(size, output_format, int(digest[0], 16))
    text = b"sandbox\0" + digest.encode()
    if output_format == "png":
        chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
        # The IEND chunk that closes a PNG has 12 bytes.
        return base[:-12] + chunk + base[-12:]
    return base[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + base[2:]


@functools.lru_cache(maxsize=256)
def _plain_base(size: tuple[int, int], output_format: str, colour: int) -> bytes:
    image = Image.new("HSV", size, (colour * 16, 70, 190)).convert("RGB")
    stamp_badge(image)
    return encode(image, output_format)
