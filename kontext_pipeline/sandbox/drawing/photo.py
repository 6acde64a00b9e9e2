"""Edits of a photograph: season, time of day, weather, colour and style where the prompt names them, else a variation."""

from random import Random
from typing import Final

from PIL import Image, ImageChops, ImageFilter, ImageOps

from kontext_pipeline.sandbox.drawing import tone
from kontext_pipeline.sandbox.drawing.features import RGB, PromptFeatures
from kontext_pipeline.sandbox.drawing.styles import apply_styles
from kontext_pipeline.sandbox.drawing.tone import Size, adjust, curve, glow, hue_mask, light
from kontext_pipeline.sandbox.drawing.weather import add_stars, add_weather

_TIMES: Final = {
    "dawn": (1.02, (1.08, 0.98, 1.0), 0.9, 0.66, 0.45),
    "sunset": (1.0, (1.14, 0.9, 0.8), 1.1, 0.78, 0.4),
    "dusk": (0.8, (0.8, 0.86, 1.16), 0.6, 0.9, 0.25),
    "night": (0.58, (0.7, 0.86, 1.2), 0.5, 1.0, 0.0),
}
"""By time of day: exposure, gains, saturation, the share of a new sky, and the strength of the sun's glow."""


def edit_photo(photo: Image.Image, size: Size, features: PromptFeatures, rng: Random) -> Image.Image:
    """Return the RGB photograph at `size` with these features; without any, a variation that `rng` decides."""
    centering = (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7))
    image = ImageOps.fit(photo, size, Image.Resampling.BICUBIC, rng.uniform(0, 0.03), centering)
    described = features.season or features.styles
    image = _vary(image, rng, strong=not (described or features.time or features.weather or features.colour))
    if features.colour and (features.replaced_colour or not described):
        image = _recolour(image, features.colour, features.replaced_colour)
    image = _change_season(image, features)
    image = _change_light(image, features.weather)
    # The neon style brings a night of its own.
    if features.time in _TIMES and "neon" not in features.styles:
        image = _change_time(image, features.time or "", rng, candle="warm" in features.styles)
    return apply_styles(add_weather(image, features, rng), features.styles, rng)


