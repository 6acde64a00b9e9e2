"""Thumbnails of pictures: made in memory, or kept in the user's cache so that each is made once."""

import hashlib
import logging
import os
import re
import struct
import threading
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps

from kontext_pipeline.files import AnyPath, cache_folder, make_private, write_atomically

log: Final = logging.getLogger(__name__)

_SHA256: Final = re.compile("[0-9a-f]{64}")
_PAPER: Final = "#ffffff"
_QUALITY: Final = 80
_UNREADABLE: Final = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for a file that is missing, broken, not a picture, or extremely large."""


def thumbnail(path: AnyPath, px: int) -> Image.Image | None:
    """Return the picture within `px` x `px` pixels, upright and opaque, or None if it can't be read."""
    try:
        with path.open("rb") as file, Image.open(file) as image:
            # A JPEG decodes several times faster at a fraction of its size; other formats ignore this.
            image.draft("RGB", (2 * px, 2 * px))
            image.thumbnail((px, px), Image.Resampling.BICUBIC, reducing_gap=2.0)
            rgba = ImageOps.exif_transpose(image).convert("RGBA")
    except _UNREADABLE:
        return None
    flat = Image.new("RGB", rgba.size, _PAPER)
    flat.paste(rgba, mask=rgba.getchannel("A"))
    return flat


def jpeg_thumbnail(path: AnyPath, px: int) -> bytes | None:
    """Return the picture within `px` x `px` pixels as a JPEG, or None if it can't be read."""
    image = thumbnail(path, px)
    if image is None:
        return None
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


class ThumbnailCache:
    """Thumbnails of one size on this machine, named by the sha256 of the picture. Any number of threads may use one.

    They are in the user's cache and not in the data directory: that may be read-only or a bucket, and what can be made
    again at any time is no part of a dataset. The folder may be deleted at any time.
    """

    def __init__(self, px: int) -> None:
        self._px = px
        self._folder = cache_folder("thumbnails", str(px))
        # Decoding takes a core. More at once would only take memory.
        self._makers = threading.BoundedSemaphore(os.cpu_count() or 1)

    def get(self, sha256: str, path: AnyPath) -> bytes | None:
        """Return the JPEG thumbnail of the picture at `path`, or None if the picture can't be read."""
        # A table that somebody else made could name any file here.
        name = sha256 if _SHA256.fullmatch(sha256) else hashlib.sha256(sha256.encode()).hexdigest()
        kept = self._folder / name[:2] / f"{name}.jpg"
        try:
            return kept.read_bytes()
        except OSError:
            pass
        with self._makers:
            made = jpeg_thumbnail(path, self._px)
        if made is not None:
            self._keep(kept, made)
        return made

    def _keep(self, kept: Path, made: bytes) -> None:
        try:
            make_private(kept.parent)
            write_atomically(kept, lambda temporary: temporary.write_bytes(made))
        except OSError as error:
            # A full disk makes the page slower, not unusable.
            log.debug("the thumbnail %s can't be kept: %s", kept, error)
