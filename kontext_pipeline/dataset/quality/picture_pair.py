"""A generated picture beside its input picture, with what several measures need of them, computed once."""

from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from kontext_pipeline.dataset.quality.perceptual_hash import perceptual_hash

WORKING_PX: Final = 256
"""Longest side at which pictures are compared, pixels. Single pixels of noise are averaged out."""
CHANGED_ABOVE: Final = 40
"""A pixel is changed when a channel differs by more than this, of 255."""
LAYOUT_SIDE: Final = 8
"""Cells on a side of the colour layout."""
MOST_SHARPNESS_PIXELS: Final = 2_500_000
"""Pixels above which a picture is reduced before its brightness and sharpness are measured."""

Pixels: TypeAlias = npt.NDArray[np.int16]


class InputPicture:
    """An input picture, which several generated pictures may share."""

    def __init__(self, image: Image.Image) -> None:
        """`image`: in mode RGB, at its full size or at a fraction of it."""
        self.image = image
        self._small: dict[tuple[int, int], Pixels] = {}

    @cached_property
    def hash(self) -> int:
        """The perceptual hash."""
        return perceptual_hash(_reduced(self.image))

    def at(self, size: tuple[int, int]) -> Pixels:
        """Return the pixels, height x width x 3, of the picture at this width and height."""
        if size not in self._small:
            self._small[size] = _pixels(self.image, size)
        return self._small[size]


class PicturePair:
    """A generated picture and its input picture; None for text-to-image and where the input isn't kept."""

    def __init__(self, output: Image.Image, source: InputPicture | None, *, asked_ratio: str | None = None) -> None:
        """`asked_ratio`: the request's aspect ratio, such as `16:9` or `match_input_image`. Pictures are in mode RGB."""
        self.output = output
        self.source = source
        self.asked_ratio = asked_ratio

    @property
    def ratio(self) -> float:
        """Width through height of the generated picture."""
        return self.output.width / self.output.height

    @property
    def input_ratio(self) -> float | None:
        """Width through height of the input picture."""
        return self.source.image.width / self.source.image.height if self.source else None

    @cached_property
    def brightness(self) -> Image.Image:
        """The brightness of each pixel, mode L."""
        grey = self.output.convert("L")
        factor = int(np.ceil(np.sqrt(grey.width * grey.height / MOST_SHARPNESS_PIXELS)))
        return grey.reduce(factor) if factor > 1 else grey

    @cached_property
    def histogram(self) -> npt.NDArray[np.float64]:
        """The share of pixels with each of the 256 levels of brightness."""
        counts = np.array(self.brightness.histogram(), np.float64)
        return np.asarray(counts / counts.sum())

    @cached_property
    def hash(self) -> int:
        """The perceptual hash of the generated picture."""
        return perceptual_hash(_reduced(self.output))

    @cached_property
    def color_layout(self) -> bytes:
        """The mean colour of each cell of a grid of `LAYOUT_SIDE` x `LAYOUT_SIDE`, three bytes each."""
        grid = Image.fromarray(self._small.astype(np.uint8)).resize((LAYOUT_SIDE, LAYOUT_SIDE), Image.Resampling.BOX)
        return grid.tobytes()

    @cached_property
    def difference(self) -> Pixels | None:
        """How much each channel of each pixel differs, height x width x 3, 0 to 255, at one size of at most `WORKING_PX`."""
        if self.source is None:
            return None
        height, width, _ = self._small.shape
        return np.asarray(np.abs(self._small - self.source.at((width, height))))

    @cached_property
    def changed(self) -> npt.NDArray[np.bool_] | None:
        """Which pixels are changed."""
        return None if self.difference is None else np.asarray(self.difference.max(axis=2) > CHANGED_ABOVE)

    @cached_property
    def _small(self) -> Pixels:
        factor = min(1.0, WORKING_PX / max(self.output.size))
        width, height = (max(1, round(side * factor)) for side in self.output.size)
        return _pixels(self.output, (width, height))


def _pixels(image: Image.Image, size: tuple[int, int]) -> Pixels:
    # Of the filters, this one changes the pixels least that the same picture has at another size.
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), np.int16)


def _reduced(image: Image.Image) -> Image.Image:
    """Return a picture at a whole fraction of its size, of which a hash takes a fraction of the time."""
    factor = min(image.size) // (WORKING_PX // 2)
    return image.reduce(factor) if factor > 1 else image