def _vary(image: Image.Image, rng: Random, *, strong: bool) -> Image.Image:
    """Change exposure, contrast and colours a little, and more where the prompt asks for nothing else."""
    reach = 0.1 if strong else 0.03
    warmth, exposure, contrast = (rng.uniform(-reach, reach) for _ in range(3))
    saturation = 1 + rng.uniform(-1.8, 3.0) * reach
    gains = (1 + warmth, 1.0, 1 - warmth)
    image = adjust(image, exposure=1 + exposure, contrast=1 + contrast, gains=gains, saturation=saturation)
    if not strong:
        return image
    sun = (rng.randint(0, image.width), rng.randint(0, image.height // 3))
    image = glow(image, sun, max(image.size) * 6 // 10, (255, 208, 140), rng.uniform(0, 0.4))
    return tone.vignette(ImageOps.mirror(image) if rng.random() < 0.35 else image, rng.uniform(0.2, 0.6))


def _recolour(image: Image.Image, colour: RGB, replaced: RGB | None) -> Image.Image:
    """Turn one colour of the photograph into another: the one near `replaced`, or the strongest in the middle."""
    reach, everywhere = Image.radial_gradient("L"), replaced is not None
    hues, saturation, _ = image.reduce(8).convert("HSV").split()
    middle = reach.point(curve(lambda v: 255 if everywhere else (90 - v) * 9)).resize(hues.size)
    colourful = saturation.point(curve(lambda s: 255 if s > 90 else 0))
    counts = hues.histogram(ImageChops.multiply(colourful, middle)) * 3
    low, high = (256, 512) if replaced is None else (_hsv(replaced)[0] + 232, _hsv(replaced)[0] + 272)
    hue = max(range(low, high), key=lambda at: sum(counts[at - 4 : at + 5]))
    if sum(counts[hue - 12 : hue + 13]) < hues.width * hues.height // 50:
        # Nothing here has such a colour: tint the whole picture.
        return Image.blend(image, ImageChops.multiply(image, Image.new("RGB", image.size, colour)), 0.6)
    wanted_hue, wanted_saturation = _hsv(colour)
    _, saturation, value = image.convert("HSV").split()
    saturation = saturation.point(curve(lambda s: (s + 2 * wanted_saturation) / 3))
    painted = Image.merge("HSV", (Image.new("L", image.size, wanted_hue), saturation, value)).convert("RGB")
    mask = hue_mask(image, hue - 18, hue + 18, least=100)
    around = reach.point(curve(lambda v: 255 if everywhere else (200 - v) * 3)).resize(image.size)
    return Image.composite(painted, image, ImageChops.multiply(mask, around))


def _hsv(colour: RGB) -> tuple[int, int]:
    hue, saturation, _ = Image.new("RGB", (1, 1), colour).convert("HSV").tobytes()
    return hue, saturation


def _change_season(image: Image.Image, features: PromptFeatures) -> Image.Image:
    green = hue_mask(image, 30, 122, least=44)
    if features.season == "autumn":
        hue, saturation, value = image.convert("HSV").split()
        gold = Image.merge("HSV", (hue.point(curve(lambda h: 14 + (h - 30) * 0.16)), saturation, value))
        return adjust(Image.composite(gold.convert("RGB"), image, green), gains=(1.08, 1.0, 0.88))
    if features.season == "spring":
        fresh = adjust(image, gains=(1.02, 1.12, 0.86), exposure=1.06, saturation=1.15)
        return adjust(Image.composite(fresh, image, green), exposure=1.06)
    if features.season == "summer":
        return adjust(image, exposure=1.05, contrast=1.06, gains=(1.07, 1.02, 0.9), saturation=1.25)
    if features.season == "winter" or features.weather == "snow":
        return _cover_with_snow(image, green)
    return image


def _cover_with_snow(image: Image.Image, green: Image.Image) -> Image.Image:
    """Put snow on green and brown ground and on what faces up, under a cold light."""
    grey = image.convert("L")
    ground = ImageChops.lighter(green, hue_mask(image, 4, 24).point(curve(lambda v: v * 0.35)))
    # What faces up is brighter than what is right below it.
    upward = ImageChops.subtract(grey, ImageChops.offset(grey, 0, -4)).filter(ImageFilter.BoxBlur(1))
    upward = upward.point(curve(lambda v: (v - 8) * 6))
    covered = ImageChops.add(ground.point(curve(lambda v: v * 0.8)), upward).filter(ImageFilter.BoxBlur(1))
    snow = adjust(grey.point(curve(lambda v: 116 + v * 0.66)).convert("RGB"), gains=(0.98, 1.01, 1.06))
    image = Image.composite(snow, adjust(image, saturation=0.45), covered)
    return adjust(image, gains=(0.99, 1.01, 1.06), exposure=1.05)


def _change_light(image: Image.Image, weather: str | None) -> Image.Image:
    if weather in {"rain", "storm", "clouds"}:
        exposure = {"rain": 0.8, "storm": 0.62, "clouds": 0.9}[weather]
        return adjust(image, exposure=exposure, contrast=0.94, gains=(0.94, 0.99, 1.06), saturation=0.58)
    if weather == "fog":
        return adjust(image, exposure=1.05, contrast=0.9, saturation=0.7)
    if weather == "sun":
        return adjust(image, exposure=1.04, contrast=1.06, gains=(1.03, 1.01, 0.96), saturation=1.15)
    return image


def _change_time(image: Image.Image, time: str, rng: Random, *, candle: bool) -> Image.Image:
    """Light the photograph as at `time`, under a sky of that time; its brightest parts become lamps at night."""
    exposure, gains, saturation, sky_share, sun_strength = _TIMES[time]
    top, middle, horizon, sun, _ = tone.LIGHTS[time]
    width, height = image.size
    sky = tone.sky_mask(image)
    lamps = image.convert("L").point(curve(lambda v: (v - 200) * 4))
    dark_part = ImageChops.multiply(ImageChops.invert(sky), tone.ramp(image.size, 30, 160))
    lamps = ImageChops.multiply(lamps, dark_part)
    image = adjust(image, exposure=exposure, gains=gains, saturation=saturation)
    heaven = tone.gradient(image.size, top, middle, horizon, 110)
    share = sky.point(curve(lambda v: (64 + v * 0.75) * sky_share))
    image.paste(heaven, (0, 0), share)
    if time in {"dawn", "sunset", "dusk"}:
        at = (round(width * rng.uniform(0.2, 0.8)), height * 42 // 100)
        image = glow(image, at, width * 6 // 10, horizon, sun_strength)
    if time in {"dusk", "night"}:
        image = light(image, lamps.filter(ImageFilter.GaussianBlur(10)), (255, 180, 90))
    if candle:
        flame = (width * 14 // 100, height // 2)
        image = glow(glow(image, flame, width * 6 // 10, (255, 150, 50), 0.7), flame, width // 12, sun, 0.9)
    elif time == "night":
        image = add_stars(image, rng, sky)
        spots = [(width * x // 100, height * y // 100) for x in (78, 22, 62, 38) for y in (14, 20)]
        clear = [spot for spot in spots if sky.crop((*spot, spot[0] + 1, spot[1] + 1)).tobytes() > b"\xc8"]
        if clear:
            image = tone.add_disc(image, rng.choice(clear), min(width, height) // 32, sun)
    return image if time == "dawn" else tone.vignette(image, 0.8)
