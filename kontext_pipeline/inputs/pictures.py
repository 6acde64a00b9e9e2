"""What a usable input picture is: a file that Pillow decodes to its end, within bounds."""

import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import ExifTags, Image, UnidentifiedImageError

EXTENSIONS: Final = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tiff",
    "AVIF": "avif",
}
"""The extension of a kept picture, by Pillow's name of its format."""
MEDIA_TYPES: Final = {kind: f"image/{kind.lower()}" for kind in EXTENSIONS}
MAX_PIXELS: Final = 80_000_000
"""Most pixels of a picture. More are not decoded: a file of a kilobyte may claim a billion."""
_KNOWN: Final = ", ".join("WebP" if kind == "WEBP" else kind for kind in EXTENSIONS)
_ORIENTATIONS_ON_THE_SIDE: Final = range(5, 9)
_DECODERS: Final = threading.BoundedSemaphore(2)
"""Decoding takes the processor, and memory for every pixel, so more at a time are of no use."""

# Pictures with so many pixels are refused anyway.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class NotAnImage(Exception):
    """A file is no picture of a known format, or a damaged one. The text says why."""


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """Pillow's name of a picture's format, upright width and height in pixels, and number of frames or pages."""

    format: str
    width: int
    height: int
    frames: int = 1


@dataclass(frozen=True, slots=True)
class InputLimits:
    """What an input picture may be: most bytes, least pixels on a side, most pixels by the shorter side's."""

    max_bytes: int = 20 * 2**20
    min_side: int = 256
    max_ratio: float = 8.0
    animated: bool = False

    def refusal(self, facts: PictureFacts) -> str | None:
        """Return why the API would get nothing useful from a picture, and the setting that allows it; else None."""
        size = f"{facts.width} x {facts.height} pixels"
        if min(facts.width, facts.height) < self.min_side:
            return f"it has {size}; at least {self.min_side} on a side are needed (KONTEXT_INPUT_MIN_SIDE)"
        if max(facts.width, facts.height) > self.max_ratio * min(facts.width, facts.height):
            return f"it has {size}, more than {self.max_ratio:g}:1 (KONTEXT_INPUT_MAX_RATIO)"
        if facts.frames > 1 and not self.animated:
            return f"it has {facts.frames} frames or pages; one is allowed (KONTEXT_INPUT_ANIMATED)"
        return None


def inspect_picture(path: Path) -> PictureFacts:
    """Decode a picture to its end and return its facts.

    Raises:
        NotAnImage: the file is no picture of a known format, is damaged, or has more than `MAX_PIXELS`.
    """
    with _DECODERS:
        try:
            with Image.open(path, formats=tuple(EXTENSIONS)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise NotAnImage(f"it has {image.width} x {image.height} pixels; {MAX_PIXELS:,} are allowed")
                return _decoded(image)
        except NotAnImage:
            raise
        except Image.DecompressionBombError:
            raise NotAnImage(f"it has more pixels than the {MAX_PIXELS:,} that are allowed") from None
        except UnidentifiedImageError:
            raise NotAnImage(f"it is no picture of a known format ({_KNOWN}){_looks_like(path)}") from None
        except Exception as error:  # noqa: BLE001  Pillow's parsers raise errors of many kinds
            words = str(error) if isinstance(error, OSError) else type(error).__name__
            raise NotAnImage(f"the picture is damaged or cut ({words})") from None


def _decoded(image: Image.Image) -> PictureFacts:
    width, height = image.size
    # A JPEG from a phone may hold a second one behind the first: Pillow calls that format MPO.
    multi = image.format == "MPO"
    kind = "JPEG" if multi else str(image.format)
    frames = 1 if multi else int(getattr(image, "n_frames", 1))
    if _orientation(image) in _ORIENTATIONS_ON_THE_SIDE:
        width, height = height, width
    # A JPEG is read whole, but takes a sixty-fourth of the memory at an eighth of its size; other formats ignore this.
    image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
    image.load()
    return PictureFacts(kind, width, height, frames)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  broken notes make no broken picture, and raise errors of many kinds
        return 1


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "; it is a web page"
    if head.startswith((b"<?xml", b"<svg")) and b"<svg" in head:
        return "; it is an SVG drawing"
    return ""
