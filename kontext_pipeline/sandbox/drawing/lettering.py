"""Lettering: captions, the prompt under a scene, and the SANDBOX badge, all in the font that Pillow brings."""

import functools
import textwrap
import unicodedata
from typing import Final

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from kontext_pipeline.sandbox.drawing.features import RGB
from kontext_pipeline.sandbox.drawing.tone import curve

MAX_CHARS: Final = 600
"""Longer texts are cut: more would be too small to read."""
SAND: Final[RGB] = (240, 201, 126)
_PUNCTUATION: Final = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "–": "-", "—": "-"})


@functools.lru_cache(maxsize=128)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own FreeType font at `size` pixels. Fonts of the machine are never used."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return found


def fit(text: str, width: int, max_lines: int, *, largest: int, smallest: int) -> tuple[str, int]:
    """Return `text` broken into lines, and the largest font size at which they fit `width` pixels.

    Accents are dropped from letters, characters without a glyph are left out, and text that does not fit
    `max_lines` even at the smallest size is cut and ends with "...".
    """
    plain = unicodedata.normalize("NFKD", text[: 2 * MAX_CHARS].translate(_PUNCTUATION))
    printable = "".join(character if character.isprintable() else " " for character in plain)
    text, size = " ".join(printable.encode("ascii", "ignore").decode().split())[:MAX_CHARS], largest
    while text:
        face = font(size)
        columns = max(4, int(width * len(text) / face.getlength(text) * 0.97))
        lines = textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False)
        if len(lines) <= max_lines and all(face.getlength(line) <= width for line in lines):
            return "\n".join(lines), size
        if size <= smallest:
            return "\n".join(textwrap.wrap(text, columns, max_lines=max_lines, placeholder="...")), size
        size = max(smallest, size * 9 // 10)
    return "", size


def draw_text(image: Image.Image, text: str, at: tuple[int, int], size: int, *, centred: bool) -> None:
    """Draw white lines of text over a soft shadow, with their middle or their lower left corner at `at`."""
    mask = Image.new("L", image.size)
    anchor, align, weight = ("mm", "center", max(1, size // 46)) if centred else ("ld", "left", 0)
    style = (255, font(size), anchor, size // 4, align)
    ImageDraw.Draw(mask).multiline_text(at, text, *style, stroke_width=weight)
    box = mask.getbbox() or (0, 0, 1, 1)
    around = (max(0, box[0] - size), max(0, box[1] - size), box[2] + size, box[3] + size)
    mask = mask.crop(around)
    for blur in (max(2, size // 3), max(2, size // 9)):
        soft = mask.filter(ImageFilter.GaussianBlur(blur)).point(curve(lambda v: v * 1.6))
        image.paste((0, 0, 0), around[:2], soft)
    image.paste((255, 255, 255), around[:2], mask)


def stamp_badge(image: Image.Image) -> None:
    """Mark an RGB picture SANDBOX: a small dark plate in the top right corner."""
    short = min(image.size)
    plate = _badge(max(22, short * 40 // 1024))
    margin = max(10, short * 24 // 1024)
    image.paste(plate.convert("RGB"), (image.width - plate.width - margin, margin), plate.getchannel("A"))


@functools.lru_cache(maxsize=32)
def _badge(height: int) -> Image.Image:
    tall = height * 4
    plate = Image.new("RGBA", (tall * 19 // 5, tall), (18, 20, 26, 0))
    draw = ImageDraw.Draw(plate)
    draw.rounded_rectangle((0, 0, plate.width - 1, tall - 1), radius=tall // 2, fill=(18, 20, 26, 190))
    draw.circle((tall // 2, tall // 2), tall // 9, fill=(*SAND, 255))
    for position, letter in enumerate("SANDBOX"):
        x = tall * (90 + 38 * position) // 100
        draw.text((x, tall // 2), letter, (255, 255, 255, 255), font(tall * 42 // 100), "mm", stroke_width=1)
    return plate.reduce(4)
