"""Scenes for prompts without a photograph: ridges, roofs or trees in haze under a large sun."""

from itertools import chain, pairwise
from random import Random
from typing import Final

from PIL import Image, ImageDraw

from kontext_pipeline.sandbox.drawing.features import RGB, PromptFeatures
from kontext_pipeline.sandbox.drawing.tone import LIGHTS, Size, add_disc, adjust, gradient, ramp
from kontext_pipeline.sandbox.drawing.weather import add_stars, add_water, add_weather

_LAYERS: Final = 5
_LAND: Final[dict[str | None, RGB]] = {
    **dict.fromkeys(("winter", "snow"), (148, 168, 196)),
    "autumn": (140, 58, 26),
    "spring": (70, 130, 70),
    "desert": (176, 92, 46),
}
_SMOOTH: Final = {"hills", "desert", "forest", "water"}


def draw_scene(size: Size, features: PromptFeatures, rng: Random) -> Image.Image:
    """Return an RGB scene at `size`. `rng` decides what the prompt leaves open."""
    width, height = size
    time = features.time or rng.choice(("dawn", "day", "sunset", "dusk"))
    top, middle, horizon, sun, land = LIGHTS[time]
    hint = _LAND.get(features.season or features.weather) or features.colour or _LAND.get(features.setting)
    if hint is not None:
        land = _blend(land, hint, 0.2 if time == "night" else 0.55)
    line = round(height * rng.uniform(0.5, 0.6))
    image = gradient(size, top, middle, horizon, 85)
    if time == "night":
        image = add_stars(image, rng, ramp(size, 255, 0))
    radius = round(min(size) * (0.05 if time == "night" else rng.uniform(0.09, 0.15)))
    altitude = round(min(size) * rng.uniform(0.1, 0.26)) * (2 if time == "night" else 1)
    image = add_disc(image, (round(width * rng.uniform(0.2, 0.8)), line - altitude), radius, sun)
    for layer in range(_LAYERS):
        depth = (layer + 1) / _LAYERS
        base = line + round((height - line) * layer / _LAYERS * 0.9)
        colour = _blend(horizon, land, 0.12 + 0.88 * depth**1.2)
        rise = height * (0.2 - 0.05 * depth)
        outline = _roofs(depth, rng) if features.setting == "city" else _ridge(features.setting, depth, rng)
        _add_layer(image, [(x * width, base - rise * y) for x, y in outline], colour, horizon)
    if features.setting == "water":
        image = add_water(image, rng, line + height // 12)
    if features.weather in {"rain", "storm", "clouds", "fog"}:
        image = adjust(image, saturation=0.6, exposure=0.85)
    return add_weather(image, features, rng)


def _roofs(depth: float, rng: Random) -> list[tuple[float, float]]:
    """Return the outline of a row of houses: shares of the width, and heights of about 0 to 1."""
    points = [(0.0, 0.0)]
    while points[-1][0] < 1:
        left, roof = points[-1][0], rng.uniform(0.1, 1.5) * rng.random()
        points += [(left, roof), (left + rng.uniform(0.015, 0.05) * (0.5 + depth), roof)]
    return points


def _ridge(setting: str | None, depth: float, rng: Random) -> list[tuple[float, float]]:
    """Return the outline of a ridge by midpoint displacement, with trees on it in a forest."""
    heights = [rng.random(), rng.random()]
    spread, roughness = (0.4, 0.42) if setting in _SMOOTH else (0.5, 0.52)
    while len(heights) <= 256:
        between = [(a + b) / 2 + rng.uniform(-spread, spread) for a, b in pairwise(heights)]
        heights = [*chain.from_iterable(zip(heights[:-1], between, strict=True)), heights[-1]]
        spread *= roughness
    if setting == "forest":
        tall = 0.3 + 0.6 * depth
        heights = [y + tall * rng.uniform(0.3, 1.0) * (index % 2) for index, y in enumerate(heights)]
    return [(index / 256, height) for index, height in enumerate(heights)]


def _add_layer(image: Image.Image, outline: list[tuple[float, float]], colour: RGB, haze: RGB) -> None:
    """Fill everything below `outline` with `colour`, which fades into `haze` towards the bottom."""
    width, height = image.size
    top = max(0, int(min(y for _, y in outline)))
    mask = Image.new("L", (2 * width, 2 * (height - top)))
    points = [(2 * x, 2 * (y - top)) for x, y in outline]
    ImageDraw.Draw(mask).polygon([*points, (2 * width, mask.height), (0, mask.height)], fill=255)
    shape = mask.reduce(2)
    fading = gradient(shape.size, colour, _blend(colour, haze, 0.2), _blend(colour, haze, 0.5), 90)
    image.paste(fading, (0, top), shape)


def _blend(first: RGB, second: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
