"""The pictures: their sizes, that equal requests give equal pixels, and that an edit shows what was requested."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageStat

from kontext_pipeline.sandbox.drawing.encoding import encode, plain_picture
from kontext_pipeline.sandbox.drawing.features import read_prompt
from kontext_pipeline.sandbox.drawing.lettering import fit, font
from kontext_pipeline.sandbox.drawing.picture import draw_picture, draw_stand_in
from kontext_pipeline.sandbox.drawing.sizes import SIZES, picture_size
from kontext_pipeline.segmind.model import ASPECT_RATIOS

DIGEST = hashlib.sha256(b"tests").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
SMALL = (400, 272)
SKY, GRASS, DOOR = (10, 40, 130, 110), (10, 200, 150, 260), (185, 120, 215, 190)
BADGE = (250, 0, 400, 40)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A meadow under a blue sky, with a red door in it."""
    image = Image.new("RGB", (600, 400), (120, 170, 225))
    image.paste((70, 140, 50), (0, 200, 600, 400))
    image.paste((205, 40, 40), (240, 150, 360, 300))
    return image


def edited(photo: Image.Image, prompt: str) -> Image.Image:
    image = draw_picture(prompt, SMALL, DIGEST, photo)
    assert (image.size, image.mode) == (SMALL, "RGB")
    return image


def scene(prompt: str, digest: str = DIGEST) -> Image.Image:
    image = draw_picture(prompt, SMALL, digest, None)
    assert (image.size, image.mode) == (SMALL, "RGB")
    return image


def mean(image: Image.Image, box: tuple[int, int, int, int] | None = None) -> list[float]:
    return ImageStat.Stat(image.crop(box) if box else image).mean


def brightness(image: Image.Image) -> float:
    return mean(image.convert("L"))[0]


def changed_share(first: Image.Image, second: Image.Image, by: int = 24) -> float:
    """Return the share of pixels that differ by more than `by`."""
    difference = ImageChops.difference(first, second).convert("L").point(lambda v: 255 * (v > by))
    return mean(difference)[0] / 255


# -- sizes --------------------------------------------------------------------------------------------------


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


# -- what a prompt asks for -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "feature", "value"),
    [
        ("in winter", "season", "winter"),
        ("Fall foliage all around", "season", "autumn"),
        ("as if in spring", "season", "spring"),
        ("a summer's afternoon", "season", "summer"),
        ("during golden hour", "time", "sunset"),
        ("at night, under the stars", "time", "night"),
        ("at sunrise", "time", "dawn"),
        ("in heavy rain", "weather", "rain"),
        ("snowing gently", "weather", "snow"),
        ("in dense fog", "weather", "fog"),
        ("a thunderstorm", "weather", "storm"),
        ("a harbour town", "setting", "water"),
        ("a black-and-white photograph", "styles", frozenset({"monochrome"})),
        ("colourise the black-and-white photograph", "styles", frozenset({"colourise"})),
        ("as a pencil sketch", "styles", frozenset({"sketch"})),
        ("with a blurred background", "styles", frozenset({"blur"})),
        ("make the door crimson", "colour", (220, 20, 60)),
        ("change the door from orange to navy", "colour", (0, 0, 128)),
        ("change the door from orange to navy", "replaced_colour", (255, 165, 0)),
        ('a sign that says "OPEN LATE"', "captions", ("OPEN LATE",)),
        ("a sign that says “Café” and “Bar”", "captions", ("Café", "Bar")),
        ("a cake, 'Happy birthday' on it", "captions", ("Happy birthday",)),
    ],
)
def test_a_plain_request_is_understood(prompt: str, feature: str, value: object) -> None:
    assert getattr(read_prompt(prompt), feature) == value


@pytest.mark.parametrize(
    ("prompt", "feature"),
    [
        ("it's a lovely day, isn't it", "captions"),
        ("no snow, please", "weather"),
        ("without rain", "weather"),
        ("remove the fog", "weather"),
        ('a sign that says "SNOW"', "weather"),
        ("the golden hour", "colour"),
        ("a pink and orange sky", "colour"),
        ("brainy terrain", "weather"),
        ("a redwood", "colour"),
        ("two red doors", "replaced_colour"),
    ],
)
def test_what_is_not_requested_is_not_understood(prompt: str, feature: str) -> None:
    assert not getattr(read_prompt(prompt), feature)


