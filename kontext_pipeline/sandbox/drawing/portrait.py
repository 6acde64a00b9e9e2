"""The stand-in for the source document's sample photograph: somebody to take a selfie, drawn flat."""

from PIL import Image, ImageDraw, ImageFilter

from kontext_pipeline.sandbox.drawing.chance import Chance
from kontext_pipeline.sandbox.drawing.paint import glow, smooth_mask, vertical_gradient
from kontext_pipeline.sandbox.drawing.wishes import RGB

SIZE = (1360, 1024)
_SKIN: RGB = (236, 184, 150)
_SHADE: RGB = (214, 152, 122)
_HAIR: RGB = (92, 50, 34)
_COAT: RGB = (34, 92, 104)
_SCARF: RGB = (222, 142, 62)


def draw_portrait() -> Image.Image:
    """Return an RGB portrait of `SIZE`: a smiling woman before a row of gabled houses."""
    image = vertical_gradient(SIZE, ((0, (132, 190, 220)), (520, (222, 236, 232)), (1000, (240, 226, 204))))
    glow(image, (1090, 120), 620, (255, 236, 190), 70)
    _houses(image)
    image = image.filter(ImageFilter.BoxBlur(5))
    _woman(image)
    return image


def _houses(image: Image.Image) -> None:
    chance = Chance("portrait", "houses")
    walls: tuple[RGB, ...] = (
        (228, 198, 150),
        (206, 138, 108),
        (238, 222, 190),
        (170, 178, 160),
        (218, 166, 116),
    )
    draw = ImageDraw.Draw(image)
    x = -30
    while x < SIZE[0]:
        wide = chance.between(130, 190)
        top = chance.between(300, 420)
        draw.rectangle((x, top, x + wide, SIZE[1]), fill=chance.pick(walls))
        draw.polygon(
            [(x - 8, top + 4), (x + wide // 2, top - wide * 7 // 10), (x + wide + 8, top + 4)],
            fill=(156, 74, 54),
        )
        for wy in range(top + 40, SIZE[1], 110):
            for wx in (x + wide // 5, x + wide * 3 // 5):
                draw.rectangle((wx, wy, wx + wide // 5, wy + 58), fill=(96, 116, 128))
        x += wide


def _woman(image: Image.Image) -> None:
    def fill(colour: RGB, *shapes: tuple[str, list[tuple[int, int]]]) -> None:
        def draw_all(draw: ImageDraw.ImageDraw, scale: int) -> None:
            for kind, points in shapes:
                scaled = [((px + 168) * scale, py * scale) for px, py in points]
                if kind == "ellipse":
                    draw.ellipse((*scaled[0], *scaled[1]), fill=255)
                elif kind == "line":
                    draw.line(scaled, fill=255, width=7 * scale, joint="curve")
                elif kind == "smile":
                    draw.chord((*scaled[0], *scaled[1]), 12, 168, fill=255)
                elif kind == "lid":
                    draw.arc((*scaled[0], *scaled[1]), 200, 340, fill=255, width=8 * scale)
                else:
                    draw.polygon(scaled, fill=255)

        image.paste(colour, (0, 0), smooth_mask(SIZE, draw_all))

    fill(
        _HAIR,
        ("ellipse", [(316, 190), (708, 620)]),
        ("polygon", [(318, 420), (706, 420), (760, 820), (264, 820)]),
    )
    fill(_COAT, ("ellipse", [(170, 760), (854, 1300)]))
    fill(_SHADE, ("polygon", [(446, 600), (578, 600), (600, 800), (424, 800)]))
    fill(
        _SCARF,
        ("ellipse", [(372, 722), (652, 872)]),
        ("polygon", [(560, 820), (650, 800), (676, 1024), (588, 1024)]),
    )
    fill((196, 116, 48), ("line", [(404, 790), (470, 830), (560, 836), (630, 800)]))
    fill(_SKIN, ("ellipse", [(372, 268), (652, 668)]))
    fill((240, 164, 138), ("ellipse", [(398, 500), (470, 560)]), ("ellipse", [(554, 500), (626, 560)]))
    fill(
        _HAIR,
        (
            "polygon",
            [(372, 430), (392, 292), (512, 226), (640, 300), (654, 430), (616, 350), (540, 306), (440, 372)],
        ),
    )
    fill(_HAIR, ("ellipse", [(330, 330), (404, 700)]), ("ellipse", [(626, 330), (700, 700)]))
    fill((60, 34, 28), ("lid", [(420, 446), (484, 506)]), ("lid", [(540, 446), (604, 506)]))
    fill(
        (84, 46, 32),
        ("line", [(418, 420), (452, 404), (486, 414)]),
        ("line", [(538, 414), (572, 404), (606, 420)]),
    )
    fill(_SHADE, ("line", [(512, 478), (500, 536), (520, 544)]))
    fill((176, 58, 60), ("smile", [(450, 548), (574, 628)]))
    fill((255, 250, 244), ("smile", [(466, 574), (558, 604)]))
