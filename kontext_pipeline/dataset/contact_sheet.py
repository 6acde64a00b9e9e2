"""A contact sheet: thumbnails of pictures on one small image, as a data URI in Markdown.

The caller chooses the pictures.
"""

import base64
import struct
from collections.abc import Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps
from upath import UPath

from kontext_pipeline.escaping import displayable

_QUALITIES: Final = (82, 70, 55, 40)
_SHRINK: Final = 0.8
_SMALLEST_THUMB_PX: Final = 16
_GAP_PX: Final = 6
_CAPTION_PX: Final = 11
_PAPER: Final = "#ffffff"
_INK: Final = "#222222"
_MISSING: Final = "#dddddd"
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


def contact_sheet(
    images: Sequence[tuple[Path | UPath, str]],
    *,
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
        columns: Pictures in a line.
        thumb_px: Largest width and height of a thumbnail, in pixels.
        max_bytes: Largest length of the Markdown.

    Returns:
        None if there are no pictures, or not even the smallest thumbnails fit.
    """
    if not images:
        return None
    columns = min(columns, len(images))
    thumbs = [_thumbnail(path, thumb_px) for path, _ in images]
    captions = [caption for _, caption in images]
    while thumb_px >= _SMALLEST_THUMB_PX:
        sheet = _draw(thumbs, captions, columns, thumb_px)
        for quality in _QUALITIES:
            markdown = _markdown(sheet, quality, len(images))
            if len(markdown) <= max_bytes:
                return markdown
        thumb_px = int(thumb_px * _SHRINK)
    return None


def _thumbnail(path: Path | UPath, px: int) -> Image.Image | None:
    """Return the picture within `px` x `px` pixels, or None if it can't be read."""
    try:
        with path.open("rb") as file, Image.open(file) as image:
            # A JPEG decodes several times faster at a fraction of its size; other formats ignore this.
            image.draft("RGB", (2 * px, 2 * px))
            image.thumbnail((px, px), Image.Resampling.BICUBIC, reducing_gap=2.0)
            rgba = image.convert("RGBA")
    except _UNREADABLE:
        return None
    flat = Image.new("RGB", rgba.size, _PAPER)
    flat.paste(rgba, mask=rgba.getchannel("A"))
    return flat


def _draw(thumbs: Sequence[Image.Image | None], captions: Sequence[str], columns: int, px: int) -> Image.Image:
    font = ImageFont.load_default(_CAPTION_PX)
    shown = [thumb and ImageOps.contain(thumb, (px, px)) for thumb in thumbs]
    heights = [px if thumb is None else thumb.height for thumb in shown]
    # A line is as high as its highest picture, so wide pictures have no empty band above their captions.
    lines = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    tops = list(accumulate((line + _CAPTION_PX + 2 * _GAP_PX for line in lines), initial=_GAP_PX))
    sheet = Image.new("RGB", (columns * (px + _GAP_PX) + _GAP_PX, tops[-1]), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (thumb, caption) in enumerate(zip(shown, captions, strict=True)):
        left = _GAP_PX + i % columns * (px + _GAP_PX)
        top, line = tops[i // columns], lines[i // columns]
        if thumb is None:
            draw.rectangle((left, top, left + px - 1, top + line - 1), fill=_MISSING)
            draw.text((left + _GAP_PX, top + line // 2), _fitted("unreadable", font, px), _INK, font)
        else:
            sheet.paste(thumb, (left + (px - thumb.width) // 2, top + (line - thumb.height) // 2))
        draw.text((left, top + line + 2), _fitted(caption, font, px), _INK, font)
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
