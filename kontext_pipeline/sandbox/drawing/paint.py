"""Paint: gradients, glows, soft masks and tone curves, from whole numbers and Pillow's own operations."""

import functools
from collections.abc import Callable, Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from kontext_pipeline.sandbox.drawing.wishes import RGB

Point = tuple[int, int]
Stops = Sequence[tuple[int, RGB]]
"""Colours at thousandths of the way, the first at 0 and the last at 1000."""
SUPERSAMPLE = 2


def blend(first: RGB, second: RGB, percent: int) -> RGB:
    """Return `percent` of the way from `first` to `second`."""
    red, green, blue = ((a * (100 - percent) + b * percent) // 100 for a, b in zip(first, second, strict=True))
    return red, green, blue


def vertical_gradient(size: tuple[int, int], stops: Stops) -> Image.Image:
    """Return an RGB picture that runs through `stops` from top to bottom."""
    width, height = size
    rows = (bytes(colour_at(stops, y * 1000 // max(1, height - 1))) * width for y in range(height))
    return Image.frombytes("RGB", size, b"".join(rows))


def colour_at(stops: Stops, thousandth: int) -> RGB:
    """Return the colour of a gradient at a thousandth of the way."""
    before = stops[0]
    for after in stops[1:]:
        if thousandth <= after[0]:
            span = max(1, after[0] - before[0])
            part = thousandth - before[0]
            red, green, blue = (
                (a * (span - part) + b * part) // span for a, b in zip(before[1], after[1], strict=True)
            )
            return red, green, blue
        before = after
    return stops[-1][1]


def ramp(size: tuple[int, int], top: int, bottom: int) -> Image.Image:
    """Return a mask that runs from `top` to `bottom` (0 to 255) down the picture."""
    width, height = size
    rows = (bytes(((top * (height - 1 - y) + bottom * y) // max(1, height - 1),)) * width for y in range(height))
    return Image.frombytes("L", size, b"".join(rows))


@functools.lru_cache(maxsize=1)
def _disc() -> Image.Image:
    return ImageChops.invert(Image.radial_gradient("L"))


def glow(image: Image.Image, centre: Point, radius: int, colour: RGB, percent: int) -> None:
    """Add light around `centre`, fading out to nothing at `radius` pixels."""
    box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    clipped = (max(0, box[0]), max(0, box[1]), min(image.width, box[2]), min(image.height, box[3]))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        return
    # Pillow's gradient ends in its corners; at the circle it has 76 left. Squared, it fades out softly.
    falloff = _disc().point(curve(lambda v: (max(0, v - 76) * 255 // 179) ** 2 * percent // 25500))
    part = image.crop(clipped)
    # The gradient is 256 pixels across: only what is seen of it is enlarged.
    seen = tuple((edge - box[axis % 2]) * 128 / radius for axis, edge in enumerate(clipped))
    light = falloff.resize(part.size, Image.Resampling.BILINEAR, box=(seen[0], seen[1], seen[2], seen[3]))
    lit = Image.merge("RGB", [light.point(curve(lambda v, c=c: v * c // 255)) for c in colour])  # type: ignore[misc]
    image.paste(ImageChops.screen(part, lit), clipped[:2])


def smooth_mask(size: tuple[int, int], draw: Callable[[ImageDraw.ImageDraw, int], None]) -> Image.Image:
    """Return a mask with smooth edges: `draw` is called with a canvas and its scale, and fills shapes with 255."""
    scale = SUPERSAMPLE
    mask = Image.new("L", (size[0] * scale, size[1] * scale))
    draw(ImageDraw.Draw(mask), scale)
    return mask.reduce(scale)


def soft_mask(
    size: tuple[int, int], shrink: int, blur: int, draw: Callable[[ImageDraw.ImageDraw], None]
) -> Image.Image:
    """Return a blurred mask, drawn at 1 / `shrink` of the size: `draw` gets a canvas of that size."""
    mask = Image.new("L", (-(-size[0] // shrink), -(-size[1] // shrink)))
    draw(ImageDraw.Draw(mask))
    return mask.filter(ImageFilter.GaussianBlur(blur)).resize(size, Image.Resampling.BILINEAR)


def soft_patch(
    box: tuple[int, int, int, int], shrink: int, blur: int, draw: Callable[[ImageDraw.ImageDraw], None]
) -> Image.Image:
    """Return a blurred mask of the size of `box`, whose corners are multiples of `shrink`.

    `draw` gets a canvas of 1 / `shrink` of that size, with room around it for what the blur spreads.
    """
    mask = Image.new("L", ((box[2] - box[0]) // shrink, (box[3] - box[1]) // shrink))
    draw(ImageDraw.Draw(mask))
    blurred = mask.filter(ImageFilter.GaussianBlur(blur))
    return blurred.resize((blurred.width * shrink, blurred.height * shrink), Image.Resampling.BILINEAR)


def tint(image: Image.Image, colour: RGB, percent: int) -> Image.Image:
    """Return the picture seen through glass of `colour`."""
    glass = ImageChops.multiply(image, Image.new("RGB", image.size, colour))
    return Image.blend(image, glass, percent / 100)


def curve(function: Callable[[int], int]) -> list[int]:
    """Return a tone curve for one channel, clipped to what a byte holds."""
    return [max(0, min(255, function(value))) for value in range(256)]


def tone(
    image: Image.Image,
    *,
    exposure: int = 100,
    contrast: int = 100,
    lift: int = 0,
    gains: RGB = (100, 100, 100),
) -> Image.Image:
    """Return an RGB picture with percent of exposure, contrast (around middle grey) and gain by channel."""
    curves: list[int] = []
    for gain in gains:
        curves += curve(
            lambda v, gain=gain: (v * exposure * gain // 10000 - 128) * contrast // 100 + 128 + lift  # type: ignore[misc]
        )
    return image.point(curves)


def saturate(image: Image.Image, percent: int) -> Image.Image:
    """Return an RGB picture with `percent` of its saturation (more than 100: stronger colours)."""
    return Image.blend(image.convert("L").convert("RGB"), image, percent / 100)


def vignette(image: Image.Image, percent: int) -> Image.Image:
    """Return the picture darkened towards its corners."""
    shade = Image.radial_gradient("L").point(curve(lambda v: 255 - max(0, v - 110) * percent // 100))
    return ImageChops.multiply(image, shade.resize(image.size, Image.Resampling.BILINEAR).convert("RGB"))