# -- edits of a photograph ------------------------------------------------------------------------------------


def test_night_is_less_than_half_as_bright_and_blue(photo: Image.Image) -> None:
    day, night = edited(photo, "as it is"), edited(photo, "at night")
    assert brightness(night) < 0.5 * brightness(day)
    assert mean(night)[2] > 1.2 * mean(night)[0]


def test_a_night_sky_has_stars(photo: Image.Image) -> None:
    night = draw_picture("at night", (1360, 768), DIGEST, photo).crop((100, 60, 900, 250)).convert("L")
    bright = night.point(lambda v: 255 * (v > 100))
    assert brightness(night) < 60
    assert 0.0002 < mean(bright)[0] / 255 < 0.05


def test_dusk_lies_between_day_and_night(photo: Image.Image) -> None:
    day, dusk, night = (brightness(edited(photo, p)) for p in ("as it is", "at dusk", "at night"))
    assert night < 0.85 * dusk
    assert dusk < 0.85 * day


@pytest.mark.parametrize("prompt", ["at sunset", "at dawn"])
def test_a_low_sun_is_warm(photo: Image.Image, prompt: str) -> None:
    day, low = mean(edited(photo, "as it is")), mean(edited(photo, prompt))
    assert low[0] / low[2] > 1.3 * day[0] / day[2]


def test_autumn_turns_grass_brown_and_winter_whitens_it(photo: Image.Image) -> None:
    green, brown, white = (mean(edited(photo, p), GRASS) for p in ("as it is", "in autumn", "in winter"))
    assert green[1] > 1.3 * green[0]
    assert brown[0] > brown[1]
    assert sum(white) > 1.3 * sum(green)
    assert max(white) < 1.15 * min(white), "snow is nearly grey"
    assert white[2] > white[0], "in a cold light"


def test_spring_and_summer_make_grass_brighter_but_leave_it_green(photo: Image.Image) -> None:
    green = mean(edited(photo, "as it is"), GRASS)
    for prompt in ("in spring", "in summer"):
        fresh = mean(edited(photo, prompt), GRASS)
        assert fresh[1] > 1.03 * green[1]
        assert fresh[1] > 1.25 * fresh[2]


@pytest.mark.parametrize(("prompt", "colour"), [("in autumn", (222, 120, 34)), ("in spring", (255, 206, 222))])
def test_leaves_are_in_the_air(photo: Image.Image, prompt: str, colour: tuple[int, int, int]) -> None:
    sky = draw_picture(prompt, (1360, 768), DIGEST, photo).crop((0, 60, 1360, 330))
    near = ImageChops.difference(sky, Image.new("RGB", sky.size, colour)).convert("L").point(lambda v: 255 * (v < 25))
    assert mean(near)[0] / 255 > 0.0005


@pytest.mark.parametrize(("prompt", "least", "most"), [("it is raining", 0.01, 0.5), ("snow is falling", 0.01, 0.5)])
def test_rain_and_snow_are_light_marks_over_the_picture(
    photo: Image.Image, prompt: str, least: float, most: float
) -> None:
    sky = draw_picture(prompt, (1360, 768), DIGEST, photo).crop((300, 60, 900, 320)).convert("L")
    usual = ImageStat.Stat(sky).median[0]
    marks = sky.point(lambda v: 255 * (v > usual + 12))
    assert least < mean(marks)[0] / 255 < most


def test_fog_takes_contrast_and_colour(photo: Image.Image) -> None:
    clear, foggy = (edited(photo, p).crop((0, 60, 400, 272)) for p in ("as it is", "in fog"))
    assert ImageStat.Stat(foggy.convert("L")).stddev[0] < 0.85 * ImageStat.Stat(clear.convert("L")).stddev[0]
    assert mean(foggy.convert("HSV"))[1] < 0.75 * mean(clear.convert("HSV"))[1]


def test_a_storm_is_dark_with_a_bright_bolt(photo: Image.Image) -> None:
    calm = draw_picture("as it is", (1360, 768), DIGEST, photo).crop((0, 60, 1360, 700)).convert("L")
    storm = draw_picture("a storm", (1360, 768), DIGEST, photo).crop((0, 60, 1360, 700)).convert("L")
    assert brightness(storm) < 0.9 * brightness(calm)
    assert np.asarray(storm).max() == 255
    assert np.asarray(calm).max() < 255


