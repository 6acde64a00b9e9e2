"""What each measure says of pictures whose answer is known, and which issues follow."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageEnhance, ImageFilter, ImageOps

from kontext_pipeline.dataset.quality.connected_parts import largest_part
from kontext_pipeline.dataset.quality.decoding import plain, read_picture
from kontext_pipeline.dataset.quality.measures import MEASURES
from kontext_pipeline.dataset.quality.picture_pair import InputPicture, PicturePair
from kontext_pipeline.dataset.quality.thresholds import ISSUES, Thresholds
from tests.dataset.quality.folders import photo

COFFEE = photo("coffee", (600, 400))


def numbers(
    output: Image.Image, source: Image.Image | None = None, ratio: str = "match_input_image"
) -> dict[str, float | None]:
    pair = PicturePair(output, InputPicture(source) if source else None, asked_ratio=ratio)
    values = {one.name: one.compute(pair) for one in MEASURES}
    return {name: value for name, value in values.items() if not isinstance(value, str | bytes)}


def issues(output: Image.Image, source: Image.Image | None = None, ratio: str = "match_input_image") -> list[str]:
    return Thresholds().issues(numbers(output, source, ratio), {})


def jpeg(image: Image.Image) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return Image.open(buffer).convert("RGB")


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 60, (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def with_patch(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.paste((200, 30, 30), (100, 100, 160, 160))
    return image


@pytest.mark.parametrize(
    ("output", "source", "expected"),
    [
        pytest.param(COFFEE, COFFEE, ["unchanged"], id="a copy"),
        pytest.param(jpeg(COFFEE), COFFEE, ["unchanged"], id="compressed again"),
        pytest.param(COFFEE.resize((900, 600)), COFFEE, ["unchanged"], id="another size"),
        pytest.param(with_patch(COFFEE), COFFEE, [], id="a small edit"),
        pytest.param(ImageOps.grayscale(COFFEE).convert("RGB"), COFFEE, [], id="a colour edit"),
        pytest.param(ImageEnhance.Brightness(COFFEE).enhance(1.2), COFFEE, [], id="a tone edit"),
        pytest.param(ImageOps.mirror(COFFEE), COFFEE, [], id="another picture"),
        pytest.param(noisy(COFFEE), COFFEE, ["scatter"], id="noise"),
        pytest.param(COFFEE.filter(ImageFilter.GaussianBlur(3)), None, ["blurry"], id="blurred"),
        pytest.param(ImageEnhance.Brightness(COFFEE).enhance(0.2), None, ["dark"], id="dark"),
        pytest.param(COFFEE.point(lambda x: min(255, 242 + x // 12)), None, ["light", "blurry"], id="light"),
        pytest.param(
            *(Image.new("RGB", (600, 400)), None, ["black", "blank", "dark", "blurry", "low_information"]), id="black"
        ),
        pytest.param(
            *(Image.new("RGB", (600, 400), "#808080"), None, ["blank", "blurry", "low_information"]), id="one colour"
        ),
        pytest.param(COFFEE.resize((600, 250)), COFFEE, ["unchanged", "odd_aspect_ratio"], id="stretched"),
    ],
)
def test_the_issues_of_known_pictures(output: Image.Image, source: Image.Image | None, expected: list[str]) -> None:
    found = issues(output, source)
    assert found == expected
    assert set(found) <= set(ISSUES)


def test_the_ratio_is_compared_with_what_was_asked_and_with_the_input() -> None:
    found = numbers(COFFEE.resize((600, 300)), COFFEE, "16:9")
    assert found["aspect_ratio_error"] == pytest.approx(1 - (16 / 9) / 2)
    assert found["input_aspect_ratio_error"] == pytest.approx(1 - 1.5 / 2)
    assert issues(COFFEE.resize((592, 400)), COFFEE, "3:2") == ["unchanged"], "rounded to 16 pixels"
    # Without an input there is nothing to match.
    assert numbers(COFFEE)["aspect_ratio_error"] is None
    assert numbers(COFFEE, ratio="1:1")["aspect_ratio_error"] == pytest.approx(1 / 3)


def test_changed_pixels_are_counted_to_the_pixel_at_the_working_size() -> None:
    source = Image.new("RGB", (200, 100), (100, 100, 100))
    output = source.copy()
    output.paste((141, 100, 100), (0, 0, 20, 10))  # 200 pixels, changed by 41 in one channel
    output.paste((100, 140, 100), (100, 0, 140, 10))  # changed by 40: not counted
    output.paste((0, 0, 0), (50, 50, 60, 60))  # 100 pixels, apart from the first
    found = numbers(output, source)
    assert found["changed_share"] == pytest.approx(300 / 20_000)
    assert found["largest_change_share"] == pytest.approx(200 / 300)


def test_comparisons_are_null_without_an_input_picture() -> None:
    found = numbers(COFFEE, None, "3:2")
    compared = [one.name for one in MEASURES if one.compares and one.name != "aspect_ratio_error"]
    assert [name for name in compared if found.get(name) is not None] == []
    assert numbers(COFFEE, COFFEE)["largest_change_share"] is None, "no pixel is changed"


def flood(mask: np.ndarray) -> int:
    """The largest part, found the slow and obvious way."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    largest = 0
    while left:
        queue, size = [left.pop()], 0
        while queue:
            y, x = queue.pop()
            size += 1
            for neighbour in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    queue.append(neighbour)
        largest = max(largest, size)
    return largest


