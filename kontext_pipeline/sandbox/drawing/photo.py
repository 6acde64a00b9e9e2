"""Edits of a photograph: seasons, times of day, weather and colours where the prompt names them, else a variation."""

from collections import Counter

from PIL import Image, ImageChops, ImageFilter

from kontext_pipeline.sandbox.drawing import weather
from kontext_pipeline.sandbox.drawing.chance import Chance
from kontext_pipeline.sandbox.drawing.paint import (
    curve,
    glow,
    ramp,
    saturate,
    tint,
    tone,
    vertical_gradient,
    vignette,
)
from kontext_pipeline.sandbox.drawing.stylise import stylise
from kontext_pipeline.sandbox.drawing.wishes import RGB, Wishes


def edit(photograph: Image.Image, size: tuple[int, int], wishes: Wishes, digest: str) -> Image.Image:
    """Return the RGB photograph at `size`, edited as wished; without a wish, cropped and lit anew by `digest`."""
    chance = Chance(digest, "photo")
    image = _crop(photograph, size, chance)
    image = _variation(image, chance, strong=not wishes.edits)
    if wishes.colour is not None:
        image = _recolour(image, wishes.colour)
    image = _season(image, wishes, chance)
    image = _weather_light(image, wishes)
    image = _time(image, wishes, chance)
    image = _weather(image, wishes, chance)
    return stylise(image, wishes, digest)


