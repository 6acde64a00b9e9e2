"""Picture sizes: about one megapixel in the requested shape, both sides multiples of 16."""

import math
from typing import Final

from kontext_pipeline.segmind.model import DEFAULT_ASPECT_RATIO

MEGAPIXEL: Final = 1024 * 1024
MAX_RATIO: Final = 4.0
"""The longest shape that `match_input_image` follows; it has 512 pixels across."""

SIZES: Final[dict[str, tuple[int, int]]] = {
    "1:1": (1024, 1024),
    "16:9": (1360, 768),
    "9:16": (768, 1360),
    "4:3": (1184, 880),
    "3:4": (880, 1184),
    "3:2": (1248, 832),
    "2:3": (832, 1248),
    "4:5": (912, 1136),
    "5:4": (1136, 912),
    "21:9": (1568, 672),
    "9:21": (672, 1568),
    "2:1": (1440, 720),
    "1:2": (720, 1440),
}
"""Width and height by aspect ratio: within 3 % of the ratio and 2 % of a megapixel."""


def picture_size(aspect_ratio: str, input_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) in pixels for an aspect ratio that the model allows.

    `match_input_image` follows `input_size`. Without an input image it means the model's default ratio.
    """
    if aspect_ratio != "match_input_image":
        return SIZES[aspect_ratio]
    if input_size is None:
        return SIZES[DEFAULT_ASPECT_RATIO]
    ratio = min(MAX_RATIO, max(input_size) / min(input_size))
    short = _rounded(math.sqrt(MEGAPIXEL / ratio))
    long = _rounded(short * ratio)
    return (long, short) if input_size[0] >= input_size[1] else (short, long)


def _rounded(pixels: float) -> int:
    return round(pixels / 16) * 16
