"""Things in a landscape: trees, boats, cabins, balloons, birds, skylines. Each is drawn onto an RGB picture."""

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from kontext_pipeline.sandbox.drawing.chance import Chance
from kontext_pipeline.sandbox.drawing.paint import Point, blend, glow, smooth_mask
from kontext_pipeline.sandbox.drawing.wishes import RGB


def pines(
    image: Image.Image,
    chance: Chance,
    line: list[int],
    colour: RGB,
    *,
    density: int,
    small: bool = False,
    tall: int | None = None,
    snowy: bool = False,
) -> None:
    """Plant about `density` pines along a ridge, in clumps."""
    width, height = image.size
    usual = tall or (height // 34 if small else height // 11)
    trees: list[tuple[int, int, int]] = []
    while len(trees) < density * width // 1360:
        x = chance.between(-20, width + 20)
        for _ in range(chance.between(1, 5)):
            x += chance.between(-usual // 2, usual // 2)
            foot = line[max(0, min(len(line) - 1, x // 4))] + usual // 12
            trees.append((x, foot, usual * chance.between(55, 125) // 100))
    top = max(0, min(foot - tree for _, foot, tree in trees))
    bottom = min(height, max(foot for _, foot, _ in trees) + 2)
    if bottom <= top:
        return
    shapes = [(x, foot - top, tree, _boughs(chance, x, foot - top, tree)) for x, foot, tree in trees]

    def draw_all(draw: ImageDraw.ImageDraw, scale: int) -> None:
        for x, foot, tree, boughs in shapes:
            draw.rectangle(
                (
                    (x - tree // 40) * scale,
                    (foot - tree // 5) * scale,
                    (x + tree // 40 + 1) * scale,
                    foot * scale,
                ),
                fill=255,
            )
            draw.polygon([(px * scale, py * scale) for px, py in boughs], fill=255)

    image.paste(colour, (0, top), smooth_mask((width, bottom - top), draw_all))
    if snowy:

        def snow(draw: ImageDraw.ImageDraw, scale: int) -> None:
            for x, foot, tree, _ in shapes:
                for step in (20, 38, 56, 74):
                    y, half = foot - tree * (96 - step) // 100, tree * step * 19 // 10000
                    draw.line(
                        (x * scale, (y - tree // 16) * scale, (x - half) * scale, y * scale),
                        fill=170,
                        width=scale * max(1, tree // 60),
                    )

        image.paste((236, 242, 248), (0, top), smooth_mask((width, bottom - top), snow))


def _boughs(chance: Chance, x: int, foot: int, tree: int) -> list[Point]:
    left: list[Point] = []
    right: list[Point] = []
    steps = 6 if tree < 60 else 9
    for step in range(1, steps + 1):
        y = foot - tree * 10 // 100 - tree * 90 * (steps - step) // (100 * steps)
        half = tree * step * 22 // (100 * steps)
        left += [
            (x - half * chance.between(80, 112) // 100, y),
            (x - half * 55 // 100, y - tree // (3 * steps)),
        ]
        right += [
            (x + half * chance.between(80, 112) // 100, y),
            (x + half * 55 // 100, y - tree // (3 * steps)),
        ]
    return [(x, foot - tree), *left[:-1], *reversed(right[:-1])]


def round_trees(image: Image.Image, chance: Chance, line: list[int], colour: RGB, *, size: int) -> None:
    """Plant a few round trees along a ridge, single and in small groups."""
    width, height = image.size
    crowns: list[tuple[int, int, int]] = []
    trunks: list[tuple[int, int]] = []
    for _ in range(chance.between(5, 9)):
        x = chance.between(0, width)
        for _ in range(chance.between(1, 4)):
            x += chance.between(size // 2, size * 2)
            foot = line[max(0, min(len(line) - 1, x // 4))]
            trunks.append((x, foot))
            for _ in range(7):
                radius = size * chance.between(35, 62) // 100
                crowns.append(
                    (
                        x + chance.between(-size // 2, size // 2),
                        foot - size * chance.between(70, 150) // 100,
                        radius,
                    )
                )
    top = max(0, min(y - r for _, y, r in crowns))
    bottom = min(height, max(foot for _, foot in trunks) + 3)
    if bottom <= top:
        return

    def draw_all(draw: ImageDraw.ImageDraw, scale: int) -> None:
        for x, foot in trunks:
            thick = max(1, size // 12)
            draw.rectangle(
                (
                    (x - thick) * scale,
                    (foot - size - top) * scale,
                    (x + thick) * scale,
                    (foot + 2 - top) * scale,
                ),
                fill=255,
            )
        for x, y, radius in crowns:
            draw.ellipse(
                (
                    (x - radius) * scale,
                    (y - top - radius) * scale,
                    (x + radius) * scale,
                    (y - top + radius) * scale,
                ),
                fill=255,
            )

    image.paste(colour, (0, top), smooth_mask((width, bottom - top), draw_all))


def reeds(image: Image.Image, chance: Chance, line: list[int], colour: RGB) -> None:
    """Grow reeds in two clumps on the near shore."""
    width, height = image.size
    top = height * 66 // 100
    mask = Image.new("L", (width, height - top))
    draw = ImageDraw.Draw(mask)
    for centre in (width * chance.between(2, 16) // 100, width * chance.between(82, 98) // 100):
        for _ in range(46):
            x = centre + chance.between(-width // 11, width // 11)
            foot = line[max(0, min(len(line) - 1, x // 4))] + 4 - top
            tall, lean = height * chance.between(5, 17) // 100, chance.between(-26, 26)
            stalk = ((x, foot), (x + lean // 3, foot - tall * 6 // 10), (x + lean, foot - tall))
            draw.line(stalk, fill=235, width=2, joint="curve")
            if chance.percent(25):
                ear = ((x + lean, foot - tall), (x + lean + lean // 6, foot - tall - height // 40))
                draw.line(ear, fill=255, width=6)
    image.paste(colour, (0, top), mask.filter(ImageFilter.BoxBlur(1)))


def flowers(image: Image.Image, chance: Chance, top: int, *, lavender: bool) -> None:
    """Strew wild flowers over the meadow below row `top`, larger towards the viewer."""
    width, height = image.size
    purple = ((140, 96, 200), (176, 136, 224))
    petals = chance.pick((((214, 52, 48), (236, 92, 62)), purple, ((250, 226, 120), (255, 250, 236))))
    petals = purple if lavender else petals
    mask = {colour: Image.new("L", image.size) for colour in petals}
    draws = {colour: ImageDraw.Draw(layer) for colour, layer in mask.items()}
    for _ in range(520 * width // 1360):
        near = chance.between(0, 100)
        y = top + (height - top) * near * near // 10000 + chance.between(-4, 4)
        radius, x = 1 + near // 22, chance.between(0, width)
        draw = draws[chance.pick(petals)]
        draw.ellipse(
            (x - radius, y - radius * 7 // 10, x + radius, y + radius * 7 // 10),
            fill=chance.between(170, 255),
        )
    for colour, layer in mask.items():
        image.paste(colour, (0, 0), layer.filter(ImageFilter.GaussianBlur(1)))


def birds(image: Image.Image, chance: Chance, horizon: int, colour: RGB) -> None:
    """Let a small flock fly."""
    width = image.width
    x, y = width * chance.between(15, 75) // 100, horizon * chance.between(22, 58) // 100
    spots = [
        (x + chance.between(-width // 9, width // 9), y + chance.between(-horizon // 9, horizon // 9))
        for _ in range(chance.between(4, 8))
    ]
    spans = [max(5, image.height * chance.between(7, 15) // 1000) for _ in spots]

    left, top = min(px for px, _ in spots) - max(spans), min(py for _, py in spots) - max(spans)
    size = (max(px for px, _ in spots) + max(spans) - left, max(py for _, py in spots) + max(spans) - top)

    def draw_all(draw: ImageDraw.ImageDraw, scale: int) -> None:
        for (px, py), span in zip(((px - left, py - top) for px, py in spots), spans, strict=True):
            wing = [
                (-span, -span // 3),
                (-span // 2, -span // 2),
                (0, 0),
                (span // 2, -span // 2),
                (span, -span // 3),
            ]
            draw.line(
                [((px + dx) * scale, (py + dy) * scale) for dx, dy in wing],
                fill=255,
                width=scale * 2,
                joint="curve",
            )

    image.paste(colour, (left, top), smooth_mask(size, draw_all))


def boat(image: Image.Image, at: Point, tall: int, hull: RGB, sail: RGB) -> None:
    """Draw a sailing boat with its water line at `at`, and its reflection."""
    x, y = at
    size = (tall * 2, tall * 2)
    origin = (x - tall, y - tall * 13 // 10)

    def at_scale(points: list[Point], scale: int) -> list[Point]:
        return [((tall + px * tall // 100) * scale, (tall * 13 // 10 + py * tall // 100) * scale) for px, py in points]

    def draw_hull(draw: ImageDraw.ImageDraw, scale: int) -> None:
        draw.polygon(at_scale([(-46, -10), (52, -13), (34, 6), (-34, 6)], scale), fill=255)
        draw.line(at_scale([(2, -8), (2, -122)], scale), fill=255, width=max(1, scale * tall // 60))

    def draw_sails(draw: ImageDraw.ImageDraw, scale: int) -> None:
        draw.polygon(at_scale([(6, -118), (46, -20), (6, -17)], scale), fill=255)
        draw.polygon(at_scale([(-2, -110), (-40, -20), (-2, -17)], scale), fill=215)

    for colour, part in ((hull, draw_hull), (sail, draw_sails)):
        mask = smooth_mask(size, part)
        reflected = (
            mask.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
            .resize((size[0], size[1] * 6 // 10))
            .point(lambda v: v * 34 // 100)
        )
        image.paste(
            colour,
            (origin[0], y + 6 * tall // 100 - size[1] * 6 // 10 * 7 // 20),
            reflected.filter(ImageFilter.GaussianBlur(2)),
        )
        image.paste(colour, origin, mask)


def cabin(image: Image.Image, foot: Point, size: int, wall: RGB, lamp: RGB) -> None:
    """Draw a small house with a lit window, standing at `foot`."""
    x, y = foot
    width = size * 16 // 10
    origin = (x - width, y - size * 2)
    box = (width * 2, size * 2 + 2)

    def walls(draw: ImageDraw.ImageDraw, scale: int) -> None:
        draw.rectangle(((width // 2) * scale, size * scale, (width * 3 // 2) * scale, size * 2 * scale), fill=255)

    def roof(draw: ImageDraw.ImageDraw, scale: int) -> None:
        left, middle, right = width // 2 - size // 6, width, width * 3 // 2 + size // 6
        draw.polygon(
            [
                (left * scale, size * 11 // 10 * scale),
                (middle * scale, size * 2 // 10 * scale),
                (right * scale, size * 11 // 10 * scale),
            ],
            fill=255,
        )
        draw.rectangle(
            (
                (width + size // 3) * scale,
                size * 2 // 10 * scale,
                (width + size // 2) * scale,
                size * 7 // 10 * scale,
            ),
            fill=255,
        )

    image.paste(blend(wall, (150, 96, 62), 34), origin, smooth_mask(box, walls))
    image.paste(blend(wall, (20, 12, 16), 50), origin, smooth_mask(box, roof))
    pane = max(2, size // 4)
    for dx in (-size // 3, size // 4):
        left = x + dx - pane // 2
        glow(image, (left + pane // 2, y - size // 2), size, lamp, 60)
        image.paste(lamp, (left, y - size // 2 - pane // 2, left + pane, y - size // 2 + pane // 2))


def lighthouse(image: Image.Image, foot: Point, tall: int, shade: RGB, *, night: bool) -> None:
    """Draw a red and white lighthouse standing at `foot`."""
    x, y = foot
    half, lamp = tall // 9, y - tall
    size = (half * 4, tall + tall // 4)
    origin = (x - half * 2, y - tall - tall // 5)
    down = tall // 5

    def tower(draw: ImageDraw.ImageDraw, scale: int) -> None:
        middle = half * 2
        draw.polygon(
            [
                ((middle - half * 6 // 10) * scale, down * scale),
                ((middle + half * 6 // 10) * scale, down * scale),
                ((middle + half) * scale, (down + tall) * scale),
                ((middle - half) * scale, (down + tall) * scale),
            ],
            fill=255,
        )

    def lantern(draw: ImageDraw.ImageDraw, scale: int) -> None:
        middle = half * 2
        draw.rectangle(
            (
                (middle - half * 8 // 10) * scale,
                (down - 2) * scale,
                (middle + half * 8 // 10) * scale,
                (down + 2) * scale,
            ),
            fill=255,
        )
        draw.polygon(
            [
                ((middle - half * 6 // 10) * scale, (down - half * 11 // 10) * scale),
                (middle * scale, (down - half * 2) * scale),
                ((middle + half * 6 // 10) * scale, (down - half * 11 // 10) * scale),
            ],
            fill=255,
        )

    dim = 58 if night else 14
    mask = smooth_mask(size, tower)
    image.paste(blend((246, 242, 236), shade, dim), origin, mask)
    bands = Image.new("L", size)
    draw = ImageDraw.Draw(bands)
    for band in (0, 2, 4):
        draw.rectangle((0, down + tall * band // 5, size[0], down + tall * (band + 1) // 5), fill=255)
    image.paste(blend((196, 48, 44), shade, dim), origin, ImageChops.multiply(mask, bands))
    glow(image, (x, lamp - half // 2), tall if night else half * 3, (255, 226, 150), 85 if night else 40)
    image.paste((255, 240, 190), (x - half // 2, lamp - half, x + half // 2, lamp - 2))
    image.paste(blend((60, 30, 34), shade, dim), origin, smooth_mask(size, lantern))


def balloons(image: Image.Image, chance: Chance, horizon: int) -> None:
    """Let one to three hot-air balloons rise."""
    width = image.width
    for number in range(chance.between(1, 3)):
        radius = min(image.size) * chance.between(28, 62) // 1000 * (100 - 26 * number) // 100
        x, y = width * chance.between(12, 86) // 100, horizon * chance.between(24, 66) // 100
        first, second = chance.pick(
            (
                ((206, 62, 48), (250, 214, 130)),
                ((38, 108, 150), (244, 240, 226)),
                ((224, 132, 44), (120, 52, 88)),
            )
        )
        size = (radius * 2 + 2, radius * 34 // 10)

        def envelope(draw: ImageDraw.ImageDraw, scale: int, radius: int = radius) -> None:
            draw.ellipse((0, 0, 2 * radius * scale, 2 * radius * scale), fill=255)
            draw.polygon(
                [
                    (radius * 8 // 100 * scale, radius * 138 // 100 * scale),
                    (radius * 192 // 100 * scale, radius * 138 // 100 * scale),
                    (radius * 124 // 100 * scale, radius * 250 // 100 * scale),
                    (radius * 76 // 100 * scale, radius * 250 // 100 * scale),
                ],
                fill=255,
            )

        def basket(draw: ImageDraw.ImageDraw, scale: int, radius: int = radius) -> None:
            draw.rectangle(
                (
                    radius * 84 // 100 * scale,
                    radius * 290 // 100 * scale,
                    radius * 116 // 100 * scale,
                    radius * 320 // 100 * scale,
                ),
                fill=255,
            )
            for side in (84, 116):
                draw.line(
                    (
                        radius * side // 100 * scale,
                        radius * 248 // 100 * scale,
                        radius * side // 100 * scale,
                        radius * 292 // 100 * scale,
                    ),
                    fill=200,
                    width=scale,
                )

        mask = smooth_mask(size, envelope)
        stripes = Image.new("L", size)
        draw = ImageDraw.Draw(stripes)
        for half in (78, 26):
            draw.ellipse(
                (
                    radius * (100 - half) // 100,
                    -radius // 10,
                    radius * (100 + half) // 100,
                    radius * 27 // 10,
                ),
                fill=0 if half == 26 else 255,
            )
            if half == 78:
                draw.ellipse((radius * 48 // 100, -radius // 10, radius * 152 // 100, radius * 27 // 10), fill=0)
        draw.ellipse((radius * 84 // 100, -radius // 10, radius * 116 // 100, radius * 27 // 10), fill=255)
        at = (x - radius, y - radius)
        image.paste(first, at, mask)
        image.paste(second, at, ImageChops.multiply(mask, stripes))
        shade = Image.linear_gradient("L").rotate(90).resize(size).point(lambda v: v * 80 // 255)
        image.paste((20, 16, 40), at, ImageChops.multiply(mask, shade))
        image.paste((70, 44, 30), at, smooth_mask(size, basket))


def rainbow(image: Image.Image, chance: Chance, horizon: int) -> None:
    """Draw a rainbow that ends at the horizon."""
    width, height = image.size
    centre, radius = (width * chance.between(30, 70) // 100, horizon + height // 12), width * 42 // 100
    thick = max(4, height // 110)
    layer = Image.new("RGB", image.size)
    draw = ImageDraw.Draw(layer)
    for number, colour in enumerate(
        ((210, 50, 50), (226, 140, 40), (226, 214, 60), (60, 190, 90), (60, 120, 220), (130, 70, 190))
    ):
        reach = radius - number * thick
        draw.arc(
            (centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach),
            180,
            360,
            fill=blend((0, 0, 0), colour, 50),
            width=thick + 1,
        )
    image.paste(ImageChops.screen(image, layer.filter(ImageFilter.GaussianBlur(thick))))


def skyline(
    image: Image.Image,
    chance: Chance,
    *,
    base: int,
    tallest: int,
    colour: RGB,
    lamp: RGB,
    lit: int,
    narrow: int,
) -> None:
    """Build a row of houses standing on row `base`, with `lit` percent of their windows lit."""
    width, height = image.size
    draw = ImageDraw.Draw(image)
    x = -chance.between(0, narrow)
    while x < width:
        wide = narrow * chance.between(90, 240) // 100
        # Higher towards the middle, as towns are.
        middle = 100 - abs(2 * (x + wide // 2) - width) * 55 // width
        tall = tallest * chance.between(34, 100) // 100 * middle // 100
        top = base - tall
        draw.rectangle((x, top, x + wide, base), fill=colour)
        crown = chance.between(0, 5)
        if crown == 0:
            draw.polygon([(x, top), (x + wide // 2, top - wide // 2), (x + wide, top)], fill=colour)
        elif crown == 1:
            draw.rectangle((x + wide // 4, top - wide // 3, x + wide * 3 // 4, top), fill=colour)
            draw.line((x + wide // 2, top - wide // 3, x + wide // 2, top - wide * 9 // 10), fill=colour, width=2)
        elif crown == 2:
            draw.polygon([(x, top), (x, top - wide // 3), (x + wide, top)], fill=colour)
        elif crown == 3:
            draw.line((x + wide // 2, top, x + wide // 2, top - wide // 2), fill=colour, width=2)
        pane, gap = max(2, narrow // 9), max(5, narrow // 4)
        light, dark = blend(colour, lamp, 85), blend(colour, (255, 255, 255), 7)
        for wx in range(x + gap // 2, x + wide - pane, gap):
            for wy in range(top + gap // 2, min(base, height) - gap, gap + gap // 3):
                draw.rectangle((wx, wy, wx + pane, wy + pane * 3 // 2), fill=light if chance.percent(lit) else dark)
        x += wide + chance.between(0, narrow // 3)