def test_high_tide_mirrors_the_upper_part_in_the_lower(photo: Image.Image) -> None:
    flooded = edited(photo, "high tide")
    water = mean(flooded, (10, 240, 150, 270))
    above = mean(flooded, (10, 90, 150, 120))
    dry = mean(edited(photo, "as it is"), (10, 240, 150, 270))
    assert water[2] > water[1] > water[0], "the blue sky, not the green grass"
    assert dry[1] > dry[2]
    assert sum(water) < sum(above)


def test_a_colour_replaces_the_strongest_one_in_the_middle(photo: Image.Image) -> None:
    red, purple = (edited(photo, prompt) for prompt in ("as it is", "make the door purple"))
    assert mean(red, DOOR)[0] > 2 * mean(red, DOOR)[2]
    assert mean(purple, DOOR)[2] > 2 * mean(purple, DOOR)[1]
    assert mean(purple, GRASS) == pytest.approx(mean(red, GRASS), abs=25)


def test_only_the_named_colour_is_replaced(photo: Image.Image) -> None:
    image = edited(photo, "change the green grass to orange")
    assert mean(image, GRASS)[0] > 1.5 * mean(image, GRASS)[2]
    assert mean(image, GRASS)[0] > mean(image, GRASS)[1]
    assert mean(image, DOOR)[0] > 2 * mean(image, DOOR)[1], "the door stays red"


def test_black_and_white_has_no_colour_and_sepia_is_brown(photo: Image.Image) -> None:
    box = (0, 60, 400, 272)
    red, green, blue = edited(photo, "in black and white").crop(box).split()
    assert ImageChops.difference(red, blue).getextrema() == (0, 0)
    assert ImageChops.difference(red, green).getextrema() == (0, 0)
    brown = mean(edited(photo, "a sepia print"), box)
    assert brown[0] > 1.1 * brown[1] > 1.2 * brown[2]


def test_a_sketch_is_dark_lines_on_light_paper(photo: Image.Image) -> None:
    sketch = edited(photo, "a pencil sketch").crop((0, 60, 400, 240)).convert("L")
    assert ImageStat.Stat(sketch).median[0] > 190
    assert np.asarray(sketch).min() < 130


def test_a_blueprint_is_white_on_blue(photo: Image.Image) -> None:
    print_ = edited(photo, "an engineering blueprint").crop((0, 60, 400, 272))
    red, _, blue = mean(print_)
    assert blue > 1.5 * red
    assert np.asarray(print_.convert("L")).max() > 180


@pytest.mark.parametrize("style", ["pop art", "a watercolour painting"])
def test_posters_and_paintings_have_fewer_colours(style: str) -> None:
    noisy = Image.radial_gradient("L").resize(SMALL)
    noisy = Image.merge("RGB", (noisy, noisy.rotate(90), noisy.rotate(180)))
    before, after = (edited(noisy, p).reduce(2).quantize(256) for p in ("as it is", style))
    strongest = [sum(sorted(image.histogram(), reverse=True)[:16]) for image in (before, after)]
    assert strongest[1] > 1.5 * strongest[0]


def test_neon_is_magenta(photo: Image.Image) -> None:
    red, green, blue = mean(edited(photo, "neon lights"), (0, 60, 400, 272))
    assert min(red, blue) > 1.05 * green


def test_warm_cold_and_vivid_change_the_colours_in_their_way(photo: Image.Image) -> None:
    plain, warm, cold, vivid = (edited(photo, prompt) for prompt in ("as it is", "warmer", "colder", "vivid colours"))
    ratio = [mean(image)[0] / mean(image)[2] for image in (cold, plain, warm)]
    assert ratio[0] < 0.95 * ratio[1] < 0.95 * 0.95 * ratio[2]
    assert mean(vivid.convert("HSV"))[1] > 1.1 * mean(plain.convert("HSV"))[1]


def test_colourise_gives_a_grey_photograph_a_blue_sky_over_green() -> None:
    grey = Image.new("RGB", (600, 400), (128, 128, 128))
    image = edited(grey, "colourise it")
    assert mean(image, (10, 4, 130, 30))[2] > 1.15 * mean(image, (10, 4, 130, 30))[0]
    assert mean(image, (10, 240, 390, 270))[1] > 1.1 * mean(image, (10, 240, 390, 270))[2]


