"""Styles over any RGB picture: black and white, sepia, sketch, blueprint, painting, poster, blur, neon and more."""

from collections.abc import Callable
from random import Random
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from kontext_pipeline.sandbox.drawing.features import RGB
from kontext_pipeline.sandbox.drawing.tone import adjust, curve, glow, gradient, light, vignette
from kontext_pipeline.sandbox.drawing.weather import add_water


def apply_styles(image: Image.Image, styles: frozenset[str], rng: Random) -> Image.Image:
    """Return the picture in every one of `styles` (the names in `features`), in a fixed order."""
    for name, style in _STYLES.items():
        if name in styles:
            image = style(image, rng)
    return image


def _blur(image: Image.Image, rng: Random) -> Image.Image:
    """Sharp around the middle and out of focus elsewhere, as with a wide-open lens."""
    far = image.filter(ImageFilter.GaussianBlur(max(3, min(image.size) // 60)))
    mask = Image.radial_gradient("L").point(curve(lambda v: (v - 92) * 5)).resize(image.size)
    return Image.composite(far, image, mask)


def _painting(image: Image.Image, rng: Random) -> Image.Image:
    """Flat strokes of strong colour on a textured canvas."""
    flat = _flatten(image.reduce(3), 64)
    strokes = Image.frombytes("L", flat.size, flat.tobytes()).filter(ImageFilter.ModeFilter(5))
    strokes.putpalette(flat.getpalette() or b"")
    smooth = strokes.convert("RGB").resize(image.size, Image.Resampling.BICUBIC)
    relief = smooth.convert("L").filter(ImageFilter.EMBOSS).point(curve(lambda v: 128 + (v - 128) / 2))
    return adjust(ImageChops.overlay(smooth, relief.convert("RGB")), saturation=1.3)


def _pop(image: Image.Image, rng: Random) -> Image.Image:
    """Few flat colours with dark outlines."""
    small = adjust(image.reduce(4).filter(ImageFilter.MedianFilter(3)), contrast=1.08, saturation=1.25)
    flat = _flatten(small, 10).convert("RGB")
    lines = _outlines(small.convert("L"), 2, 5).convert("RGB")
    return ImageChops.multiply(flat, lines).resize(image.size, Image.Resampling.BICUBIC)


def _flatten(image: Image.Image, colours: int) -> Image.Image:
    """Return the picture in the few colours that suit it best, found at a quarter of its resolution."""
    return image.quantize(palette=image.reduce(4).quantize(colours), dither=Image.Dither.NONE)


def _neon(image: Image.Image, rng: Random) -> Image.Image:
    """A night in magenta and cyan with glowing edges."""
    night = ImageOps.colorize(image.convert("L"), (16, 6, 44), (110, 226, 255), (120, 40, 150))
    night = adjust(Image.blend(image, night, 0.5), contrast=1.3, exposure=1.1)
    lines = ImageChops.invert(_outlines(image.convert("L"), 3, 5))
    night = light(night, lines.filter(ImageFilter.GaussianBlur(5)), (255, 30, 150))
    night = light(night, lines, (255, 150, 230))
    lamp = (round(image.width * rng.uniform(0.1, 0.9)), image.height // 4)
    return glow(night, lamp, min(image.size) // 2, (255, 0, 140), 0.45)


def _sketch(image: Image.Image, rng: Random) -> Image.Image:
    """Pencil on paper: outlines of two widths, and a light shade in the shadows."""
    grey = ImageOps.autocontrast(image.convert("L"), cutoff=1).filter(ImageFilter.SMOOTH)
    lines = ImageChops.multiply(_outlines(grey, 1, 9), _outlines(grey, 6, 4))
    lines = ImageChops.multiply(lines, grey.point(curve(lambda v: 186 + v * 0.4)))
    return ImageOps.colorize(lines, black=(52, 54, 62), white=(250, 247, 240))


def _blueprint(image: Image.Image, rng: Random) -> Image.Image:
    """White outlines and a grid on engineering blue."""
    grey = ImageOps.autocontrast(image.convert("L"), cutoff=2)
    shade = grey.point(curve(lambda v: v * 0.3))
    lines = ImageChops.lighter(ImageChops.invert(_outlines(grey, 2, 16)), shade)
    draw = ImageDraw.Draw(lines)
    for at in range(0, max(image.size), 48):
        draw.line((at, 0, at, image.height), fill=46)
        draw.line((0, at, image.width, at), fill=46)
    return ImageOps.colorize(lines, black=(18, 62, 140), white=(240, 246, 255))


def _toned(image: Image.Image, shadows: RGB, midtones: RGB, lights: RGB) -> Image.Image:
    """A print in the tones of one ink, with darker corners."""
    grey = ImageOps.autocontrast(image.convert("L"), cutoff=2)
    return vignette(ImageOps.colorize(grey, shadows, lights, midtones), 0.7)


def _colourise(image: Image.Image, rng: Random) -> Image.Image:
    """Natural colours for a grey picture: a blue sky over skin tones and grass."""
    grey = image.convert("L").convert("RGB")
    paint = gradient(image.size, (96, 150, 222), (196, 160, 132), (96, 148, 66), 96)
    return ImageChops.overlay(grey, paint)


def _outlines(grey: Image.Image, radius: int, strength: int) -> Image.Image:
    """Return dark lines on white where the picture is darker than its surroundings."""
    around = grey.filter(ImageFilter.BoxBlur(radius))
    return ImageChops.subtract(around, grey).point(curve(lambda v: 255 - max(0, v - 3) * strength))


_STYLES: Final[dict[str, Callable[[Image.Image, Random], Image.Image]]] = {
    "flood": lambda image, rng: add_water(image, rng, image.height * 66 // 100),
    "mirror": lambda image, rng: ImageOps.mirror(image),
    "colourise": _colourise,
    "vivid": lambda image, rng: adjust(image, contrast=1.12, saturation=1.55),
    "warm": lambda image, rng: adjust(image, gains=(1.1, 1.0, 0.82)),
    "cold": lambda image, rng: adjust(image, gains=(0.92, 1.0, 1.08)),
    "blur": _blur,
    "painting": _painting,
    "pop": _pop,
    "neon": _neon,
    "sketch": _sketch,
    "blueprint": _blueprint,
    "monochrome": lambda image, rng: _toned(image, (0, 0, 0), (120, 120, 120), (255, 255, 255)),
    "sepia": lambda image, rng: _toned(image, (44, 28, 18), (158, 122, 84), (250, 234, 204)),
}
