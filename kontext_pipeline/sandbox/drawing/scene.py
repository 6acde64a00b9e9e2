"""Scenes: landscapes drawn from a prompt's words and chance, for pictures that have no photograph to begin with."""

import itertools
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from kontext_pipeline.sandbox.drawing import things, weather
from kontext_pipeline.sandbox.drawing.chance import Chance
from kontext_pipeline.sandbox.drawing.paint import (
    Point,
    Stops,
    blend,
    colour_at,
    curve,
    glow,
    smooth_mask,
    soft_mask,
    soft_patch,
    vertical_gradient,
)
from kontext_pipeline.sandbox.drawing.wishes import RGB, Wishes


@dataclass(frozen=True, slots=True)
class Light:
    """What a time of day does to colours."""

    sky: Stops
    ground: RGB
    """What the nearest land looks like; farther land fades from it to the horizon's colour."""
    cloud: RGB
    sun: RGB | None
    lamp: RGB
    """Lit windows."""


_LIGHTS: Final[dict[str, tuple[Light, ...]]] = {
    "day": (
        Light(
            ((0, (38, 106, 178)), (450, (108, 176, 220)), (800, (190, 222, 234)), (1000, (236, 240, 230))),
            (24, 66, 62),
            (255, 255, 255),
            (255, 250, 224),
            (255, 226, 150),
        ),
        Light(
            ((0, (70, 140, 176)), (500, (150, 200, 204)), (850, (222, 232, 216)), (1000, (246, 240, 220))),
            (34, 74, 58),
            (255, 252, 244),
            (255, 248, 216),
            (255, 226, 150),
        ),
    ),
    "dawn": (
        Light(
            ((0, (86, 112, 168)), (400, (166, 160, 196)), (700, (238, 188, 184)), (1000, (255, 228, 192))),
            (58, 52, 88),
            (255, 226, 216),
            (255, 238, 204),
            (255, 214, 140),
        ),
    ),
    "sunset": (
        Light(
            (
                (0, (42, 38, 92)),
                (350, (128, 64, 120)),
                (620, (228, 104, 92)),
                (820, (250, 164, 92)),
                (1000, (255, 220, 144)),
            ),
            (36, 18, 48),
            (255, 170, 132),
            (255, 232, 160),
            (255, 206, 120),
        ),
        Light(
            ((0, (58, 66, 110)), (400, (168, 104, 122)), (700, (244, 150, 98)), (1000, (255, 214, 130))),
            (44, 28, 42),
            (255, 194, 146),
            (255, 240, 180),
            (255, 206, 120),
        ),
    ),
    "dusk": (
        Light(
            ((0, (14, 22, 62)), (450, (44, 66, 128)), (780, (124, 112, 166)), (1000, (232, 160, 140))),
            (12, 18, 44),
            (150, 130, 170),
            None,
            (255, 204, 112),
        ),
    ),
    "night": (
        Light(
            ((0, (4, 8, 26)), (500, (12, 26, 62)), (850, (30, 56, 96)), (1000, (62, 92, 124))),
            (4, 10, 22),
            (70, 90, 124),
            None,
            (255, 200, 104),
        ),
    ),
}
_SNOW: Final[RGB] = (238, 244, 250)


@dataclass
class _View:
    """The picture being drawn, and what has been decided about it."""

    image: Image.Image
    chance: Chance
    light: Light
    wishes: Wishes
    time: str
    place: str
    horizon: int
    """Row at which the land begins."""
    winter: bool

    @property
    def haze(self) -> RGB:
        """Colour of the sky at the horizon, which far land fades into."""
        return colour_at(self.light.sky, 960)

    def land(self, nearness: int) -> RGB:
        """Colour of land at `nearness` percent (100: right here)."""
        ground = self.light.ground
        if self.wishes.season == "autumn" and self.time in {"day", "dawn"}:
            ground = (124, 62, 30)
        elif self.wishes.season == "spring" and self.time in {"day", "dawn"}:
            ground = (72, 118, 52)
        if self.place == "desert":
            ground = blend(ground, (196, 116, 62) if self.time != "night" else (44, 42, 62), 75)
        if self.winter:
            ground = blend(ground, _SNOW if self.time in {"day", "dawn"} else blend(_SNOW, ground, 62), 62)
        return blend(self.haze, ground, nearness)


