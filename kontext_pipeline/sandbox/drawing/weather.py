"""Weather and light laid over a finished picture, drawn or photographed: rain, snow, fog, lightning, stars, leaves."""

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from kontext_pipeline.sandbox.drawing.chance import Chance
from kontext_pipeline.sandbox.drawing.paint import Point, glow, ramp, smooth_mask, soft_mask
from kontext_pipeline.sandbox.drawing.wishes import RGB


def add_rain(image: Image.Image, chance: Chance) -> Image.Image:
    """Return the picture behind three depths of slanting rain."""
    width, height = image.size
    slant = chance.between(-22, 22)
    for count, length, strength, thick in ((520, 26, 70, 1), (260, 52, 95, 1), (60, 96, 80, 3)):
        mask = Image.new("L", image.size)
        draw = ImageDraw.Draw(mask)
        for _ in range(count * width * height // (1024 * 1024)):
            x, y = chance.between(-40, width + 40), chance.between(-length, height)
            long = length * chance.between(70, 130) // 100
            draw.line(
                (x, y, x + slant * long // 100, y + long),
                fill=chance.between(strength // 2, strength),
                width=thick,
            )
        image.paste((224, 232, 240), (0, 0), mask.filter(ImageFilter.BoxBlur(1)) if thick > 1 else mask)
    return image


def add_snow(image: Image.Image, chance: Chance) -> Image.Image:
    """Return the picture behind falling snow, the near flakes large and out of focus."""
    width, height = image.size
    area = width * height

    for count, small, large, strength, blur in (
        (700, 1, 2, 190, 0),
        (260, 2, 5, 215, 1),
        (36, 9, 20, 130, 4),
    ):
        mask = Image.new("L", image.size)
        draw = ImageDraw.Draw(mask)
        for _ in range(count * area // (1024 * 1024)):
            x, y, radius = chance.between(0, width), chance.between(0, height), chance.between(small, large)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=chance.between(strength // 2, strength))
        image.paste((252, 253, 255), (0, 0), mask.filter(ImageFilter.BoxBlur(blur)) if blur else mask)
    return image


def add_petals(image: Image.Image, chance: Chance, colours: tuple[RGB, ...]) -> Image.Image:
    """Return the picture behind a few leaves or petals in the wind."""
    width, height = image.size
    for number in range(90):
        near = number >= 72
        x, y = chance.between(0, width), chance.between(0, height)
        long = chance.between(18, 34) if near else chance.between(7, 15)
        wide, lean = long * chance.between(25, 60) // 100, chance.between(-long, long)
        slope = wide * lean // long
        room = 2 * long
        leaf = [
            (room - lean // 2, room - long // 2),
            (room + wide // 2, room - slope // 2),
            (room + lean // 2, room + long // 2),
            (room - wide // 2, room + slope // 2),
        ]

        def shape(
            draw: ImageDraw.ImageDraw, scale: int, leaf: list[Point] = leaf, fill: int = 180 if near else 235
        ) -> None:
            draw.polygon([(px * scale, py * scale) for px, py in leaf], fill=fill)

        mask = smooth_mask((2 * room, 2 * room), shape)
        image.paste(chance.pick(colours), (x - room, y - room), mask.filter(ImageFilter.BoxBlur(3)) if near else mask)
    return image


def add_fog(image: Image.Image, chance: Chance, colour: RGB = (226, 230, 234)) -> Image.Image:
    """Return the picture in drifting fog, thickest across its middle."""
    width, height = image.size

    def banks(draw: ImageDraw.ImageDraw) -> None:
        for _ in range(26):
            x, y = chance.between(-20, width // 8 + 20), chance.between(height // 40, height // 9)
            wide, high = chance.between(30, 80), chance.between(3, 12)
            draw.ellipse((x - wide, y - high, x + wide, y + high), fill=chance.between(60, 185))

    mask = soft_mask(image.size, 8, 7, banks)
    veil = Image.new("L", image.size)
    veil.paste(ramp((width, height // 2), 50, 120), (0, 0))
    veil.paste(ramp((width, height - height // 2), 120, 20), (0, height // 2))
    image.paste(colour, (0, 0), ImageChops.lighter(mask, veil))
    return image


def add_lightning(image: Image.Image, chance: Chance) -> Image.Image:
    """Return the picture with one forked bolt and its light in the clouds."""
    width, height = image.size
    x = width * chance.between(18, 82) // 100
    bolt: list[Point] = [(x, -4)]
    while bolt[-1][1] < height * 58 // 100:
        bolt.append((bolt[-1][0] + chance.between(-34, 34), bolt[-1][1] + chance.between(14, 44)))
    branches: list[list[Point]] = []
    for start in (len(bolt) // 3, len(bolt) // 2, len(bolt) * 2 // 3):
        lean = chance.pick((-1, 1))
        branch = [bolt[start]]
        for _ in range(chance.between(3, 6)):
            branch.append((branch[-1][0] + lean * chance.between(8, 40), branch[-1][1] + chance.between(8, 30)))
        branches.append(branch)

    def draw_bolt(draw: ImageDraw.ImageDraw, scale: int) -> None:
        for line, thick in [(bolt, 3), *((branch, 1) for branch in branches)]:
            draw.line([(px * scale, py * scale) for px, py in line], fill=255, width=thick * scale, joint="curve")

    mask = smooth_mask(image.size, draw_bolt)
    glow(image, (x, height // 8), height * 6 // 10, (150, 160, 230), 70)
    image.paste((150, 150, 255), (0, 0), mask.filter(ImageFilter.GaussianBlur(10)).point(lambda v: min(255, v * 4)))
    image.paste((255, 255, 255), (0, 0), mask)
    return image


def add_stars(image: Image.Image, chance: Chance, sky: Image.Image) -> Image.Image:
    """Return the picture with stars where the mask `sky` is light."""
    width, height = image.size
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    for _ in range(620 * width * height // (1024 * 1024)):
        x, y, light = chance.between(0, width), chance.between(0, height), chance.between(20, 160)
        draw.point((x, y), fill=light)
        if light > 140:
            draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=230)
    image.paste((255, 250, 238), (0, 0), ImageChops.multiply(mask, sky))
    return image


def add_moon(image: Image.Image, centre: Point, radius: int, colour: RGB = (252, 246, 226)) -> None:
    """Draw a full moon with its light around it."""
    glow(image, centre, radius * 7, (150, 170, 220), 55)

    def disc(draw: ImageDraw.ImageDraw, scale: int) -> None:
        draw.ellipse((0, 0, 2 * radius * scale, 2 * radius * scale), fill=255)

    mask = smooth_mask((2 * radius + 1, 2 * radius + 1), disc)
    image.paste(colour, (centre[0] - radius, centre[1] - radius), mask)
    for dx, dy, size in ((-30, -20, 26), (22, 8, 20), (-8, 34, 16), (34, -34, 12)):
        at = (centre[0] + dx * radius // 100, centre[1] + dy * radius // 100)
        spot = size * radius // 100

        def crater(draw: ImageDraw.ImageDraw, scale: int, spot: int = spot) -> None:
            draw.ellipse((0, 0, 2 * spot * scale, 2 * spot * scale), fill=38)

        image.paste((120, 120, 140), (at[0] - spot, at[1] - spot), smooth_mask((2 * spot + 1, 2 * spot + 1), crater))
