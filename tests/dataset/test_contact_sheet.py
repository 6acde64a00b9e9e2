"""The contact sheet: always small enough, and never stopped by a picture."""

import base64
import random
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from upath import UPath

from kontext_pipeline.dataset.contact_sheet import contact_sheet

COLOURS = ["red", "lime", "blue", "yellow"]


def sheet_of(markdown: str | None) -> Image.Image:
    assert markdown is not None
    match = re.fullmatch(r"!\[\d+ pictures?\]\(data:image/jpeg;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert match
    return Image.open(BytesIO(base64.b64decode(match[1]))).convert("RGB")


def plain(path: Path, colour: str, size: tuple[int, int] = (64, 64)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def noise(path: Path, size: tuple[int, int]) -> Path:
    pixels = random.Random(path.name).randbytes(size[0] * size[1] * 3)
    Image.frombytes("RGB", size, pixels).save(path)
    return path


def test_pictures_stand_in_order_in_a_grid(tmp_path: Path) -> None:
    images = [(plain(tmp_path / f"{colour}.png", colour), colour) for colour in COLOURS]
    sheet = sheet_of(contact_sheet(images, columns=2, thumb_px=50))
    width, height = sheet.size
    centres = [(x, y) for y in (height // 4, 3 * height // 4 - 5) for x in (width // 4, 3 * width // 4)]
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    for centre, colour in zip(centres, expected, strict=True):
        pixel = sheet.getpixel(centre)
        assert isinstance(pixel, tuple)
        assert all(abs(a - b) < 40 for a, b in zip(pixel, colour, strict=True))


@pytest.mark.parametrize(("max_bytes", "count"), [(45_000, 24), (12_000, 24), (4_000, 6)])
def test_it_never_exceeds_its_size(tmp_path: Path, max_bytes: int, count: int) -> None:
    images = [(noise(tmp_path / f"{i}.jpg", (300, 200)), f"row {i}") for i in range(count)]
    markdown = contact_sheet(images, max_bytes=max_bytes)
    sheet_of(markdown)
    assert markdown is not None
    # It uses what it may: noise is the worst there is, and a page deserves a legible sheet.
    assert max_bytes / 3 < len(markdown) <= max_bytes


def test_nothing_to_show_is_nothing(tmp_path: Path) -> None:
    assert contact_sheet([]) is None
    assert contact_sheet([(noise(tmp_path / "a.png", (64, 64)), "a")], max_bytes=100) is None


def test_pictures_that_cannot_be_read_leave_a_marked_place(tmp_path: Path) -> None:
    whole = noise(tmp_path / "whole.png", (64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("<html>502 Bad Gateway</html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    names = ["cut.png", "text.png", "empty.jpg", "absent.png", "whole.png"]
    sheet = sheet_of(contact_sheet([(tmp_path / name, name) for name in names], columns=5, thumb_px=60))
    for i in range(4):
        pixel = sheet.getpixel((6 + i * 66 + 5, 12))
        assert isinstance(pixel, tuple)
        assert all(abs(value - 0xDD) < 12 for value in pixel)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_no_broken_file_stops_it(tmp_path: Path, suffix: str) -> None:
    whole = noise(tmp_path / f"whole.{suffix}", (40, 40)).read_bytes()
    dice = random.Random(suffix)
    images = []
    for i in range(150):
        broken = bytearray(whole[: dice.randrange(1, len(whole))] if i % 2 else whole)
        for _ in range(dice.randrange(1, 12)):
            broken[dice.randrange(min(len(broken), 120))] = dice.randrange(256)
        path = tmp_path / f"{i}.{suffix}"
        path.write_bytes(broken)
        images.append((path, str(i)))
    sheet_of(contact_sheet(images, columns=15, thumb_px=24))


def test_every_colour_mode_and_any_caption(tmp_path: Path) -> None:
    images = []
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        path = tmp_path / f"{mode.replace(';', '')}.png"
        Image.new(mode, (30, 80)).save(path)
        images.append((path, f"{mode} \n a caption far too long for its picture — 図 🐈 [x](y)"))
    sheet = sheet_of(contact_sheet(images, thumb_px=40))
    pixel = sheet.getpixel((6 + 4 * 46 + 20, 20))
    assert isinstance(pixel, tuple)
    assert all(value > 230 for value in pixel), "a transparent picture is shown on paper, not on black"


def test_remote_pictures_are_shown_too(tmp_path: Path) -> None:
    remote = UPath("memory://contact-sheet/a.png")
    remote.write_bytes(plain(tmp_path / "a.png", "red").read_bytes())
    sheet = sheet_of(contact_sheet([(remote, "a")], thumb_px=50))
    pixel = sheet.getpixel((30, 30))
    assert isinstance(pixel, tuple)
    assert pixel[0] > 200 > 60 > pixel[1]


def test_an_input_stands_at_the_left_of_its_picture(tmp_path: Path) -> None:
    images = [(plain(tmp_path / f"{colour}.png", colour), colour) for colour in ("red", "lime")]
    sheet = sheet_of(
        contact_sheet(images, inputs=[plain(tmp_path / "input.png", "blue"), None], columns=4, thumb_px=50)
    )
    middle, width = sheet.height // 2 - 8, sheet.width
    shown = [sheet.getpixel((x, middle)) for x in (width // 8, 3 * width // 8, 5 * width // 8 + 20, 7 * width // 8)]
    for pixel, colour in zip(shown, [(0, 0, 255), (255, 0, 0), (221, 221, 221), (0, 255, 0)], strict=True):
        assert isinstance(pixel, tuple)
        assert all(abs(a - b) < 40 for a, b in zip(pixel, colour, strict=True)), shown


def test_a_photograph_taken_with_a_turned_camera_is_upright(tmp_path: Path) -> None:
    turned = Image.new("RGB", (60, 30), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    sheet = sheet_of(contact_sheet([(tmp_path / "turned.jpg", "")], thumb_px=60))
    assert sheet.height > 70, "the picture is 60 pixels high"
