"""The pictures: sizes, sameness everywhere, and that an edit shows what was asked for."""

import hashlib
import io
import subprocess
import sys

import pytest
from kontext_pipeline.sandbox.drawing.encode import encode
from kontext_pipeline.sandbox.drawing.plain import plain_picture
from kontext_pipeline.sandbox.drawing.portrait import draw_portrait
from kontext_pipeline.sandbox.drawing.wishes import read_wishes
from PIL import Image, ImageChops, ImageStat

from kontext_pipeline.sandbox.drawing.lettering import fit, settable
from kontext_pipeline.sandbox.drawing.picture import draw_picture
from kontext_pipeline.sandbox.drawing.sizes import SIZES, picture_size
from kontext_pipeline.segmind.model import ASPECT_RATIOS

DIGEST = hashlib.sha256(b"tests").hexdigest()
SMALL = (400, 272)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """A meadow under a blue sky, with a red thing in it."""
    image = Image.new("RGB", (600, 400), (120, 170, 225))
    image.paste((70, 140, 50), (0, 200, 600, 400))
    image.paste((205, 40, 40), (240, 150, 360, 300))
    return image


def mean(image: Image.Image, box: tuple[int, int, int, int] | None = None) -> list[float]:
    return ImageStat.Stat(image.crop(box) if box else image).mean


def edited(photograph: Image.Image, prompt: str) -> Image.Image:
    return draw_picture(prompt, SMALL, DIGEST, photograph)


def test_every_ratio_has_a_size_of_about_a_megapixel_in_multiples_of_16() -> None:
    assert {*SIZES, "match_input_image"} == set(ASPECT_RATIOS)
    for ratio, (width, height) in SIZES.items():
        wide, high = map(int, ratio.split(":"))
        assert width % 16 == height % 16 == 0
        assert width * height == pytest.approx(1024 * 1024, rel=0.02)
        assert width / height == pytest.approx(wide / high, rel=0.03)


@pytest.mark.parametrize(
    "size", [(1, 1), (4000, 3000), (3000, 4000), (600, 400), (1920, 1080), (10_000, 10), (1, 5000)]
)
def test_match_input_image_stays_close_to_any_shape_without_going_thin(size: tuple[int, int]) -> None:
    width, height = picture_size("match_input_image", size)
    assert width % 16 == height % 16 == 0
    assert min(width, height) >= 512
    assert width * height == pytest.approx(1024 * 1024, rel=0.05)
    if max(size) < 3 * min(size):
        assert width / height == pytest.approx(size[0] / size[1], rel=0.03)
    assert picture_size("match_input_image", size[::-1]) == (height, width)


def test_without_an_input_match_input_image_is_the_default() -> None:
    assert picture_size("match_input_image", None) == SIZES["16:9"]


@pytest.mark.parametrize(
    ("prompt", "wished"),
    [
        ("in winter", ("season", "winter")),
        ("Fall foliage all around", ("season", "autumn")),
        ("as if in spring", ("season", "spring")),
        ("a summer's afternoon", ("season", "summer")),
        ("during golden hour", ("time", "sunset")),
        ("at night, under the stars", ("time", "night")),
        ("at sunrise", ("time", "dawn")),
        ("in heavy rain", ("weather", "rain")),
        ("snowing gently", ("weather", "snow")),
        ("in dense fog", ("weather", "fog")),
        ("a thunderstorm", ("weather", "storm")),
        ("a black-and-white photograph", ("styles", frozenset({"monochrome"}))),
        ("as a pencil sketch", ("styles", frozenset({"sketch"}))),
        ("with a blurred background", ("styles", frozenset({"blur"}))),
        ("make the door red", ("colour", (205, 38, 42))),
        ('a sign that says "OPEN LATE"', ("caption", "OPEN LATE")),
        ("a sign that says “Café”", ("caption", "Café")),
        ("a cake, 'Happy birthday' on it", ("caption", "Happy birthday")),
    ],
)
def test_plain_wishes_are_understood(prompt: str, wished: tuple[str, object]) -> None:
    assert getattr(read_wishes(prompt), wished[0]) == wished[1]


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ("it's a lovely day, isn't it", "caption"),
        ("no snow, please", "weather"),
        ("without rain", "weather"),
        ("remove the fog", "weather"),
        ('a sign that says "SNOW"', "weather"),
        ("the golden hour", "colour"),
        ("brainy terrain", "weather"),
        ("a redwood", "colour"),
    ],
)
def test_what_is_not_wished_is_not_understood(prompt: str, field: str) -> None:
    assert getattr(read_wishes(prompt), field) is None


