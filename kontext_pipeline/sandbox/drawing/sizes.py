"""How large a picture is: about one megapixel in the asked-for shape, both sides multiples of 16."""

from typing import Final

from kontext_pipeline.segmind.model import DEFAULT_ASPECT_RATIO

MULTIPLE: Final = 16
MEGAPIXEL: Final = 1024 * 1024
MIN_SIDE: Final = 512
"""A very long input is answered with the longest shape that still has this many pixels across."""

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
    """Return (width, height) in pixels for an aspect ratio the model allows.

    `match_input_image` follows `input_size`; without an input image it is the model's default ratio.
    """
    if aspect_ratio != "match_input_image":
        return SIZES[aspect_ratio]
    if input_size is None:
        return SIZES[DEFAULT_ASPECT_RATIO]
    return _size_like(*input_size)


def _size_like(width: int, height: int) -> tuple[int, int]:
    if width < height:
        tall, across = _size_like(height, width)
        return across, tall
    width = min(width, height * MEGAPIXEL // (MIN_SIDE * MIN_SIDE))
    candidates = (
        (wide, high)
        for high in range(MIN_SIDE, 1024 + 1, MULTIPLE)
        for wide in (_rounded(high * width, height), _rounded(MEGAPIXEL, high))
        if wide >= high
    )
    # Whole numbers only, so that every machine finds the same size: the shape counts four times as much
    # as the area.
    return min(
        candidates,
        key=lambda size: (
            4 * _parts_off(size[0] * height, size[1] * width) + _parts_off(size[0] * size[1], MEGAPIXEL),
            size,
        ),
    )


def _rounded(dividend: int, divisor: int) -> int:
    return max(MULTIPLE, (2 * dividend + MULTIPLE * divisor) // (2 * MULTIPLE * divisor) * MULTIPLE)


def _parts_off(value: int, wanted: int) -> int:
    return abs(value - wanted) * 1_000_000 // max(1, min(value, wanted))
