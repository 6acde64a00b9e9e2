"""A whole picture: from a prompt, a size and a seed to an RGB image, always marked SANDBOX."""

from random import Random

from PIL import Image

from kontext_pipeline.sandbox.drawing.features import PromptFeatures, read_prompt
from kontext_pipeline.sandbox.drawing.lettering import SAND, draw_text, fit, stamp_badge
from kontext_pipeline.sandbox.drawing.photo import edit_photo
from kontext_pipeline.sandbox.drawing.scene import draw_scene
from kontext_pipeline.sandbox.drawing.styles import apply_styles
from kontext_pipeline.sandbox.drawing.tone import Size, ramp


def draw_picture(prompt: str, size: Size, digest: str, photo: Image.Image | None) -> Image.Image:
    """Return what `prompt` asks for at `size`: an edit of `photo`, or a scene with the prompt lettered on it.

    `digest` seeds everything that the prompt leaves open.
    """
    rng = Random(digest)  # noqa: S311 - pictures must repeat, not be secret
    features = read_prompt(prompt)
    if photo is not None:
        image = edit_photo(photo, size, features, rng)
    else:
        image = apply_styles(draw_scene(size, features, rng), features.styles, rng)
        _add_legend(image, prompt)
    height = 82 if " bottom" in prompt else 20 if " top" in prompt else 28
    _add_caption(image, " ".join(features.captions), height, 17)
    stamp_badge(image)
    return image


def draw_stand_in(host: str, size: Size, digest: str) -> Image.Image:
    """Return the picture that stands in for one at `host` that is not fetched, and says so."""
    image = draw_scene(size, PromptFeatures(), Random(digest))  # noqa: S311
    # In the middle, where a crop to another shape leaves it.
    _add_caption(image, f"Stand-in for a picture at {host}", 50, 6)
    return image


def _add_caption(image: Image.Image, text: str, height: int, largest: int) -> None:
    """Letter `text` across the picture, at a percentage of its height and of at most that size."""
    largest, smallest = min(image.size) * largest // 100, min(image.size) * 4 // 100
    lines, size = fit(text, image.width * 84 // 100, 3, largest=largest, smallest=smallest)
    draw_text(image, lines, (image.width // 2, image.height * height // 100), size, centred=True)


def _add_legend(image: Image.Image, text: str) -> None:
    """Letter `text` in the lower left corner, over a soft shade."""
    width, height = image.size
    percent = min(image.size) / 100
    margin = round(5.6 * percent)
    room = min(width - 2 * margin, round(130 * percent))
    lines, size = fit(text, room, 4, largest=round(4.8 * percent), smallest=round(2.6 * percent))
    top = height - margin - round(size * 1.4 * (lines.count("\n") + 1))
    if lines:
        image.paste((8, 10, 18), (0, top - 2 * margin), ramp((width, height - top + 2 * margin), 0, 210))
        image.paste(SAND, (margin, top - margin // 3, margin + round(7 * percent), top - margin // 3 + 2))
        draw_text(image, lines, (margin, height - margin), size, centred=False)