def test_night_is_dark_and_blue(photograph: Image.Image) -> None:
    day, night = mean(edited(photograph, "as it is")), mean(edited(photograph, "at night"))
    assert sum(night) < 0.5 * sum(day)
    assert night[2] > night[0]


def test_sunset_is_warm(photograph: Image.Image) -> None:
    day, evening = mean(edited(photograph, "as it is")), mean(edited(photograph, "at sunset"))
    assert evening[0] / evening[2] > 1.3 * day[0] / day[2]


def test_black_and_white_has_no_colour(photograph: Image.Image) -> None:
    red, _, blue = edited(photograph, "in black and white").crop((0, 100, 400, 272)).split()
    assert ImageChops.difference(red, blue).getextrema() == (0, 0)


def test_autumn_and_winter_change_the_grass(photograph: Image.Image) -> None:
    grass = (10, 200, 150, 260)
    green, brown, white = (mean(edited(photograph, p), grass) for p in ("as it is", "in autumn", "in winter"))
    assert green[1] > green[0]
    assert brown[0] > brown[1]
    assert sum(white) > 1.3 * sum(green)


def test_a_colour_replaces_the_most_telling_one(photograph: Image.Image) -> None:
    thing = (185, 120, 215, 190)
    red, blue = (
        mean(edited(photograph, "as it is"), thing),
        mean(edited(photograph, "make the door purple"), thing),
    )
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * red[2]


def test_a_sketch_is_mostly_paper(photograph: Image.Image) -> None:
    sketch = edited(photograph, "a pencil sketch").crop((0, 60, 400, 200)).convert("L")
    assert ImageStat.Stat(sketch).median[0] > 235


def test_blur_takes_detail_from_the_edges(photograph: Image.Image) -> None:
    stripes = photograph.copy()
    for x in range(0, 600, 8):
        stripes.paste((20, 20, 20), (x, 300, x + 4, 400))
    corner = (0, 240, 60, 272)
    sharp, blurred = (
        edited(stripes, p).crop(corner).convert("L") for p in ("as it is", "blur the background")
    )
    assert ImageStat.Stat(blurred).stddev[0] < 0.5 * ImageStat.Stat(sharp).stddev[0]


def test_a_caption_is_set_in_type(photograph: Image.Image) -> None:
    without, with_caption = edited(photograph, "as it is"), edited(photograph, 'as it is, "HELLO" on top')
    changed = (
        ImageChops.difference(without, with_caption).convert("L").point(lambda v: 255 * (v > 60)).getbbox()
    )
    assert changed is not None
    assert changed[2] - changed[0] > 120


def test_a_prompt_without_a_wish_gives_a_variation_that_the_seed_decides(photograph: Image.Image) -> None:
    first = draw_picture("something", SMALL, DIGEST, photograph)
    other = draw_picture("something", SMALL, hashlib.sha256(b"other").hexdigest(), photograph)
    assert sum(ImageStat.Stat(ImageChops.difference(first, other)).mean) > 6


