"""The pictures of samples: read from the data directory, checked against their sha256, and converted where a layout or the
user asks for one format.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath
from typing import Final, NamedTuple, TypeVar

import pyarrow as pa
from PIL import Image, ImageOps
from upath import UPath

from kontext_pipeline.dataset.exports.reduced_rows import EDITS
from kontext_pipeline.files import is_local, local_path

PICTURE_VERSION: Final = 1
"""Part of the digest of all that is made from a picture. Raise the version when conversions give other bytes."""
READERS: Final = 4
JPEG_QUALITY: Final = 95
_PNG_MODES: Final = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})

T = TypeVar("T")
R = TypeVar("R")


class PictureProblem(Exception):
    """A picture can't be exported. `reason` is one of `REASONS` in `selection`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Picture(NamedTuple):
    """A picture of the data directory: its path there, the sha256 of its bytes, its size in bytes and in pixels."""

    path: str
    sha256: str | None
    bytes: int
    pixels: int

    @property
    def extension(self) -> str:
        """The extension of its file, which names its format."""
        return PurePosixPath(self.path).suffix.removeprefix(".")

    @property
    def stem(self) -> str:
        """The name of its file without the extension."""
        return PurePosixPath(self.path).stem

    def bytes_as(self, extension: str | None) -> int:
        """Return how many bytes it has at most as a picture of this format, about; None: as it is."""
        if extension in (None, self.extension):
            return self.bytes
        return max(self.bytes, 3 * self.pixels if extension == "png" else self.pixels)


class Sample(NamedTuple):
    """A sample: its name, which no other has, the id and fingerprint of its row, and its pictures."""

    key: str
    id: str
    fingerprint: str
    pictures: tuple[Picture, ...]


class Loaded(NamedTuple):
    """The bytes of a picture and the extension of its format."""

    data: bytes
    extension: str


def samples_of(samples: pa.Table, config: str) -> list[Sample]:
    """Return the samples of rows of a selection: input and edited picture, or the one picture of text-to-image."""
    columns = [
        *("fingerprint", "id", "backward", "input_path", "input_sha256", "input_bytes", "input_pixels"),
        *("image_path", "image_sha256", "image_bytes", "image_pixels"),
    ]
    found = []
    for fingerprint, one, backward, *facts in zip(*(samples[name].to_pylist() for name in columns), strict=True):
        image = Picture(facts[4], facts[5], facts[6], facts[7] or 0)
        if config != EDITS:
            found.append(Sample(fingerprint, one, fingerprint, (image,)))
            continue
        source = Picture(facts[0], facts[1], facts[2], facts[3] or 0)
        pictures = (image, source) if backward else (source, image)
        found.append(Sample(f"{fingerprint}_backward" if backward else fingerprint, one, fingerprint, pictures))
    return found


class PictureReader:
    """Reads pictures of a data directory. Any number of threads may use it."""

    def __init__(self, data_dir: UPath) -> None:
        """Nothing is read yet."""
        self._root = local_path(data_dir) if is_local(data_dir) else data_dir

    def load(self, picture: Picture, extension: str | None) -> Loaded:
        """Return a picture in the format of an extension (None: with its own bytes).

        Raises:
            PictureProblem: The file is gone, has changed or can't be decoded.
            OSError: The data directory can't be read.
        """
        try:
            data = (self._root / picture.path).read_bytes()
        except FileNotFoundError:
            raise PictureProblem("input_missing" if picture.path.startswith("inputs/") else "picture_missing") from None
        if picture.sha256 is not None and hashlib.sha256(data).hexdigest() != picture.sha256:
            raise PictureProblem("picture_changed")
        if extension in (None, picture.extension):
            return Loaded(data, picture.extension)
        return Loaded(converted(data, str(extension)), str(extension))

    def try_all(self, sample: Sample, extensions: Iterable[str | None]) -> list[Loaded] | str:
        """Return the pictures of a sample in these formats; or why they can't be exported, one of `REASONS`.

        Raises:
            OSError: The data directory can't be read.
        """
        try:
            return [self.load(picture, one) for picture, one in zip(sample.pictures, extensions, strict=True)]
        except PictureProblem as problem:
            return problem.reason


def converted(data: bytes, extension: str) -> bytes:
    """Return a picture as PNG or JPEG, upright. A PNG has the same pixels; a JPEG has white for what is transparent.

    Raises:
        PictureProblem: It can't be decoded.
    """
    try:
        with Image.open(BytesIO(data)) as opened:
            profile = opened.info.get("icc_profile")
            image = ImageOps.exif_transpose(opened)
            image.load()
    except Exception as error:  # Pillow's parsers raise errors of many kinds
        raise PictureProblem("picture_unreadable") from error
    out = BytesIO()
    if extension == "png":
        if image.mode not in _PNG_MODES:
            # A profile for CMYK is none for RGB.
            image, profile = image.convert("RGB"), None
        image.save(out, "PNG", icc_profile=profile)
        return out.getvalue()
    if image.mode not in ("L", "RGB"):
        profile = profile if image.mode in ("P", "RGBA") else None
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
    image.save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0, icc_profile=profile)
    return out.getvalue()


def read_ahead(
    items: Iterable[T], work: Callable[[T], R], *, weight: Callable[[T], int], most: int
) -> Iterator[tuple[T, R]]:
    """Yield each item and `work(item)`, in order, while threads work on the items that follow.

    An exception of `work` is raised when its item's turn comes.

    Args:
        items: Any number of items.
        work: What is done with each.
        weight: Bytes that the result of an item takes, about.
        most: Bytes of results that wait, at most, unless one alone has more.
    """
    waiting: deque[tuple[T, int, Future[R]]] = deque()
    held = 0
    with ThreadPoolExecutor(READERS, "export pictures") as pool:
        try:
            for item in items:
                size = weight(item)
                while waiting and (held + size > most or len(waiting) >= 4 * READERS):
                    first, its_size, future = waiting.popleft()
                    yield first, future.result()
                    held -= its_size
                waiting.append((item, size, pool.submit(partial(work, item))))
                held += size
            while waiting:
                first, _, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, _, future in waiting:
                future.cancel()