def test_mirrored_is_mirrored() -> None:
    halves = Image.new("RGB", (600, 400), (30, 60, 90))
    halves.paste((200, 180, 60), (0, 0, 300, 400))
    image = edited(halves, "a mirrored image")
    assert brightness(image.crop((260, 60, 400, 272))) > 2 * brightness(image.crop((0, 60, 140, 272)))


def test_blur_takes_detail_from_the_edges(photo: Image.Image) -> None:
    stripes = photo.copy()
    for x in range(0, 600, 8):
        stripes.paste((20, 20, 20), (x, 300, x + 4, 400))
    corner = (0, 240, 60, 272)
    sharp, blurred = (edited(stripes, p).crop(corner).convert("L") for p in ("as it is", "blur the background"))
    assert ImageStat.Stat(blurred).stddev[0] < 0.5 * ImageStat.Stat(sharp).stddev[0]


@pytest.mark.parametrize(
    ("prompt", "rows"),
    [("{}", (40, 120)), ("{} across the top", (20, 90)), ("{} at the bottom", (190, 260))],
)
def test_words_in_quotes_are_lettered_where_the_prompt_says(
    photo: Image.Image, prompt: str, rows: tuple[int, int]
) -> None:
    without, with_caption = (edited(photo, prompt.format(words)) for words in ("", '"HELLO"'))
    changed = ImageChops.difference(without, with_caption).convert("L").point(lambda v: 255 * (v > 60)).getbbox()
    assert changed is not None
    assert changed[2] - changed[0] > 120
    assert rows[0] <= changed[1] < changed[3] <= rows[1]


def test_a_prompt_that_names_nothing_gives_a_variation_that_the_seed_decides(photo: Image.Image) -> None:
    first = draw_picture("something", SMALL, DIGEST, photo)
    other = draw_picture("something", SMALL, OTHER, photo)
    assert sum(mean(ImageChops.difference(first, other))) > 6
    for image in (first, other):
        assert mean(image, DOOR)[0] > 1.5 * mean(image, DOOR)[1], "still the same photograph"


# -- scenes ---------------------------------------------------------------------------------------------------


def test_a_scene_is_lettered_with_its_prompt() -> None:
    named, other = scene("a quiet valley at dawn"), scene("a green valley at dawn ")
    legend = (0, 190, 400, 272)
    assert changed_share(scene(" "), named) > 0
    light = named.crop(legend).convert("L").point(lambda v: 255 * (v > 235))
    assert mean(light)[0] / 255 > 0.003
    assert changed_share(named.crop(legend), other.crop(legend)) > 0.01


def test_the_seed_changes_a_scene_and_equal_seeds_do_not() -> None:
    assert changed_share(scene("a valley", DIGEST), scene("a valley", OTHER)) > 0.1
    assert scene("a valley").tobytes() == scene("a valley").tobytes()


def test_the_time_of_day_decides_the_light_of_a_scene() -> None:
    day, sunset, dusk, night = (scene(f"a valley, {t}") for t in ("noon", "sunset", "dusk", "midnight"))
    assert brightness(night) < 0.4 * brightness(day)
    assert brightness(dusk) < 0.7 * brightness(day)
    sky = (0, 50, 240, 110)
    assert mean(sunset, sky)[0] > 1.3 * mean(sunset, sky)[2]
    assert mean(day, sky)[2] > 1.1 * mean(day, sky)[0]


@pytest.mark.parametrize("setting", ["a city", "the sea", "a desert", "a forest", "hills"])
def test_the_setting_of_a_prompt_changes_the_scene(setting: str) -> None:
    land = (0, 110, 400, 180)
    assert changed_share(scene("nowhere, noon").crop(land), scene(f"{setting}, noon").crop(land), by=12) > 0.03


@pytest.mark.parametrize("weather", ["storm", "snow", "rain", "fog", "cloudy", "autumn", "spring"])
def test_the_weather_of_a_prompt_changes_the_scene(weather: str) -> None:
    sky = (0, 30, 240, 110)
    calm, wild = scene("hills, noon"), scene(f"hills, noon, {weather}")
    assert changed_share(calm.crop(sky), wild.crop(sky), by=8) > 0.003


