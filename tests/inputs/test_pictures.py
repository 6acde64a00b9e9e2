"""The zoo: what counts as a picture, what it measures, and what is refused, in words."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kontext_pipeline.inputs.pictures import InputLimits, NotAnImage, PictureFacts, inspect_picture
from tests.inputs.collecting import picture


def inspected(data: bytes, path: Path) -> PictureFacts:
    path.write_bytes(data)
    return inspect_picture(path)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.new("RGB", (640, 480)), "JPEG", exif=exif)


def with_broken_notes() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.new("RGB", (640, 480)), "JPEG", exif=exif)
    return data.replace(b"Exif\0\0MM\0*", b"Exif\0\0XX\0*", 1).replace(b"Exif\0\0II*\0", b"Exif\0\0XX*\0", 1)


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (300, 300), colour) for colour in ("red", "green", "blue")]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def phone() -> bytes:
    """A JPEG with a second one behind it, as phones write them."""
    frames = [Image.new("RGB", (300, 400), colour) for colour in ("red", "green")]
    return saved(frames[0], "MPO", save_all=True, append_images=frames[1:])


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


USABLE: dict[str, tuple[Callable[[], bytes], PictureFacts]] = {
    "turned by EXIF": (turned, PictureFacts("JPEG", 480, 640)),
    "with broken EXIF": (with_broken_notes, PictureFacts("JPEG", 640, 480)),
    "CMYK": (lambda: saved(Image.new("CMYK", (300, 260)), "JPEG"), PictureFacts("JPEG", 300, 260)),
    "16 bit": (lambda: saved(Image.new("I;16", (300, 260)), "PNG"), PictureFacts("PNG", 300, 260)),
    "palette": (lambda: saved(Image.new("P", (300, 260)), "GIF"), PictureFacts("GIF", 300, 260)),
    "of a phone": (phone, PictureFacts("JPEG", 300, 400)),
    "animated GIF": (lambda: animated("GIF"), PictureFacts("GIF", 300, 300, 3)),
    "animated PNG": (lambda: animated("PNG"), PictureFacts("PNG", 300, 300, 3)),
    "animated WebP": (lambda: animated("WEBP"), PictureFacts("WEBP", 300, 300, 3)),
    "AVIF": (lambda: picture("AVIF", (300, 260)), PictureFacts("AVIF", 300, 260)),
    "TIFF": (lambda: picture("TIFF", (300, 260)), PictureFacts("TIFF", 300, 260)),
}
UNUSABLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut JPEG": (lambda: picture("JPEG", (300, 260))[:-400], "damaged or cut"),
    "cut PNG": (lambda: saved(Image.effect_noise((300, 260), 90), "PNG")[:-4000], "damaged or cut"),
    "begins with BM": (lambda: b"BMW sells cars " * 100, "damaged or cut|no picture of a known format"),
    "empty": (lambda: b"", "no picture of a known format"),
    "HTML": (lambda: b"<!DOCTYPE html><html>gone</html>", "it is a web page"),
    "SVG": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG drawing"),
    "bomb": (lambda: bomb(9000, 9000), r"9000 x 9000 pixels; 80,000,000 are allowed"),
    "larger bomb": (lambda: bomb(60_000, 60_000), "more pixels than the 80,000,000"),
    "PDF": (lambda: b"%PDF-1.7\n" * 50, "no picture of a known format"),
}


@pytest.mark.parametrize("name", USABLE)
def test_what_pillow_decodes_is_a_picture(tmp_path: Path, name: str) -> None:
    make, facts = USABLE[name]
    assert inspected(make(), tmp_path / "picture") == facts


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_it_does_not_is_none(tmp_path: Path, name: str) -> None:
    make, words = UNUSABLE[name]
    with pytest.raises(NotAnImage, match=words):
        inspected(make(), tmp_path / "picture.jpg")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (PictureFacts("PNG", 255, 900), "at least 256 on a side are needed (KONTEXT_INPUT_MIN_SIDE)"),
        (PictureFacts("PNG", 256, 2049), "more than 8:1 (KONTEXT_INPUT_MAX_RATIO)"),
        (PictureFacts("GIF", 300, 300, 2), "2 frames or pages; one is allowed (KONTEXT_INPUT_ANIMATED)"),
        (PictureFacts("PNG", 256, 2048), None),
    ],
)
def test_limits_name_their_settings(facts: PictureFacts, words: str | None) -> None:
    refusal = InputLimits().refusal(facts)
    assert refusal is None if words is None else words in str(refusal)
    assert InputLimits(min_side=1, max_ratio=100, animated=True).refusal(facts) is None
