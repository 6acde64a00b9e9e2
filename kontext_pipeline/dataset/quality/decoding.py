"""Pictures of every kind as plain ones: upright, RGB with 8 bits, transparency on white."""

import warnings
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from kontext_pipeline.files import AnyPath

MAX_PIXELS: Final = 80_000_000
"""Most pixels of a picture that is measured; decoding this many takes some 300 MB."""
_DEEP: Final = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Pillow's modes of grey pictures with 16 bits."""
_TRANSPARENT: Final = ("RGBA", "RGBa", "LA", "La", "PA")

# Larger pictures are refused here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadablePicture(Exception):
    """A file is missing, damaged, or no picture. The text says why."""


def read_picture(path: AnyPath, *, least_px: int | None = None) -> Image.Image:
    """Return the picture in a file: upright, in mode RGB, transparent parts on white. Of several frames, the first.

    `least_px`: the picture is reduced to a whole fraction of its size whose shorter side still has this many pixels; a
    JPEG is decoded so, which is faster. None: at its full size.

    Raises:
        UnreadablePicture: The file is missing, damaged, no picture, or has more than `MAX_PIXELS`.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UnreadablePicture("the file does not exist") from None
    except Exception as error:  # noqa: BLE001  remote file systems raise errors of many kinds
        raise UnreadablePicture(f"the file can't be read ({_words(error)})") from None
    try:
        with Image.open(BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadablePicture(
                    f"it has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are measured"
                )
            if least_px is not None:
                image.draft("RGB", (least_px, least_px))
            image.load()
            # In place: a copy of every picture would take a tenth of the time.
            ImageOps.exif_transpose(image, in_place=True)
            upright = plain(image)
            factor = 1 if least_px is None else min(upright.size) // least_px
            return upright.reduce(factor) if factor > 1 else upright
    except UnreadablePicture:
        raise
    except Exception as error:  # noqa: BLE001  Pillow's parsers raise errors of many kinds
        raise UnreadablePicture(f"the picture can't be decoded ({_words(error)})") from None


def plain(image: Image.Image) -> Image.Image:
    """Return a picture in mode RGB: deep greys scaled to 8 bits, transparent parts on white."""
    if image.mode == "RGB":
        return image
    if image.mode in _DEEP or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if image.mode in _DEEP:
            values = values / 257  # 65,535 is white.
        # Floating-point pictures are from 0 to 1 by custom.
        elif values.size and values.max() <= 1:
            values = values * 255
        return Image.fromarray(np.nan_to_num(values).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        rgba = image.convert("RGBA")
        flat = Image.new("RGB", rgba.size, "white")
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat
    return image.convert("RGB")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