def draw_scene(size: tuple[int, int], wishes: Wishes, digest: str) -> Image.Image:
    """Return an RGB landscape of `size`: what `wishes` say, the rest by `digest`."""
    chance = Chance(digest, "scene")
    time = wishes.time or _usual_time(wishes, chance)
    place = wishes.place or chance.pick(("mountains", "mountains", "lake", "sea", "fields", "forest", "desert"))
    if "aurora" in wishes.things:
        time = "night"
    light = chance.pick(_LIGHTS[time])
    if wishes.weather in {"rain", "storm", "clouds", "fog"}:
        light = _grey(
            light,
            {"storm": 74, "fog": 22, "clouds": 40, "rain": 50}[wishes.weather],
            dark=wishes.weather == "storm",
        )
    share = {"mountains": 62, "lake": 56, "sea": 54, "fields": 58, "forest": 56, "desert": 56, "city": 72}[place]
    view = _View(
        image=vertical_gradient(size, ((0, light.sky[0][1]), *_squeezed(light.sky, share), (1000, light.sky[-1][1]))),
        chance=chance,
        light=light,
        wishes=wishes,
        time=time,
        place=place,
        horizon=size[1] * share // 100,
        winter=wishes.season == "winter" or wishes.weather == "snow",
    )
    _sky(view)
    {
        "mountains": _mountains,
        "lake": _lake,
        "sea": _sea,
        "fields": _fields,
        "forest": _forest,
        "desert": _desert,
        "city": _city,
    }[place](view)
    if "balloon" in wishes.things or (
        time in {"day", "dawn"} and place in {"fields", "desert", "mountains"} and chance.percent(35)
    ):
        things.balloons(view.image, chance, view.horizon)
    if wishes.weather not in {"rain", "storm", "snow"} and (
        "birds" in wishes.things or (time != "night" and place != "city" and chance.percent(55))
    ):
        things.birds(view.image, chance, view.horizon, blend(light.ground, view.haze, 15))
    return _weather(view)


def _usual_time(wishes: Wishes, chance: Chance) -> str:
    if wishes.weather == "sun" or wishes.season == "summer" or wishes.things & {"rainbow", "flowers"}:
        return "day"
    if wishes.weather == "storm":
        return "dusk"
    return chance.pick(("day", "day", "dawn", "sunset", "sunset", "dusk", "night"))


