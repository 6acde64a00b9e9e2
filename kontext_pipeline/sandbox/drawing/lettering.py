"""Type: captions, titles and the badge, in the one font that Pillow brings along."""

import bisect
import functools
import math
import unicodedata
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from kontext_pipeline.sandbox.drawing.wishes import RGB

WHITE: Final[RGB] = (255, 255, 255)
MAX_CHARS: Final = 600
"""More is never set: it would be too small to read."""
SAND: Final[RGB] = (240, 201, 126)


@functools.lru_cache(maxsize=128)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return Pillow's own FreeType font at `size` pixels; no font of the system is ever used."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return found


@functools.lru_cache(maxsize=4096)
def _can_set(character: str) -> bool:
    face = font(24)
    mask, missing = face.getmask(character), face.getmask("\U0010fffd")
    return mask.size != missing.size or bytes(mask) != bytes(missing)


def settable(text: str) -> str:
    """Return `text` without what the font has no glyph for: it has ASCII and some punctuation.

    Accents are dropped from their letters, other scripts left out.
    """
    kept: list[str] = []
    for character in " ".join(text.split()):
        if character == " " or (character.isprintable() and _can_set(character)):
            kept.append(character)
        else:
            bare = unicodedata.normalize("NFKD", character)
            kept += [part for part in bare if part.isprintable() and part.isascii()]
    return " ".join("".join(kept).split())


@dataclass(frozen=True, slots=True)
class Setting:
    """Text broken into lines at a size."""

    lines: tuple[str, ...]
    size: int
    leading: int
    """Pixels from one line to the next."""

    @property
    def height(self) -> int:
        """Pixels from the first line's top to the last one's bottom."""
        return self.leading * len(self.lines)


def fit(text: str, *, width: int, max_lines: int, largest: int, smallest: int, leading: int = 122) -> Setting:
    """Return `text` set as large as fits `width` pixels in `max_lines`, cut with an ellipsis if it never does."""
    text = text[:MAX_CHARS]
    size = largest
    while True:
        face = font(size)
        lines = _wrapped(text, face, width)
        whole = all(face.getlength(word) <= width for word in text.split())
        if (whole and len(lines) <= max_lines) or size <= smallest:
            break
        size = max(smallest, size * 92 // 100)
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and font(size).getlength(last + "…") > width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], last.rstrip(" ,.;:") + "…"]
    return Setting(tuple(lines), size, size * leading // 100)


def _wrapped(text: str, face: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if face.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        # A word wider than the line is broken wherever it reaches the margin.
        while face.getlength(word) > width and len(word) > 1:
            cut = max(1, _letters_within(word, face, width))
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line] if line else lines


def _letters_within(word: str, face: ImageFont.FreeTypeFont, width: int) -> int:
    lengths = range(1, len(word) + 1)
    return bisect.bisect(lengths, width, key=lambda count: math.ceil(face.getlength(word[:count])))


def set_type(
    image: Image.Image,
    setting: Setting,
    at: tuple[int, int],
    *,
    fill: RGB = WHITE,
    centred: bool = False,
    shadow: int = 60,
    weight: int = 0,
    halo: RGB | None = None,
) -> None:
    """Set lines of type with `at` as their top left corner (or top centre), over a soft shadow or a coloured halo."""
    face = font(setting.size)
    pad = setting.size
    widest = max(int(face.getlength(line)) for line in setting.lines) + 2 * pad
    mask = Image.new("L", (widest, setting.height + 2 * pad))
    draw = ImageDraw.Draw(mask)
    for number, line in enumerate(setting.lines):
        x = (widest - int(face.getlength(line))) // 2 if centred else pad
        draw.text((x, pad + number * setting.leading), line, font=face, fill=255, stroke_width=weight)
    corner = (at[0] - (widest // 2 if centred else pad), at[1] - pad)
    if halo is not None:
        for spread in (setting.size // 3, setting.size // 8):
            _paste(
                image,
                halo,
                mask.filter(ImageFilter.GaussianBlur(spread)).point(lambda v: min(255, v * 2)),
                corner,
            )
    elif shadow:
        soft = mask.filter(ImageFilter.GaussianBlur(max(2, setting.size // 9)))
        _paste(
            image,
            (0, 0, 0),
            soft.point(lambda v: min(255, v * shadow // 40)),
            (corner[0], corner[1] + setting.size // 24),
        )
    _paste(image, fill, mask, corner)


def _paste(image: Image.Image, colour: RGB, mask: Image.Image, corner: tuple[int, int]) -> None:
    image.paste(colour, (corner[0], corner[1], corner[0] + mask.width, corner[1] + mask.height), mask)


def stamp_badge(image: Image.Image) -> None:
    """Mark an RGB picture SANDBOX: a small dark plate in the top right corner."""
    short = min(image.size)
    height = max(22, short * 40 // 1024)
    plate = _badge(height)
    margin = max(10, short * 24 // 1024)
    corner = (image.width - plate.width - margin, margin)
    image.paste(plate.convert("RGB"), corner, plate.getchannel("A"))


@functools.lru_cache(maxsize=32)
def _badge(height: int) -> Image.Image:
    scale = 4
    tall = height * scale
    face = font(tall * 42 // 100)
    gap = tall * 9 // 100
    advances = [int(face.getlength(letter)) + gap for letter in "SANDBOX"]
    dot = tall * 22 // 100
    left = tall * 44 // 100
    width = left + dot + tall * 28 // 100 + sum(advances) - gap + tall * 48 // 100
    plate = Image.new("RGBA", (width, tall), (18, 20, 26, 0))
    draw = ImageDraw.Draw(plate)
    draw.rounded_rectangle((0, 0, width - 1, tall - 1), radius=tall // 2, fill=(18, 20, 26, 190))
    middle = tall // 2
    draw.ellipse((left, middle - dot // 2, left + dot, middle + dot // 2), fill=(*SAND, 255))
    x = left + dot + tall * 28 // 100
    for letter, advance in zip("SANDBOX", advances, strict=True):
        draw.text((x, middle), letter, font=face, fill=(255, 255, 255, 255), anchor="lm", stroke_width=scale // 3)
        x += advance
    return plate.reduce(scale)