@pytest.mark.parametrize("source", ["scene", "photograph", "plain"])
def test_every_picture_is_marked(photograph: Image.Image, source: str) -> None:
    if source == "plain":
        image = Image.open(io.BytesIO(plain_picture((1024, 1024), "png", DIGEST))).convert("RGB")
    else:
        image = draw_picture(
            "a white page", (1024, 1024), DIGEST, photograph if source == "photograph" else None
        )
    plate = image.crop((1024 - 24 - 130, 24, 1024 - 24, 64)).convert("L")
    dark, light = plate.point(lambda v: 255 * (v < 90)), plate.point(lambda v: 255 * (v > 225))
    assert ImageStat.Stat(dark).mean[0] > 90
    assert ImageStat.Stat(light).mean[0] > 8


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " ",
        "\x00\x07",
        "漢字かな交じり文",
        "🦊" * 40,
        "é" * 2000,
        "W" * 5000,
        "\ud800",
        "a\nb\tc",
        '"',
        '""',
        "'' “”",
        '"漢字"',
    ],
)
@pytest.mark.parametrize("size", [(672, 1568), (1568, 672)])
def test_any_prompt_can_be_drawn(prompt: str, size: tuple[int, int]) -> None:
    assert draw_picture(prompt, size, DIGEST, None).size == size


def test_every_place_time_and_weather_can_be_drawn() -> None:
    for place in ("city", "sea", "lake", "desert", "forest", "mountains", "fields"):
        for light in ("day light", "dawn", "sunset", "dusk", "night"):
            draw_picture(f"{place} at {light}", (160, 112), DIGEST, None)
        for weather in (
            "storm",
            "snow",
            "rain",
            "fog",
            "cloudy",
            "autumn",
            "winter",
            "spring",
            "rainbow",
            "aurora",
        ):
            draw_picture(f"{place}, {weather}", (112, 160), DIGEST, None)


@pytest.mark.parametrize(
    "style",
    ["sepia", "watercolour", "pop art", "neon", "sketch in colour, vivid", "mirrored", "warm", "cold"],
)
def test_every_style_can_be_drawn(photograph: Image.Image, style: str) -> None:
    plain = edited(photograph, "as it is")
    assert ImageChops.difference(plain, edited(photograph, style)).getbbox() is not None


def test_long_text_is_cut_and_long_words_are_broken_to_fit() -> None:
    setting = fit("word " * 400, width=300, max_lines=3, largest=40, smallest=20)
    assert len(setting.lines) == 3
    assert setting.lines[-1].endswith("…")
    assert "".join(fit("W" * 30, width=200, max_lines=9, largest=30, smallest=20).lines) == "W" * 30
    assert settable("Café 漢 🦊 “gęślą”…") == "Cafe “gesla”…"


def test_a_picture_is_the_same_in_another_process() -> None:
    program = (
        "import hashlib\n"
        "from kontext_pipeline.sandbox.drawing.picture import draw_picture\n"
        "from kontext_pipeline.sandbox.drawing.encode import encode\n"
        f"image = draw_picture('a lighthouse at dusk', (640, 400), {DIGEST!r}, None)\n"
        "print(hashlib.sha256(encode(image, 'png')).hexdigest(), hashlib.sha256(encode(image, 'jpg')).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    image = draw_picture("a lighthouse at dusk", (640, 400), DIGEST, None)
    assert done.stdout.split() == [hashlib.sha256(encode(image, kind)).hexdigest() for kind in ("png", "jpg")]


# Told by hand from a picture that was looked at. They change with the drawing, and with it alone: a
# difference without one means that machines don't agree on what the same request looks like.
PIXELS = {
    "a sailing boat at sunset": "dfb09fe76d8b68ca",
    "in winter, at night": "0402e56bc26398e2",
}


@pytest.mark.parametrize("prompt", PIXELS)
def test_pixels_are_the_ones_that_every_machine_draws(prompt: str) -> None:
    image = draw_picture(prompt, (640, 400), DIGEST, draw_portrait() if "winter" in prompt else None)
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == PIXELS[prompt]
