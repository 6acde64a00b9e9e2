"""A contact sheet: thumbnails of pictures on one small image, as a data URI in Markdown.

The caller chooses the pictures. An input picture is shown at the left of the picture that was made from it.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps
from upath import UPath

from kontext_pipeline.dataset.thumbnails import thumbnail
from kontext_pipeline.escaping import displayable

_QUALITIES: Final = (82, 70, 55, 40)
_SHRINK: Final = 0.8
_SMALLEST_THUMB_PX: Final = 16
_GAP_PX: Final = 6
_PAIR_GAP_PX: Final = 2
"""Between an input picture and the picture that was made from it."""
_CAPTION_PX: Final = 11
_PAPER: Final = "#ffffff"
_INK: Final = "#222222"
_MISSING: Final = "#dddddd"


def contact_sheet(
    images: Sequence[tuple[Path | UPath, str]],
    *,
    inputs: Sequence[Path | UPath | None] = (),
    columns: int = 6,
    thumb_px: int = 160,
    max_bytes: int = 45_000,
) -> str | None:
    """Return a Markdown image with the thumbnails of the pictures.

    A picture that can't be opened is shown as a grey rectangle that says so. Where the sheet is too large, the
    quality of the JPEG is lowered first, then the size of the thumbnails. Two dozen pictures stay recognizable
    at 45,000 bytes.

    Args:
        images: Path and caption of each picture, in the order in which they are shown.
        inputs: The input picture of each picture, None for one without, or nothing: then no inputs are shown.
        columns: Thumbnails in a line.
        thumb_px: Largest width and height of a thumbnail, in pixels.
        max_bytes: Largest length of the Markdown.

    Returns:
        None if there are no pictures, or not even the smallest thumbnails fit.
    """
    if not images:
        return None
    thumbs = [[_Thumb.of(path, thumb_px)] for path, _ in images]
    # Rows often share an input picture.
    made = {path: _Thumb.of(path, thumb_px) for path in inputs if path is not None}
    for cell, path in zip(thumbs, inputs, strict=bool(inputs)):
        cell.insert(0, _Thumb(None, "no input") if path is None else made[path])
    columns = min(max(1, columns // len(thumbs[0])), len(images))
    captions = [caption for _, caption in images]
    while thumb_px >= _SMALLEST_THUMB_PX:
        sheet = _draw(thumbs, captions, columns, thumb_px)
        for quality in _QUALITIES:
            markdown = _markdown(sheet, quality, len(images))
            if len(markdown) <= max_bytes:
                return markdown
        thumb_px = int(thumb_px * _SHRINK)
    return None


@dataclass(frozen=True, slots=True)
class _Thumb:
    """A small picture, or why there is none."""

    image: Image.Image | None
    instead: str = "unreadable"

    @classmethod
    def of(cls, path: Path | UPath, px: int) -> "_Thumb":
        """Return the picture within `px` x `px` pixels."""
        return cls(thumbnail(path, px))

    def within(self, px: int) -> "_Thumb":
        return self if self.image is None else _Thumb(ImageOps.contain(self.image, (px, px)))

    def height(self, px: int) -> int:
        return px if self.image is None else self.image.height

    def draw(self, sheet: Image.Image, left: int, top: int, px: int, line: int) -> None:
        """Draw this into a place `px` wide and `line` high."""
        if self.image is not None:
            sheet.paste(self.image, (left + (px - self.image.width) // 2, top + (line - self.image.height) // 2))
            return
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_CAPTION_PX)
        draw.rectangle((left, top, left + px - 1, top + line - 1), fill=_MISSING)
        draw.text((left + _GAP_PX, top + line // 2), _fitted(self.instead, font, px - _GAP_PX), _INK, font)


def _draw(cells: Sequence[Sequence[_Thumb]], captions: Sequence[str], columns: int, px: int) -> Image.Image:
    font = ImageFont.load_default(_CAPTION_PX)
    shown = [[thumb.within(px) for thumb in cell] for cell in cells]
    width = len(shown[0]) * (px + _PAIR_GAP_PX) - _PAIR_GAP_PX
    heights = [max(thumb.height(px) for thumb in cell) for cell in shown]
    # A line is as high as its highest picture, so wide pictures have no empty band above their captions.
    lines = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    tops = list(accumulate((line + _CAPTION_PX + 2 * _GAP_PX for line in lines), initial=_GAP_PX))
    sheet = Image.new("RGB", (columns * (width + _GAP_PX) + _GAP_PX, tops[-1]), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (cell, caption) in enumerate(zip(shown, captions, strict=True)):
        left = _GAP_PX + i % columns * (width + _GAP_PX)
        top, line = tops[i // columns], lines[i // columns]
        for number, thumb in enumerate(cell):
            thumb.draw(sheet, left + number * (px + _PAIR_GAP_PX), top, px, line)
        draw.text((left, top + line + 2), _fitted(caption, font, width), _INK, font)
    return sheet


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, px: int) -> str:
    text = displayable(" ".join(text.split()))
    if font.getlength(text) <= px:
        return text
    while text and font.getlength(text + "…") > px:
        text = text[:-1]
    return text + "…" if text else ""


def _markdown(sheet: Image.Image, quality: int, count: int) -> str:
    buffer = BytesIO()
    sheet.save(buffer, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"![{count} pictures](data:image/jpeg;base64,{data})"