def _crop(photograph: Image.Image, size: tuple[int, int], chance: Chance) -> Image.Image:
    """Cut the wanted shape out of the photograph, a little closer and off its middle as chance has it."""
    width, height = photograph.size
    zoom = chance.between(1000, 1070)
    wide = min(width, height * size[0] // size[1]) * 1000 // zoom
    high = min(height, width * size[1] // size[0]) * 1000 // zoom
    wide, high = max(1, wide), max(1, high)
    left = (width - wide) * chance.between(30, 70) // 100
    top = (height - high) * chance.between(30, 70) // 100
    box = (left, top, left + wide, top + high)
    return photograph.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)


def _variation(image: Image.Image, chance: Chance, *, strong: bool) -> Image.Image:
    """Change exposure, contrast and colours a little; more where nothing else is asked for."""
    reach = 10 if strong else 3
    warmth = chance.between(-reach, reach)
    image = tone(
        image,
        exposure=100 + chance.between(-reach, reach),
        contrast=100 + chance.between(0, reach),
        gains=(100 + warmth, 100 + chance.between(-reach, reach) // 3, 100 - warmth),
    )
    if not strong:
        return image
    image = saturate(image, 100 + chance.between(-18, 30))
    if chance.percent(50):
        centre = (image.width * chance.between(0, 100) // 100, image.height * chance.between(0, 35) // 100)
        glow(image, centre, max(image.size) * 6 // 10, (255, 208, 140), chance.between(20, 42))
    if chance.percent(35):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return vignette(image, chance.between(20, 60))


def _sky_mask(image: Image.Image) -> Image.Image:
    """Return where the sky probably is: bright or blue, without detail, and high up."""
    small = image.reduce(4)
    hue, saturation, value = small.convert("HSV").split()
    blue = ImageChops.multiply(
        hue.point(curve(lambda h: 255 if 125 <= h <= 185 else 0)), value.point(curve(lambda v: (v - 70) * 4))
    )
    pale = ImageChops.multiply(
        saturation.point(curve(lambda s: 255 - s * 4)), value.point(curve(lambda v: (v - 140) * 4))
    )
    candidate = ImageChops.lighter(blue, pale)
    # Edges are found wherever the kernel fits; the frame it leaves out is no edge.
    detail = Image.new("L", small.size)
    edges = small.convert("L").filter(ImageFilter.FIND_EDGES)
    detail.paste(edges.crop((2, 2, small.width - 2, small.height - 2)), (2, 2))
    calm = detail.filter(ImageFilter.BoxBlur(2)).point(curve(lambda v: 255 - v * 12))
    high_up = ramp(small.size, 255, 0).point(curve(lambda v: (v - 60) * 3))
    certain = ImageChops.multiply(ImageChops.multiply(candidate, calm), high_up)
    # From where it is certain the sky reaches to the very outline of what stands before it.
    grown = ImageChops.multiply(certain.filter(ImageFilter.MaxFilter(9)), candidate.point(curve(lambda v: v * 3)))
    return grown.filter(ImageFilter.GaussianBlur(1)).resize(image.size, Image.Resampling.BILINEAR)


def _band(image: Image.Image, low: int, high: int, *, soft: int = 8) -> Image.Image:
    """Return a mask of the colours whose hue (0 to 255) is between `low` and `high`, greys left out."""
    hue, saturation, value = image.reduce(2).convert("HSV").split()
    inside = hue.point(curve(lambda h: 255 * min(soft, h - low, high - h) // soft if low < h < high else 0))
    lively = ImageChops.multiply(
        saturation.point(curve(lambda s: (s - 28) * 7)), value.point(curve(lambda v: (v - 14) * 10))
    )
    return ImageChops.multiply(inside, lively).resize(image.size, Image.Resampling.BILINEAR)


def _season(image: Image.Image, wishes: Wishes, chance: Chance) -> Image.Image:
    if wishes.season == "autumn":
        hue, saturation, value = image.convert("HSV").split()
        first, last = 30, 122
        turned = hue.point(curve(lambda h: 10 + (h - first) * 26 // (last - first) if first < h < last else h))
        gold = Image.merge("HSV", (turned, saturation.point(curve(lambda s: s * 11 // 10)), value)).convert("RGB")
        image = Image.composite(gold, image, _band(image, first - 4, last + 4))
        image = tone(image, gains=(107, 100, 88), exposure=101)
        return weather.add_petals(image, chance, ((222, 120, 34), (188, 62, 28), (236, 176, 60)))
    if wishes.season == "spring":
        fresh = saturate(tone(image, gains=(104, 112, 88), exposure=110), 125)
        image = Image.composite(fresh, image, _band(image, 30, 125))
        image = tone(image, exposure=104, lift=6, gains=(103, 100, 101))
        return weather.add_petals(image, chance, ((255, 206, 222), (255, 238, 242), (248, 170, 198)))
    if wishes.season == "summer":
        image = saturate(tone(image, exposure=105, contrast=106, gains=(105, 101, 92)), 122)
        glow(
            image,
            (image.width * chance.between(60, 96) // 100, 0),
            max(image.size) * 7 // 10,
            (255, 222, 150),
            62,
        )
        return image
    if wishes.season == "winter" or wishes.weather == "snow":
        return _winter(image)
    return image


def _winter(image: Image.Image) -> Image.Image:
    """Snow lies on what is green or brown and on whatever faces up; the light turns cold."""
    grey = image.convert("L")
    ground = ImageChops.lighter(_band(image, 22, 125), _band(image, 4, 24).point(curve(lambda v: v * 45 // 100)))
    # What faces up is lighter than what is right below it.
    facing_up = ImageChops.subtract(grey, ImageChops.offset(grey, 0, -4)).filter(ImageFilter.BoxBlur(1))
    facing_up = facing_up.point(curve(lambda v: (v - 8) * 7))
    settled = ImageChops.add(ground.point(curve(lambda v: v * 70 // 100)), facing_up).filter(ImageFilter.BoxBlur(1))
    relief = grey.point(curve(lambda v: 120 + v * 62 // 100)).convert("RGB")
    white = tone(relief, gains=(97, 101, 107))
    image = Image.composite(white, saturate(image, 62), settled)
    return tone(image, gains=(94, 100, 110), exposure=104, lift=4)


def _weather_light(image: Image.Image, wishes: Wishes) -> Image.Image:
    if wishes.weather in {"rain", "storm", "clouds"}:
        dark = {"rain": 78, "storm": 58, "clouds": 90}[wishes.weather]
        return tone(saturate(image, 58), exposure=dark, contrast=94, gains=(94, 99, 106))
    if wishes.weather == "fog":
        return tone(saturate(image, 56), contrast=84, lift=10)
    if wishes.weather == "sun" and wishes.time in {None, "day"}:
        return saturate(tone(image, exposure=102, contrast=106, gains=(103, 101, 96)), 114)
    return image


def _time(image: Image.Image, wishes: Wishes, chance: Chance) -> Image.Image:
    if wishes.time == "day" and wishes.weather != "sun":
        return tone(image, exposure=106, contrast=103)
    if wishes.time in {None, "day"}:
        return image
    sky = _sky_mask(image)
    width, height = image.size
    x = width * chance.between(20, 80) // 100
    if wishes.time == "sunset":
        glass = vertical_gradient(
            image.size,
            ((0, (150, 96, 168)), (450, (255, 150, 104)), (700, (255, 176, 110)), (1000, (120, 72, 92))),
        )
        image = ImageChops.multiply(
            tone(image, exposure=112, contrast=108),
            Image.blend(glass, Image.new("RGB", image.size, (255, 236, 214)), 0.22),
        )
        evening = vertical_gradient(
            image.size,
            ((0, (70, 52, 112)), (300, (206, 92, 98)), (560, (255, 186, 108)), (1000, (255, 206, 130))),
        )
        image = Image.composite(Image.blend(image, evening, 0.78), image, sky)
        glow(image, (x, height * 42 // 100), max(image.size) * 55 // 100, (255, 160, 66), 72)
        glow(image, (x, height * 42 // 100), max(image.size) * 16 // 100, (255, 224, 150), 60)
        return vignette(image, 80)
    if wishes.time == "dawn":
        image = tone(image, exposure=102, contrast=88, lift=14, gains=(108, 98, 100))
        haze = vertical_gradient(image.size, ((0, (176, 168, 214)), (500, (255, 200, 176)), (1000, (255, 226, 200))))
        image = Image.composite(Image.blend(image, haze, 0.7), Image.blend(image, haze, 0.2), sky)
        glow(image, (x, height * 45 // 100), max(image.size) * 6 // 10, (255, 200, 150), 62)
        return image
    # Neon has a night of its own.
    return image if "neon" in wishes.styles else _night(image, chance, sky, dusk=wishes.time == "dusk")


def _night(image: Image.Image, chance: Chance, sky: Image.Image, *, dusk: bool) -> Image.Image:
    """Darken to blue, light what was brightest below the sky like lamps, and hang stars and a moon."""
    width, height = image.size
    grey = image.convert("L")
    lamps = ImageChops.multiply(grey.point(curve(lambda v: (v - 205) * 5)), ImageChops.invert(sky))
    lamps = ImageChops.multiply(lamps, ramp(image.size, 90, 255))
    dark = tone(saturate(image, 46), exposure=72 if dusk else 54, contrast=104, gains=(72, 86, 124))
    heaven = vertical_gradient(
        image.size,
        (
            (0, (20, 30, 74) if dusk else (6, 10, 30)),
            (600, (104, 92, 146) if dusk else (24, 40, 82)),
            (1000, (190, 130, 130) if dusk else (36, 56, 96)),
        ),
    )
    dark = Image.composite(heaven, dark, sky)
    for mask, colour in (
        (lamps.filter(ImageFilter.GaussianBlur(16)), (255, 150, 60)),
        (lamps, (255, 206, 128)),
    ):
        lit = Image.composite(
            Image.new("RGB", image.size, colour),
            Image.new("RGB", image.size),
            mask.point(curve(lambda v: v * 55 // 100)),
        )
        dark = ImageChops.screen(dark, lit)
    dark = weather.add_stars(dark, chance, sky.point(curve(lambda v: v if not dusk else v // 2)))
    # A moon only where there is a sky for it.
    spots = [(width * px // 100, height * py // 100) for px in (78, 22, 62, 38, 50) for py in (14, 20)]
    radius = min(image.size) * 32 // 1000
    clear = [spot for spot in spots if _darkest(sky, spot, radius) > 150]
    if clear and not dusk:
        weather.add_moon(dark, chance.pick(clear), radius)
    return vignette(dark, 90)


def _darkest(mask: Image.Image, centre: tuple[int, int], radius: int) -> int:
    box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    return next(value for value, count in enumerate(mask.crop(box).histogram()) if count)


def _weather(image: Image.Image, wishes: Wishes, chance: Chance) -> Image.Image:
    if wishes.weather == "rain":
        return weather.add_rain(image, chance)
    if wishes.weather == "storm":
        return weather.add_rain(weather.add_lightning(image, chance), chance)
    if wishes.weather == "fog":
        return weather.add_fog(image, chance)
    if wishes.weather == "snow" or wishes.season == "winter":
        return weather.add_snow(image, chance)
    if wishes.weather == "sun":
        glow(
            image,
            (image.width * chance.between(8, 92) // 100, 0),
            max(image.size) * 55 // 100,
            (255, 232, 176),
            40,
        )
    return image


def _recolour(image: Image.Image, colour: RGB) -> Image.Image:
    """Turn the photograph's most telling colour into another; where it has none, tint it all."""
    small = image.reduce(8).convert("HSV")
    hues = Counter[int]()
    middle = small.crop((small.width // 3, small.height // 3, small.width * 2 // 3, small.height * 2 // 3))
    # What a photograph is of is mostly in its middle.
    for part, weight in ((small, 1), (middle, 8)):
        data = part.tobytes()
        for hue, saturation, value in zip(data[::3], data[1::3], data[2::3], strict=True):
            if saturation > 70 and value > 50:
                hues[hue // 8] += weight * (saturation * value >> 8)
    total = sum(hues.values())
    strongest, share = hues.most_common(1)[0] if hues else (0, 0)
    if total < small.width * small.height * 10 or share * 100 < total * 12:
        grey = image.convert("L").convert("RGB")
        return Image.blend(image, tint(tone(grey, exposure=125), colour, 82), 0.72)
    low, high = strongest * 8 - 12, strongest * 8 + 20
    band = _band(image, low, high, soft=6)
    if low < 0:
        band = ImageChops.lighter(band, _band(image, low + 256, 256 + 8, soft=6))
    if high > 255:
        band = ImageChops.lighter(band, _band(image, -8, high - 256, soft=6))
    wanted = Image.new("RGB", (1, 1), colour).convert("HSV").getpixel((0, 0))
    assert isinstance(wanted, tuple)
    _, strength, light = image.convert("HSV").split()
    strong = strength.point(curve(lambda s: (s + 2 * int(wanted[1])) // 3))
    painted = Image.merge("HSV", (Image.new("L", image.size, int(wanted[0])), strong, light)).convert("RGB")
    return Image.composite(painted, image, band)
