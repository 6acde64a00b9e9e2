"""Styles: black and white, sepia, sketch, painting, poster, blur, neon and the like, over any RGB picture."""

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from kontext_pipeline.sandbox.drawing.chance import Chance
from kontext_pipeline.sandbox.drawing.paint import curve, glow, saturate, tone, vignette
from kontext_pipeline.sandbox.drawing.wishes import Wishes


def stylise(image: Image.Image, wishes: Wishes, digest: str) -> Image.Image:
    """Return the picture in every style that was wished for."""
    chance = Chance(digest, "style")
    styles = wishes.styles
    if "mirror" in styles:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if "vivid" in styles:
        image = saturate(tone(image, contrast=112), 155)
    if "warm" in styles:
        image = tone(image, gains=(110, 100, 82), exposure=102)
    if "cold" in styles:
        image = tone(image, gains=(86, 98, 114), exposure=100)
    if "blur" in styles:
        image = _blur(image)
    if "painting" in styles:
        image = _painting(image)
    if "pop" in styles:
        image = _pop(image)
    if "neon" in styles:
        image = _neon(image, chance)
    if "sketch" in styles:
        image = _sketch(image, coloured="painting" in styles or "vivid" in styles)
    if "monochrome" in styles:
        grey = ImageOps.autocontrast(image.convert("L"), cutoff=1)
        image = vignette(tone(grey.convert("RGB"), contrast=116), 70)
    if "sepia" in styles:
        image = _sepia(image, chance)
    return image


def _blur(image: Image.Image) -> Image.Image:
    """Sharp around the middle, a little above it, and out of focus elsewhere, as a wide-open lens draws."""
    radius = max(3, min(image.size) // 80)
    far = image.filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius))
    width, height = image.size
    focus = Image.new("L", (256, 256), 255)
    focus.paste(Image.radial_gradient("L").crop((0, 28, 256, 256)), (0, 0))
    mask = focus.point(curve(lambda v: (v - 92) * 5)).resize((width, height), Image.Resampling.BILINEAR)
    return Image.composite(far, image, mask)


def _painting(image: Image.Image) -> Image.Image:
    """Flat strokes of strong colour: the picture smoothed at a third of its size, its edges kept."""
    small = image.reduce(3).filter(ImageFilter.MedianFilter(5)).filter(ImageFilter.UnsharpMask(2, 180, 2))
    smooth = small.resize(image.size, Image.Resampling.BICUBIC)
    relief = smooth.convert("L").filter(ImageFilter.EMBOSS).point(curve(lambda v: 128 + (v - 128) // 2))
    return saturate(ImageChops.overlay(smooth, relief.convert("RGB")), 128)


def _pop(image: Image.Image) -> Image.Image:
    """Few colours and dark outlines."""
    smooth = image.reduce(3).filter(ImageFilter.MedianFilter(5)).resize(image.size, Image.Resampling.BICUBIC)
    flat = saturate(smooth, 140).point(curve(lambda v: (v * 6 // 256) * 255 // 5) * 3)
    return ImageChops.multiply(flat, _edges(smooth.convert("L"), 3, 7).convert("RGB"))


def _edges(grey: Image.Image, radius: int, strength: int) -> Image.Image:
    """Return dark lines on white where the picture is darker than its surroundings."""
    around = grey.filter(ImageFilter.BoxBlur(radius))
    return ImageChops.subtract(around, grey).point(curve(lambda v: 255 - max(0, v - 3) * strength))


def _sketch(image: Image.Image, *, coloured: bool) -> Image.Image:
    """Pencil on paper: outlines at two widths, and hatching where it is dark."""
    grey = ImageOps.autocontrast(image.convert("L"), cutoff=1).filter(ImageFilter.SMOOTH)
    lines = ImageChops.multiply(_edges(grey, 1, 9), _edges(grey, 6, 4))
    calm = grey.filter(ImageFilter.BoxBlur(2))
    for limit, step, lean in ((96, 7, 1), (58, 6, -1), (128, 11, 1)):
        hatch = Image.new("L", image.size, 255)
        draw = ImageDraw.Draw(hatch)
        for x in range(-image.height, image.width + image.height, step):
            draw.line((x, 0, x + lean * image.height, image.height), fill=112, width=1)
        dark = calm.point(curve(lambda v, limit=limit: (limit - v) * 9))  # type: ignore[misc]
        lines = ImageChops.multiply(lines, Image.composite(hatch, Image.new("L", image.size, 255), dark))
    pencil = ImageOps.colorize(lines, black=(52, 54, 62), white=(250, 247, 240))
    if coloured:
        wash = ImageEnhance.Brightness(saturate(image.filter(ImageFilter.BoxBlur(6)), 120)).enhance(1.2)
        return ImageChops.multiply(pencil, Image.blend(wash, Image.new("RGB", image.size, (255, 255, 255)), 0.35))
    return pencil


def _sepia(image: Image.Image, chance: Chance) -> Image.Image:
    """A faded print with worn corners."""
    grey = ImageOps.autocontrast(image.convert("L"), cutoff=1)
    toned = ImageOps.colorize(grey, black=(44, 28, 18), mid=(158, 122, 84), white=(250, 234, 204))
    draw = ImageDraw.Draw(toned)
    for _ in range(26):
        x, y = chance.between(0, image.width), chance.between(0, image.height)
        draw.line((x, y, x + chance.between(-6, 6), y + chance.between(4, 60)), fill=(238, 220, 188))
    return vignette(toned, 110)


def _neon(image: Image.Image, chance: Chance) -> Image.Image:
    """Night in magenta and cyan, edges alight."""
    grey = image.convert("L")
    base = ImageOps.colorize(grey, black=(16, 6, 44), mid=(104, 34, 140), white=(110, 226, 255))
    base = Image.blend(tone(image, exposure=80), base, 0.7)
    lines = ImageChops.invert(_edges(grey, 3, 5))
    halo = lines.filter(ImageFilter.GaussianBlur(5))
    for mask, colour in ((halo, (255, 30, 150)), (lines, (255, 150, 230))):
        lit = Image.composite(Image.new("RGB", image.size, colour), Image.new("RGB", image.size), mask)
        base = ImageChops.screen(base, lit)
    glow(
        base,
        (image.width * chance.between(10, 90) // 100, image.height // 4),
        min(image.size) // 2,
        (255, 0, 140),
        45,
    )
    return base
