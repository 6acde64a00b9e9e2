"""Weather over a finished picture: rain, snow, fog, lightning, stars, leaves, petals and water."""

from random import Random
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from kontext_pipeline.sandbox.drawing.features import RGB, PromptFeatures
from kontext_pipeline.sandbox.drawing.tone import adjust, curve, glow, light, ramp

Colours = tuple[RGB, ...]
Layers = tuple[tuple[int, int, int, int, int, int], ...]
"""Marks a megapixel, their smallest and largest width, height in percent of the width, opacity, blur radius."""
_LEAF_COLOURS: Final[dict[str | None, Colours]] = {
    "autumn": ((222, 120, 34), (188, 62, 28), (236, 176, 60)),
    "spring": ((255, 206, 222), (255, 238, 242), (248, 170, 198)),
}
_LEAVES: Final[Layers] = ((60, 10, 22, 45, 250, 0), (14, 30, 56, 55, 210, 3))
_RAIN: Final[Layers] = ((520, 1, 1, 2600, 90, 0), (260, 1, 1, 5200, 120, 0), (60, 3, 3, 3000, 90, 1))
_SNOW: Final[Layers] = ((500, 2, 4, 100, 190, 0), (260, 4, 10, 100, 215, 1), (36, 18, 40, 100, 130, 4))
_STARS: Final[Layers] = ((600, 0, 1, 100, 190, 0), (60, 2, 3, 100, 255, 0))


def add_weather(image: Image.Image, features: PromptFeatures, rng: Random) -> Image.Image:
    """Return the picture behind the weather that the prompt asks for."""
    if features.weather == "storm":
        image = add_lightning(image, rng)
    if features.weather in {"rain", "storm"}:
        image = _scatter(image, rng, ((224, 232, 240),), _RAIN, rng.uniform(-0.2, 0.2))
    elif features.weather == "fog":
        image = add_fog(image, rng)
    elif features.weather == "snow" or features.season == "winter":
        image = _scatter(image, rng, ((252, 253, 255),), _SNOW)
    elif features.weather == "sun":
        sun = (round(image.width * rng.uniform(0.08, 0.92)), 0)
        image = glow(image, sun, max(image.size) * 55 // 100, (255, 232, 176), 0.4)
    leaves = _LEAF_COLOURS.get(features.season)
    return _scatter(image, rng, leaves, _LEAVES) if leaves else image


def _scatter(image: Image.Image, rng: Random, colours: Colours, layers: Layers, slant: float = 0.0) -> Image.Image:
    """Scatter marks over the picture, from far to near; `slant` makes them lines that lean to one side."""
    for count, smallest, largest, percent, opacity, blur in layers:
        # Marks are drawn twice: their colours here, their opacity in the mask.
        paint, mask = Image.new("RGB", image.size, colours[0]), Image.new("L", image.size)
        canvas, draw = ImageDraw.Draw(paint), ImageDraw.Draw(mask)
        for _ in range(count * image.width * image.height >> 20):
            wide, opaque = rng.randint(smallest, largest), rng.randint(opacity // 2, opacity)
            high = wide * percent * rng.uniform(0.7, 1.3) / 100
            x, y = rng.randint(-40, image.width), rng.randint(round(-high), image.height)
            if slant:
                draw.line((x, y, x + slant * high, y + high), opaque, wide)
            elif len(colours) == 1:
                draw.ellipse((x, y, x + wide, y + high), opaque)
            else:
                lean = rng.uniform(-1.2, 1.2) * high
                tip, side = (x + lean, y + high * 2), (x + lean / 3 - wide / 3, y + high)
                leaf = [(x, y), (x + lean + wide / 2, y + high * 0.4), tip, side]
                draw.polygon(leaf, opaque)
                canvas.polygon(leaf, rng.choice(colours))
        image.paste(paint, (0, 0), mask.filter(ImageFilter.BoxBlur(blur)) if blur else mask)
    return image


def add_stars(image: Image.Image, rng: Random, sky: Image.Image) -> Image.Image:
    """Return the picture with stars where the mask `sky` is bright."""
    stars = _scatter(Image.new("RGB", image.size), rng, ((255, 250, 238),), _STARS)
    return ImageChops.screen(image, ImageChops.multiply(stars, sky.convert("RGB")))


def add_fog(image: Image.Image, rng: Random) -> Image.Image:
    """Return the picture in drifting banks of fog, thickest across its middle."""
    banks = Image.frombytes("L", (5, 7), rng.randbytes(35)).resize(image.size, Image.Resampling.BICUBIC)
    veil = ImageChops.darker(ramp(image.size, 40, 330), ramp(image.size, 330, 20))
    thickness = ImageChops.multiply(veil, banks.point(curve(lambda v: 110 + v * 0.42)))
    image.paste((230, 233, 236), (0, 0), thickness)
    return image


def add_lightning(image: Image.Image, rng: Random) -> Image.Image:
    """Return the picture with a bolt of lightning and its light in the clouds."""
    mask = Image.new("L", image.size)
    bolt = [(round(image.width * rng.uniform(0.18, 0.82)), -4)]
    while bolt[-1][1] < image.height * 0.58:
        bolt.append((bolt[-1][0] + rng.randint(-34, 34), bolt[-1][1] + rng.randint(14, 44)))
    ImageDraw.Draw(mask).line(bolt, 255, 4, joint="curve")
    image = glow(image, bolt[0], image.height * 7 // 10, (150, 160, 230), 0.8)
    for blur, colour in ((10, (150, 150, 255)), (1, (255, 255, 255))):
        soft = mask.filter(ImageFilter.GaussianBlur(blur)).point(curve(lambda v: v * 3))
        image = light(image, soft, colour)
    return image


def add_water(image: Image.Image, rng: Random, shore: int) -> Image.Image:
    """Return the picture with calm water below row `shore`, which mirrors what is above."""
    width, height = image.size
    above = ImageOps.flip(image.crop((0, max(0, 2 * shore - height), width, shore)))
    water = above.resize((width // 6, height - shore)).resize((width, height - shore))
    water = adjust(water, exposure=0.84, saturation=0.85, gains=(0.92, 0.98, 1.06))
    ripples = Image.frombytes("L", (12, 90), rng.randbytes(12 * 90)).resize(water.size)
    water = light(water, ripples.point(curve(lambda v: (v - 150) * 0.6)), (190, 206, 220))
    image.paste(water, (0, shore))
    return image
