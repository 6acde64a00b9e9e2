"""A picture counts only if it is whole."""

import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from kontext_pipeline.segmind.images import MAX_PIXELS, NotAPicture, decode, inspect, inspect_bytes
from tests.segmind.conftest import picture

PICTURES = {
    "png": picture("PNG"),
    "png, interlaced bits": picture("PNG", size=(257, 129), compress_level=0),
    "jpg": picture("JPEG"),
    "jpg, progressive": picture("JPEG", size=(200, 100), progressive=True, quality=95),
    "jpg, with EXIF thumbnail": picture("JPEG", exif=b"Exif\x00\x00" + picture("JPEG", size=(16, 16))),
    "webp, lossy": picture("WEBP"),
    "webp, lossless": picture("WEBP", lossless=True),
    "webp, extended": picture("WEBP", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00"),
}


@pytest.mark.parametrize("content", PICTURES.values(), ids=PICTURES.keys())
def test_format_and_size_are_what_a_decoder_says(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(content)
    with Image.open(path) as decoded:
        expected = ({"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}[decoded.format or ""], *decoded.size)
    info = inspect(path)
    assert (info.format, info.width, info.height) == expected


def test_an_empty_file_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.touch()
    with pytest.raises(NotAPicture, match="empty") as found:
        inspect(path)
    assert found.value.cut


@pytest.mark.parametrize("content", PICTURES.values(), ids=PICTURES.keys())
def test_a_picture_cut_at_any_byte_is_not_whole(content: bytes) -> None:
    for end in [*range(min(len(content), 700)), *range(max(0, len(content) - 300), len(content))]:
        with pytest.raises(NotAPicture) as caught:
            inspect_bytes(content[:end])
        assert caught.value.cut, f"cut at {end}: {caught.value}"


def test_a_png_with_bytes_missing_in_the_middle_is_not_whole() -> None:
    content = PICTURES["png"]
    for start in range(40, len(content) - 40, 97):
        with pytest.raises(NotAPicture):
            inspect_bytes(content[:start] + content[start + 5 :])


@pytest.mark.parametrize("padding", [b"\x00", b"\r\n", b"\xff\xff", b"\x00" * 5000])
def test_padding_behind_the_end_is_tolerated(padding: bytes) -> None:
    for name in ("png", "jpg", "webp, lossy"):
        assert inspect_bytes(PICTURES[name] + padding) == inspect_bytes(PICTURES[name])


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
        b'{"error": "not enough credits"}',
        b"GIF89a" + bytes(100),
        bytes(10_000),
        b"RIFF\x10\x00\x00\x00WAVEfmt " + bytes(100),
        random.Random(1).randbytes(5000),
        b"\xef\xbb\xbf" + PICTURES["png"],
    ],
)
def test_anything_else_is_no_picture_and_not_called_a_cut_one(content: bytes) -> None:
    with pytest.raises(NotAPicture) as caught:
        inspect_bytes(content)
    assert not caught.value.cut


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *chunks, _chunk(b"IEND", b"")])


@pytest.mark.parametrize(
    "content",
    [
        _png(0, 10, _chunk(b"IDAT", b"x")),
        _png(10, 1 << 30, _chunk(b"IDAT", b"x")),
        _png(10, 10),
        _png(10, 10, _chunk(b"IDAT", b"x")).replace(b"\x00\x00\x00\x0a", b"\x00\x00\x00\x0b", 1),
        _png(10, 10, *[_chunk(b"tEXt", b"")] * 100_001, _chunk(b"IDAT", b"x")),
        b"\xff\xd8" + b"\xff\xfe\x00\x00" * 1000,
        b"\xff\xd8\xff\xda\x00\x08" + bytes(100) + b"\xff\xd9",
        b"\xff\xd8" + b"\xff" * 200_000,
        b"RIFF\x40\x00\x00\x00WEBPVP9 " + bytes(100),
    ],
    ids=[
        "no width",
        "a billion pixels high",
        "no pixels",
        "wrong checksum",
        "endless chunks",
        "empty segments",
        "scan without size",
        "endless padding",
        "unknown webp",
    ],
)
def test_crafted_files_are_refused_soon(content: bytes) -> None:
    with pytest.raises(NotAPicture):
        inspect_bytes(content)


def test_random_damage_never_raises_anything_else() -> None:
    dice = random.Random(3)
    for content in PICTURES.values():
        for _ in range(300):
            damaged = bytearray(content)
            for _ in range(dice.randint(1, 8)):
                damaged[dice.randrange(min(len(damaged), 300))] = dice.randrange(256)
            try:
                inspect_bytes(bytes(damaged))
            except NotAPicture:
                continue


def test_a_wrong_checksum_of_pixels_is_damage() -> None:
    content = bytearray(PICTURES["png"])
    content[content.index(b"IDAT") + 50] ^= 1
    with pytest.raises(NotAPicture, match="its IDAT chunk has a wrong checksum") as found:
        inspect_bytes(bytes(content))
    assert found.value.cut


def test_too_many_pixels_are_refused() -> None:
    content = _png(30_000, 30_000, _chunk(b"IDAT", zlib.compress(bytes(100))))
    with pytest.raises(NotAPicture):
        inspect_bytes(content)
    with pytest.raises(NotAPicture, match=f"at most {MAX_PIXELS:,} are taken") as found:
        inspect_bytes(_png(10_000, 5_001, _chunk(b"IDAT", zlib.compress(bytes(100)))))
    assert not found.value.cut


@pytest.mark.parametrize("name", ["png", "jpg", "jpg, progressive", "jpg, with EXIF thumbnail", "webp, lossy"])
def test_what_follows_the_end_is_no_part_of_the_picture(name: str) -> None:
    content = PICTURES[name]
    for junk in (b"", b"\r\n", b"junk" * 1000, content, bytes(200_000)):
        info = inspect_bytes(content + junk)
        assert info.bytes == len(content)


@pytest.mark.parametrize("content", PICTURES.values(), ids=PICTURES.keys())
def test_whole_pictures_are_decoded(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(content)
    decode(path)


@pytest.mark.parametrize(
    "pixels", [b"", zlib.compress(b""), zlib.compress(bytes(50)), b"junk"], ids=["none", "empty", "too few", "junk"]
)
def test_pixels_that_are_missing_are_found_by_decoding(pixels: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(_png(10, 10, _chunk(b"IDAT", pixels)))
    assert inspect(path).width == 10
    with pytest.raises(NotAPicture, match="can't be decoded"):
        decode(path)
