"""A picture: from a recipe's words and numbers to an RGB image, always marked SANDBOX."""

import dataclasses

from PIL import Image

from kontext_pipeline.sandbox.drawing.lettering import MAX_CHARS, fit, set_type, settable, stamp_badge
from kontext_pipeline.sandbox.drawing.photo import edit
from kontext_pipeline.sandbox.drawing.scene import draw_scene
from kontext_pipeline.sandbox.drawing.stylise import stylise
from kontext_pipeline.sandbox.drawing.wishes import read_wishes


def draw_picture(prompt: str, size: tuple[int, int], digest: str, photograph: Image.Image | None) -> Image.Image:
    """Return what `prompt` asks for at `size`: an edit of `photograph`, or a scene with the prompt set in it.

    `digest` (hex) decides whatever the prompt doesn't.
    """
    wishes = read_wishes(prompt)
    neon_type = bool(wishes.caption) and "neon" in wishes.styles
    if neon_type:
        # "... in neon" beside words in quotes is about the words.
        wishes = dataclasses.replace(wishes, styles=wishes.styles - {"neon"})
    if photograph is not None:
        image = edit(photograph, size, wishes, digest)
        if wishes.caption:
            _headline(image, wishes.caption, neon=neon_type)
    else:
        image = stylise(draw_scene(size, wishes, digest), wishes, digest)
        if wishes.caption:
            _headline(image, wishes.caption, neon=neon_type)
        _legend(image, prompt)
    stamp_badge(image)
    return image


def _headline(image: Image.Image, text: str, *, neon: bool) -> None:
    """Set a caption large across the upper part of the picture."""
    text = settable(text)
    if not text:
        return
    width, height = image.size
    short = min(width, height)
    setting = fit(
        text,
        width=width * 84 // 100,
        max_lines=3,
        largest=short * 17 // 100,
        smallest=short * 4 // 100,
        leading=108,
    )
    at = (
        width // 2,
        height * 30 // 100 - setting.height // 2 if setting.height < height // 2 else height // 10,
    )
    if neon:
        set_type(
            image,
            setting,
            at,
            centred=True,
            fill=(255, 236, 250),
            halo=(255, 40, 160),
            weight=setting.size // 60,
        )
    else:
        set_type(image, setting, at, centred=True, shadow=34, weight=max(1, setting.size // 46))


def _legend(image: Image.Image, prompt: str) -> None:
    """Set the prompt in the lower left, over a soft shade."""
    text = settable(prompt[: 2 * MAX_CHARS])
    if not text:
        return
    width, height = image.size
    short = min(width, height)
    margin = short * 56 // 1000
    setting = fit(
        text,
        width=min(width - 2 * margin, short * 130 // 100),
        max_lines=4,
        largest=short * 48 // 1000,
        smallest=short * 26 // 1000,
        leading=128,
    )
    tall = setting.height + margin * 3
    column = bytes(min(255, 150 * y * y // (tall * tall)) for y in range(tall))
    shade = Image.frombytes("L", (1, tall), column).resize((width, tall), Image.Resampling.NEAREST)
    image.paste((8, 10, 18), (0, height - tall), shade)
    top = height - margin - setting.height
    rule = max(2, short // 420)
    image.paste((240, 201, 126), (margin, top - margin // 3, margin + short // 14, top - margin // 3 + rule))
    set_type(image, setting, (margin, top), shadow=46)