def test_a_colour_of_the_prompt_colours_the_land() -> None:
    land = (0, 170, 400, 200)
    assert mean(scene("violet hills, noon"), land)[0] > 1.2 * mean(scene("green hills, noon"), land)[0]


# -- every picture --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["scene", "photograph", "plain"])
@pytest.mark.parametrize("size", [(1024, 1024), (672, 1568)])
def test_every_picture_is_marked(photo: Image.Image, source: str, size: tuple[int, int]) -> None:
    if source == "plain":
        image = Image.open(io.BytesIO(plain_picture(size, "png", DIGEST))).convert("RGB")
    else:
        image = draw_picture("a white page", size, DIGEST, photo if source == "photograph" else None)
    short = min(size)
    margin, height = short * 24 // 1024, short * 40 // 1024
    plate = image.crop((size[0] - margin - 3 * height, margin, size[0] - margin, margin + height)).convert("L")
    dark, light = plate.point(lambda v: 255 * (v < 90)), plate.point(lambda v: 255 * (v > 200))
    assert mean(dark)[0] > 90
    assert mean(light)[0] > 8


def test_a_stand_in_says_for_which_host() -> None:
    middle = (0, 90, 400, 180)
    one, other = (draw_stand_in(host, SMALL, DIGEST).crop(middle) for host in ("a.example", "b.example.org"))
    assert mean(one.convert("L").point(lambda v: 255 * (v > 240)))[0] > 1
    assert changed_share(one, other) > 0.005


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
        '"漢字"',
    ],
)
@pytest.mark.parametrize("size", [(336, 784), (784, 336)])
def test_any_prompt_can_be_drawn(prompt: str, size: tuple[int, int]) -> None:
    image = draw_picture(prompt, size, DIGEST, None)
    assert image.size == size
    assert ImageStat.Stat(image.convert("L")).stddev[0] > 10


def test_text_is_broken_into_lines_that_fit_and_cut_with_an_ellipsis() -> None:
    lines, size = fit("word " * 400, 300, 3, largest=40, smallest=20)
    assert size == 20
    assert len(lines.split("\n")) == 3
    assert lines.endswith("...")
    assert all(font(size).getlength(line) <= 310 for line in lines.split("\n"))
    lines, size = fit("W" * 30, 200, 9, largest=30, smallest=20)
    assert lines.replace("\n", "") == "W" * 30
    assert fit("Café 漢 🦊 “gęślą” – ok", 900, 1, largest=30, smallest=20)[0] == 'Cafe "gesla" - ok'


def test_short_text_is_set_at_the_largest_size() -> None:
    assert fit("Hi", 900, 1, largest=60, smallest=20) == ("Hi", 60)


def test_a_picture_is_the_same_in_another_process() -> None:
    program = (
        "import hashlib\n"
        "from PIL import Image\n"
        "from kontext_pipeline.sandbox.drawing.picture import draw_picture\n"
        "photo = Image.radial_gradient('L').convert('RGB')\n"
        "for photo, prompt in ((None, 'a lighthouse at dusk, \"HI\"'), (photo, 'a snowy night, pop art')):\n"
        f"    image = draw_picture(prompt, (640, 400), {DIGEST!r}, photo)\n"
        "    print(hashlib.sha256(image.tobytes()).hexdigest())\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    here = draw_picture('a lighthouse at dusk, "HI"', (640, 400), DIGEST, None)
    assert runs[0][0] == hashlib.sha256(here.tobytes()).hexdigest()


@pytest.mark.parametrize(("output_format", "kind"), [("png", "PNG"), ("jpg", "JPEG")])
def test_encoded_pictures_are_whole_and_carry_no_metadata(output_format: str, kind: str) -> None:
    image = scene("a valley")
    read = Image.open(io.BytesIO(encode(image, output_format)))
    read.load()
    assert (read.format, read.size) == (kind, SMALL)
    assert not read.getexif()
    assert sum(mean(ImageChops.difference(read.convert("RGB"), image))) < 12


@pytest.mark.parametrize("output_format", ["png", "jpg"])
def test_plain_pictures_are_whole_and_differ_by_their_digest_alone(output_format: str) -> None:
    one, again, other = (plain_picture((64, 48), output_format, digest) for digest in (DIGEST, DIGEST, OTHER))
    assert one == again != other
    with Image.open(io.BytesIO(one)) as image:
        image.load()
        assert image.size == (64, 48)