@pytest.mark.parametrize("density", [0.0, 0.05, 0.4, 0.59, 0.7, 1.0])
def test_the_largest_part_is_that_of_a_flood_fill(density: float) -> None:
    random = np.random.default_rng(int(density * 100))
    for shape in ((1, 1), (1, 9), (7, 1), (40, 61)):
        mask = random.random(shape) < density
        assert largest_part(mask) == flood(mask)


def test_a_spiral_is_one_part() -> None:
    mask = np.zeros((31, 31), bool)
    top, left, bottom, right = 0, 0, 30, 30
    while top <= bottom and left <= right:
        mask[top, max(0, left - 2) : right + 1] = mask[top : bottom + 1, right] = mask[bottom, left : right + 1] = True
        mask[top + 2 : bottom + 1, left] = True
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    assert largest_part(mask) == flood(mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 2), (3000, 3)])
def test_pictures_of_any_shape_are_measured(size: tuple[int, int]) -> None:
    found = numbers(photo("coffee", size), COFFEE)
    assert all(found[one.name] is not None for one in MEASURES if one.name in found and "largest" not in one.name)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "I;16", "I", "RGBA", "1", "F", "HSV", "YCbCr"])
def test_pictures_of_every_mode_look_as_they_do_in_a_viewer(mode: str) -> None:
    grey = COFFEE.convert("L")
    if mode in {"I;16", "I"}:
        deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        image = deep if mode == "I;16" else deep.convert("I")
    elif mode == "F":
        image = Image.fromarray((np.asarray(grey) / 255).astype(np.float32))
    else:
        image = COFFEE.convert(mode)
    shown = np.asarray(plain(image).convert("L"), np.float64)
    allowed = {"1": 200, "P": 40, "CMYK": 25}.get(mode, 3)
    assert plain(image).mode == "RGB"
    assert np.abs(shown - np.asarray(grey)).mean() < allowed / 2
    assert np.corrcoef(shown.ravel(), np.asarray(grey).ravel())[0, 1] > {"1": 0.3, "P": 0.95}.get(mode, 0.99)


def test_transparent_parts_are_white() -> None:
    image = COFFEE.convert("RGBA")
    image.putalpha(0)
    assert np.asarray(plain(image)).min() == 255
    palette = COFFEE.quantize(8)
    palette.info["transparency"] = bytes(8)
    assert np.asarray(plain(palette)).min() == 255


def test_pictures_are_measured_upright(tmp_path: Path) -> None:
    """A phone stores a picture on its side, and how to turn it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    COFFEE.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = numbers(read_picture(tmp_path / "a.jpg"), COFFEE)
    assert Thresholds().issues(found, {}) == ["unchanged"]
    assert read_picture(tmp_path / "a.jpg", least_px=100).size == (150, 100)
