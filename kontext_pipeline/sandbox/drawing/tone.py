"""Tone: the curves, gradients, lights and masks that edits and scenes are made of."""

from collections.abc import Callable
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from kontext_pipeline.sandbox.drawing.features import RGB

Size = tuple[int, int]

LIGHTS: Final[dict[str, tuple[RGB, RGB, RGB, RGB, RGB]]] = {
    "dawn": ((112, 124, 196), (226, 160, 172), (255, 224, 190), (255, 240, 214), (70, 74, 118)),
    "day": ((58, 130, 204), (140, 196, 228), (236, 240, 228), (255, 250, 226), (30, 84, 92)),
    "sunset": ((60, 40, 104), (220, 90, 92), (255, 200, 124), (255, 236, 180), (44, 22, 58)),
    "dusk": ((20, 26, 72), (104, 70, 138), (244, 150, 122), (255, 214, 160), (18, 18, 50)),
    "night": ((5, 8, 28), (16, 30, 72), (58, 90, 132), (250, 244, 224), (4, 10, 26)),
}
"""By time of day: the sky's top, middle and horizon, the sun or moon, and the nearest land."""


def curve(function: Callable[[int], float]) -> list[int]:
    """Return a lookup table for one channel, clipped to the range of a byte."""
    return [max(0, min(255, round(function(value)))) for value in range(256)]


def adjust(
    image: Image.Image,
    *,
    exposure: float = 1.0,
    contrast: float = 1.0,
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0),
    saturation: float = 1.0,
) -> Image.Image:
    """Return an RGB picture with these factors; `contrast` is around middle grey, `gains` are by channel."""
    if saturation != 1.0:
        image = ImageEnhance.Color(image).enhance(saturation)
    table: list[int] = []
    for gain in gains:
        table += curve(lambda v, gain=gain: (v * exposure * gain - 128) * contrast + 128)  # type: ignore[misc]
    return image.point(table)


def ramp(size: Size, top: float, bottom: float) -> Image.Image:
    """Return a mask that runs from `top` to `bottom` (clipped to 0 to 255) down the picture."""
    column = Image.linear_gradient("L").point(curve(lambda v: top + (bottom - top) * v / 255))
    return column.resize(size, Image.Resampling.BILINEAR)


def gradient(size: Size, top: RGB, middle: RGB, bottom: RGB, midpoint: int = 127) -> Image.Image:
    """Return an RGB picture that runs from `top` to `bottom`; `middle` is at `midpoint` / 255 of the height."""
    column = Image.linear_gradient("L").resize((1, 256))
    coloured = ImageOps.colorize(column, top, bottom, middle, midpoint=midpoint)
    return coloured.resize(size, Image.Resampling.BILINEAR)


def light(image: Image.Image, mask: Image.Image, colour: RGB) -> Image.Image:
    """Return the picture with light of `colour` added where `mask` is bright."""
    lit = Image.merge("RGB", [mask.point(curve(lambda v, part=part: v * part / 255)) for part in colour])  # type: ignore[misc]
    return ImageChops.screen(image, lit)


def glow(image: Image.Image, centre: tuple[int, int], radius: int, colour: RGB, strength: float) -> Image.Image:
    """Return the picture with light around `centre` that fades out at `radius` pixels."""
    # A glow has no detail: a quarter of the resolution is enough. Pillow's gradient is 181 on its circle.
    disc = Image.radial_gradient("L").point(curve(lambda v: 255 * strength * max(0.0, 1 - v / 181) ** 2))
    mask = Image.new("L", (-(-image.width // 4), -(-image.height // 4)))
    small = max(2, radius // 4)
    mask.paste(disc.resize((2 * small, 2 * small)), (centre[0] // 4 - small, centre[1] // 4 - small))
    return light(image, mask.resize(image.size, Image.Resampling.BILINEAR), colour)


def add_disc(image: Image.Image, centre: tuple[int, int], radius: int, colour: RGB) -> Image.Image:
    """Return the picture with a sun or a moon of `colour` and its light."""
    image = glow(image, centre, radius * 6, colour, 0.6)
    disc = Image.new("L", (8 * radius, 8 * radius))
    ImageDraw.Draw(disc).ellipse((0, 0, disc.width - 1, disc.height - 1), fill=240)
    image.paste(colour, (centre[0] - radius, centre[1] - radius), disc.reduce(4))
    return image


def vignette(image: Image.Image, strength: float) -> Image.Image:
    """Return the picture darkened towards its corners."""
    shade = Image.radial_gradient("L").point(curve(lambda v: max(0, v - 110) * strength))
    image.paste((0, 0, 0), (0, 0), shade.resize(image.size, Image.Resampling.BILINEAR))
    return image


def hue_mask(image: Image.Image, low: int, high: int, *, least: int = 28) -> Image.Image:
    """Return a mask of the colours with a hue from `low` to `high` (of 256) and a saturation above `least`."""
    middle, reach = (low + high) / 2, (high - low) / 2
    hue, saturation, value = image.reduce(2).convert("HSV").split()
    mask = hue.point(curve(lambda h: (reach - abs((h - middle + 128) % 256 - 128)) * 32))
    mask = ImageChops.multiply(mask, saturation.point(curve(lambda s: (s - least) * 7)))
    mask = ImageChops.multiply(mask, value.point(curve(lambda v: (v - 14) * 10)))
    return mask.resize(image.size, Image.Resampling.BILINEAR)


def sky_mask(image: Image.Image) -> Image.Image:
    """Return where the sky probably is: bright or blue, without detail, and in the upper part."""
    small = image.reduce(4)
    _, saturation, value = small.convert("HSV").split()
    blue, bright = hue_mask(small, 120, 190, least=20), value.point(curve(lambda v: (v - 50) * 4))
    pale, white = saturation.point(curve(lambda s: 255 - s * 4)), value.point(curve(lambda v: (v - 140) * 4))
    candidate = ImageChops.lighter(ImageChops.multiply(blue, bright), ImageChops.multiply(pale, white))
    # The filter copies the outermost pixels, which are no edges.
    inner = (1, 1, small.width - 1, small.height - 1)
    edges = ImageOps.expand(small.convert("L").filter(ImageFilter.FIND_EDGES).crop(inner), 1)
    calm = edges.filter(ImageFilter.BoxBlur(2)).point(curve(lambda v: 255 - v * 12))
    certain = ImageChops.multiply(ImageChops.multiply(candidate, calm), ramp(small.size, 585, -180))
    # From there the sky reaches to the outline of the objects before it.
    outline = candidate.point(curve(lambda v: v * 3))
    grown = ImageChops.multiply(certain.filter(ImageFilter.MaxFilter(9)), outline)
    return grown.filter(ImageFilter.GaussianBlur(1)).resize(image.size, Image.Resampling.BILINEAR)