def _grey(light: Light, percent: int, *, dark: bool) -> Light:
    def dull(colour: RGB) -> RGB:
        grey = (colour[0] * 3 + colour[1] * 5 + colour[2] * 3) * (55 if dark else 100) // 1300
        return blend(colour, (grey * 90 // 100, grey * 95 // 100, grey), percent)

    sky = tuple((at, dull(colour)) for at, colour in light.sky)
    return Light(sky, dull(light.ground), blend(dull(light.cloud), (120, 128, 140), 45), None, light.lamp)


def _squeezed(stops: Stops, share: int) -> Stops:
    return [(at * share // 100, colour) for at, colour in stops[1:]]


# -- sky -------------------------------------------------------------------------------------------------


def _sky(view: _View) -> None:
    image, chance = view.image, view.chance
    width, _ = image.size
    low = view.time in {"dawn", "sunset"}
    overcast = view.wishes.weather in {"rain", "storm", "clouds", "fog"}
    x = width * chance.between(22, 78) // 100
    if view.time in {"night", "dusk"}:
        sky = vertical_gradient(
            image.size,
            ((0, (255, 255, 255)), (view.horizon * 1000 // image.height, (0, 0, 0)), (1000, (0, 0, 0))),
        )
        dim = 255 if view.time == "night" else 110
        if not overcast:
            view.image = image = weather.add_stars(image, chance, sky.convert("L").point(lambda v: v * dim // 255))
        if "aurora" in view.wishes.things or (view.time == "night" and view.winter and not overcast):
            _aurora(view)
        elif not overcast:
            weather.add_moon(
                image,
                (x, view.horizon * chance.between(22, 50) // 100),
                min(image.size) * chance.between(28, 44) // 1000,
            )
    elif view.light.sun is not None:
        radius = min(image.size) * (chance.between(50, 84) if low else chance.between(26, 36)) // 1000
        y = view.horizon * (chance.between(76, 92) if low else chance.between(18, 42)) // 100
        glow(
            image,
            (x, y),
            min(image.size) * (78 if low else 52) // 100,
            blend(view.light.sun, view.haze, 45),
            78,
        )
        glow(image, (x, y), radius * 4, view.light.sun, 80)

        def disc(draw: ImageDraw.ImageDraw, scale: int) -> None:
            draw.ellipse((0, 0, 2 * radius * scale, 2 * radius * scale), fill=255)

        image.paste(view.light.sun, (x - radius, y - radius), smooth_mask((2 * radius + 1, 2 * radius + 1), disc))
    _clouds(view, heavy=overcast)
    if "rainbow" in view.wishes.things:
        things.rainbow(image, chance, view.horizon)


def _clouds(view: _View, *, heavy: bool) -> None:
    image, chance = view.image, view.chance
    width = image.width
    small = 4
    top, bottom = view.horizon // 14, view.horizon * 82 // 100
    for _ in range(chance.between(12, 16) if heavy else chance.between(3, 6)):
        far = chance.between(0, 100)
        y = (top + (bottom - top) * far // 100) // small
        x = chance.between(-60, width // small + 60)
        reach = (140 - far) * (2 if heavy else 1)
        puffs = [
            (
                x + chance.between(-reach, reach),
                y - chance.between(0, max(2, reach // 7)),
                chance.between(max(3, reach // 7), max(5, reach // 3)),
            )
            for _ in range(chance.between(9, 16))
        ]

        blur = max(2, (130 - far) // 26)
        # A cloud's underside is level: what hangs lower is cut, and softened by the blur that follows.
        floor = y + max(3, reach // 12)
        room = 3 * blur
        left, right = min(px - r for px, _, r in puffs) - room, max(px + r for px, _, r in puffs) + room
        ceiling = min(py - r // 2 for _, py, r in puffs) - room

        def cloud(
            draw: ImageDraw.ImageDraw,
            puffs: list[tuple[int, int, int]] = puffs,
            corner: Point = (left, ceiling),
            edge: int = floor - ceiling,
        ) -> None:
            for px, py, radius in puffs:
                cx, cy, flat = px - corner[0], py - corner[1], max(2, radius * 34 // 100)
                draw.ellipse((cx - radius, cy - flat, cx + radius, cy + flat), fill=215)
            draw.rectangle((0, edge, 4000, edge + 4000), fill=0)

        mask = soft_patch((left * small, ceiling * small, right * small, (floor + room) * small), small, blur, cloud)
        strength = chance.between(150, 225) if heavy else chance.between(90, 190)
        colour = blend(view.light.cloud, view.haze, far * 55 // 100)
        dimmed = mask.point(curve(lambda v, s=strength: v * s // 255))  # type: ignore[misc]
        image.paste(colour, (left * small, ceiling * small, right * small, (floor + room) * small), dimmed)


def _aurora(view: _View) -> None:
    image, chance = view.image, view.chance
    width, height = image.size
    for colour, strength in (((60, 240, 160), 150), ((90, 200, 230), 90), ((170, 90, 220), 100)):
        y = view.horizon * chance.between(42, 62) // 100
        lines: list[tuple[int, int, int]] = []
        for x in range(width // 8 + 1):
            y = max(height // 12, min(view.horizon * 7 // 10, y + chance.between(-height // 90, height // 90)))
            lines.append((x, y // 8, chance.between(height // 60, height // 24)))

        def curtain(draw: ImageDraw.ImageDraw, lines: list[tuple[int, int, int]] = lines) -> None:
            for x, base, tall in lines:
                for step in range(tall):
                    draw.point((x, base - step), fill=255 * (tall - step) // tall)

        mask = soft_mask(image.size, 8, 2, curtain).point(lambda v, s=strength: v * s // 255)
        lit = Image.composite(Image.new("RGB", image.size, colour), Image.new("RGB", image.size), mask)
        image.paste(ImageChops.screen(image, lit))


# -- land ------------------------------------------------------------------------------------------------


def ridge_line(chance: Chance, width: int, base: int, swing: int, roughness: int) -> list[int]:
    """Return the height of a ridge for every 4th column: midpoints moved by less and less, `roughness` percent."""
    points = [base + chance.between(-swing, swing) for _ in range(4)]
    while len(points) * 4 < width + 8:
        swing = max(1, swing * roughness // 100)
        finer: list[int] = []
        for left, right in itertools.pairwise(points):
            finer += [left, (left + right) // 2 + chance.between(-swing, swing)]
        points = [*finer, points[-1]]
    return points


def _ridge(view: _View, line: list[int], nearness: int, *, mist: int = 50, foot: int | None = None) -> None:
    """Fill everything below `line`, fading into mist towards the row `foot`."""
    image = view.image
    width, height = image.size
    top = max(0, min(line))
    bottom = height if foot is None else min(height, foot)
    if top >= bottom:
        return

    def shape(draw: ImageDraw.ImageDraw, scale: int) -> None:
        edge = [(4 * i * scale, (y - top) * scale) for i, y in enumerate(line)]
        draw.polygon([(0, (bottom - top) * scale), *edge, (width * scale, (bottom - top) * scale)], fill=255)

    colour = view.land(nearness)
    fill = vertical_gradient((width, bottom - top), ((0, colour), (1000, blend(colour, view.haze, mist))))
    image.paste(fill, (0, top), smooth_mask((width, bottom - top), shape))


def _snow_caps(view: _View, line: list[int], depth: int) -> None:
    """Whiten a ridge down from its peaks, less where it is low."""
    image, chance = view.image, view.chance
    low, top = max(line), min(line)
    if low - top < 8:
        return
    colour = blend(_SNOW, view.haze, 30) if view.time in {"day", "dawn"} else blend(_SNOW, view.light.ground, 55)
    if view.time == "sunset":
        colour = blend(_SNOW, (255, 150, 120), 55)
    lower = [y + (low - y) * (low - y) * depth // 100 // (low - top) + chance.between(-7, 7) for y in line]

    def shape(draw: ImageDraw.ImageDraw, scale: int) -> None:
        upper_edge = [(4 * i * scale, (y - top) * scale) for i, y in enumerate(line)]
        lower_edge = [(4 * i * scale, (max(y, line[i]) - top) * scale) for i, y in enumerate(lower)]
        draw.polygon([*upper_edge, *reversed(lower_edge)], fill=225)

    image.paste(colour, (0, top), smooth_mask((image.width, low - top + 1), shape))


def _range(view: _View, base: int, *, layers: int, swing: int, roughness: int, nearest: int) -> None:
    """Draw ridges one behind another, ending at row `base`."""
    chance, height = view.chance, view.image.height
    for layer in range(layers):
        part = 100 * layer // max(1, layers - 1) if layers > 1 else 100
        rise = height * swing // 100 * (118 - part) // 100
        middle = base - rise * (100 - part * 60 // 100) // 100
        line = ridge_line(chance, view.image.width, middle, rise * 62 // 100, roughness)
        _ridge(view, line, 26 + (nearest - 26) * part // 100, foot=None)
        if (view.winter or layer == 0) and roughness > 48:
            _snow_caps(view, line, 66 if view.winter else 46)


def _mountains(view: _View) -> None:
    chance, (width, height) = view.chance, view.image.size
    _range(view, view.horizon, layers=3, swing=27, roughness=55, nearest=72)
    if "lake" in view.wishes.things or chance.percent(30):
        _water(view, height * 80 // 100)
    near = ridge_line(chance, width, height * 88 // 100, height * 5 // 100, 46)
    if "cabin" in view.wishes.things:
        things.cabin(
            view.image,
            (width * chance.between(24, 70) // 100, height * 87 // 100),
            height // 12,
            view.light.ground,
            view.light.lamp,
        )
    _ridge(view, near, 94, mist=0)
    things.pines(view.image, chance, near, view.land(100) if not view.winter else view.light.ground, density=70)


def _lake(view: _View) -> None:
    chance, (width, height) = view.chance, view.image.size
    shore = view.horizon
    _range(view, shore, layers=3, swing=20, roughness=53, nearest=74)
    trees = ridge_line(chance, width, shore - height // 90, height // 140, 50)
    things.pines(view.image, chance, trees, view.land(84), density=150, small=True)
    _water(view, shore + height // 100)
    if "boat" in view.wishes.things or chance.percent(45):
        at = (width * chance.between(25, 72) // 100, shore + (height - shore) * chance.between(24, 40) // 100)
        things.boat(view.image, at, height * chance.between(58, 80) // 1000, view.light.ground, view.light.cloud)
    near = ridge_line(chance, width, height * 97 // 100, height * 4 // 100, 50)
    _ridge(view, near, 100, mist=0)
    things.reeds(view.image, chance, near, view.light.ground)


def _sea(view: _View) -> None:
    chance, (width, height) = view.chance, view.image.size
    if chance.percent(70):
        far = ridge_line(chance, width, view.horizon - height // 50, height // 26, 50)
        slope = chance.pick((-1, 1)) * height // 9
        _ridge(view, [y + slope * (2 * i - len(far)) // len(far) + height // 14 for i, y in enumerate(far)], 42)
    if "lighthouse" in view.wishes.things or (not view.wishes.things and chance.percent(30)):
        side = chance.pick((16, 82))
        cliff = ridge_line(chance, width, 0, height // 60, 56)
        foot = width * side // 100
        line = [
            view.horizon - height // 9 + y + abs(4 * i - foot) * abs(4 * i - foot) // (width // 7) // 6
            for i, y in enumerate(cliff)
        ]
        things.lighthouse(
            view.image,
            (foot, line[min(len(line) - 1, foot // 4)] + 4),
            height // 6,
            view.light.ground,
            night=view.time in {"night", "dusk"},
        )
        _ridge(view, line, 88, mist=10)
    _water(view, view.horizon, waves=True)
    if "boat" in view.wishes.things or chance.percent(60):
        at = (
            width * chance.between(30, 70) // 100,
            view.horizon + (height - view.horizon) * chance.between(10, 26) // 100,
        )
        things.boat(view.image, at, height * chance.between(70, 110) // 1000, view.light.ground, view.light.cloud)
    if chance.percent(60) or "sand" in view.wishes.things:
        _beach(view)


def _beach(view: _View) -> None:
    chance, (width, height) = view.chance, view.image.size
    line = ridge_line(chance, width, height * 92 // 100, height // 30, 34)
    sand = blend((226, 196, 150), view.light.ground, {"day": 8, "dawn": 30, "sunset": 52}.get(view.time, 82))

    def shape(draw: ImageDraw.ImageDraw, scale: int) -> None:
        edge = [(4 * i * scale, y * scale) for i, y in enumerate(line)]
        draw.polygon([(0, height * scale), *edge, (width * scale, height * scale)], fill=255)

    mask = smooth_mask(view.image.size, shape)
    foam = ImageChops.offset(mask, 0, -max(3, height // 130)).filter(ImageFilter.GaussianBlur(2))
    view.image.paste(blend((255, 255, 255), view.haze, 30), (0, 0), foam.point(lambda v: v * 70 // 100))
    view.image.paste(
        vertical_gradient(view.image.size, ((0, sand), (880, sand), (1000, blend(sand, view.light.ground, 30)))),
        (0, 0),
        mask,
    )


def _water(view: _View, row: int, *, waves: bool = False) -> None:
    """Turn everything below `row` into water that mirrors what is above it."""
    image, chance = view.image, view.chance
    width, height = image.size
    deep = height - row
    if deep < 8:
        return
    mirror = image.crop((0, max(0, row - deep * 13 // 10), width, row)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    mirror = mirror.resize((width, deep), Image.Resampling.BILINEAR).filter(ImageFilter.BoxBlur(2))
    water = blend(colour_at(view.light.sky, 200), view.light.ground, 45 if view.time != "day" else 30)
    body = Image.composite(
        Image.new("RGB", (width, deep), water),
        mirror,
        vertical_gradient((width, deep), ((0, (60,) * 3), (1000, (185,) * 3))).convert("L"),
    )
    rippled = body.copy()
    y = 0
    while y < deep:
        tall = 1 + y * 5 // deep
        reach = 1 + y * (16 if waves else 9) // deep
        strip = body.crop((0, y, width, min(deep, y + tall)))
        rippled.paste(strip, (chance.between(-reach, reach), y))
        y += tall
    glints = Image.new("L", (width, deep))
    draw = ImageDraw.Draw(glints)
    for _ in range((420 if waves else 240) * width // 1360):
        near = chance.between(0, 100)
        gy = deep * near * near // 10000
        x, long = chance.between(0, width), 6 + near * chance.between(10, 90) // 100
        draw.line((x - long, gy, x + long, gy), fill=chance.between(14, 74), width=1 + near // 55)
    rippled.paste(blend(view.haze, (255, 255, 255), 35), (0, 0), glints)
    image.paste(rippled, (0, row))


def _fields(view: _View) -> None:
    chance, (width, height) = view.chance, view.image.size
    _range(view, view.horizon, layers=2, swing=9, roughness=42, nearest=46)
    flowers = "flowers" in view.wishes.things or (
        not view.winter and view.time in {"day", "dawn"} and chance.percent(50)
    )
    rows = 4
    for row in range(rows):
        base = view.horizon + (height - view.horizon) * (row * row * 8 + row * 14 + 8) // 140
        line = ridge_line(chance, width, base, height * (5 - row // 2) // 100, 38)
        _ridge(view, line, 56 + 42 * row // (rows - 1), mist=22)
        if row < rows - 1:
            things.round_trees(
                view.image, chance, line, view.land(66 + 30 * row // rows), size=height * (2 + row) // 100
            )
        if row == 1 and ("cabin" in view.wishes.things or chance.percent(40)):
            x = width * chance.between(20, 78) // 100
            things.cabin(
                view.image,
                (x, line[x // 4] + height // 200),
                height // 22,
                view.light.ground,
                view.light.lamp,
            )
    if flowers:
        things.flowers(view.image, chance, height * 80 // 100, lavender="lavender" in view.wishes.things)


def _forest(view: _View) -> None:
    chance, (width, height) = view.chance, view.image.size
    _range(view, view.horizon - height // 12, layers=2, swing=16, roughness=50, nearest=36)
    for depth in range(4):
        base = view.horizon + (height - view.horizon) * (depth * 30) // 100 - height // 24
        line = ridge_line(chance, width, base, height // 26, 44)
        colour = blend(view.haze, view.light.ground, 34 + 22 * depth) if view.winter else view.land(38 + 20 * depth)
        things.pines(
            view.image,
            chance,
            line,
            colour,
            density=56 - 9 * depth,
            tall=height * (7 + 6 * depth) // 100,
            snowy=view.winter,
        )
        _ridge(view, line, 38 + 20 * depth, mist=46 if depth < 3 else 0)
    if "cabin" in view.wishes.things:
        things.cabin(
            view.image,
            (width * chance.between(36, 64) // 100, height * 86 // 100),
            height // 10,
            view.light.ground,
            view.light.lamp,
        )


def _desert(view: _View) -> None:
    chance, (width, height) = view.chance, view.image.size
    if chance.percent(60):
        _range(view, view.horizon, layers=1, swing=9, roughness=60, nearest=34)
    dunes = 5
    for number in range(dunes):
        base = view.horizon + (height - view.horizon) * (number * number * 5 + number * 8) // 130
        line = ridge_line(chance, width, base, height * (3 + number * 2) // 100, 30)
        nearness = 40 + 56 * number // dunes
        _ridge(view, line, nearness, mist=34)
        _dune_shade(view, line, nearness)


def _dune_shade(view: _View, line: list[int], nearness: int) -> None:
    """Darken one flank of a dune below its crest, as low light does."""
    image, chance = view.image, view.chance
    crest = min(range(len(line)), key=lambda i: line[i])
    top, deep, reach = line[crest], image.height // 5, len(line) // 2
    lean = chance.pick((-1, 1))
    edge: list[Point] = [
        (4 * (crest + lean * i), line[max(0, min(len(line) - 1, crest + lean * i))] - top) for i in range(reach)
    ]
    back: list[Point] = [
        (4 * (crest + lean * (i * 55 // 100)), edge[i][1] + deep * i // reach + 1) for i in range(reach - 1, -1, -2)
    ]

    def shape(draw: ImageDraw.ImageDraw, scale: int) -> None:
        draw.polygon([(x * scale, y * scale) for x, y in (*edge, *back)], fill=120)

    shade = blend(view.land(nearness), (40, 20, 40), 60)
    size = (image.width, max(2, max(y for _, y in (*edge, *back)) + 1))
    image.paste(shade, (0, top), smooth_mask(size, shape).filter(ImageFilter.GaussianBlur(1)))


def _city(view: _View) -> None:
    chance, (width, height) = view.chance, view.image.size
    base = height * 82 // 100 if chance.percent(55) else height
    lit = {"night": 46, "dusk": 38, "sunset": 16, "dawn": 6}.get(view.time, 0)
    for depth in range(3):
        things.skyline(
            view.image,
            chance,
            base=base,
            tallest=height * (46 - 7 * depth) // 100,
            colour=view.land(40 + 26 * depth),
            lamp=blend(view.haze, view.light.lamp, 45 + 27 * depth),
            lit=lit,
            narrow=width * (2 + depth) // 100,
        )
    if base < height:
        _water(view, base)


def _weather(view: _View) -> Image.Image:
    image, chance, kind = view.image, view.chance, view.wishes.weather
    if kind == "rain":
        return weather.add_rain(weather.add_fog(image, chance, blend(view.haze, (150, 160, 172), 50)), chance)
    if kind == "storm":
        return weather.add_rain(weather.add_lightning(image, chance), chance)
    if kind == "fog":
        return weather.add_fog(image, chance, blend(view.haze, (235, 238, 240), 50))
    if kind == "snow" or (view.winter and view.time in {"day", "dawn"}):
        return weather.add_snow(image, chance)
    if view.wishes.season == "autumn":
        return weather.add_petals(image, chance, ((222, 120, 34), (196, 66, 30), (236, 176, 60)))
    if view.wishes.season == "spring":
        return weather.add_petals(image, chance, ((255, 206, 222), (255, 236, 240), (250, 176, 202)))
    return image
